//! How large a picture may be, and memory that may be refused.

use crate::error::{Error, ImageError, InputError, Result};

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

/// Zeroed memory for `len` values, or an error where the system has no more.
pub(super) fn allocate<T: Clone + Default>(len: usize) -> Result<Vec<T>> {
    let mut values = Vec::new();
    let bytes = (len as u64).saturating_mul(size_of::<T>() as u64);
    values.try_reserve_exact(len).map_err(|_| Error::from(InputError::OutOfMemory { bytes }))?;
    values.resize(len, T::default());
    Ok(values)
}
