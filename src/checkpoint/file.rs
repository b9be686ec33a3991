//! A file of a checkpoint. What is read of it is copied, once: mapped, a file that somebody shortens would end the process,
//! and one that is rewritten in place would give other results under the same content hash.

use std::fs::File;
use std::io::ErrorKind;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::error::{CheckpointError, Error, Result};
use crate::memory;

/// An open file, which several threads can read at once.
#[derive(Debug)]
pub(super) struct TensorFile {
    path: PathBuf,
    file: File,
    len: u64,
}

impl TensorFile {
    /// Opens the file at `path`.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io(path))?;
        let len = file.metadata().map_err(Error::io(path))?.len();
        Ok(Self { path: path.to_path_buf(), file, len })
    }

    /// Its bytes when it was opened.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Reads a part of it.
    ///
    /// # Errors
    /// [`CheckpointError::Damaged`] where it has become shorter; [`Error::Io`];
    /// [`InputError::OutOfMemory`](crate::error::InputError::OutOfMemory).
    pub(super) fn read(&self, range: Range<u64>) -> Result<Vec<u8>> {
        let mut bytes = memory::zeroed(usize::try_from(range.end - range.start).unwrap_or(usize::MAX))?;
        self.file.read_exact_at(&mut bytes, range.start).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => {
                let reason = "it was shortened while it was read".to_string();
                Error::from(CheckpointError::Damaged { path: self.path.clone(), reason })
            }
            _ => Error::io(&self.path)(error),
        })?;
        Ok(bytes)
    }
}
