//! A server for the tests: the functions of `api`, as far as they matter, over objects that say what became of them. It can
//! be what no server on the CPU is: it splits inputs into pieces, has memory of GPUs, and cancels.
//!
//! A reference is a pointer that is not null, and a box one that is handed over.

use std::cell::{Cell, RefCell};
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::ptr::{null, null_mut};

use serde_json::Value;

use crate::api::{DataType, ErrorCode, GroupKind, LogLevel, MemoryType, ParameterType};

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

#[unsafe(no_mangle)]
extern "C" fn TRITONSERVER_ErrorNew(code: ErrorCode, message: *const c_char) -> Box<Error> {
    Box::new(Error { code, message: text(message) })
}

#[unsafe(no_mangle)]
extern "C" fn TRITONSERVER_ErrorDelete(_error: Box<Error>) {}

#[unsafe(no_mangle)]
extern "C" fn TRITONSERVER_ErrorCode(error: &Error) -> ErrorCode {
    error.code
}

#[unsafe(no_mangle)]
extern "C" fn TRITONSERVER_ErrorMessage(error: &Error) -> *const c_char {
    error.message.as_ptr()
}

#[unsafe(no_mangle)]
extern "C" fn TRITONSERVER_LogMessage(_: LogLevel, _: *const c_char, _: c_int, message: *const c_char) -> Status {
    println!("{}", text(message).to_string_lossy());
    None
}

#[unsafe(no_mangle)]
extern "C" fn TRITONSERVER_MessageNewFromSerializedJson(
    message: &mut *mut Message,
    base: *const u8,
    byte_size: usize,
) -> Status {
    // SAFETY: the backend says how many bytes there are.
    let json = unsafe { std::slice::from_raw_parts(base, byte_size) };
    *message = Box::into_raw(Box::new(Message(json.to_vec())));
    None
}

#[unsafe(no_mangle)]
extern "C" fn TRITONSERVER_MessageSerializeToJson(
    message: &Message,
    base: &mut *const u8,
    byte_size: &mut usize,
) -> Status {
    (*base, *byte_size) = (message.0.as_ptr(), message.0.len());
    None
}

#[unsafe(no_mangle)]
extern "C" fn TRITONSERVER_MessageDelete(_message: Box<Message>) -> Status {
    None
}

#[unsafe(no_mangle)]
extern "C" fn TRITONBACKEND_ApiVersion(major: &mut u32, minor: &mut u32) -> Status {
    [*major, *minor] = VERSION.get();
    None
}

#[unsafe(no_mangle)]
extern "C" fn TRITONBACKEND_BackendAttributeAddPreferredInstanceGroup(
    preferred: &mut Vec<GroupKind>,
    kind: GroupKind,
    _: u64,
    _: *const u64,
    _: u64,
) -> Status {
    preferred.push(kind);
    None
}

#[unsafe(no_mangle)]
extern "C" fn TRITONBACKEND_BackendAttributeSetParallelModelInstanceLoading(_: &mut Vec<GroupKind>, _: bool) -> Status {
    None
}

#[unsafe(no_mangle)]
extern "C" fn TRITONBACKEND_ModelVersion(_model: &Model, version: &mut u64) -> Status {
    *version = 1;
    None
}

#[unsafe(no_mangle)]
extern "C" fn TRITONBACKEND_ModelRepository(model: &Model, kind: &mut c_uint, at: &mut *const c_char) -> Status {
    (*kind, *at) = (0, model.folder.as_ptr());
    None
}

#[unsafe(no_mangle)]
extern "C" fn TRITONBACKEND_ModelConfig(model: &Model, _version: u32, config: &mut *mut Message) -> Status {
    *config = Box::into_raw(Box::new(Message(model.config.borrow().to_string().into_bytes())));
    None
}

#[unsafe(no_mangle)]
extern "C" fn TRITONBACKEND_ModelAutoCompleteConfig(model: &Model, completes: &mut bool) -> Status {
    *completes = model.completes;
    None
}

#[unsafe(no_mangle)]
extern "C" fn TRITONBACKEND_ModelSetConfig(model: &Model, _version: u32, config: &Message) -> Status {
    *model.config.borrow_mut() = serde_json::from_slice(&config.0).unwrap();
    None
}

#[unsafe(no_mangle)]
extern "C" fn TRITONBACKEND_ModelState(model: &Model, state: &mut *mut c_void) -> Status {
    *state = model.state;
    None
}

