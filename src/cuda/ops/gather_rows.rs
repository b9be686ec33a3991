//! What the baseline's projection reads.

use super::rows::{number, row_grid, row_kernel};
use super::{Array, DeviceBatch, Kernel, Launcher, Matrix};
use crate::cuda::abi;
use crate::error::CudaError;

pub(super) static KERNEL: Kernel = row_kernel("gather_rows");

/// The rows of one state that the projection reads, one after another.
pub(crate) struct GatherRows<'m> {
    pub(crate) batch: DeviceBatch<'m>,
    pub(crate) rows: Array<'m, abi::ProjectedRow>,
    /// `[rows of the state, C]`.
    pub(crate) input: Matrix<'m>,
    /// `[projected rows, C]`.
    pub(crate) output: Matrix<'m>,
    /// Whether the state is in the transformer's rows, or in the gated layers'.
    pub(crate) hidden: bool,
}

impl GatherRows<'_> {
    /// Gives the launch to `on`'s stream.
    pub(crate) fn launch(&self, on: &Launcher) -> Result<(), CudaError> {
        let (rows, width) = (self.rows.len, self.output.width);
        self.input.require("input", 0, width, on.dtype());
        self.output.require("output", rows, width, on.dtype());
        assert_eq!(self.input.stride, self.output.stride, "input and output of different strides");
        let params = abi::GatherRowsParams {
            batch: self.batch.pointer(),
            rows: self.rows.pointer(),
            input: self.input.pointer(),
            output: self.output.pointer(),
            width: number(width),
            stride: number(self.output.stride),
            hidden: self.hidden.into(),
            __bindgen_padding_0: Default::default(),
        };
        // SAFETY: the params are this kernel's, and the views were checked above; rows name rows of the state that the
        // descriptor's writer took from the same plan as the views.
        unsafe { on.launch(&KERNEL, row_grid(rows), &params) }
    }
}
