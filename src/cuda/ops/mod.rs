//! One safe function a kernel: it checks its views, takes the grid from the capacity, and launches.
//!
//! A view borrows the memory it lies in, so it cannot outlive it; and freeing memory waits for the GPU, so a launch
//! never meets freed memory. What a view cannot know, that two launches in different streams touch the same memory, is
//! kept right by the backend's events.

mod gemm;
mod kernels;
mod layer_norm_linear;
mod linear_residual;
mod patch_embedding;
mod projection;
mod view;

pub(crate) use kernels::{Kernel, Kernels, Launcher};
pub(crate) use layer_norm_linear::LayerNormLinear;
pub(crate) use linear_residual::LinearResidual;
pub(crate) use patch_embedding::PatchEmbedding;
pub(crate) use projection::Projection;
pub(crate) use view::{Array, Count, DeviceBatch, Matrix};

/// Every kernel there is.
pub(crate) fn all() -> impl Iterator<Item = &'static Kernel> {
    let products = [
        &patch_embedding::KERNELS,
        &layer_norm_linear::KERNELS,
        &layer_norm_linear::GELU_KERNELS,
        &linear_residual::KERNELS,
        &projection::KERNELS,
    ];
    products.into_iter().flatten()
}
