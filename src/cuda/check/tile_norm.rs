//! `tile_norm` against float64: rows that are continued twice or not at all, with and without a block.

use super::layer_norm::{WIDTHS, norm};
use super::linear::{LUCK, SUM_NOISE, batch_of, moments_are_right, stride, wide};
use super::{Bench, Case, Draw, Finding, relative_error, rounding_error};
use crate::cuda::abi;
use crate::cuda::ops::{Array, DeviceBatch, TileNorm};
use crate::dtype::Dtype;
use crate::error::CudaError;

/// Rows of the transformer.
const INPUT_ROWS: usize = 11;
const BLOCKS: usize = 3;
const GATE: f32 = 0.6;

/// The row that each row continues, and its block.
const ROWS: [(u32, i32); 10] = [(0, 2), (1, -1), (4, 0), (4, 1), (9, -1), (10, 0), (3, 2), (2, 1), (8, 0), (7, 1)];

pub(super) fn cases(dtype: Dtype) -> Vec<Case> {
    let case = |(width, has_table): (usize, bool)| Case {
        kernel: "tile_norm",
        shape: format!("{}×{width}{}", ROWS.len(), if has_table { "" } else { ", without table or moments" }),
        run: Box::new(move |bench| run(bench, dtype, width, has_table)),
    };
    WIDTHS.into_iter().flat_map(|width| [(width, true), (width, false)]).map(case).collect()
}

fn run(bench: &Bench, dtype: Dtype, width: usize, has_table: bool) -> Result<Finding, CudaError> {
    let mut draw = Draw::new(width as u64);
    let values = draw.stream(INPUT_ROWS, width, 5, dtype);
    let table = draw.normal(BLOCKS * width, 1.0, dtype);
    let [weights, biases] = [0; 2].map(|_| draw.normal(width, 1.0, Dtype::F32));
    let input = bench.matrix(&values, width, stride(width), dtype)?;
    let post_tile = bench.matrix(&table, width, width, dtype)?;
    let (weight, bias) = (bench.upload(&weights)?, bench.upload(&biases)?);
    let output = bench.output(ROWS.len(), width, stride(width), dtype)?;
    let num_groups = ROWS.len() * width.div_ceil(abi::MOMENTS_COLUMNS as usize);
    let groups = bench.poisoned::<[f32; 2]>(num_groups)?;
    let rows = bench.upload(&ROWS.map(|(source, block)| abi::GlobalRow { source, block }))?;
    let batch = batch_of(bench, ROWS.len(), 0)?;
    let op = TileNorm {
        batch: DeviceBatch::new(&batch, 0),
        rows: Array::new(&rows, 0, ROWS.len()),
        input: input.view(),
        post_tile: has_table.then(|| post_tile.values()),
        norm_weight: Array::new(&weight, 0, width),
        norm_bias: Array::new(&bias, 0, width),
        output: output.view(),
        moments: has_table.then(|| Array::new(&groups, 0, num_groups)),
        post_tile_gate: GATE,
    };
    op.launch(&bench.launcher())?;

    let found = bench.result(&output, ROWS.len())?;
    let row = |(source, block): (u32, i32)| {
        let mut row = norm(&wide(&values[source as usize * width..][..width]), &weights, &biases);
        if let Some(block) = usize::try_from(block).ok().filter(|_| has_table) {
            let added = wide(&table[block * width..][..width]);
            row.iter_mut().zip(added).for_each(|(x, added)| *x += f64::from(GATE) * added);
        }
        row
    };
    let expected: Vec<f64> = ROWS.into_iter().flat_map(row).collect();
    let right = !has_table || moments_are_right(&bench.download(&groups)?, &found, width);
    let error = if right { relative_error(&found, &expected) } else { f64::NAN };
    Ok(Finding { error, limit: LUCK * rounding_error(&expected, dtype) + SUM_NOISE })
}
