//! A file for a report: opened before any work, so that a place where nothing can be written is found out first.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use serde::Serialize;

use crate::error::{Error, Result};

/// The place of a report that is still to be written.
pub(super) struct ReportFile {
    path: PathBuf,
    file: File,
}

impl ReportFile {
    /// Opens the place that an option names, if it names one.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn create(path: Option<&PathBuf>) -> Result<Option<Self>> {
        let create =
            |path: &PathBuf| Ok(Self { path: path.clone(), file: File::create(path).map_err(Error::io(path))? });
        path.map(create).transpose()
    }

    /// Writes JSON that people can read, too.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn write(self, report: &impl Serialize) -> Result<()> {
        serde_json::to_writer_pretty(self.file, report).map_err(|e| Error::io(self.path)(e.into()))
    }

    /// Writes JSON for programs, without a byte to spare.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn write_compact(self, report: &impl Serialize) -> Result<()> {
        serde_json::to_writer(self.file, report).map_err(|e| Error::io(self.path)(e.into()))
    }

    /// Writes text.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn write_text(mut self, text: &str) -> Result<()> {
        self.file.write_all(text.as_bytes()).map_err(Error::io(self.path))
    }
}
