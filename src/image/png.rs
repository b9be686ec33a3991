//! PNG of every colour type, in the values Pillow gives them.

use png::{BitDepth, ColorType, Decoder, DecodingError, Info, Transformations};

use crate::error::{ImageError, Result};
use crate::image::header::Header;
use crate::image::input::Input;
use crate::image::limits::Limits;
use crate::image::picture::Image;
use crate::interrupt::Interrupt;
use crate::memory;

const FORMAT: &str = "PNG";

/// Memory the decoder may take for chunks and lines, in bytes; the pixels are not among them. A line is at most
/// 65,535 pixels of 8 bytes under the default limits, twice.
const MAX_DECODER_BYTES: usize = 64 << 20;

/// What the decoder takes whatever the file: the window and the tables of its decompressor, and lines until they are read.
const DECODER_BYTES: u64 = 1 << 20;

/// Reads between two looks at the interrupt: after each the decoder decompresses 8 KiB at most.
const READS_BETWEEN_CHECKS: u32 = 1;

pub(super) fn header(bytes: &[u8], limits: &Limits) -> Result<Header> {
    Ok(read_header(bytes, limits, Interrupt::NEVER)?.1)
}

pub(super) fn decode(bytes: &[u8], limits: &Limits, interrupt: Interrupt) -> Result<Image> {
    let (decoder, Header { width, height, decoding_bytes }) = read_header(bytes, limits, interrupt)?;
    memory::require(decoding_bytes + DECODER_BYTES)?;
    let mut reader = decoder.read_info().map_err(refuse)?;
    let line_len = reader.output_line_size(width as u32).unwrap_or(0);
    let mut samples = memory::zeroed::<u8>(reader.output_buffer_size().unwrap_or(usize::MAX))?;
    reader.next_frame(&mut samples).map_err(refuse)?;
    let info = reader.info();
    let lines = || samples.chunks_exact(line_len);
    let (colors, alpha): Samples = match info.color_type {
        ColorType::Rgb => return Image::new(width, height, high_bytes(samples, info.bit_depth, interrupt)?, None),
        ColorType::Grayscale => look_up(&levels(info), lines(), [width, height], info, interrupt)?,
        ColorType::Indexed => look_up(&palette(info), lines(), [width, height], info, interrupt)?,
        ColorType::GrayscaleAlpha => {
            let samples = high_bytes(samples, info.bit_depth, interrupt)?;
            let pixels = samples.as_chunks().0;
            let colors = interrupt.map(pixels, |&[level, _]| [level; 3])?;
            (colors, Some(interrupt.map(pixels, |&[_, alpha]| alpha)?))
        }
        ColorType::Rgba => {
            let samples = high_bytes(samples, info.bit_depth, interrupt)?;
            let pixels = samples.as_chunks().0;
            let colors = interrupt.map(pixels, |&[r, g, b, _]| [r, g, b])?;
            (colors, Some(interrupt.map(pixels, |&[_, _, _, alpha]| alpha)?))
        }
    };
    Image::new(width, height, colors.into_flattened(), alpha)
}

/// Colours, and alpha where there is any.
type Samples = (Vec<[u8; 3]>, Option<Vec<u8>>);

/// A decoder that stands behind the header.
fn read_header<'a>(bytes: &'a [u8], limits: &Limits, interrupt: Interrupt<'a>) -> Result<(Decoder<Input<'a>>, Header)> {
    let input = Input::new(bytes, interrupt, READS_BETWEEN_CHECKS);
    let mut decoder = Decoder::new_with_limits(input, png::Limits { bytes: MAX_DECODER_BYTES });
    decoder.set_transformations(Transformations::IDENTITY);
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    let info = decoder.read_header_info().map_err(refuse)?;
    let (width, height) = limits.check(info.width.into(), info.height.into())?;
    if info.color_type == ColorType::Grayscale && info.bit_depth == BitDepth::Sixteen {
        // Pillow clips such values at 255, which leaves a white picture; the user is better told.
        return Err(ImageError::Unsupported { format: FORMAT, feature: "16 bits of grey".to_string() }.into());
    }
    let decoding_bytes = decoding_bytes(info, bytes.len());
    Ok((decoder, Header { width, height, decoding_bytes }))
}

