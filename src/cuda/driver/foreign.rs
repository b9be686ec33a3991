//! Streams, events and memory of somebody else's, by their raw handles. Whoever hands them over has promised that they
//! live; what the driver can tell of them is looked at all the same.

use std::ffi::{c_int, c_uint, c_void};

use cudarc::driver::sys::{self, CUcontext, CUmemorytype, CUpointer_attribute, CUstreamCaptureStatus};

use super::{Context, Event, Stream, check};
use crate::error::{Error, InputError};

/// A stream of the caller's, in a GPU's primary context.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ForeignStream(sys::CUstream);

impl ForeignStream {
    /// The stream of this handle; null is the default stream.
    ///
    /// # Errors
    /// [`InputError::Handle`] for a stream of another context, and for one that is being recorded;
    /// [`CudaError::Driver`](crate::error::CudaError::Driver).
    ///
    /// # Safety
    /// The handle is a stream's, which lives as long as this is used.
    pub(crate) unsafe fn new(context: &Context, handle: *mut c_void) -> Result<Self, Error> {
        context.bind()?;
        let handle: sys::CUstream = handle.cast();
        let mut status = CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
        // SAFETY: the caller's promise; the pointer is to a live status.
        check("cuStreamIsCapturing", unsafe { sys::cuStreamIsCapturing(handle, &mut status) })?;
        let refuse = |reason| Error::from(InputError::Handle { name: "stream", reason });
        if status != CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE {
            return Err(refuse("it is being recorded into a graph"));
        }
        let mut owner: CUcontext = std::ptr::null_mut();
        // SAFETY: the caller's promise; the pointer is to a live handle.
        check("cuStreamGetCtx", unsafe { sys::cuStreamGetCtx(handle, &mut owner) })?;
        if owner != context.handle() {
            return Err(refuse("it belongs to another context than the GPU's primary one"));
        }
        Ok(Self(handle))
    }

    /// Marks the end of what the stream was given so far.
    pub(crate) fn record(&self, event: &Event) -> Result<(), Error> {
        // SAFETY: the event lives, and so does the stream, as `new` was promised.
        Ok(check("cuEventRecord", unsafe { sys::cuEventRecord(event.handle(), self.0) })?)
    }

    /// Marks it in an event of the caller's.
    ///
    /// # Safety
    /// The handle is an event's, which lives.
    pub(crate) unsafe fn record_foreign(&self, event: *mut c_void) -> Result<(), Error> {
        // SAFETY: the caller's promise, and `new`'s.
        Ok(check("cuEventRecord", unsafe { sys::cuEventRecord(event.cast(), self.0) })?)
    }

    /// Lets what the stream is given later wait for `event`.
    pub(crate) fn wait(&self, event: &Event) -> Result<(), Error> {
        // SAFETY: as for `record`.
        Ok(check("cuStreamWaitEvent", unsafe { sys::cuStreamWaitEvent(self.0, event.handle(), 0) })?)
    }
}

impl Stream {
    /// Lets work given later wait for all that the caller's stream was given so far, which `event` is there to mark.
    pub(crate) fn follow(&self, stream: &ForeignStream, event: &Event) -> Result<(), Error> {
        stream.record(event)?;
        Ok(self.wait(event)?)
    }
}

/// Checks that `bytes` bytes from an address on are memory of the GPU, as far as the driver tells: that the first and the
/// last are. `alignment` is in bytes.
///
/// # Errors
/// [`InputError::DeviceMemory`].
pub(crate) fn require_memory(
    context: &Context,
    name: &'static str,
    address: u64,
    bytes: usize,
    alignment: u64,
) -> Result<(), Error> {
    context.bind()?;
    let refuse = |found: String| -> Result<(), Error> {
        let (bytes, ordinal) = (bytes as u64, context.ordinal());
        Err(InputError::DeviceMemory { name, address, bytes, ordinal, found }.into())
    };
    if !address.is_multiple_of(alignment) {
        return refuse(format!("an address that is not a multiple of {alignment}"));
    }
    let Some(last) = (bytes as u64).checked_sub(1).and_then(|last| address.checked_add(last)) else {
        return refuse("no such range".to_string());
    };
    for address in [address, last] {
        let mut kind: c_uint = 0;
        // SAFETY: the attribute is an unsigned integer's, and the pointer is to one.
        let found = unsafe { attribute(CUpointer_attribute::CU_POINTER_ATTRIBUTE_MEMORY_TYPE, &mut kind, address) };
        if !found || kind != CUmemorytype::CU_MEMORYTYPE_DEVICE as c_uint {
            return refuse(format!("none at {address:#x}"));
        }
        let mut ordinal: c_int = -1;
        // SAFETY: the attribute is an integer's, and the pointer is to one.
        unsafe { attribute(CUpointer_attribute::CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, &mut ordinal, address) };
        if usize::try_from(ordinal) != Ok(context.ordinal()) {
            return refuse(format!("memory of GPU {ordinal}"));
        }
    }
    Ok(())
}

/// Asks the driver about an address; whether it knows.
///
/// # Safety
/// `T` is the attribute's type.
unsafe fn attribute<T>(attribute: CUpointer_attribute, value: &mut T, address: u64) -> bool {
    // SAFETY: the pointer is to a live value of the attribute's type; any address may be asked about.
    let status = unsafe { sys::cuPointerGetAttribute(std::ptr::from_mut(value).cast(), attribute, address) };
    check("cuPointerGetAttribute", status).is_ok()
}
