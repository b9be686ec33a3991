//! An answer: tensors written into memory of the server's.

use std::ffi::{CStr, c_void};
use std::ptr::{NonNull, null_mut};

use crate::api::{self, DataType, ErrorCode, MemoryType};
use crate::refusal::{Refusal, Result, check};

/// A response that was begun. It has to be sent; one that is dropped is deleted.
pub(crate) struct Response(*mut api::Response);

/// Memory of an output that is filled from the front.
pub(crate) struct Buffer {
    at: *mut u8,
    left: usize,
}

impl Response {
    /// # Safety
    /// The request is ours, and has no other response.
    pub(crate) unsafe fn new(request: NonNull<api::Request>) -> Result<Self> {
        let mut response = null_mut();
        // SAFETY: the caller's promise, and the response may be written.
        check(unsafe { api::TRITONBACKEND_ResponseNew(&raw mut response, request.as_ptr()) })?;
        Ok(Self(response))
    }

    /// Adds an output of this shape, and has it filled with `len` bytes.
    pub(crate) fn output(
        &mut self,
        name: &CStr,
        data_type: DataType,
        shape: &[usize],
        len: usize,
        fill: impl FnOnce(&mut Buffer),
    ) -> Result<()> {
        let shape: Vec<i64> = shape.iter().map(|size| *size as i64).collect();
        let mut output = null_mut();
        // SAFETY: the response was not sent, and name and shape are copied.
        check(unsafe {
            api::TRITONBACKEND_ResponseOutput(
                self.0,
                &raw mut output,
                name.as_ptr(),
                data_type,
                shape.as_ptr(),
                shape.len() as u32,
            )
        })?;
        let mut buffer: *mut c_void = null_mut();
        let (mut memory, mut device) = (MemoryType::CPU, 0);
        // SAFETY: the output is this response's, and all may be written.
        check(unsafe {
            api::TRITONBACKEND_OutputBuffer(output, &raw mut buffer, len as u64, &raw mut memory, &raw mut device)
        })?;
        if ![MemoryType::CPU, MemoryType::CPU_PINNED].contains(&memory) {
            let name = name.to_string_lossy();
            let message = format!("{name} is wanted in memory of GPU {device}: take it in memory of the host");
            return Err(Refusal::new(ErrorCode::UNSUPPORTED, message));
        }
        if buffer.is_null() && len > 0 {
            return Err(Refusal::new(
                ErrorCode::UNAVAILABLE,
                format!("there is no memory for {len} bytes of an output"),
            ));
        }
        let mut buffer = Buffer { at: buffer.cast(), left: len };
        fill(&mut buffer);
        // What was not written is whatever the server had there.
        assert_eq!(buffer.left, 0, "an output was not filled");
        Ok(())
    }

    /// Sends it, as it is or as a refusal.
    pub(crate) fn send(mut self, result: Result<()>) -> Result<()> {
        let error = result.map_or_else(Refusal::into_error, |()| null_mut());
        let response = std::mem::replace(&mut self.0, null_mut());
        // SAFETY: the response was not sent before, and is the server's from here on.
        let sent = unsafe { api::TRITONBACKEND_ResponseSend(response, api::RESPONSE_FINAL, error) };
        if !error.is_null() {
            // SAFETY: the error stayed ours.
            unsafe { api::TRITONSERVER_ErrorDelete(error) };
        }
        check(sent)
    }
}

impl Drop for Response {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: it was not sent, so it is ours. One that cannot be deleted is the server's loss.
            let _ = check(unsafe { api::TRITONBACKEND_ResponseDelete(self.0) });
        }
    }
}

impl Buffer {
    /// Writes bytes behind those that were written.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        let to = self.advance(bytes.len());
        // SAFETY: `advance` has found room for them, in memory that nobody else uses.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
    }

    /// Writes zeros likewise.
    pub(crate) fn zeros(&mut self, len: usize) {
        let to = self.advance(len);
        // SAFETY: as in `write`.
        unsafe { to.write_bytes(0, len) };
    }

    fn advance(&mut self, len: usize) -> *mut u8 {
        self.left = self.left.checked_sub(len).expect("an output is larger than its shape");
        let at = self.at;
        self.at = at.wrapping_add(len);
        at
    }
}
