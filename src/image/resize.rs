//! Antialiased bilinear resizing, across the rows and then down the columns, in the two arithmetics of the
//! references.
//!
//! Rows of the output are computed in bands, in parallel; each band reads only the rows of the input that it needs,
//! and keeps their resized form in the cache. The inner loops run over neighbouring values in the widest vectors the
//! machine has, always in the same order, so that results do not depend on it.

use std::ops::Range;

use bytemuck::Zeroable;
use rayon::prelude::*;

use crate::error::Result;
use crate::image::weights::{self, PRECISION_BITS, Weights};
use crate::interrupt::Interrupt;
use crate::memory;

/// Rows of the output that are computed together: enough that few input rows are resized twice, and few enough that
/// every core gets some.
const BAND_HEIGHT: usize = 32;

/// Rows of the input that are resized across together.
const ROWS_TOGETHER: usize = 16;

/// Pillow's resize of 8-bit RGB, bit for bit: fixed-point sums, rounded to 8 bits after each direction.
///
/// `rgb` is `[height, width, 3]` for `size` = `[height, width]`, the result `[new height, new width, 3]`.
///
/// Reference: `ImagingResampleInner` in
/// <https://github.com/python-pillow/Pillow/blob/12.3.0/src/libImaging/Resample.c>.
///
/// # Errors
/// [`InputError::OutOfMemory`](crate::error::InputError::OutOfMemory).
///
/// # Panics
/// If `rgb` is not of that shape or a side is 0.
pub fn resize_uint8(rgb: &[u8], size: [usize; 2], new_size: [usize; 2]) -> Result<Vec<u8>> {
    resize_uint8_until(rgb, [size, new_size], Interrupt::NEVER)
}

/// [`resize_uint8`] from the first of `sizes` to the second, or [`ImageError::Interrupted`](crate::error::ImageError).
pub(super) fn resize_uint8_until(rgb: &[u8], sizes: [[usize; 2]; 2], interrupt: Interrupt) -> Result<Vec<u8>> {
    let [[height, width], [new_height, new_width]] = sizes;
    // Pillow's Image.resize goes down the columns first where the picture is more than 100 times as high as wide.
    if height > width.saturating_mul(100) && new_height < height {
        let shrunk_size = [new_height, width];
        let shrunk = resize(FixedPoint, rgb, [[height, width], shrunk_size], interrupt)?;
        return resize(FixedPoint, &shrunk, [shrunk_size, [new_height, new_width]], interrupt);
    }
    resize(FixedPoint, rgb, sizes, interrupt)
}

/// torchvision's `resize(antialias=True)` of float32 pixels, whose value for each level is in `values`.
///
/// `rgb` is `[height, width, 3]` for `size` = `[height, width]`, the result `[new height, new width, 3]`. It is torch
/// 2.8's bit for bit, as that computes on x86 with AVX2 or AVX-512.
///
/// Reference: `interpolate_aa_single_dim` in
/// <https://github.com/pytorch/pytorch/blob/v2.8.0/aten/src/ATen/native/cpu/UpSampleKernel.cpp>.
///
/// # Errors
/// [`InputError::OutOfMemory`](crate::error::InputError::OutOfMemory).
///
/// # Panics
/// If `rgb` is not of that shape or a side is 0.
pub fn resize_float32(rgb: &[u8], values: &[f32; 256], size: [usize; 2], new_size: [usize; 2]) -> Result<Vec<f32>> {
    resize_float32_until(rgb, values, [size, new_size], Interrupt::NEVER)
}

/// [`resize_float32`] from the first of `sizes` to the second, or [`ImageError::Interrupted`](crate::error::ImageError).
pub(super) fn resize_float32_until(
    rgb: &[u8],
    values: &[f32; 256],
    sizes: [[usize; 2]; 2],
    interrupt: Interrupt,
) -> Result<Vec<f32>> {
    resize(Float { values }, rgb, sizes, interrupt)
}

/// How sums are formed, and what is kept between the two directions.
trait Arithmetic: Copy + Send + Sync {
    type Sum: Copy + Default + Send + Sync;
    type Pixel: Copy + Default + Zeroable + Send + Sync;
    const START: Self::Sum;

