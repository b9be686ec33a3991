//! Which format a picture's bytes are in, and who decodes it.

use crate::error::{ImageError, Result};
use crate::image::{Image, Limits, jpeg, png, webp};

impl Image {
    /// Decodes a JPEG, PNG or WebP picture, told apart by its first bytes. What Pillow 12 would make of the same
    /// bytes comes out, bit for bit. A little more is refused: a PNG must be whole to its last checksum, where Pillow is
    /// content with the last pixel.
    ///
    /// Damaged JPEGs are caught as they unwind, so a program built with `panic = "abort"` ends at the first.
    ///
    /// # Errors
    /// [`ImageError::UnknownFormat`]; [`ImageError::TooLarge`] from the header, before pixels are decoded or memory is
    /// taken for them; [`ImageError::Damaged`], also for data that ends early; [`ImageError::Unsupported`], which
    /// includes 16-bit greyscale PNG, whose values Pillow clips at 255 so that nearly all of it turns white.
    pub fn decode(bytes: &[u8], limits: &Limits) -> Result<Self> {
        match Format::of(bytes)? {
            Format::Jpeg => jpeg::decode(bytes, limits),
            Format::Png => png::decode(bytes, limits),
            Format::WebP => webp::decode(bytes, limits),
        }
    }

    /// Width and height that [`decode`](Self::decode) would give, from the header alone.
    ///
    /// # Errors
    /// As [`decode`](Self::decode), as far as the header tells.
    pub fn dimensions(bytes: &[u8], limits: &Limits) -> Result<(usize, usize)> {
        match Format::of(bytes)? {
            Format::Jpeg => jpeg::dimensions(bytes, limits),
            Format::Png => png::dimensions(bytes, limits),
            Format::WebP => webp::dimensions(bytes, limits),
        }
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
