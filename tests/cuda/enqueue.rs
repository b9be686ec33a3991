//! Another engine hands its stream and its memory over: what comes out is what the encoder gives otherwise, to the bit, in
//! the order of the stream, and without the host's waiting for it.
#![expect(unsafe_code, reason = "another engine vouches for its handles and its memory")]

use tilesight::checkpoint::{RandomWeights, demo_config};
use tilesight::encoder::{DeviceEmbeddings, DevicePixels, Padding, RawStream};
use tilesight::error::InputError;
use tilesight::image::Tiles;
use tilesight::plan::Semantics;
use tilesight::{Device, Dtype, Encoder, EncoderConfig, Error, Kernels, Pixels};

use crate::caller::{Engine, Memory, Pinned, Stream};
use crate::fused_kernels::fused_kernels;
use crate::kernel_sets;
use crate::noise::noise;

const BOTH: [Semantics; 2] = [Semantics::Torchtune, Semantics::Meta];

/// Three images of up to four tiles, in one sample.
const SHAPE: [usize; 6] = [1, 3, 4, 3, 28, 28];
const RATIOS: [[i64; 2]; 3] = [[1, 2], [2, 2], [1, 1]];

fn config() -> EncoderConfig {
    EncoderConfig {
        num_heads: 2,
        clip_embed_dim: 96,
        clip_num_layers: 2,
        clip_hidden_states: vec![1],
        num_layers_projection: 1,
        decoder_embed_dim: 40,
        tile_size: 28,
        ..demo_config()
    }
}

fn encoder(gpus: &[usize], kernels: Kernels, semantics: Semantics, max_batch_tiles: usize) -> Encoder {
    Encoder::builder()
        .checkpoint(RandomWeights::new(&config(), Dtype::Bf16, 5).unwrap().in_memory())
        .config(config())
        .semantics(semantics)
        .device(Device::Cuda(gpus.to_vec()))
        .dtype(Dtype::Bf16)
        .kernels(kernels)
        .max_batch_tiles(max_batch_tiles)
        .build()
        .unwrap()
}

/// Pixels that all three element types hold exactly; padding tiles of zeros, or of anything.
fn pixels(seed: u64, padding: Padding) -> Vec<f32> {
    let tile = config().tile_len();
    let mut values: Vec<f32> = noise(SHAPE.iter().product(), seed)
        .into_iter()
        .map(|x| half::bf16::from_f32((x * 16.0).round() / 16.0).to_f32())
        .collect();
    if padding == Padding::Zeros {
        for (image, [down, across]) in RATIOS.into_iter().enumerate() {
            let real = (down * across) as usize;
            values[(image * SHAPE[2] + real) * tile..(image + 1) * SHAPE[2] * tile].fill(0.0);
        }
    }
    values
}

/// What the encoder gives when the host hands pixels over and takes embeddings.
fn expected(encoder: &mut Encoder, values: &[f32]) -> Vec<f32> {
    encoder.encode_pixels(&Pixels { images: values, shape: SHAPE, aspect_ratio: Some(&RATIOS) }).unwrap().embeddings
}

fn on_device(address: u64, dtype: Dtype, padding: Padding) -> DevicePixels<'static> {
    DevicePixels { address, dtype, shape: SHAPE, aspect_ratio: Some(&RATIOS), padding }
}

fn widen(bytes: &[u8]) -> Vec<f32> {
    let mut values = vec![0.0; bytes.len() / 2];
    Dtype::Bf16.widen(bytes, &mut values);
    values
}

/// Bytes of the embeddings of `SHAPE`.
fn output_bytes() -> usize {
    SHAPE[1] * SHAPE[2] * config().num_tokens() * config().decoder_embed_dim * 2
}

/// Enqueues on a stream that this test keeps alive, as is the memory.
#[track_caller]
fn enqueue(encoder: &mut Encoder, pixels: &DevicePixels, output: &Memory, stream: RawStream) {
    // SAFETY: the handles and the memory live until the stream is waited for.
    let shape = unsafe { encoder.enqueue_pixels(0, pixels, output.embeddings(), stream) }.unwrap();
    assert_eq!(shape, [1, SHAPE[1] * SHAPE[2] * config().num_tokens(), config().decoder_embed_dim]);
}

