//! From files to tensors: the headers are read, the encoder's tensors are picked out by name, and what lies in several
//! files is brought together.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use safetensors::tensor::{Metadata, TensorInfo};

use super::file::TensorFile;
use super::names::{self, NameFormat};
use super::stored::{Part, Place, StoredTensor};
use super::{Checkpoint, Read};
use crate::dtype::Dtype;
use crate::error::{CheckpointError, Error, Result};

/// A checkpoint whose files are still being read.
pub(super) struct Gathering {
    path: PathBuf,
    /// Whether each file is one of Meta's model-parallel ranks and holds a part of every tensor.
    ranks: bool,
    /// With the tensor that showed it.
    format: Option<(NameFormat, String)>,
    files: Vec<PathBuf>,
    tensors: BTreeMap<String, StoredTensor>,
    /// Tensors that belong to something else.
    pub(super) num_other_tensors: usize,
}

impl Gathering {
    pub(super) fn new(path: &Path, ranks: bool) -> Self {
        let path = path.to_path_buf();
        Self { path, ranks, format: None, files: Vec::new(), tensors: BTreeMap::new(), num_other_tensors: 0 }
    }

    /// Adds the encoder's tensors of a file that are `wanted`; returns their stored names.
    pub(super) fn add_file(&mut self, path: PathBuf, wanted: impl Fn(&str) -> bool) -> Result<Vec<String>> {
        let file = Arc::new(TensorFile::open(&path)?);
        let damaged = |reason| CheckpointError::Damaged { path: path.clone(), reason };
        let (metadata, data_start) = read_header(&file, damaged)?;
        let number = self.files.len();
        self.files.push(path.clone());
        let mut found = Vec::new();
        for name in metadata.offset_keys().into_iter().filter(|name| wanted(name)) {
            let Some(info) = metadata.info(&name) else { continue };
            let Some((format, tune)) = names::recognise(&name) else {
                self.num_other_tensors += 1;
                continue;
            };
            self.agree_on_format(format, &name)?;
            self.add_part(tune, name.clone(), part(info, number, &file, data_start))?;
            found.push(name);
        }
        if found.is_empty() {
            self.files.pop();
        }
        Ok(found)
    }

    fn agree_on_format(&mut self, format: NameFormat, name: &str) -> Result<()> {
        let (agreed, first) = self.format.get_or_insert_with(|| (format, name.to_string()));
        if *agreed == format {
            return Ok(());
        }
        Err(CheckpointError::MixedNames { first: first.clone(), second: name.to_string() }.into())
    }

    fn add_part(&mut self, tune: String, name: String, part: Part) -> Result<()> {
        let file = part.file;
        match self.tensors.entry(tune) {
            Entry::Vacant(entry) => {
                entry.insert(StoredTensor::new(name, part));
            }
            Entry::Occupied(mut entry) => {
                if !self.ranks || entry.get().parts.iter().any(|p| p.file == file) {
                    let place = |file: usize, name: &str| format!("{} ({name})", self.files[file].display());
                    return Err(CheckpointError::Repeated {
                        tensor: entry.key().clone(),
                        first: place(entry.get().parts[0].file, &entry.get().name),
                        second: place(file, &name),
                    }
                    .into());
                }
                let joined = names::rank_dimension(entry.key());
                let stored = entry.get_mut();
                if joined.is_some() && stored.dtype != part.dtype {
                    let [first, second] = [&stored.dtype, &part.dtype].map(super::dtype_name);
                    stored.dtype = Err(format!("{first} and {second}"));
                }
                if let Some(dimension) = joined.filter(|d| *d < stored.shape.len() && *d < part.shape.len()) {
                    stored.shape[dimension] = stored.shape[dimension].saturating_add(part.shape[dimension]);
                    stored.parts.push(part);
                }
            }
        }
        Ok(())
    }

    pub(super) fn finish(self) -> Result<Checkpoint> {
        let Some((format, _)) = self.format else {
            return Err(CheckpointError::NotAnEncoder { path: self.path, num_tensors: self.num_other_tensors }.into());
        };
        Ok(Checkpoint {
            path: self.path,
            format,
            files: self.files,
            tensors: Arc::new(self.tensors),
            num_other_tensors: self.num_other_tensors,
            read: Read::default(),
        })
    }
}

/// What a file says of a tensor: its element type, and where it lies.
fn part(info: &TensorInfo, number: usize, file: &Arc<TensorFile>, data_start: u64) -> Part {
    let dtype = match info.dtype {
        safetensors::Dtype::F32 => Ok(Dtype::F32),
        safetensors::Dtype::BF16 => Ok(Dtype::Bf16),
        safetensors::Dtype::F16 => Ok(Dtype::F16),
        other => Err(format!("{other:?}")),
    };
    let (start, end) = info.data_offsets;
    let place = Place::File(file.clone(), data_start + start as u64..data_start + end as u64);
    Part { shape: info.shape.clone(), dtype, file: number, place }
}

/// A header of the format's greatest length has room for a million tensors.
const MAX_HEADER_LEN: u64 = 100_000_000;

/// The header of a safetensors file, and where its data starts; or which rule of the format is broken.
///
/// The header's own rules are checked as it is parsed. What it says of the file's length is compared here and not by
/// `SafeTensors::read_metadata`, whose sum overflows where a header speaks of 2⁶⁴ bytes.
fn read_header(file: &TensorFile, damaged: impl Fn(String) -> CheckpointError) -> Result<(Metadata, u64)> {
    const LEN_BYTES: u64 = size_of::<u64>() as u64;
    let refuse = |reason: String| Err(Error::from(damaged(reason)));
    let Some(rest) = file.len().checked_sub(LEN_BYTES) else {
        return refuse(format!("{} bytes cannot hold the header's length", file.len()));
    };
    let header_len = file.read(0..LEN_BYTES)?.iter().rev().fold(0, |len, byte| len << 8 | u64::from(*byte));
    if header_len > MAX_HEADER_LEN {
        return refuse(format!("the header may have at most {MAX_HEADER_LEN} bytes, found {header_len}"));
    }
    let Some(data_len) = rest.checked_sub(header_len) else {
        return refuse(format!("the header has {header_len} bytes, but only {rest} follow"));
    };
    let data_start = LEN_BYTES + header_len;
    let header = file.read(LEN_BYTES..data_start)?;
    let metadata: Metadata = serde_json::from_slice(&header).map_err(|e| damaged(e.to_string()))?;
    if metadata.data_len() as u64 != data_len {
        return refuse(format!("the tensors have {} bytes, found {data_len}", metadata.data_len()));
    }
    Ok((metadata, data_start))
}
