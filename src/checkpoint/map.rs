//! A file in memory: the one place of this module that needs `unsafe`.
#![allow(unsafe_code)]

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;

use crate::error::{Error, Result};

/// A file mapped read-only and shared by the tensors that lie in it. Pages are read when they are first touched, so
/// tensors that nobody asks for cost nothing.
#[derive(Debug, Clone)]
pub(crate) struct MappedFile(Arc<Mmap>);

impl MappedFile {
    /// Maps the file at `path`.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io(path))?;
        // SAFETY: the map is read-only and private to this process. The one danger left is that another process
        // shortens or rewrites the file while it is mapped; checkpoints are immutable by custom, every reader of
        // safetensors maps them so, and `Encoder::builder` documents the condition.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io(path))?;
        Ok(Self(Arc::new(map)))
    }

    /// The file's bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}
