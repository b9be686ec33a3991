//! From the transformer to the gated layers.

use super::rows::{array_or_null, matrix_or_null, num_moments, number, row_grid, row_kernel};
use super::{Array, DeviceBatch, Kernel, Launcher, Matrix};
use crate::cuda::abi;
use crate::error::CudaError;

pub(super) static KERNEL: Kernel = row_kernel("tile_norm");

/// The norm after the transformer and the post-tile embedding.
pub(crate) struct TileNorm<'m> {
    pub(crate) batch: DeviceBatch<'m>,
    pub(crate) rows: Array<'m, abi::GlobalRow>,
    /// The residual stream in the transformer's rows, `[rows, C]`.
    pub(crate) input: Matrix<'m>,
    /// `[blocks, C]`, rows without gaps; none in a model without tile embeddings.
    pub(crate) post_tile: Option<Matrix<'m>>,
    pub(crate) norm_weight: Array<'m, f32>,
    pub(crate) norm_bias: Array<'m, f32>,
    /// The residual stream in the gated layers' rows, `[rows, C]`.
    pub(crate) output: Matrix<'m>,
    /// Of the output, where somebody reads them.
    pub(crate) moments: Option<Array<'m, abi::RowMoments>>,
    /// tanh of the stored gate; 0 without tables.
    pub(crate) post_tile_gate: f32,
}

impl TileNorm<'_> {
    /// Gives the launch to `on`'s stream.
    pub(crate) fn launch(&self, on: &Launcher) -> Result<(), CudaError> {
        let (rows, width) = (self.rows.len, self.output.width);
        self.output.require("output", rows, width, on.dtype());
        self.input.require("input", 0, width, on.dtype());
        assert_eq!(self.input.stride, self.output.stride, "input and output of different strides");
        if let Some(post_tile) = &self.post_tile {
            post_tile.require_unaligned("post_tile", 1, width, on.dtype());
            assert_eq!(post_tile.stride, width, "post_tile has gaps");
        }
        [&self.norm_weight, &self.norm_bias].iter().for_each(|values| values.require("the norm", width));
        if let Some(moments) = &self.moments {
            moments.require("moments", rows * num_moments(width));
        }
        let params = abi::TileNormParams {
            batch: self.batch.pointer(),
            rows: self.rows.pointer(),
            input: self.input.pointer(),
            post_tile: matrix_or_null(self.post_tile),
            norm_weight: self.norm_weight.pointer(),
            norm_bias: self.norm_bias.pointer(),
            output: self.output.pointer(),
            moments: array_or_null(self.moments),
            post_tile_gate: self.post_tile_gate,
            width: number(width),
            stride: number(self.output.stride),
            __bindgen_padding_0: Default::default(),
        };
        // SAFETY: the params are this kernel's, and the views were checked above; rows name rows of the transformer and
        // blocks that the descriptor's writer took from the same plan as the views.
        unsafe { on.launch(&KERNEL, row_grid(rows), &params) }
    }
}
