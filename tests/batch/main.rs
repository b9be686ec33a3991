//! Requests of many callers in one queue, before one encoder.

#[path = "../support/golden_data.rs"]
mod golden_data;
#[path = "../support/noise.rs"]
mod noise;
#[path = "../support/on_cpu.rs"]
mod on_cpu;
#[path = "../support/tiny_config.rs"]
mod tiny_config;

mod ahead;
mod batcher;
mod overload;
mod queue;
