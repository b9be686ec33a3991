//! Tokens' way into the transformer.

use super::rows::{array_or_null, matrix_or_null, num_moments, number, row_grid, row_kernel};
use super::{Array, DeviceBatch, Kernel, Launcher, Matrix};
use crate::cuda::abi;
use crate::error::CudaError;

pub(super) static KERNEL: Kernel = row_kernel("tile_position");

/// Pre-tile embedding, class tokens, token positions and the norm before the transformer; zero alignment rows.
pub(crate) struct TilePosition<'m> {
    pub(crate) batch: DeviceBatch<'m>,
    pub(crate) tiles: Array<'m, abi::TileSource>,
    pub(crate) rows: Array<'m, abi::TokenRow>,
    /// `[tiles·P, C]`.
    pub(crate) patches: Matrix<'m>,
    /// `[blocks, C]`, rows without gaps; none in a model without tile embeddings.
    pub(crate) pre_tile: Option<Matrix<'m>>,
    /// `[N, C]`, rows without gaps.
    pub(crate) local: Matrix<'m>,
    /// `[blocks·N, C]`, rows without gaps; none in a model without tile embeddings.
    pub(crate) global: Option<Matrix<'m>>,
    pub(crate) class_embedding: Array<'m, f32>,
    pub(crate) norm_weight: Array<'m, f32>,
    pub(crate) norm_bias: Array<'m, f32>,
    /// `[rows, C]`.
    pub(crate) output: Matrix<'m>,
    /// Of the output, where somebody reads them.
    pub(crate) moments: Option<Array<'m, abi::RowMoments>>,
    /// tanh of the stored gate; 0 without tables.
    pub(crate) pre_tile_gate: f32,
    /// tanh of the stored gate; 0 without tables.
    pub(crate) global_gate: f32,
}

impl TilePosition<'_> {
    /// Gives the launch to `on`'s stream.
    pub(crate) fn launch(&self, on: &Launcher) -> Result<(), CudaError> {
        let (rows, width, tokens) = (self.rows.len, self.output.width, self.local.rows);
        self.output.require("output", rows, width, on.dtype());
        self.patches.require("patches", self.tiles.len * (tokens - 1), width, on.dtype());
        for (what, table) in [("pre_tile", self.pre_tile), ("local", Some(self.local)), ("global", self.global)] {
            let Some(table) = table else { continue };
            table.require_unaligned(what, 1, width, on.dtype());
            assert_eq!(table.stride, width, "{what} has gaps");
        }
        assert_eq!(self.pre_tile.is_some(), self.global.is_some(), "one table without the other");
        let parameters = [&self.class_embedding, &self.norm_weight, &self.norm_bias];
        parameters.iter().for_each(|values| values.require("a vector of the model's width", width));
        if let Some(moments) = &self.moments {
            moments.require("moments", rows * num_moments(width));
        }
        let params = abi::TilePositionParams {
            batch: self.batch.pointer(),
            tiles: self.tiles.pointer(),
            rows: self.rows.pointer(),
            patches: self.patches.pointer(),
            pre_tile: matrix_or_null(self.pre_tile),
            local: self.local.pointer(),
            global: matrix_or_null(self.global),
            class_embedding: self.class_embedding.pointer(),
            norm_weight: self.norm_weight.pointer(),
            norm_bias: self.norm_bias.pointer(),
            output: self.output.pointer(),
            moments: array_or_null(self.moments),
            pre_tile_gate: self.pre_tile_gate,
            global_gate: self.global_gate,
            width: number(width),
            patches_stride: number(self.patches.stride),
            output_stride: number(self.output.stride),
            tokens: number(tokens),
        };
        // SAFETY: the params are this kernel's, and the views were checked above; rows name tiles, and tiles blocks, that
        // the descriptor's writer took from the same plan as the views.
        unsafe { on.launch(&KERNEL, row_grid(rows), &params) }
    }
}
