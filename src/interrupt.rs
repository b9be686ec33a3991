//! Work on a picture that nobody waits for any more ends early.

use crate::error::{ImageError, Result};
use crate::memory;

/// Pixels that are converted between two looks: a fraction of a millisecond.
const PIXELS_BETWEEN_CHECKS: usize = 1 << 16;

/// When to give up work on a picture. Decoding, resizing and hashing ask between rows and scans, on all threads that work.
#[derive(Clone, Copy)]
pub struct Interrupt<'a> {
    condition: Option<&'a (dyn Fn() -> bool + Sync)>,
}

impl<'a> Interrupt<'a> {
    /// Work that goes on to its end.
    pub const NEVER: Self = Self { condition: None };

    /// Work ends once this is true, and it stays true from then on. It is asked up to a hundred thousand times a
    /// second, so it may look at a flag or a clock and must not wait.
    pub fn when(condition: &'a (dyn Fn() -> bool + Sync)) -> Self {
        Self { condition: Some(condition) }
    }

    /// Whether to go on.
    ///
    /// # Errors
    /// [`ImageError::Interrupted`].
    pub(crate) fn check(self) -> std::result::Result<(), ImageError> {
        match self.condition {
            Some(condition) if condition() => Err(ImageError::Interrupted),
            _ => Ok(()),
        }
    }

    /// What `convert` makes of each pixel.
    ///
    /// # Errors
    /// [`ImageError::Interrupted`], [`InputError::OutOfMemory`](crate::error::InputError::OutOfMemory).
    pub(crate) fn map<P, T>(self, pixels: &[P], convert: impl Fn(&P) -> T) -> Result<Vec<T>> {
        let mut converted = memory::reserve(pixels.len())?;
        for some in pixels.chunks(PIXELS_BETWEEN_CHECKS) {
            self.check()?;
            converted.extend(some.iter().map(&convert));
        }
        Ok(converted)
    }
}