    fn weights(in_len: usize, out_len: usize) -> Result<Weights<Self::Sum>>;
    fn pixel(self, level: u8) -> Self::Pixel;
    fn widen(pixel: Self::Pixel) -> Self::Sum;
    /// Of `num_weights`, the first that are added by [`add`](Self::add); the others are by
    /// [`add_fused`](Self::add_fused).
    fn num_unfused(num_weights: usize) -> usize;
    fn add(sum: Self::Sum, value: Self::Sum, weight: Self::Sum) -> Self::Sum;
    fn add_fused(sum: Self::Sum, value: Self::Sum, weight: Self::Sum) -> Self::Sum;
    fn round(sum: Self::Sum) -> Self::Pixel;
}

#[derive(Clone, Copy)]
struct FixedPoint;

impl Arithmetic for FixedPoint {
    type Sum = i32;
    type Pixel = u8;
    const START: i32 = 1 << (PRECISION_BITS - 1);

    fn weights(in_len: usize, out_len: usize) -> Result<Weights<i32>> {
        weights::fixed_point(in_len, out_len)
    }

    #[inline(always)]
    fn pixel(self, level: u8) -> u8 {
        level
    }

    #[inline(always)]
    fn widen(pixel: u8) -> i32 {
        i32::from(pixel)
    }

    #[inline(always)]
    fn num_unfused(num_weights: usize) -> usize {
        num_weights
    }

    #[inline(always)]
    fn add(sum: i32, value: i32, weight: i32) -> i32 {
        sum.wrapping_add(value.wrapping_mul(weight))
    }

    #[inline(always)]
    fn add_fused(sum: i32, value: i32, weight: i32) -> i32 {
        Self::add(sum, value, weight)
    }

    #[inline(always)]
    fn round(sum: i32) -> u8 {
        (sum >> PRECISION_BITS).clamp(0, 255) as u8
    }
}

#[derive(Clone, Copy)]
struct Float<'a> {
    values: &'a [f32; 256],
}

impl Arithmetic for Float<'_> {
    type Sum = f32;
    type Pixel = f32;
    const START: f32 = 0.0;

    fn weights(in_len: usize, out_len: usize) -> Result<Weights<f32>> {
        weights::float(in_len, out_len)
    }

    #[inline(always)]
    fn pixel(self, level: u8) -> f32 {
        self.values[usize::from(level)]
    }

    #[inline(always)]
    fn widen(pixel: f32) -> f32 {
        pixel
    }

    #[inline(always)]
    fn num_unfused(num_weights: usize) -> usize {
        // Measured on torch 2.8 for x86: its compiler made of the loop over the second and later weights one that
        // multiplies four at a time and then adds, and one for the rest that fuses the two.
        num_weights - num_weights.saturating_sub(1) % 4
    }

    #[inline(always)]
    fn add(sum: f32, value: f32, weight: f32) -> f32 {
        sum + value * weight
    }

    #[inline(always)]
    fn add_fused(sum: f32, value: f32, weight: f32) -> f32 {
        value.mul_add(weight, sum)
    }

    #[inline(always)]
    fn round(sum: f32) -> f32 {
        sum
    }
}

fn resize<A: Arithmetic>(
    arithmetic: A,
    rgb: &[u8],
    sizes: [[usize; 2]; 2],
    interrupt: Interrupt,
) -> Result<Vec<A::Pixel>> {
    let [[height, width], [new_height, new_width]] = sizes;
    assert_eq!(rgb.len(), height * width * 3, "rgb must be [height, width, 3]");
    let plan = Plan {
        arithmetic,
        rgb,
        row_len: width * 3,
        new_row_len: new_width * 3,
        across: (width != new_width).then(|| A::weights(width, new_width)).transpose()?,
        down: (height != new_height).then(|| A::weights(height, new_height)).transpose()?,
        interrupt,
    };
    let mut resized = memory::zeroed(new_height * plan.new_row_len)?;
    let arch = pulp::Arch::new();
    resized
        .par_chunks_mut(BAND_HEIGHT * plan.new_row_len)
        .enumerate()
        .try_for_each(|(band, output)| arch.dispatch(Band { plan: &plan, first: band * BAND_HEIGHT, output }))?;
    Ok(resized)
}

/// One resize: the input and the weights, `None` for a side that keeps its length.
struct Plan<'a, A: Arithmetic> {
    arithmetic: A,
    rgb: &'a [u8],
    row_len: usize,
    new_row_len: usize,
    across: Option<Weights<A::Sum>>,
    down: Option<Weights<A::Sum>>,
    interrupt: Interrupt<'a>,
}

