//! A decoded picture: what Pillow's `convert("RGB")` holds, and the alpha of those modes whose transparency the
//! references look at.

use std::borrow::Cow;

use crate::error::{ImageError, InputError, Result};
use crate::interrupt::Interrupt;
use crate::memory;

/// A decoded picture in 8-bit RGB, and its alpha if it has any.
///
/// EXIF orientation, ICC profiles and gamma are not applied, and an animation is its first frame, as in both
/// references.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    width: usize,
    height: usize,
    rgb: Vec<u8>,
    alpha: Option<Vec<u8>>,
}

impl Image {
    /// A picture from its pixels, `[height, width, 3]`.
    ///
    /// # Errors
    /// [`ImageError::Empty`], and [`InputError::Shape`] if there are not exactly `height * width * 3` values.
    pub fn from_rgb(width: usize, height: usize, rgb: Vec<u8>) -> Result<Self> {
        Self::new(width, height, rgb, None)
    }

    /// A picture from its pixels, `[height, width, 3]`, and its alpha, `[height, width]`.
    ///
    /// # Errors
    /// [`ImageError::Empty`], and [`InputError::Shape`] if either does not fit the sides.
    pub fn from_rgb_and_alpha(width: usize, height: usize, rgb: Vec<u8>, alpha: Vec<u8>) -> Result<Self> {
        Self::new(width, height, rgb, Some(alpha))
    }

    pub(crate) fn new(width: usize, height: usize, rgb: Vec<u8>, alpha: Option<Vec<u8>>) -> Result<Self> {
        if width == 0 || height == 0 {
            return Err(ImageError::Empty { width: width as u64, height: height as u64 }.into());
        }
        let num_pixels = width.checked_mul(height);
        if num_pixels.and_then(|n| n.checked_mul(3)) != Some(rgb.len()) {
            let expected = format!("[{height}, {width}, 3]");
            return Err(InputError::Shape { tensor: "rgb", expected, found: vec![rgb.len()] }.into());
        }
        if let Some(alpha) = &alpha
            && num_pixels != Some(alpha.len())
        {
            let expected = format!("[{height}, {width}]");
            return Err(InputError::Shape { tensor: "alpha", expected, found: vec![alpha.len()] }.into());
        }
        Ok(Self { width, height, rgb, alpha })
    }

    /// Width in pixels.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Height in pixels.
    pub fn height(&self) -> usize {
        self.height
    }

    /// The colours with any transparency dropped, `[height, width, 3]`: Pillow's `convert("RGB")`.
    pub fn rgb(&self) -> &[u8] {
        &self.rgb
    }

    /// The alpha, `[height, width]`; `None` for a picture that Pillow opens in mode RGB. That includes RGB PNGs with
    /// one transparent colour, which both references show as if it were opaque.
    pub fn alpha(&self) -> Option<&[u8]> {
        self.alpha.as_deref()
    }

    /// The colours laid over white, `[height, width, 3]`: Hugging Face's `convert_to_rgb`, with the integer rounding
    /// of Pillow's `alpha_composite`.
    ///
    /// Reference: <https://github.com/huggingface/transformers/blob/v4.53.3/src/transformers/models/mllama/image_processing_mllama.py#L496>.
    ///
    /// # Errors
    /// [`InputError::OutOfMemory`].
    pub fn over_white(&self) -> Result<Cow<'_, [u8]>> {
        self.over_white_until(Interrupt::NEVER)
    }

    /// [`over_white`](Self::over_white), or [`ImageError::Interrupted`].
    pub(super) fn over_white_until(&self, interrupt: Interrupt) -> Result<Cow<'_, [u8]>> {
        let Some(alpha) = &self.alpha else {
            return Ok(Cow::Borrowed(&self.rgb));
        };
        let mut over_white = memory::reserve(alpha.len())?;
        for (rgb, alpha) in self.rgb.as_chunks::<3>().0.chunks(self.width).zip(alpha.chunks(self.width)) {
            interrupt.check()?;
            let pixels = rgb.iter().zip(alpha);
            over_white.extend(pixels.map(|(rgb, &alpha)| rgb.map(|level| level_over_white(level, alpha))));
        }
        Ok(Cow::Owned(over_white.into_flattened()))
    }
}

/// `level` at opacity `alpha` over white. Pillow carries 7 bits below the level and divides by 255 by shifts.
fn level_over_white(level: u8, alpha: u8) -> u8 {
    const PRECISION: u32 = 7;
    let [level, alpha] = [level, alpha].map(u32::from);
    let sum = ((level * alpha + 255 * (255 - alpha)) << PRECISION) + (0x80 << PRECISION);
    ((((sum >> 8) + sum) >> 8) >> PRECISION) as u8
}
