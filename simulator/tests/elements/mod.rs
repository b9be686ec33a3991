//! What tests of the engine's kernels share: element types, random values, matrices among poison, errors against float64.
#![allow(dead_code, reason = "each test uses its part")]

use half::{bf16, f16};
use tilesight_simulator::machine::testing::Buffer;

/// NaN in both element types: what a buffer holds that nothing was written to.
const POISON: u16 = 0xffff;

/// An element type of the kernels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Dtype {
    Bf16,
    Fp16,
}

pub const DTYPES: [Dtype; 2] = [Dtype::Bf16, Dtype::Fp16];

impl Dtype {
    pub fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
            Self::Fp16 => "fp16",
        }
    }

    pub fn bits(self, value: f32) -> u16 {
        match self {
            Self::Bf16 => bf16::from_f32(value).to_bits(),
            Self::Fp16 => f16::from_f32(value).to_bits(),
        }
    }

    pub fn value(self, bits: u16) -> f32 {
        match self {
            Self::Bf16 => bf16::from_bits(bits).to_f32(),
            Self::Fp16 => f16::from_bits(bits).to_f32(),
        }
    }

    /// The nearest value of the type.
    pub fn round(self, value: f32) -> f32 {
        self.value(self.bits(value))
    }
}

/// Reproducible values (SplitMix64).
pub struct Draw(pub u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Uniform in [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    pub fn normal(&mut self) -> f32 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        (radius * (std::f64::consts::TAU * self.unit()).cos()) as f32
    }

    /// `len` normal values times `scale`, rounded to `dtype`.
    pub fn elements(&mut self, len: usize, scale: f32, dtype: Dtype) -> Vec<f32> {
        (0..len).map(|_| dtype.round(scale * self.normal())).collect()
    }

    /// Rows as of a residual stream: off centre, every fifth a hundred times the others, a few channels large.
    pub fn stream(&mut self, rows: usize, width: usize, dtype: Dtype) -> Vec<f32> {
        let mut value = |row: usize, column: usize| {
            let row_scale = if row % 5 == 4 { 100.0 } else { 1.0 };
            let column_scale = if column % 61 == 7 { 20.0 } else { 1.0 };
            dtype.round(row_scale * (column_scale * self.normal() + 0.5))
        };
        (0..rows * width).map(|index| value(index / width, index % width)).collect()
    }
}

/// Rows of 16-bit elements, `stride` apart, poison in the gaps and in `beyond` rows after the last.
pub fn matrix(values: &[f32], width: usize, stride: usize, beyond: usize, dtype: Dtype) -> Buffer {
    let mut bits = Vec::new();
    for row in values.chunks_exact(width) {
        bits.extend(row.iter().map(|value| dtype.bits(*value)));
        bits.resize(bits.len() + stride - width, POISON);
    }
    bits.resize(bits.len() + beyond * stride, POISON);
    Buffer::of(&bits)
}

/// The bits of a matrix' first `rows` rows, without the gaps. Panics where there is no longer poison beside them.
pub fn rows_of(buffer: &Buffer, rows: usize, width: usize, stride: usize) -> Vec<u16> {
    let bits = buffer.read::<u16>();
    let mut inside = Vec::new();
    for (index, value) in bits.into_iter().enumerate() {
        if index / stride < rows && index % stride < width {
            inside.push(value);
        } else {
            assert_eq!(value, POISON, "row {}, column {} was overwritten", index / stride, index % stride);
        }
    }
    inside
}

/// f32 rows, `stride` apart, NaN in the gaps and in two rows after the last.
pub fn matrix_f32(values: &[f32], width: usize, stride: usize) -> Buffer {
    let mut padded = Vec::new();
    for row in values.chunks_exact(width) {
        padded.extend_from_slice(row);
        padded.resize(padded.len() + stride - width, f32::NAN);
    }
    padded.resize(padded.len() + 2 * stride, f32::NAN);
    Buffer::of(&padded)
}

/// ‖found − expected‖ / ‖expected‖; NaN where a found value is not finite.
pub fn relative_error(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let error: f64 = found.iter().zip(expected).map(|(x, y)| (f64::from(*x) - y).powi(2)).sum();
    let norm: f64 = expected.iter().map(|y| y * y).sum();
    if found.iter().all(|x| x.is_finite()) { (error / norm.max(f64::MIN_POSITIVE)).sqrt() } else { f64::NAN }
}

/// Holds a result against float64: no worse than rounding the exact one, but for `slack`.
pub fn assert_close(bits: &[u16], expected: &[f64], dtype: Dtype, slack: f64, what: &str) {
    let found: Vec<f32> = bits.iter().map(|bits| dtype.value(*bits)).collect();
    let nearest: Vec<f32> = expected.iter().map(|value| dtype.round(*value as f32)).collect();
    let (error, limit) = (relative_error(&found, expected), relative_error(&nearest, expected) * 1.02 + slack);
    assert!(error <= limit, "{what}: error {error:.3e}, limit {limit:.3e}");
}
