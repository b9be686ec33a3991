//! WebP, lossy, lossless and with alpha, in the values libwebp gives.

use std::borrow::Cow;
use std::io::Cursor;

use image_webp::{DecodingError, WebPDecoder};

use crate::error::{ImageError, Result};
use crate::image::decode::{Limits, allocate};
use crate::image::picture::Image;

const FORMAT: &str = "WebP";

/// An animation's canvas is counted in bytes of 32 bits by its decoder. Only limits raised on purpose get there.
const MAX_ANIMATED_PIXELS: u64 = (u32::MAX / 4) as u64;

pub(super) fn dimensions(bytes: &[u8], limits: &Limits) -> Result<(usize, usize)> {
    let bytes = with_true_alpha_flag(bytes);
    Ok(read_header(&bytes, limits)?.1)
}

pub(super) fn decode(bytes: &[u8], limits: &Limits) -> Result<Image> {
    let bytes = with_true_alpha_flag(bytes);
    let (mut decoder, (width, height)) = read_header(&bytes, limits)?;
    let mut samples = allocate::<u8>(decoder.output_buffer_size().unwrap_or(usize::MAX))?;
    decoder.read_image(&mut samples).map_err(refuse)?;
    if !decoder.has_alpha() {
        return Image::new(width, height, samples, None);
    }
    let pixels = samples.as_chunks::<4>().0;
    let rgb = pixels.iter().flat_map(|&[r, g, b, _]| [r, g, b]).collect();
    Image::new(width, height, rgb, Some(pixels.iter().map(|pixel| pixel[3]).collect()))
}

type Header<'a> = (WebPDecoder<Cursor<&'a [u8]>>, (usize, usize));

fn read_header<'a>(bytes: &'a [u8], limits: &Limits) -> Result<Header<'a>> {
    // The decoder would make up the last few bytes; libwebp wants all that the first line announces.
    let announced = bytes.get(4..8).map_or(0, |len| u32::from_le_bytes([len[0], len[1], len[2], len[3]]));
    if bytes.len() < (announced as usize).saturating_add(8) {
        return Err(ImageError::Damaged { format: FORMAT, reason: "the data ends early".to_string() }.into());
    }
    let decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(refuse)?;
    let (width, height) = decoder.dimensions();
    let size = limits.check(width.into(), height.into())?;
    if decoder.is_animated() && u64::from(width) * u64::from(height) > MAX_ANIMATED_PIXELS {
        return Err(ImageError::Unsupported { format: FORMAT, feature: format!("a {width}x{height} animation") }.into());
    }
    Ok((decoder, size))
}

/// Where the flags of the `VP8X` chunk stand, always the first chunk of a file that has one.
const EXTENDED_FLAGS: usize = 20;
const ALPHA_FLAG: u8 = 0x10;
const ANIMATION_FLAG: u8 = 0x02;

/// Some writers announce alpha and store none, or the reverse. libwebp goes by what is stored, the decoder used here
/// by what is announced; so the announcement is mended.
fn with_true_alpha_flag(bytes: &[u8]) -> Cow<'_, [u8]> {
    let flags = match bytes.get(12..=EXTENDED_FLAGS) {
        Some([b'V', b'P', b'8', b'X', .., flags]) if flags & ANIMATION_FLAG == 0 => *flags,
        _ => return Cow::Borrowed(bytes),
    };
    let announced = flags & ALPHA_FLAG != 0;
    if stores_alpha(bytes).is_none_or(|stored| stored == announced) {
        return Cow::Borrowed(bytes);
    }
    let mut bytes = bytes.to_vec();
    bytes[EXTENDED_FLAGS] ^= ALPHA_FLAG;
    Cow::Owned(bytes)
}

/// Whether the picture in an extended file has alpha; `None` where no picture is found, or where the announcement
/// counts.
fn stores_alpha(bytes: &[u8]) -> Option<bool> {
    let announced = bytes[EXTENDED_FLAGS] & ALPHA_FLAG != 0;
    let mut position = 12usize;
    let mut has_alpha_chunk = false;
    loop {
        let header = bytes.get(position..position.checked_add(8)?)?;
        let len = u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize;
        match &header[..4] {
            b"ALPH" => has_alpha_chunk = true,
            b"VP8 " => return Some(announced && has_alpha_chunk),
            // After the signature byte: 14 bits of width, 14 of height, then whether there is alpha.
            b"VP8L" => return Some(bytes.get(position + 12)? & 0x10 != 0),
            _ => {}
        }
        position = position.checked_add(8)?.checked_add(len.checked_next_multiple_of(2)?)?;
    }
}

fn refuse(error: DecodingError) -> ImageError {
    match error {
        DecodingError::IoError(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
            ImageError::Damaged { format: FORMAT, reason: "the data ends early".to_string() }
        }
        DecodingError::UnsupportedFeature(feature) => ImageError::Unsupported { format: FORMAT, feature },
        error => ImageError::Damaged { format: FORMAT, reason: error.to_string() },
    }
}
