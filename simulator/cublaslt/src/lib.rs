//! The part of cuBLASLt that the engine calls: products of bf16 and fp16 matrices, column-major, summed in f32.
//!
//! A product is computed on the host, when the simulated driver comes to it in its stream; the driver looks into whether
//! the matrices are there. What the engine does not use is `CUBLAS_STATUS_NOT_SUPPORTED`, with a line on standard error.

mod descriptors;
mod driver;
mod matmul;
mod product;
mod status;

use std::ffi::{c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

pub use descriptors::*;
pub use matmul::*;
pub use status::Status;

/// The release whose bindings the engine has: CUDA 13.0's.
const VERSION: usize = 130_000;

/// Every call: counted and failed by the driver if it is its turn to fail; panics end here.
fn call(name: &'static std::ffi::CStr, body: impl FnOnce() -> Result<(), Status>) -> Status {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        driver::count_call(name)?;
        body()
    }));
    match outcome {
        Ok(Ok(())) => Status::SUCCESS,
        Ok(Err(status)) => status,
        Err(_) => Status::INTERNAL_ERROR,
    }
}

/// The status for what exists and is not simulated.
fn unsupported(what: std::fmt::Arguments<'_>) -> Status {
    eprintln!("CUDA simulator: cuBLASLt: {what} is not simulated");
    Status::NOT_SUPPORTED
}

/// A handle: there is nothing behind it but that it was created.
struct Handle;

/// A handle, in the current context or any.
///
/// # Safety
///
/// The pointer is null or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtCreate(handle: Option<&mut *mut c_void>) -> Status {
    call(c"cublasLtCreate", || {
        let handle = handle.ok_or(Status::INVALID_VALUE)?;
        *handle = Box::into_raw(Box::new(Box::new(Handle))).cast();
        Ok(())
    })
}

/// The end of a handle.
///
/// # Safety
///
/// It was created, and is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtDestroy(handle: *mut c_void) -> Status {
    // SAFETY: the caller's promise.
    call(c"cublasLtDestroy", || unsafe { descriptors::destroy(handle.cast::<Box<Handle>>()) })
}

/// Of the CUDA release that is simulated.
#[unsafe(no_mangle)]
pub extern "C" fn cublasLtGetVersion() -> usize {
    VERSION
}

/// As in `cublas_api.h`.
#[unsafe(no_mangle)]
pub extern "C" fn cublasLtGetStatusName(status: Status) -> *const c_char {
    status.describe().0.as_ptr()
}

/// What it means.
#[unsafe(no_mangle)]
pub extern "C" fn cublasLtGetStatusString(status: Status) -> *const c_char {
    status.describe().1.as_ptr()
}

/// `cudaDataType`: the types that matrices may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Type {
    F32,
    F16,
    Bf16,
}

impl Type {
    fn of(number: c_int) -> Result<Self, Status> {
        match number {
            0 => Ok(Self::F32),
            2 => Ok(Self::F16),
            14 => Ok(Self::Bf16),
            other => Err(unsupported(format_args!("data type {other}"))),
        }
    }

    pub(crate) fn bytes(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }
}
