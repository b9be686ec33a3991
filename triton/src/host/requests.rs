//! Requests, inputs, responses and outputs.

use std::ffi::{c_char, c_void};
use std::ptr::{null, null_mut};

use super::{Error, GPU, Input, Output, RESPONSES, Request, Response, Status, refused, text};
use crate::api::{DataType, MemoryType, ParameterType};

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
