//! A file that appears under its name only when it is whole.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::error::{Error, Result};

/// A file to be, open for writing. Dropped before [`finish`](PendingFile::finish), it leaves nothing behind, and the file
/// that stood under its name before stays. Where the system has files without a name, a signal leaves nothing either.
pub(super) struct PendingFile {
    path: PathBuf,
    target: Target,
}

enum Target {
    /// Without a name until the end.
    #[cfg(target_os = "linux")]
    Unnamed(BufWriter<File>),
    /// In the same folder under another name, and renamed in the end.
    Temporary(BufWriter<NamedTempFile>),
    /// A pipe or a device, which cannot be renamed to.
    Direct(BufWriter<File>),
}

impl PendingFile {
    /// Opens the place.
    ///
    /// # Errors
    /// [`Error::Io`] where nothing can be written there.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let target = match std::fs::metadata(path) {
            Ok(found) if found.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
            Ok(found) if !found.is_file() => {
                File::options().write(true).open(path).map(|file| Target::Direct(BufWriter::new(file)))
            }
            _ => Target::in_folder(folder(path)),
        };
        Ok(Self { path: path.to_path_buf(), target: target.map_err(Error::io(path))? })
    }

    /// Puts the file under its name.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn finish(self) -> Result<()> {
        let Self { path, target } = self;
        target.finish(&path).map_err(Error::io(&path))
    }
}

impl Write for PendingFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.target {
            #[cfg(target_os = "linux")]
            Target::Unnamed(file) => file.write(bytes),
            Target::Temporary(file) => file.write(bytes),
            Target::Direct(file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.target {
            #[cfg(target_os = "linux")]
            Target::Unnamed(file) => file.flush(),
            Target::Temporary(file) => file.flush(),
            Target::Direct(file) => file.flush(),
        }
    }
}

impl Target {
    fn in_folder(folder: &Path) -> io::Result<Self> {
        #[cfg(target_os = "linux")]
        if let Some(file) = unnamed::create(folder) {
            return Ok(Self::Unnamed(BufWriter::new(file)));
        }
        Ok(Self::Temporary(BufWriter::new(temporary().tempfile_in(folder)?)))
    }

    fn finish(self, path: &Path) -> io::Result<()> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Unnamed(file) => {
                let file = file.into_inner().map_err(|error| error.into_error())?;
                // A name that is taken cannot be linked to, so the file passes through another one.
                let named = temporary().make_in(folder(path), |name| unnamed::link(&file, name))?;
                named.persist(path).map(drop).map_err(|error| error.error)
            }
            Self::Temporary(file) => {
                let file = file.into_inner().map_err(|error| error.into_error())?;
                file.persist(path).map(drop).map_err(|error| error.error)
            }
            Self::Direct(mut file) => file.flush(),
        }
    }
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn temporary() -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".tilesight-").suffix(".partial");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder
}

/// Files without a name, as Linux has them.
#[cfg(target_os = "linux")]
mod unnamed {
    use std::fs::File;
    use std::io;
    use std::os::fd::AsRawFd;
    use std::path::Path;

    use rustix::fs::{AtFlags, CWD, Mode, OFlags};

    /// None where the file system has none, or they could not be named later.
    pub(super) fn create(folder: &Path) -> Option<File> {
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::open(folder, flags, Mode::from_raw_mode(0o666)).ok()?);
        std::fs::symlink_metadata(own_path(&file)).is_ok().then_some(file)
    }

    pub(super) fn link(file: &File, name: &Path) -> io::Result<()> {
        Ok(rustix::fs::linkat(CWD, own_path(file), CWD, name, AtFlags::SYMLINK_FOLLOW)?)
    }

    fn own_path(file: &File) -> String {
        format!("/proc/self/fd/{}", file.as_raw_fd())
    }
}
