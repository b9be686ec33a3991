//! `projection` against float64: states that lie apart, rows that stand for several, embeddings without gaps.

use super::linear::{LUCK, SUM_NOISE, batch_with_items, product, stride, wide};
use super::{Bench, Case, DeviceMatrix, Draw, Finding, relative_error, rounding_error};
use crate::cuda::abi;
use crate::cuda::batch::projection_items;
use crate::cuda::ops::{Array, DeviceBatch, Matrix, Projection};
use crate::dtype::Dtype;
use crate::error::CudaError;
use crate::plan::Form;

/// Hidden states, their width, outputs, tokens of a tile: no states, rows of embeddings that start anywhere, the published
/// model's numbers.
const SHAPES: [[usize; 4]; 4] = [[0, 33, 7, 5], [2, 72, 33, 17], [5, 160, 96, 40], [5, 1280, 4096, 33]];

/// At the borders of what Hopper's form is cut into: as many states as it takes and stretches of half a tile; stretches of a
/// tile and a row; more tiles than any GPU has multiprocessors.
const HOPPER_EDGES: [[usize; 4]; 3] = [[7, 8, 65, 64], [1, 40, 257, 129], [0, 40, 1280, 1601]];

/// Tiles by their number in the sequence, their first place in the embeddings, and how many they fill from there.
const TILES: [[usize; 3]; 3] = [[2, 0, 1], [0, 1, 3], [1, 4, 1]];
const PLACES: usize = 5;

pub(super) fn cases(dtype: Dtype, form: Form) -> Vec<Case> {
    let edges = if form == Form::Hopper { &HOPPER_EDGES[..] } else { &[] };
    let case = |shape: [usize; 4]| Case {
        kernel: "projection",
        shape: format!("{}×{} of {} states → {}, 3 tiles to {PLACES}", 3 * shape[3], shape[1], 1 + shape[0], shape[2]),
        run: Box::new(move |bench| run(bench, dtype, shape)),
    };
    SHAPES.iter().chain(edges).copied().map(case).collect()
}

fn run(bench: &Bench, dtype: Dtype, shape: [usize; 4]) -> Result<Finding, CudaError> {
    let [num_hidden, width, outputs, tokens] = shape;
    let num_states = 1 + num_hidden;
    let mut draw = Draw::new((width * outputs) as u64);
    let values: Vec<Vec<f32>> = (0..num_states).map(|_| draw.stream(3 * tokens, width, 5, dtype)).collect();
    let weights = draw.normal(num_states * outputs * width, 0.1, dtype);
    let biases = draw.normal(outputs, 1.0, Dtype::F32);
    // The head's tiles in order, the hidden states' the other way round.
    let rows: Vec<abi::ProjectedRow> = TILES
        .into_iter()
        .flat_map(|[tile, place, copies]| {
            (0..tokens).map(move |token| {
                let numbers = [tile * tokens + token, (2 - tile) * tokens + token, place * tokens + token, copies];
                let [head, hidden, output, copies] = numbers.map(|number| number as u32);
                abi::ProjectedRow { head, hidden, output, copies }
            })
        })
        .collect();

    let matrix = |state: &Vec<f32>| bench.matrix(state, width, stride(width), dtype);
    let states = values.iter().map(matrix).collect::<Result<Vec<_>, _>>()?;
    let hidden: Vec<Matrix> = states[1..].iter().map(DeviceMatrix::view).collect();
    let weight = bench.matrix(&weights, width, stride(width), dtype)?;
    let embeddings = bench.output(PLACES * tokens, outputs, outputs, dtype)?;
    let items = projection_items(&rows);
    let (bias, row_memory, item_memory) = (bench.upload(&biases)?, bench.upload(&rows)?, bench.upload(&items)?);
    let batch = batch_with_items(bench, rows.len(), items.len(), embeddings.view().address)?;
    let op = Projection {
        batch: DeviceBatch::new(&batch, 0),
        rows: Array::new(&row_memory, 0, rows.len()),
        items: Array::new(&item_memory, 0, items.len()),
        head: states[0].view(),
        hidden: &hidden,
        weight: weight.values(),
        bias: Array::new(&bias, 0, outputs),
        tokens,
    };
    op.launch(&bench.launcher())?;

    let mut expected = vec![f64::NAN; PLACES * tokens * outputs];
    for row in rows {
        let [head, hidden, output, copies] =
            [row.head, row.hidden, row.output, row.copies].map(|number| number as usize);
        let mut sums = wide(&biases);
        for (number, (state, weights)) in values.iter().zip(weights.chunks_exact(outputs * width)).enumerate() {
            let row = if number == 0 { head } else { hidden };
            let part = product(&wide(&state[row * width..(row + 1) * width]), &wide(weights), width);
            sums.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
        }
        for copy in 0..copies {
            let start = (output + copy * tokens) * outputs;
            expected[start..start + outputs].copy_from_slice(&sums);
        }
    }
    let error = relative_error(&bench.result(&embeddings, PLACES * tokens)?, &expected);
    Ok(Finding { error, limit: LUCK * rounding_error(&expected, dtype) + SUM_NOISE })
}
