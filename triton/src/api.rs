//! The part of Triton's backend API that is used here: `tritonbackend.h` and `tritonserver.h` of the server's core. The
//! server's process has these functions; nothing is linked.

use std::ffi::{c_char, c_int, c_uint, c_void};

/// The API's version that this is written against: the first with all the functions below, that of release 23.10. A
/// server's major version must be the same, its minor version at least this.
pub(crate) const VERSION: [u32; 2] = [1, 16];

/// Types that are the server's alone.
macro_rules! opaque {
    ($($name:ident)*) => {$(
        #[repr(C)]
        pub(crate) struct $name {
            _private: [u8; 0],
        }
    )*};
}

opaque! { Error Message Backend BackendAttribute Model ModelInstance Request Input Response Output }

/// Numbers that the server has names for. Another release may have more of them than are known here.
macro_rules! named {
    ($($name:ident { $($value:ident = $number:literal)* })*) => {$(
        #[repr(transparent)]
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) struct $name(pub(crate) c_uint);

        impl $name {
            $(pub(crate) const $value: Self = Self($number);)*
        }
    )*};
}

named! {
    ErrorCode { INTERNAL = 1 NOT_FOUND = 2 INVALID_ARG = 3 UNAVAILABLE = 4 UNSUPPORTED = 5 CANCELLED = 7 }
    LogLevel { INFO = 0 ERROR = 2 }
    DataType { INT64 = 9 FP16 = 10 FP32 = 11 BYTES = 13 BF16 = 14 }
    MemoryType { CPU = 0 CPU_PINNED = 1 }
    GroupKind { CPU = 1 GPU = 2 }
    ParameterType { STRING = 0 }
}

/// The only way a request is given back here: for good.
pub(crate) const RELEASE_ALL: u32 = 1;
/// No response of the request comes after this one.
pub(crate) const RESPONSE_FINAL: u32 = 1;
/// The version of the model configuration's JSON.
pub(crate) const CONFIG_VERSION: u32 = 1;

