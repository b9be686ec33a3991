//! Requests, alone and in batches.

use tilesight::Pixels;
use tilesight::encoder::Input as EncoderInput;

use super::*;
use crate::instance::InstanceHandle;
use crate::request::Request as Held;

#[test]
fn inputs_may_come_in_pieces_and_in_pinned_memory() {
    let (loaded, files) = (Loaded::new(json!({})), [picture(0), picture(1)]);
    for size in [1, 3, 4, 5, 1000] {
        let mut one = pictures(&[&files[0], &files[1]]);
        let bytes = one.inputs[0].pieces.remove(0);
        // An empty piece is nowhere.
        one.inputs[0].pieces = [vec![]].into_iter().chain(bytes.chunks(size).map(<[u8]>::to_vec)).collect();
        one.inputs[0].memory = MemoryType::CPU_PINNED;
        loaded.execute(std::slice::from_mut(&mut one));
        for (found, file) in answered(&one).iter().zip(&files) {
            assert_padded(found, &embeddings(file));
        }
    }
}

#[test]
fn a_batch_holds_all_kinds_of_requests_and_each_fails_alone() {
    let loaded = Loaded::new(json!({}));
    let (first, second) = (noise(7), noise(11));
    let mut damaged = second.clone();
    damaged[100] = f32::NAN;
    let on_gpu = {
        let mut one = pictures(&[&picture(0)]);
        one.inputs[0].memory = host::GPU;
        one
    };
    let gone = |after| Request { cancelled_after: Some(after), ..pictures(&[&picture(0)]) };
    let mut batch = [
        pictures(&[&picture(0), &picture(1)]),
        pixels(&damaged, [2, 2]),
        pixels(&first, [1, 2]),
        pictures(&[&picture(1), b"not a picture"]),
        on_gpu,
        gone(0),
        gone(1),
        Request { takes_on_gpu: true, ..pictures(&[&picture(1)]) },
        pixels(&second, [2, 2]),
        pixels(&second, [7, 1]),
        pictures(&[&picture(1)]),
    ];
    loaded.execute(&mut batch);

    let code = |number: usize| refusal(&batch[number]);
    assert!(code(1).0 == ErrorCode::INVALID_ARG && code(1).1.contains("not finite at element 100"), "{:?}", code(1));
    assert!(code(3).0 == ErrorCode::INVALID_ARG && code(3).1.contains("picture 1: "), "{:?}", code(3));
    assert!(code(4).0 == ErrorCode::UNSUPPORTED && code(4).1.contains("memory of GPU 3"), "{:?}", code(4));
    assert!([5, 6].iter().all(|number| code(*number).0 == ErrorCode::CANCELLED));
    assert!(code(7).0 == ErrorCode::UNSUPPORTED && code(7).1.contains("memory of GPU 3"), "{:?}", code(7));
    assert!(code(9).0 == ErrorCode::INVALID_ARG && code(9).1.contains("aspect ratio"), "{:?}", code(9));

    assert_padded(&answered(&batch[0])[0], &embeddings(&picture(0)));
    assert_padded(&answered(&batch[0])[1], &embeddings(&picture(1)));
    assert_padded(&answered(&batch[10])[0], &embeddings(&picture(1)));
    for (number, values, ratio) in [(2, &first, [1, 2]), (8, &second, [2, 2])] {
        let ratio = [ratio];
        let pixels = Pixels { images: values, shape: [1, 1, 4, 3, 28, 28], aspect_ratio: Some(&ratio) };
        let expected = encoder().encode_inputs(&[EncoderInput::Pixels(pixels)]).unwrap();
        assert_eq!(answered(&batch[number]), [expected]);
    }
    // Pictures of the good requests.
    assert_eq!(loaded.batches(), [2 + 1 + 1 + 1]);
    assert_eq!(loaded.ready(), Ok(()));

    // Of bad requests alone there is no batch.
    loaded.execute(&mut [pictures(&[b""]), gone(0)]);
    assert_eq!(loaded.batches().len(), 1);
}

