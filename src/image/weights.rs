//! The weights of an antialiased bilinear resize along one side, in the arithmetic of each reference.
//!
//! Output `k` is a weighted mean of the inputs under a triangle centred on `(k + 1/2) * in / out`, of half-width
//! `max(in / out, 1)`.

use crate::error::Result;
use crate::memory;

/// The weights along one side: for each output, the inputs from `first` on that count, and theirs.
pub(super) struct Weights<T> {
    windows: Vec<Window>,
    weights: Vec<T>,
}

struct Window {
    first: usize,
    weights: std::ops::Range<usize>,
}

impl<T> Weights<T> {
    /// Of a triangle of half-width `support`, which covers so many inputs on each side of its centre.
    fn new(out_len: usize, support: f64, mut window_of: impl FnMut(usize, &mut Vec<T>) -> usize) -> Result<Self> {
        let mut weights = memory::reserve(out_len.saturating_mul(2 * support.ceil() as usize + 1))?;
        let windows = memory::collect((0..out_len).map(|k| {
            let start = weights.len();
            let first = window_of(k, &mut weights);
            Window { first, weights: start..weights.len() }
        }))?;
        Ok(Self { windows, weights })
    }

    /// The first input of output `k`, and the weights from there on.
    #[inline(always)]
    pub(super) fn of(&self, k: usize) -> (usize, &[T]) {
        let window = &self.windows[k];
        (window.first, &self.weights[window.weights.clone()])
    }

    /// The inputs that the outputs `range`, at least one, need together.
    pub(super) fn inputs(&self, range: std::ops::Range<usize>) -> std::ops::Range<usize> {
        let last = &self.windows[range.end - 1];
        self.windows[range.start].first..last.first + last.weights.len()
    }
}

/// Bits after the point in Pillow's fixed-point weights: 8 are left for the level, and 2 of 32 for the sum.
pub(super) const PRECISION_BITS: u32 = 22;

/// Pillow's weights: computed in float64, then rounded to fixed point.
///
/// Reference: `precompute_coeffs` and `normalize_coeffs_8bpc` in
/// <https://github.com/python-pillow/Pillow/blob/12.3.0/src/libImaging/Resample.c>.
pub(super) fn fixed_point(in_len: usize, out_len: usize) -> Result<Weights<i32>> {
    let scale = in_len as f64 / out_len as f64;
    let support = scale.max(1.0);
    let inverse_support = 1.0 / support;
    let mut triangle = memory::reserve(2 * support.ceil() as usize + 1)?;
    Weights::new(out_len, support, |k, weights| {
        let center = (k as f64 + 0.5) * scale;
        let first = (center - support + 0.5).max(0.0) as usize;
        let end = ((center + support + 0.5) as usize).min(in_len);
        triangle.clear();
        triangle.extend((first..end).map(|j| {
            let distance = ((j as f64 - center + 0.5) * inverse_support).abs();
            (1.0 - distance).max(0.0)
        }));
        let total: f64 = triangle.iter().sum();
        weights.extend(triangle.iter().map(|&weight| {
            let share = if total == 0.0 { weight } else { weight / total };
            (0.5 + share * f64::from(1 << PRECISION_BITS)) as i32
        }));
        first
    })
}

/// torch's weights for float32 pixels: float32, with float64 where C promotes to it.
///
/// Reference: `_compute_indices_min_size_weights_aa` in
/// <https://github.com/pytorch/pytorch/blob/v2.8.0/aten/src/ATen/native/cpu/UpSampleKernel.cpp>.
pub(super) fn float(in_len: usize, out_len: usize) -> Result<Weights<f32>> {
    let scale = in_len as f32 / out_len as f32;
    let support = scale.max(1.0);
    let inverse_support = 1.0 / support;
    Weights::new(out_len, support.into(), |k, weights| {
        let center = (f64::from(scale) * (k as f64 + 0.5)) as f32;
        let first = (f64::from(center - support) + 0.5).max(0.0) as usize;
        let end = ((f64::from(center + support) + 0.5) as usize).min(in_len);
        let start = weights.len();
        weights.extend((first..end).map(|j| {
            let distance = (f64::from(j as f32 - center) + 0.5) * f64::from(inverse_support);
            (1.0 - (distance as f32).abs()).max(0.0)
        }));
        let total: f32 = weights[start..].iter().sum();
        if total != 0.0 {
            weights[start..].iter_mut().for_each(|weight| *weight /= total);
        }
        first
    })
}
