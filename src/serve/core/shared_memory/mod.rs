//! Triton's extension for system shared memory: regions that clients register, and the windows of them that a request's
//! tensors are read from and written to.
//!
//! Nothing is mapped. A client may cut its object short at any time, and whoever then touches a mapping behind its end is
//! killed; through a file descriptor the same is an error. What is read has to be copied anyway: values that a client can
//! still change are not the values that were checked and hashed. A window keeps its region's descriptor, so a request
//! that has begun ends as it would have, whoever unregisters the region meanwhile.
//!
//! Reference:
//! <https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_shared_memory.md>.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::Bytes;

use crate::memory;

/// The extension's name among those of the server.
pub(crate) const EXTENSION: &str = "system_shared_memory";

/// Where POSIX shared memory objects are files.
const FOLDER: &str = "/dev/shm";

/// Bytes of an object's name at most, as `shm_open` has it.
const MAX_NAME: usize = 255;

/// The regions that are registered.
#[derive(Debug)]
pub(crate) struct Regions {
    /// How many there may be; with none, the extension is off.
    max: usize,
    regions: Mutex<BTreeMap<String, Arc<Region>>>,
}

/// A part of a shared memory object, by the name that clients have given it.
#[derive(Debug)]
pub(crate) struct Region {
    pub(crate) name: String,
    pub(crate) key: String,
    /// Where it begins in the object.
    pub(crate) offset: u64,
    pub(crate) byte_size: u64,
    file: File,
}

/// The part of a region that is one tensor's.
#[derive(Debug, Clone)]
pub(crate) struct Window {
    region: Arc<Region>,
    /// Where it begins in the region.
    pub(crate) offset: u64,
    pub(crate) byte_size: u64,
}

/// Why shared memory cannot be used so.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RegionError {
    #[error("tensors in shared memory are not taken: the server was started without --shared-memory-regions")]
    Off,
    #[error("{tensor} must have shared_memory_region and shared_memory_byte_size, or neither")]
    Incomplete { tensor: String },
    #[error("region {name:?} is not registered")]
    Unknown { name: String },
    #[error("region {name:?} is registered already")]
    Registered { name: String },
    #[error("{max} regions are registered, which is the limit")]
    TooMany { max: usize },
    #[error("a region must have a name and at least one byte")]
    Empty,
    #[error("{key:?} is no name of a POSIX shared memory object: /name, of up to {MAX_NAME} bytes")]
    Key { key: String },
    #[error("cannot open the shared memory object {key:?}: {source}")]
    Open { key: String, source: io::Error },
    #[error("{key:?} is no shared memory object")]
    NoObject { key: String },
    #[error("{byte_size} bytes from {offset} on do not lie within {within}, which has {found}")]
    Beyond { offset: u64, byte_size: u64, within: String, found: u64 },
    #[error("output {output} takes {needed} bytes, its shared memory has {found}")]
    TooSmall { output: &'static str, needed: u64, found: u64 },
    #[error("{bytes} bytes of shared memory are to be copied, for which memory could not be had")]
    OutOfMemory { bytes: u64 },
    #[error("region {name:?} cannot be read or written: {source}")]
    Io { name: String, source: io::Error },
}

impl Regions {
    pub(crate) fn new(max: usize) -> Self {
        Self { max, regions: Mutex::default() }
    }

    /// Whether there may be any.
    pub(crate) fn is_on(&self) -> bool {
        self.max > 0
    }

    /// Opens the object of this key, and keeps `byte_size` bytes of it from `offset` on as a region.
    ///
    /// # Errors
    /// Every [`RegionError`] but those of tensors.
    pub(crate) fn register(&self, name: &str, key: &str, offset: u64, byte_size: u64) -> Result<(), RegionError> {
        if name.is_empty() || byte_size == 0 {
            return Err(RegionError::Empty);
        }
        let mut regions = self.lock();
        if regions.contains_key(name) {
            return Err(RegionError::Registered { name: name.into() });
        }
        if regions.len() >= self.max {
            return Err(RegionError::TooMany { max: self.max });
        }
        let file = open(Path::new(FOLDER), key)?;
        let region = Region { name: name.into(), key: key.into(), offset, byte_size, file };
        region.require(0, byte_size)?;
        regions.insert(name.into(), Arc::new(region));
        Ok(())
    }

    /// Forgets a region, or all of them. What is not there has been forgotten already.
    pub(crate) fn unregister(&self, name: Option<&str>) {
        let mut regions = self.lock();
        match name {
            Some(name) => drop(regions.remove(name)),
            None => regions.clear(),
        }
    }

    /// The region of this name, or all of them.
    ///
    /// # Errors
    /// [`RegionError::Unknown`].
    pub(crate) fn status(&self, name: Option<&str>) -> Result<Vec<Arc<Region>>, RegionError> {
        match name {
            Some(name) => Ok(vec![self.find(name)?]),
            None => Ok(self.lock().values().cloned().collect()),
        }
    }

