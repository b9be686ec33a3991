//! The backend under a server that does what servers on the CPU do not.

use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::ptr::{NonNull, null_mut};

use serde_json::{Value, json};
use tilesight::encoder::Input as EncoderInput;
use tilesight::image::{Image, Limits};
use tilesight::{Device, Encoder, Pixels};

use crate::api::{self, DataType, ErrorCode, GroupKind, MemoryType};
use crate::backend;
use crate::host::{self, Input, Instance, Model, Request};
use crate::instance::InstanceHandle;
use crate::request::Request as Held;

const ALL: [&str; 3] = ["embeddings", "num_tiles", "aspect_ratio"];

fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/hf_tiny")
}

fn picture(number: usize) -> Vec<u8> {
    std::fs::read(tiny().join(format!("image{number}.png"))).unwrap()
}

/// What a call to the backend came to.
fn status(error: *mut api::Error) -> Result<(), (ErrorCode, String)> {
    // SAFETY: it is null, or comes from the host as a box.
    let error = NonNull::new(error).map(|error| unsafe { Box::from_raw(error.as_ptr().cast::<host::Error>()) });
    error.map_or(Ok(()), |error| Err((error.code, error.message.to_string_lossy().into_owned())))
}

/// A loaded model with one instance, and its way to be unloaded.
struct Loaded {
    model: *mut Model,
    instance: *mut Instance,
}

fn model(config: Value, completes: bool) -> *mut Model {
    let folder = CString::new("/nowhere").unwrap();
    Box::into_raw(Box::new(Model { folder, config: config.into(), completes, state: null_mut() }))
}

fn instance(model: *mut Model, kind: GroupKind, device: i32) -> *mut Instance {
    Box::into_raw(Box::new(Instance { kind, device, model, state: null_mut(), batches: Vec::new() }))
}

fn config(parameters: Value) -> Value {
    let mut all = json!({ "model": { "string_value": tiny() }, "threads": { "string_value": "1" } });
    for (name, value) in parameters.as_object().unwrap() {
        all[name] = json!({ "string_value": value });
    }
    json!({ "name": "tilesight", "max_batch_size": 0, "input": [], "output": [], "parameters": all })
}

impl Loaded {
    fn new(parameters: Value) -> Self {
        Self::on(GroupKind::CPU, 0, parameters)
    }

    fn on(kind: GroupKind, device: i32, parameters: Value) -> Self {
        let model = model(config(parameters), true);
        let instance = instance(model, kind, device);
        // SAFETY: both live until they are dropped below.
        status(unsafe { backend::TRITONBACKEND_ModelInitialize(model.cast()) }).unwrap();
        // SAFETY: as above.
        status(unsafe { backend::TRITONBACKEND_ModelInstanceInitialize(instance.cast()) }).unwrap();
        Self { model, instance }
    }

    /// Has requests executed as one batch.
    fn execute(&self, requests: &mut [Request]) {
        let mut pointers: Vec<*mut api::Request> = requests.iter_mut().map(|one| (&raw mut *one).cast()).collect();
        let (instance, count) = (self.instance.cast(), pointers.len() as u32);
        // SAFETY: instance and requests live, and nobody else uses them meanwhile.
        status(unsafe { backend::TRITONBACKEND_ModelInstanceExecute(instance, pointers.as_mut_ptr(), count) }).unwrap();
        assert_eq!(host::open_responses(), 0);
        for request in requests {
            let (is_good, times) = request.reported.unwrap();
            assert!(request.released && is_good == request.answer.as_ref().unwrap().is_ok());
            assert!(!is_good || (times[0] > 0 && times.is_sorted()), "{times:?}");
        }
    }

    fn batches(&self) -> Vec<u64> {
        // SAFETY: it lives, and nobody changes it now.
        let instance = unsafe { &*self.instance };
        assert!(instance.batches.iter().all(|(_, times)| times[0] > 0 && times.is_sorted()));
        instance.batches.iter().map(|(size, _)| *size).collect()
    }

    fn ready(&self) -> Result<(), (ErrorCode, String)> {
        // SAFETY: the instance lives.
        status(unsafe { backend::TRITONBACKEND_ModelInstanceReady(self.instance.cast()) })
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        // SAFETY: this is the last call with the instance.
        status(unsafe { backend::TRITONBACKEND_ModelInstanceFinalize(self.instance.cast()) }).unwrap();
        // SAFETY: this is the last call with the model.
        status(unsafe { backend::TRITONBACKEND_ModelFinalize(self.model.cast()) }).unwrap();
        // SAFETY: it comes from a box, and nobody has it any more.
        let instance = unsafe { Box::from_raw(self.instance) };
        // SAFETY: as above.
        let model = unsafe { Box::from_raw(self.model) };
        assert!(instance.state.is_null() && model.state.is_null(), "nothing is left with the server");
    }
}

