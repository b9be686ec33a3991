//! The matrix at the end of a branch, and the residual stream it is added to.

use super::gemm::{self, GemmKernels};
use super::rows::{array_or_null, num_moments, number};
use super::sm90::gemm::{self as sm90, Product};
use super::{Array, Count, Launcher, Matrix};
use crate::cuda::abi;
use crate::error::CudaError;
use crate::plan::Form;

pub(super) static KERNELS: GemmKernels = gemm::kernels("linear_residual", "linear_residual", 0);
pub(super) static HOPPER_KERNELS: sm90::GemmKernels = sm90::kernels("sm90/linear_residual", "linear_residual");

/// `output = residual + gate · (input · weightᵀ + bias)`.
#[derive(Debug)]
pub(crate) struct LinearResidual<'m> {
    pub(crate) num_rows: Count<'m>,
    /// `[rows, inputs]`.
    pub(crate) input: Matrix<'m>,
    /// `[C, inputs]`.
    pub(crate) weight: Matrix<'m>,
    /// `[C]`.
    pub(crate) bias: Option<Array<'m, f32>>,
    /// `[rows, C]`; may be `output`.
    pub(crate) residual: Matrix<'m>,
    /// `[rows, C]`.
    pub(crate) output: Matrix<'m>,
    /// Of the output's rows, where a norm reads them.
    pub(crate) moments: Option<Array<'m, abi::RowMoments>>,
    /// tanh of the stored gate, or 1.
    pub(crate) gate: f32,
}

impl LinearResidual<'_> {
    /// Launches it.
    ///
    /// # Errors
    /// [`CudaError::Driver`].
    pub(crate) fn launch(&self, on: &Launcher) -> Result<(), CudaError> {
        let Self { num_rows, input, weight, bias, residual, output, moments, gate } = self;
        let shape = gemm::require_operands(on, *num_rows, input, weight, output);
        residual.require("residual", shape.rows, shape.outputs, on.dtype());
        assert_eq!(residual.stride, output.stride, "residual and output have one stride");
        if let Some(bias) = bias {
            bias.require("bias", shape.outputs);
        }
        if let Some(moments) = moments {
            moments.require("moments", shape.rows * num_moments(shape.outputs));
        }
        let params = abi::LinearResidualParams {
            num_rows: num_rows.pointer(),
            input: input.pointer(),
            weight: weight.pointer(),
            bias: array_or_null(*bias),
            residual: residual.pointer(),
            output: output.pointer(),
            moments: array_or_null(*moments),
            gate: *gate,
            inputs: number(shape.inputs),
            outputs: number(shape.outputs),
            input_stride: number(input.stride),
            weight_stride: number(weight.stride),
            output_stride: number(output.stride),
        };
        if on.form() == Form::Hopper && shape.rows > 0 {
            let product = Product::new(&HOPPER_KERNELS, shape, on);
            if let Some(bias) = bias {
                bias.require_pairs("bias");
            }
            let params = abi::HopperLinearResidualParams {
                input: product.input(input)?,
                weight: product.weight(weight)?,
                residual: product.panels(residual)?,
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
