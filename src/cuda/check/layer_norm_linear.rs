//! `layer_norm_linear` against norm and product in float64, with the weights as they were before they were folded; it may
//! err as much as rounding the norm and then the product does.

use super::linear::{batch_of, gelu, moments, product, stride, wide, with_edges};
use super::{Bench, Case, Draw, Finding, relative_error, rounded};
use crate::config::NORM_EPS;
use crate::cuda::ops::{Array, DeviceBatch, LayerNormLinear};
use crate::dtype::Dtype;
use crate::error::CudaError;
use crate::plan::{Form, Stack};

/// How much worse than the two roundings a case may be by luck: a row has few values.
const LUCK: f64 = 1.4;

/// One row; widths that fill neither tile nor slab; the published model's.
const SHAPES: [[usize; 3]; 5] = [[1, 160, 480], [129, 33, 7], [70, 72, 132], [260, 96, 99], [130, 1280, 3840]];

pub(super) fn cases(dtype: Dtype, form: Form) -> Vec<Case> {
    let shapes = with_edges(&SHAPES, form).into_iter().flat_map(|shape| [(shape, 0.0), (shape, 50.0)]);
    let variants = shapes.flat_map(|(shape, shift)| [(shape, shift, false), (shape, shift, true)]);
    let case = |([rows, inputs, outputs], shift, gelu): ([usize; 3], f32, bool)| {
        let activation = if gelu { ", GELU" } else { "" };
        Case {
            kernel: "layer_norm_linear",
            shape: format!("{rows}×{inputs} → {outputs}, {shift} off centre{activation}"),
            run: Box::new(move |bench| Norm::draw([rows, inputs, outputs], shift, gelu, dtype).run(bench)),
        }
    };
    variants.map(case).collect()
}

/// A norm and the matrix after it, and rows for them.
struct Norm {
    shape: [usize; 3],
    gelu: bool,
    dtype: Dtype,
    input: Vec<f32>,
    weight: Vec<f64>,
    norm_weight: Vec<f64>,
    norm_bias: Vec<f64>,
    bias: Vec<f64>,
}

impl Norm {
    fn draw(shape: [usize; 3], shift: f32, gelu: bool, dtype: Dtype) -> Self {
        let [rows, inputs, outputs] = shape;
        let mut draw = Draw::new((rows * outputs) as u64);
        let stream: Vec<f32> = draw.stream(rows, inputs, 5, dtype).iter().map(|x| x + shift).collect();
        let mut norm_weight = draw.normal(inputs, 0.1, dtype);
        norm_weight.iter_mut().enumerate().for_each(|(i, x)| *x += if i % 37 == 5 { 4.0 } else { 1.0 });
        Self {
            shape,
            gelu,
            dtype,
            input: rounded(&stream, dtype),
            weight: wide(&draw.normal(outputs * inputs, 1.0 / (inputs as f64).sqrt(), dtype)),
            norm_weight: wide(&norm_weight),
            norm_bias: wide(&draw.normal(inputs, 0.2, dtype)),
            bias: wide(&draw.normal(outputs, 0.2, dtype)),
        }
    }

    fn run(&self, bench: &Bench) -> Result<Finding, CudaError> {
        let [rows, inputs, outputs] = self.shape;
        let (folded, column_sum, bias) = self.fold();
        let groups: Vec<f32> = moments(&wide(&self.input), inputs).into_iter().flatten().map(|x| x as f32).collect();
        let input = bench.matrix(&self.input, inputs, stride(inputs), self.dtype)?;
        let weight = bench.matrix(&folded, inputs, stride(inputs), self.dtype)?;
        let output = bench.output(rows, outputs, stride(outputs), self.dtype)?;
        let [groups, column_sum, bias] = [bench.upload(&groups)?, bench.upload(&column_sum)?, bench.upload(&bias)?];
        let batch = batch_of(bench, rows, 0)?;
        let op = LayerNormLinear {
            num_rows: DeviceBatch::new(&batch, 0).num_rows(Stack::Transformer, rows),
            input: input.view(),
            moments: Array::new(&groups, 0, groups.len() / 8),
            weight: weight.values(),
            column_sum: Array::new(&column_sum, 0, outputs),
            bias: Array::new(&bias, 0, outputs),
            output: output.view(),
            gelu: self.gelu,
        };
        op.launch(&bench.launcher())?;
        let normalised = self.normalise();
        let expected = self.linear(&normalised);
        let nearest = |values: &[f64]| rounded(&values.iter().map(|x| *x as f32).collect::<Vec<_>>(), self.dtype);
        let twice_rounded = nearest(&self.linear(&wide(&nearest(&normalised))));
        let error = relative_error(&bench.result(&output, rows)?, &expected);
        Ok(Finding { error, limit: LUCK * relative_error(&twice_rounded, &expected) })
    }

    /// Weight, sums of its rows and bias, as they are folded at load.
    fn fold(&self) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
        let (mut weight, mut column_sum, mut bias) = (Vec::new(), Vec::new(), Vec::new());
        for (row, own_bias) in self.weight.chunks_exact(self.shape[1]).zip(&self.bias) {
            let scaled: Vec<f64> = row.iter().zip(&self.norm_weight).map(|(x, w)| x * w).collect();
            let mean = scaled.iter().sum::<f64>() / row.len() as f64;
            let centred: Vec<f32> = scaled.iter().map(|x| (x - mean) as f32).collect();
            let stored = rounded(&centred, self.dtype);
            column_sum.push(wide(&stored).iter().sum::<f64>() as f32);
            bias.push((row.iter().zip(&self.norm_bias).map(|(x, b)| x * b).sum::<f64>() + own_bias) as f32);
            weight.extend(stored);
        }
        (weight, column_sum, bias)
    }

    fn normalise(&self) -> Vec<f64> {
        let rows = self.input.chunks_exact(self.shape[1]).flat_map(|row| {
            let row = wide(row);
            let len = row.len() as f64;
            let mean = row.iter().sum::<f64>() / len;
            let variance = row.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / len;
            let scale = 1.0 / (variance + f64::from(NORM_EPS)).sqrt();
            let affine = self.norm_weight.iter().zip(&self.norm_bias);
            row.into_iter().zip(affine).map(|(x, (w, b))| (x - mean) * scale * w + b).collect::<Vec<_>>()
        });
        rows.collect()
    }

    fn linear(&self, normalised: &[f64]) -> Vec<f64> {
        let sums = product(normalised, &self.weight, self.shape[1]);
        let biased = sums.iter().zip(self.bias.iter().cycle()).map(|(sum, bias)| sum + bias);
        biased.map(|x| if self.gelu { gelu(x) } else { x }).collect()
    }
}
