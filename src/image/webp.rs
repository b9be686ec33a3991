//! WebP, lossy, lossless and with alpha, in the values libwebp gives.

use std::borrow::Cow;

use image_webp::{DecodingError, WebPDecoder};

use crate::error::{ImageError, Result};
use crate::image::header::Header;
use crate::image::input::Input;
use crate::image::limits::Limits;
use crate::image::picture::Image;
use crate::interrupt::Interrupt;
use crate::memory;

const FORMAT: &str = "WebP";

/// Reads between two looks at the interrupt. A lossless picture is read a symbol at a time.
const READS_BETWEEN_CHECKS: u32 = 1 << 12;

/// What the prefix codes of a lossless picture take is not known from its header. The decoder makes of a code a table of 4 KiB
/// at most and, where it is longer than ten bits, a tree of 32 bytes a symbol. That is 640 bytes at most for each byte that
/// tells of it, and 110 KB for a group of five codes; there are 65,536 groups at most.
const MAX_CODE_BYTES_A_BYTE: u64 = 640;
const MAX_CODE_BYTES: u64 = 110_000 * 65_536;
/// The same in files that nobody made to need more: libwebp writes 2,600 groups at most.
const USUAL_CODE_BYTES: u64 = 64 << 20;

/// A partition of a lossy picture says its length, of 24 bits, and is made room for before it is read.
const MAX_PARTITION_BYTES: u64 = 1 << 24;

pub(super) fn header(bytes: &[u8], limits: &Limits) -> Result<Header> {
    let bytes = with_true_alpha_flag(bytes)?;
    let (mut decoder, width, height) = read_header(&bytes, limits, Interrupt::NEVER)?;
    let codes = code_bytes(&mut decoder, bytes.len()).min(USUAL_CODE_BYTES);
    Ok(Header { width, height, decoding_bytes: pixel_bytes(&decoder) + codes })
}

pub(super) fn decode(bytes: &[u8], limits: &Limits, interrupt: Interrupt) -> Result<Image> {
    let bytes = with_true_alpha_flag(bytes)?;
    let (mut decoder, width, height) = read_header(&bytes, limits, interrupt)?;
    if decoder.is_animated() {
        return first_frame(&bytes, width, height, interrupt);
    }
    let codes = code_bytes(&mut decoder, bytes.len());
    memory::require(pixel_bytes(&decoder) + codes + MAX_PARTITION_BYTES + 2 * bytes.len() as u64)?;
    let mut samples = memory::zeroed::<u8>(decoder.output_buffer_size().unwrap_or(usize::MAX))?;
    decoder.read_image(&mut samples).map_err(refuse)?;
    if !decoder.has_alpha() {
        return Image::new(width, height, samples, None);
    }
    let pixels = samples.as_chunks::<4>().0;
    let rgb = interrupt.map(pixels, |&[r, g, b, _]| [r, g, b])?;
    Image::new(width, height, rgb.into_flattened(), Some(interrupt.map(pixels, |pixel| pixel[3])?))
}

/// A decoder that stands behind the header, and width and height.
fn read_header<'a>(
    bytes: &'a [u8],
    limits: &Limits,
    interrupt: Interrupt<'a>,
) -> Result<(WebPDecoder<Input<'a>>, usize, usize)> {
    // The decoder would make up the last few bytes; libwebp wants all that the first line announces.
    let announced = bytes.get(4..8).map_or(0, |len| u32::from_le_bytes([len[0], len[1], len[2], len[3]]));
    if bytes.len() < (announced as usize).saturating_add(8) {
        return Err(damaged("the data ends early").into());
    }
    let decoder = WebPDecoder::new(Input::new(bytes, interrupt, READS_BETWEEN_CHECKS)).map_err(refuse)?;
    let (width, height) = decoder.dimensions();
    let (width, height) = limits.check(width.into(), height.into())?;
    Ok((decoder, width, height))
}

/// What is taken for pixels: the samples, and what the decoder has beside them.
fn pixel_bytes(decoder: &WebPDecoder<Input>) -> u64 {
    let (width, height) = decoder.dimensions();
    // A lossy picture comes in planes of 1.5 bytes a pixel, and alpha takes 5 while it is unpacked. A lossless one takes 4,
    // and less than one for what its transforms are told by block. The frames of an animation may have alpha.
    let bytes_a_pixel = if decoder.has_alpha() || decoder.is_animated() { 4 + 7 } else { 3 + 5 };
    // Planes are whole macroblocks of 16 by 16.
    u64::from(width).next_multiple_of(16) * u64::from(height).next_multiple_of(16) * bytes_a_pixel
}

/// The most that prefix codes can take; a lossy picture has some where its alpha is lossless.
fn code_bytes(decoder: &mut WebPDecoder<Input>, file_len: usize) -> u64 {
    if decoder.is_lossy() && !decoder.has_alpha() && !decoder.is_animated() {
        return 0;
    }
    MAX_CODE_BYTES_A_BYTE.saturating_mul(file_len as u64).min(MAX_CODE_BYTES)
}

