//! `patch_embedding` against a product in float64.

use super::linear::{LUCK, SUM_NOISE, batch_of, product, stride, wide, with_edges};
use super::{Bench, Case, Draw, Finding, relative_error, rounding_error};
use crate::cuda::ops::{DeviceBatch, PatchEmbedding};
use crate::dtype::Dtype;
use crate::error::CudaError;
use crate::plan::Form;

/// One row; patches of 14×14×3, whose last slab is not full; widths that fill no tile; the published model.
const SHAPES: [[usize; 3]; 5] = [[1, 588, 160], [130, 588, 33], [75, 12, 7], [257, 147, 264], [130, 588, 1280]];

pub(super) fn cases(dtype: Dtype, form: Form) -> Vec<Case> {
    let case = |[rows, inputs, outputs]: [usize; 3]| Case {
        kernel: "patch_embedding",
        shape: format!("{rows}×{inputs} → {outputs}"),
        run: Box::new(move |bench| run(bench, dtype, rows, inputs, outputs)),
    };
    with_edges(&SHAPES, form).into_iter().map(case).collect()
}

fn run(bench: &Bench, dtype: Dtype, rows: usize, inputs: usize, outputs: usize) -> Result<Finding, CudaError> {
    let mut draw = Draw::new(rows as u64);
    let values = draw.stream(rows, inputs, 5, dtype);
    let weights = draw.normal(outputs * inputs, 1.0 / (inputs as f64).sqrt(), dtype);
    let input = bench.matrix(&values, inputs, stride(inputs), dtype)?;
    let weight = bench.matrix(&weights, inputs, stride(inputs), dtype)?;
    let output = bench.output(rows, outputs, stride(outputs), dtype)?;
    let batch = batch_of(bench, rows, 0)?;
    let op = PatchEmbedding {
        num_rows: DeviceBatch::new(&batch, 0).num_patches(input.view().rows),
        input: input.view(),
        weight: weight.values(),
        output: output.view(),
    };
    op.launch(&bench.launcher())?;
    let expected = product(&wide(&values), &wide(&weights), inputs);
    let error = relative_error(&bench.result(&output, rows)?, &expected);
    Ok(Finding { error, limit: LUCK * rounding_error(&expected, dtype) + SUM_NOISE })
}
