//! What the kernels' arguments look like from the host: where they lie and how large they are.

use std::marker::PhantomData;
use std::mem::{offset_of, size_of};

use crate::cuda::abi;
use crate::cuda::driver::DeviceMemory;
use crate::dtype::Dtype;
use crate::plan::Stack;

/// A row-major matrix of the GPU's: `rows` rows of `width` elements, `stride` elements apart.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Matrix<'m> {
    pub(crate) address: u64,
    pub(crate) rows: usize,
    pub(crate) width: usize,
    pub(crate) stride: usize,
    pub(crate) dtype: Dtype,
    memory: PhantomData<&'m DeviceMemory>,
}

impl<'m> Matrix<'m> {
    /// Strides are multiples of this many elements: rows of 16-bit elements start on 16 bytes, as vector loads and
    /// asynchronous copies ask.
    pub(crate) const ALIGNMENT: usize = 8;

    /// A matrix at byte `offset` of `memory`.
    ///
    /// # Panics
    /// Where it does not fit there.
    pub(crate) fn new(
        memory: &'m DeviceMemory,
        offset: usize,
        [rows, width, stride]: [usize; 3],
        dtype: Dtype,
    ) -> Self {
        assert!(width <= stride && offset.is_multiple_of(16), "rows of a matrix overlap or are not aligned");
        let bytes = rows.checked_mul(stride).and_then(|len| len.checked_mul(dtype.size()));
        let end = bytes.and_then(|bytes| bytes.checked_add(offset));
        assert!(end.is_some_and(|end| end <= memory.len()), "a matrix beyond its memory");
        Self { address: memory.address() + offset as u64, rows, width, stride, dtype, memory: PhantomData }
    }

    pub(crate) fn pointer(&self) -> *mut std::ffi::c_void {
        std::ptr::without_provenance_mut(self.address as usize)
    }
}

/// Values of one type in the GPU's memory.
#[derive(Debug)]
pub(crate) struct Array<'m, T> {
    pub(crate) address: u64,
    pub(crate) len: usize,
    memory: PhantomData<(&'m DeviceMemory, T)>,
}

impl<T> Clone for Array<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Array<'_, T> {}

impl<'m, T> Array<'m, T> {
    /// `len` values at byte `offset` of `memory`.
    ///
    /// # Panics
    /// Where they do not fit there.
    pub(crate) fn new(memory: &'m DeviceMemory, offset: usize, len: usize) -> Self {
        assert!(offset.is_multiple_of(align_of::<T>()), "an array is not aligned");
        let end = len.checked_mul(size_of::<T>()).and_then(|bytes| bytes.checked_add(offset));
        assert!(end.is_some_and(|end| end <= memory.len()), "an array beyond its memory");
        Self { address: memory.address() + offset as u64, len, memory: PhantomData }
    }

    /// The values from `first` on.
    pub(crate) fn skip(&self, first: usize) -> Self {
        assert!(first <= self.len, "values beyond their array");
        let address = self.address + (first * size_of::<T>()) as u64;
        Self { address, len: self.len - first, memory: PhantomData }
    }

    pub(crate) fn pointer(&self) -> *mut T {
        std::ptr::without_provenance_mut(self.address as usize)
    }
}

/// A number that a kernel reads when it runs: how many rows there are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Count<'m> {
    address: u64,
    /// The most it can be, which the grid is made for.
    pub(crate) capacity: usize,
    memory: PhantomData<&'m DeviceMemory>,
}

impl Count<'_> {
    pub(crate) fn pointer(&self) -> *const u32 {
        std::ptr::without_provenance(self.address as usize)
    }
}

/// The head of a batch descriptor.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DeviceBatch<'m>(Array<'m, abi::Batch>);

impl<'m> DeviceBatch<'m> {
    /// The descriptor that starts at byte `offset` of `memory`.
    pub(crate) fn new(memory: &'m DeviceMemory, offset: usize) -> Self {
        Self(Array::new(memory, offset, 1))
    }

    pub(crate) fn pointer(&self) -> *const abi::Batch {
        self.0.pointer()
    }

    /// Computed patches, at most `capacity`.
    pub(crate) fn num_patches(&self, capacity: usize) -> Count<'m> {
        self.count(offset_of!(abi::Batch, num_patches), capacity)
    }

    /// Rows of a stack, at most `capacity`.
    pub(crate) fn num_rows(&self, stack: Stack, capacity: usize) -> Count<'m> {
        self.count(offset_of!(abi::Batch, num_rows) + size_of::<u32>() * stack.index(), capacity)
    }

    /// Attention's items in a stack, at most `capacity`.
    pub(crate) fn num_attention_items(&self, stack: Stack, capacity: usize) -> Count<'m> {
        self.count(offset_of!(abi::Batch, num_attention_items) + size_of::<u32>() * stack.index(), capacity)
    }

    fn count(&self, offset: usize, capacity: usize) -> Count<'m> {
        Count { address: self.0.address + offset as u64, capacity, memory: PhantomData }
    }
}
