//! A tensor of a checkpoint: bytes in memory, with an element type and a shape.

use std::ops::Range;
use std::sync::Arc;

use crate::dtype::Dtype;

/// A tensor whose elements stay in their stored type and are widened where they are used. Cheap to clone.
#[derive(Clone)]
pub struct Tensor {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Arc<Vec<u8>>,
}

impl Tensor {
    /// A tensor of little-endian bytes.
    pub(crate) fn owned(dtype: Dtype, shape: Vec<usize>, bytes: Vec<u8>) -> Self {
        assert_eq!(bytes.len(), shape.iter().product::<usize>() * dtype.size(), "bytes and shape disagree");
        Self { dtype, shape, bytes: Arc::new(bytes) }
    }

    /// The element type.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// The shape, outermost dimension first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The number of elements.
    pub fn num_elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// The elements, little endian, row-major.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// All elements as f32.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut wide = vec![0.0; self.num_elements()];
        self.dtype.widen(self.bytes(), &mut wide);
        wide
    }

    /// The elements `range` of the flat tensor, widened into `out`.
    pub(crate) fn widen_into(&self, range: Range<usize>, out: &mut [f32]) {
        let size = self.dtype.size();
        self.dtype.widen(&self.bytes()[range.start * size..range.end * size], out);
    }

    /// The same elements in another shape.
    pub(super) fn reshaped(mut self, shape: Vec<usize>) -> Self {
        assert_eq!(shape.iter().product::<usize>(), self.num_elements(), "a reshape keeps every element");
        self.shape = shape;
        self
    }
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {:?}", self.dtype, self.shape)
    }
}