#[unsafe(no_mangle)]
extern "C" fn TRITONBACKEND_ModelSetState(model: &mut Model, state: *mut c_void) -> Status {
    model.state = state;
    None
}

#[unsafe(no_mangle)]
extern "C" fn TRITONBACKEND_ModelInstanceName(_instance: &Instance, name: &mut *const c_char) -> Status {
    *name = c"instance_0".as_ptr();
    None
}

#[unsafe(no_mangle)]
extern "C" fn TRITONBACKEND_ModelInstanceKind(instance: &Instance, kind: &mut GroupKind) -> Status {
    *kind = instance.kind;
    None
}

#[unsafe(no_mangle)]
extern "C" fn TRITONBACKEND_ModelInstanceDeviceId(instance: &Instance, id: &mut i32) -> Status {
    *id = instance.device;
    None
}

#[unsafe(no_mangle)]
extern "C" fn TRITONBACKEND_ModelInstanceModel(instance: &Instance, model: &mut *mut Model) -> Status {
    *model = instance.model;
    None
}

#[unsafe(no_mangle)]
extern "C" fn TRITONBACKEND_ModelInstanceState(instance: &Instance, state: &mut *mut c_void) -> Status {
    *state = instance.state;
    None
}

#[unsafe(no_mangle)]
extern "C" fn TRITONBACKEND_ModelInstanceSetState(instance: &mut Instance, state: *mut c_void) -> Status {
    instance.state = state;
    None
}

#[unsafe(no_mangle)]
extern "C" fn TRITONBACKEND_ModelInstanceReportStatistics(
    _instance: &Instance,
    request: &mut Request,
    success: bool,
    exec_start: u64,
    compute_start: u64,
    compute_end: u64,
    exec_end: u64,
) -> Status {
    assert!(
        request.reported.is_none() && !request.released,
        "statistics come once, and before the request is released"
    );
    request.reported = Some((success, [exec_start, compute_start, compute_end, exec_end]));
    None
}

#[unsafe(no_mangle)]
extern "C" fn TRITONBACKEND_ModelInstanceReportBatchStatistics(
    instance: &mut Instance,
    batch_size: u64,
    exec_start: u64,
    compute_start: u64,
    compute_end: u64,
    exec_end: u64,
) -> Status {
    instance.batches.push((batch_size, [exec_start, compute_start, compute_end, exec_end]));
    None
}

#[unsafe(no_mangle)]
extern "C" fn TRITONBACKEND_RequestIsCancelled(request: &Request, is_cancelled: &mut bool) -> Status {
    *is_cancelled = request.cancelled_after.is_some_and(|after| request.asked.get() >= after);
    request.asked.set(request.asked.get() + 1);
    None
}

#[unsafe(no_mangle)]
extern "C" fn TRITONBACKEND_RequestParameterCount(request: &Request, count: &mut u32) -> Status {
    *count = 1 + u32::from(request.dtype.is_some());
    None
}

/// The first parameter is somebody else's.
#[unsafe(no_mangle)]
extern "C" fn TRITONBACKEND_RequestParameter(
    request: &Request,
    index: u32,
    key: &mut *const c_char,
    kind: &mut ParameterType,
    value: &mut *const c_void,
) -> Status {
    let (name, text) = match (&request.dtype, index) {
        (Some(dtype), 1) => (c"dtype", dtype.as_ptr()),
        _ => (c"somebody's", c"own".as_ptr()),
    };
    (*key, *kind, *value) = (name.as_ptr(), ParameterType::STRING, text.cast());
    None
}

#[unsafe(no_mangle)]
extern "C" fn TRITONBACKEND_RequestInputCount(request: &Request, count: &mut u32) -> Status {
    *count = request.inputs.len() as u32;
    None
}

#[unsafe(no_mangle)]
extern "C" fn TRITONBACKEND_RequestInputByIndex(request: &mut Request, index: u32, input: &mut *mut Input) -> Status {
    *input = &raw mut request.inputs[index as usize];
    None
}

#[unsafe(no_mangle)]
extern "C" fn TRITONBACKEND_RequestOutputCount(request: &Request, count: &mut u32) -> Status {
    *count = request.outputs.len() as u32;
    None
}

#[unsafe(no_mangle)]
extern "C" fn TRITONBACKEND_RequestOutputName(request: &Request, index: u32, name: &mut *const c_char) -> Status {
    *name = request.outputs[index as usize].as_ptr();
    None
}

