//! What is known of a picture before any of it is decoded.

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
