//! What a norm leaves beside the matrix that it is folded into.

use super::place_weight::stored;
use super::rows::{array_or_null, number, row_grid, row_kernel};
use super::{Array, Groups, Kernel, Launcher, Matrix};
use crate::cuda::abi;
use crate::error::CudaError;

pub(super) static KERNEL: Kernel = row_kernel("fold_norm");

/// `folded_bias = input·norm_bias + bias`, and the sums of the rows of `weight`; zeros between the groups.
pub(crate) struct FoldNorm<'m> {
    /// As it is stored.
    pub(crate) input: Matrix<'m>,
    /// As `PlaceWeight` left it.
    pub(crate) weight: Matrix<'m>,
    pub(crate) norm_bias: Array<'m, f32>,
    pub(crate) bias: Option<Array<'m, f32>>,
    pub(crate) folded_bias: Array<'m, f32>,
    pub(crate) column_sum: Array<'m, f32>,
    pub(crate) row_groups: Groups,
}

impl FoldNorm<'_> {
    /// Gives the launch to `on`'s stream.
    pub(crate) fn launch(&self, on: &Launcher) -> Result<(), CudaError> {
        let columns = self.input.width;
        let rows = self.row_groups.padded(self.input.rows);
        self.weight.require_unaligned("weight", rows, columns, on.dtype());
        self.norm_bias.require("norm_bias", columns);
        if let Some(bias) = &self.bias {
            bias.require("bias", self.input.rows);
        }
        [&self.folded_bias, &self.column_sum].iter().for_each(|values| values.require("what is folded", rows));
        let params = abi::FoldNormParams {
            input: self.input.pointer(),
            weight: self.weight.pointer(),
            norm_bias: self.norm_bias.pointer(),
            bias: array_or_null(self.bias),
            folded_bias: self.folded_bias.pointer(),
            column_sum: self.column_sum.pointer(),
            stored: stored(self.input.dtype),
            rows: number(self.input.rows),
            columns: number(columns),
            input_stride: number(self.input.stride),
            weight_stride: number(self.weight.stride),
            row_group_len: number(self.row_groups.len),
            row_group_stride: number(self.row_groups.stride),
            __bindgen_padding_0: Default::default(),
        };
        // SAFETY: the params are this kernel's, and the views were checked above.
        unsafe { on.launch(&KERNEL, row_grid(rows), &params) }
    }
}
