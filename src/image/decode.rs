//! Which format the bytes are, and the limits a picture must keep before anything is decoded.

use crate::error::{Error, ImageError, InputError, Result};
use crate::image::{Image, jpeg, png, webp};

/// How large a picture may be. Checked on the header, so that a few bytes cannot ask for much memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The most pixels a side may have.
    pub max_side: usize,
    /// The most pixels a picture may have. Decoding takes 3 to 16 bytes a pixel.
    pub max_pixels: usize,
}

impl Default for Limits {
    /// 65,535 pixels a side, the most a JPEG can state, and 178,956,970 in all, beyond which Pillow refuses too.
    fn default() -> Self {
        Self { max_side: 65_535, max_pixels: 178_956_970 }
    }
}

impl Limits {
    /// The sides as they came, if a picture may have them.
    pub(super) fn check(&self, width: u64, height: u64) -> Result<(usize, usize)> {
        let [max_side, max_pixels] = [self.max_side, self.max_pixels].map(|limit| limit as u64);
        if width == 0 || height == 0 {
            return Err(ImageError::Empty { width, height }.into());
        }
        if width.max(height) > max_side || width.checked_mul(height).is_none_or(|pixels| pixels > max_pixels) {
            return Err(ImageError::TooLarge { width, height, max_side, max_pixels }.into());
        }
        Ok((width as usize, height as usize))
    }
}

/// The formats that are read.
enum Format {
    Jpeg,
    Png,
    WebP,
}

impl Format {
    fn of(bytes: &[u8]) -> Result<Self> {
        if bytes.starts_with(b"\xff\xd8\xff") {
            Ok(Self::Jpeg)
        } else if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
            Ok(Self::Png)
        } else if bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP") {
            Ok(Self::WebP)
        } else {
            Err(ImageError::UnknownFormat { found: bytes[..bytes.len().min(8)].to_vec() }.into())
        }
    }
}

pub(super) fn decode(bytes: &[u8], limits: &Limits) -> Result<Image> {
    match Format::of(bytes)? {
        Format::Jpeg => jpeg::decode(bytes, limits),
        Format::Png => png::decode(bytes, limits),
        Format::WebP => webp::decode(bytes, limits),
    }
}

pub(super) fn dimensions(bytes: &[u8], limits: &Limits) -> Result<(usize, usize)> {
    match Format::of(bytes)? {
        Format::Jpeg => jpeg::dimensions(bytes, limits),
        Format::Png => png::dimensions(bytes, limits),
        Format::WebP => webp::dimensions(bytes, limits),
    }
}

/// Zeroed memory for `len` values, or an error where the system has no more.
pub(super) fn allocate<T: Clone + Default>(len: usize) -> Result<Vec<T>> {
    let mut values = Vec::new();
    let bytes = (len as u64).saturating_mul(size_of::<T>() as u64);
    values.try_reserve_exact(len).map_err(|_| Error::from(InputError::OutOfMemory { bytes }))?;
    values.resize(len, T::default());
    Ok(values)
}
