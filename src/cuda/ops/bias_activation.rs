//! What the baseline does after a product that a norm precedes.

use super::rows::{array_or_null, number, row_grid, row_kernel};
use super::{Array, Count, Kernel, Launcher, Matrix};
use crate::cuda::abi;
use crate::dtype::Dtype;
use crate::error::CudaError;

pub(super) static KERNEL: Kernel = row_kernel("bias_activation");

/// `output = activation(product + bias)`.
pub(crate) struct BiasActivation<'m> {
    pub(crate) num_rows: Count<'m>,
    /// `[rows, outputs]`, f32.
    pub(crate) product: Matrix<'m>,
    pub(crate) bias: Option<Array<'m, f32>>,
    /// `[rows, outputs]`.
    pub(crate) output: Matrix<'m>,
    /// The exact GELU, or none.
    pub(crate) gelu: bool,
}

impl BiasActivation<'_> {
    /// Gives the launch to `on`'s stream.
    pub(crate) fn launch(&self, on: &Launcher) -> Result<(), CudaError> {
        let (rows, width) = (self.num_rows.capacity, self.output.width);
        self.product.require("product", rows, width, Dtype::F32);
        self.output.require("output", rows, width, on.dtype());
        if let Some(bias) = &self.bias {
            bias.require("bias", width);
        }
        let params = abi::BiasActivationParams {
            num_rows: self.num_rows.pointer(),
            product: self.product.pointer().cast(),
            bias: array_or_null(self.bias),
            output: self.output.pointer(),
            width: number(width),
            product_stride: number(self.product.stride),
            output_stride: number(self.output.stride),
            gelu: self.gelu.into(),
        };
        // SAFETY: the params are this kernel's, and the views were checked above.
        unsafe { on.launch(&KERNEL, row_grid(rows), &params) }
    }
}
