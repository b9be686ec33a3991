//! Memory on the GPU, and host memory that it reads and writes by itself.

use std::ffi::c_void;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

use cudarc::driver::sys::{self, CUresult};

use super::{Context, Stream, check};
use crate::error::CudaError;

/// A piece of the GPU's memory. Freed when dropped, once the GPU has done all its work.
#[derive(Debug)]
pub(crate) struct DeviceMemory {
    address: u64,
    bytes: usize,
    context: Arc<Context>,
}

impl DeviceMemory {
    /// Memory for `bytes` bytes, not initialised; `purpose` names it where there is none.
    ///
    /// # Errors
    /// [`CudaError::OutOfMemory`].
    pub(crate) fn new(context: &Arc<Context>, bytes: usize, purpose: &'static str) -> Result<Self, CudaError> {
        context.bind()?;
        let mut address = 0;
        // The driver refuses to allocate nothing.
        // SAFETY: the pointer is to a live address; the memory is freed once, when this is dropped.
        let status = unsafe { sys::cuMemAlloc_v2(&mut address, bytes.max(1)) };
        if status == CUresult::CUDA_ERROR_OUT_OF_MEMORY {
            return Err(CudaError::OutOfMemory { purpose, bytes: bytes as u64, free: context.free_bytes() });
        }
        check("cuMemAlloc", status)?;
        context.took(bytes as u64);
        Ok(Self { address, bytes, context: context.clone() })
    }

    /// The first byte's address on the GPU, a multiple of 256.
    pub(crate) fn address(&self) -> u64 {
        self.address
    }

    /// Bytes.
    pub(crate) fn len(&self) -> usize {
        self.bytes
    }

    /// Sets every byte to zero, on `stream`.
    pub(crate) fn zero(&mut self, stream: &Stream) -> Result<(), CudaError> {
        self.context.bind()?;
        // SAFETY: the range is this allocation, which outlives the work: freeing waits for the GPU.
        check("cuMemsetD8Async", unsafe { sys::cuMemsetD8Async(self.address, 0, self.bytes, stream.handle()) })
    }

    /// Copies `bytes` to `offset`, and waits.
    pub(crate) fn write(&mut self, offset: usize, bytes: &[u8], stream: &Stream) -> Result<(), CudaError> {
        assert!(offset.checked_add(bytes.len()).is_some_and(|end| end <= self.bytes), "a copy beyond its memory");
        self.context.bind()?;
        let (to, from) = (self.address + offset as u64, bytes.as_ptr().cast());
        // SAFETY: source and destination hold as many bytes, and the wait below keeps both alive until they are copied.
        let status = unsafe { sys::cuMemcpyHtoDAsync_v2(to, from, bytes.len(), stream.handle()) };
        check("cuMemcpyHtoDAsync", status)?;
        stream.synchronize()
    }

    /// Starts a copy of all bytes to memory of the same size, on `stream`.
    pub(crate) fn copy_to(&self, to: &Self, stream: &Stream) -> Result<(), CudaError> {
        assert_eq!(self.bytes, to.bytes, "a copy beyond its memory");
        self.context.bind()?;
        // SAFETY: both are as long and outlive the work: freeing waits for the GPU.
        let status = unsafe { sys::cuMemcpyDtoDAsync_v2(to.address, self.address, self.bytes, stream.handle()) };
        check("cuMemcpyDtoDAsync", status)
    }

    /// Copies from `offset` into `bytes`, and waits.
    pub(crate) fn read(&self, offset: usize, bytes: &mut [u8], stream: &Stream) -> Result<(), CudaError> {
        assert!(offset.checked_add(bytes.len()).is_some_and(|end| end <= self.bytes), "a copy beyond its memory");
        self.context.bind()?;
        let (to, from) = (bytes.as_mut_ptr().cast(), self.address + offset as u64);
        // SAFETY: source and destination hold as many bytes, and the wait below keeps both alive until they are copied.
        let status = unsafe { sys::cuMemcpyDtoHAsync_v2(to, from, bytes.len(), stream.handle()) };
        check("cuMemcpyDtoHAsync", status)?;
        stream.synchronize()
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        // A failure cannot be told from here; the memory goes with the process.
        let _ = self.context.synchronize();
        // SAFETY: allocated once by `new`, freed once here, and the GPU is idle.
        let _ = unsafe { sys::cuMemFree_v2(self.address) };
        self.context.gave_back(self.bytes as u64);
    }
}