impl<A: Arithmetic> Plan<'_, A> {
    /// Computes whole rows of the output from row `first` on; `output` is `[rows, new width, 3]`.
    #[inline(always)]
    fn resize_band(&self, first: usize, output: &mut [A::Pixel]) -> Result<()> {
        let range = first..first + output.len() / self.new_row_len;
        let Some(down) = &self.down else {
            return self.resize_across(range, output);
        };
        let inputs = down.inputs(range.clone());
        let mut rows = memory::zeroed(inputs.len() * self.new_row_len)?;
        self.resize_across(inputs.clone(), &mut rows)?;

        let mut sums = memory::collect(std::iter::repeat_n(A::START, self.new_row_len))?;
        for (k, output) in range.zip(output.chunks_exact_mut(self.new_row_len)) {
            self.interrupt.check()?;
            let (first, weights) = down.of(k);
            sum_rows::<A>(&mut sums, &rows[(first - inputs.start) * self.new_row_len..], weights);
            for (pixel, &sum) in output.iter_mut().zip(&sums) {
                *pixel = A::round(sum);
            }
        }
        Ok(())
    }

    /// Resizes the rows `range` of the input across; `output` is `[rows, new width, 3]`.
    #[inline(always)]
    fn resize_across(&self, range: Range<usize>, output: &mut [A::Pixel]) -> Result<()> {
        let input = &self.rgb[range.start * self.row_len..range.end * self.row_len];
        let Some(across) = &self.across else {
            for (pixel, &level) in output.iter_mut().zip(input) {
                *pixel = self.arithmetic.pixel(level);
            }
            return Ok(());
        };
        // Columns of several rows are summed as rows are: `[width, 3, ROWS_TOGETHER]`.
        let mut columns = memory::zeroed(self.row_len * ROWS_TOGETHER)?;
        let mut sums = [A::START; 3 * ROWS_TOGETHER];
        let row_groups = input.chunks(ROWS_TOGETHER * self.row_len);
        for (rows, output) in row_groups.zip(output.chunks_mut(ROWS_TOGETHER * self.new_row_len)) {
            self.interrupt.check()?;
            self.transpose(rows, &mut columns);
            for k in 0..self.new_row_len / 3 {
                let (first, weights) = across.of(k);
                sum_rows::<A>(&mut sums, &columns[first * 3 * ROWS_TOGETHER..], weights);
                for (row, output) in output.chunks_exact_mut(self.new_row_len).enumerate() {
                    for channel in 0..3 {
                        output[k * 3 + channel] = A::round(sums[channel * ROWS_TOGETHER + row]);
                    }
                }
            }
        }
        Ok(())
    }

    /// `rows`, at most `[ROWS_TOGETHER, width, 3]`, to `[width, 3, ROWS_TOGETHER]`; rows that are not there keep what
    /// the columns held. In blocks that stay in the nearest cache.
    #[inline(always)]
    fn transpose(&self, rows: &[u8], columns: &mut [A::Pixel]) {
        const BLOCK: usize = 64;
        let arithmetic = self.arithmetic;
        for (block, columns) in columns.chunks_mut(BLOCK * ROWS_TOGETHER).enumerate() {
            for (row, levels) in rows.chunks_exact(self.row_len).enumerate() {
                for (column, &level) in columns.chunks_exact_mut(ROWS_TOGETHER).zip(&levels[block * BLOCK..]) {
                    column[row] = arithmetic.pixel(level);
                }
            }
        }
    }
}

/// The sum of the first rows under these weights, one row for each; rows are as long as `sums`.
#[inline(always)]
fn sum_rows<A: Arithmetic>(sums: &mut [A::Sum], rows: &[A::Pixel], weights: &[A::Sum]) {
    sums.fill(A::START);
    let num_unfused = A::num_unfused(weights.len());
    for (tap, (row, &weight)) in rows.chunks_exact(sums.len()).zip(weights).enumerate() {
        if tap < num_unfused {
            for (sum, &pixel) in sums.iter_mut().zip(row) {
                *sum = A::add(*sum, A::widen(pixel), weight);
            }
        } else {
            for (sum, &pixel) in sums.iter_mut().zip(row) {
                *sum = A::add_fused(*sum, A::widen(pixel), weight);
            }
        }
    }
}

/// Some rows of the output, from row `first` on. Compiled once for each width of vectors; all it calls is inlined, for
/// what is not would be compiled for the narrowest.
struct Band<'a, A: Arithmetic> {
    plan: &'a Plan<'a, A>,
    first: usize,
    output: &'a mut [A::Pixel],
}

impl<A: Arithmetic> pulp::WithSimd for Band<'_, A> {
    type Output = Result<()>;

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) -> Result<()> {
        self.plan.resize_band(self.first, self.output)
    }
}
