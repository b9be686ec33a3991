//! What a call returns.

use std::ffi::CStr;

/// `cublasStatus_t`.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(pub u32);

macro_rules! statuses {
    ($($name:ident = $number:literal, $text:literal;)*) => {
        impl Status {
            $(#[doc = concat!("`CUBLAS_STATUS_", stringify!($name), "`.")]
            pub const $name: Self = Self($number);)*

            /// The name in `cublas_api.h` and what it means.
            pub(crate) fn describe(self) -> (&'static CStr, &'static CStr) {
                match self.0 {
                    $($number => (text(concat!("CUBLAS_STATUS_", stringify!($name), "\0")), $text),)*
                    _ => (c"unknown", c"unknown"),
                }
            }
        }
    };
}

statuses! {
    SUCCESS = 0, c"success";
    NOT_INITIALIZED = 1, c"the library was not initialized";
    ALLOC_FAILED = 3, c"an allocation failed";
    INVALID_VALUE = 7, c"an unsupported value or parameter was passed";
    ARCH_MISMATCH = 8, c"the device lacks a feature";
    MAPPING_ERROR = 11, c"memory could not be mapped";
    EXECUTION_FAILED = 13, c"the GPU program failed to execute";
    INTERNAL_ERROR = 14, c"an internal operation failed";
    NOT_SUPPORTED = 15, c"the requested functionality is not supported";
    LICENSE_ERROR = 16, c"the licence could not be checked";
}

fn text(with_zero: &'static str) -> &'static CStr {
    CStr::from_bytes_with_nul(with_zero.as_bytes()).unwrap_or(c"unknown")
}