#[test]
fn pixels_of_every_type_give_the_same_bits_in_the_streams_order() {
    for semantics in BOTH {
        for &kernels in kernel_sets() {
            for padding in [Padding::AsGiven, Padding::Zeros] {
                let values = pixels(1, padding);
                // 64 tiles are one batch, 4 are several.
                for max_batch_tiles in [64, 4] {
                    let mut encoder = encoder(&[0], kernels, semantics, max_batch_tiles);
                    let expected = expected(&mut encoder, &values);
                    let engine = Engine::new(0);
                    let stream = engine.stream();
                    for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F16] {
                        let bytes = dtype.narrowed(&values);
                        let (input, output) = (engine.memory(bytes.len()), engine.memory(output_bytes()));
                        // None of it is waited for before the end.
                        stream.upload(&bytes, &input);
                        enqueue(&mut encoder, &on_device(input.address, dtype, padding), &output, stream.raw());
                        let found = widen(&stream.download(&output, output_bytes()));
                        let what = format!("{semantics}, {kernels:?}, {padding:?}, {max_batch_tiles}, {dtype}");
                        assert!(found == expected, "{what}");
                    }
                }
            }
        }
    }
}

#[test]
fn pictures_of_the_host_go_to_the_callers_memory() {
    for semantics in BOTH {
        let mut encoder = encoder(&[0], fused_kernels(), semantics, 5);
        let tile = config().tile_len();
        let cut = |seed: u64, aspect_ratio: [usize; 2]| Tiles {
            aspect_ratio,
            pixels: noise(aspect_ratio[0] * aspect_ratio[1] * tile, seed),
        };
        let pictures = [cut(1, [1, 3]), cut(2, [2, 2]), cut(3, [1, 1]), cut(4, [4, 1]), cut(5, [1, 2])];
        let expected = encoder.encode_tiles(&pictures).unwrap().embeddings;
        let engine = Engine::new(0);
        let stream = engine.stream();
        let outputs: Vec<Memory> = (0..3).map(|_| engine.memory(expected.len() * 2)).collect();
        for output in &outputs {
            // SAFETY: the stream is waited for below, before anything is dropped.
            let shape = unsafe { encoder.enqueue_tiles(0, &pictures, output.embeddings(), stream.raw()) }.unwrap();
            assert_eq!(shape, [expected.len() / 40, 40]);
        }
        for output in &outputs {
            assert!(widen(&stream.download(output, expected.len() * 2)) == expected, "{semantics}");
        }
        // SAFETY: no picture has no embeddings, and nothing is written.
        let shape = unsafe { encoder.enqueue_tiles(0, &[], DeviceEmbeddings { address: 0, bytes: 0 }, stream.raw()) };
        assert_eq!(shape.unwrap(), [0, 40]);
        // And the slots are whole for those who ask for embeddings.
        assert!(encoder.encode_tiles(&pictures).unwrap().embeddings == expected);
    }
}

#[test]
fn many_calls_are_ahead_of_the_gpu_on_streams_that_take_turns() {
    let mut encoder = encoder(&[0], fused_kernels(), Semantics::Meta, 64);
    let inputs: Vec<Vec<f32>> = (0..20).map(|seed| pixels(seed, Padding::Zeros)).collect();
    let expected: Vec<Vec<f32>> = inputs.iter().map(|values| expected(&mut encoder, values)).collect();
    let engine = Engine::new(0);
    let (streams, last) = ([engine.stream(), engine.stream()], engine.stream());
    let bytes = inputs[0].len() * 4;
    let memory: Vec<[Memory; 2]> =
        inputs.iter().map(|_| [engine.memory(bytes), engine.memory(output_bytes())]).collect();
    let done: Vec<_> = inputs.iter().map(|_| engine.event()).collect();
    for (number, (values, [input, output])) in inputs.iter().zip(&memory).enumerate() {
        let stream = &streams[number % 2];
        stream.upload(values, input);
        let pixels = on_device(input.address, Dtype::F32, Padding::Zeros);
        enqueue(&mut encoder, &pixels, output, stream.with(&done[number]));
        // The pixels may be written over as soon as the stream comes to it.
        stream.upload(&vec![f32::NAN; values.len()], input);
    }
    // A third stream knows of the others by the events alone.
    for ((done, [_, output]), expected) in done.iter().zip(&memory).zip(&expected) {
        last.wait(done);
        assert!(widen(&last.download(output, output_bytes())) == *expected);
    }
    streams.iter().for_each(|stream| drop(stream.download(&memory[0][1], 2)));
}

#[test]
fn an_event_of_the_callers_is_recorded_behind_the_work() {
    let mut encoder = encoder(&[0], fused_kernels(), Semantics::Torchtune, 64);
    let values = pixels(7, Padding::AsGiven);
    let expected = expected(&mut encoder, &values);
    let engine = Engine::new(0);
    let (stream, other, done) = (engine.stream(), engine.stream(), engine.event());
    let (input, output) = (engine.memory(values.len() * 4), engine.memory(output_bytes()));
    let pixels = on_device(input.address, Dtype::F32, Padding::AsGiven);
    // The simulated device does what has no order in one of its own choice, which may be the right one.
    for _ in 0..8 {
        stream.upload(&values, &input);
        stream.upload(&vec![0xffu8; output_bytes()], &output);
        enqueue(&mut encoder, &pixels, &output, stream.with(&done));
        other.wait(&done);
        let found = widen(&other.download(&output, output_bytes()));
        drop(stream.download(&output, 2));
        assert!(found == expected);
    }
}

