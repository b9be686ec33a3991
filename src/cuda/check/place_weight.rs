//! `place_weight` and `fold_norm` against float64, from every stored type: padded heads, a tensor that comes in pieces of
//! its groups, columns that lie apart.

use super::linear::{LUCK, SUM_NOISE, stride, wide};
use super::{Bench, Case, DeviceMatrix, Draw, Finding, relative_error, rounded, rounding_error};
use crate::cuda::ops::{Array, FoldNorm, Groups, PlaceWeight};
use crate::dtype::Dtype;
use crate::error::CudaError;

const STORED: [Dtype; 3] = [Dtype::F32, Dtype::Bf16, Dtype::F16];

/// Stored rows and columns, and groups of rows: heads of 5 padded to 16, no groups, the published model's queries.
const SHAPES: [(usize, usize, Groups); 3] = [
    (10, 33, Groups { len: 5, stride: 16 }),
    (7, 300, Groups { len: 7, stride: 7 }),
    (160, 1280, Groups { len: 80, stride: 80 }),
];

/// What summing a row in f32 adds, relative to the sum of the magnitudes: a centred row's own sum is next to nothing.
const FOLD_NOISE: f64 = 2e-7;

pub(super) fn cases(dtype: Dtype) -> Vec<Case> {
    let folded = STORED.into_iter().flat_map(|stored| SHAPES.map(|shape| (stored, shape)));
    let folded = folded.map(|(stored, (rows, columns, groups))| Case {
        kernel: "place_weight, fold_norm",
        shape: format!("{rows}×{columns} of {stored}, groups of {} at {}", groups.len, groups.stride),
        run: Box::new(move |bench| Folded { rows, columns, groups, stored, dtype }.run(bench)),
    });
    let apart = STORED.map(|stored| Case {
        kernel: "place_weight",
        shape: format!("every third column of {stored}, groups of 2 at 5"),
        run: Box::new(move |bench| columns_apart(bench, dtype, stored)),
    });
    folded.chain(apart).collect()
}

/// A matrix that a norm is folded into.
struct Folded {
    rows: usize,
    columns: usize,
    groups: Groups,
    stored: Dtype,
    dtype: Dtype,
}

/// The stored row that lies at `place`.
fn row_at(place: usize, groups: Groups) -> Option<usize> {
    (place % groups.stride < groups.len).then_some(place / groups.stride * groups.len + place % groups.stride)
}

