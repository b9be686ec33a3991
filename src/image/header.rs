//! What is known of a picture before any of it is decoded.

use crate::error::{InputError, Result};
use crate::memory;

/// What the header of a picture tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// The most bytes that [`Image::decode`](super::Image::decode) takes at a time, the decoded picture among them. A
    /// lossless WebP that was made for it can take more.
    pub decoding_bytes: u64,
}

/// Memory that a decoder is about to take in ways that cannot fail: of png's and image-webp's, a lack of it ends the process.
/// So it is asked for here first, where it can be refused, and given back at once. Another thread may take it in between, so
/// this keeps the decoder from what is too large, and not from a process that has no memory left for anything.
///
/// # Errors
/// [`InputError::OutOfMemory`].
pub(super) fn require_memory(bytes: u64) -> Result<()> {
    let len = usize::try_from(bytes).map_err(|_| InputError::OutOfMemory { bytes })?;
    Ok(memory::reserve::<u8>(len).map(drop)?)
}
