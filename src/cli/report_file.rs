//! A file for a report: opened before any work, so that a place where nothing can be written is found out first.

use std::io::Write;
use std::path::PathBuf;

use serde::Serialize;

use super::pending_file::PendingFile;
use crate::error::{Error, Result};

/// The place of a report that is still to be written.
pub(super) struct ReportFile {
    path: PathBuf,
    file: PendingFile,
}

impl ReportFile {
    /// Opens the place that an option names, if it names one.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn create(path: Option<&PathBuf>) -> Result<Option<Self>> {
        let create = |path: &PathBuf| Ok(Self { path: path.clone(), file: PendingFile::open(path)? });
        path.map(create).transpose()
    }

    /// Writes JSON that people can read, too.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn write(self, report: &impl Serialize) -> Result<()> {
        self.fill(|file| Ok(serde_json::to_writer_pretty(file, report)?))
    }

    /// Writes JSON for programs, without a byte to spare.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn write_compact(self, report: &impl Serialize) -> Result<()> {
        self.fill(|file| Ok(serde_json::to_writer(file, report)?))
    }

    /// Writes text.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn write_text(self, text: &str) -> Result<()> {
        self.fill(|file| file.write_all(text.as_bytes()))
    }

    fn fill(mut self, fill: impl FnOnce(&mut PendingFile) -> std::io::Result<()>) -> Result<()> {
        fill(&mut self.file).map_err(Error::io(&self.path))?;
        self.file.finish()
    }
}
