//! What this machine does at best: a large product and a large copy, on the threads that encode.

use std::time::Instant;

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef};
use rayon::prelude::*;

use super::CpuBackend;
use crate::error::{InputError, Result};
use crate::plan::Peak;

/// Rows and columns of the matrices that are multiplied: 17 GFLOP, a tenth of a second on two cores.
const SIDE: usize = 2048;

/// Bytes that are copied: several times what caches hold.
const COPY_BYTES: usize = 256 << 20;

/// Rounds, of which the fastest counts.
const ROUNDS: usize = 5;

/// Elements a thread copies at a time.
const PIECE: usize = 1 << 18;

impl CpuBackend {
    /// The rates of both; without `timed`, small ones are done once.
    ///
    /// # Errors
    /// [`InputError::OutOfMemory`].
    pub(crate) fn measure_peak(&mut self, timed: bool) -> Result<Option<Peak>> {
        let (side, len) = if timed { (SIDE, COPY_BYTES / size_of::<f32>()) } else { (64, PIECE) };
        let (par, rounds) = (self.multiplier.par(), if timed { ROUNDS } else { 1 });
        let [left, right, mut product] = [noise(side * side)?, noise(side * side)?, noise(side * side)?];
        let (from, mut to) = (noise(len)?, noise(len)?);
        let multiply = || {
            let (left, right) =
                (MatRef::from_row_major_slice(&left, side, side), MatRef::from_row_major_slice(&right, side, side));
            let product = MatMut::from_row_major_slice_mut(&mut product, side, side);
            matmul(product, Accum::Replace, left, right.transpose(), 1.0, par);
        };
        let copy = || {
            let pieces = to.par_chunks_mut(PIECE).zip(from.par_chunks(PIECE));
            pieces.for_each(|(to, from)| to.copy_from_slice(from));
        };
        let [product, copy] = self.pool.install(|| [fastest(rounds, multiply), fastest(rounds, copy)]);
        let flops = 2.0 * (side as f64).powi(3) / product;
        let bytes = 2.0 * (len * size_of::<f32>()) as f64 / copy;
        Ok(timed.then_some(Peak { flops: Some(flops), bytes }))
    }
}

/// Seconds of the fastest of some rounds, after one that does not count.
fn fastest(rounds: usize, mut work: impl FnMut()) -> f64 {
    work();
    let round = |_| {
        let begin = Instant::now();
        work();
        begin.elapsed().as_secs_f64()
    };
    (0..rounds).map(round).fold(f64::INFINITY, f64::min)
}

/// Numbers without a pattern, none of which is zero for long.
fn noise(len: usize) -> Result<Vec<f32>> {
    let mut values: Vec<f32> = bytemuck::try_zeroed_vec(len)
        .map_err(|()| InputError::OutOfMemory { bytes: (len as u64).saturating_mul(size_of::<f32>() as u64) })?;
    let value = |(index, value): (usize, &mut f32)| {
        *value = ((index as u32).wrapping_mul(2_654_435_761) >> 8) as f32 / (1u32 << 24) as f32 - 0.5;
    };
    values.par_iter_mut().enumerate().for_each(value);
    Ok(values)
}
