//! Softmax attention that streams over the keys: no tensor of queries × keys, only a block of it.
//!
//! For each head and block of queries, key blocks come one after another; running maxima m and sums l rescale what was
//! gathered so far (Milakov & Gimelshein, arXiv:1805.02867):
//!
//! s = q·kᵀ/√d + ln multiplicity,  m' = max(m, max s),  l' = l·e^(m−m') + Σ e^(s−m'),  o' = o·e^(m−m') + e^(s−m')·v

use std::ops::Range;

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::math::exp;
use crate::plan::Rows;

/// Queries of a block. With [`KEYS`], a block of scores is 512 KiB and lies in a core's second-level cache with the
/// keys and values it meets.
const QUERIES: usize = 256;

/// Keys of a block.
const KEYS: usize = 512;

/// Attention of one image's rows.
pub(super) struct Sequence<'a> {
    /// Queries, keys and values, `[rows, 3·C]`.
    pub(super) qkv: &'a [f32],
    /// Who sees whom, and which rows stand for several.
    pub(super) rows: &'a Rows,
    pub(super) num_heads: usize,
    pub(super) head_dim: usize,
}

/// A block of queries of one head, and its place in the output.
struct Task<'a> {
    head: usize,
    queries: Range<usize>,
    /// Keys `0..num_keys` are seen.
    num_keys: usize,
    output: MatMut<'a, f32>,
}

/// What a thread works in.
struct Scratch {
    /// `[QUERIES, KEYS]`.
    scores: Vec<f32>,
    /// `[QUERIES, head_dim]`.
    sums: Vec<f32>,
    /// m of each query.
    maxima: Vec<f32>,
    /// l of each query.
    totals: Vec<f32>,
}

impl Sequence<'_> {
    /// Writes the attention of all heads to `output`, `[rows, C]`.
    pub(super) fn attend(&self, output: &mut [f32]) {
        let width = self.num_heads * self.head_dim;
        let output = MatMut::from_row_major_slice_mut(output, self.rows.len, width);
        let scratch = || Scratch {
            scores: vec![0.0; QUERIES * KEYS],
            sums: vec![0.0; QUERIES * self.head_dim],
            maxima: vec![0.0; QUERIES],
            totals: vec![0.0; QUERIES],
        };
        self.tasks(output).into_par_iter().for_each_init(scratch, |scratch, task| self.run(task, scratch));
    }

    /// Every head's blocks of queries; no block mixes queries that see different keys.
    fn tasks<'o>(&self, output: MatMut<'o, f32>) -> Vec<Task<'o>> {
        let mut tasks = Vec::new();
        let mut heads = output;
        for head in 0..self.num_heads {
            let (mut rest, others) = heads.split_at_col_mut(self.head_dim);
            heads = others;
            let groups =
                [(0..self.rows.all_seeing, self.rows.len), (self.rows.all_seeing..self.rows.len, self.rows.all_seeing)];
            for (queries, num_keys) in groups {
                for start in queries.clone().step_by(QUERIES) {
                    let queries = start..(start + QUERIES).min(queries.end);
                    let (output, below) = rest.split_at_row_mut(queries.len());
                    rest = below;
                    tasks.push(Task { head, queries, num_keys, output });
                }
            }
        }
        tasks
    }

    /// Columns of one head of the queries (0), keys (1) or values (2), for some rows.
    fn part(&self, which: usize, head: usize, rows: Range<usize>) -> MatRef<'_, f32> {
        let width = self.num_heads * self.head_dim;
        let qkv = MatRef::from_row_major_slice(self.qkv, self.rows.len, 3 * width);
        qkv.submatrix(rows.start, which * width + head * self.head_dim, rows.len(), self.head_dim)
    }

    fn run(&self, task: Task, scratch: &mut Scratch) {
        let num_queries = task.queries.len();
        let queries = self.part(0, task.head, task.queries);
        let scale = 1.0 / (self.head_dim as f32).sqrt();
        let sums = &mut scratch.sums[..num_queries * self.head_dim];
        sums.fill(0.0);
        scratch.maxima.fill(f32::NEG_INFINITY);
        scratch.totals.fill(0.0);
        for start in (0..task.num_keys).step_by(KEYS) {
            let keys = start..(start + KEYS).min(task.num_keys);
            let scores = &mut scratch.scores[..num_queries * keys.len()];
            let place = MatMut::from_row_major_slice_mut(&mut *scores, num_queries, keys.len());
            let k = self.part(1, task.head, keys.clone());
            matmul(place, Accum::Replace, queries, k.transpose(), scale, Par::Seq);
            self.add_multiplicities(scores, &keys);
            Arch::new().dispatch(WeighBlock {
                scores,
                num_keys: keys.len(),
                sums,
                width: self.head_dim,
                maxima: &mut scratch.maxima,
                totals: &mut scratch.totals,
            });
            let weights = MatRef::from_row_major_slice(scores, num_queries, keys.len());
            let place = MatMut::from_row_major_slice_mut(&mut *sums, num_queries, self.head_dim);
            matmul(place, Accum::Add, weights, self.part(2, task.head, keys), 1.0, Par::Seq);
        }
        let rows = sums.chunks_exact(self.head_dim).zip(&scratch.totals);
        for (row, (sums, total)) in task.output.row_iter_mut().zip(rows) {
            row.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum / total);
        }
    }

    /// Adds ln m to the scores of keys that stand for m equal ones.
    fn add_multiplicities(&self, scores: &mut [f32], keys: &Range<usize>) {
        for multiple in &self.rows.multiples {
            let from = multiple.rows.start.clamp(keys.start, keys.end) - keys.start;
            let to = multiple.rows.end.clamp(keys.start, keys.end) - keys.start;
            let bias = (multiple.multiplicity as f32).ln();
            for row in scores.chunks_exact_mut(keys.len()) {
                row[from..to].iter_mut().for_each(|score| *score += bias);
            }
        }
    }
}

