//! What the baseline does after a product that ends a branch.

use super::rows::{array_or_null, number, row_grid, row_kernel};
use super::{Array, Count, Kernel, Launcher, Matrix};
use crate::cuda::abi;
use crate::dtype::Dtype;
use crate::error::CudaError;

pub(super) static KERNEL: Kernel = row_kernel("gated_residual");

/// `output = residual + gate·(product + bias)`.
pub(crate) struct GatedResidual<'m> {
    pub(crate) num_rows: Count<'m>,
    /// `[rows, C]`, f32.
    pub(crate) product: Matrix<'m>,
    pub(crate) bias: Option<Array<'m, f32>>,
    /// `[rows, C]`; may be the output.
    pub(crate) residual: Matrix<'m>,
    /// `[rows, C]`.
    pub(crate) output: Matrix<'m>,
    pub(crate) gate: f32,
}

impl GatedResidual<'_> {
    /// Gives the launch to `on`'s stream.
    pub(crate) fn launch(&self, on: &Launcher) -> Result<(), CudaError> {
        let (rows, width) = (self.num_rows.capacity, self.output.width);
        self.product.require("product", rows, width, Dtype::F32);
        self.residual.require("residual", rows, width, on.dtype());
        self.output.require("output", rows, width, on.dtype());
        assert_eq!(self.residual.stride, self.output.stride, "residual and output of different strides");
        if let Some(bias) = &self.bias {
            bias.require("bias", width);
        }
        let params = abi::GatedResidualParams {
            num_rows: self.num_rows.pointer(),
            product: self.product.pointer().cast(),
            bias: array_or_null(self.bias),
            residual: self.residual.pointer(),
            output: self.output.pointer(),
            gate: self.gate,
            width: number(width),
            product_stride: number(self.product.stride),
            output_stride: number(self.output.stride),
        };
        // SAFETY: the params are this kernel's, and the views were checked above; where residual and output are one, a
        // thread reads what it writes before it writes it.
        unsafe { on.launch(&KERNEL, row_grid(rows), &params) }
    }
}