#[test]
fn default_streams_are_streams_too() {
    let mut encoder = encoder(&[0], fused_kernels(), Semantics::Torchtune, 64);
    let values = pixels(8, Padding::AsGiven);
    let expected = expected(&mut encoder, &values);
    let engine = Engine::new(0);
    let (input, output) = (engine.memory(values.len() * 4), engine.memory(output_bytes()));
    let pixels = on_device(input.address, Dtype::F32, Padding::AsGiven);
    // Candle, for one, works on that of the thread.
    for handle in 0..=2 {
        let stream = engine.default_stream(handle);
        stream.upload(&values, &input);
        stream.upload(&vec![0xffu8; output_bytes()], &output);
        enqueue(&mut encoder, &pixels, &output, stream.raw());
        stream.upload(&vec![f32::NAN; values.len()], &input);
        assert!(widen(&stream.download(&output, output_bytes())) == expected, "stream {handle}");
    }
}

#[test]
fn batches_of_all_kinds_are_under_way_together() {
    let mut encoder = encoder(&[0], fused_kernels(), Semantics::Torchtune, 64);
    let (first, second) = (pixels(1, Padding::AsGiven), pixels(2, Padding::AsGiven));
    let expected = [&first, &second].map(|values| expected(&mut encoder, values));
    let tile = config().tile_len();
    let picture = Tiles { aspect_ratio: [2, 1], pixels: noise(2 * tile, 9) };
    let of_picture = encoder.encode_tiles(std::slice::from_ref(&picture)).unwrap().embeddings;
    let engine = Engine::new(0);
    let stream = engine.stream();
    let (input, output) = (engine.memory(first.len() * 4), engine.memory(output_bytes()));
    let of_tiles = engine.memory(of_picture.len() * 2);
    let submit = |encoder: &mut Encoder| {
        let pixels = Pixels { images: &second, shape: SHAPE, aspect_ratio: Some(&RATIOS) };
        encoder.submit(0, &[tilesight::encoder::Input::Pixels(pixels)]).unwrap()
    };
    let submissions = [submit(&mut encoder), submit(&mut encoder)];
    stream.upload(&first, &input);
    enqueue(&mut encoder, &on_device(input.address, Dtype::F32, Padding::AsGiven), &output, stream.raw());
    // SAFETY: the stream is waited for below.
    unsafe { encoder.enqueue_tiles(0, &[picture], of_tiles.embeddings(), stream.raw()) }.unwrap();
    for submission in submissions {
        assert!(encoder.finish(submission).unwrap().embeddings == expected[1]);
    }
    assert!(widen(&stream.download(&output, output_bytes())) == expected[0]);
    assert!(widen(&stream.download(&of_tiles, of_picture.len() * 2)) == of_picture);
}

#[test]
fn encoders_of_several_threads_share_a_gpu() {
    let values: Vec<Vec<f32>> = (0..4).map(|seed| pixels(seed, Padding::AsGiven)).collect();
    let mut one = encoder(&[0], fused_kernels(), Semantics::Torchtune, 64);
    let expected: Vec<Vec<f32>> = values.iter().map(|values| expected(&mut one, values)).collect();
    std::thread::scope(|scope| {
        for (values, expected) in values.iter().zip(&expected) {
            scope.spawn(|| {
                let mut encoder = encoder(&[0], fused_kernels(), Semantics::Torchtune, 64);
                let engine = Engine::new(0);
                let stream = engine.stream();
                let (input, output) = (engine.memory(values.len() * 4), engine.memory(output_bytes()));
                for _ in 0..3 {
                    stream.upload(values, &input);
                    let pixels = on_device(input.address, Dtype::F32, Padding::AsGiven);
                    enqueue(&mut encoder, &pixels, &output, stream.raw());
                    assert!(widen(&stream.download(&output, output_bytes())) == *expected);
                }
            });
        }
    });
}

#[test]
fn a_dropped_encoder_has_done_its_work() {
    let values = pixels(3, Padding::AsGiven);
    let engine = Engine::new(0);
    let stream = engine.stream();
    let (input, output) = (engine.memory(values.len() * 4), engine.memory(output_bytes()));
    let mut encoder = encoder(&[0], fused_kernels(), Semantics::Torchtune, 64);
    let expected = expected(&mut encoder, &values);
    engine.bind();
    stream.upload(&values, &input);
    enqueue(&mut encoder, &on_device(input.address, Dtype::F32, Padding::AsGiven), &output, stream.raw());
    drop(encoder);
    engine.bind();
    assert!(widen(&stream.download(&output, output_bytes())) == expected);
}

