//! The baseline's norm.

use super::rows::{number, row_grid, row_kernel};
use super::{Array, Count, Kernel, Launcher, Matrix};
use crate::config::NORM_EPS;
use crate::cuda::abi;
use crate::error::CudaError;

pub(super) static KERNEL: Kernel = row_kernel("layer_norm");

const _: () = assert!(abi::NORM_EPS == NORM_EPS, "kernels and the CPU add the same to a variance");

/// `output = norm(input)`.
pub(crate) struct LayerNorm<'m> {
    pub(crate) num_rows: Count<'m>,
    /// `[rows, C]`.
    pub(crate) input: Matrix<'m>,
    pub(crate) weight: Array<'m, f32>,
    pub(crate) bias: Array<'m, f32>,
    /// `[rows, C]`.
    pub(crate) output: Matrix<'m>,
}

impl LayerNorm<'_> {
    /// Gives the launch to `on`'s stream.
    pub(crate) fn launch(&self, on: &Launcher) -> Result<(), CudaError> {
        let (rows, width) = (self.num_rows.capacity, self.input.width);
        self.input.require("input", rows, width, on.dtype());
        self.output.require("output", rows, width, on.dtype());
        assert_eq!(self.input.stride, self.output.stride, "input and output of different strides");
        [&self.weight, &self.bias].iter().for_each(|values| values.require("the norm", width));
        let params = abi::LayerNormParams {
            num_rows: self.num_rows.pointer(),
            input: self.input.pointer(),
            weight: self.weight.pointer(),
            bias: self.bias.pointer(),
            output: self.output.pointer(),
            width: number(width),
            stride: number(self.input.stride),
        };
        // SAFETY: the params are this kernel's, and the views were checked above.
        unsafe { on.launch(&KERNEL, row_grid(rows), &params) }
    }
}
