//! Stored matrices to the form that kernels read.

use super::rows::{array_or_null, number, row_grid, row_kernel};
use super::{Array, Kernel, Launcher, Matrix};
use crate::cuda::abi;
use crate::dtype::Dtype;
use crate::error::CudaError;

pub(super) static KERNEL: Kernel = row_kernel("place_weight");

/// Rows or columns that come in groups and lie further apart where they are put.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Groups {
    /// Of a group, before.
    pub(crate) len: usize,
    /// Between the starts of two groups, after.
    pub(crate) stride: usize,
}

impl Groups {
    /// How many rows or columns `count` of them become.
    pub(super) fn padded(&self, count: usize) -> usize {
        count.div_ceil(self.len) * self.stride
    }
}

/// The name of an element type in the contract.
pub(crate) fn stored(dtype: Dtype) -> u32 {
    match dtype {
        Dtype::F32 => abi::STORED_F32,
        Dtype::Bf16 => abi::STORED_BF16,
        Dtype::F16 => abi::STORED_FP16,
    }
}

/// Converts a matrix, or some of its columns, and spreads it out; zeros between the groups.
pub(crate) struct PlaceWeight<'m> {
    /// As it is stored.
    pub(crate) input: Matrix<'m>,
    pub(crate) output: Matrix<'m>,
    /// What each column is multiplied by.
    pub(crate) norm_weight: Option<Array<'m, f32>>,
    /// Counts the elements that the element type cannot hold.
    pub(crate) num_not_finite: Array<'m, u32>,
    /// The columns that are taken: the first, how many, and how far apart they are.
    pub(crate) columns: (usize, usize, usize),
    pub(crate) row_groups: Groups,
    pub(crate) column_groups: Groups,
    /// Whether each row's mean is taken off.
    pub(crate) centre: bool,
}

impl PlaceWeight<'_> {
    /// Gives the launch to `on`'s stream.
    pub(crate) fn launch(&self, on: &Launcher) -> Result<(), CudaError> {
        let (start, columns, step) = self.columns;
        let rows = self.row_groups.padded(self.input.rows);
        assert!(columns > 0 && start + (columns - 1) * step < self.input.width, "columns beyond the input");
        self.output.require_unaligned("output", rows, self.column_groups.padded(columns), on.dtype());
        self.num_not_finite.require("num_not_finite", 1);
        if let Some(norm_weight) = &self.norm_weight {
            norm_weight.require("norm_weight", columns);
        }
        let params = abi::PlaceWeightParams {
            input: self.input.pointer(),
            output: self.output.pointer(),
            norm_weight: array_or_null(self.norm_weight),
            num_not_finite: self.num_not_finite.pointer(),
            stored: stored(self.input.dtype),
            rows: number(self.input.rows),
            columns: number(columns),
            input_stride: number(self.input.stride),
            column_start: number(start),
            column_step: number(step),
            output_stride: number(self.output.stride),
            row_group_len: number(self.row_groups.len),
            row_group_stride: number(self.row_groups.stride),
            column_group_len: number(self.column_groups.len),
            column_group_stride: number(self.column_groups.stride),
            centre: self.centre.into(),
        };
        // SAFETY: the params are this kernel's, and the views were checked above.
        unsafe { on.launch(&KERNEL, row_grid(rows), &params) }
    }
}
