//! JPEG, through mozjpeg's libjpeg: the same integer DCT, upsampling and colour conversion as the libjpeg-turbo in
//! Pillow, so that the pixels are equal bit for bit.
//!
//! libjpeg reports errors by not returning; here that is an unwinding, caught in [`unwinding`]. A program built with
//! `panic = "abort"` would therefore end at the first damaged JPEG.

use std::any::Any;
use std::cell::Cell;
use std::io::{self, BufRead, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};

use mozjpeg::{ColorSpace, CompInfoExt, DCTSIZE, Decompress};

use crate::error::{Error, ImageError, InputError, Result};
use crate::image::header::Header;
use crate::image::jpeg_scans::Scans;
use crate::image::limits::Limits;
use crate::image::picture::Image;
use crate::interrupt::Interrupt;
use crate::memory;

const FORMAT: &str = "JPEG";

/// Bytes that libjpeg is given at a time, between two looks at the interrupt. A block takes two bits at least, and libjpeg is
/// fastest where much is there.
const PIECE: usize = 1 << 16;
/// The same for progressive scans, where thirty bits may stand for a run of 32,767 blocks: half a million blocks.
const PROGRESSIVE_PIECE: usize = 64;

/// What libjpeg works with beside coefficients, by the picture's width: some rows of samples in each step.
const BYTES_A_COLUMN: u64 = 256;

pub(super) fn header(bytes: &[u8], limits: &Limits) -> Result<Header> {
    unwinding(&Cell::new(0), || Ok(read_header(bytes, limits, Interrupt::NEVER)?.1))
}

pub(super) fn decode(bytes: &[u8], limits: &Limits, interrupt: Interrupt) -> Result<Image> {
    let taken = Cell::new(0);
    unwinding(&taken, || {
        let (decoder, Header { width, height, decoding_bytes }, scans) = read_header(bytes, limits, interrupt)?;
        taken.set(decoding_bytes);
        if scans.are_kept {
            let found = scans.num();
            if found > limits.max_scans {
                return Err(ImageError::TooManyScans { found, max_scans: limits.max_scans }.into());
            }
        }
        let num_components = decoder.components().len();
        let (color_space, num_channels) = match num_components {
            1 => (ColorSpace::JCS_GRAYSCALE, 1),
            3 => (ColorSpace::JCS_RGB, 3),
            _ => (ColorSpace::JCS_CMYK, 4),
        };
        let mut samples = memory::zeroed::<u8>(width * height * num_channels)?;
        // Scans that are kept are all read here.
        let mut decoder = decoder.to_colorspace(color_space).map_err(refuse)?;
        for row in samples.chunks_exact_mut(width * num_channels) {
            interrupt.check()?;
            decoder.read_scanlines_into(row).map_err(refuse)?;
        }
        let rgb = match num_components {
            1 => interrupt.map(&samples, |&level| [level; 3])?.into_flattened(),
            3 => samples,
            _ => interrupt.map(samples.as_chunks().0, rgb_from_inverted_cmyk)?.into_flattened(),
        };
        Image::new(width, height, rgb, None)
    })
}

type Decoder<'a> = Decompress<Source<'a>>;

/// A decoder that stands before the first scan.
fn read_header<'a>(
    bytes: &'a [u8],
    limits: &Limits,
    interrupt: Interrupt<'a>,
) -> Result<(Decoder<'a>, Header, Scans<'a>)> {
    let scans = Scans::of(bytes);
    let piece = if scans.are_progressive { PROGRESSIVE_PIECE } else { PIECE };
    let decoder = Decompress::new_reader(Source { rest: bytes, piece, interrupt }).map_err(refuse)?;
    let num_components = decoder.components().len();
    if !matches!(num_components, 1 | 3 | 4) {
        let feature = format!("{num_components} components");
        return Err(ImageError::Unsupported { format: FORMAT, feature }.into());
    }
    let (width, height) = limits.check(decoder.width() as u64, decoder.height() as u64)?;
    let decoding_bytes = decoding_bytes(&decoder, scans.are_kept);
    Ok((decoder, Header { width, height, decoding_bytes }, scans))
}

/// The samples and what is made of them, and the coefficients of all scans, of two bytes each.
fn decoding_bytes(decoder: &Decoder, coefficients_are_kept: bool) -> u64 {
    let components = decoder.components();
    let bytes_a_pixel = match components.len() {
        1 => 1 + 3,
        3 => 3,
        _ => 4 + 3,
    };
    let [width, height] = [decoder.width() as u64, decoder.height() as u64];
    let samples = width * height * bytes_a_pixel + width * BYTES_A_COLUMN;
    if !coefficients_are_kept {
        return samples;
    }
    let blocks = components.iter().map(|component| {
        // Rounded up to whole groups of blocks.
        let [across, down] = <[u8; 2]>::from(component.sampling()).map(u64::from);
        (component.width_in_blocks() as u64 + across) * (component.height_in_blocks() as u64 + down)
    });
    samples + blocks.sum::<u64>() * (DCTSIZE * DCTSIZE * size_of::<i16>()) as u64
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

/// The bytes of the file, some at a time, and an error beyond them: mozjpeg's own reader goes on with an invented end marker
/// and grey pixels, where Pillow reports a truncated file.
struct Source<'a> {
    rest: &'a [u8],
    piece: usize,
    interrupt: Interrupt<'a>,
}

impl Read for Source<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.rest.read(buffer)
    }
}

impl BufRead for Source<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.interrupt.check().map_err(io::Error::other)?;
        if self.rest.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the data ends early"));
        }
        Ok(&self.rest[..self.rest.len().min(self.piece)])
    }

    fn consume(&mut self, len: usize) {
        self.rest = &self.rest[len.min(self.rest.len())..];
    }
}

fn refuse(error: io::Error) -> ImageError {
    ImageError::Damaged { format: FORMAT, reason: error.to_string() }
}

/// Runs `read`, and makes an error of what libjpeg says when it unwinds. Its decoder is dropped on the way and nothing
/// else is shared, so that nothing half done can be seen afterwards. `taken` is how many bytes it takes, once that is known.
fn unwinding<T>(taken: &Cell<u64>, read: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(read))
        .unwrap_or_else(|payload| Err(refusal_by_libjpeg(payload.as_ref(), taken.get())))
}

fn refusal_by_libjpeg(payload: &(dyn Any + Send), bytes: u64) -> Error {
    let message = match payload.downcast_ref::<String>() {
        Some(message) => message.strip_prefix("libjpeg fatal error: ").unwrap_or(message).to_string(),
        None => "libjpeg failed".to_string(),
    };
    if message.starts_with("Insufficient memory") {
        return InputError::OutOfMemory { bytes }.into();
    }
    if message.starts_with("Unsupported") || message.starts_with("Sorry") {
        return ImageError::Unsupported { format: FORMAT, feature: format!("a rare coding ({message})") }.into();
    }
    let reason = if message == "Input file read error" { "the data ends early".to_string() } else { message };
    ImageError::Damaged { format: FORMAT, reason }.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libjpegs_lack_of_memory_is_no_damage() {
        // JERR_OUT_OF_MEMORY of jerror.h, as mozjpeg's error manager unwinds with it.
        let payload = "libjpeg fatal error: Insufficient memory (case 4)".to_string();
        let refused = unwinding::<()>(&Cell::new(123), || std::panic::resume_unwind(Box::new(payload)));
        assert!(matches!(refused, Err(Error::Input(InputError::OutOfMemory { bytes: 123 }))), "{refused:?}");
    }
}
