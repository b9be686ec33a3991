//! The matrix kernels against float64, in every form and tiling; and that neither tiling nor batch shows in a bit.

mod elements;
mod products;

use elements::{DTYPES, Draw, Dtype, assert_close, matrix, relative_error, rows_of};
use products::{FORMS, Form, Mapped, Run};
use tilesight_simulator::machine::testing::{Buffer, Params};

const NORM_EPS: f64 = 1e-5;
const MOMENTS_COLUMNS: usize = 128;
const MAX_HIDDEN_STATES: usize = 62;

/// The stride of a matrix, with a gap after each row.
fn stride(width: usize) -> usize {
    width.next_multiple_of(8) + 8
}

/// `input · weightᵀ`, `[rows, outputs]`.
fn product(input: &[f64], weight: &[f64], inputs: usize) -> Vec<f64> {
    let dot = |x: &[f64], w: &[f64]| x.iter().zip(w).map(|(x, w)| x * w).sum();
    input.chunks_exact(inputs).flat_map(|x| weight.chunks_exact(inputs).map(move |w| dot(x, w))).collect()
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|value| f64::from(*value)).collect()
}

/// Mean and sum of squared deviations.
fn moments(values: &[f64]) -> [f64; 2] {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    [mean, values.iter().map(|x| (x - mean).powi(2)).sum()]
}

/// What summing in f32 adds to the error of the nearest result.
const SUM_NOISE: f64 = 2e-6;

#[test]
fn patch_embedding_is_the_product() {
    for (rows, inputs, outputs) in
        [(1, 588, 160), (130, 588, 33), (75, 12, 7), (64, 33, 132), (257, 147, 264), (30, 1100, 300)]
    {
        for (dtype, form) in variants() {
            let mut draw = Draw((rows * outputs) as u64);
            let input = draw.stream(rows, inputs, dtype);
            let weight = draw.elements(outputs * inputs, 1.0 / (inputs as f32).sqrt(), dtype);
            let run = |run: Run, input: &[f32]| {
                let rows = input.len() / inputs;
                let num_rows = Buffer::of(&[rows as u32]);
                let [input_stride, output_stride] = [inputs, outputs].map(stride);
                let input = matrix(input, inputs, input_stride, 2, dtype);
                let weight = matrix(&weight, inputs, input_stride, 0, dtype);
                let output = Buffer::poisoned::<u16>((rows + 2) * output_stride);
                let sizes = [inputs, outputs, input_stride, input_stride, output_stride];
                let maps = [
                    Mapped::Input(&input, [rows + 2, inputs, input_stride]),
                    Mapped::Weight(&weight, [outputs, inputs, input_stride]),
                    Mapped::Output(&output, [rows + 2, outputs, output_stride]),
                ];
                let params = run.params(&maps).buffer(&num_rows).buffer(&input).buffer(&weight).buffer(&output);
                let params = sizes.iter().fold(params, |params, size| params.u32(*size as u32));
                run.launch("patch_embedding", "patch_embedding", dtype, [rows, outputs], &params);
                rows_of(&output, rows, outputs, output_stride)
            };
            let found = run(form.run(), &input);
            let expected = product(&wide(&input), &wide(&weight), inputs);
            assert_close(&found, &expected, dtype, SUM_NOISE, &format!("{rows} {inputs} {outputs} {dtype:?} {form:?}"));
            assert_runs_agree(form, &found, outputs, |other| run(other, &input));
            let cut = rows / 3;
            let alone = [&input[..cut * inputs], &input[cut * inputs..]].map(|input| run(form.run(), input)).concat();
            assert!(alone == found, "a row's bits depend on the rows beside it");
        }
    }
}

/// Element types and forms.
fn variants() -> impl Iterator<Item = (Dtype, Form)> {
    DTYPES.into_iter().flat_map(|dtype| FORMS.map(|form| (dtype, form)))
}