fn input(name: &str, data_type: DataType, shape: &[i64], bytes: Vec<u8>) -> Input {
    let (name, shape) = (CString::new(name).unwrap(), shape.to_vec());
    Input { name, data_type, shape, pieces: vec![bytes], memory: MemoryType::CPU }
}

/// Elements of BYTES.
fn elements(files: &[&[u8]]) -> Vec<u8> {
    files.iter().flat_map(|file| [&(file.len() as u32).to_le_bytes(), *file].concat()).collect()
}

fn request(inputs: Vec<Input>, outputs: &[&str]) -> Request {
    let outputs = outputs.iter().map(|name| CString::new(*name).unwrap()).collect();
    Request { inputs, outputs, ..Request::default() }
}

fn pictures(files: &[&[u8]]) -> Request {
    request(vec![input("image", DataType::BYTES, &[files.len() as i64, 1], elements(files))], &ALL)
}

fn pixels(values: &[f32], aspect_ratio: [i64; 2]) -> Request {
    let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let ratio = aspect_ratio.iter().flat_map(|side| side.to_le_bytes()).collect();
    let pixels = input("pixels", DataType::FP32, &[1, 4, 3, 28, 28], bytes);
    request(vec![pixels, input("aspect_ratio", DataType::INT64, &[1, 2], ratio)], &ALL)
}

fn encoder() -> Encoder {
    Encoder::builder().model(tiny()).device(Device::Cpu).build().unwrap()
}

/// A picture's embeddings, as a program in Rust gets them.
fn embeddings(file: &[u8]) -> Vec<f32> {
    encoder().encode(&[Image::decode(file, &Limits::default()).unwrap()]).unwrap().embeddings
}

/// The embeddings of an answer, cut into pictures.
fn answered(request: &Request) -> Vec<Vec<f32>> {
    let outputs = request.answer.as_ref().unwrap().as_ref().unwrap();
    let output = outputs.iter().find(|output| output.name == "embeddings").unwrap();
    let values: Vec<f32> = output.bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    assert_eq!(output.shape.iter().product::<i64>() as usize, values.len());
    values.chunks(output.shape[1] as usize * output.shape[2] as usize).map(<[f32]>::to_vec).collect()
}

fn refusal(request: &Request) -> (ErrorCode, String) {
    request.answer.as_ref().unwrap().as_ref().err().unwrap().clone()
}

/// Embeddings, and zeros behind them.
fn assert_padded(found: &[f32], expected: &[f32]) {
    assert_eq!(found[..expected.len()], *expected);
    assert!(found[expected.len()..].iter().all(|value| value.to_bits() == 0));
}

fn noise(seed: u32) -> Vec<f32> {
    (0..4 * 3 * 28 * 28).map(|n: u32| (n.wrapping_mul(seed) % 251) as f32 / 125.0 - 1.0).collect()
}

#[test]
fn servers_of_another_time_are_refused() {
    let [major, minor] = api::VERSION;
    for (version, is_good) in
        [([major, minor], true), ([major, minor + 9], true), ([major, minor - 1], false), ([major + 1, minor], false)]
    {
        host::VERSION.set(version);
        let result = status(backend::TRITONBACKEND_Initialize(null_mut()));
        assert_eq!(result.is_ok(), is_good, "{version:?}");
        if let Err((code, message)) = result {
            assert_eq!(code, ErrorCode::UNSUPPORTED);
            assert!(message.contains(&format!("{}.{}", version[0], version[1])), "{message}");
        }
    }
}

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

#[test]
fn what_is_not_there_is_refused() {
    let code = |error| status(error).unwrap_err().0;
    // SAFETY: null is refused.
    assert_eq!(code(unsafe { backend::TRITONBACKEND_ModelInitialize(null_mut()) }), ErrorCode::INVALID_ARG);
    // SAFETY: as above.
    assert_eq!(code(unsafe { backend::TRITONBACKEND_ModelInstanceInitialize(null_mut()) }), ErrorCode::INVALID_ARG);
    let model = model(config(json!({})), true);
    let instance = instance(model, GroupKind::CPU, 0);
    // SAFETY: model and instance live; the former was not initialised.
    let initialised = unsafe { backend::TRITONBACKEND_ModelInstanceInitialize(instance.cast()) };
    assert_eq!(code(initialised), ErrorCode::INVALID_ARG);
    let mut one = pictures(&[&picture(0)]);
    let mut requests = [(&raw mut one).cast()];
    // SAFETY: as above.
    let executed = unsafe { backend::TRITONBACKEND_ModelInstanceExecute(instance.cast(), requests.as_mut_ptr(), 1) };
    assert_eq!(code(executed), ErrorCode::INVALID_ARG);
    assert!(one.answer.is_none() && !one.released, "of a call that is refused the requests stay the server's");
    // SAFETY: what was not initialised has nothing to lose.
    status(unsafe { backend::TRITONBACKEND_ModelInstanceFinalize(instance.cast()) }).unwrap();
    // SAFETY: it comes from a box.
    drop(unsafe { Box::from_raw(instance) });
    // SAFETY: as above.
    drop(unsafe { Box::from_raw(model) });

    let loaded = Loaded::new(json!({}));
    // SAFETY: null is refused.
    let executed = unsafe { backend::TRITONBACKEND_ModelInstanceExecute(loaded.instance.cast(), null_mut(), 1) };
    assert_eq!(code(executed), ErrorCode::INVALID_ARG);
}