unsafe extern "C" {
    pub(crate) fn TRITONSERVER_ErrorNew(code: ErrorCode, message: *const c_char) -> *mut Error;
    pub(crate) fn TRITONSERVER_ErrorDelete(error: *mut Error);
    pub(crate) fn TRITONSERVER_ErrorCode(error: *mut Error) -> ErrorCode;
    pub(crate) fn TRITONSERVER_ErrorMessage(error: *mut Error) -> *const c_char;
    pub(crate) fn TRITONSERVER_LogMessage(
        level: LogLevel,
        file: *const c_char,
        line: c_int,
        message: *const c_char,
    ) -> *mut Error;
    pub(crate) fn TRITONSERVER_MessageNewFromSerializedJson(
        message: *mut *mut Message,
        base: *const c_char,
        byte_size: usize,
    ) -> *mut Error;
    pub(crate) fn TRITONSERVER_MessageSerializeToJson(
        message: *mut Message,
        base: *mut *const c_char,
        byte_size: *mut usize,
    ) -> *mut Error;
    pub(crate) fn TRITONSERVER_MessageDelete(message: *mut Message) -> *mut Error;

    pub(crate) fn TRITONBACKEND_ApiVersion(major: *mut u32, minor: *mut u32) -> *mut Error;
    pub(crate) fn TRITONBACKEND_BackendAttributeAddPreferredInstanceGroup(
        attributes: *mut BackendAttribute,
        kind: GroupKind,
        count: u64,
        device_ids: *const u64,
        id_count: u64,
    ) -> *mut Error;
    pub(crate) fn TRITONBACKEND_BackendAttributeSetParallelModelInstanceLoading(
        attributes: *mut BackendAttribute,
        enabled: bool,
    ) -> *mut Error;

    pub(crate) fn TRITONBACKEND_ModelVersion(model: *mut Model, version: *mut u64) -> *mut Error;
    pub(crate) fn TRITONBACKEND_ModelRepository(
        model: *mut Model,
        artifact_type: *mut c_uint,
        location: *mut *const c_char,
    ) -> *mut Error;
    pub(crate) fn TRITONBACKEND_ModelConfig(
        model: *mut Model,
        config_version: u32,
        config: *mut *mut Message,
    ) -> *mut Error;
    pub(crate) fn TRITONBACKEND_ModelAutoCompleteConfig(model: *mut Model, auto_complete: *mut bool) -> *mut Error;
    pub(crate) fn TRITONBACKEND_ModelSetConfig(
        model: *mut Model,
        config_version: u32,
        config: *mut Message,
    ) -> *mut Error;
    pub(crate) fn TRITONBACKEND_ModelState(model: *mut Model, state: *mut *mut c_void) -> *mut Error;
    pub(crate) fn TRITONBACKEND_ModelSetState(model: *mut Model, state: *mut c_void) -> *mut Error;

    pub(crate) fn TRITONBACKEND_ModelInstanceName(instance: *mut ModelInstance, name: *mut *const c_char)
    -> *mut Error;
    pub(crate) fn TRITONBACKEND_ModelInstanceKind(instance: *mut ModelInstance, kind: *mut GroupKind) -> *mut Error;
    pub(crate) fn TRITONBACKEND_ModelInstanceDeviceId(instance: *mut ModelInstance, id: *mut i32) -> *mut Error;
    pub(crate) fn TRITONBACKEND_ModelInstanceModel(instance: *mut ModelInstance, model: *mut *mut Model) -> *mut Error;
    pub(crate) fn TRITONBACKEND_ModelInstanceState(instance: *mut ModelInstance, state: *mut *mut c_void)
    -> *mut Error;
    pub(crate) fn TRITONBACKEND_ModelInstanceSetState(instance: *mut ModelInstance, state: *mut c_void) -> *mut Error;
    pub(crate) fn TRITONBACKEND_ModelInstanceReportStatistics(
        instance: *mut ModelInstance,
        request: *mut Request,
        success: bool,
        exec_start_ns: u64,
        compute_start_ns: u64,
        compute_end_ns: u64,
        exec_end_ns: u64,
    ) -> *mut Error;
    pub(crate) fn TRITONBACKEND_ModelInstanceReportBatchStatistics(
        instance: *mut ModelInstance,
        batch_size: u64,
        exec_start_ns: u64,
        compute_start_ns: u64,
        compute_end_ns: u64,
        exec_end_ns: u64,
    ) -> *mut Error;

    pub(crate) fn TRITONBACKEND_RequestIsCancelled(request: *mut Request, is_cancelled: *mut bool) -> *mut Error;
    pub(crate) fn TRITONBACKEND_RequestParameterCount(request: *mut Request, count: *mut u32) -> *mut Error;
    pub(crate) fn TRITONBACKEND_RequestParameter(
        request: *mut Request,
        index: u32,
        key: *mut *const c_char,
        kind: *mut ParameterType,
        value: *mut *const c_void,
    ) -> *mut Error;
    pub(crate) fn TRITONBACKEND_RequestInputCount(request: *mut Request, count: *mut u32) -> *mut Error;
    pub(crate) fn TRITONBACKEND_RequestInputByIndex(
        request: *mut Request,
        index: u32,
        input: *mut *mut Input,
    ) -> *mut Error;
    pub(crate) fn TRITONBACKEND_RequestOutputCount(request: *mut Request, count: *mut u32) -> *mut Error;
    pub(crate) fn TRITONBACKEND_RequestOutputName(
        request: *mut Request,
        index: u32,
        name: *mut *const c_char,
    ) -> *mut Error;
    pub(crate) fn TRITONBACKEND_RequestRelease(request: *mut Request, flags: u32) -> *mut Error;
    pub(crate) fn TRITONBACKEND_InputProperties(
        input: *mut Input,
        name: *mut *const c_char,
        datatype: *mut DataType,
        shape: *mut *const i64,
        dims_count: *mut u32,
        byte_size: *mut u64,
        buffer_count: *mut u32,
    ) -> *mut Error;
    pub(crate) fn TRITONBACKEND_InputBuffer(
        input: *mut Input,
        index: u32,
        buffer: *mut *const c_void,
        byte_size: *mut u64,
        memory_type: *mut MemoryType,
        memory_type_id: *mut i64,
    ) -> *mut Error;

    pub(crate) fn TRITONBACKEND_ResponseNew(response: *mut *mut Response, request: *mut Request) -> *mut Error;
    pub(crate) fn TRITONBACKEND_ResponseOutput(
        response: *mut Response,
        output: *mut *mut Output,
        name: *const c_char,
        datatype: DataType,
        shape: *const i64,
        dims_count: u32,
    ) -> *mut Error;
    pub(crate) fn TRITONBACKEND_OutputBuffer(
        output: *mut Output,
        buffer: *mut *mut c_void,
        byte_size: u64,
        memory_type: *mut MemoryType,
        memory_type_id: *mut i64,
    ) -> *mut Error;
    pub(crate) fn TRITONBACKEND_ResponseSend(response: *mut Response, flags: u32, error: *mut Error) -> *mut Error;
    pub(crate) fn TRITONBACKEND_ResponseDelete(response: *mut Response) -> *mut Error;
}
