//! What can be wrong with a picture.

use std::path::PathBuf;

use super::ErrorKind;

/// What is wrong with a picture.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// One of several pictures.
    #[error("{}: {source}", path.display())]
    InFile {
        /// The picture's file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<ImageError>,
    },
    /// The bytes start like no format that is read.
    #[error("not a JPEG, PNG or WebP picture (the first bytes are {found:02x?})")]
    UnknownFormat {
        /// The first bytes, eight at most.
        found: Vec<u8>,
    },
    /// The picture is wider, higher or larger than the limits allow; found before anything is decoded.
    #[error("{width}x{height} pixels are beyond the limit of {max_side} a side and {max_pixels} in all")]
    TooLarge {
        /// Width in pixels, from the header.
        width: u64,
        /// Height in pixels, from the header.
        height: u64,
        /// The most pixels a side may have.
        max_side: u64,
        /// The most pixels a picture may have.
        max_pixels: u64,
    },
    /// The picture has no pixels.
    #[error("the picture has no pixels ({width}x{height})")]
    Empty {
        /// Width in pixels.
        width: u64,
        /// Height in pixels.
        height: u64,
    },
    /// The data is damaged or ends early.
    #[error("damaged {format} data: {reason}")]
    Damaged {
        /// `JPEG`, `PNG` or `WebP`.
        format: &'static str,
        /// What the decoder said.
        reason: String,
    },
    /// The picture uses a feature of its format that is not read.
    #[error("{format} pictures with {feature} are not supported")]
    Unsupported {
        /// `JPEG`, `PNG` or `WebP`.
        format: &'static str,
        /// The feature.
        feature: String,
    },
    /// A JPEG has more scans than the limits allow; found before any of them is decoded.
    #[error("{found} scans are beyond the limit of {max_scans}")]
    TooManyScans {
        /// Scans of the file.
        found: usize,
        /// The most scans a picture may have.
        max_scans: usize,
    },
    /// The caller's [`Interrupt`](crate::image::Interrupt) ended the work.
    #[error("the work on the picture was given up: nobody waits for it any more")]
    Interrupted,
    /// Pictures have three channels; the model wants another number.
    #[error("the model wants {expected} channels, pictures have 3; pass pixel tensors instead")]
    Channels {
        /// The model's `in_channels`.
        expected: usize,
    },
    /// A side would shrink to nothing on the canvas, which torchtune refuses too.
    #[error(
        "a {width}x{height} picture is too narrow: a side would shrink to 0 pixels on a {canvas_width}x{canvas_height} canvas"
    )]
    TooNarrow {
        /// Width in pixels.
        width: usize,
        /// Height in pixels.
        height: usize,
        /// The canvas' width in pixels.
        canvas_width: usize,
        /// The canvas' height in pixels.
        canvas_height: usize,
    },
}

impl ImageError {
    /// The kind of the error, by its remedy.
    pub(super) fn kind(&self) -> ErrorKind {
        match self {
            Self::InFile { source, .. } => source.kind(),
            Self::UnknownFormat { .. } | Self::Unsupported { .. } => ErrorKind::ImageFormat,
            Self::TooLarge { .. } | Self::TooManyScans { .. } => ErrorKind::ImageTooLarge,
            // Only who interrupts sees it, and has an answer of its own.
            Self::Interrupted => ErrorKind::Unavailable,
            Self::Empty { .. } | Self::Damaged { .. } | Self::Channels { .. } | Self::TooNarrow { .. } => {
                ErrorKind::Image
            }
        }
    }
}
