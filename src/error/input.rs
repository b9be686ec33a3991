//! What can be wrong with the tensors or options of one call.

use super::ErrorKind;

/// What is wrong with the tensors or options of one call.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum InputError {
    /// A tensor's shape does not fit.
    #[error("{tensor} must have shape {expected}, found {found:?}")]
    Shape {
        /// The tensor.
        tensor: &'static str,
        /// The shape it must have.
        expected: String,
        /// The shape it has.
        found: Vec<usize>,
    },
    /// A tensor's element type does not fit.
    #[error("{tensor} must be {expected}, found {found}")]
    Dtype {
        /// The tensor.
        tensor: &'static str,
        /// The element types that are read.
        expected: &'static str,
        /// The element type it has.
        found: String,
    },
    /// A tensor is absent.
    #[error("{path} holds no tensor called {tensor}")]
    Missing {
        /// The tensor.
        tensor: &'static str,
        /// The file it should be in.
        path: String,
    },
    /// A dimension that must be at least 1 is 0.
    #[error("{name} must be at least 1, found 0")]
    Empty {
        /// The dimension.
        name: &'static str,
    },
    /// There are several tiles, but no aspect ratio says how they lie.
    #[error("aspect_ratio is required for more than one tile, found none for {num_tiles} tiles")]
    NoAspectRatio {
        /// Tiles an image.
        num_tiles: usize,
    },
    /// An aspect ratio has more tiles than were given.
    #[error("image {image}: aspect ratio {height}x{width} needs {} tiles, found {num_tiles}", height * width)]
    TooFewTiles {
        /// The image's number in the batch.
        image: usize,
        /// Tiles down.
        height: usize,
        /// Tiles across.
        width: usize,
        /// Tiles given.
        num_tiles: usize,
    },
    /// An aspect ratio is negative or beyond the position tables.
    #[error("image {image}: aspect ratio must lie in 0..={max_num_tiles} both ways, found {height}x{width}")]
    AspectRatio {
        /// The image's number in the batch.
        image: usize,
        /// `max_num_tiles`.
        max_num_tiles: usize,
        /// Tiles down.
        height: i64,
        /// Tiles across.
        width: i64,
    },
    /// The checkpoint has no position table for this aspect ratio, or `meta` semantics do not know it.
    #[error(
        "image {image}: aspect ratio {height}x{width} has more than max_num_tiles = {max_num_tiles} tiles, which {reason}"
    )]
    NoPositionTable {
        /// The image's number in the batch.
        image: usize,
        /// Tiles down.
        height: usize,
        /// Tiles across.
        width: usize,
        /// `max_num_tiles`.
        max_num_tiles: usize,
        /// What rules it out.
        reason: &'static str,
    },
    /// `meta` semantics are defined for exactly `max_num_tiles` tiles.
    #[error("in meta semantics an image has exactly max_num_tiles = {expected} tiles, found {found}")]
    MetaTiles {
        /// `max_num_tiles`.
        expected: usize,
        /// Tiles given.
        found: usize,
    },
    /// An input value is NaN or infinite.
    #[error("{tensor} holds a value that is not finite at element {index}")]
    NotFinite {
        /// The tensor.
        tensor: &'static str,
        /// The flat index of the first such element.
        index: usize,
    },
    /// The pixels are so large that their embeddings are not finite.
    #[error("the pixels are too large: with values up to {largest:e} the embeddings overflow")]
    Overflow {
        /// The largest absolute value among the pixels.
        largest: f32,
    },
    /// A handle of the driver's is not what it should be.
    #[error("the {name} cannot be used: {reason}")]
    Handle {
        /// What it is a handle of.
        name: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Memory that was handed over is not where it should be.
    #[error("{name}: {bytes} bytes at {address:#x} must be memory of GPU {ordinal}, found {found}")]
    DeviceMemory {
        /// What the memory is to hold.
        name: &'static str,
        /// Its address.
        address: u64,
        /// The bytes that are needed.
        bytes: u64,
        /// The GPU's number.
        ordinal: usize,
        /// What is there.
        found: String,
    },
    /// An option names something this build or device cannot do.
    #[error("{option} {found} is not available: {reason}")]
    Unavailable {
        /// The option.
        option: &'static str,
        /// The value given.
        found: String,
        /// Why not, and what would help.
        reason: &'static str,
    },
    /// The batch needs more memory than can be addressed or allocated.
    #[error("the batch needs {bytes} bytes of working memory, which could not be had; encode fewer tiles at a time")]
    OutOfMemory {
        /// Bytes asked for.
        bytes: u64,
    },
}

impl InputError {
    /// The kind of the error, by its remedy.
    pub(super) fn kind(&self) -> ErrorKind {
        match self {
            Self::OutOfMemory { .. } => ErrorKind::OutOfMemory,
            Self::Unavailable { .. } => ErrorKind::Unavailable,
            Self::Overflow { .. } => ErrorKind::Overflow,
            Self::Shape { .. }
            | Self::Dtype { .. }
            | Self::Missing { .. }
            | Self::Empty { .. }
            | Self::NoAspectRatio { .. }
            | Self::TooFewTiles { .. }
            | Self::AspectRatio { .. }
            | Self::NoPositionTable { .. }
            | Self::MetaTiles { .. }
            | Self::NotFinite { .. }
            | Self::Handle { .. }
            | Self::DeviceMemory { .. } => ErrorKind::Input,
        }
    }
}
