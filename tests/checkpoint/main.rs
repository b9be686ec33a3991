//! Configurations and weights: which files are read, what of them is refused, and what their content hash covers.

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
#[path = "../support/tiny_config.rs"]
mod tiny_config;

mod changed_files;
mod checkpoints;
mod config;
mod config_files;
mod content_hash;
mod damage;
mod formats;
mod random_weights;
mod resize;
mod tensors;
