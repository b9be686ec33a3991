//! Another engine on the same GPU: its own handles, by the driver alone.
#![expect(unsafe_code, reason = "the driver is called as it is")]

use std::ffi::c_void;

use cudarc::driver::sys::{self, CUresult};
use tilesight::encoder::{DeviceEmbeddings, RawStream};

#[track_caller]
fn check(status: CUresult) {
    assert_eq!(status, CUresult::CUDA_SUCCESS);
}

/// A GPU in its primary context, current on this thread.
pub struct Engine {
    device: sys::CUdevice,
    context: sys::CUcontext,
}

impl Engine {
    pub fn new(ordinal: i32) -> Self {
        let (mut device, mut context) = (0, std::ptr::null_mut());
        // SAFETY: it may be called at any time.
        check(unsafe { sys::cuInit(0) });
        // SAFETY: the pointer is to a live number.
        check(unsafe { sys::cuDeviceGet(&mut device, ordinal) });
        // SAFETY: the pointer is to a live handle.
        check(unsafe { sys::cuDevicePrimaryCtxRetain(&mut context, device) });
        let engine = Self { device, context };
        engine.bind();
        engine
    }

    pub fn bind(&self) {
        // SAFETY: the context is retained.
        check(unsafe { sys::cuCtxSetCurrent(self.context) });
    }

    pub fn stream(&self) -> Stream {
        self.bind();
        let mut handle = std::ptr::null_mut();
        // SAFETY: the pointer is to a live handle. The stream does not wait for the default one.
        check(unsafe { sys::cuStreamCreate(&mut handle, 1) });
        Stream(handle)
    }

    /// A stream that is there without being created: all threads' default stream is null or 1, a thread's own is 2.
    pub fn default_stream(&self, handle: usize) -> Stream {
        self.bind();
        Stream(std::ptr::without_provenance_mut(handle))
    }

    pub fn event(&self) -> Event {
        self.bind();
        let mut handle = std::ptr::null_mut();
        // SAFETY: the pointer is to a live handle.
        check(unsafe { sys::cuEventCreate(&mut handle, 2) });
        Event(handle)
    }

    pub fn memory(&self, bytes: usize) -> Memory {
        self.bind();
        let mut address = 0;
        // SAFETY: the pointer is to a live address.
        check(unsafe { sys::cuMemAlloc_v2(&mut address, bytes) });
        Memory { address, bytes }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // SAFETY: retained once.
        check(unsafe { sys::cuDevicePrimaryCtxRelease_v2(self.device) });
    }
}

pub struct Stream(sys::CUstream);

impl Stream {
    pub fn raw(&self) -> RawStream {
        RawStream { stream: self.0.cast(), done: std::ptr::null_mut() }
    }

    pub fn with(&self, done: &Event) -> RawStream {
        RawStream { done: done.0.cast(), ..self.raw() }
    }

    /// Starts a copy that goes on after this returns, as far as the driver lets it.
    pub fn upload<T: bytemuck::Pod>(&self, values: &[T], to: &Memory) {
        let bytes: &[u8] = bytemuck::cast_slice(values);
        assert!(bytes.len() <= to.bytes);
        // SAFETY: the driver has read pageable memory when this returns.
        check(unsafe { sys::cuMemcpyHtoDAsync_v2(to.address, bytes.as_ptr().cast(), bytes.len(), self.0) });
    }

    /// Copies back what the stream was given before, and waits.
    pub fn download(&self, from: &Memory, bytes: usize) -> Vec<u8> {
        let mut values = vec![0u8; bytes];
        // SAFETY: the memory lives, and the wait below keeps it alive until it is written.
        check(unsafe { sys::cuMemcpyDtoHAsync_v2(values.as_mut_ptr().cast(), from.address, bytes, self.0) });
        // SAFETY: the stream lives.
        check(unsafe { sys::cuStreamSynchronize(self.0) });
        values
    }

    pub fn wait(&self, event: &Event) {
        // SAFETY: both live.
        check(unsafe { sys::cuStreamWaitEvent(self.0, event.0, 0) });
    }

    pub fn begin_capture(&self) {
        // SAFETY: the stream lives.
        check(unsafe {
            sys::cuStreamBeginCapture_v2(self.0, sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED)
        });
    }

    pub fn end_capture(&self) {
        let mut graph = std::ptr::null_mut();
        // SAFETY: the stream is being recorded.
        check(unsafe { sys::cuStreamEndCapture(self.0, &mut graph) });
        // SAFETY: destroyed once.
        check(unsafe { sys::cuGraphDestroy(graph) });
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.0.addr() > 2 {
            // SAFETY: created once.
            check(unsafe { sys::cuStreamDestroy_v2(self.0) });
        }
    }
}

pub struct Event(sys::CUevent);

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: created once.
        check(unsafe { sys::cuEventDestroy_v2(self.0) });
    }
}

pub struct Memory {
    pub address: u64,
    pub bytes: usize,
}

impl Memory {
    pub fn embeddings(&self) -> DeviceEmbeddings {
        DeviceEmbeddings { address: self.address, bytes: self.bytes }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated once, and nothing under way uses it.
        check(unsafe { sys::cuMemFree_v2(self.address) });
    }
}

/// Memory of the host's that the GPU may use.
pub struct Pinned(*mut c_void);

impl Pinned {
    pub fn new(bytes: usize) -> Self {
        let mut address: *mut c_void = std::ptr::null_mut();
        // SAFETY: the pointer is to a live pointer.
        check(unsafe { sys::cuMemHostAlloc(&mut address, bytes, 0) });
        Self(address)
    }

    pub fn address(&self) -> u64 {
        self.0 as u64
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: allocated once.
        check(unsafe { sys::cuMemFreeHost(self.0) });
    }
}
