//! `gated_residual` against float64, in place and apart.

use super::layer_norm::{ROWS, WIDTHS};
use super::linear::{LUCK, SUM_NOISE, batch_of, stride, wide};
use super::{Bench, Case, Draw, Finding, relative_error, rounding_error};
use crate::cuda::ops::{Array, DeviceBatch, GatedResidual};
use crate::dtype::Dtype;
use crate::error::CudaError;
use crate::plan::Stack;

const GATE: f32 = -0.3;

pub(super) fn cases(dtype: Dtype) -> Vec<Case> {
    let case = |(width, in_place): (usize, bool)| Case {
        kernel: "gated_residual",
        shape: format!("{ROWS}×{width}{}", if in_place { ", in place, without bias" } else { "" }),
        run: Box::new(move |bench| run(bench, dtype, width, in_place)),
    };
    WIDTHS.into_iter().flat_map(|width| [(width, false), (width, true)]).map(case).collect()
}

fn run(bench: &Bench, dtype: Dtype, width: usize, in_place: bool) -> Result<Finding, CudaError> {
    let mut draw = Draw::new(width as u64);
    let values = draw.normal(ROWS * width, 1.0, Dtype::F32);
    let stream = draw.stream(ROWS, width, 5, dtype);
    let biases = if in_place { vec![0.0; width] } else { draw.normal(width, 1.0, Dtype::F32) };
    let product = bench.matrix(&values, width, stride(width), Dtype::F32)?;
    let residual = bench.matrix(&stream, width, stride(width), dtype)?;
    let apart = bench.output(ROWS, width, stride(width), dtype)?;
    let output = if in_place { &residual } else { &apart };
    let bias = bench.upload(&biases)?;
    let batch = batch_of(bench, ROWS, 0)?;
    let op = GatedResidual {
        num_rows: DeviceBatch::new(&batch, 0).num_rows(Stack::Transformer, ROWS),
        product: product.view(),
        bias: (!in_place).then(|| Array::new(&bias, 0, width)),
        residual: residual.view(),
        output: output.view(),
        gate: GATE,
    };
    op.launch(&bench.launcher())?;

    let branch = wide(&values).into_iter().zip(biases.iter().cycle()).map(|(x, bias)| x + f64::from(*bias));
    let expected: Vec<f64> =
        branch.zip(&stream).map(|(x, residual)| f64::from(*residual) + f64::from(GATE) * x).collect();
    let error = relative_error(&bench.result(output, ROWS)?, &expected);
    Ok(Finding { error, limit: LUCK * rounding_error(&expected, dtype) + SUM_NOISE })
}