fn assert_runs_agree<T: PartialEq>(form: Form, found: &[T], width: usize, run: impl Fn(Run) -> Vec<T>) {
    for other in form.runs() {
        let differs = run(other).iter().zip(found).position(|(x, y)| x != y);
        let place = differs.map(|index| [index / width, index % width]);
        assert_eq!(place, None, "{other:?} gives other bits than {:?}, first at this row and column", form.run());
    }
}

/// A norm and the matrix after it, unfolded and as the engine folds them at load.
struct NormLinear {
    inputs: usize,
    outputs: usize,
    dtype: Dtype,
    weight: Vec<f64>,
    norm_weight: Vec<f64>,
    norm_bias: Vec<f64>,
    bias: Vec<f64>,
}

impl NormLinear {
    fn draw(inputs: usize, outputs: usize, dtype: Dtype, draw: &mut Draw) -> Self {
        let weight = wide(&draw.elements(outputs * inputs, 1.0 / (inputs as f32).sqrt(), dtype));
        let norm_weight = (0..inputs).map(|i| if i % 37 == 5 { 4.0 } else { 1.0 } + 0.1 * f64::from(draw.normal()));
        let norm_weight = norm_weight.map(|x| f64::from(dtype.round(x as f32))).collect();
        let [norm_bias, bias] = [inputs, outputs].map(|len| wide(&draw.elements(len, 0.2, dtype)));
        Self { inputs, outputs, dtype, weight, norm_weight, norm_bias, bias }
    }

    /// The norm of each row.
    fn normalise(&self, input: &[f32]) -> Vec<f64> {
        let rows = input.chunks_exact(self.inputs).flat_map(|row| {
            let row = wide(row);
            let [mean, squares] = moments(&row);
            let scale = 1.0 / (squares / self.inputs as f64 + NORM_EPS).sqrt();
            let affine = self.norm_weight.iter().zip(&self.norm_bias);
            row.into_iter().zip(affine).map(|(x, (w, b))| (x - mean) * scale * w + b).collect::<Vec<_>>()
        });
        rows.collect()
    }

    fn linear(&self, normalised: &[f64], gelu: bool) -> Vec<f64> {
        let sums = product(normalised, &self.weight, self.inputs);
        let biased = sums.iter().zip(self.bias.iter().cycle()).map(|(sum, bias)| sum + bias);
        biased.map(|x| if gelu { exact_gelu(x) } else { x }).collect()
    }

    fn run(&self, run: Run, gelu: bool, input: &[f32]) -> Vec<u16> {
        let Self { inputs, outputs, dtype, .. } = *self;
        let rows = input.len() / inputs;
        let (mut folded, mut column_sum, mut bias) = (Vec::new(), Vec::new(), Vec::new());
        for (row, own_bias) in self.weight.chunks_exact(inputs).zip(&self.bias) {
            let scaled: Vec<f64> = row.iter().zip(&self.norm_weight).map(|(x, w)| x * w).collect();
            let mean = scaled.iter().sum::<f64>() / inputs as f64;
            let stored: Vec<f32> = scaled.iter().map(|x| dtype.round((x - mean) as f32)).collect();
            column_sum.push(wide(&stored).iter().sum::<f64>() as f32);
            bias.push((row.iter().zip(&self.norm_bias).map(|(x, b)| x * b).sum::<f64>() + own_bias) as f32);
            folded.extend(stored);
        }
        let groups: Vec<f32> = input
            .chunks_exact(inputs)
            .flat_map(|row| row.chunks(MOMENTS_COLUMNS).flat_map(|group| moments(&wide(group)).map(|x| x as f32)))
            .collect();
        let num_rows = Buffer::of(&[rows as u32]);
        let [input_stride, output_stride] = [inputs, outputs].map(stride);
        let input = matrix(input, inputs, input_stride, 2, dtype);
        let weight = matrix(&folded, inputs, input_stride, 0, dtype);
        let [groups, column_sum, bias] = [groups, column_sum, bias].map(|values| Buffer::of(&values));
        let output = Buffer::poisoned::<u16>((rows + 2) * output_stride);
        let buffers = [&num_rows, &input, &groups, &weight, &column_sum, &bias, &output];
        let maps = [
            Mapped::Input(&input, [rows + 2, inputs, input_stride]),
            Mapped::Weight(&weight, [outputs, inputs, input_stride]),
            Mapped::Output(&output, [rows + 2, outputs, output_stride]),
        ];
        let params = buffers.into_iter().fold(run.params(&maps), Params::buffer);
        let sizes = [inputs, outputs, input_stride, input_stride, output_stride];
        let params = sizes.iter().fold(params, |params, size| params.u32(*size as u32));
        let kernel = if gelu { "layer_norm_linear_gelu" } else { "layer_norm_linear" };
        run.launch(kernel, "layer_norm_linear", dtype, [rows, outputs], &params);
        rows_of(&output, rows, outputs, output_stride)
    }
}