#[test]
fn an_answer_has_what_was_asked_for() {
    let loaded = Loaded::new(json!({ "rows": "request" }));
    let ask = |outputs: &[&str], dtype: Option<&str>| {
        let mut one = pictures(&[&picture(1)]);
        one.outputs = outputs.iter().map(|name| CString::new(*name).unwrap()).collect();
        one.dtype = dtype.map(|name| CString::new(name).unwrap());
        loaded.execute(std::slice::from_mut(&mut one));
        one.answer.unwrap()
    };
    let names = |outputs: &[&str]| -> Vec<String> {
        ask(outputs, None).unwrap().into_iter().map(|output| output.name).collect()
    };
    assert_eq!(names(&["num_tiles"]), ["num_tiles"]);
    assert_eq!(names(&["aspect_ratio", "embeddings"]), ["embeddings", "aspect_ratio"]);
    assert!(ask(&["other"], None).is_err_and(|(_, message)| message.contains("there is no output \"other\"")));
    assert!(ask(&ALL, Some("FP8")).is_err_and(|(_, message)| message.contains("dtype must be")));
    for (name, data_type, size) in
        [("FP32", DataType::FP32, 4), ("FP16", DataType::FP16, 2), ("BF16", DataType::BF16, 2)]
    {
        let outputs = ask(&ALL, Some(name)).unwrap();
        // One tile of five tokens, and nothing behind it.
        assert_eq!((outputs[0].data_type, &outputs[0].shape[..]), (data_type, &[1, 5, 32][..]));
        assert_eq!(outputs[0].bytes.len(), 5 * 32 * size);
        assert_eq!(outputs[1].bytes, 1i64.to_le_bytes());
        assert_eq!(outputs[2].bytes, [1i64.to_le_bytes(), 1i64.to_le_bytes()].concat());
    }
}

#[test]
fn tensors_that_are_not_what_they_say_are_refused() {
    let loaded = Loaded::new(json!({}));
    let file = picture(1);
    let image = |shape: &[i64], bytes: Vec<u8>| request(vec![input("image", DataType::BYTES, shape, bytes)], &ALL);
    let pixels = |data_type, shape: &[i64], len| request(vec![input("pixels", data_type, shape, vec![0; len])], &ALL);
    let mut long = elements(&[&file]);
    long[3] = 0xff;
    let twice = || {
        vec![
            input("image", DataType::BYTES, &[1, 1], elements(&[&file])),
            input("pixels", DataType::FP32, &[1], vec![]),
        ]
    };
    let cases = [
        (image(&[0, 1], vec![]), "must hold a picture at least"),
        (image(&[1, 1], vec![]), "must have as many elements as its shape says, 1"),
        (image(&[1, 1], vec![1, 0]), "ends within element 0"),
        (image(&[1, 1], long), "ends within element 0"),
        (image(&[2, 1], [elements(&[&file]), vec![9, 0, 0, 0]].concat()), "ends within element 1"),
        (image(&[1, 1], elements(&[&file, &file])), "must have as many elements as its shape says, 1"),
        (image(&[1], elements(&[&file])), "must have shape [n, 1], found [1]"),
        (image(&[1, -1], elements(&[&file])), "cannot have the shape [1, -1]"),
        (image(&[i64::MAX, 1], elements(&[&file])), "must have as many elements as its shape says"),
        (pixels(DataType::FP32, &[0, 4, 3, 28, 28], 0), "must hold an image at least"),
        (pixels(DataType::FP32, &[1, 4, 3, 28], 0), "must have shape [n, t, channels, s, s]"),
        (pixels(DataType::INT64, &[1, 4, 3, 28, 28], 0), "must be FP32, FP16 or BF16"),
        (pixels(DataType::FP16, &[1, 4, 3, 28, 28], 18817), "has 18817 bytes"),
        (pixels(DataType::FP32, &[1, 4, i64::MAX, i64::MAX, 28], 4), "has 4 bytes"),
        (pixels(DataType::FP32, &[1 << 46, 4, 3, 28, 0], 0), "images must have shape"),
        (pixels(DataType::FP32, &[1, 5, 1, 1, 1], 20), "may have 4 tiles an image, found 5"),
        (request(twice(), &ALL), "has one of the inputs"),
        (request(vec![], &ALL), "has one of the inputs"),
    ];
    for (mut case, words) in cases {
        loaded.execute(std::slice::from_mut(&mut case));
        let (code, message) = refusal(&case);
        assert!(code == ErrorCode::INVALID_ARG && message.contains(words), "{message}");
    }
}

#[test]
fn pictures_may_not_be_larger_than_was_said() {
    // They have 20 by 22 and 75 by 30 pixels.
    let loaded = Loaded::new(json!({ "max_pixels": "440" }));
    let mut batch = [pictures(&[&picture(1)]), pictures(&[&picture(0)])];
    loaded.execute(&mut batch);
    assert_padded(&answered(&batch[0])[0], &embeddings(&picture(1)));
    let (code, message) = refusal(&batch[1]);
    assert!(code == ErrorCode::INVALID_ARG && message.contains("75x30"), "{message}");
}

#[test]
fn a_request_that_was_forgotten_is_answered() {
    let loaded = Loaded::new(json!({}));
    let mut one = pictures(&[&picture(0)]);
    // SAFETY: the instance lives.
    let handle = unsafe { InstanceHandle::new(loaded.instance.cast()) }.unwrap();
    drop(Held::new(NonNull::from(&mut one).cast(), handle));
    assert_eq!(refusal(&one).0, ErrorCode::INTERNAL);
    assert!(one.released && one.reported == Some((false, [0; 4])));
    assert_eq!(host::open_responses(), 0);
}
