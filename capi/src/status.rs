//! What a call came to: a number for the program, and a message for the person behind it.

use std::any::Any;
use std::cell::RefCell;
use std::ffi::{CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

use engine::Error;
use engine::error::ErrorKind;

use crate::fork;

/// What a call came to.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It did what it says.
    Ok = 0,
    /// An argument is null, misaligned, of another size than it should be, or no text: nothing was done.
    InvalidArgument = 1,
    /// There is no such encoder, or no longer.
    InvalidHandle = 2,
    /// The memory for the embeddings is too small; what is needed has been said.
    TooSmall = 3,
    /// A picture cannot be read, or is beyond the limits.
    Image = 4,
    /// A tensor or an option does not fit the model.
    Input = 5,
    /// The configuration breaks a rule of the model.
    Config = 6,
    /// The checkpoint is absent, damaged, or of another model.
    Checkpoint = 7,
    /// A file cannot be read.
    Io = 8,
    /// Memory of the host or the GPU lacks for this call; others are not affected.
    OutOfMemory = 9,
    /// The device, the driver or the kernels asked for are not there.
    Unavailable = 10,
    /// A call to the GPU failed; others may succeed.
    Device = 11,
    /// The GPU or the encoder is lost to this process: no call on it will succeed again.
    Lost = 12,
    /// The embeddings are no numbers: the weights are damaged.
    NotFinite = 13,
    /// A fault of the library's own.
    Internal = 14,
    /// This process is a child of fork() of one that had used the library: nothing was done, and no call here will succeed.
    Forked = 15,
}

/// A refusal on its way out.
pub(crate) struct Refusal {
    pub(crate) status: Status,
    pub(crate) message: String,
}

impl Refusal {
    pub(crate) fn new(status: Status, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    pub(crate) fn argument(message: impl Into<String>) -> Self {
        Self::new(Status::InvalidArgument, message)
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let status = match error.kind() {
            ErrorKind::Image | ErrorKind::ImageFormat | ErrorKind::ImageTooLarge => Status::Image,
            ErrorKind::Input | ErrorKind::Overflow => Status::Input,
            ErrorKind::Config => Status::Config,
            ErrorKind::Checkpoint => Status::Checkpoint,
            ErrorKind::Io | ErrorKind::Hub => Status::Io,
            ErrorKind::OutOfMemory => Status::OutOfMemory,
            ErrorKind::Unavailable => Status::Unavailable,
            ErrorKind::NotFinite => Status::NotFinite,
            ErrorKind::Device => Status::Device,
            ErrorKind::DeviceLost => Status::Lost,
        };
        Self::new(status, error.to_string())
    }
}

thread_local! {
    static MESSAGE: RefCell<CString> = RefCell::default();
}

/// The message of this thread's last call that failed, UTF-8; empty before the first. It is valid until the thread's next
/// call that fails.
#[unsafe(no_mangle)]
pub extern "C" fn tilesight_error() -> *const c_char {
    MESSAGE.with_borrow(|message| message.as_ptr())
}

/// Runs what a function of the interface does, unless a child of fork() asks for it. Nothing unwinds into the caller.
pub(crate) fn call(body: impl FnOnce() -> Result<(), Refusal>) -> Status {
    let body = || fork::require_own_process().and_then(|()| body());
    let result = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| {
        Err(Refusal::new(Status::Internal, format!("a fault of the library's own: {}", said(&*panic))))
    });
    let Err(Refusal { status, message }) = result else { return Status::Ok };
    // A message with a zero in it ends there for C.
    let message: Vec<u8> = message.into_bytes().into_iter().filter(|byte| *byte != 0).collect();
    MESSAGE.with_borrow_mut(|kept| *kept = CString::new(message).unwrap_or_default());
    status
}

fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("it gave no reason")
}