/// x·Φ(x), with Φ as Marsaglia's series: ½ + φ(x)·(x + x³/3 + x⁵/(3·5) + …).
fn exact_gelu(x: f64) -> f64 {
    let z = x.clamp(-9.0, 9.0);
    let (mut sum, mut term, mut odd) = (z, z, 1.0);
    while term.abs() > 1e-18 * sum.abs() {
        odd += 2.0;
        term *= z * z / odd;
        sum += term;
    }
    x * (0.5 + sum * (-0.5 * z * z).exp() / std::f64::consts::TAU.sqrt())
}

/// One case is a lottery of a few roundings, above all in one row, where the naive way rounds few values; the mean over
/// draws is not.
#[test]
fn layer_norm_linear_errs_no_more_than_norm_then_product() {
    for (dtype, form) in variants() {
        let mut ratios = Vec::new();
        for (rows, inputs, outputs) in [(1, 160, 480), (129, 33, 7), (70, 72, 132), (40, 320, 288), (150, 96, 99)] {
            for seed in 0..6 {
                let mut draw = Draw(seed * 1000 + (inputs * outputs) as u64);
                let layer = NormLinear::draw(inputs, outputs, dtype, &mut draw);
                let stream = draw.stream(rows, inputs, dtype);
                let far: Vec<f32> = stream.iter().map(|x| dtype.round(x + 50.0)).collect();
                for (input, gelu) in [(&stream, false), (&stream, true), (&far, false), (&far, true)] {
                    let normalised = layer.normalise(input);
                    let expected = layer.linear(&normalised, gelu);
                    let normalised: Vec<f64> = normalised.iter().map(|x| rounded(*x, dtype)).collect();
                    let naive = layer.linear(&normalised, gelu);
                    let naive: Vec<f32> = naive.iter().map(|x| rounded(*x, dtype) as f32).collect();
                    let found = layer.run(form.run(), gelu, input);
                    let found: Vec<f32> = found.iter().map(|bits| dtype.value(*bits)).collect();
                    let ratio = relative_error(&found, &expected) / relative_error(&naive, &expected);
                    assert!(ratio <= 1.4, "{rows} {inputs} {outputs} {dtype:?}: {ratio:.3} of the naive error");
                    ratios.push(ratio);
                }
            }
        }
        let mean = ratios.iter().sum::<f64>() / ratios.len() as f64;
        println!("{dtype:?} {form:?}: {mean:.3} of the error of norm, then product");
        assert!(mean <= 1.0, "{dtype:?} {form:?}: {mean:.3} of the error of norm, then product");
    }
}

