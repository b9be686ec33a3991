//! Layer norm of rows: two passes in f32, biased variance.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use crate::checkpoint::Norm;
use crate::config::NORM_EPS;

/// Rows a task normalises: enough to hide the scheduling, few enough to share the work.
const ROWS: usize = 32;

/// Lanes of the running sums; several vectors' worth, so that additions overlap.
const LANES: usize = 32;

/// `output[r] = (input[r] − mean) / √(variance + eps) · weight + bias` for every row of `width` elements.
pub(super) fn layer_norm(input: &[f32], norm: &Norm, output: &mut [f32]) {
    let len = ROWS * norm.weight.len();
    output.par_chunks_mut(len).zip(input.par_chunks(len)).for_each(|(output, input)| {
        output.copy_from_slice(input);
        Arch::new().dispatch(Normalise { rows: output, norm });
    });
}

/// Layer norm of whole rows in place; run it through `Arch::dispatch`.
pub(super) struct Normalise<'a> {
    pub(super) rows: &'a mut [f32],
    pub(super) norm: &'a Norm,
}

impl WithSimd for Normalise<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Norm { weight, bias } = self.norm;
        for row in self.rows.chunks_exact_mut(weight.len()) {
            let len = row.len() as f32;
            let mean = sum(row, |x| x) / len;
            let variance = sum(row, |x| (x - mean) * (x - mean)) / len;
            let scale = 1.0 / (variance + NORM_EPS).sqrt();
            for ((x, weight), bias) in row.iter_mut().zip(weight).zip(bias) {
                *x = ((*x - mean) * scale).mul_add(*weight, *bias);
            }
        }
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