#[test]
fn configurations_are_completed_where_the_server_lets_them_be() {
    let loaded = Loaded::new(json!({}));
    // SAFETY: it lives.
    let completed = unsafe { &*loaded.model }.config.borrow();
    assert_eq!(completed["max_batch_size"], 8);
    assert_eq!(completed["input"][1]["dims"], json!([-1, 3, 28, 28]));
    assert_eq!(completed["output"][0]["dims"], json!([20, 32]));
    assert_eq!(completed["dynamic_batching"], json!({}));

    let closed = model(config(json!({})), false);
    // SAFETY: it lives until it is dropped below.
    let (code, message) = status(unsafe { backend::TRITONBACKEND_ModelInitialize(closed.cast()) }).unwrap_err();
    assert!(code == ErrorCode::INVALID_ARG && message.contains("max_batch_size must be at least 1"), "{message}");
    // SAFETY: it comes from a box.
    drop(unsafe { Box::from_raw(closed) });
}

#[test]
fn instances_are_where_this_build_can_compute() {
    let mut preferred: Vec<GroupKind> = Vec::new();
    let attributes: *mut api::BackendAttribute = (&raw mut preferred).cast();
    status(backend::TRITONBACKEND_GetBackendAttribute(null_mut(), attributes)).unwrap();
    let with_cuda = cfg!(feature = "cuda");
    let expected = if with_cuda { vec![GroupKind::GPU, GroupKind::CPU] } else { vec![GroupKind::CPU] };
    assert_eq!(preferred, expected);

    let loaded = Loaded::new(json!({}));
    for (kind, words) in [(GroupKind(3), "must be KIND_CPU or KIND_GPU"), (GroupKind::GPU, "--features cuda")] {
        if with_cuda && kind == GroupKind::GPU {
            continue;
        }
        let other = instance(loaded.model, kind, 0);
        // SAFETY: it lives until it is dropped below, and its model longer.
        let (code, message) =
            status(unsafe { backend::TRITONBACKEND_ModelInstanceInitialize(other.cast()) }).unwrap_err();
        assert!(code == ErrorCode::UNSUPPORTED && message.contains(words), "{message}");
        // SAFETY: it comes from a box.
        drop(unsafe { Box::from_raw(other) });
    }
}

/// On a GPU, or on a simulated one, of which there are two.
#[cfg(feature = "cuda")]
#[test]
fn an_instance_computes_on_its_gpu() {
    let files = [picture(0), picture(1)];
    let images = files.each_ref().map(|file| Image::decode(file, &Limits::default()).unwrap());
    let build = |device| Encoder::builder().model(tiny()).device(Device::Cuda(vec![device])).build().unwrap();
    let expected = images.map(|image| build(0).encode(&[image]).unwrap().embeddings);
    for device in [0, 1] {
        let loaded = Loaded::on(GroupKind::GPU, device, json!({ "max_batch_tiles": "8" }));
        let mut batch = [pictures(&[&files[0], &files[1]]), pictures(&[b"not a picture"]), pictures(&[&files[1]])];
        loaded.execute(&mut batch);
        for (found, expected) in answered(&batch[0]).iter().zip(&expected) {
            assert_padded(found, expected);
        }
        assert_padded(&answered(&batch[2])[0], &expected[1]);
        assert_eq!((refusal(&batch[1]).0, loaded.batches()), (ErrorCode::INVALID_ARG, vec![3]));
        assert_eq!(loaded.ready(), Ok(()));
    }
    let model = model(config(json!({ "dtype": "f32" })), true);
    for (device, words) in [(7, "there is no GPU 7"), (-1, "there is no GPU -1"), (0, "GPUs compute in bf16 or fp16")] {
        let other = instance(model, GroupKind::GPU, device);
        if device == 7 {
            // SAFETY: it lives until it is dropped below.
            status(unsafe { backend::TRITONBACKEND_ModelInitialize(model.cast()) }).unwrap();
        }
        // SAFETY: it lives until it is dropped below, and its model longer.
        let (_, message) = status(unsafe { backend::TRITONBACKEND_ModelInstanceInitialize(other.cast()) }).unwrap_err();
        assert!(message.contains(words), "{message}");
        // SAFETY: it comes from a box.
        drop(unsafe { Box::from_raw(other) });
    }
    // SAFETY: this is the last call with the model.
    status(unsafe { backend::TRITONBACKEND_ModelFinalize(model.cast()) }).unwrap();
    // SAFETY: it comes from a box.
    drop(unsafe { Box::from_raw(model) });
}
