//! What could not be done, as the server takes it: a code and a message. Nothing unwinds into the server.

use std::any::Any;
use std::ffi::{CStr, CString};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::null_mut;

use tilesight::Error;
use tilesight::error::ErrorKind;

use crate::api::{self, ErrorCode, LogLevel};

/// A refusal on its way to the server.
#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    pub(crate) code: ErrorCode,
    pub(crate) message: String,
}

/// The result of everything that can be refused.
pub(crate) type Result<T> = std::result::Result<T, Refusal>;

impl Refusal {
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// What the caller sent or configured is wrong.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::INVALID_ARG, message)
    }

    /// What somebody's panic said.
    pub(crate) fn of_panic(panic: &(dyn Any + Send)) -> Self {
        let text = panic.downcast_ref::<&str>().copied();
        let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        let reason = text.unwrap_or("it gave no reason");
        Self::new(ErrorCode::INTERNAL, format!("a fault of the backend's own: {reason}"))
    }

    /// The server's own kind of error, which whoever gets it deletes.
    pub(crate) fn into_error(self) -> *mut api::Error {
        let message = text(&self.message);
        // SAFETY: the message ends with a zero, and the server copies it.
        unsafe { api::TRITONSERVER_ErrorNew(self.code, message.as_ptr()) }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let code = match error.kind() {
            ErrorKind::Config
            | ErrorKind::Checkpoint
            | ErrorKind::Image
            | ErrorKind::ImageFormat
            | ErrorKind::ImageTooLarge
            | ErrorKind::Input
            | ErrorKind::Overflow => ErrorCode::INVALID_ARG,
            ErrorKind::Unavailable => ErrorCode::UNSUPPORTED,
            ErrorKind::Io => ErrorCode::NOT_FOUND,
            ErrorKind::OutOfMemory | ErrorKind::DeviceLost => ErrorCode::UNAVAILABLE,
            ErrorKind::Hub | ErrorKind::NotFinite | ErrorKind::Device => ErrorCode::INTERNAL,
        };
        Self::new(code, error.to_string())
    }
}

/// What a call to the server came to.
pub(crate) fn check(error: *mut api::Error) -> Result<()> {
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: not null, so it is an error of the server's, and ours until it is deleted.
    let code = unsafe { api::TRITONSERVER_ErrorCode(error) };
    // SAFETY: as above.
    let message = unsafe { api::TRITONSERVER_ErrorMessage(error) };
    // SAFETY: the message ends with a zero and lives as long as the error.
    let message = unsafe { CStr::from_ptr(message) }.to_string_lossy().into_owned();
    // SAFETY: it is ours, and nothing of it is used any more.
    unsafe { api::TRITONSERVER_ErrorDelete(error) };
    Err(Refusal { code, message })
}

/// Runs what a function that the server calls does.
pub(crate) fn guarded(body: impl FnOnce() -> Result<()>) -> *mut api::Error {
    let result = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| Err(Refusal::of_panic(&*panic)));
    result.map_or_else(Refusal::into_error, |()| null_mut())
}

/// Writes a line to the server's log.
pub(crate) fn log(level: LogLevel, message: &str) {
    let message = text(&format!("tilesight: {message}"));
    // SAFETY: both texts end with a zero, and the server copies them.
    let error = unsafe { api::TRITONSERVER_LogMessage(level, c"tilesight".as_ptr(), 0, message.as_ptr()) };
    // There is nowhere left to say that the log cannot be written.
    let _ = check(error);
}

/// A text for C, in which a zero would be the end.
fn text(message: &str) -> CString {
    CString::new(message.replace('\0', "")).unwrap_or_default()
}
