//! WebP, lossy, lossless and with alpha, in the values libwebp gives.

use std::io::Cursor;

use image_webp::{DecodingError, WebPDecoder};

use crate::error::{ImageError, Result};
use crate::image::decode::{Limits, allocate};
use crate::image::picture::Image;

const FORMAT: &str = "WebP";

/// Where the flags of the `VP8X` chunk stand, always the first of a file that has one.
const EXTENDED_FLAGS: usize = 20;
const ALPHA_FLAG: u8 = 0x10;

/// An animation's canvas is counted in bytes of 32 bits by its decoder. Only limits raised on purpose get there.
const MAX_ANIMATED_PIXELS: u64 = (u32::MAX / 4) as u64;

pub(super) fn dimensions(bytes: &[u8], limits: &Limits) -> Result<(usize, usize)> {
    Ok(read_header(bytes, limits)?.1)
}

pub(super) fn decode(bytes: &[u8], limits: &Limits) -> Result<Image> {
    let (mut decoder, (width, height)) = read_header(bytes, limits)?;
    let mut samples = allocate::<u8>(decoder.output_buffer_size().unwrap_or(usize::MAX))?;
    match decoder.read_image(&mut samples) {
        // Some writers announce an alpha channel and store none; libwebp takes the picture for opaque.
        Err(DecodingError::ChunkMissing) if decoder.has_alpha() => {
            let mut bytes = bytes.to_vec();
            bytes[EXTENDED_FLAGS] &= !ALPHA_FLAG;
            return decode(&bytes, limits);
        }
        read => read.map_err(refuse)?,
    }
    if !decoder.has_alpha() {
        return Image::new(width, height, samples, None);
    }
    let pixels = samples.as_chunks::<4>().0;
    let rgb = pixels.iter().flat_map(|&[r, g, b, _]| [r, g, b]).collect();
    Image::new(width, height, rgb, Some(pixels.iter().map(|pixel| pixel[3]).collect()))
}

type Header<'a> = (WebPDecoder<Cursor<&'a [u8]>>, (usize, usize));

fn read_header<'a>(bytes: &'a [u8], limits: &Limits) -> Result<Header<'a>> {
    let decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(refuse)?;
    let (width, height) = decoder.dimensions();
    let size = limits.check(width.into(), height.into())?;
    if decoder.is_animated() && u64::from(width) * u64::from(height) > MAX_ANIMATED_PIXELS {
        return Err(ImageError::Unsupported { format: FORMAT, feature: format!("a {width}x{height} animation") }.into());
    }
    Ok((decoder, size))
}

fn refuse(error: DecodingError) -> ImageError {
    match error {
        DecodingError::UnsupportedFeature(feature) => ImageError::Unsupported { format: FORMAT, feature },
        error => ImageError::Damaged { format: FORMAT, reason: error.to_string() },
    }
}