#[unsafe(no_mangle)]
extern "C" fn TRITONBACKEND_RequestRelease(request: &mut Request, flags: u32) -> Status {
    assert_eq!(flags, crate::api::RELEASE_ALL);
    assert!(!request.released, "a request is released once");
    request.released = true;
    None
}

#[unsafe(no_mangle)]
extern "C" fn TRITONBACKEND_InputProperties(
    input: &Input,
    name: &mut *const c_char,
    data_type: &mut DataType,
    shape: &mut *const i64,
    dims_count: &mut u32,
    byte_size: &mut u64,
    buffer_count: &mut u32,
) -> Status {
    *name = input.name.as_ptr();
    *data_type = input.data_type;
    (*shape, *dims_count) = (input.shape.as_ptr(), input.shape.len() as u32);
    *byte_size = input.pieces.iter().map(|piece| piece.len() as u64).sum();
    *buffer_count = input.pieces.len() as u32;
    None
}

#[unsafe(no_mangle)]
extern "C" fn TRITONBACKEND_InputBuffer(
    input: &Input,
    index: u32,
    buffer: &mut *const c_void,
    byte_size: &mut u64,
    memory: &mut MemoryType,
    device: &mut i64,
) -> Status {
    let piece = &input.pieces[index as usize];
    // Nobody reads memory of a GPU here, so it may be nowhere; nor what is empty.
    *buffer = if input.memory == GPU || piece.is_empty() { null() } else { piece.as_ptr().cast() };
    (*byte_size, *memory, *device) = (piece.len() as u64, input.memory, 3);
    None
}

#[unsafe(no_mangle)]
extern "C" fn TRITONBACKEND_ResponseNew(response: &mut *mut Response, request: &mut Request) -> Status {
    assert!(request.answer.is_none() && !request.released, "a request has one response");
    RESPONSES.set(RESPONSES.get() + 1);
    *response = Box::into_raw(Box::new(Response { request, outputs: Vec::new() }));
    None
}

#[unsafe(no_mangle)]
extern "C" fn TRITONBACKEND_ResponseOutput(
    response: &mut Response,
    output: &mut *mut Output,
    name: *const c_char,
    data_type: DataType,
    shape: *const i64,
    dims_count: u32,
) -> Status {
    // SAFETY: the backend says how many dimensions there are.
    let shape = unsafe { std::slice::from_raw_parts(shape, dims_count as usize) }.to_vec();
    // SAFETY: requests of the tests outlive their responses.
    let on_gpu = unsafe { &*response.request }.takes_on_gpu;
    let name = text(name).into_string().unwrap();
    response.outputs.push(Output { name, data_type, shape, bytes: Vec::new(), on_gpu });
    *output = response.outputs.last_mut().map_or(null_mut(), |output| &raw mut *output);
    None
}

/// Memory that is not zeros to begin with.
#[unsafe(no_mangle)]
extern "C" fn TRITONBACKEND_OutputBuffer(
    output: &mut Output,
    buffer: &mut *mut c_void,
    byte_size: u64,
    memory: &mut MemoryType,
    device: &mut i64,
) -> Status {
    if byte_size > 1 << 30 {
        return refused("there is not so much memory");
    }
    if output.on_gpu {
        (*buffer, *memory, *device) = (null_mut(), GPU, 3);
        return None;
    }
    output.bytes = vec![0xa5; byte_size as usize];
    (*buffer, *memory, *device) = (output.bytes.as_mut_ptr().cast(), MemoryType::CPU_PINNED, 0);
    None
}

#[unsafe(no_mangle)]
extern "C" fn TRITONBACKEND_ResponseSend(response: Box<Response>, flags: u32, error: Option<&Error>) -> Status {
    assert_eq!(flags, crate::api::RESPONSE_FINAL);
    RESPONSES.set(RESPONSES.get() - 1);
    // SAFETY: requests of the tests outlive their responses.
    let request = unsafe { &mut *response.request };
    request.answer = Some(match error {
        Some(error) => Err((error.code, error.message.to_string_lossy().into_owned())),
        None => Ok(response.outputs),
    });
    None
}

#[unsafe(no_mangle)]
extern "C" fn TRITONBACKEND_ResponseDelete(_response: Box<Response>) -> Status {
    RESPONSES.set(RESPONSES.get() - 1);
    None
}
