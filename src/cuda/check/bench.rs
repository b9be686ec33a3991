//! A GPU set up for one kernel at a time: inputs laid out as the plan lays them out, with poison wherever a kernel may
//! neither read nor write.

use std::cell::Cell;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use bytemuck::Pod;

use crate::cuda::driver::{Context, DeviceMemory, Stream};
use crate::cuda::ops::{Kernels, Launcher, Matrix};
use crate::dtype::Dtype;
use crate::error::CudaError;

/// NaN in every element type, and an absurd index.
const POISON: u8 = 0xff;

/// Rows of poison after every matrix: what a block that ignores the row count would touch.
const ROWS_BEYOND: usize = 3;

/// What a case runs on.
pub(crate) struct Bench<'a> {
    context: &'a Arc<Context>,
    kernels: &'a Kernels,
    stream: &'a Stream,
    tiling: Option<usize>,
    /// A hash of all that was downloaded.
    seen: Cell<u64>,
}

/// A matrix with memory of its own, its surroundings poisoned.
pub(crate) struct DeviceMatrix {
    memory: DeviceMemory,
    shape: [usize; 3],
    dtype: Dtype,
}

impl<'a> Bench<'a> {
    pub(crate) fn new(context: &'a Arc<Context>, kernels: &'a Kernels, stream: &'a Stream) -> Self {
        Self { context, kernels, stream, tiling: None, seen: Cell::new(0) }
    }

    pub(crate) fn launcher(&self) -> Launcher<'a> {
        Launcher::new(self.kernels, self.stream).with_tiling(self.tiling)
    }

    /// The same for products in this tiling, with nothing downloaded yet.
    pub(crate) fn in_tiling(&self, tiling: usize) -> Self {
        Self { tiling: Some(tiling), ..Self::new(self.context, self.kernels, self.stream) }
    }

    /// A hash of all that was downloaded here: equal for equal bits.
    pub(crate) fn seen(&self) -> u64 {
        self.seen.get()
    }

    /// Memory that holds these values.
    pub(crate) fn upload<T: Pod>(&self, values: &[T]) -> Result<DeviceMemory, CudaError> {
        let bytes = bytemuck::cast_slice(values);
        let mut memory = DeviceMemory::new(self.context, bytes.len(), "a check")?;
        memory.write(0, bytes, self.stream)?;
        Ok(memory)
    }

    /// Memory for `len` values, poisoned.
    pub(crate) fn poisoned<T: Pod>(&self, len: usize) -> Result<DeviceMemory, CudaError> {
        self.upload(&vec![POISON; len * size_of::<T>()])
    }

    /// A matrix of these values, `[rows, width]` without gaps, rounded to `dtype`; its rows lie `stride` apart.
    pub(crate) fn matrix(
        &self,
        values: &[f32],
        width: usize,
        stride: usize,
        dtype: Dtype,
    ) -> Result<DeviceMatrix, CudaError> {
        let rows = values.len().checked_div(width).unwrap_or(0);
        assert_eq!(values.len(), rows * width, "values that are no whole rows");
        let mut bytes = Vec::new();
        for row in values.chunks_exact(width) {
            bytes.extend(dtype.narrowed(row));
            bytes.resize(bytes.len() + (stride - width) * dtype.size(), POISON);
        }
        bytes.resize(bytes.len() + ROWS_BEYOND * stride * dtype.size(), POISON);
        Ok(DeviceMatrix { memory: self.upload(&bytes)?, shape: [rows, width, stride], dtype })
    }

    /// A matrix for results, poisoned.
    pub(crate) fn output(
        &self,
        rows: usize,
        width: usize,
        stride: usize,
        dtype: Dtype,
    ) -> Result<DeviceMatrix, CudaError> {
        let memory = self.upload(&vec![POISON; (rows + ROWS_BEYOND) * stride * dtype.size()])?;
        Ok(DeviceMatrix { memory, shape: [rows, width, stride], dtype })
    }

    /// What `memory` holds.
    pub(crate) fn download<T: Pod>(&self, memory: &DeviceMemory) -> Result<Vec<T>, CudaError> {
        let mut values = vec![T::zeroed(); memory.len() / size_of::<T>()];
        memory.read(0, bytemuck::cast_slice_mut(&mut values), self.stream)?;
        let mut hasher = DefaultHasher::new();
        (self.seen.get(), bytemuck::cast_slice::<T, u8>(&values)).hash(&mut hasher);
        self.seen.set(hasher.finish());
        Ok(values)
    }

    /// The first `rows` rows, without gaps. Where anything beside them is no longer poison, every value is NaN.
    pub(crate) fn result(&self, matrix: &DeviceMatrix, rows: usize) -> Result<Vec<f32>, CudaError> {
        let [_, width, stride] = matrix.shape;
        let size = matrix.dtype.size();
        let bytes: Vec<u8> = self.download(&matrix.memory)?;
        let mut values = vec![0.0; rows * width];
        let (written, beyond) = bytes.split_at(rows * stride * size);
        let mut clean = beyond.iter().all(|byte| *byte == POISON);
        for (row, out) in written.chunks_exact(stride * size).zip(values.chunks_exact_mut(width)) {
            let (row, gap) = row.split_at(width * size);
            matrix.dtype.widen(row, out);
            clean &= gap.iter().all(|byte| *byte == POISON);
        }
        if !clean {
            values.fill(f32::NAN);
        }
        Ok(values)
    }
}

impl DeviceMatrix {
    /// The matrix as a kernel's argument. Its capacity is `ROWS_BEYOND` rows more than were asked for.
    pub(crate) fn view(&self) -> Matrix<'_> {
        let [rows, width, stride] = self.shape;
        Matrix::new(&self.memory, 0, [rows + ROWS_BEYOND, width, stride], self.dtype)
    }

    /// The matrix as a kernel's argument, with the rows that were asked for and no more: a weight.
    pub(crate) fn values(&self) -> Matrix<'_> {
        Matrix::new(&self.memory, 0, self.shape, self.dtype)
    }
}
