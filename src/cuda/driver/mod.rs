//! Owners of what the driver hands out: contexts, memory, streams, events, graphs, modules. Nothing here knows the model.
//!
//! Every owner keeps its context alive and frees what it owns when dropped. Handles belong to a context; the calls that
//! need it current make it so themselves.

mod context;
mod foreign;
mod graph;
mod memory;
mod module;
mod stream;
mod tensor_map;

use cudarc::driver::sys::CUresult;

use crate::error::CudaError;
pub(crate) use context::{Context, DeviceModel, list_devices};
pub(crate) use foreign::{ForeignStream, require_memory};
pub(crate) use graph::Graph;
pub(crate) use memory::{DeviceMemory, PinnedMemory};
pub(crate) use module::{Function, Module};
pub(crate) use stream::{Event, Stream};
pub(crate) use tensor_map::{Swizzle, Tiled};

/// Turns a status into an error that names the call.
pub(crate) fn check(call: &'static str, status: CUresult) -> Result<(), CudaError> {
    if status == CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    Err(CudaError::Driver { call, name: format!("{status:?}"), code: status as u32, fatal: is_fatal(status) })
}

/// Whether a status means that the context is gone: the driver's manual says of these that the process must be
/// terminated and relaunched.
fn is_fatal(status: CUresult) -> bool {
    matches!(
        status,
        CUresult::CUDA_ERROR_DEINITIALIZED
            | CUresult::CUDA_ERROR_ECC_UNCORRECTABLE
            | CUresult::CUDA_ERROR_NVLINK_UNCORRECTABLE
            | CUresult::CUDA_ERROR_CONTAINED
            | CUresult::CUDA_ERROR_ILLEGAL_ADDRESS
            | CUresult::CUDA_ERROR_LAUNCH_TIMEOUT
            | CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED
            | CUresult::CUDA_ERROR_ASSERT
            | CUresult::CUDA_ERROR_HARDWARE_STACK_ERROR
            | CUresult::CUDA_ERROR_ILLEGAL_INSTRUCTION
            | CUresult::CUDA_ERROR_MISALIGNED_ADDRESS
            | CUresult::CUDA_ERROR_INVALID_ADDRESS_SPACE
            | CUresult::CUDA_ERROR_INVALID_PC
            | CUresult::CUDA_ERROR_LAUNCH_FAILED
            | CUresult::CUDA_ERROR_TENSOR_MEMORY_LEAK
            | CUresult::CUDA_ERROR_MPS_CLIENT_TERMINATED
            | CUresult::CUDA_ERROR_EXTERNAL_DEVICE
    )
}