/// Lanes of the running maximum and sum.
const LANES: usize = 32;

/// [`weigh`]s the rows of a block of scores, and rescales what was gathered for each; run it through `Arch::dispatch`.
struct WeighBlock<'a> {
    /// `[queries, num_keys]`.
    scores: &'a mut [f32],
    num_keys: usize,
    /// `[queries, width]`.
    sums: &'a mut [f32],
    width: usize,
    maxima: &'a mut [f32],
    totals: &'a mut [f32],
}

impl WithSimd for WeighBlock<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let rows = self.scores.chunks_exact_mut(self.num_keys).zip(self.sums.chunks_exact_mut(self.width));
        for ((scores, sums), (maximum, total)) in rows.zip(self.maxima.iter_mut().zip(self.totals)) {
            let correction = weigh(scores, maximum, total);
            for sum in sums {
                *sum *= correction;
            }
        }
    }
}

/// Turns a row of scores into e^(score − m'), brings m and l up to date and returns e^(m − m').
#[inline(always)]
fn weigh(scores: &mut [f32], maximum: &mut f32, total: &mut f32) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = scores.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, score) in lanes.iter_mut().zip(chunk) {
            // A comparison and a choice, which is one instruction; `f32::max` minds NaN.
            *lane = if *score > *lane { *score } else { *lane };
        }
    }
    let highest = lanes.iter().chain(rest).fold(*maximum, |a, b| a.max(*b));
    let mut lanes = [0.0; LANES];
    let (chunks, rest) = scores.as_chunks_mut::<LANES>();
    for chunk in chunks {
        for (lane, score) in lanes.iter_mut().zip(chunk) {
            *score = exp(*score - highest);
            *lane += *score;
        }
    }
    let mut sum = lanes.iter().sum::<f32>();
    for score in rest {
        *score = exp(*score - highest);
        sum += *score;
    }
    // The first block meets m = −∞: nothing was gathered, and nothing is kept.
    let correction = if *maximum == f32::NEG_INFINITY { 0.0 } else { exp(*maximum - highest) };
    *total = total.mul_add(correction, sum);
    *maximum = highest;
    correction
}
