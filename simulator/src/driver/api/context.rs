//! Primary contexts, and which of them is current on a thread.

use std::ffi::c_int;

use super::{Out, exports, put};
use crate::driver::state::{Driver, with_contexts};
use crate::driver::status::Result;
use crate::driver::{Status, Until};

/// A context's handle is this and its device's ordinal.
const HANDLE: usize = 0x50 << 40 | 1 << 8;

/// `CUcontext` of a device's primary context, or null.
pub(super) fn handle(device: Option<usize>) -> usize {
    device.map_or(0, |device| HANDLE | device)
}

impl Driver {
    /// The device of a context; none for null.
    fn context(&self, handle: usize) -> Result<Option<usize>> {
        self.initialized()?;
        if handle == 0 {
            return Ok(None);
        }
        let device = (0..self.devices.len()).find(|device| HANDLE | device == handle);
        let device = device.ok_or(Status::ERROR_INVALID_CONTEXT)?;
        if self.devices[device].retained == 0 {
            return Err(Status::ERROR_CONTEXT_IS_DESTROYED);
        }
        Ok(Some(device))
    }
}

exports! {
    /// The first retention creates the context.
    fn cuDevicePrimaryCtxRetain(context: Out<'_, usize>, device: c_int) |driver| {
        let device = driver.device(device)?;
        driver.healthy(device)?;
        put(context, handle(Some(device)))?;
        driver.devices[device].retained += 1;
        Ok(())
    }

    /// The last release destroys the context and all that is in it, and says so if there is something.
    fn cuDevicePrimaryCtxRelease_v2(device: c_int) |driver| {
        let device = driver.device(device)?;
        let retained = &mut driver.devices[device].retained;
        *retained = retained.checked_sub(1).ok_or(Status::ERROR_INVALID_CONTEXT)?;
        if *retained == 0 {
            driver.destroy_context(device);
        }
        Ok(())
    }

    /// Null leaves the thread without one.
    fn cuCtxSetCurrent(context: usize) |driver| {
        let context = driver.context(context)?;
        with_contexts(|contexts| {
            contexts.pop();
            contexts.extend(context.map(Some));
        });
        Ok(())
    }

    /// Null if there is none.
    fn cuCtxGetCurrent(context: Out<'_, usize>) |driver| {
        driver.initialized()?;
        put(context, with_contexts(|contexts| handle(contexts.last().copied().flatten())))
    }

    /// On top of the thread's current one.
    fn cuCtxPushCurrent_v2(context: usize) |driver| {
        let context = driver.context(context)?.ok_or(Status::ERROR_INVALID_VALUE)?;
        with_contexts(|contexts| contexts.push(Some(context)));
        Ok(())
    }

    /// Where the popped one is not wanted, the pointer may be null.
    fn cuCtxPopCurrent_v2(context: Out<'_, usize>) |driver| {
        driver.initialized()?;
        let popped = with_contexts(Vec::pop).ok_or(Status::ERROR_INVALID_CONTEXT)?;
        if context.is_some() {
            put(context, handle(popped))?;
        }
        Ok(())
    }

    /// Waits for all work of the current context.
    fn cuCtxSynchronize() |driver| {
        let device = driver.current()?;
        let is_recording = driver.invalidate(|capture| capture.graph.device == device);
        if is_recording {
            return Err(Status::ERROR_STREAM_CAPTURE_UNSUPPORTED);
        }
        driver.outside_of_captures()?;
        Ok(Until { device, work: driver.work_of(device) })
    }
}
