//! The CUDA backend on a GPU or on the simulated one: `scripts/on-simulator cargo test --features cuda --test cuda`.
//! Tests that have calls of the driver fail are in `cuda_faults`.

#[path = "../support/difference.rs"]
mod difference;
#[path = "../support/fused_kernels.rs"]
mod fused_kernels;
#[path = "../support/golden_cases.rs"]
mod golden_cases;
#[path = "../support/golden_data.rs"]
mod golden_data;
#[path = "../support/golden_tensors.rs"]
mod golden_tensors;
#[path = "../support/noise.rs"]
mod noise;
#[path = "../support/ragged_tiles.rs"]
mod ragged_tiles;
#[path = "../support/trace.rs"]
mod trace;

mod batches;
mod caller;
#[cfg(feature = "cli")]
mod cli;
mod enqueue;
mod golden;

use tilesight::Kernels;

/// The kernel sets that the tests run with: on a GPU of compute capability 9.0 Hopper's; the others, which are the same on
/// every GPU, on the one of 8.0 that `scripts/test` runs the same tests on.
fn kernel_sets() -> &'static [Kernels] {
    match fused_kernels::fused_kernels() {
        Kernels::Hopper => &[Kernels::Hopper],
        _ => &[Kernels::Portable, Kernels::Cublas],
    }
}
