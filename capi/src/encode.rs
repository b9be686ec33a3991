//! Pictures and pixel tensors to embeddings in the caller's memory.

use engine::Pixels as EnginePixels;
use engine::error::InputError;
use engine::image::{Image, Limits, Tiles};

use crate::arguments::{read_struct, require_aligned, slice, slice_mut, write_struct};
use crate::handles::{self, Encoder, Held};
use crate::status::{Refusal, Status, call};
use crate::structs::{Bytes, Output, Picture, Pixels};

/// Says what becomes of a picture (JPEG, PNG or WebP), from its header alone: enough to know the memory that its embeddings
/// need, num_rows times embed_dim elements.
///
/// # Safety
/// `file` points to `len` readable bytes, or is null; `picture` is null or points to a struct of the size it says, which
/// may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tilesight_measure(
    encoder: Encoder,
    file: *const u8,
    len: usize,
    picture: *mut Picture,
) -> Status {
    call(|| {
        // SAFETY: the caller's promise.
        let file = unsafe { slice(file, len, "file") }?;
        let held = handles::find(encoder)?;
        let preprocessor = held.require_preprocessor()?;
        let (width, height) = Image::dimensions(file, &Limits::default())?;
        let [down, across] = preprocessor.canvas(width, height)?.aspect_ratio;
        let value = Picture {
            size: size_of::<Picture>(),
            width: width as u32,
            height: height as u32,
            tiles_down: down as u32,
            tiles_across: across as u32,
            num_rows: (down * across) as u64 * u64::from(held.description.num_tokens),
        };
        // SAFETY: the caller's promise.
        unsafe { write_struct(picture, &value) }
    })
}

/// Encodes pictures (JPEG, PNG or WebP), in batches of at most max_batch_tiles. The embeddings of each are those that it
/// has alone, as many as tilesight_measure says; `num_rows`, which may be null, is told how many there are in all, also
/// where the memory is too small for them.
///
/// # Safety
/// `pictures` points to `count` elements, each with so many readable bytes as it says; `output` is null or points to a
/// struct of the size it says, whose memory may be written and is used by nobody else during the call; `num_rows` is null
/// or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tilesight_encode_pictures(
    encoder: Encoder,
    pictures: *const Bytes,
    count: usize,
    output: *const Output,
    num_rows: *mut u64,
) -> Status {
    call(|| {
        // SAFETY: the caller's promise.
        let files = unsafe { files(pictures, count) }?;
        // SAFETY: the caller's promise.
        let output = unsafe { read_struct(output) }?;
        let held = handles::find(encoder)?;
        // Other calls may use the encoder while these pictures are decoded.
        let tiles = tiles(&files, &held)?;
        let mut encoder = held.lock()?;
        let (rows, width) = (self::num_rows(&encoder, &tiles), encoder.config().decoder_embed_dim);
        // SAFETY: the caller's promise.
        unsafe { say(num_rows, rows) }?;
        // SAFETY: the caller's promise.
        unsafe { write(&output, [rows, width], |embeddings| encoder.encode_tiles_into(&tiles, embeddings)) }
    })
}

/// The caller's pictures.
///
/// # Safety
/// `pictures` points to `count` elements, each with so many readable bytes as it says.
pub(crate) unsafe fn files<'a>(pictures: *const Bytes, count: usize) -> Result<Vec<&'a [u8]>, Refusal> {
    // SAFETY: the caller's promise.
    let pictures = unsafe { slice(pictures, count, "pictures") }?;
    // SAFETY: the caller's promise, of each element.
    pictures.iter().map(|picture| unsafe { slice(picture.data, picture.len, "a picture") }).collect()
}

/// Decodes and cuts pictures.
pub(crate) fn tiles(files: &[&[u8]], held: &Held) -> Result<Vec<Tiles>, Refusal> {
    let preprocessor = held.require_preprocessor()?;
    let tiles = |file: &&[u8]| Ok(preprocessor.tiles(&Image::decode(file, &Limits::default())?)?);
    files.iter().map(tiles).collect()
}

/// Embeddings of pictures.
pub(crate) fn num_rows(encoder: &engine::Encoder, tiles: &[Tiles]) -> usize {
    encoder.config().num_tokens() * tiles.iter().map(Tiles::num_tiles).sum::<usize>()
}

/// The aspect ratios of a pixel tensor of this shape; none where they are null.
///
/// # Safety
/// `given` is null, or points to two readable numbers for each image.
pub(crate) unsafe fn aspect_ratios<'a>(
    given: *const i64,
    shape: &[usize; 6],
) -> Result<Option<&'a [[i64; 2]]>, Refusal> {
    if given.is_null() {
        return Ok(None);
    }
    let numbers = shape[0].checked_mul(shape[1]).and_then(|images| images.checked_mul(2));
    let refuse = || Refusal::argument(format!("pixels cannot have the shape {shape:?}"));
    // SAFETY: the caller's promise.
    Ok(Some(unsafe { slice(given, numbers.ok_or_else(refuse)?, "aspect_ratio") }?.as_chunks().0))
}

