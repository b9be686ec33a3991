//! A norm and the matrix after it.

use super::gemm::{self, GemmKernels};
use super::rows::{num_moments, number};
use super::sm90::gemm::{self as sm90, Product};
use super::{Array, Count, Launcher, Matrix};
use crate::cuda::abi;
use crate::error::CudaError;
use crate::plan::Form;

/// Bytes of a row's mean and deviation, which its tile keeps in shared memory.
const STATISTICS_BYTES: usize = 8;

pub(super) static KERNELS: GemmKernels = gemm::kernels("layer_norm_linear", "layer_norm_linear", STATISTICS_BYTES);
pub(super) static GELU_KERNELS: GemmKernels =
    gemm::kernels("layer_norm_linear", "layer_norm_linear_gelu", STATISTICS_BYTES);

pub(super) static HOPPER_KERNELS: sm90::GemmKernels = sm90::kernels("sm90/layer_norm_linear", "layer_norm_linear");
pub(super) static HOPPER_GELU_KERNELS: sm90::GemmKernels =
    sm90::kernels("sm90/layer_norm_linear", "layer_norm_linear_gelu");

/// `output = activation(norm(input) · Wᵀ + b)`, the norm folded into weight, column sums and bias.
#[derive(Debug)]
pub(crate) struct LayerNormLinear<'m> {
    pub(crate) num_rows: Count<'m>,
    /// `[rows, C]`.
    pub(crate) input: Matrix<'m>,
    /// Of the input's rows.
    pub(crate) moments: Array<'m, abi::RowMoments>,
    /// `[outputs, C]`, folded and centred.
    pub(crate) weight: Matrix<'m>,
    /// `[outputs]`, sums of the weight's rows as they are stored.
    pub(crate) column_sum: Array<'m, f32>,
    /// `[outputs]`, folded.
    pub(crate) bias: Array<'m, f32>,
    /// `[rows, outputs]`.
    pub(crate) output: Matrix<'m>,
    /// Whether the activation is GELU; there is none where not.
    pub(crate) gelu: bool,
}

impl LayerNormLinear<'_> {
    /// Launches it.
    ///
    /// # Errors
    /// [`CudaError::Driver`].
    pub(crate) fn launch(&self, on: &Launcher) -> Result<(), CudaError> {
        let Self { num_rows, input, moments, weight, column_sum, bias, output, gelu } = self;
        let shape = gemm::require_operands(on, *num_rows, input, weight, output);
        moments.require("moments", shape.rows * num_moments(shape.inputs));
        column_sum.require("column_sum", shape.outputs);
        bias.require("bias", shape.outputs);
        let params = abi::LayerNormLinearParams {
            num_rows: num_rows.pointer(),
            input: input.pointer(),
            moments: moments.pointer(),
            weight: weight.pointer(),
            column_sum: column_sum.pointer(),
            bias: bias.pointer(),
            output: output.pointer(),
            inputs: number(shape.inputs),
            outputs: number(shape.outputs),
            input_stride: number(input.stride),
            weight_stride: number(weight.stride),
            output_stride: number(output.stride),
            __bindgen_padding_0: Default::default(),
        };
        if on.form() == Form::Hopper && shape.rows > 0 {
            let product = Product::new(if *gelu { &HOPPER_GELU_KERNELS } else { &HOPPER_KERNELS }, shape, on);
            column_sum.require_pairs("column_sum");
            bias.require_pairs("bias");
            let params = abi::HopperLayerNormLinearParams {
                input: product.input(input)?,
                weight: product.weight(weight)?,
                output: product.panels(output)?,
                plain: params,
                __bindgen_padding_0: Default::default(),
            };
            // SAFETY: as below.
            return unsafe { product.launch(&params) };
        }
        let kernels = if *gelu { &GELU_KERNELS } else { &KERNELS };
        // SAFETY: the kernels take these params, and the views were checked against one another above.
        unsafe { gemm::launch(kernels, shape, on, &params) }
    }
}
