//! Tensors as a checkpoint stores them: where their elements are, and how they come into memory.

use std::collections::BTreeMap;
use std::num::NonZero;
use std::ops::Range;
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::file::TensorFile;
use super::names;
use super::tensor::Tensor;
use crate::dtype::Dtype;
use crate::error::{CheckpointError, Result};

/// A tensor as it is stored.
#[derive(Debug)]
pub(super) struct StoredTensor {
    /// Its name in the file.
    pub(super) name: String,
    /// Its element type, by name where it is not one that is read.
    pub(super) dtype: std::result::Result<Dtype, String>,
    pub(super) shape: Vec<usize>,
    /// One part, or one for each of Meta's model-parallel ranks.
    pub(super) parts: Vec<Part>,
}

/// A part of a tensor that lies in one place.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) shape: Vec<usize>,
    pub(super) dtype: std::result::Result<Dtype, String>,
    /// The checkpoint's file that it is in, by number.
    pub(super) file: usize,
    pub(super) place: Place,
}

/// The most threads that read: from a few on it is the memory that takes its time.
const MAX_READERS: usize = 8;

/// Reads tensors, by torchtune name, on several threads. They are no pool's: one of rayon's would do other work while it
/// waits, and that may wait for what is read here.
///
/// # Errors
/// Those of [`StoredTensor::read`].
pub(super) fn read_all(stored: &BTreeMap<String, StoredTensor>) -> Result<BTreeMap<String, Tensor>> {
    let queue = Mutex::new(stored.iter());
    let read = || -> Result<Vec<_>> {
        let mut tensors = Vec::new();
        loop {
            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((tune, stored)) = next else { return Ok(tensors) };
            tensors.push((tune.clone(), stored.read(tune)?));
        }
    };
    let num_helpers = thread::available_parallelism().map_or(1, NonZero::get).min(MAX_READERS) - 1;
    thread::scope(|scope| {
        // Where a thread cannot be had, the others read what it would have read.
        let spawn = |_| thread::Builder::new().name("tilesight-read".to_string()).spawn_scoped(scope, read).ok();
        let helpers: Vec<_> = (0..num_helpers).map_while(spawn).collect();
        let mut tensors: BTreeMap<_, _> = read()?.into_iter().collect();
        for helper in helpers {
            tensors.extend(helper.join().unwrap_or_else(|panic| resume_unwind(panic))?);
        }
        Ok(tensors)
    })
}

/// Where the elements of a part are.
#[derive(Debug)]
pub(super) enum Place {
    /// The bytes of a file in this range, as many as the shape has; checked where the header was read.
    File(Arc<TensorFile>, Range<u64>),
    Memory(Tensor),
}

impl StoredTensor {
    /// A tensor of one part.
    pub(super) fn new(name: String, part: Part) -> Self {
        let (dtype, shape) = (part.dtype.clone(), part.shape.clone());
        Self { name, dtype, shape, parts: vec![part] }
    }

    /// The tensor whole, in memory of its own.
    ///
    /// # Errors
    /// [`CheckpointError::Dtype`]; those of [`TensorFile::read`].
    pub(super) fn read(&self, tune: &str) -> Result<Tensor> {
        let unread = |found: &String| CheckpointError::Dtype { tensor: self.name.clone(), found: found.clone() };
        let dtype = *self.dtype.as_ref().map_err(unread)?;
        let parts = self.parts.iter().map(|part| part.read(dtype)).collect::<Result<Vec<_>>>()?;
        Ok(match <[Tensor; 1]>::try_from(parts) {
            Ok([whole]) => whole,
            Err(parts) => join(&parts, self.shape.clone(), names::rank_dimension(tune) == Some(0)),
        })
    }

    /// Whether the parts of a tensor spread over ranks are slices of one tensor.
    pub(super) fn parts_fit(&self, tune: &str) -> bool {
        let Some(dimension) = names::rank_dimension(tune) else { return true };
        let same_but_one = |shape: &[usize]| {
            shape.len() == self.shape.len()
                && shape.iter().zip(&self.shape).enumerate().all(|(d, (a, b))| d == dimension || a == b)
        };
        self.parts.iter().all(|part| same_but_one(&part.shape) && part.dtype == self.parts[0].dtype)
    }
}

impl Part {
    fn read(&self, dtype: Dtype) -> Result<Tensor> {
        match &self.place {
            Place::File(file, range) => Ok(Tensor::owned(dtype, self.shape.clone(), file.read(range.clone())?)),
            Place::Memory(tensor) => Ok(tensor.clone()),
        }
    }
}

/// Puts the ranks' parts of a tensor together, along rows or along columns.
fn join(parts: &[Tensor], shape: Vec<usize>, by_rows: bool) -> Tensor {
    let dtype = parts[0].dtype();
    let bytes: Vec<u8> = if by_rows {
        parts.iter().flat_map(Tensor::bytes).copied().collect()
    } else {
        let row = |part: &Tensor| part.shape()[1] * dtype.size();
        let rows = shape[0];
        let columns = |r: usize| parts.iter().flat_map(move |p| &p.bytes()[r * row(p)..(r + 1) * row(p)]);
        (0..rows).flat_map(columns).copied().collect()
    };
    Tensor::owned(dtype, shape, bytes)
}
