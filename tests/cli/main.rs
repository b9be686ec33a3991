//! The command line: each test runs the program.

#[path = "../support/closeness.rs"]
mod closeness;
#[path = "../support/difference.rs"]
mod difference;
#[path = "../support/golden_data.rs"]
mod golden_data;
#[path = "../support/golden_tensors.rs"]
mod golden_tensors;
#[path = "../support/on_cpu.rs"]
mod on_cpu;

mod bench;
mod contract;
#[cfg(feature = "hub")]
mod hub;
