//! How large a picture may be.

use crate::error::{ImageError, Result};

/// How large a picture may be. Checked on the header, so that a few bytes cannot ask for much memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The most pixels a side may have.
    pub max_side: usize,
    /// The most pixels a picture may have. Decoding takes 4 to 16 bytes a pixel.
    pub max_pixels: usize,
    /// The most scans a JPEG may have that is stored in several, as a progressive one is: each costs a pass over the whole
    /// picture, however few its bytes.
    pub max_scans: usize,
}

impl Default for Limits {
    /// 65,535 pixels a side, the most a JPEG can state, and 178,956,970 in all, beyond which Pillow refuses too. 100 scans:
    /// encoders write about ten.
    fn default() -> Self {
        Self { max_side: 65_535, max_pixels: 178_956_970, max_scans: 100 }
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
