#![doc = include_str!("../README.md")]

pub mod config;
pub mod error;
pub mod image;

pub use config::EncoderConfig;
pub use error::{Error, Result};
