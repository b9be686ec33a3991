//! Pictures named on the command line: sizes first, from the headers, then tiles, a batch at a time.

use std::borrow::Cow;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rayon::prelude::*;

use crate::error::{Error, ImageError, Result};
use crate::image::{Canvas, Image, Limits, Preprocessor};

/// Bytes of a file that are read for the picture's size: two of a JPEG's longest segments, such as notes and a profile, may
/// stand before it. A WebP of more bytes is read whole, for its decoder compares the length that the file announces.
const HEAD_BYTES: u64 = 128 << 10;

/// A file named on the command line.
pub(super) struct PictureFile {
    pub(super) path: PathBuf,
    /// What came out of a pipe, which can be read only once.
    piped: OnceLock<Vec<u8>>,
}

/// A picture whose header has been read.
pub(super) struct Picture<'f> {
    pub(super) file: &'f PictureFile,
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) canvas: Canvas,
}

impl PictureFile {
    /// The files of these paths, of which nothing is read yet.
    pub(super) fn list(paths: &[PathBuf]) -> Vec<Self> {
        paths.iter().map(|path| Self { path: path.clone(), piped: OnceLock::new() }).collect()
    }

    /// All of its bytes.
    pub(super) fn read(&self) -> Result<Cow<'_, [u8]>> {
        match self.piped.get() {
            Some(bytes) => Ok(Cow::Borrowed(bytes)),
            None => Ok(Cow::Owned(std::fs::read(&self.path).map_err(Error::io(&self.path))?)),
        }
    }

    /// Width and height. Of a file only the head is read, if it tells them; a pipe is read to its end, and kept.
    fn dimensions(&self) -> Result<(usize, usize)> {
        let (io, limits) = (|error| Error::io(&self.path)(error), Limits::default());
        if let Some(bytes) = self.piped.get() {
            return Image::dimensions(bytes, &limits);
        }
        let (mut file, mut bytes) = (File::open(&self.path).map_err(io)?, Vec::new());
        if !file.metadata().map_err(io)?.is_file() {
            file.read_to_end(&mut bytes).map_err(io)?;
            return Image::dimensions(self.piped.get_or_init(|| bytes), &limits);
        }
        file.by_ref().take(HEAD_BYTES).read_to_end(&mut bytes).map_err(io)?;
        if let Ok(dimensions) = Image::dimensions(&bytes, &limits) {
            return Ok(dimensions);
        }
        file.read_to_end(&mut bytes).map_err(io)?;
        Image::dimensions(&bytes, &limits)
    }
}

/// Reads every header, so that shapes are known and bad files found before any work.
pub(super) fn survey<'f>(files: &'f [PictureFile], preprocessor: &Preprocessor) -> Result<Vec<Picture<'f>>> {
    let survey = |file: &'f PictureFile| {
        let (width, height) = file.dimensions().map_err(|e| named(&file.path, e))?;
        let canvas = preprocessor.canvas(width, height).map_err(|e| named(&file.path, e))?;
        Ok(Picture { file, width, height, canvas })
    };
    files.par_iter().map(survey).collect()
}

/// Decodes some pictures and does something with each, in parallel.
pub(super) fn each<T: Send>(pictures: &[Picture], work: impl Fn(&Image) -> Result<T> + Sync) -> Result<Vec<T>> {
    let work = |picture: &Picture| {
        let path = &picture.file.path;
        let image = Image::decode(&picture.file.read()?, &Limits::default()).map_err(|e| named(path, e))?;
        if (image.width(), image.height()) != (picture.width, picture.height) {
            return Err(Error::io(path)(std::io::Error::other("the file changed while it was being read")));
        }
        work(&image).map_err(|e| named(path, e))
    };
    pictures.par_iter().map(work).collect()
}

/// An error about a picture, with the file's name.
fn named(path: &Path, error: Error) -> Error {
    match error {
        Error::Image(source) => ImageError::InFile { path: path.to_path_buf(), source: Box::new(source) }.into(),
        other => other,
    }
}