#[test]
fn gelu_keeps_its_negative_tail() {
    // A product of zeros leaves the bias: x from -6 to 6.
    let bias: Vec<f32> = (-600..=600).map(|x| x as f32 / 100.0).collect();
    let outputs = bias.len();
    for (dtype, form) in variants() {
        let half_unit = if dtype == Dtype::Bf16 { 1.0 / 256.0 } else { 1.0 / 2048.0 };
        let num_rows = Buffer::of(&[1u32]);
        let [input, weight] = [1, outputs].map(|rows| matrix(&vec![0.0; rows * 8], 8, 8, 0, dtype));
        let [groups, column_sum, bias_buffer] =
            [vec![0.0, 1.0], vec![0.0; outputs], bias.clone()].map(|x| Buffer::of(&x));
        let output = Buffer::poisoned::<u16>(stride(outputs));
        let buffers = [&num_rows, &input, &groups, &weight, &column_sum, &bias_buffer, &output];
        let maps = [
            Mapped::Input(&input, [1, 8, 8]),
            Mapped::Weight(&weight, [outputs, 8, 8]),
            Mapped::Output(&output, [1, outputs, stride(outputs)]),
        ];
        let params = buffers.into_iter().fold(form.run().params(&maps), Params::buffer);
        let sizes = [8, outputs, 8, 8, stride(outputs)];
        let params = sizes.iter().fold(params, |params, size| params.u32(*size as u32));
        form.run().launch("layer_norm_linear_gelu", "layer_norm_linear", dtype, [1, outputs], &params);
        let found = rows_of(&output, 1, outputs, stride(outputs));
        for (x, bits) in bias.iter().zip(found) {
            let (expected, found) = (exact_gelu(f64::from(*x)), f64::from(dtype.value(bits)));
            // Below 2^-14 fp16 has fewer digits, 2^-25 off at most.
            let limit = (half_unit + 1e-5) * expected.abs() + 3e-8;
            assert!((found - expected).abs() <= limit, "gelu({x}) is {found} in {dtype:?}, exactly {expected}");
        }
    }
}

#[test]
fn layer_norm_linear_gives_the_same_bits_in_every_run() {
    for (rows, inputs, outputs) in [(1, 160, 480), (129, 33, 7), (40, 320, 288), (260, 96, 99)] {
        let variants = FORMS.map(|form| [(Dtype::Bf16, form, true), (Dtype::Fp16, form, false)]);
        for (dtype, form, gelu) in variants.into_iter().flatten() {
            let mut draw = Draw((inputs * outputs) as u64);
            let layer = NormLinear::draw(inputs, outputs, dtype, &mut draw);
            let input = draw.stream(rows, inputs, dtype);
            let found = layer.run(form.run(), gelu, &input);
            assert_runs_agree(form, &found, outputs, |other| layer.run(other, gelu, &input));
            let (first, rest) = input.split_at(rows / 3 * inputs);
            let alone = [first, rest].map(|input| layer.run(form.run(), gelu, input)).concat();
            assert!(alone == found, "{rows} {inputs} {outputs}: a row's bits depend on the rows beside it");
        }
    }
}

fn rounded(value: f64, dtype: Dtype) -> f64 {
    f64::from(dtype.round(value as f32))
}

/// The output's bits and its moments.
type WithMoments = (Vec<u16>, Vec<[f32; 2]>);

/// linear_residual and its operands.
struct Residual {
    inputs: usize,
    outputs: usize,
    dtype: Dtype,
    weight: Vec<f32>,
    bias: Option<Vec<f32>>,
    gate: f32,
}