/// Where the chunks start, and where the flags of `VP8X` stand, always the first chunk of a file that has one.
const FIRST_CHUNK: usize = 12;
const EXTENDED_FLAGS: usize = 20;
const ALPHA_FLAG: u8 = 0x10;
const ANIMATION_FLAG: u8 = 0x02;

/// Some writers announce alpha and store none, or the reverse. libwebp goes by what is stored, the decoder used here
/// by what is announced; so the announcement is mended. For an animation it counts in both.
fn with_true_alpha_flag(bytes: &[u8]) -> Result<Cow<'_, [u8]>> {
    let announced = match bytes.get(FIRST_CHUNK..=EXTENDED_FLAGS) {
        Some([b'V', b'P', b'8', b'X', .., flags]) if flags & ANIMATION_FLAG == 0 => flags & ALPHA_FLAG != 0,
        _ => return Ok(Cow::Borrowed(bytes)),
    };
    let mut has_alpha_chunk = false;
    let stored = Chunks { rest: &bytes[FIRST_CHUNK..] }.find_map(|(name, data)| match name {
        b"VP8 " => Some(announced && has_alpha_chunk),
        // After the signature byte: 14 bits of width, 14 of height, then whether there is alpha.
        b"VP8L" => Some(data.get(4)? & 0x10 != 0),
        _ => {
            has_alpha_chunk |= name == b"ALPH";
            None
        }
    });
    if stored.is_none_or(|stored| stored == announced) {
        return Ok(Cow::Borrowed(bytes));
    }
    let mut bytes = memory::copy(bytes)?;
    bytes[EXTENDED_FLAGS] ^= ALPHA_FLAG;
    Ok(Cow::Owned(bytes))
}

/// The first frame of an animation on its transparent canvas. It is decoded as the still picture it contains: the
/// decoder's own way for frames trusts their sizes.
fn first_frame(bytes: &[u8], width: usize, height: usize, interrupt: Interrupt) -> Result<Image> {
    let frame = Chunks { rest: &bytes[FIRST_CHUNK..] }.find(|(name, _)| *name == b"ANMF");
    let Some(([x0, x1, x2, y0, y1, y2, size @ .., _, _, _, _], pictures)) =
        frame.and_then(|(_, data)| data.split_first_chunk::<16>())
    else {
        return Err(damaged("an animation without frames").into());
    };
    let [left, top] = [[*x0, *x1, *x2, 0], [*y0, *y1, *y2, 0]].map(|bytes| 2 * u32::from_le_bytes(bytes) as usize);

    let mut still = b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0".to_vec();
    still[EXTENDED_FLAGS] = ALPHA_FLAG;
    still.extend_from_slice(size);
    memory::append(&mut still, pictures)?;
    let riff_len = u32::try_from(still.len() - 8).map_err(|_| damaged("a frame of more than 4 GB"))?;
    still[4..8].copy_from_slice(&riff_len.to_le_bytes());
    let canvas = Limits { max_side: width.max(height), max_pixels: width * height, ..Limits::default() };
    let frame = decode(&still, &canvas, interrupt)?;
    if left + frame.width() > width || top + frame.height() > height {
        return Err(damaged("a frame reaches beyond the canvas").into());
    }

    let mut rgb = memory::zeroed::<u8>(width * height * 3)?;
    let mut alpha = memory::zeroed::<u8>(width * height)?;
    for y in 0..frame.height() {
        interrupt.check()?;
        let source = y * frame.width()..(y + 1) * frame.width();
        let start = (top + y) * width + left;
        let target = start..start + frame.width();
        rgb[target.start * 3..target.end * 3].copy_from_slice(&frame.rgb()[source.start * 3..source.end * 3]);
        match frame.alpha() {
            Some(levels) => alpha[target].copy_from_slice(&levels[source]),
            None => alpha[target].fill(255),
        }
    }
    let announced = bytes[EXTENDED_FLAGS] & ALPHA_FLAG != 0;
    Image::new(width, height, rgb, announced.then_some(alpha))
}

/// The chunks of a RIFF file, name and data, as far as they are whole.
struct Chunks<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Chunks<'a> {
    type Item = (&'a [u8; 4], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (name, rest) = self.rest.split_first_chunk::<4>()?;
        let (len, rest) = rest.split_first_chunk::<4>()?;
        let (data, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
        // Data of odd length is followed by a byte of padding.
        self.rest = rest.get(data.len() % 2..).unwrap_or_default();
        Some((name, data))
    }
}

fn refuse(error: DecodingError) -> ImageError {
    match error {
        DecodingError::IoError(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => damaged("the data ends early"),
        DecodingError::UnsupportedFeature(feature) => ImageError::Unsupported { format: FORMAT, feature },
        error => damaged(error.to_string()),
    }
}

fn damaged(reason: impl Into<String>) -> ImageError {
    ImageError::Damaged { format: FORMAT, reason: reason.into() }
}