    /// The window that a tensor's parameters name. None where they name none.
    ///
    /// # Errors
    /// [`RegionError::Incomplete`] where a parameter is missing, and those of [`Regions::window`].
    pub(crate) fn window_of(
        &self,
        tensor: &str,
        region: Option<&str>,
        offset: Option<u64>,
        byte_size: Option<u64>,
    ) -> Result<Option<Window>, RegionError> {
        match (region, byte_size) {
            (Some(region), Some(byte_size)) => Ok(Some(self.window(region, offset.unwrap_or(0), byte_size)?)),
            (None, None) if offset.is_none() => Ok(None),
            _ => Err(RegionError::Incomplete { tensor: tensor.into() }),
        }
    }

    /// A part of a region.
    ///
    /// # Errors
    /// [`RegionError::Off`], [`RegionError::Unknown`], [`RegionError::Beyond`].
    fn window(&self, name: &str, offset: u64, byte_size: u64) -> Result<Window, RegionError> {
        if !self.is_on() {
            return Err(RegionError::Off);
        }
        let region = self.find(name)?;
        region.require(offset, byte_size)?;
        Ok(Window { region, offset, byte_size })
    }

    fn find(&self, name: &str) -> Result<Arc<Region>, RegionError> {
        self.lock().get(name).cloned().ok_or_else(|| RegionError::Unknown { name: name.into() })
    }

    /// The map is whole between its changes, so a panic elsewhere leaves it sound.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Region>>> {
        self.regions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Region {
    /// Refuses what is not within the region, or not within its object as large as that is now.
    fn require(&self, offset: u64, byte_size: u64) -> Result<(), RegionError> {
        let end = offset.checked_add(byte_size).filter(|end| *end <= self.byte_size);
        let Some(end) = end else {
            let within = format!("region {:?}", self.name);
            return Err(RegionError::Beyond { offset, byte_size, within, found: self.byte_size });
        };
        let found = self.object_len()?;
        match self.offset.checked_add(end) {
            Some(end) if end <= found => Ok(()),
            _ => {
                let within = format!("the shared memory object {:?}", self.key);
                Err(RegionError::Beyond { offset: self.offset.saturating_add(offset), byte_size, within, found })
            }
        }
    }

    fn object_len(&self) -> Result<u64, RegionError> {
        self.file.metadata().map(|metadata| metadata.len()).map_err(|source| self.failed(source))
    }

    fn failed(&self, source: io::Error) -> RegionError {
        RegionError::Io { name: self.name.clone(), source }
    }
}

impl Window {
    /// The region's name.
    pub(crate) fn name(&self) -> &str {
        &self.region.name
    }

    /// A copy of what is there, whose bytes the caller has held.
    ///
    /// # Errors
    /// [`RegionError::Beyond`] where the object was cut short, [`RegionError::OutOfMemory`], [`RegionError::Io`].
    pub(crate) fn read(&self) -> Result<Bytes, RegionError> {
        self.region.require(self.offset, self.byte_size)?;
        let len = usize::try_from(self.byte_size).unwrap_or(usize::MAX);
        let mut bytes = memory::zeroed(len).map_err(|_| RegionError::OutOfMemory { bytes: self.byte_size })?;
        let read = self.region.file.read_exact_at(&mut bytes, self.region.offset + self.offset);
        read.map_err(|source| self.region.failed(source))?;
        Ok(bytes.into())
    }

    /// Copies an output's bytes to its beginning. An object that was cut short is not written to; one that is cut short
    /// just now may be made as long again.
    ///
    /// # Errors
    /// [`RegionError::TooSmall`], [`RegionError::Beyond`], [`RegionError::Io`].
    pub(crate) fn write(&self, output: &'static str, bytes: &[u8]) -> Result<(), RegionError> {
        self.require_room(output, bytes.len() as u64)?;
        self.region.require(self.offset, self.byte_size)?;
        let written = self.region.file.write_all_at(bytes, self.region.offset + self.offset);
        written.map_err(|source| self.region.failed(source))
    }

    /// Refuses an output that takes more.
    ///
    /// # Errors
    /// [`RegionError::TooSmall`].
    pub(crate) fn require_room(&self, output: &'static str, needed: u64) -> Result<(), RegionError> {
        if needed <= self.byte_size {
            return Ok(());
        }
        Err(RegionError::TooSmall { output, needed, found: self.byte_size })
    }
}

/// Opens a shared memory object as `shm_open` does, and nothing else that a name could lead to: no folder but that of the
/// objects, no link, no device, and no pipe, for which it does not wait.
fn open(folder: &Path, key: &str) -> Result<File, RegionError> {
    let name = key.trim_start_matches('/');
    if name.is_empty() || name.len() > MAX_NAME || [".", ".."].contains(&name) || name.contains(['/', '\0']) {
        return Err(RegionError::Key { key: key.into() });
    }
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let opened = options.open(folder.join(name)).and_then(|file| Ok((file.metadata()?.is_file(), file)));
    match opened {
        Ok((true, file)) => Ok(file),
        Ok((false, _)) => Err(RegionError::NoObject { key: key.into() }),
        Err(source) => Err(RegionError::Open { key: key.into(), source }),
    }
}
