//! `flash_attention` against float64 in which keys that stand for several are repeated.

use super::linear::{batch_of, stride, wide};
use super::{Bench, Case, Draw, Finding, relative_error, rounded};
use crate::cuda::abi::{ATTENTION_QUERIES, AttentionItem};
use crate::cuda::ops::{Array, DeviceBatch, FlashAttention};
use crate::dtype::Dtype;
use crate::error::CudaError;
use crate::plan::Stack;

/// How much more than the error of a plain computation in the same element types.
const FACTOR: f64 = 1.1;

/// What summing in f32 in another order adds.
const NOISE: f64 = 2e-5;

const NUM_HEADS: usize = 2;

/// An image's rows: so many that see all rows, then those that see only these and stand for so many each.
type Image = (usize, &'static [usize]);

/// One row; no multiple of any tile; padding whose rows stand for 3 and for 300.
const BATCHES: [&[Image]; 4] = [
    &[(1, &[])],
    &[(131, &[]), (3, &[]), (65, &[])],
    &[(40, &[3, 3, 3, 300]), (130, &[28])],
    &[(64, &[2; 64]), (129, &[])],
];

pub(super) fn cases(dtype: Dtype) -> Vec<Case> {
    // Head sizes of the model, and the columns they take.
    let heads = [[4, 16], [32, 32], [48, 48], [64, 64], [80, 80], [88, 96], [112, 112], [128, 128]];
    let variants = heads.into_iter().flat_map(|head| BATCHES.map(|images| (head, images)));
    let case = |([head_dim, columns], images): ([usize; 2], &'static [Image])| {
        let rows: Vec<usize> = images.iter().map(|(real, padding)| real + padding.len()).collect();
        Case {
            kernel: "flash_attention",
            shape: format!("heads of {head_dim}, images of {rows:?} rows"),
            run: Box::new(move |bench| Attention::draw(images, head_dim, columns, dtype).run(bench)),
        }
    };
    variants.map(case).collect()
}

/// The rows of a batch.
struct Attention {
    images: &'static [Image],
    head_dim: usize,
    /// That a head takes; zeros beyond head_dim.
    columns: usize,
    dtype: Dtype,
    /// `[rows, 3·H·columns]`.
    qkv: Vec<f32>,
}

impl Attention {
    fn draw(images: &'static [Image], head_dim: usize, columns: usize, dtype: Dtype) -> Self {
        let num_rows: usize = images.iter().map(|(real, padding)| real + padding.len()).sum();
        let mut draw = Draw::new((num_rows * head_dim) as u64);
        let mut qkv = Vec::new();
        for row in 0..num_rows {
            // Scores that reach far, and rows of values a hundred times the others.
            for scale in [2.0, if row % 7 == 3 { 4.0 } else { 1.0 }, if row % 5 == 4 { 100.0 } else { 1.0 }] {
                for _ in 0..NUM_HEADS {
                    qkv.extend(draw.normal(head_dim, scale, dtype));
                    qkv.resize(qkv.len() + columns - head_dim, 0.0);
                }
            }
        }
        Self { images, head_dim, columns, dtype, qkv }
    }

    fn run(&self, bench: &Bench) -> Result<Finding, CudaError> {
        let width = NUM_HEADS * self.columns;
        let (items, logarithms) = self.items();
        let rows = logarithms.len();
        let qkv = bench.matrix(&self.qkv, 3 * width, stride(3 * width), self.dtype)?;
        let output = bench.output(rows, width, stride(width), self.dtype)?;
        let mut padded = logarithms;
        // As many as the output's view has rows.
        padded.resize(output.view().rows, f32::NAN);
        let (item_memory, logarithms) = (bench.upload(&items)?, bench.upload(&padded)?);
        let batch = batch_of(bench, items.len(), 0)?;
        let op = FlashAttention {
            num_items: DeviceBatch::new(&batch, 0).num_attention_items(Stack::Transformer, items.len()),
            items: Array::new(&item_memory, 0, items.len()),
            log2_multiplicity: Array::new(&logarithms, 0, padded.len()),
            qkv: qkv.view(),
            output: output.view(),
            num_heads: NUM_HEADS,
            head_dim: self.head_dim,
        };
        op.launch(&bench.launcher())?;

        let (expected, plain) = self.references(rows);
        let error = relative_error(&bench.result(&output, rows)?, &expected);
        Ok(Finding { error, limit: FACTOR * relative_error(&plain, &expected) + NOISE })
    }

    /// Who sees whom, and log2 of each row's multiplicity; NaN where it must not be read.
    fn items(&self) -> (Vec<AttentionItem>, Vec<f32>) {
        let (mut items, mut logarithms) = (Vec::new(), Vec::new());
        for (real, padding) in self.images {
            let (key_row, len) = (logarithms.len() as u32, real + padding.len());
            for (queries, num_keys) in [(0..*real, len), (*real..len, *real)] {
                for start in queries.clone().step_by(ATTENTION_QUERIES as usize) {
                    items.push(AttentionItem {
                        query_row: key_row + start as u32,
                        num_queries: ATTENTION_QUERIES.min((queries.end - start) as u32),
                        key_row,
                        num_keys: num_keys as u32,
                        first_multiple: *real as u32,
                    });
                }
            }
            logarithms.extend(std::iter::repeat_n(f32::NAN, *real));
            logarithms.extend(padding.iter().map(|multiplicity| (*multiplicity as f32).log2()));
        }
        (items, logarithms)
    }

    /// Attention in float64, and as it comes out where weights are rounded to the element type and sums are f32.
    fn references(&self, rows: usize) -> (Vec<f64>, Vec<f32>) {
        let width = NUM_HEADS * self.columns;
        let (mut exact, mut plain) = (Vec::with_capacity(rows * width), Vec::with_capacity(rows * width));
        let mut first = 0;
        for (real, padding) in self.images {
            let len = real + padding.len();
            for query in 0..len {
                let seen = if query < *real { len } else { *real };
                let copies = |key: usize| key.checked_sub(*real).map_or(1, |key| padding[key]);
                let keys: Vec<usize> =
                    (0..seen).flat_map(|key| std::iter::repeat_n(first + key, copies(key))).collect();
                for head in 0..NUM_HEADS {
                    let (row, plain_row) = self.attend(first + query, &keys, head);
                    exact.extend(row);
                    plain.extend(plain_row);
                }
            }
            first += len;
        }
        (exact, plain)
    }

    /// One query of one head.
    fn attend(&self, query: usize, keys: &[usize], head: usize) -> (Vec<f64>, Vec<f32>) {
        let part = |row: usize, which: usize| {
            &self.qkv[((3 * row + which) * NUM_HEADS + head) * self.columns..][..self.columns]
        };
        let q = wide(part(query, 0));
        let score = |key: &usize| -> f64 {
            let dot: f64 = q.iter().zip(part(*key, 1)).map(|(q, k)| q * f64::from(*k)).sum();
            dot / (self.head_dim as f64).sqrt()
        };
        let scores: Vec<f64> = keys.iter().map(score).collect();
        let highest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|score| (score - highest).exp()).collect();
        let total: f64 = weights.iter().sum();
        let single: Vec<f32> = weights.iter().map(|weight| *weight as f32).collect();
        let single_total: f32 = single.iter().sum();
        let single = rounded(&single, self.dtype);
        let (mut exact, mut plain) = (vec![0.0f64; self.columns], vec![0.0f32; self.columns]);
        for (key, (weight, single)) in keys.iter().zip(weights.iter().zip(&single)) {
            for (value, (exact, plain)) in part(*key, 2).iter().zip(exact.iter_mut().zip(&mut plain)) {
                *exact += weight / total * f64::from(*value);
                *plain += single * value;
            }
        }
        let plain: Vec<f32> = plain.iter().map(|sum| sum / single_total).collect();
        (exact, rounded(&plain, self.dtype))
    }
}
