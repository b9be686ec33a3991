//! The forms of the kernels that the tests of the CUDA backend run in.
#![allow(dead_code, reason = "each test file uses a part")]

use std::sync::OnceLock;

use tilesight::checkpoint::{RandomWeights, demo_config};
use tilesight::error::CudaError;
use tilesight::{Device, Dtype, Encoder, EncoderConfig, Error, Kernels};

/// On a GPU of compute capability 9.0 Hopper's form; the others, which are the same on every GPU, on the one of 8.0 that
/// `scripts/test` runs the same tests on.
pub fn forms() -> &'static [Kernels] {
    match fused() {
        Kernels::Hopper => &[Kernels::Hopper],
        _ => &[Kernels::Portable, Kernels::Cublas],
    }
}

/// The fused form of this GPU.
pub fn fused() -> Kernels {
    static FUSED: OnceLock<Kernels> = OnceLock::new();
    *FUSED.get_or_init(|| {
        let config = EncoderConfig { clip_num_layers: 1, clip_hidden_states: vec![], ..demo_config() };
        let encoder = Encoder::builder()
            .checkpoint(RandomWeights::new(&config, Dtype::Bf16, 0).unwrap().in_memory())
            .config(config)
            .device(Device::Cuda(vec![0]))
            .kernels(Kernels::Hopper)
            .build();
        match encoder {
            Ok(_) => Kernels::Hopper,
            Err(Error::Cuda(CudaError::Hopper { .. })) => Kernels::Portable,
            Err(error) => panic!("no encoder on this GPU: {error}"),
        }
    })
}