impl Folded {
    fn run(&self, bench: &Bench) -> Result<Finding, CudaError> {
        let (columns, groups, dtype) = (self.columns, self.groups, self.dtype);
        let padded = self.rows / groups.len * groups.stride;
        let mut draw = Draw::new(columns as u64);
        let values: Vec<f32> = draw.normal(self.rows * columns, 1.0, dtype).iter().map(|x| x + 0.25).collect();
        let values = rounded(&values, self.stored);
        let [norm_weights, norm_biases] = [0; 2].map(|_| draw.normal(columns, 1.0, Dtype::F32));
        let biases = draw.normal(self.rows, 1.0, Dtype::F32);
        let input = bench.matrix(&values, columns, columns, self.stored)?;
        let weight = bench.output(padded, columns, stride(columns), dtype)?;
        let (norm_weight, norm_bias) = (bench.upload(&norm_weights)?, bench.upload(&norm_biases)?);
        let (bias, num_not_finite) = (bench.upload(&biases)?, bench.upload(&[0u32])?);
        let (folded_bias, column_sum) = (bench.poisoned::<f32>(padded)?, bench.poisoned::<f32>(padded)?);
        let place = PlaceWeight {
            input: input.values(),
            output: weight.view(),
            norm_weight: Some(Array::new(&norm_weight, 0, columns)),
            num_not_finite: Array::new(&num_not_finite, 0, 1),
            columns: (0, columns, 1),
            row_groups: groups,
            column_groups: Groups { len: columns, stride: columns },
            centre: true,
        };
        place.launch(&bench.launcher())?;
        let fold = FoldNorm {
            input: input.values(),
            weight: weight.view(),
            norm_bias: Array::new(&norm_bias, 0, columns),
            bias: Some(Array::new(&bias, 0, self.rows)),
            folded_bias: Array::new(&folded_bias, 0, padded),
            column_sum: Array::new(&column_sum, 0, padded),
            row_groups: groups,
        };
        fold.launch(&bench.launcher())?;

        let found = bench.result(&weight, padded)?;
        let sums: Vec<Sum> = found.chunks_exact(columns).map(|row| wide(row).into_iter().collect()).collect();
        let (mut expected, mut expected_biases) = (Vec::new(), Vec::new());
        for place in 0..padded {
            let Some(row) = row_at(place, groups) else {
                expected.resize(expected.len() + columns, 0.0);
                expected_biases.push(Sum::default());
                continue;
            };
            let row_values = wide(&values[row * columns..][..columns]);
            let scaled: Vec<f64> = row_values.iter().zip(&norm_weights).map(|(x, w)| x * f64::from(*w)).collect();
            let mean = scaled.iter().sum::<f64>() / columns as f64;
            expected.extend(scaled.iter().map(|x| x - mean));
            let products = row_values.iter().zip(&norm_biases).map(|(x, b)| x * f64::from(*b));
            expected_biases.push(products.chain([f64::from(biases[row])]).collect());
        }
        let folded = are_sums(&bench.download(&folded_bias)?, &expected_biases);
        let summed = are_sums(&bench.download(&column_sum)?, &sums);
        let finite = bench.download::<u32>(&num_not_finite)? == [0];
        let error = if folded && summed && finite { relative_error(&found, &expected) } else { f64::NAN };
        Ok(Finding { error, limit: LUCK * rounding_error(&expected, dtype) + SUM_NOISE })
    }
}

/// A sum in float64, and that of the magnitudes.
#[derive(Default)]
struct Sum {
    value: f64,
    magnitude: f64,
}

impl FromIterator<f64> for Sum {
    fn from_iter<I: IntoIterator<Item = f64>>(terms: I) -> Self {
        let add = |sum: Self, x: f64| Self { value: sum.value + x, magnitude: sum.magnitude + x.abs() };
        terms.into_iter().fold(Self::default(), add)
    }
}

/// Whether these are the sums, as f32 can know them.
fn are_sums(found: &[f32], expected: &[Sum]) -> bool {
    let is_sum = |(found, sum): (&f32, &Sum)| (f64::from(*found) - sum.value).abs() <= FOLD_NOISE * sum.magnitude;
    found.len() == expected.len() && found.iter().zip(expected).all(is_sum)
}

/// As the projection's interleaved columns and padded heads of the output matrix are taken.
fn columns_apart(bench: &Bench, dtype: Dtype, stored: Dtype) -> Result<Finding, CudaError> {
    let (rows, width, columns, groups) = (9, 20, 6, Groups { len: 2, stride: 5 });
    let padded = columns / groups.len * groups.stride;
    let values = rounded(&Draw::new(3).normal(rows * width, 1.0, dtype), stored);
    let input = bench.matrix(&values, width, width, stored)?;
    let output: DeviceMatrix = bench.output(rows, padded, 24, dtype)?;
    let num_not_finite = bench.upload(&[0u32])?;
    let place = PlaceWeight {
        input: input.values(),
        output: output.view(),
        norm_weight: None,
        num_not_finite: Array::new(&num_not_finite, 0, 1),
        columns: (2, columns, 3),
        row_groups: Groups { len: rows, stride: rows },
        column_groups: groups,
        centre: false,
    };
    place.launch(&bench.launcher())?;

    let element = |row: usize, place: usize| {
        row_at(place, groups).map_or(0.0, |column| f64::from(values[row * width + 2 + 3 * column]))
    };
    let expected: Vec<f64> = (0..rows * padded).map(|index| element(index / padded, index % padded)).collect();
    let error = relative_error(&bench.result(&output, rows)?, &expected);
    Ok(Finding { error, limit: rounding_error(&expected, dtype) })
}
