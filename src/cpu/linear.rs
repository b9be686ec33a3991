//! Matrix products with the weights, which stay in their stored type and are widened a slab at a time.

use std::ops::Range;

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use crate::checkpoint::Tensor;
use crate::dtype::Dtype;

/// Elements of a widened slab: 8 MiB, so that it is still in the last-level cache when the product reads it, and wide
/// enough that packing the other operand once a slab does not count.
const SLAB: usize = 1 << 21;

/// Elements a thread widens at a time.
const PIECE: usize = 1 << 15;

/// Rows a thread finishes at a time.
const FINISH_ROWS: usize = 16;

/// Matrix products on the current thread pool.
pub(super) struct Multiplier {
    par: Par,
    slab: Vec<f32>,
}

/// The left operand: rows of `width` elements, whose sequences are multiplied one by one, so that a result cannot
/// depend on what else is in the batch.
#[derive(Clone, Copy)]
pub(super) struct Input<'a> {
    pub(super) values: &'a [f32],
    pub(super) width: usize,
    pub(super) sequences: &'a [Range<usize>],
}

/// Where a product goes: columns `start..` of a matrix with `width` columns; sequence `i` to the rows `sequences[i]`.
pub(super) struct Output<'a> {
    pub(super) values: &'a mut [f32],
    pub(super) width: usize,
    pub(super) start: usize,
    pub(super) sequences: &'a [Range<usize>],
}

/// Called with a row's columns that were just computed, and the rows of the weight they come from.
pub(super) type Finish<'a> = dyn Fn(&mut [f32], Range<usize>) + Sync + 'a;

/// Whether a product replaces what stands in its place, or is scaled and added to it.
#[derive(Clone, Copy)]
pub(super) enum Into {
    Place,
    Sum(f32),
}

impl Multiplier {
    pub(super) fn new(threads: usize) -> Self {
        Self { par: if threads > 1 { Par::rayon(threads) } else { Par::Seq }, slab: Vec::new() }
    }

    /// How it spreads over the threads.
    pub(super) fn par(&self) -> Par {
        self.par
    }

    /// `output = input · weightᵀ`, or `output += scale · input · weightᵀ`; `weight` is `[out, in]`.
    ///
    /// `finish` then sees every row of what was just computed, while it is in the cache: a slab's columns of that row,
    /// and which rows of the weight they come from.
    pub(super) fn multiply(
        &mut self,
        input: Input,
        weight: &Tensor,
        output: Output,
        into: Into,
        finish: Option<&Finish>,
    ) {
        let num_outputs = weight.num_elements() / input.width;
        let (accumulate, scale) = match into {
            Into::Place => (Accum::Replace, 1.0),
            Into::Sum(scale) => (Accum::Add, scale),
        };
        let par = self.par;
        let step = (SLAB / input.width).max(1).min(num_outputs);
        for start in (0..num_outputs).step_by(step) {
            let rows = start..(start + step).min(num_outputs);
            let slab = widened(weight, rows.start * input.width..rows.end * input.width, &mut self.slab);
            let slab = MatRef::from_row_major_slice(slab, rows.len(), input.width);
            for (source, target) in input.sequences.iter().zip(output.sequences) {
                let x = &input.values[source.start * input.width..source.end * input.width];
                let x = MatRef::from_row_major_slice(x, source.len(), input.width);
                let place = &mut output.values[target.start * output.width..target.end * output.width];
                let y = MatMut::from_row_major_slice_mut(&mut *place, target.len(), output.width);
                let y = y.subcols_mut(output.start + rows.start, rows.len());
                matmul(y, accumulate, x, slab.transpose(), scale, par);
                let Some(finish) = finish else { continue };
                let columns = output.start + rows.start..output.start + rows.end;
                place.par_chunks_mut(output.width * FINISH_ROWS).for_each(|block| {
                    for row in block.chunks_exact_mut(output.width) {
                        finish(&mut row[columns.clone()], rows.clone());
                    }
                });
            }
        }
    }
}

/// A product on the calling thread alone, large enough to be done as all others are.
pub(super) fn multiply_once() {
    const SIDE: usize = 64;
    let (ones, mut product) = ([1.0f32; SIDE * SIDE], [0.0; SIDE * SIDE]);
    let ones = MatRef::from_row_major_slice(&ones, SIDE, SIDE);
    let product = MatMut::from_row_major_slice_mut(&mut product, SIDE, SIDE);
    matmul(product, Accum::Replace, ones, ones.transpose(), 1.0, Par::Seq);
}

/// Elements `range` of `weight` as f32: the weight itself where it is stored so, `slab` otherwise.
fn widened<'a>(weight: &'a Tensor, range: Range<usize>, slab: &'a mut Vec<f32>) -> &'a [f32] {
    if weight.dtype() == Dtype::F32
        && let Ok(stored) = bytemuck::try_cast_slice::<u8, f32>(weight.bytes())
        && cfg!(target_endian = "little")
    {
        return &stored[range];
    }
    let len = range.len();
    if slab.len() < len {
        slab.resize(len, 0.0);
    }
    slab[..len].par_chunks_mut(PIECE).enumerate().for_each(|(piece, out)| {
        let start = range.start + piece * PIECE;
        weight.widen_into(start..start + out.len(), out);
    });
    &slab[..len]
}
