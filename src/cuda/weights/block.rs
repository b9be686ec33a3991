//! One allocation for things that live together.

use std::marker::PhantomData;
use std::sync::Arc;

use crate::cuda::driver::{Context, DeviceMemory};
use crate::cuda::ops::{Array, Matrix};
use crate::dtype::Dtype;
use crate::error::CudaError;

/// Pieces start at multiples of this many bytes, as memory of their own would.
const ALIGNMENT: usize = 256;

/// Places for pieces in an allocation that is still to be made.
#[derive(Debug, Default)]
pub(super) struct BlockLayout {
    bytes: usize,
}

/// A matrix' place in its block.
#[derive(Debug, Clone, Copy)]
pub(in crate::cuda) struct MatrixPiece {
    offset: usize,
    shape: [usize; 3],
    dtype: Dtype,
}

/// An array's place in its block.
#[derive(Debug)]
pub(in crate::cuda) struct ArrayPiece<T> {
    offset: usize,
    len: usize,
    element: PhantomData<T>,
}

impl BlockLayout {
    /// A place for `[rows, width]`, rows `stride` elements apart.
    pub(super) fn matrix(&mut self, [rows, width, stride]: [usize; 3], dtype: Dtype) -> MatrixPiece {
        let offset = self.place(rows * stride * dtype.size());
        MatrixPiece { offset, shape: [rows, width, stride], dtype }
    }

    /// A place for `len` values.
    pub(super) fn array<T>(&mut self, len: usize) -> ArrayPiece<T> {
        ArrayPiece { offset: self.place(len * size_of::<T>()), len, element: PhantomData }
    }

    fn place(&mut self, bytes: usize) -> usize {
        let offset = self.bytes.next_multiple_of(ALIGNMENT);
        self.bytes = offset + bytes;
        offset
    }

    /// Memory for all pieces.
    pub(super) fn allocate(self, context: &Arc<Context>) -> Result<DeviceMemory, CudaError> {
        DeviceMemory::new(context, self.bytes, "weights")
    }
}

impl MatrixPiece {
    pub(in crate::cuda) fn view<'m>(&self, block: &'m DeviceMemory) -> Matrix<'m> {
        Matrix::new(block, self.offset, self.shape, self.dtype)
    }

    /// The rows from `first` on.
    pub(super) fn rows_from<'m>(&self, block: &'m DeviceMemory, first: usize) -> Matrix<'m> {
        self.rows(block, first, self.shape[0] - first)
    }

    /// `rows` rows from `first` on.
    pub(in crate::cuda) fn rows<'m>(&self, block: &'m DeviceMemory, first: usize, rows: usize) -> Matrix<'m> {
        let [all, width, stride] = self.shape;
        assert!(first + rows <= all, "rows beyond their matrix");
        Matrix::new(block, self.offset + first * stride * self.dtype.size(), [rows, width, stride], self.dtype)
    }
}

impl<T> ArrayPiece<T> {
    pub(in crate::cuda) fn view<'m>(&self, block: &'m DeviceMemory) -> Array<'m, T> {
        Array::new(block, self.offset, self.len)
    }

    /// The values from `first` on.
    pub(super) fn from<'m>(&self, block: &'m DeviceMemory, first: usize) -> Array<'m, T> {
        Array::new(block, self.offset + first * size_of::<T>(), self.len - first)
    }

    /// Where it starts in its block, in bytes.
    pub(super) fn offset(&self) -> usize {
        self.offset
    }
}
