//! `layer_norm` against float64.

use super::linear::{LUCK, SUM_NOISE, batch_of, stride, wide};
use super::{Bench, Case, Draw, Finding, relative_error, rounding_error};
use crate::config::NORM_EPS;
use crate::cuda::ops::{Array, DeviceBatch, LayerNorm};
use crate::dtype::Dtype;
use crate::error::CudaError;
use crate::plan::Stack;

/// Widths that break kernels which go along rows: less than a vector, no multiple of one, a group of moments and a column,
/// more than a warp holds, the published model's.
pub(super) const WIDTHS: [usize; 6] = [3, 33, 129, 260, 640, 1280];

/// Rows that fill no block.
pub(super) const ROWS: usize = 19;

/// The norm of one row.
pub(super) fn norm(row: &[f64], weight: &[f32], bias: &[f32]) -> Vec<f64> {
    let len = row.len() as f64;
    let mean = row.iter().sum::<f64>() / len;
    let variance = row.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / len;
    let scale = 1.0 / (variance + f64::from(NORM_EPS)).sqrt();
    let parameters = weight.iter().zip(bias).map(|(weight, bias)| (f64::from(*weight), f64::from(*bias)));
    row.iter().zip(parameters).map(|(x, (weight, bias))| (x - mean) * scale * weight + bias).collect()
}

pub(super) fn cases(dtype: Dtype) -> Vec<Case> {
    let case = |width: usize| Case {
        kernel: "layer_norm",
        shape: format!("{ROWS}×{width}"),
        run: Box::new(move |bench| run(bench, dtype, width)),
    };
    WIDTHS.map(case).into()
}

fn run(bench: &Bench, dtype: Dtype, width: usize) -> Result<Finding, CudaError> {
    let mut draw = Draw::new(width as u64);
    let values = draw.stream(ROWS, width, 5, dtype);
    let [weights, biases] = [0; 2].map(|_| draw.normal(width, 1.0, Dtype::F32));
    let input = bench.matrix(&values, width, stride(width), dtype)?;
    let output = bench.output(ROWS, width, stride(width), dtype)?;
    let (weight, bias) = (bench.upload(&weights)?, bench.upload(&biases)?);
    let batch = batch_of(bench, ROWS, 0)?;
    let op = LayerNorm {
        num_rows: DeviceBatch::new(&batch, 0).num_rows(Stack::Transformer, ROWS),
        input: input.view(),
        weight: Array::new(&weight, 0, width),
        bias: Array::new(&bias, 0, width),
        output: output.view(),
    };
    op.launch(&bench.launcher())?;

    let expected: Vec<f64> = values.chunks_exact(width).flat_map(|row| norm(&wide(row), &weights, &biases)).collect();
    let error = relative_error(&bench.result(&output, ROWS)?, &expected);
    Ok(Finding { error, limit: LUCK * rounding_error(&expected, dtype) + SUM_NOISE })
}