/// Encodes a pixel tensor, as torchtune's forward(images, aspect_ratio) does: samples times images times tiles times
/// tokens rows, those of padding tiles included.
///
/// # Safety
/// `pixels` is null or points to a struct of the size it says, whose data and aspect ratios are readable; `output` as for
/// tilesight_encode_pictures.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tilesight_encode_pixels(
    encoder: Encoder,
    pixels: *const Pixels,
    output: *const Output,
) -> Status {
    call(|| {
        // SAFETY: the caller's promise.
        let pixels = unsafe { read_struct(pixels) }?;
        // SAFETY: the caller's promise.
        let output = unsafe { read_struct(output) }?;
        let dtype = dtype(pixels.dtype)?;
        let shape = pixels.shape.map(|size| usize::try_from(size).unwrap_or(usize::MAX));
        let product = |sizes: &[usize]| sizes.iter().try_fold(1usize, |len, size| len.checked_mul(*size));
        let too_many = || Refusal::argument(format!("pixels cannot have the shape {shape:?}"));
        let len = product(&shape).and_then(|len| len.checked_mul(dtype.size())).ok_or_else(too_many)?;
        if !pixels.data.addr().is_multiple_of(dtype.size()) {
            return Err(Refusal::argument(format!("pixels must be aligned to {} bytes", dtype.size())));
        }
        // SAFETY: the caller's promise.
        let bytes = unsafe { slice(pixels.data.cast::<u8>(), len, "pixels") }?;
        // SAFETY: the caller's promise.
        let aspect_ratio = unsafe { aspect_ratios(pixels.aspect_ratio, &shape) }?;
        let widened;
        // SAFETY: the bytes are aligned for f32 where that is their type, and every pattern of bits is one.
        let images = match (dtype, unsafe { bytes.align_to::<f32>() }) {
            (engine::Dtype::F32, ([], values, [])) => values,
            _ => {
                widened = dtype.widened(bytes)?;
                &widened
            }
        };
        let held = handles::find(encoder)?;
        let mut encoder = held.lock()?;
        let (tokens, width) = (encoder.config().num_tokens(), encoder.config().decoder_embed_dim);
        let rows = product(&[shape[0], shape[1], shape[2], tokens]).ok_or_else(too_many)?;
        let pixels = EnginePixels { images, shape, aspect_ratio };
        // From here on the shape is as large as the values are many.
        pixels.check(encoder.config())?;
        // SAFETY: the caller's promise.
        unsafe { write(&output, [rows, width], |embeddings| encoder.encode_pixels_into(&pixels, embeddings)) }
    })
}

/// # Safety
/// `to` is null or may be written.
pub(crate) unsafe fn say(to: *mut u64, value: usize) -> Result<(), Refusal> {
    if !to.is_null() {
        require_aligned(to.cast_const(), "num_rows")?;
        // SAFETY: not null, aligned, and writable by the caller's promise.
        unsafe { to.write(value as u64) };
    }
    Ok(())
}

/// Has embeddings computed into the caller's memory, in the type that it wants.
///
/// # Safety
/// The output's memory may be written, and nobody else uses it.
unsafe fn write(
    output: &Output,
    [rows, width]: [usize; 2],
    encode: impl FnOnce(&mut [f32]) -> Result<(), engine::Error>,
) -> Result<(), Refusal> {
    let dtype = dtype(output.dtype)?;
    let too_small = |bytes: usize| {
        let message = format!("[{rows}, {width}] in {dtype} takes {bytes} bytes, found {}", output.capacity);
        Refusal::new(Status::TooSmall, message)
    };
    let len = rows.checked_mul(width).ok_or_else(|| too_small(usize::MAX))?;
    let bytes = len.checked_mul(dtype.size()).ok_or_else(|| too_small(usize::MAX))?;
    if bytes > output.capacity {
        return Err(too_small(bytes));
    }
    if !output.data.addr().is_multiple_of(dtype.size()) {
        return Err(Refusal::argument(format!("output's data must be aligned to {} bytes", dtype.size())));
    }
    if dtype == engine::Dtype::F32 {
        // SAFETY: the caller's promise; every pattern of bits is an f32.
        return Ok(encode(unsafe { slice_mut(output.data.cast::<f32>(), len, "output's data") }?)?);
    }
    // SAFETY: the caller's promise.
    let memory = unsafe { slice_mut(output.data.cast::<u8>(), bytes, "output's data") }?;
    let mut embeddings = Vec::new();
    let out_of_memory = |_| engine::Error::from(InputError::OutOfMemory { bytes: 4 * len as u64 });
    embeddings.try_reserve_exact(len).map_err(out_of_memory)?;
    embeddings.resize(len, 0.0);
    encode(&mut embeddings)?;
    memory.copy_from_slice(&dtype.try_narrowed(&embeddings)?);
    Ok(())
}

pub(crate) fn dtype(number: u32) -> Result<engine::Dtype, Refusal> {
    use crate::structs::Dtype;
    [(Dtype::F32, engine::Dtype::F32), (Dtype::Bf16, engine::Dtype::Bf16), (Dtype::F16, engine::Dtype::F16)]
        .into_iter()
        .find_map(|(known, dtype)| (known as u32 == number).then_some(dtype))
        .ok_or_else(|| Refusal::argument(format!("there is no tilesight_dtype {number}")))
}
