//! Streams, which keep order, and events, which order streams among themselves.

use std::sync::Arc;

use cudarc::driver::sys::{self, CUevent_flags, CUstream_flags};

use super::context::StreamHandle;
use super::{Context, check};
use crate::error::CudaError;

/// A queue of work on the GPU, done in order.
#[derive(Debug)]
pub(crate) struct Stream {
    handle: sys::CUstream,
    context: Arc<Context>,
}

// SAFETY: a stream's handle is a plain token of the driver, whose functions may be called from any thread.
unsafe impl Send for Stream {}

impl Stream {
    /// A stream that does not wait for the default stream's work.
    pub(crate) fn new(context: &Arc<Context>) -> Result<Self, CudaError> {
        context.bind()?;
        let mut handle = std::ptr::null_mut();
        let flags = CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: the pointer is to a live handle; the stream is destroyed once, when this is dropped.
        check("cuStreamCreate", unsafe { sys::cuStreamCreate(&mut handle, flags) })?;
        context.add(StreamHandle(handle));
        Ok(Self { handle, context: context.clone() })
    }

    pub(crate) fn handle(&self) -> sys::CUstream {
        self.handle
    }

    pub(crate) fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// Waits until all work given so far is done; tells what went wrong in it.
    pub(crate) fn synchronize(&self) -> Result<(), CudaError> {
        self.context.bind()?;
        // SAFETY: the stream lives.
        check("cuStreamSynchronize", unsafe { sys::cuStreamSynchronize(self.handle) })
    }

    /// Lets work given later wait for `event`, as it was last recorded.
    pub(crate) fn wait(&self, event: &Event) -> Result<(), CudaError> {
        // SAFETY: both live.
        check("cuStreamWaitEvent", unsafe { sys::cuStreamWaitEvent(self.handle, event.handle, 0) })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // A failure cannot be told from here. Its work ends first: what it touches may be freed next.
        let _ = self.synchronize();
        self.context.remove(StreamHandle(self.handle));
        // SAFETY: created once by `new`, destroyed once here, and idle.
        let _ = unsafe { sys::cuStreamDestroy_v2(self.handle) };
    }
}

/// A point in a stream's work.
#[derive(Debug)]
pub(crate) struct Event {
    handle: sys::CUevent,
    context: Arc<Context>,
}

// SAFETY: an event's handle is a plain token of the driver, whose functions may be called from any thread.
unsafe impl Send for Event {}
// SAFETY: as above; recording an event that another thread waits for leaves that wait with the work it found.
unsafe impl Sync for Event {}

impl Event {
    /// An event that keeps order and no time.
    pub(crate) fn new(context: &Arc<Context>) -> Result<Self, CudaError> {
        Self::with_flags(context, CUevent_flags::CU_EVENT_DISABLE_TIMING)
    }

    /// An event that also keeps the time.
    pub(crate) fn timed(context: &Arc<Context>) -> Result<Self, CudaError> {
        Self::with_flags(context, CUevent_flags::CU_EVENT_DEFAULT)
    }

    /// Seconds from `start` to this one, both [`timed`](Self::timed), recorded and done.
    pub(crate) fn seconds_since(&self, start: &Self) -> Result<f64, CudaError> {
        let mut milliseconds = 0.0f32;
        // SAFETY: both live, and the pointer is to a live number.
        let status = unsafe { sys::cuEventElapsedTime_v2(&mut milliseconds, start.handle, self.handle) };
        check("cuEventElapsedTime", status)?;
        Ok(f64::from(milliseconds) / 1e3)
    }

    fn with_flags(context: &Arc<Context>, flags: CUevent_flags) -> Result<Self, CudaError> {
        context.bind()?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: the pointer is to a live handle; the event is destroyed once, when this is dropped.
        check("cuEventCreate", unsafe { sys::cuEventCreate(&mut handle, flags as u32) })?;
        Ok(Self { handle, context: context.clone() })
    }

    pub(super) fn handle(&self) -> sys::CUevent {
        self.handle
    }

    /// Marks the end of the work given to `stream` so far.
    pub(crate) fn record(&self, stream: &Stream) -> Result<(), CudaError> {
        // SAFETY: both live.
        check("cuEventRecord", unsafe { sys::cuEventRecord(self.handle, stream.handle()) })
    }

    /// Waits for the work before the last record; at once where there was none.
    pub(crate) fn synchronize(&self) -> Result<(), CudaError> {
        self.context.bind()?;
        // SAFETY: the event lives.
        check("cuEventSynchronize", unsafe { sys::cuEventSynchronize(self.handle) })
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // A failure cannot be told from here.
        let _ = self.context.bind();
        // SAFETY: created once, destroyed once here; the driver lets its work end.
        let _ = unsafe { sys::cuEventDestroy_v2(self.handle) };
    }
}
