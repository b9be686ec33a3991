//! What the checks share: products and moments in float64, and a batch of so many rows.

use std::mem::offset_of;

use super::{Bench, relative_error};
use crate::cuda::abi;
use crate::cuda::driver::DeviceMemory;
use crate::cuda::ops::{Matrix, stored};
use crate::dtype::Dtype;
use crate::error::CudaError;
use crate::plan::Form;

/// What summing in f32 adds to the error of the nearest result.
pub(super) const SUM_NOISE: f64 = 2e-6;

/// How much more than the error of the nearest result is one roundings' luck.
pub(super) const LUCK: f64 = 1.02;

/// Error of means and of squared deviations in f32, relative to their norms.
const MOMENTS_NOISE: f64 = 1e-5;

/// Rows, inputs and outputs at the borders of what Hopper's products are cut into: halves of 64 rows and tiles of 128, slabs of
/// 64 columns of K and steps of 16, panels of 64 columns and tiles of 128 and 256. The last has more tiles than any GPU has
/// multiprocessors, so that blocks go on to a second one.
const HOPPER_EDGES: [[usize; 3]; 8] = [
    [63, 8, 64],
    [64, 40, 63],
    [65, 8, 129],
    [127, 40, 256],
    [128, 64, 257],
    [129, 72, 127],
    [200, 40, 320],
    [1601, 40, 3840],
];

/// The shapes of all forms, and those at this form's own borders.
pub(super) fn with_edges(shapes: &[[usize; 3]], form: Form) -> Vec<[usize; 3]> {
    let edges = if form == Form::Hopper { &HOPPER_EDGES[..] } else { &[] };
    [shapes, edges].concat()
}

/// A stride that leaves a gap after each row.
pub(super) fn stride(width: usize) -> usize {
    width.next_multiple_of(Matrix::ALIGNMENT) + Matrix::ALIGNMENT
}

/// `input · weightᵀ` in float64, `[rows, outputs]` of `[rows, inputs]` and `[outputs, inputs]`.
pub(super) fn product(input: &[f64], weight: &[f64], inputs: usize) -> Vec<f64> {
    let dot = |x: &[f64], w: &[f64]| x.iter().zip(w).map(|(x, w)| x * w).sum();
    input.chunks_exact(inputs).flat_map(|x| weight.chunks_exact(inputs).map(move |w| dot(x, w))).collect()
}

pub(super) fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|value| f64::from(*value)).collect()
}

/// x·Φ(x), with Φ as Marsaglia's series: ½ + φ(x)·(x + x³/3 + x⁵/(3·5) + …).
pub(super) fn gelu(x: f64) -> f64 {
    // Beyond, Φ is 0 or 1 to less than 1e-18.
    let z = x.clamp(-9.0, 9.0);
    let (mut sum, mut term, mut odd) = (z, z, 1.0);
    while term.abs() > 1e-18 * sum.abs() {
        odd += 2.0;
        term *= z * z / odd;
        sum += term;
    }
    x * (0.5 + sum * (-0.5 * z * z).exp() / std::f64::consts::TAU.sqrt())
}

/// A batch descriptor that counts `rows` of everything, with pixels or embeddings at `address`.
pub(super) fn batch_of(bench: &Bench, rows: usize, address: u64) -> Result<DeviceMemory, CudaError> {
    batch_with_items(bench, rows, rows, address)
}

/// The same, whose rows of the projection lie in so many stretches.
pub(super) fn batch_with_items(
    bench: &Bench,
    rows: usize,
    items: usize,
    address: u64,
) -> Result<DeviceMemory, CudaError> {
    bench.upload(&batch_bytes(rows, items, address, Dtype::F32))
}

/// The same, whose pixels are of this type.
pub(super) fn batch_of_pixels(
    bench: &Bench,
    rows: usize,
    address: u64,
    pixels: Dtype,
) -> Result<DeviceMemory, CudaError> {
    bench.upload(&batch_bytes(rows, rows, address, pixels))
}

fn batch_bytes(rows: usize, items: usize, address: u64, pixels: Dtype) -> [u8; size_of::<abi::Batch>()] {
    let mut bytes = [0u8; size_of::<abi::Batch>()];
    let (addresses, counts) = bytes.split_at_mut(offset_of!(abi::Batch, num_tiles));
    addresses.chunks_exact_mut(size_of::<u64>()).for_each(|place| place.copy_from_slice(&address.to_le_bytes()));
    let rows = rows as u32;
    counts.chunks_exact_mut(size_of::<u32>()).for_each(|place| place.copy_from_slice(&rows.to_le_bytes()));
    let items = (items as u32).to_le_bytes();
    bytes[offset_of!(abi::Batch, num_projection_items)..][..items.len()].copy_from_slice(&items);
    bytes[offset_of!(abi::Batch, pixels_type)..][..items.len()].copy_from_slice(&stored(pixels).to_le_bytes());
    bytes
}

/// Mean and sum of squared deviations of each group of columns of each row.
pub(super) fn moments(values: &[f64], width: usize) -> Vec<[f64; 2]> {
    let groups = values.chunks_exact(width).flat_map(|row| row.chunks(abi::MOMENTS_COLUMNS as usize));
    let moments = groups.map(|group| {
        let mean = group.iter().sum::<f64>() / group.len() as f64;
        [mean, group.iter().map(|x| (x - mean) * (x - mean)).sum()]
    });
    moments.collect()
}

/// Whether `groups` are the moments of these rows.
pub(super) fn moments_are_right(groups: &[[f32; 2]], rows: &[f32], width: usize) -> bool {
    let expected = moments(&wide(rows), width);
    [0, 1].into_iter().all(|part| {
        let found: Vec<f32> = groups.iter().map(|group| group[part]).collect();
        let expected: Vec<f64> = expected.iter().map(|group| group[part]).collect();
        relative_error(&found, &expected) <= MOMENTS_NOISE
    })
}
