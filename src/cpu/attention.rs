//! Softmax attention that streams over the keys: no tensor of queries × keys, only a tile of it.
//!
//! For each head and block of queries, key blocks come one after another; running maxima m and sums l rescale what was
//! gathered so far (Milakov & Gimelshein, arXiv:1805.02867):
//!
//! s = k·qᵀ/√d + ln multiplicity,  m' = max(m, max s),  l' = l·e^(m−m') + Σ e^(s−m'),  oᵀ' = oᵀ·e^(m−m') + vᵀ·e^(s−m')
//!
//! Queries lie across the vectors and keys down the rows. So the weights of a key block are, as they come out of the first
//! product, the operand that the second one takes, and maxima and sums need nothing from one lane to another.

use std::ops::Range;

use faer::MatMut;
use pulp::Simd;
use rayon::prelude::*;

use super::math::exp;
use super::tile::{self, InTiles};
use crate::plan::Rows;

/// Queries of a task: enough that a block of keys, which comes from the last-level cache or from memory, is met often.
const QUERIES: usize = 192;

/// Keys of a block, a multiple of every tile's rows: the block of a tile's weights, 23 KiB in AVX-512, is still in the
/// first-level cache when it is multiplied with the values.
const KEYS: usize = 120;

/// Attention of one image's rows.
pub(super) struct Sequence<'a> {
    /// Queries, keys and values, `[rows, 3·C]`.
    pub(super) qkv: &'a [f32],
    /// Who sees whom, and which rows stand for several.
    pub(super) rows: &'a Rows,
    pub(super) num_heads: usize,
    pub(super) head_dim: usize,
}

/// A head's keys and values as tiles take them, block of keys by block: `[KEYS / rows, d, rows]` keys, then
/// `[d / rows, KEYS, rows]` values, where `rows` are a tile's and d is filled up to a multiple of it.
#[derive(Clone, Copy)]
struct BlockShape {
    head_dim: usize,
    padded_dim: usize,
}

impl BlockShape {
    fn new(head_dim: usize) -> Self {
        Self { head_dim, padded_dim: head_dim.next_multiple_of(tile::num_rows()) }
    }

    fn keys_len(self) -> usize {
        KEYS * self.head_dim
    }

    fn len(self) -> usize {
        self.keys_len() + KEYS * self.padded_dim
    }
}

/// Elements that [`Sequence::attend`] needs for the keys and values of a sequence.
pub(super) fn num_packed(rows: usize, num_heads: usize, head_dim: usize) -> usize {
    num_heads * rows.div_ceil(KEYS) * BlockShape::new(head_dim).len()
}

/// A block of queries of one head, and its place in the output.
struct Task<'a> {
    sequence: &'a Sequence<'a>,
    shape: BlockShape,
    head: usize,
    queries: Range<usize>,
    /// Keys `0..num_keys` are seen.
    num_keys: usize,
    /// The head's blocks.
    blocks: &'a [f32],
    output: MatMut<'a, f32>,
}

/// What a thread works in; all but the weights have a part for each tile of queries.
#[derive(Default)]
struct Scratch {
    /// Queries, scaled: `[d, columns]`.
    queries: Vec<f32>,
    /// Scores and then weights of the tile at hand: `[KEYS, columns]`.
    weights: Vec<f32>,
    /// oᵀ: `[d, columns]`.
    sums: Vec<f32>,
    /// m and l: `[2, columns]`.
    state: Vec<f32>,
}

