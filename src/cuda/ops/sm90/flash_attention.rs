//! Softmax attention on Hopper: what is particular to it. The operation checks its views before.

use crate::cuda::abi;
use crate::cuda::driver::{Swizzle, Tiled};
use crate::cuda::ops::rows::number;
use crate::cuda::ops::{Array, Count, Kernel, Launcher, Matrix};
use crate::error::CudaError;
use crate::plan::{ATTENTION_PIECES, ATTENTION_TILE, AttentionTiling};

/// What the groups of a batch need on the GPU.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GroupedQueries<'m> {
    /// What the groups were cut for.
    pub(crate) tiling: AttentionTiling,
    pub(crate) groups: Array<'m, abi::AttentionGroup>,
    /// The schedule's, then the tickets; zeros before and after.
    pub(crate) counters: Array<'m, u32>,
    /// f32, a row for each ticket and piece; none where nothing is cut.
    pub(crate) partials: Option<Matrix<'m>>,
}

/// How a block of keys lies in shared memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KeyForm {
    /// As queries and values do.
    Uniform,
    /// Of heads of 80, 64 columns and 16.
    Mixed,
}

/// One of the kernels.
#[derive(Debug)]
pub(crate) struct Variant {
    /// Rows and keys, and what is particular.
    pub(crate) name: &'static str,
    pub(crate) kernel: Kernel,
    /// Columns of a head.
    pub(crate) columns: usize,
    pub(crate) tiling: AttentionTiling,
    /// There to be compared with, and never chosen by its time.
    pub(crate) is_for_sweeps: bool,
    key_form: KeyForm,
}

impl Variant {
    const fn new(
        name: &'static str,
        file: &'static str,
        suffix: &'static str,
        columns: usize,
        tiling: AttentionTiling,
    ) -> Self {
        let block = (tiling.rows / ATTENTION_TILE + 1) as u32 * 128;
        let shared_bytes = abi::ATTENTION_HOPPER_SHARED_BYTES;
        let kernel = Kernel { file, name: "flash_attention", suffix, block, shared_bytes };
        Self { name, kernel, columns, tiling, is_for_sweeps: false, key_form: KeyForm::Uniform }
    }

    const fn of_head(name: &'static str, suffix: &'static str, columns: usize) -> Self {
        Self::new(name, "sm90/flash_attention", suffix, columns, AttentionTiling::of(columns))
    }

    const fn sweep(name: &'static str, suffix: &'static str, rows: usize, keys: usize) -> Self {
        let tiling = AttentionTiling { rows, keys };
        Self { is_for_sweeps: true, ..Self::new(name, "sm90/flash_attention_sweep", suffix, 80, tiling) }
    }

    const fn mixed(self) -> Self {
        Self { key_form: KeyForm::Mixed, ..self }
    }
}

/// The one in use for each head size.
static IN_USE: [Variant; 8] = [
    Variant::of_head("192x112", "_16", 16),
    Variant::of_head("192x112", "_32", 32),
    Variant::of_head("192x112", "_48", 48),
    Variant::of_head("192x112", "_64", 64),
    Variant::of_head("192x112", "_80", 80),
    Variant::of_head("128x176", "_96", 96),
    Variant::of_head("128x160", "_112", 112),
    Variant::of_head("128x160", "_128", 128),
];

/// Others that give the same bits as the one in use for their head size; those that only a sweep is for are the last.
pub(crate) static ALIKE: [Variant; 2] = [
    Variant::of_head("192x112 mixed", "_80_mixed", 80).mixed(),
    Variant::sweep("192x112 always", "_80_always", 192, 112),
];

/// Others that a sweep compares, and that give bits of their own, both the same.
pub(crate) static OTHERS: [Variant; 2] = [
    Variant::sweep("128x176", "_80_128x176", 128, 176),
    Variant::sweep("128x176 mixed", "_80_128x176_mixed", 128, 176).mixed(),
];

fn all() -> impl Iterator<Item = &'static Variant> {
    IN_USE.iter().chain(&ALIKE).chain(&OTHERS)
}

/// The kernels for heads of so many columns whose queries are divided so, in the order of the numbers that a launcher
/// takes. All give the same bits; the first is the one in use, if these are.
pub(crate) fn variants(columns: usize, tiling: AttentionTiling) -> impl Iterator<Item = &'static Variant> {
    all().filter(move |variant| variant.columns == columns && variant.tiling == tiling)
}

/// All ways in which queries of heads of so many columns can be divided, the one in use first.
pub(crate) fn tilings(columns: usize) -> Vec<AttentionTiling> {
    let mut tilings: Vec<AttentionTiling> = all().filter(|of| of.columns == columns).map(|of| of.tiling).collect();
    tilings.dedup();
    tilings
}

/// Every kernel of these.
pub(in crate::cuda::ops) fn kernels() -> impl Iterator<Item = &'static Kernel> {
    all().map(|variant| &variant.kernel)
}

/// Columns that lie together in shared memory: the widest power of two up to 64 that divides a head.
fn chunk_columns(columns: usize) -> usize {
    1 << columns.trailing_zeros().min(6)
}

fn swizzle(columns: usize) -> Swizzle {
    match columns {
        16 => Swizzle::Bytes32,
        32 => Swizzle::Bytes64,
        64 => Swizzle::Bytes128,
        _ => unreachable!("columns that lie together are 16, 32 or 64"),
    }
}

/// A matrix of heads, whose boxes are some columns of so many rows of one head.
struct Heads<'m> {
    matrix: Matrix<'m>,
    /// Of a head.
    columns: usize,
    box_rows: usize,
}

