//! Encoders that do not look for a GPU.

use tilesight::Encoder;
use tilesight::encoder::{Device, EncoderBuilder};

/// An encoder on the CPU, also where there is a GPU.
pub fn on_cpu() -> EncoderBuilder {
    Encoder::builder().device(Device::Cpu)
}
