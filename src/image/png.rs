//! PNG of every colour type, in the values Pillow gives them.

use std::io::Cursor;

use png::{BitDepth, ColorType, Decoder, DecodingError, Info, Reader, Transformations};

use crate::error::{Error, ImageError, InputError, Result};
use crate::image::decode::{Limits, allocate};
use crate::image::picture::Image;

const FORMAT: &str = "PNG";

/// Memory the decoder may take for chunks and lines, in bytes; the pixels are not among them. A line is at most
/// 65,535 pixels of 8 bytes under the default limits, twice.
const MAX_DECODER_BYTES: usize = 64 << 20;

pub(super) fn dimensions(bytes: &[u8], limits: &Limits) -> Result<(usize, usize)> {
    Ok(read_header(bytes, limits)?.1)
}

pub(super) fn decode(bytes: &[u8], limits: &Limits) -> Result<Image> {
    let (mut reader, (width, height)) = read_header(bytes, limits)?;
    let line_len = reader.output_line_size(width as u32).unwrap_or(0);
    let mut samples = allocate::<u8>(reader.output_buffer_size().unwrap_or(usize::MAX))?;
    reader.next_frame(&mut samples).map_err(refuse)?;
    let info = reader.info();
    let (color, alpha) = match info.color_type {
        ColorType::Rgb => return Image::new(width, height, high_bytes(samples, info.bit_depth), None),
        ColorType::Grayscale => from_levels(&samples, line_len, width, info)?,
        ColorType::Indexed => from_palette(&samples, line_len, width, info)?,
        ColorType::GrayscaleAlpha => {
            let samples = high_bytes(samples, info.bit_depth);
            let pixels = samples.as_chunks::<2>().0;
            (pixels.iter().flat_map(|&[level, _]| [level; 3]).collect(), Some(pixels.iter().map(|p| p[1]).collect()))
        }
        ColorType::Rgba => {
            let samples = high_bytes(samples, info.bit_depth);
            let pixels = samples.as_chunks::<4>().0;
            (pixels.iter().flat_map(|&[r, g, b, _]| [r, g, b]).collect(), Some(pixels.iter().map(|p| p[3]).collect()))
        }
    };
    Image::new(width, height, color, alpha)
}

type Header<'a> = (Reader<Cursor<&'a [u8]>>, (usize, usize));

fn read_header<'a>(bytes: &'a [u8], limits: &Limits) -> Result<Header<'a>> {
    let mut decoder = Decoder::new_with_limits(Cursor::new(bytes), png::Limits { bytes: MAX_DECODER_BYTES });
    decoder.set_transformations(Transformations::IDENTITY);
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    let info = decoder.read_header_info().map_err(refuse)?;
    let size = limits.check(info.width.into(), info.height.into())?;
    if info.color_type == ColorType::Grayscale && info.bit_depth == BitDepth::Sixteen {
        // Pillow clips such values at 255, which leaves a white picture; the user is better told.
        return Err(ImageError::Unsupported { format: FORMAT, feature: "16 bits of grey".to_string() }.into());
    }
    Ok((decoder.read_info().map_err(refuse)?, size))
}

/// 16-bit samples are stored high byte first; Pillow keeps the high byte.
fn high_bytes(samples: Vec<u8>, depth: BitDepth) -> Vec<u8> {
    match depth {
        BitDepth::Sixteen => samples.as_chunks::<2>().0.iter().map(|&[high, _]| high).collect(),
        _ => samples,
    }
}

/// Colours, `[height, width, 3]`, and alpha, `[height, width]`.
type ColorAndAlpha = (Vec<u8>, Option<Vec<u8>>);

/// Greyscale of 1 to 8 bits, spread over 0 to 255. Pillow compares the transparent level with the spread ones, so
/// that below 8 bits it only ever finds black (and in 1 bit, white).
fn from_levels(samples: &[u8], line_len: usize, width: usize, info: &Info) -> Result<ColorAndAlpha> {
    let depth = info.bit_depth as u8;
    let spread = 255 / ((1u16 << depth) - 1) as u8;
    let transparent = match info.trns.as_deref() {
        Some(&[level]) if depth == 1 => Some(if level == 0 { 0 } else { 255 }),
        Some(&[level]) => Some(level),
        _ => None,
    };
    let levels = |index: u8| index * spread;
    let color = unpack(samples, line_len, width, depth).flat_map(|index| [levels(index); 3]).collect();
    let alpha = transparent.map(|transparent| {
        let opacity = |index| if levels(index) == transparent { 0 } else { 255 };
        unpack(samples, line_len, width, depth).map(opacity).collect()
    });
    Ok((color, alpha))
}

/// Palette pictures; indices beyond the palette are black, and beyond the transparencies opaque.
fn from_palette(samples: &[u8], line_len: usize, width: usize, info: &Info) -> Result<ColorAndAlpha> {
    let depth = info.bit_depth as u8;
    let mut colors = [[0; 3]; 256];
    for (color, &entry) in colors.iter_mut().zip(info.palette.as_deref().unwrap_or_default().as_chunks::<3>().0) {
        *color = entry;
    }
    let color = unpack(samples, line_len, width, depth).flat_map(|index| colors[usize::from(index)]).collect();
    let alpha = info.trns.as_deref().map(|entries| {
        let opacity = |index| entries.get(usize::from(index)).copied().unwrap_or(255);
        unpack(samples, line_len, width, depth).map(opacity).collect()
    });
    Ok((color, alpha))
}

/// Samples of `depth` bits (1, 2, 4 or 8), first in the high bits, each line starting on a byte.
fn unpack(samples: &[u8], line_len: usize, width: usize, depth: u8) -> impl Iterator<Item = u8> {
    let per_byte = 8 / usize::from(depth);
    let mask = ((1u16 << depth) - 1) as u8;
    samples.chunks_exact(line_len).flat_map(move |line| {
        (0..width).map(move |x| (line[x / per_byte] >> (8 - usize::from(depth) * (x % per_byte + 1))) & mask)
    })
}

fn refuse(error: DecodingError) -> Error {
    match error {
        DecodingError::LimitsExceeded => InputError::OutOfMemory { bytes: MAX_DECODER_BYTES as u64 }.into(),
        DecodingError::IoError(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
            ImageError::Damaged { format: FORMAT, reason: "the data ends early".to_string() }.into()
        }
        error => ImageError::Damaged { format: FORMAT, reason: error.to_string() }.into(),
    }
}
