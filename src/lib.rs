#![doc = include_str!("../README.md")]

pub mod batch;
pub mod checkpoint;
#[cfg(feature = "cli")]
pub mod cli;
pub mod config;
mod cpu;
#[cfg_attr(not(feature = "cuda-unversioned"), path = "cuda/stub.rs")]
#[cfg_attr(
    not(feature = "cli"),
    allow(dead_code, unused_imports, reason = "checks, benchmarks and plans of kernels serve the command line alone")
)]
mod cuda;
mod digest;
mod dtype;
#[cfg(any(feature = "cli", feature = "serve"))]
mod embeddings_file;
pub mod encoder;
pub mod error;
pub mod image;
mod interrupt;
mod memory;
pub mod plan;
#[cfg(feature = "serve")]
pub mod serve;
#[cfg(any(feature = "cli", feature = "serve"))]
mod stages;

pub use config::EncoderConfig;
pub use digest::Digest;
pub use dtype::Dtype;
pub use encoder::{Device, Encoder, Encodings, Identity, Kernels, PixelEncodings, Pixels, Tune};
pub use error::{Error, Result};