/// What is wrong with a call; nothing was enqueued.
#[track_caller]
fn refusal(encoder: &mut Encoder, pixels: &DevicePixels, output: DeviceEmbeddings, stream: RawStream) -> InputError {
    // SAFETY: the call is refused before it touches anything.
    match unsafe { encoder.enqueue_pixels(0, pixels, output, stream) } {
        Err(Error::Input(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_cannot_be_used_is_refused_and_the_next_call_is_right() {
    let values = pixels(4, Padding::AsGiven);
    let mut encoder = encoder(&[0], fused_kernels(), Semantics::Torchtune, 64);
    let expected = expected(&mut encoder, &values);
    let (engine, other) = (Engine::new(0), Engine::new(1));
    let stream: Stream = engine.stream();
    let (input, output) = (engine.memory(values.len() * 4), engine.memory(output_bytes()));
    let elsewhere = other.memory(output_bytes().max(values.len() * 4));
    let pinned = Pinned::new(output_bytes());
    let freed = engine.memory(output_bytes()).address;
    engine.bind();
    let good = on_device(input.address, Dtype::F32, Padding::AsGiven);
    let memory = |address: u64, bytes: usize| DeviceEmbeddings { address, bytes };
    let whole = output_bytes();

    for (what, address, bytes) in [
        ("null", 0, whole),
        ("too small", output.address, whole - 1),
        ("misaligned", output.address + 8, whole),
        ("beyond its end", output.address + 16, whole),
        ("freed", freed, whole),
        ("pinned", pinned.address(), whole),
        ("another GPU's", elsewhere.address, whole),
        ("the last address", u64::MAX - 15, whole),
    ] {
        let refusal = refusal(&mut encoder, &good, memory(address, bytes), stream.raw());
        assert!(matches!(refusal, InputError::DeviceMemory { name: "embeddings", .. }), "{what}: {refusal}");
    }
    for (what, address) in [("null", 0), ("misaligned", input.address + 2), ("another GPU's", elsewhere.address)] {
        let pixels = on_device(address, Dtype::F32, Padding::AsGiven);
        let refusal = refusal(&mut encoder, &pixels, output.embeddings(), stream.raw());
        assert!(matches!(refusal, InputError::DeviceMemory { name: "pixels", .. }), "{what}: {refusal}");
    }
    for (pixels, expected) in [
        (DevicePixels { shape: [1, 0, 4, 3, 28, 28], ..good }, "at least 1"),
        (DevicePixels { shape: [1, 3, 4, 3, 28, 29], ..good }, "must have shape"),
        (DevicePixels { shape: [usize::MAX; 6], ..good }, "must have shape"),
        (DevicePixels { aspect_ratio: None, ..good }, "aspect_ratio"),
        (DevicePixels { aspect_ratio: Some(&RATIOS[..2]), ..good }, "aspect_ratio"),
        (DevicePixels { aspect_ratio: Some(&[[1, 2], [2, 3], [1, 1]]), ..good }, "needs 6 tiles"),
    ] {
        let refusal = refusal(&mut encoder, &pixels, output.embeddings(), stream.raw()).to_string();
        assert!(refusal.contains(expected), "{refusal}");
    }
    // As many images as there could be addresses: nothing is made for each before the memory is looked at.
    let claimed = DevicePixels { shape: [1 << 40, 1, 1, 3, 28, 28], aspect_ratio: None, ..good };
    let refused = refusal(&mut encoder, &claimed, memory(output.address, usize::MAX), stream.raw());
    assert!(matches!(refused, InputError::DeviceMemory { .. }), "{refused}");
    let foreign = other.stream();
    engine.bind();
    let refused = refusal(&mut encoder, &good, output.embeddings(), foreign.raw());
    assert!(matches!(refused, InputError::Handle { name: "stream", .. }), "{refused}");
    stream.begin_capture();
    let refused = refusal(&mut encoder, &good, output.embeddings(), stream.raw());
    assert!(matches!(refused, InputError::Handle { name: "stream", .. }), "{refused}");
    stream.end_capture();
    let mut on_cpu = Encoder::builder().demo().device(Device::Cpu).build().unwrap();
    let refused = {
        // SAFETY: there is no GPU that could touch anything.
        let result = unsafe { on_cpu.enqueue_tiles(0, &[], memory(0, 0), stream.raw()) };
        result.unwrap_err().to_string()
    };
    assert!(refused.contains("build the encoder for one"), "{refused}");

    engine.bind();
    stream.upload(&values, &input);
    enqueue(&mut encoder, &good, &output, stream.raw());
    assert!(widen(&stream.download(&output, whole)) == expected);
    other.bind();
    drop(elsewhere);
    drop(foreign);
    engine.bind();
}
