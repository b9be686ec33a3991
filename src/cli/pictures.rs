//! Pictures named on the command line: sizes first, from the headers, then tiles, a batch at a time.

use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::error::{Error, ImageError, Result};
use crate::image::{Canvas, Image, Limits, Preprocessor};

/// A picture whose header has been read.
pub(super) struct Picture {
    pub(super) path: PathBuf,
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) canvas: Canvas,
}

/// Reads every header, so that shapes are known and bad files found before any work.
pub(super) fn survey(paths: &[PathBuf], preprocessor: &Preprocessor) -> Result<Vec<Picture>> {
    let survey = |path: &PathBuf| {
        let bytes = read(path)?;
        let limits = Limits::default();
        let (width, height) = Image::dimensions(&bytes, &limits).map_err(|e| named(path, e))?;
        let canvas = preprocessor.canvas(width, height).map_err(|e| named(path, e))?;
        Ok(Picture { path: path.clone(), width, height, canvas })
    };
    paths.par_iter().map(survey).collect()
}

/// Decodes some pictures and does something with each, in parallel.
pub(super) fn each<T: Send>(pictures: &[Picture], work: impl Fn(&Image) -> Result<T> + Sync) -> Result<Vec<T>> {
    let work = |picture: &Picture| {
        let image = Image::decode(&read(&picture.path)?, &Limits::default()).map_err(|e| named(&picture.path, e))?;
        if (image.width(), image.height()) != (picture.width, picture.height) {
            return Err(Error::io(&picture.path)(std::io::Error::other("the file changed while it was being read")));
        }
        work(&image).map_err(|e| named(&picture.path, e))
    };
    pictures.par_iter().map(work).collect()
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(Error::io(path))
}

/// An error about a picture, with the file's name.
fn named(path: &Path, error: Error) -> Error {
    match error {
        Error::Image(source) => ImageError::InFile { path: path.to_path_buf(), source: Box::new(source) }.into(),
        other => other,
    }
}
