//! The encoder on the CPU: its golden data, its input rules, batches, and every file that a fuzz target starts from.

#[path = "../support/closeness.rs"]
mod closeness;
#[path = "../support/difference.rs"]
mod difference;
#[path = "../support/golden_cases.rs"]
mod golden_cases;
#[path = "../support/golden_data.rs"]
mod golden_data;
#[path = "../support/golden_tensors.rs"]
mod golden_tensors;
#[path = "../support/noise.rs"]
mod noise;
#[path = "../support/on_cpu.rs"]
mod on_cpu;
#[path = "../support/ragged_tiles.rs"]
mod ragged_tiles;
#[path = "../support/trace.rs"]
mod trace;

mod batching;
mod comparer;
mod fuzz_corpus;
mod golden;
mod input_rules;
