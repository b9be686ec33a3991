//! `bias_activation` against float64, with and without each of the two.

use super::layer_norm::{ROWS, WIDTHS};
use super::linear::{LUCK, SUM_NOISE, batch_of, gelu, stride, wide};
use super::{Bench, Case, Draw, Finding, relative_error, rounding_error};
use crate::cuda::ops::{Array, BiasActivation, DeviceBatch};
use crate::dtype::Dtype;
use crate::error::CudaError;
use crate::plan::Stack;

pub(super) fn cases(dtype: Dtype) -> Vec<Case> {
    let case = |(width, has_bias, has_gelu): (usize, bool, bool)| Case {
        kernel: "bias_activation",
        shape: format!(
            "{ROWS}×{width}{}{}",
            if has_bias { ", bias" } else { "" },
            if has_gelu { ", GELU" } else { "" }
        ),
        run: Box::new(move |bench| run(bench, dtype, width, [has_bias, has_gelu])),
    };
    let variants = |width| [(width, true, true), (width, true, false), (width, false, true)];
    WIDTHS.into_iter().flat_map(variants).map(case).collect()
}

fn run(bench: &Bench, dtype: Dtype, width: usize, [has_bias, has_gelu]: [bool; 2]) -> Result<Finding, CudaError> {
    let mut draw = Draw::new(width as u64);
    let values = draw.normal(ROWS * width, 2.0, Dtype::F32);
    let biases = if has_bias { draw.normal(width, 1.0, Dtype::F32) } else { vec![0.0; width] };
    let product = bench.matrix(&values, width, stride(width), Dtype::F32)?;
    let output = bench.output(ROWS, width, stride(width), dtype)?;
    let bias = bench.upload(&biases)?;
    let batch = batch_of(bench, ROWS, 0)?;
    let op = BiasActivation {
        num_rows: DeviceBatch::new(&batch, 0).num_rows(Stack::Transformer, ROWS),
        product: product.view(),
        bias: has_bias.then(|| Array::new(&bias, 0, width)),
        output: output.view(),
        gelu: has_gelu,
    };
    op.launch(&bench.launcher())?;

    let sums = wide(&values).into_iter().zip(biases.iter().cycle()).map(|(x, bias)| x + f64::from(*bias));
    let expected: Vec<f64> = sums.map(|x| if has_gelu { gelu(x) } else { x }).collect();
    let error = relative_error(&bench.result(&output, ROWS)?, &expected);
    Ok(Finding { error, limit: LUCK * rounding_error(&expected, dtype) + SUM_NOISE })
}
