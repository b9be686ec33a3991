//! Work in the order of the caller's stream, on the caller's memory of a GPU.

use crate::arguments::read_struct;
use crate::encode::{self, dtype};
use crate::handles::{self, Encoder};
use crate::status::{Refusal, Status, call};
use crate::structs::{Bytes, DeviceOutput, DevicePixels, Padding, Stream};

#[cfg(feature = "cuda")]
use engine::encoder::{DeviceEmbeddings, DevicePixels as EnginePixels, RawStream};

/// Enqueues the encoding of a pixel tensor that is on a GPU. It begins when what the stream was given before is done, and
/// what the stream is given later begins when the embeddings are there, in the type that the encoder computes in. Nothing
/// is copied, and the host waits only for the first batch of a shape and where it is eight batches ahead.
///
/// # Safety
/// `pixels`, `output` and `stream` are null or point to structs of the sizes they say, and the aspect ratios are readable.
/// The stream and the event live. Until the work is done, nobody frees the memory, nobody writes the pixels, and nobody
/// uses the embeddings but on the stream or behind it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tilesight_enqueue_pixels(
    encoder: Encoder,
    pixels: *const DevicePixels,
    output: *const DeviceOutput,
    stream: *const Stream,
) -> Status {
    call(|| {
        // SAFETY: the caller's promise.
        let pixels = unsafe { read_struct(pixels) }?;
        // SAFETY: the caller's promise.
        let output = unsafe { read_struct(output) }?;
        // SAFETY: the caller's promise.
        let stream = unsafe { read_struct(stream) }?;
        let dtype = dtype(pixels.dtype)?;
        let known = [Padding::AsGiven, Padding::Zeros].into_iter().find(|known| *known as u32 == pixels.padding);
        let unknown = || Refusal::argument(format!("there is no tilesight_padding {}", pixels.padding));
        let padding = known.ok_or_else(unknown)?;
        let shape = pixels.shape.map(|size| usize::try_from(size).unwrap_or(usize::MAX));
        // SAFETY: the caller's promise.
        let aspect_ratio = unsafe { encode::aspect_ratios(pixels.aspect_ratio, &shape) }?;
        let held = handles::find(encoder)?;
        let mut encoder = held.lock()?;
        #[cfg(feature = "cuda")]
        {
            let padding = match padding {
                Padding::AsGiven => engine::encoder::Padding::AsGiven,
                Padding::Zeros => engine::encoder::Padding::Zeros,
            };
            let device = device(&encoder, &stream)?;
            let pixels = EnginePixels { address: pixels.address, dtype, shape, aspect_ratio, padding };
            // SAFETY: the caller's promise.
            unsafe { encoder.enqueue_pixels(device, &pixels, embeddings(&output), raw(&stream)) }?;
            Ok(())
        }
        #[cfg(not(feature = "cuda"))]
        {
            let _ = (&mut encoder, dtype, padding, aspect_ratio, output, stream);
            Err(no_cuda())
        }
    })
}

/// tilesight_enqueue_pixels for pictures (JPEG, PNG or WebP), which are decoded and copied before this returns. The host
/// waits also where it is two batches ahead. `num_rows`, which may be null, is told how many embeddings there are.
///
/// # Safety
/// `pictures` as for tilesight_encode_pictures, the rest as for tilesight_enqueue_pixels.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tilesight_enqueue_pictures(
    encoder: Encoder,
    pictures: *const Bytes,
    count: usize,
    output: *const DeviceOutput,
    stream: *const Stream,
    num_rows: *mut u64,
) -> Status {
    call(|| {
        // SAFETY: the caller's promise.
        let files = unsafe { encode::files(pictures, count) }?;
        // SAFETY: the caller's promise.
        let output = unsafe { read_struct(output) }?;
        // SAFETY: the caller's promise.
        let stream = unsafe { read_struct(stream) }?;
        let held = handles::find(encoder)?;
        let tiles = encode::tiles(&files, &held)?;
        let mut encoder = held.lock()?;
        // SAFETY: the caller's promise.
        unsafe { encode::say(num_rows, encode::num_rows(&encoder, &tiles)) }?;
        #[cfg(feature = "cuda")]
        {
            let device = device(&encoder, &stream)?;
            // SAFETY: the caller's promise.
            unsafe { encoder.enqueue_tiles(device, &tiles, embeddings(&output), raw(&stream)) }?;
            Ok(())
        }
        #[cfg(not(feature = "cuda"))]
        {
            let _ = (&mut encoder, output, stream);
            Err(no_cuda())
        }
    })
}

#[cfg(feature = "cuda")]
fn device(encoder: &engine::Encoder, stream: &Stream) -> Result<usize, Refusal> {
    let (device, count) = (stream.device as usize, encoder.num_devices());
    let refuse = || Refusal::argument(format!("device {device} is none of the encoder's {count}"));
    (device < count).then_some(device).ok_or_else(refuse)
}

#[cfg(feature = "cuda")]
fn embeddings(output: &DeviceOutput) -> DeviceEmbeddings {
    DeviceEmbeddings { address: output.address, bytes: usize::try_from(output.capacity).unwrap_or(usize::MAX) }
}

#[cfg(feature = "cuda")]
fn raw(stream: &Stream) -> RawStream {
    RawStream { stream: stream.stream, done: stream.done }
}

#[cfg(not(feature = "cuda"))]
fn no_cuda() -> Refusal {
    Refusal::new(Status::Unavailable, "this build has no CUDA: install it with --cuda")
}
