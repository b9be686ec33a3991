//! The first matrix, on patches.

use super::gemm::{self, GemmKernels};
use super::rows::number;
use super::sm90::gemm::{self as sm90, Product};
use super::{Count, Launcher, Matrix};
use crate::cuda::abi;
use crate::error::CudaError;
use crate::plan::Form;

pub(super) static KERNELS: GemmKernels = gemm::kernels("patch_embedding", "patch_embedding", 0);
pub(super) static HOPPER_KERNELS: sm90::GemmKernels = sm90::kernels("sm90/patch_embedding", "patch_embedding");

/// `output = input · weightᵀ`.
#[derive(Debug)]
pub(crate) struct PatchEmbedding<'m> {
    pub(crate) num_rows: Count<'m>,
    /// `[rows, patch_len]`.
    pub(crate) input: Matrix<'m>,
    /// `[C, patch_len]`.
    pub(crate) weight: Matrix<'m>,
    /// `[rows, C]`.
    pub(crate) output: Matrix<'m>,
}

impl PatchEmbedding<'_> {
    /// Launches it.
    ///
    /// # Errors
    /// [`CudaError::Driver`].
    pub(crate) fn launch(&self, on: &Launcher) -> Result<(), CudaError> {
        let Self { num_rows, input, weight, output } = self;
        let shape = gemm::require_operands(on, *num_rows, input, weight, output);
        let params = abi::PatchEmbeddingParams {
            num_rows: num_rows.pointer(),
            input: input.pointer(),
            weight: weight.pointer(),
            output: output.pointer(),
            inputs: number(shape.inputs),
            outputs: number(shape.outputs),
            input_stride: number(input.stride),
            weight_stride: number(weight.stride),
            output_stride: number(output.stride),
            __bindgen_padding_0: Default::default(),
        };
        if on.form() == Form::Hopper && shape.rows > 0 {
            let product = Product::new(&HOPPER_KERNELS, shape, on);
            let params = abi::HopperPatchEmbeddingParams {
                input: product.input(input)?,
                weight: product.weight(weight)?,
                output: product.panels(output)?,
                plain: params,
                __bindgen_padding_0: Default::default(),
            };
            // SAFETY: as below.
            return unsafe { product.launch(&params) };
        }
        // SAFETY: the kernels take these params, and the views were checked against one another above.
        unsafe { gemm::launch(&KERNELS, shape, on, &params) }
    }
}
