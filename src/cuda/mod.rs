//! NVIDIA GPUs: kernels that reach the device through its driver. Only this module knows cudarc.

#[expect(unsafe_code, reason = "bindgen fills the structs with zeros, and tables of them are copied as bytes")]
pub(crate) mod abi;
pub mod architecture;
mod batch;
pub(crate) mod check;
#[expect(unsafe_code, reason = "calls of the driver")]
mod driver;
pub mod fatbin;
#[expect(unsafe_code, reason = "launches of kernels")]
mod ops;
#[cfg(test)]
mod ptxas;
