//! Files that are written while the work goes on: the place is opened before any work, the shapes are known from the
//! pictures' headers, and a file appears under its name only when it is whole.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::error::ErrorKind;
use safetensors::Dtype;

use super::pending_file::PendingFile;
use crate::embeddings_file::{self, Entry};
use crate::error::{Error, Result};

/// What a file is, by its extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// `.safetensors`: every tensor and the metadata.
    Safetensors,
    /// `.npy`: the first f32 tensor alone.
    Npy,
}

/// An output path with a known format, for `--output`.
#[derive(Debug, Clone)]
pub(super) struct OutputPath {
    pub(super) path: PathBuf,
    pub(super) format: Format,
}

impl std::str::FromStr for OutputPath {
    type Err = clap::Error;

    fn from_str(text: &str) -> std::result::Result<Self, clap::Error> {
        let path = PathBuf::from(text);
        let format = match path.extension().and_then(|e| e.to_str()) {
            Some("safetensors") => Format::Safetensors,
            Some("npy") => Format::Npy,
            _ => {
                let message = "the extension says the format: .safetensors or .npy";
                return Err(clap::Error::raw(ErrorKind::ValueValidation, message));
            }
        };
        Ok(Self { path, format })
    }
}

/// A file of tensors to be. Dropped before [`finish`](Output::finish), it leaves nothing behind.
pub(super) struct Output {
    path: PathBuf,
    format: Format,
    file: PendingFile,
}

impl Output {
    /// Opens the place.
    ///
    /// # Errors
    /// [`Error::Io`] where nothing can be written there.
    pub(super) fn open(output: &OutputPath) -> Result<Self> {
        let OutputPath { path, format } = output.clone();
        Ok(Self { file: PendingFile::open(&path)?, path, format })
    }

    /// Writes the header; the tensors' values must follow in the same order, whole, through
    /// [`values`](Self::values), [`integers`](Self::integers) and [`bytes`](Self::bytes). An `.npy` file takes the f32
    /// tensor only, and drops the rest.
    pub(super) fn begin(&mut self, entries: &[Entry], metadata: &[(&str, String)]) -> Result<()> {
        let header = match self.format {
            Format::Safetensors => embeddings_file::header(entries, metadata),
            Format::Npy => npy_header(entries).map_err(Error::io(&self.path))?,
        };
        self.write(&header)
    }

    /// Appends f32 values.
    pub(super) fn values(&mut self, values: &[f32]) -> Result<()> {
        // Through a piece of fixed size: a batch's embeddings are too large to hold twice.
        let mut piece = Vec::with_capacity(1 << 16);
        for values in values.chunks(1 << 14) {
            piece.clear();
            values.iter().for_each(|x| piece.extend_from_slice(&x.to_le_bytes()));
            self.write(&piece)?;
        }
        Ok(())
    }

    /// Appends I64 values.
    pub(super) fn integers(&mut self, values: impl Iterator<Item = usize>) -> Result<()> {
        match self.format {
            Format::Safetensors => self.write(&embeddings_file::integers(values.map(|value| value as i64))),
            Format::Npy => Ok(()),
        }
    }

    /// Appends U8 values.
    pub(super) fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        match self.format {
            Format::Safetensors => self.write(bytes),
            Format::Npy => Ok(()),
        }
    }

    /// Puts the file under its name.
    pub(super) fn finish(self) -> Result<()> {
        self.file.finish()
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(Error::io(&self.path))
    }
}

fn npy_header(entries: &[Entry]) -> io::Result<Vec<u8>> {
    let entry = entries.iter().find(|entry| entry.dtype == Dtype::F32);
    let shape = &entry.ok_or_else(|| io::Error::other("an .npy file holds one f32 tensor"))?.shape;
    let shape: String = shape.iter().map(|size| format!("{size}, ")).collect();
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}), }}", shape.trim_end());
    // Format version 1.0: magic, version, a 16-bit length, and padding to 64 bytes that ends in a line feed.
    let padded = (10 + header.len() + 1).next_multiple_of(64) - 10;
    header.push_str(&" ".repeat(padded - header.len() - 1));
    header.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.into_bytes());
    Ok(bytes)
}