impl Sequence<'_> {
    /// Writes the attention of all heads to `output`, `[rows, C]`. `packed` has room for [`num_packed`] elements.
    pub(super) fn attend(&self, output: &mut [f32], packed: &mut [f32]) {
        let shape = BlockShape::new(self.head_dim);
        let blocks_of_head = self.rows.len.div_ceil(KEYS);
        let packed = &mut packed[..num_packed(self.rows.len, self.num_heads, self.head_dim)];
        packed.par_chunks_exact_mut(shape.len()).enumerate().for_each(|(index, block)| {
            let start = index % blocks_of_head * KEYS;
            let (head, rows) = (index / blocks_of_head, start..(start + KEYS).min(self.rows.len));
            tile::dispatch(Pack { sequence: self, shape, head, rows, block });
        });
        let output = MatMut::from_row_major_slice_mut(output, self.rows.len, self.num_heads * self.head_dim);
        let tasks = self.tasks(shape, packed, output);
        tasks.into_par_iter().for_each_init(Scratch::default, |scratch, task| tile::dispatch(Attend { task, scratch }));
    }

    /// Every head's blocks of queries; no block mixes queries that see different keys.
    fn tasks<'a>(&'a self, shape: BlockShape, packed: &'a [f32], output: MatMut<'a, f32>) -> Vec<Task<'a>> {
        let mut tasks = Vec::new();
        let mut heads = output;
        let blocks = packed.chunks_exact(packed.len() / self.num_heads);
        for (head, blocks) in blocks.enumerate() {
            let (mut rest, others) = heads.split_at_col_mut(self.head_dim);
            heads = others;
            let groups =
                [(0..self.rows.all_seeing, self.rows.len), (self.rows.all_seeing..self.rows.len, self.rows.all_seeing)];
            for (queries, num_keys) in groups {
                for start in queries.clone().step_by(QUERIES) {
                    let queries = start..(start + QUERIES).min(queries.end);
                    let (output, below) = rest.split_at_row_mut(queries.len());
                    rest = below;
                    tasks.push(Task { sequence: self, shape, head, queries, num_keys, blocks, output });
                }
            }
        }
        tasks
    }

    /// A row's part of one head: of the queries (0), keys (1) or values (2).
    fn part(&self, which: usize, head: usize, row: usize) -> &[f32] {
        let start = (row * 3 + which) * self.num_heads * self.head_dim + head * self.head_dim;
        &self.qkv[start..start + self.head_dim]
    }
}

/// Packs some rows' keys and values of a head. What no row fills is zero, for it is multiplied, too.
struct Pack<'a> {
    sequence: &'a Sequence<'a>,
    shape: BlockShape,
    head: usize,
    rows: Range<usize>,
    block: &'a mut [f32],
}

impl InTiles for Pack<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd, const ROWS: usize, const VECTORS: usize>(self, _: S) {
        let Self { sequence, shape, head, rows, block } = self;
        let BlockShape { head_dim, padded_dim } = shape;
        if rows.len() < KEYS || padded_dim > head_dim {
            block.fill(0.0);
        }
        let (keys, values) = block.split_at_mut(shape.keys_len());
        let panels = keys.as_chunks_mut::<ROWS>().0.chunks_exact_mut(head_dim);
        for (panel, start) in panels.zip(rows.clone().step_by(ROWS)) {
            for (key, row) in (start..rows.end.min(start + ROWS)).enumerate() {
                for (column, value) in panel.iter_mut().zip(sequence.part(1, head, row)) {
                    column[key] = *value;
                }
            }
        }
        let values = values.as_chunks_mut::<ROWS>().0;
        for (key, row) in rows.enumerate() {
            let (parts, rest) = sequence.part(2, head, row).as_chunks::<ROWS>();
            for (panel, part) in values.chunks_exact_mut(KEYS).zip(parts) {
                panel[key] = *part;
            }
            if let Some(last) = values.get_mut(parts.len() * KEYS + key) {
                last[..rest.len()].copy_from_slice(rest);
            }
        }
    }
}

/// A task on its way through the blocks of keys.
struct Attend<'a> {
    task: Task<'a>,
    scratch: &'a mut Scratch,
}

