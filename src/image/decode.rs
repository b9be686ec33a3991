//! Which format a picture's bytes are in, and who decodes it.

use crate::error::{ImageError, Result};
use crate::image::{Header, Image, Interrupt, Limits, jpeg, png, webp};

impl Image {
    /// Decodes a JPEG, PNG or WebP picture, told apart by its first bytes. What Pillow 12 would make of the same
    /// bytes comes out, bit for bit. A little more is refused: a PNG must be whole to its last checksum, where Pillow is
    /// content with the last pixel.
    ///
    /// Damaged JPEGs are caught as they unwind, so a program built with `panic = "abort"` ends at the first.
    ///
    /// # Errors
    /// [`ImageError::UnknownFormat`]; [`ImageError::TooLarge`] and [`ImageError::TooManyScans`] from the headers, before
    /// pixels are decoded or memory is taken for them; [`ImageError::Damaged`], also for data that ends early;
    /// [`ImageError::Unsupported`], which includes 16-bit greyscale PNG, whose values Pillow clips at 255 so that nearly all
    /// of it turns white; [`InputError::OutOfMemory`](crate::error::InputError::OutOfMemory).
    pub fn decode(bytes: &[u8], limits: &Limits) -> Result<Self> {
        Self::decode_until(bytes, limits, Interrupt::NEVER)
    }

    /// [`decode`](Self::decode), which ends early once nobody waits for the picture. PNG and most JPEGs end within
    /// milliseconds: they look between rows. Where all of a JPEG is read before its first row, it looks between scans and
    /// within them, but not within what has no data: about 2 ms for a megapixel. WebP looks while it reads, and computes for
    /// some time without reading: a lossless one in each of up to four passes over its pixels, about 10 ms for a megapixel,
    /// a lossy one until all are there, 20 to 60.
    ///
    /// # Errors
    /// Those of [`decode`](Self::decode), and [`ImageError::Interrupted`].
    pub fn decode_until(bytes: &[u8], limits: &Limits, interrupt: Interrupt) -> Result<Self> {
        let format = Format::of(bytes)?;
        interrupt.check()?;
        let decoded = match format {
            Format::Jpeg => jpeg::decode(bytes, limits, interrupt),
            Format::Png => png::decode(bytes, limits, interrupt),
            Format::WebP => webp::decode(bytes, limits, interrupt),
        };
        // A decoder that could not read on takes its data for damaged.
        if decoded.is_err() {
            interrupt.check()?;
        }
        decoded
    }

    /// What the header tells of the picture that [`decode`](Self::decode) would give.
    ///
    /// # Errors
    /// As [`decode`](Self::decode), as far as the header tells.
    pub fn header(bytes: &[u8], limits: &Limits) -> Result<Header> {
        match Format::of(bytes)? {
            Format::Jpeg => jpeg::header(bytes, limits),
            Format::Png => png::header(bytes, limits),
            Format::WebP => webp::header(bytes, limits),
        }
    }

    /// Width and height that [`decode`](Self::decode) would give, from the header alone.
    ///
    /// # Errors
    /// As [`header`](Self::header).
    pub fn dimensions(bytes: &[u8], limits: &Limits) -> Result<(usize, usize)> {
        let header = Self::header(bytes, limits)?;
        Ok((header.width, header.height))
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
