//! What the baseline's projection leaves.

use super::rows::{number, row_grid, row_kernel};
use super::{Array, DeviceBatch, Kernel, Launcher, Matrix};
use crate::cuda::abi;
use crate::dtype::Dtype;
use crate::error::CudaError;

pub(super) static KERNEL: Kernel = row_kernel("scatter_embeddings");

/// `embeddings = product + bias`, every row to all its places.
pub(crate) struct ScatterEmbeddings<'m> {
    pub(crate) batch: DeviceBatch<'m>,
    pub(crate) rows: Array<'m, abi::ProjectedRow>,
    /// `[projected rows, E]`, f32.
    pub(crate) product: Matrix<'m>,
    pub(crate) bias: Array<'m, f32>,
    /// N: rows between two copies.
    pub(crate) tokens: usize,
}

impl ScatterEmbeddings<'_> {
    /// Gives the launch to `on`'s stream.
    pub(crate) fn launch(&self, on: &Launcher) -> Result<(), CudaError> {
        let (rows, outputs) = (self.rows.len, self.product.width);
        self.product.require("product", rows, outputs, Dtype::F32);
        self.bias.require("bias", outputs);
        let params = abi::ScatterEmbeddingsParams {
            batch: self.batch.pointer(),
            rows: self.rows.pointer(),
            product: self.product.pointer().cast(),
            bias: self.bias.pointer(),
            outputs: number(outputs),
            product_stride: number(self.product.stride),
            tokens: number(self.tokens),
            __bindgen_padding_0: Default::default(),
        };
        // SAFETY: the params are this kernel's, and the views were checked above; rows name rows of the embeddings, which
        // the descriptor's writer has counted.
        unsafe { on.launch(&KERNEL, row_grid(rows), &params) }
    }
}