impl InTiles for Attend<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd, const ROWS: usize, const VECTORS: usize>(self, simd: S) {
        let Self { task, scratch } = self;
        let columns = VECTORS * S::F32_LANES;
        let BlockShape { head_dim, padded_dim, .. } = task.shape;
        let num_tiles = task.queries.len().div_ceil(columns);
        let queries = tile::aligned(&mut scratch.queries, num_tiles * head_dim * columns);
        let weights = tile::vectors_mut::<S, VECTORS>(tile::aligned(&mut scratch.weights, KEYS * columns));
        let sums = tile::aligned(&mut scratch.sums, num_tiles * padded_dim * columns);
        let state = tile::aligned(&mut scratch.state, num_tiles * 2 * columns);
        task.scale_queries(queries, columns);
        sums.fill(0.0);
        for state in state.chunks_exact_mut(2 * columns) {
            let (maxima, totals) = state.split_at_mut(columns);
            maxima.fill(f32::NEG_INFINITY);
            totals.fill(0.0);
        }
        for (start, block) in (0..task.num_keys).step_by(KEYS).zip(task.blocks.chunks_exact(task.shape.len())) {
            let keys = start..(start + KEYS).min(task.num_keys);
            let (packed_keys, packed_values) = block.split_at(task.shape.keys_len());
            let weights = &mut weights[..keys.len().next_multiple_of(ROWS)];
            let tiles = queries.chunks_exact(head_dim * columns).zip(sums.chunks_exact_mut(padded_dim * columns));
            for ((queries, sums), state) in tiles.zip(state.chunks_exact_mut(2 * columns)) {
                let queries = tile::vectors::<S, VECTORS>(queries);
                let panels = packed_keys.chunks_exact(head_dim * ROWS);
                for (panel, scores) in panels.zip(weights.as_chunks_mut::<ROWS>().0) {
                    *scores = tile::product(simd, panel, queries);
                }
                let weights = &mut weights[..keys.len()];
                task.add_multiplicities(simd, weights, &keys);
                let [maxima, totals] = tile::vectors_mut::<S, VECTORS>(state) else {
                    unreachable!("a tile's state is one row of maxima and one of totals")
                };
                let correction = weigh(simd, weights, maxima, totals);
                let panels = packed_values.chunks_exact(KEYS * ROWS);
                for (panel, sums) in panels.zip(tile::vectors_mut::<S, VECTORS>(sums).as_chunks_mut::<ROWS>().0) {
                    let more = tile::product::<S, ROWS, VECTORS>(simd, panel, weights);
                    for (sums, more) in sums.as_flattened_mut().chunks_exact_mut(VECTORS).zip(more) {
                        for ((sum, more), correction) in sums.iter_mut().zip(more).zip(correction) {
                            *sum = simd.mul_add_f32s(*sum, correction, more);
                        }
                    }
                }
            }
        }
        task.write(sums, state, columns);
    }
}

impl Task<'_> {
    /// The queries divided by √d, tile after tile, `[d, columns]`; columns that are left over are zero.
    fn scale_queries(&self, scaled: &mut [f32], columns: usize) {
        let head_dim = self.shape.head_dim;
        let scale = 1.0 / (head_dim as f32).sqrt();
        scaled.fill(0.0);
        for (place, row) in self.queries.clone().enumerate() {
            let tile = &mut scaled[place / columns * columns * head_dim..][..columns * head_dim];
            for (line, value) in tile.chunks_exact_mut(columns).zip(self.sequence.part(0, self.head, row)) {
                line[place % columns] = value * scale;
            }
        }
    }

    /// Adds ln m to the scores of keys that stand for m equal ones.
    #[inline(always)]
    fn add_multiplicities<S: Simd, const VECTORS: usize>(
        &self,
        simd: S,
        scores: &mut [[S::f32s; VECTORS]],
        keys: &Range<usize>,
    ) {
        for multiple in &self.sequence.rows.multiples {
            let from = multiple.rows.start.clamp(keys.start, keys.end) - keys.start;
            let to = multiple.rows.end.clamp(keys.start, keys.end) - keys.start;
            let bias = simd.splat_f32s((multiple.multiplicity as f32).ln());
            for score in scores[from..to].as_flattened_mut() {
                *score = simd.add_f32s(*score, bias);
            }
        }
    }

    /// o = oᵀ / l, the other way round.
    fn write(self, sums: &[f32], state: &[f32], columns: usize) {
        for (place, row) in self.output.row_iter_mut().enumerate() {
            let (tile, column) = (place / columns, place % columns);
            let total = state[(tile * 2 + 1) * columns + column];
            let sums = sums[tile * self.shape.padded_dim * columns..].chunks_exact(columns);
            row.iter_mut().zip(sums).for_each(|(out, sums)| *out = sums[column] / total);
        }
    }
}

/// Turns scores into e^(score − m'), brings m and l up to date and returns e^(m − m').
#[inline(always)]
fn weigh<S: Simd, const VECTORS: usize>(
    simd: S,
    scores: &mut [[S::f32s; VECTORS]],
    maxima: &mut [S::f32s; VECTORS],
    totals: &mut [S::f32s; VECTORS],
) -> [S::f32s; VECTORS] {
    let mut highest = *maxima;
    for scores in scores.iter() {
        for (highest, score) in highest.iter_mut().zip(scores) {
            *highest = simd.max_f32s(*highest, *score);
        }
    }
    let mut sums = [simd.splat_f32s(0.0); VECTORS];
    for scores in scores.iter_mut() {
        for ((score, highest), sum) in scores.iter_mut().zip(highest).zip(&mut sums) {
            *score = exp(simd, simd.sub_f32s(*score, highest));
            *sum = simd.add_f32s(*sum, *score);
        }
    }
    let mut corrections = sums;
    for (index, correction) in corrections.iter_mut().enumerate() {
        // The first block meets m = −∞ and nothing gathered: e⁻⁸⁷ of nothing is nothing.
        *correction = exp(simd, simd.sub_f32s(maxima[index], highest[index]));
        totals[index] = simd.mul_add_f32s(totals[index], *correction, sums[index]);
    }
    *maxima = highest;
    corrections
}

