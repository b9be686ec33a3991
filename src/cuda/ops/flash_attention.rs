//! Softmax attention over ragged sequences.

use super::rows::number;
use super::{Array, Count, Kernel, Launcher, Matrix};
use crate::cuda::abi;
use crate::error::CudaError;

/// An entry point for each head size.
pub(super) static KERNELS: [Kernel; 8] = [
    head_size("_16", 16),
    head_size("_32", 32),
    head_size("_48", 48),
    head_size("_64", 64),
    head_size("_80", 80),
    head_size("_96", 96),
    head_size("_112", 112),
    head_size("_128", 128),
];

/// Head sizes are multiples of this: the depth of a matrix instruction.
const STEP: usize = 16;

const fn head_size(suffix: &'static str, size: u32) -> Kernel {
    let shared_bytes = abi::ATTENTION_SHARED_BYTES * (size + 1);
    Kernel { file: "flash_attention", name: "flash_attention", suffix, block: abi::ATTENTION_THREADS, shared_bytes }
}

/// `output = softmax(q·kᵀ/√d + ln multiplicity)·v`, head by head.
pub(crate) struct FlashAttention<'m> {
    pub(crate) num_items: Count<'m>,
    pub(crate) items: Array<'m, abi::AttentionItem>,
    /// Base 2, one a row.
    pub(crate) log2_multiplicity: Array<'m, f32>,
    /// `[rows, 3·H·columns of a head]`.
    pub(crate) qkv: Matrix<'m>,
    /// `[rows, H·columns of a head]`.
    pub(crate) output: Matrix<'m>,
    pub(crate) num_heads: usize,
    /// The model's; a head may have more columns, which hold zeros.
    pub(crate) head_dim: usize,
}

impl FlashAttention<'_> {
    /// Gives the launch to `on`'s stream.
    pub(crate) fn launch(&self, on: &Launcher) -> Result<(), CudaError> {
        let columns = self.output.width / self.num_heads;
        let kernel = columns.checked_div(STEP).and_then(|steps| KERNELS.get(steps.checked_sub(1)?));
        let Some(kernel) = kernel else { panic!("no kernel for heads of {columns}") };
        assert!(columns.is_multiple_of(STEP) && columns >= self.head_dim, "heads of {} in {columns}", self.head_dim);
        self.output.require("output", 0, self.num_heads * columns, on.dtype());
        self.qkv.require("qkv", self.output.rows, 3 * self.output.width, on.dtype());
        self.items.require("items", self.num_items.capacity);
        self.log2_multiplicity.require("log2_multiplicity", self.output.rows);
        let params = abi::FlashAttentionParams {
            num_items: self.num_items.pointer(),
            items: self.items.pointer(),
            log2_multiplicity: self.log2_multiplicity.pointer(),
            qkv: self.qkv.pointer(),
            output: self.output.pointer(),
            scale_log2: (std::f64::consts::LOG2_E / (self.head_dim as f64).sqrt()) as f32,
            num_heads: number(self.num_heads),
            qkv_stride: number(self.qkv.stride),
            output_stride: number(self.output.stride),
        };
        let grid = [number(self.num_items.capacity), number(self.num_heads), 1];
        // SAFETY: the params are this kernel's, and the views were checked above; items name rows of the batch, which
        // the views have room for.
        unsafe { on.launch(kernel, grid, &params) }
    }
}
