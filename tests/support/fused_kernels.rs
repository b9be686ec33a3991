//! The fused kernel set of the GPU that the tests of the CUDA backend run on.

use std::sync::OnceLock;

use tilesight::checkpoint::{RandomWeights, demo_config};
use tilesight::error::CudaError;
use tilesight::{Device, Dtype, Encoder, EncoderConfig, Error, Kernels};

/// Hopper's on a GPU of compute capability 9.0, the portable one on any other.
pub fn fused_kernels() -> Kernels {
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