/// Page-locked host memory, which the GPU copies from and to while the host goes on.
#[derive(Debug)]
pub(crate) struct PinnedMemory {
    pointer: NonNull<u8>,
    bytes: usize,
    context: Arc<Context>,
}

// SAFETY: plain memory with one owner.
unsafe impl Send for PinnedMemory {}

impl PinnedMemory {
    /// Memory for `bytes` bytes, zero. It is cached like any other, for the host reads results from it too.
    ///
    /// # Errors
    /// [`CudaError::OutOfPinnedMemory`].
    pub(crate) fn new(context: &Arc<Context>, bytes: usize) -> Result<Self, CudaError> {
        context.bind()?;
        let bytes = bytes.max(1);
        let mut pointer: *mut c_void = std::ptr::null_mut();
        // SAFETY: the pointer is to a live pointer; the memory is freed once, when this is dropped.
        let status = unsafe { sys::cuMemHostAlloc(&mut pointer, bytes, 0) };
        if status == CUresult::CUDA_ERROR_OUT_OF_MEMORY {
            return Err(CudaError::OutOfPinnedMemory { bytes: bytes as u64 });
        }
        check("cuMemHostAlloc", status)?;
        let pointer = NonNull::new(pointer.cast::<u8>());
        let pointer = pointer.ok_or(CudaError::OutOfPinnedMemory { bytes: bytes as u64 })?;
        // SAFETY: the driver gave this many bytes; written before anything reads them.
        unsafe { pointer.as_ptr().write_bytes(0, bytes) };
        Ok(Self { pointer, bytes, context: context.clone() })
    }

    /// The memory. What a copy under way touches is left alone, as whoever started it has promised.
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: the allocation is `bytes` long, initialised, and borrowed with `self`.
        unsafe { std::slice::from_raw_parts(self.pointer.as_ptr(), self.bytes) }
    }

    /// The memory, to write; likewise.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the allocation is `bytes` long, initialised, and borrowed with `self`.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.as_ptr(), self.bytes) }
    }

    /// Starts a copy of the bytes `range` to `offset` of `to`.
    ///
    /// # Safety
    /// Until `stream` has done the copy, nobody writes these bytes, and nobody drops this memory or `to`.
    pub(crate) unsafe fn upload(
        &self,
        range: Range<usize>,
        to: &DeviceMemory,
        offset: usize,
        stream: &Stream,
    ) -> Result<(), CudaError> {
        let from = &self.bytes()[range];
        assert!(offset.checked_add(from.len()).is_some_and(|end| end <= to.len()), "a copy beyond its memory");
        let to = to.address() + offset as u64;
        // SAFETY: both ranges were checked above; that they stay is the caller's promise.
        let status = unsafe { sys::cuMemcpyHtoDAsync_v2(to, from.as_ptr().cast(), from.len(), stream.handle()) };
        check("cuMemcpyHtoDAsync", status)
    }

    /// Starts a copy of `len` bytes from `offset` of `from` to the front of this memory.
    ///
    /// # Safety
    /// Until `stream` has done the copy, nobody reads or writes these bytes, and nobody drops this memory or `from`.
    pub(crate) unsafe fn download(
        &mut self,
        from: &DeviceMemory,
        offset: usize,
        len: usize,
        stream: &Stream,
    ) -> Result<(), CudaError> {
        assert!(
            len <= self.bytes && offset.checked_add(len).is_some_and(|end| end <= from.len()),
            "a copy beyond its memory"
        );
        let (to, from) = (self.pointer.as_ptr().cast(), from.address() + offset as u64);
        // SAFETY: both ranges were checked above; that they stay is the caller's promise.
        check("cuMemcpyDtoHAsync", unsafe { sys::cuMemcpyDtoHAsync_v2(to, from, len, stream.handle()) })
    }
}

impl Drop for PinnedMemory {
    fn drop(&mut self) {
        // A failure cannot be told from here; the memory goes with the process.
        let _ = self.context.synchronize();
        // SAFETY: allocated once by `new`, freed once here, and the GPU is idle.
        let _ = unsafe { sys::cuMemFreeHost(self.pointer.as_ptr().cast()) };
    }
}
