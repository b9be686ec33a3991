//! `linear_residual` against float64: the sum, and the moments it leaves for the next norm.

use super::linear::{LUCK, SUM_NOISE, batch_of, moments_are_right, product, stride, wide, with_edges};
use super::{Bench, Case, Draw, Finding, relative_error, rounding_error};
use crate::cuda::abi;
use crate::cuda::ops::{Array, DeviceBatch, LinearResidual};
use crate::dtype::Dtype;
use crate::error::CudaError;
use crate::plan::{Form, Stack};

/// One row; widths that fill neither tile, slab nor group of columns; the published model's.
const SHAPES: [[usize; 3]; 6] =
    [[1, 160, 160], [129, 33, 7], [70, 640, 132], [260, 72, 400], [130, 1280, 1280], [130, 5120, 1280]];

pub(super) fn cases(dtype: Dtype, form: Form) -> Vec<Case> {
    let variants = with_edges(&SHAPES, form).into_iter().flat_map(|shape| [(shape, false), (shape, true)]);
    let case = |([rows, inputs, outputs], in_place): ([usize; 3], bool)| Case {
        kernel: "linear_residual",
        shape: format!("{rows}×{inputs} → {outputs}{}", if in_place { ", in place, without bias" } else { "" }),
        run: Box::new(move |bench| run(bench, dtype, [rows, inputs, outputs], in_place)),
    };
    variants.map(case).collect()
}

fn run(bench: &Bench, dtype: Dtype, shape: [usize; 3], in_place: bool) -> Result<Finding, CudaError> {
    let [rows, inputs, outputs] = shape;
    let mut draw = Draw::new((rows * outputs) as u64);
    let values = draw.normal(rows * inputs, 3.0, dtype);
    let weights = draw.normal(outputs * inputs, 1.0 / (inputs as f64).sqrt(), dtype);
    let stream = draw.stream(rows, outputs, 5, dtype);
    let biases = if in_place { vec![0.0; outputs] } else { draw.normal(outputs, 0.3, Dtype::F32) };
    let gate = if in_place { 1.0 } else { -0.37 };

    let input = bench.matrix(&values, inputs, stride(inputs), dtype)?;
    let weight = bench.matrix(&weights, inputs, stride(inputs), dtype)?;
    let residual = bench.matrix(&stream, outputs, stride(outputs), dtype)?;
    let apart = bench.output(rows, outputs, stride(outputs), dtype)?;
    let output = if in_place { &residual } else { &apart };
    let num_groups = rows * outputs.div_ceil(abi::MOMENTS_COLUMNS as usize);
    let (bias, groups) = (bench.upload(&biases)?, bench.poisoned::<[f32; 2]>(num_groups)?);
    let batch = batch_of(bench, rows, 0)?;
    let op = LinearResidual {
        num_rows: DeviceBatch::new(&batch, 0).num_rows(Stack::Transformer, rows),
        input: input.view(),
        weight: weight.values(),
        bias: (!in_place).then(|| Array::new(&bias, 0, outputs)),
        residual: residual.view(),
        output: output.view(),
        moments: Some(Array::new(&groups, 0, num_groups)),
        gate,
    };
    op.launch(&bench.launcher())?;

    let found = bench.result(output, rows)?;
    let sums = product(&wide(&values), &wide(&weights), inputs);
    let branch = sums.iter().zip(biases.iter().cycle()).map(|(sum, bias)| f64::from(gate) * (sum + f64::from(*bias)));
    let expected: Vec<f64> = branch.zip(&stream).map(|(branch, x)| branch + f64::from(*x)).collect();
    let error = relative_error(&found, &expected);
    let limit = LUCK * rounding_error(&expected, dtype) + SUM_NOISE;

    // Moments that are off fail the case as a wrong sum would.
    let right = moments_are_right(&bench.download(&groups)?, &found, outputs);
    Ok(Finding { error: if right { error } else { f64::NAN }, limit })
}