impl Residual {
    fn run(&self, run: Run, in_place: bool, with_moments: bool, input: &[f32], residual: &[f32]) -> WithMoments {
        let Self { inputs, outputs, dtype, .. } = *self;
        let rows = input.len() / inputs;
        let num_rows = Buffer::of(&[rows as u32]);
        let [input_stride, output_stride] = [inputs, outputs].map(stride);
        let input = matrix(input, inputs, input_stride, 2, dtype);
        let weight = matrix(&self.weight, inputs, input_stride, 0, dtype);
        let bias = self.bias.as_ref().map(|bias| Buffer::of(bias));
        let residual = matrix(residual, outputs, output_stride, 2, dtype);
        let apart = Buffer::poisoned::<u16>((rows + 2) * output_stride);
        let output = if in_place { &residual } else { &apart };
        let num_groups = rows * outputs.div_ceil(MOMENTS_COLUMNS);
        let groups = Buffer::poisoned::<[f32; 2]>(num_groups);
        let maps = [
            Mapped::Input(&input, [rows + 2, inputs, input_stride]),
            Mapped::Weight(&weight, [outputs, inputs, input_stride]),
            Mapped::Output(&residual, [rows + 2, outputs, output_stride]),
            Mapped::Output(output, [rows + 2, outputs, output_stride]),
        ];
        let params = run.params(&maps).buffer(&num_rows).buffer(&input).buffer(&weight);
        let params = bias.as_ref().map_or_else(|| params.clone().null(), |bias| params.clone().buffer(bias));
        let params = params.buffer(&residual).buffer(output);
        let params = if with_moments { params.buffer(&groups) } else { params.null() };
        let sizes = [inputs, outputs, input_stride, input_stride, output_stride];
        let params = sizes.iter().fold(params.f32(self.gate), |params, size| params.u32(*size as u32));
        run.launch("linear_residual", "linear_residual", dtype, [rows, outputs], &params);
        let found = rows_of(output, rows, outputs, output_stride);
        let groups = if with_moments { groups.read::<[f32; 2]>() } else { Vec::new() };
        (found, groups)
    }
}

#[test]
fn linear_residual_adds_and_leaves_moments() {
    let cases = [(1, 160, 160), (129, 33, 7), (70, 640, 132), (64, 96, 33), (260, 72, 400)];
    for (number, (rows, inputs, outputs)) in cases.into_iter().enumerate() {
        for (dtype, form) in variants() {
            let what = format!("{rows} {inputs} {outputs} {dtype:?} {form:?}");
            let mut draw = Draw((inputs * outputs) as u64);
            let weight = draw.elements(outputs * inputs, 1.0 / (inputs as f32).sqrt(), dtype);
            let bias = (number % 2 == 0).then(|| draw.elements(outputs, 0.3, dtype));
            let op = Residual { inputs, outputs, dtype, weight, bias, gate: [1.0, -0.37][number % 2] };
            let input = draw.elements(rows * inputs, 3.0, dtype);
            let mut residual = draw.stream(rows, outputs, dtype);
            // A row whose mean is far beyond its deviation.
            residual[..outputs].iter_mut().for_each(|x| *x = dtype.round(*x + 200.0));
            let found = op.run(form.run(), false, true, &input, &residual);

            let sums = product(&wide(&input), &wide(&op.weight), inputs);
            let biases = wide(&op.bias.clone().unwrap_or(vec![0.0; outputs]));
            let branch = sums.iter().zip(biases.iter().cycle()).map(|(sum, bias)| f64::from(op.gate) * (sum + bias));
            let expected: Vec<f64> = branch.zip(&residual).map(|(branch, x)| branch + f64::from(*x)).collect();
            assert_close(&found.0, &expected, dtype, SUM_NOISE, &what);

            let values: Vec<f64> = found.0.iter().map(|bits| f64::from(dtype.value(*bits))).collect();
            let groups = values.chunks_exact(outputs).flat_map(|row| row.chunks(MOMENTS_COLUMNS));
            for ([mean, squares], group) in found.1.iter().zip(groups) {
                let [expected_mean, expected_squares] = moments(group);
                let size = group.iter().fold(0.0f64, |size, x| size.max(x.abs()));
                let mean_error = (f64::from(*mean) - expected_mean).abs();
                let squares_error = (f64::from(*squares) - expected_squares).abs();
                assert!(mean_error <= 1e-6 * size, "{what}: mean {mean}, expected {expected_mean}");
                let limit = 1e-5 * expected_squares + 1e-10 * size * size * group.len() as f64;
                assert!(squares_error <= limit, "{what}: squares {squares}, expected {expected_squares}");
            }

            assert_runs_agree(form, &found.0, outputs, |other| op.run(other, true, false, &input, &residual).0);
            let groups = outputs.div_ceil(MOMENTS_COLUMNS);
            assert_runs_agree(form, &found.1, groups, |other| op.run(other, true, true, &input, &residual).1);
            let cut = rows / 3;
            let ((input, other_input), (x, other_x)) = (input.split_at(cut * inputs), residual.split_at(cut * outputs));
            let first = op.run(form.run(), false, true, input, x);
            let rest = op.run(form.run(), false, true, other_input, other_x);
            let alone = ([first.0, rest.0].concat(), [first.1, rest.1].concat());
            assert!(alone == found, "{what}: a row's bits depend on the rows beside it");
        }
    }
}

