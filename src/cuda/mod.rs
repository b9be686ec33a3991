//! NVIDIA GPUs: kernels that reach the device through its driver.

#[expect(unsafe_code, reason = "bindgen fills the structs with zeros")]
pub mod abi;
#[cfg_attr(not(test), expect(dead_code, reason = "the device that loads the kernels will ask"))]
pub mod architecture;
#[cfg_attr(not(test), expect(dead_code, reason = "the device that loads the kernels will ask"))]
pub mod fatbin;
#[cfg(test)]
mod ptxas;
