//! One safe function a kernel: it checks its views, takes the grid from the capacity, and launches.
//!
//! A view borrows the memory it lies in, so it cannot outlive it; and freeing memory waits for the GPU, so a launch
//! never meets freed memory. What a view cannot know, that two launches in different streams touch the same memory, is
//! kept right by the backend's events.

mod bias_activation;
mod flash_attention;
mod fold_norm;
mod gated_residual;
mod gather_rows;
mod gemm;
mod kernels;
mod layer_norm;
mod layer_norm_linear;
mod linear_residual;
mod patch_embedding;
mod patchify;
mod place_weight;
mod projection;
mod rows;
mod scatter_embeddings;
mod sm90;
mod tile_norm;
mod tile_position;
mod view;

pub(crate) use bias_activation::BiasActivation;
pub(crate) use flash_attention::{FlashAttention, Queries};
pub(crate) use fold_norm::FoldNorm;
pub(crate) use gated_residual::GatedResidual;
pub(crate) use gather_rows::GatherRows;
pub(crate) use kernels::{Kernel, Kernels, Launcher};
pub(crate) use layer_norm::LayerNorm;
pub(crate) use layer_norm_linear::LayerNormLinear;
pub(crate) use linear_residual::LinearResidual;
pub(crate) use patch_embedding::PatchEmbedding;
pub(crate) use patchify::Patchify;
pub(crate) use place_weight::{Groups, PlaceWeight};
pub(crate) use projection::Projection;
pub(crate) use scatter_embeddings::ScatterEmbeddings;
pub(crate) use sm90::flash_attention::{
    ALIKE as ALIKE_ATTENTION, GroupedQueries, OTHERS as OTHER_ATTENTION, Variant as AttentionVariant,
    tilings as attention_tilings, variants as attention_variants,
};
pub(crate) use tile_norm::TileNorm;
pub(crate) use tile_position::TilePosition;
pub(crate) use view::{Array, Count, DeviceBatch, Matrix};

use crate::plan::Form;

/// The names of the tilings that products of a form may take, in the order of their numbers; all give the same bits.
pub(crate) fn tilings(form: Form) -> &'static [&'static str] {
    match form {
        Form::Portable => &gemm::NAMES,
        Form::Hopper => &sm90::gemm::NAMES,
        Form::Cpu | Form::Cublas => &[],
    }
}

/// The name of the tiling that a product `[rows, inputs] · [inputs, outputs]` takes where nothing was measured.
pub(crate) fn predicted_tiling(
    form: Form,
    [rows, inputs, outputs]: [usize; 3],
    num_multiprocessors: u32,
) -> Option<&'static str> {
    let shape = gemm::GemmShape { rows, inputs, outputs };
    match form {
        Form::Portable => gemm::NAMES.get(shape.tiling(num_multiprocessors)).copied(),
        Form::Hopper => sm90::gemm::NAMES.get(sm90::gemm::predicted(shape, num_multiprocessors)).copied(),
        Form::Cpu | Form::Cublas => None,
    }
}

/// Every kernel that a plan of this form may ask for.
pub(crate) fn all(form: Form) -> impl Iterator<Item = &'static Kernel> {
    let rows = [
        &bias_activation::KERNEL,
        &fold_norm::KERNEL,
        &gated_residual::KERNEL,
        &gather_rows::KERNEL,
        &layer_norm::KERNEL,
        &patchify::KERNEL,
        &place_weight::KERNEL,
        &scatter_embeddings::KERNEL,
        &tile_norm::KERNEL,
        &tile_position::KERNEL,
    ];
    let products = [
        &patch_embedding::KERNELS,
        &layer_norm_linear::KERNELS,
        &layer_norm_linear::GELU_KERNELS,
        &linear_residual::KERNELS,
        &projection::KERNELS,
    ];
    let hopper = [
        &patch_embedding::HOPPER_KERNELS,
        &layer_norm_linear::HOPPER_KERNELS,
        &layer_norm_linear::HOPPER_GELU_KERNELS,
        &linear_residual::HOPPER_KERNELS,
        &projection::HOPPER_KERNELS,
    ];
    let hopper = hopper.into_iter().flatten().chain(sm90::flash_attention::kernels());
    let hopper = hopper.filter(move |_| form == Form::Hopper);
    rows.into_iter().chain(&flash_attention::KERNELS).chain(products.into_iter().flatten()).chain(hopper)
}
