//! NVIDIA GPUs: kernels that reach the device through its driver. Only this module knows cudarc.

#[expect(unsafe_code, reason = "bindgen fills the structs with zeros, and tables of them are copied as bytes")]
pub(crate) mod abi;
pub mod architecture;
mod attention_groups;
mod backend;
mod batch;
mod caller_stream;
pub(crate) mod check;
#[expect(unsafe_code, reason = "calls of cuBLASLt")]
mod cublas;
#[expect(unsafe_code, reason = "calls of the driver")]
mod driver;
pub mod fatbin;
mod in_flight;
mod lower;
#[expect(unsafe_code, reason = "launches of kernels")]
mod ops;
mod replica;
#[expect(unsafe_code, reason = "copies from and to pinned memory")]
mod slot;
#[cfg(test)]
mod tests;
mod tuning;
mod weights;

/// Whether this build computes on GPUs: `stub.rs` stands for this module where it does not.
pub(crate) const IS_BUILT: bool = true;

pub(crate) use backend::{CudaBackend, best_form, best_gpu, require_hopper};
pub(crate) use batch::Places;
pub(crate) use caller_stream::{CallerStream, Enqueued};
pub(crate) use driver::{Context, ForeignStream, require_memory};
pub use in_flight::Computed;
pub(crate) use in_flight::InFlightBatch;
pub(crate) use tuning::kernels;
