//! Errors, messages, models and instances.

use std::ffi::{c_char, c_int, c_uint, c_void};

use super::{Error, Instance, Message, Model, Request, Status, VERSION, text};
use crate::api::{ErrorCode, GroupKind, LogLevel};

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