impl Heads<'_> {
    /// Whole heads, as chunks of columns that lie together.
    fn chunks(&self) -> Result<abi::TensorMap, CudaError> {
        let chunk = chunk_columns(self.columns);
        self.part(0, chunk, chunk, self.columns / chunk)
    }

    /// `chunk` columns from `first` on of each head, and of the next `distance` columns further; so many of these in a box.
    fn part(&self, first: usize, chunk: usize, distance: usize, count: usize) -> Result<abi::TensorMap, CudaError> {
        let Matrix { address, rows, width, stride, dtype, .. } = self.matrix;
        let tensor = Tiled {
            address: address + (first * dtype.size()) as u64,
            dtype,
            extents: [chunk, rows, width / distance],
            strides: [1, stride, distance],
            boxes: [chunk, self.box_rows, count],
            swizzle: swizzle(chunk),
        };
        tensor.encode()
    }
}

/// The logarithms, for boxes of so many.
fn logarithms(array: Array<'_, f32>, keys: usize) -> Result<abi::TensorMap, CudaError> {
    let tensor = Tiled {
        address: array.address,
        dtype: crate::dtype::Dtype::F32,
        extents: [array.len, 1],
        strides: [1, array.len.next_multiple_of(4)],
        boxes: [keys, 1],
        swizzle: Swizzle::None,
    };
    tensor.encode()
}

/// Attention as these kernels take it, once the operation has checked its views.
pub(in crate::cuda::ops) struct HopperAttention<'m> {
    pub(in crate::cuda::ops) num_groups: Count<'m>,
    pub(in crate::cuda::ops) queries: GroupedQueries<'m>,
    pub(in crate::cuda::ops) log2_multiplicity: Array<'m, f32>,
    pub(in crate::cuda::ops) qkv: Matrix<'m>,
    pub(in crate::cuda::ops) output: Matrix<'m>,
    pub(in crate::cuda::ops) num_heads: usize,
    pub(in crate::cuda::ops) scale_log2: f32,
}

impl HopperAttention<'_> {
    /// Gives the launch to `on`'s stream.
    pub(in crate::cuda::ops) fn launch(&self, variant: &Variant, on: &Launcher<'_>) -> Result<(), CudaError> {
        let queries = &self.queries;
        let (columns, AttentionTiling { rows, keys }) = (variant.columns, variant.tiling);
        assert_eq!(self.output.width, self.num_heads * columns, "heads of another kernel");
        assert_eq!(queries.tiling, variant.tiling, "groups that were cut for another kernel");
        queries.groups.require("groups", self.num_groups.capacity);
        let num_tickets = (queries.counters.len)
            .checked_sub(abi::ATTENTION_COUNTERS as usize)
            .unwrap_or_else(|| panic!("{} counters", queries.counters.len));
        if num_tickets > 0 {
            let Some(partials) = queries.partials else { panic!("tickets, and no room for what they are for") };
            let width = 128 * (columns / 2 + abi::ATTENTION_PARTIAL_EXTRA as usize);
            partials.require("partials", num_tickets * ATTENTION_PIECES, width, crate::dtype::Dtype::F32);
            assert_eq!(partials.stride, width, "partials without gaps");
        }
        let heads = |matrix, box_rows| Heads { matrix, columns, box_rows };
        let values = heads(self.qkv, keys);
        let (key_map, key_tails) = match variant.key_form {
            KeyForm::Uniform => (values.chunks()?, values.chunks()?),
            KeyForm::Mixed => (values.part(0, 64, columns, 1)?, values.part(64, 16, columns, 1)?),
        };
        let params = abi::HopperAttentionParams {
            queries: heads(self.qkv, ATTENTION_TILE).chunks()?,
            keys: key_map,
            key_tails,
            values: values.chunks()?,
            log2_multiplicity: logarithms(self.log2_multiplicity, keys)?,
            output_tiles: heads(self.output, ATTENTION_TILE).chunks()?,
            num_groups: self.num_groups.pointer(),
            groups: queries.groups.pointer(),
            counters: queries.counters.pointer(),
            partials: queries.partials.map_or(std::ptr::null_mut(), |partials| partials.pointer().cast()),
            output: self.output.pointer(),
            scale_log2: self.scale_log2,
            num_heads: number(self.num_heads),
            output_stride: number(self.output.stride),
            __bindgen_padding_0: Default::default(),
        };
        // A block a multiprocessor, and no more than there can be works.
        let items = ATTENTION_PIECES * (self.output.rows / rows + self.num_groups.capacity);
        let multiprocessors = on.stream().context().model().num_multiprocessors;
        let grid = [multiprocessors.min(number(items * self.num_heads)), 1, 1];
        // SAFETY: the params are this kernel's, and the views were checked; groups name rows of the batch, which the views
        // have room for, and tickets that there are counters and partials for.
        unsafe { on.launch(&variant.kernel, grid, &params) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_begin_with_those_that_may_be_chosen() {
        let names = |columns, tiling| variants(columns, tiling).map(|of| of.name).collect::<Vec<_>>();
        let [in_use, other] = tilings(80)[..] else { panic!("{:?}", tilings(80)) };
        assert_eq!(in_use, AttentionTiling::of(80));
        assert_eq!(names(80, in_use), ["192x112", "192x112 mixed", "192x112 always"]);
        assert_eq!(names(80, other), ["128x176", "128x176 mixed"]);
        for columns in (16..=128).step_by(16) {
            let in_use = tilings(columns)[0];
            assert_eq!(in_use, AttentionTiling::of(columns));
            assert!(variants(columns, in_use).map(|of| of.is_for_sweeps).is_sorted(), "{:?}", names(columns, in_use));
        }
        for variant in all() {
            let AttentionTiling { rows, keys } = variant.tiling;
            assert_eq!(variant.name.split(' ').next(), Some(&*format!("{rows}x{keys}")));
        }
    }
}
