//! The driver, through the functions that it exports.

mod bindings;
mod capture;
mod faults;
mod gpu;
mod launch;
mod memory;
mod streams;
mod tensor_map;
