//! Layer norm of rows: two passes in f32, biased variance.

use pulp::Arch;
use rayon::prelude::*;

use crate::checkpoint::Norm;
use crate::config::NORM_EPS;

/// Rows a task normalises: enough to hide the scheduling, few enough to share the work.
const ROWS: usize = 32;

/// Lanes of the running sums; several vectors' worth, so that additions overlap.
const LANES: usize = 32;

/// `output[r] = (input[r] − mean) / √(variance + eps) · weight + bias` for every row of `width` elements.
pub(super) fn layer_norm(input: &[f32], norm: &Norm, output: &mut [f32]) {
    let width = norm.weight.len();
    let arch = Arch::new();
    let tasks = output.par_chunks_mut(ROWS * width).zip(input.par_chunks(ROWS * width));
    tasks.for_each(|(output, input)| {
        arch.dispatch(|| {
            for (output, input) in output.chunks_exact_mut(width).zip(input.chunks_exact(width)) {
                output.copy_from_slice(input);
                normalise(output, norm);
            }
        });
    });
}

/// [`layer_norm`] of one row in place; call it under `Arch::dispatch`.
#[inline(always)]
pub(super) fn normalise(row: &mut [f32], norm: &Norm) {
    let len = row.len() as f32;
    let mean = sum(row, |x| x) / len;
    let variance = sum(row, |x| (x - mean) * (x - mean)) / len;
    let scale = 1.0 / (variance + NORM_EPS).sqrt();
    for ((x, weight), bias) in row.iter_mut().zip(&norm.weight).zip(&norm.bias) {
        *x = ((*x - mean) * scale).mul_add(*weight, *bias);
    }
}

/// Σ f(x), in lanes.
#[inline(always)]
fn sum(row: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane += f(*x);
        }
    }
    lanes.iter().sum::<f32>() + rest.iter().map(|x| f(*x)).sum::<f32>()
}
