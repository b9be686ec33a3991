//! `gather_rows`: rows are moved, nothing else.

use super::layer_norm::WIDTHS;
use super::linear::{batch_of, stride, wide};
use super::scatter_embeddings::PROJECTED;
use super::{Bench, Case, Draw, Finding, relative_error};
use crate::cuda::abi::ProjectedRow;
use crate::cuda::ops::{Array, DeviceBatch, GatherRows};
use crate::dtype::Dtype;
use crate::error::CudaError;

/// Rows of a state.
const STATE_ROWS: usize = 10;

pub(super) fn cases(dtype: Dtype) -> Vec<Case> {
    let case = |(width, hidden): (usize, bool)| Case {
        kernel: "gather_rows",
        shape: format!(
            "{}×{width} of {}",
            PROJECTED.len(),
            if hidden { "the transformer" } else { "the gated layers" }
        ),
        run: Box::new(move |bench| run(bench, dtype, width, hidden)),
    };
    WIDTHS.into_iter().flat_map(|width| [(width, false), (width, true)]).map(case).collect()
}

fn run(bench: &Bench, dtype: Dtype, width: usize, hidden: bool) -> Result<Finding, CudaError> {
    let values = Draw::new(width as u64).stream(STATE_ROWS, width, 5, dtype);
    let input = bench.matrix(&values, width, stride(width), dtype)?;
    let output = bench.output(PROJECTED.len(), width, stride(width), dtype)?;
    let rows = bench.upload(&PROJECTED)?;
    let batch = batch_of(bench, PROJECTED.len(), 0)?;
    let op = GatherRows {
        batch: DeviceBatch::new(&batch, 0),
        rows: Array::new(&rows, 0, PROJECTED.len()),
        input: input.view(),
        output: output.view(),
        hidden,
    };
    op.launch(&bench.launcher())?;

    let source = |row: &ProjectedRow| if hidden { row.hidden } else { row.head } as usize;
    let expected: Vec<f64> = PROJECTED.iter().flat_map(|row| wide(&values[source(row) * width..][..width])).collect();
    Ok(Finding { error: relative_error(&bench.result(&output, PROJECTED.len())?, &expected), limit: 0.0 })
}