/// A row of the projection: its rows in head and hidden states, its first place, its number of places.
type ProjectedRow = [u32; 4];

/// Stretches of rows that lie one after another wherever they are read and written, of at most 128.
fn items_of(rows: &[ProjectedRow]) -> Vec<[u32; 5]> {
    let mut items: Vec<[u32; 5]> = Vec::new();
    for [head, hidden, output, copies] in rows.iter().copied() {
        match items.last_mut() {
            Some(item)
                if item[3] < 128
                    && [0, 1, 2].map(|k| item[k] + item[3]) == [head, hidden, output]
                    && item[4] == copies =>
            {
                item[3] += 1;
            }
            _ => items.push([head, hidden, output, 1, copies]),
        }
    }
    items
}

/// The projection and its operands.
struct Projection {
    width: usize,
    outputs: usize,
    tokens: usize,
    dtype: Dtype,
    /// Head, then hidden states, `[rows, width]` each.
    states: Vec<Vec<f32>>,
    /// `[states, outputs, width]`.
    weight: Vec<f32>,
    bias: Vec<f32>,
    /// Places in the embeddings.
    places: usize,
}

impl Projection {
    /// The embeddings, poison where no row has a place; they start `offset` elements after a multiple of 16 bytes.
    fn run(&self, run: Run, offset: usize, rows: &[ProjectedRow]) -> Vec<u16> {
        let Self { width, outputs, dtype, .. } = *self;
        let stride = stride(width);
        let states: Vec<Buffer> = self.states.iter().map(|state| matrix(state, width, stride, 2, dtype)).collect();
        let weight = matrix(&self.weight, width, stride, 0, dtype);
        let [embeddings, bias] = [Buffer::poisoned::<u16>(offset + self.places * outputs), Buffer::of(&self.bias)];
        let embeddings_address = embeddings.address() + 2 * offset as u64;
        let (items, num_items) = (items_of(rows), items_of(rows).len());
        let batch = [[0, 0], [embeddings_address as u32, (embeddings_address >> 32) as u32], [9; 2], [9; 2], [9; 2]];
        let batch = Buffer::of(&[batch.concat(), vec![rows.len() as u32, num_items as u32]].concat());
        let (row_buffer, item_buffer) = (Buffer::of(rows), Buffer::of(&items));
        let sizes = [states.len() - 1, width, outputs, stride, stride, self.tokens].map(|size| size as u32);
        let params = match run.form {
            Form::Portable => {
                let buffers = [&batch, &row_buffer, &states[0], &weight, &bias];
                let params = buffers.into_iter().fold(Params::new(), Params::buffer);
                let params = sizes.into_iter().fold(params, Params::u32);
                let hidden = states[1..].iter().map(Buffer::address).chain(std::iter::repeat(0));
                hidden.take(MAX_HIDDEN_STATES).fold(params, Params::u64)
            }
            Form::Hopper => {
                let state_rows = self.states[0].len() / width;
                let states = states.iter().map(|state| Mapped::Input(state, [state_rows, width, stride]));
                let mut maps: Vec<Mapped> = states.chain([Mapped::Nothing; 8]).take(8).collect();
                maps.push(Mapped::Weights(&weight, self.states.len(), [outputs, width, stride]));
                let params = run.params(&maps).buffer(&batch).buffer(&item_buffer).buffer(&bias);
                [sizes[0] + 1, sizes[1], sizes[2], sizes[5]].into_iter().fold(params, Params::u32)
            }
        };
        let row_tiles = if run.form == Form::Hopper { 128 * num_items } else { rows.len() };
        run.launch("projection", "projection", dtype, [row_tiles, outputs], &params);
        let found = embeddings.read::<u16>();
        assert!(found[..offset].iter().all(|bits| *bits == 0xffff), "elements before the embeddings were written");
        found[offset..].to_vec()
    }
}

