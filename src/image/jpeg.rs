//! JPEG, through mozjpeg's libjpeg: the same integer DCT, upsampling and colour conversion as the libjpeg-turbo in
//! Pillow, so that the pixels are equal bit for bit.
//!
//! libjpeg reports errors by not returning; here that is an unwinding, caught in [`unwinding`]. A program built with
//! `panic = "abort"` would therefore end at the first damaged JPEG.

use std::any::Any;
use std::io::{self, BufRead, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};

use mozjpeg::{ColorSpace, Decompress};

use crate::error::{ImageError, Result};
use crate::image::limits::Limits;
use crate::image::picture::Image;
use crate::memory;

const FORMAT: &str = "JPEG";

/// The most scans a progressive JPEG may have. Encoders write about ten; each costs a pass over the whole picture
/// however few its bytes, so that without a limit a small file could keep a core busy for hours.
const MAX_SCANS: usize = 500;

pub(super) fn dimensions(bytes: &[u8], limits: &Limits) -> Result<(usize, usize)> {
    unwinding(|| {
        let header = Decompress::new_reader(Source { rest: bytes }).map_err(refuse)?;
        checked_size(&header, limits)
    })
}

pub(super) fn decode(bytes: &[u8], limits: &Limits) -> Result<Image> {
    unwinding(|| {
        let header = Decompress::new_reader(Source { rest: bytes }).map_err(refuse)?;
        let (width, height) = checked_size(&header, limits)?;
        let num_scans = bytes.windows(2).filter(|marker| marker == b"\xff\xda").count();
        if num_scans > MAX_SCANS {
            return Err(ImageError::Unsupported { format: FORMAT, feature: format!("{num_scans} scans") }.into());
        }
        let num_components = header.components().len();
        let (color_space, num_channels) = match num_components {
            1 => (ColorSpace::JCS_GRAYSCALE, 1),
            3 => (ColorSpace::JCS_RGB, 3),
            _ => (ColorSpace::JCS_CMYK, 4),
        };
        let mut samples = memory::zeroed::<u8>(width * height * num_channels)?;
        let mut decoder = header.to_colorspace(color_space).map_err(refuse)?;
        decoder.read_scanlines_into(&mut samples).map_err(refuse)?;
        let rgb = match num_components {
            1 => memory::collect(samples.iter().map(|&level| [level; 3]))?.into_flattened(),
            3 => samples,
            _ => memory::collect(samples.as_chunks().0.iter().map(rgb_from_inverted_cmyk))?.into_flattened(),
        };
        Image::new(width, height, rgb, None)
    })
}

fn checked_size(header: &Decompress<Source<'_>>, limits: &Limits) -> Result<(usize, usize)> {
    let num_components = header.components().len();
    if !matches!(num_components, 1 | 3 | 4) {
        let feature = format!("{num_components} components");
        return Err(ImageError::Unsupported { format: FORMAT, feature }.into());
    }
    limits.check(header.width() as u64, header.height() as u64)
}

/// Pillow takes every four-component JPEG for Adobe's, whose inks are stored inverted, and makes of ink and black
/// what `(255 - ink) * (255 - black) / 255`, rounded, leaves of the light.
fn rgb_from_inverted_cmyk(&[c, m, y, k]: &[u8; 4]) -> [u8; 3] {
    [c, m, y].map(|inverted_ink| {
        let light = u32::from(k);
        let product = u32::from(255 - inverted_ink) * light + 128;
        (light - (((product >> 8) + product) >> 8)) as u8
    })
}

/// The bytes of the file, and an error beyond them: mozjpeg's own reader goes on with an invented end marker and grey
/// pixels, where Pillow reports a truncated file.
struct Source<'a> {
    rest: &'a [u8],
}

impl Read for Source<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.rest.read(buffer)
    }
}

impl BufRead for Source<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.rest.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the data ends early"));
        }
        Ok(self.rest)
    }

    fn consume(&mut self, len: usize) {
        self.rest = &self.rest[len.min(self.rest.len())..];
    }
}

fn refuse(error: io::Error) -> ImageError {
    ImageError::Damaged { format: FORMAT, reason: error.to_string() }
}

/// Runs `read`, and makes an error of what libjpeg says when it unwinds. Its decoder is dropped on the way and nothing
/// else is shared, so that nothing half done can be seen afterwards.
fn unwinding<T>(read: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|payload| Err(refusal_by_libjpeg(payload.as_ref()).into()))
}

fn refusal_by_libjpeg(payload: &(dyn Any + Send)) -> ImageError {
    let message = match payload.downcast_ref::<String>() {
        Some(message) => message.strip_prefix("libjpeg fatal error: ").unwrap_or(message).to_string(),
        None => "libjpeg failed".to_string(),
    };
    if message.starts_with("Unsupported") || message.starts_with("Sorry") {
        return ImageError::Unsupported { format: FORMAT, feature: format!("a rare coding ({message})") };
    }
    let reason = if message == "Input file read error" { "the data ends early".to_string() } else { message };
    ImageError::Damaged { format: FORMAT, reason }
}
