#![doc = include_str!("../README.md")]

pub mod checkpoint;
pub mod config;
mod dtype;
pub mod plan;
pub mod error;
pub mod image;

pub use dtype::Dtype;
pub use config::EncoderConfig;
pub use error::{Error, Result};
