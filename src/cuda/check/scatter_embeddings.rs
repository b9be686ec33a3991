//! `scatter_embeddings` against float64: rows that stand for several, embeddings without gaps.

use super::layer_norm::WIDTHS;
use super::linear::{LUCK, SUM_NOISE, batch_of, stride, wide};
use super::{Bench, Case, Draw, Finding, relative_error, rounding_error};
use crate::cuda::abi::ProjectedRow;
use crate::cuda::ops::{Array, DeviceBatch, ScatterEmbeddings};
use crate::dtype::Dtype;
use crate::error::CudaError;

const TOKENS: usize = 3;
const OUTPUT_ROWS: usize = 9;

/// A tile that stands for two, and one that follows them.
pub(super) const PROJECTED: [ProjectedRow; 6] = [
    ProjectedRow { head: 5, hidden: 2, output: 0, copies: 2 },
    ProjectedRow { head: 6, hidden: 3, output: 1, copies: 2 },
    ProjectedRow { head: 7, hidden: 4, output: 2, copies: 2 },
    ProjectedRow { head: 0, hidden: 9, output: 6, copies: 1 },
    ProjectedRow { head: 1, hidden: 8, output: 7, copies: 1 },
    ProjectedRow { head: 2, hidden: 7, output: 8, copies: 1 },
];

pub(super) fn cases(dtype: Dtype) -> Vec<Case> {
    let case = |width: usize| Case {
        kernel: "scatter_embeddings",
        shape: format!("{}×{width} to {OUTPUT_ROWS} rows", PROJECTED.len()),
        run: Box::new(move |bench| run(bench, dtype, width)),
    };
    WIDTHS.map(case).into()
}

fn run(bench: &Bench, dtype: Dtype, width: usize) -> Result<Finding, CudaError> {
    let mut draw = Draw::new(width as u64);
    let values = draw.normal(PROJECTED.len() * width, 1.0, Dtype::F32);
    let biases = draw.normal(width, 1.0, Dtype::F32);
    let product = bench.matrix(&values, width, stride(width), Dtype::F32)?;
    let embeddings = bench.output(OUTPUT_ROWS, width, width, dtype)?;
    let (bias, rows) = (bench.upload(&biases)?, bench.upload(&PROJECTED)?);
    let batch = batch_of(bench, PROJECTED.len(), embeddings.view().address)?;
    let op = ScatterEmbeddings {
        batch: DeviceBatch::new(&batch, 0),
        rows: Array::new(&rows, 0, PROJECTED.len()),
        product: product.view(),
        bias: Array::new(&bias, 0, width),
        tokens: TOKENS,
    };
    op.launch(&bench.launcher())?;

    let mut expected = vec![f64::NAN; OUTPUT_ROWS * width];
    for (row, values) in PROJECTED.iter().zip(values.chunks_exact(width)) {
        let sums: Vec<f64> = wide(values).iter().zip(&biases).map(|(x, bias)| x + f64::from(*bias)).collect();
        for copy in 0..row.copies as usize {
            let start = (row.output as usize + copy * TOKENS) * width;
            expected[start..start + width].copy_from_slice(&sums);
        }
    }
    let error = relative_error(&bench.result(&embeddings, OUTPUT_ROWS)?, &expected);
    Ok(Finding { error, limit: LUCK * rounding_error(&expected, dtype) + SUM_NOISE })
}
