//! Every way Tilesight can refuse: one enum, one variant for each thing a caller can act on.
//!
//! [`Error`] groups the refusals by what has to be mended: the configuration, the checkpoint, the picture, the call.
//! Messages are lower case, name the thing, and give what was expected beside what was found.

mod checkpoint;
mod config;
mod cuda;
mod image;
mod input;
mod kind;

use std::path::{Path, PathBuf};

pub use checkpoint::CheckpointError;
pub use config::ConfigError;
pub use cuda::CudaError;
pub use image::ImageError;
pub use input::InputError;
pub use kind::ErrorKind;

/// The result of everything that can fail in this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong, by what the caller would have to change.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The encoder's parameters break one of its rules.
    #[error("configuration: {0}")]
    Config(#[from] ConfigError),
    /// The checkpoint is absent, damaged, or of another model.
    #[error("checkpoint: {0}")]
    Checkpoint(#[from] CheckpointError),
    /// A picture cannot be read or is beyond the limits.
    #[error("image: {0}")]
    Image(#[from] ImageError),
    /// The tensors or options of one call do not fit the model.
    #[error("input: {0}")]
    Input(#[from] InputError),
    /// The GPU, its driver or a library beside it failed or is missing.
    #[error("CUDA: {0}")]
    Cuda(#[from] CudaError),
    /// A file could not be opened, read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The model hub could not deliver.
    #[error("model hub: {model}: {reason}")]
    Hub {
        /// The repository asked for, `OWNER/NAME`.
        model: String,
        /// What the hub's client said.
        reason: String,
    },
    /// The embeddings are not numbers: the weights hold NaN or infinity, or sums overflowed.
    #[error(
        "the embeddings hold a value that is not finite at element {index}: the weights are damaged or far too large"
    )]
    NotFinite {
        /// The flat index of the first such value.
        index: usize,
    },
    /// The worker threads could not be started.
    #[error("cannot start {threads} worker threads: {reason}")]
    Threads {
        /// Threads asked for.
        threads: usize,
        /// What the thread pool said.
        reason: String,
    },
}

impl Error {
    /// The kind of the error, by its remedy.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Config(_) => ErrorKind::Config,
            Self::Checkpoint(_) => ErrorKind::Checkpoint,
            Self::Image(error) => error.kind(),
            Self::Input(error) => error.kind(),
            Self::Cuda(error) => error.kind(),
            Self::Io { .. } => ErrorKind::Io,
            Self::Hub { .. } => ErrorKind::Hub,
            Self::NotFinite { .. } => ErrorKind::NotFinite,
            Self::Threads { .. } => ErrorKind::OutOfMemory,
        }
    }

    /// An [`Error::Io`] at `path`; made for `map_err`.
    pub fn io(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Error::Io { path, source }
    }
}