/// The samples, what is made of them, and what the decoder takes: its own copies of chunks, each at most as long as the file,
/// and of lines.
fn decoding_bytes(info: &Info, file_len: usize) -> u64 {
    let line_len = info.raw_row_length() as u64;
    let pixels = u64::from(info.width) * u64::from(info.height);
    let wide = pixels * if info.bit_depth == BitDepth::Sixteen { info.color_type.samples() as u64 } else { 0 };
    let made = pixels * if info.color_type == ColorType::Rgb { 0 } else { 3 + 1 };
    let chunks = 2 * file_len.min(MAX_DECODER_BYTES) as u64;
    line_len * u64::from(info.height) + wide + made + chunks + 8 * line_len
}

/// 16-bit samples are stored high byte first; Pillow keeps the high byte.
fn high_bytes(samples: Vec<u8>, depth: BitDepth, interrupt: Interrupt) -> Result<Vec<u8>> {
    match depth {
        BitDepth::Sixteen => interrupt.map(samples.as_chunks().0, |&[high, _]| high),
        _ => Ok(samples),
    }
}

/// The colour of each sample of 8 bits or fewer, and its alpha where some are transparent.
struct Palette {
    colors: [[u8; 3]; 256],
    alphas: Option<[u8; 256]>,
}

/// Greyscale of 1 to 8 bits, spread over 0 to 255. Pillow compares the transparent level with the spread ones, so
/// that below 8 bits it only ever finds black (and in 1 bit, white).
fn levels(info: &Info) -> Palette {
    let depth = info.bit_depth as u8;
    let spread = 255 / max_sample(depth);
    let colors: [[u8; 3]; 256] = std::array::from_fn(|sample| [(sample as u8).wrapping_mul(spread); 3]);
    let transparent = match info.trns.as_deref() {
        Some(&[level]) if depth == 1 => Some(if level == 0 { 0 } else { 255 }),
        Some(&[level]) => Some(level),
        _ => None,
    };
    let alphas = transparent.map(|transparent| colors.map(|[level, ..]| if level == transparent { 0 } else { 255 }));
    Palette { colors, alphas }
}

/// A palette's own colours; beyond its end they are black, and beyond the transparencies opaque.
fn palette(info: &Info) -> Palette {
    let mut colors = [[0; 3]; 256];
    for (color, &entry) in colors.iter_mut().zip(info.palette.as_deref().unwrap_or_default().as_chunks::<3>().0) {
        *color = entry;
    }
    let alphas = info.trns.as_deref().map(|entries| std::array::from_fn(|k| entries.get(k).copied().unwrap_or(255)));
    Palette { colors, alphas }
}

/// The colours of all samples, `[height, width]`, and their alpha.
fn look_up<'a>(
    palette: &Palette,
    lines: impl Iterator<Item = &'a [u8]>,
    [width, height]: [usize; 2],
    info: &Info,
    interrupt: Interrupt,
) -> Result<Samples> {
    let mut colors = memory::reserve(width * height)?;
    let mut alpha = palette.alphas.map(|_| memory::reserve(width * height)).transpose()?;
    for line in lines {
        interrupt.check()?;
        let unpacked = || unpack(line, width, info.bit_depth as u8).map(usize::from);
        colors.extend(unpacked().map(|sample| palette.colors[sample]));
        if let (Some(alpha), Some(alphas)) = (&mut alpha, &palette.alphas) {
            alpha.extend(unpacked().map(|sample| alphas[sample]));
        }
    }
    Ok((colors, alpha))
}

fn max_sample(depth: u8) -> u8 {
    ((1u16 << depth) - 1) as u8
}

/// The samples of a line, of `depth` bits each (1, 2, 4 or 8), first in the high bits.
fn unpack(line: &[u8], width: usize, depth: u8) -> impl Iterator<Item = u8> {
    let per_byte = 8 / usize::from(depth);
    let mask = max_sample(depth);
    (0..width).map(move |x| (line[x / per_byte] >> (8 - usize::from(depth) * (x % per_byte + 1))) & mask)
}

fn refuse(error: DecodingError) -> ImageError {
    match error {
        DecodingError::LimitsExceeded => {
            let feature = format!("a line or chunk beyond {MAX_DECODER_BYTES} bytes");
            ImageError::Unsupported { format: FORMAT, feature }
        }
        DecodingError::IoError(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
            ImageError::Damaged { format: FORMAT, reason: "the data ends early".to_string() }
        }
        error => ImageError::Damaged { format: FORMAT, reason: error.to_string() },
    }
}
