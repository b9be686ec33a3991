//! Random inputs that look like a vision transformer's, and errors against float64.

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{RngCore, SeedableRng};

use crate::dtype::Dtype;

/// A source of reproducible values.
pub(crate) struct Draw(Xoshiro256PlusPlus);

impl Draw {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Xoshiro256PlusPlus::seed_from_u64(seed))
    }

    /// Uniform in [0, 1).
    pub(crate) fn unit(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// `len` standard normal values times `scale`, exact in `dtype`.
    pub(crate) fn normal(&mut self, len: usize, scale: f64, dtype: Dtype) -> Vec<f32> {
        let values = (0..len).map(|_| {
            let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
            (scale * radius * (std::f64::consts::TAU * self.unit()).cos()) as f32
        });
        rounded(&values.collect::<Vec<_>>(), dtype)
    }

    /// Rows like those of a residual stream, exact in `dtype`: every `outlier`-th a hundred times the others, a few
    /// channels large, and all off centre.
    pub(crate) fn stream(&mut self, rows: usize, width: usize, outlier: usize, dtype: Dtype) -> Vec<f32> {
        let mut values = self.normal(rows * width, 1.0, Dtype::F32);
        for (number, row) in values.chunks_exact_mut(width).enumerate() {
            let scale = if number % outlier == outlier - 1 { 100.0 } else { 1.0 };
            for (channel, value) in row.iter_mut().enumerate() {
                let channel_scale = if channel % 61 == 7 { 20.0 } else { 1.0 };
                *value = scale * (channel_scale * *value + 0.5);
            }
        }
        rounded(&values, dtype)
    }
}

/// The values as `dtype` holds them.
pub(crate) fn rounded(values: &[f32], dtype: Dtype) -> Vec<f32> {
    let mut back = vec![0.0; values.len()];
    dtype.widen(&dtype.narrowed(values), &mut back);
    back
}

/// ‖found − expected‖ / ‖expected‖; NaN where a found value is not finite.
pub(crate) fn relative_error(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len(), "results of different shapes");
    let square = |x: f64| x * x;
    let error: f64 = found.iter().zip(expected).map(|(found, expected)| square(f64::from(*found) - expected)).sum();
    let norm: f64 = expected.iter().map(|x| square(*x)).sum();
    if found.iter().all(|x| x.is_finite()) { (error / norm).sqrt() } else { f64::NAN }
}

/// The relative error of `expected` rounded to `dtype` and nothing else: what no kernel can beat.
pub(crate) fn rounding_error(expected: &[f64], dtype: Dtype) -> f64 {
    let nearest: Vec<f32> = expected.iter().map(|x| *x as f32).collect();
    relative_error(&rounded(&nearest, dtype), expected)
}