#[test]
fn projection_reads_states_where_they_lie_and_writes_all_copies() {
    for (num_hidden, width, outputs, tokens) in [(0, 33, 7, 5), (2, 72, 33, 17), (5, 160, 96, 40), (1, 96, 264, 70)] {
        for (dtype, form) in variants() {
            let what = format!("{num_hidden} {width} {outputs} {dtype:?} {form:?}");
            let mut draw = Draw((width * outputs) as u64);
            let num_states = 1 + num_hidden;
            let states: Vec<Vec<f32>> = (0..num_states).map(|_| draw.stream(4 * tokens, width, dtype)).collect();
            let weight = draw.elements(num_states * outputs * width, 0.1, dtype);
            let bias = draw.elements(outputs, 1.0, dtype);
            // Tiles 2, 0 and 1 of the sequence, the second of them three times; tile 4 of the embeddings stays poison.
            let tiles = [(2, 0, 1), (0, 1, 3), (1, 5, 1)];
            let rows: Vec<ProjectedRow> = tiles
                .into_iter()
                .flat_map(|(tile, place, copies)| {
                    (0..tokens).map(move |token| {
                        let [head, hidden] = [tile * tokens + token, (3 - tile) * tokens + token];
                        [head, hidden, place * tokens + token, copies].map(|number| number as u32)
                    })
                })
                .collect();
            let op = Projection { width, outputs, tokens, dtype, states, weight, bias, places: 6 * tokens };
            let found = op.run(form.run(), 0, &rows);

            let (mut results, mut expected) = (Vec::new(), Vec::new());
            let mut untouched = found.clone();
            for [head, hidden, output, copies] in rows.iter().map(|row| row.map(|number| number as usize)) {
                let mut sums = wide(&op.bias);
                let weights = op.weight.chunks_exact(outputs * width);
                for (number, (state, weight)) in op.states.iter().zip(weights).enumerate() {
                    let row = if number == 0 { head } else { hidden };
                    let part = product(&wide(&state[row * width..][..width]), &wide(weight), width);
                    sums.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
                }
                for copy in 0..copies {
                    let start = (output + copy * tokens) * outputs;
                    results.extend_from_slice(&found[start..start + outputs]);
                    expected.extend_from_slice(&sums);
                    untouched[start..start + outputs].fill(0xffff);
                }
            }
            assert_close(&results, &expected, dtype, SUM_NOISE, &what);
            assert!(untouched.iter().all(|bits| *bits == 0xffff), "{what}: a place that is no row's was written");
            assert_runs_agree(form, &found, outputs, |other| op.run(other, 0, &rows));
            assert!(op.run(form.run(), 1, &rows) == found, "{what}: unaligned embeddings have other bits");
            let cut = rows.len() / 3;
            let [first, rest] = [&rows[..cut], &rows[cut..]].map(|rows| op.run(form.run(), 0, rows));
            let alone = first.iter().zip(&rest).map(|(x, y)| x & y);
            assert!(alone.eq(found.iter().copied()), "{what}: a row's bits depend on the rows beside it");
        }
    }
}

#[test]
fn nothing_runs_for_no_rows() {
    let num_rows = Buffer::of(&[0u32]);
    let output = Buffer::poisoned::<u16>(64);
    for run in FORMS.into_iter().flat_map(Form::runs) {
        let params = run.params(&[Mapped::Output(&output, [8, 8, 8]); 3]);
        let params = params.buffer(&num_rows).null().null().buffer(&output).u32(8).u32(8).u32(8).u32(8).u32(8);
        Run { spare: 700, ..run }.launch("patch_embedding", "patch_embedding", Dtype::Bf16, [0, 8], &params);
    }
    assert!(output.read::<u16>().iter().all(|bits| *bits == 0xffff));
}
