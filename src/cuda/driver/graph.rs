//! Work that was recorded once and is launched whole.

use std::sync::Arc;

use cudarc::driver::sys::{self, CUstreamCaptureMode};

use super::{Context, Stream, check};
use crate::error::{CudaError, Error};

/// Recorded work, ready to launch.
#[derive(Debug)]
pub(crate) struct Graph {
    graph: sys::CUgraph,
    executable: sys::CUgraphExec,
    context: Arc<Context>,
}

// SAFETY: the handles are plain tokens of the driver; graphs may be used from any thread, one at a time.
unsafe impl Send for Graph {}

impl Graph {
    /// Records what `give` gives to `stream`, without doing it.
    ///
    /// # Errors
    /// Those of `give`, and the driver's.
    pub(crate) fn record(stream: &Stream, give: impl FnOnce() -> Result<(), Error>) -> Result<Self, Error> {
        let context = stream.context().clone();
        context.bind()?;
        // Other threads may allocate meanwhile: only this thread is held to what a capture forbids.
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives; the capture is ended below, whatever `give` says.
        check("cuStreamBeginCapture", unsafe { sys::cuStreamBeginCapture_v2(stream.handle(), mode) })?;
        let given = give();
        let mut graph = std::ptr::null_mut();
        let ended = end(stream, &mut graph);
        if ended.is_err() && graph.is_null() {
            // A capture that stayed open would refuse all later work; the first failure is the one that counts.
            let _ = end(stream, &mut graph);
        }
        let mut recorded = Self { graph, executable: std::ptr::null_mut(), context };
        given?;
        ended?;
        // SAFETY: the pointer is to a live handle; the graph is valid, for the capture ended well.
        let status = unsafe { sys::cuGraphInstantiateWithFlags(&mut recorded.executable, recorded.graph, 0) };
        check("cuGraphInstantiate", status)?;
        Ok(recorded)
    }

    /// Moves it to the GPU, so that the first launch costs what the others cost.
    pub(crate) fn upload(&self, stream: &Stream) -> Result<(), CudaError> {
        // SAFETY: both live.
        check("cuGraphUpload", unsafe { sys::cuGraphUpload(self.executable, stream.handle()) })
    }

    /// Gives the work to `stream`.
    ///
    /// # Safety
    /// The memory that the recorded work names is alive until it is done.
    pub(crate) unsafe fn launch(&self, stream: &Stream) -> Result<(), CudaError> {
        // SAFETY: both live; the memory is the caller's promise.
        check("cuGraphLaunch", unsafe { sys::cuGraphLaunch(self.executable, stream.handle()) })
    }
}

/// Ends the capture that was begun on `stream`.
fn end(stream: &Stream, graph: &mut sys::CUgraph) -> Result<(), CudaError> {
    // SAFETY: the stream lives, and the pointer is to a live handle.
    check("cuStreamEndCapture", unsafe { sys::cuStreamEndCapture(stream.handle(), graph) })
}

impl Drop for Graph {
    fn drop(&mut self) {
        // A failure cannot be told from here.
        let _ = self.context.bind();
        if !self.executable.is_null() {
            // SAFETY: instantiated once, destroyed once here; the driver lets a launch in flight end.
            let _ = unsafe { sys::cuGraphExecDestroy(self.executable) };
        }
        if !self.graph.is_null() {
            // SAFETY: captured once, destroyed once here.
            let _ = unsafe { sys::cuGraphDestroy(self.graph) };
        }
    }
}
