//! Softmax attention over ragged sequences.

use super::rows::number;
use super::sm90::flash_attention::{GroupedQueries, HopperAttention};
use super::{Array, AttentionVariant, Count, Kernel, Launcher, Matrix, sm90};
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

/// The queries of a batch, as the form takes them.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Queries<'m> {
    /// A block an item and head.
    Items(Array<'m, abi::AttentionItem>),
    /// On Hopper, what blocks take from one after another.
    Groups(GroupedQueries<'m>),
}

/// `output = softmax(q·kᵀ/√d + ln multiplicity)·v`, head by head.
pub(crate) struct FlashAttention<'m> {
    /// Items, or groups.
    pub(crate) num_items: Count<'m>,
    pub(crate) queries: Queries<'m>,
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
        let size = columns.checked_div(STEP).and_then(|steps| steps.checked_sub(1));
        match &self.queries {
            Queries::Items(items) => {
                let Some(kernel) = size.and_then(|size| KERNELS.get(size)) else {
                    panic!("no kernel for heads of {columns}")
                };
                self.check(columns, on);
                self.launch_items(*items, kernel, on)
            }
            Queries::Groups(queries) => {
                let number = on.tiling().unwrap_or(0);
                let Some(variant) = sm90::flash_attention::variants(columns, queries.tiling).nth(number) else {
                    panic!("no kernel {number} for heads of {columns} in {:?}", queries.tiling)
                };
                self.launch_variant(variant, on)
            }
        }
    }

    /// Gives the launch of one of Hopper's kernels to `on`'s stream.
    pub(crate) fn launch_variant(&self, variant: &AttentionVariant, on: &Launcher) -> Result<(), CudaError> {
        let Queries::Groups(queries) = &self.queries else { panic!("items, for a kernel that takes groups") };
        self.check(variant.columns, on);
        let attention = HopperAttention {
            num_groups: self.num_items,
            queries: *queries,
            log2_multiplicity: self.log2_multiplicity,
            qkv: self.qkv,
            output: self.output,
            num_heads: self.num_heads,
            scale_log2: self.scale_log2(),
        };
        attention.launch(variant, on)
    }

    /// What every form asks of its views.
    fn check(&self, columns: usize, on: &Launcher) {
        assert!(columns.is_multiple_of(STEP) && columns >= self.head_dim, "heads of {} in {columns}", self.head_dim);
        self.output.require("output", 0, self.num_heads * columns, on.dtype());
        self.qkv.require("qkv", self.output.rows, 3 * self.output.width, on.dtype());
        self.log2_multiplicity.require("log2_multiplicity", self.output.rows);
    }

    /// What a score is multiplied by, for a softmax in base 2.
    fn scale_log2(&self) -> f32 {
        (std::f64::consts::LOG2_E / (self.head_dim as f64).sqrt()) as f32
    }

    fn launch_items(
        &self,
        items: Array<'_, abi::AttentionItem>,
        kernel: &Kernel,
        on: &Launcher,
    ) -> Result<(), CudaError> {
        items.require("items", self.num_items.capacity);
        let params = abi::FlashAttentionParams {
            num_items: self.num_items.pointer(),
            items: items.pointer(),
            log2_multiplicity: self.log2_multiplicity.pointer(),
            qkv: self.qkv.pointer(),
            output: self.output.pointer(),
            scale_log2: self.scale_log2(),
            num_heads: number(self.num_heads),
            qkv_stride: number(self.qkv.stride),
            output_stride: number(self.output.stride),
        };
        let grid = [number(self.num_items.capacity), number(self.num_heads), 1];
        // SAFETY: the params are this kernel's, and the views were checked; items name rows of the batch, which the views
        // have room for.
        unsafe { on.launch(kernel, grid, &params) }
    }
}