#[cfg(test)]
mod tests {
    use pulp::Scalar;

    use super::*;
    use crate::plan::MultipleRows;

    const NUM_HEADS: usize = 3;
    /// No multiple of any tile's rows.
    const HEAD_DIM: usize = 13;

    /// Numbers between -2 and 2.
    fn noise(len: usize) -> Vec<f32> {
        (0..len as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 22) as f32 - 2.0).collect()
    }

    /// Three blocks of keys and two of queries; the last rows see some only, and some stand for several.
    fn rows() -> Rows {
        let multiple = |rows, multiplicity| MultipleRows { rows, multiplicity };
        Rows { len: 2 * KEYS + 7, all_seeing: 2 * KEYS - 5, multiples: vec![multiple(3..4, 9), multiple(115..130, 70)] }
    }

    /// The formula in float64, with every weight there at once.
    fn expected(sequence: &Sequence) -> Vec<f64> {
        let rows = sequence.rows;
        let multiplicity = |key: usize| {
            let multiple = rows.multiples.iter().find(|multiple| multiple.rows.contains(&key));
            multiple.map_or(1, |multiple| multiple.multiplicity) as f64
        };
        let mut output = Vec::new();
        for query in 0..rows.len {
            let num_keys = if query < rows.all_seeing { rows.len } else { rows.all_seeing };
            for head in 0..NUM_HEADS {
                let q = sequence.part(0, head, query);
                let score = |key| -> f64 {
                    let products =
                        q.iter().zip(sequence.part(1, head, key)).map(|(q, k)| f64::from(*q) * f64::from(*k));
                    products.sum::<f64>() / (HEAD_DIM as f64).sqrt()
                };
                let weights: Vec<f64> = (0..num_keys).map(|key| multiplicity(key) * score(key).exp()).collect();
                let total: f64 = weights.iter().sum();
                let channel = |channel: usize| {
                    let value = |key| f64::from(sequence.part(2, head, key)[channel]);
                    weights.iter().enumerate().map(|(key, weight)| weight * value(key)).sum::<f64>() / total
                };
                output.extend((0..HEAD_DIM).map(channel));
            }
        }
        output
    }

    #[track_caller]
    fn assert_close(found: &[f32], expected: &[f64]) {
        for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
            assert!((f64::from(*found) - expected).abs() < 2e-6, "{index}: {found}, not {expected}");
        }
    }

    #[test]
    fn attention_is_the_formula_in_any_tiles() {
        let (rows, qkv) = (rows(), noise((2 * KEYS + 7) * 3 * NUM_HEADS * HEAD_DIM));
        let sequence = Sequence { qkv: &qkv, rows: &rows, num_heads: NUM_HEADS, head_dim: HEAD_DIM };
        let expected = expected(&sequence);
        // What is left over from before is not what is read.
        let mut output = vec![f32::NAN; expected.len()];
        let mut packed = vec![f32::NAN; num_packed(rows.len, NUM_HEADS, HEAD_DIM)];
        sequence.attend(&mut output, &mut packed);
        assert_close(&output, &expected);

        // The tiles of CPUs with 16 registers.
        let shape = BlockShape { head_dim: HEAD_DIM, padded_dim: HEAD_DIM.next_multiple_of(6) };
        let mut packed = vec![f32::NAN; NUM_HEADS * 3 * shape.len()];
        for (index, block) in packed.chunks_exact_mut(shape.len()).enumerate() {
            let start = index % 3 * KEYS;
            let rows = start..(start + KEYS).min(rows.len);
            Pack { sequence: &sequence, shape, head: index / 3, rows, block }.run::<_, 6, 2>(Scalar::new());
        }
        let mut output = vec![f32::NAN; expected.len()];
        let place = MatMut::from_row_major_slice_mut(&mut output, rows.len, NUM_HEADS * HEAD_DIM);
        for task in sequence.tasks(shape, &packed, place) {
            let mut scratch = Scratch::default();
            Attend { task, scratch: &mut scratch }.run::<_, 6, 2>(Scalar::new());
        }
        assert_close(&output, &expected);
    }
}
