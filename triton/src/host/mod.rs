//! A server for the tests: the functions of `api`, as far as they matter, over objects that say what became of them. It can
//! be what no server on the CPU is: it splits inputs into pieces, has memory of GPUs, and cancels.
//!
//! A reference is a pointer that is not null, and a box one that is handed over.

mod models;
mod requests;

use std::cell::{Cell, RefCell};
use std::ffi::{CStr, CString, c_char, c_void};

use serde_json::Value;

use crate::api::{DataType, ErrorCode, GroupKind, MemoryType};

/// What a call came to.
type Status = Option<Box<Error>>;

/// A memory type that is neither the host's nor pinned.
pub(crate) const GPU: MemoryType = MemoryType(2);

pub(crate) struct Error {
    pub(crate) code: ErrorCode,
    pub(crate) message: CString,
}

pub(crate) struct Model {
    pub(crate) folder: CString,
    pub(crate) config: RefCell<Value>,
    /// Whether the configuration may be completed.
    pub(crate) completes: bool,
    pub(crate) state: *mut c_void,
}

pub(crate) struct Instance {
    pub(crate) kind: GroupKind,
    /// The GPU's number.
    pub(crate) device: i32,
    pub(crate) model: *mut Model,
    pub(crate) state: *mut c_void,
    /// Of each batch its size and its times.
    pub(crate) batches: Vec<(u64, [u64; 4])>,
}

#[derive(Default)]
pub(crate) struct Request {
    pub(crate) inputs: Vec<Input>,
    pub(crate) outputs: Vec<CString>,
    pub(crate) dtype: Option<CString>,
    /// After how many questions the client is gone.
    pub(crate) cancelled_after: Option<usize>,
    /// Outputs lie on a GPU.
    pub(crate) takes_on_gpu: bool,
    pub(crate) asked: Cell<usize>,
    pub(crate) answer: Option<Result<Vec<Output>, (ErrorCode, String)>>,
    pub(crate) reported: Option<(bool, [u64; 4])>,
    pub(crate) released: bool,
}

pub(crate) struct Input {
    pub(crate) name: CString,
    pub(crate) data_type: DataType,
    pub(crate) shape: Vec<i64>,
    pub(crate) pieces: Vec<Vec<u8>>,
    pub(crate) memory: MemoryType,
}

pub(crate) struct Output {
    pub(crate) name: String,
    pub(crate) data_type: DataType,
    pub(crate) shape: Vec<i64>,
    pub(crate) bytes: Vec<u8>,
    on_gpu: bool,
}

/// JSON.
struct Message(Vec<u8>);

struct Response {
    request: *mut Request,
    /// Each is filled before the next is begun.
    outputs: Vec<Output>,
}

thread_local! {
    /// The API's version that a server claims to have.
    pub(crate) static VERSION: Cell<[u32; 2]> = const { Cell::new(crate::api::VERSION) };
    static RESPONSES: Cell<isize> = const { Cell::new(0) };
}

/// Responses of this thread that were neither sent nor deleted.
pub(crate) fn open_responses() -> isize {
    RESPONSES.get()
}

fn refused(message: &str) -> Status {
    Some(Box::new(Error { code: ErrorCode::INTERNAL, message: CString::new(message).unwrap() }))
}

/// The text behind a pointer of ours, which ends with a zero.
fn text(pointer: *const c_char) -> CString {
    // SAFETY: all texts that reach these functions end with a zero.
    unsafe { CStr::from_ptr(pointer) }.to_owned()
}
