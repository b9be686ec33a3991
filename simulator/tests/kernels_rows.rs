//! The kernels that go along rows, and those that run at load, against float64.

mod elements;

use elements::{DTYPES, Draw, Dtype, assert_close, matrix, matrix_f32, rows_of};
use tilesight_simulator::machine::testing::{Buffer, Kernel, Params};

/// Fewer than a lane holds, no multiple of a vector, one group of moments and one more, more than a warp holds.
const WIDTHS: [usize; 7] = [3, 33, 72, 128, 129, 260, 640];
const EPS: f64 = 1e-5;

fn stride(width: usize) -> usize {
    width.next_multiple_of(8) + 8
}

/// Runs an entry on one block more than `rows` rows ask for.
fn run(kernel: &str, dtype: Dtype, rows: usize, seed: u64, params: &Params) {
    let grid = [rows.div_ceil(8) as u32 + 1, 1, 1];
    Kernel::named(&format!("{kernel}_{}", dtype.name())).grid(grid).block([256, 1, 1]).seed(seed).run(params).unwrap();
}

/// The head of a batch descriptor.
#[derive(Default)]
struct Batch {
    pixels: u64,
    embeddings: u64,
    num_patches: u32,
    num_rows: [u32; 2],
    num_projected_rows: u32,
}

impl Batch {
    fn upload(&self) -> Buffer {
        let absurd = 0xffff_ffff;
        let address = |address: u64| [address as u32, (address >> 32) as u32];
        let ([a, b], [c, d], [e, f]) = (address(self.pixels), address(self.embeddings), self.num_rows);
        // Pixels are in f32.
        let stored_f32 = 0;
        Buffer::of(&[
            a,
            b,
            c,
            d,
            absurd,
            self.num_patches,
            e,
            f,
            absurd,
            absurd,
            self.num_projected_rows,
            absurd,
            stored_f32,
            absurd,
        ])
    }
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|value| f64::from(*value)).collect()
}

/// The norm of one row.
fn norm(row: &[f64], weight: &[f32], bias: &[f32]) -> Vec<f64> {
    let len = row.len() as f64;
    let mean = row.iter().sum::<f64>() / len;
    let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / len;
    let parameters = weight.iter().zip(bias).map(|(w, b)| (f64::from(*w), f64::from(*b)));
    row.iter().zip(parameters).map(|(x, (w, b))| (x - mean) / (variance + EPS).sqrt() * w + b).collect()
}

/// Holds moments against those of the rounded rows that they belong to.
fn check_moments(moments: &Buffer, bits: &[u16], width: usize, dtype: Dtype) {
    let values: Vec<f32> = bits.iter().map(|bits| dtype.value(*bits)).collect();
    let groups = values.chunks_exact(width).flat_map(|row| row.chunks(128));
    let moments = moments.read::<[f32; 2]>();
    assert_eq!(moments.len(), groups.clone().count());
    for (group, [mean, squares]) in groups.zip(moments) {
        let group = wide(group);
        let expected = group.iter().sum::<f64>() / group.len() as f64;
        let deviations: f64 = group.iter().map(|x| (x - expected).powi(2)).sum();
        let scale = group.iter().map(|x| x.abs()).fold(0.0, f64::max);
        assert!((f64::from(mean) - expected).abs() <= 1e-6 * scale, "mean {mean} for {expected}");
        let slack = 1e-5 * deviations + 1e-12 * scale * scale;
        assert!((f64::from(squares) - deviations).abs() <= slack, "squares {squares} for {deviations}");
    }
}

#[test]
fn patches_are_cut_out() {
    for (dtype, [channels, side, patch]) in DTYPES
        .into_iter()
        .flat_map(|dtype| [[3, 28, 14], [1, 11, 5], [3, 15, 7], [2, 6, 6]].map(|shape| (dtype, shape)))
    {
        let grid = side / patch;
        let sources = [2, -1, 0];
        let mut draw = Draw(side as u64);
        let pixels: Vec<f32> = (0..3 * channels * side * side).map(|_| draw.normal()).collect();
        let mut expected = Vec::new();
        for source in sources {
            for (row, column) in (0..grid * grid).map(|number| (number / grid, number % grid)) {
                for index in 0..channels * patch * patch {
                    let (channel, y, x) = (index / (patch * patch), index / patch % patch, index % patch);
                    let place = (channel * side + row * patch + y) * side + column * patch + x;
                    let value = usize::try_from(source)
                        .map_or(0.0, |source: usize| pixels[source * channels * side * side + place]);
                    expected.push(dtype.bits(value));
                }
            }
        }
        let (width, rows) = (channels * patch * patch, 3 * grid * grid);
        let pixels = Buffer::of(&pixels);
        let batch = Batch { pixels: pixels.address(), num_patches: rows as u32, ..Batch::default() }.upload();
        let tiles = Buffer::of(&sources.map(|source| [source, 0]));
        let patches = Buffer::poisoned::<u16>((rows + 2) * stride(width));
        let params = Params::new().buffer(&batch).buffer(&tiles).buffer(&patches);
        let params =
            [stride(width), channels, side, patch, grid].iter().fold(params, |params, n| params.u32(*n as u32));
        run("patchify", dtype, rows, 1, &params);
        assert_eq!(rows_of(&patches, rows, width, stride(width)), expected, "{channels} {side} {patch}");
    }
}

#[test]
fn tokens_find_their_positions() {
    let cases = DTYPES.into_iter().flat_map(|dtype| WIDTHS.map(|width| (dtype, width)));
    for ((dtype, width), has_tables) in cases.flat_map(|case| [(case, true), (case, false)]) {
        let (tokens, blocks) = (5, 3);
        let tile_blocks = [2, -1, 0];
        let mut draw = Draw(width as u64);
        let patches = draw.stream(3 * (tokens - 1), width, dtype);
        let [pre_tile, local, global] = [blocks, tokens, blocks * tokens].map(|n| draw.elements(n * width, 1.0, dtype));
        let [class, weight, bias] = [0; 3].map(|_| draw.elements(width, 1.0, dtype));
        let (pre_gate, gate) = if has_tables { (-0.7, 0.4) } else { (0.0, 0.0) };
        // Two images, each with alignment rows after its tiles.
        let tile_rows = |tile: i32| (0..tokens as i32).map(move |token| [tile, token]);
        let mut rows: Vec<[i32; 2]> = tile_rows(0).chain(tile_rows(1)).collect();
        rows.extend([[-1, 0]; 3]);
        rows.extend(tile_rows(2));
        rows.push([-1, 0]);
        let mut expected = Vec::new();
        for [tile, token] in rows.iter().copied() {
            let Ok(tile) = usize::try_from(tile) else {
                expected.extend(vec![0.0; width]);
                continue;
            };
            let token = token as usize;
            let block = usize::try_from(tile_blocks[tile]).ok().filter(|_| has_tables);
            let at = |values: &[f32], row: usize| wide(&values[row * width..(row + 1) * width]);
            let mut sum = if token == 0 { wide(&class) } else { at(&patches, tile * (tokens - 1) + token - 1) };
            let mut add = |added: Vec<f64>, scale: f64| sum.iter_mut().zip(added).for_each(|(x, a)| *x += scale * a);
            add(at(&local, token), 1.0 - f64::from(gate));
            if let Some(block) = block {
                add(at(&global, block * tokens + token), f64::from(gate));
                if token > 0 {
                    add(at(&pre_tile, block), f64::from(pre_gate));
                }
            }
            expected.extend(norm(&sum, &weight, &bias));
        }
        let batch = Batch { num_rows: [rows.len() as u32, 999], ..Batch::default() }.upload();
        let tiles = Buffer::of(&tile_blocks.map(|block| [0, block]));
        let token_rows = Buffer::of(&rows);
        let patches = matrix(&patches, width, stride(width), 1, dtype);
        let gapless = |values: &[f32]| matrix(values, width, width, 0, dtype);
        let (pre_tile, local, global) = (gapless(&pre_tile), gapless(&local), gapless(&global));
        let (class, weight, bias) = (Buffer::of(&class), Buffer::of(&weight), Buffer::of(&bias));
        let output = Buffer::poisoned::<u16>((rows.len() + 1) * stride(width));
        let moments = Buffer::poisoned::<[f32; 2]>(rows.len() * width.div_ceil(128));
        let table = |params: Params, table: &Buffer| if has_tables { params.buffer(table) } else { params.null() };
        let params = Params::new().buffer(&batch).buffer(&tiles).buffer(&token_rows).buffer(&patches);
        let params = table(table(params, &pre_tile).buffer(&local), &global);
        let params = params.buffer(&class).buffer(&weight).buffer(&bias).buffer(&output).buffer(&moments);
        let params = params.f32(pre_gate).f32(gate).u32(width as u32);
        let params = params.u32(stride(width) as u32).u32(stride(width) as u32).u32(tokens as u32);
        run("tile_position", dtype, rows.len(), 2, &params);
        let bits = rows_of(&output, rows.len(), width, stride(width));
        assert_close(&bits, &expected, dtype, 1e-6, &format!("{dtype:?} {width}"));
        check_moments(&moments, &bits, width, dtype);
    }
}

#[test]
fn tiles_are_normed_on_their_way_to_the_gated_layers() {
    let cases = DTYPES.into_iter().flat_map(|dtype| WIDTHS.map(|width| (dtype, width)));
    for ((dtype, width), has_table) in cases.flat_map(|case| [(case, true), (case, false)]) {
        let mut draw = Draw(width as u64);
        let input = draw.stream(11, width, dtype);
        let post_tile = draw.elements(3 * width, 1.0, dtype);
        let [weight, bias] = [0; 2].map(|_| draw.elements(width, 1.0, dtype));
        // One row is continued twice, one not at all.
        let rows = [[0, 2], [1, -1], [4, 0], [4, 1], [9, -1], [10, 0], [3, 2], [2, 1], [8, 0], [7, 1]];
        let mut expected = Vec::new();
        for [source, block] in rows {
            let source = source as usize;
            let mut row = norm(&wide(&input[source * width..(source + 1) * width]), &weight, &bias);
            if let Some(block) = usize::try_from(block).ok().filter(|_| has_table) {
                let added = &post_tile[block * width..(block + 1) * width];
                row.iter_mut().zip(added).for_each(|(x, a)| *x += f64::from(0.6f32) * f64::from(*a));
            }
            expected.extend(row);
        }
        let batch = Batch { num_rows: [999, rows.len() as u32], ..Batch::default() }.upload();
        let global_rows = Buffer::of(&rows);
        let input = matrix(&input, width, stride(width), 0, dtype);
        let post_tile = matrix(&post_tile, width, width, 0, dtype);
        let (weight, bias) = (Buffer::of(&weight), Buffer::of(&bias));
        let output = Buffer::poisoned::<u16>((rows.len() + 1) * stride(width));
        let moments = Buffer::poisoned::<[f32; 2]>(rows.len() * width.div_ceil(128));
        let params = Params::new().buffer(&batch).buffer(&global_rows).buffer(&input);
        let params = if has_table { params.buffer(&post_tile) } else { params.null() };
        let params = params.buffer(&weight).buffer(&bias).buffer(&output);
        // Without tables, nobody reads the moments either.
        let params = if has_table { params.buffer(&moments) } else { params.null() };
        run("tile_norm", dtype, rows.len(), 3, &params.f32(0.6).u32(width as u32).u32(stride(width) as u32));
        let bits = rows_of(&output, rows.len(), width, stride(width));
        assert_close(&bits, &expected, dtype, 1e-6, &format!("{dtype:?} {width}"));
        if has_table {
            check_moments(&moments, &bits, width, dtype);
        }
    }
}

#[test]
fn rows_are_normed() {
    for (dtype, width) in DTYPES.into_iter().flat_map(|dtype| WIDTHS.map(|width| (dtype, width))) {
        let mut draw = Draw(width as u64);
        let mut input = draw.stream(19, width, dtype);
        // Off centre by hundreds of deviations: a difference of large sums has few digits left there. (By thousands, even
        // the mean's own rounding in f32 shows.)
        input[..width].iter_mut().for_each(|x| *x = dtype.round(*x / 16.0 + 100.0));
        let [weight, bias] = [0; 2].map(|_| draw.elements(width, 1.0, dtype));
        let expected: Vec<f64> = input.chunks_exact(width).flat_map(|row| norm(&wide(row), &weight, &bias)).collect();
        let num_rows = Buffer::of(&[19u32]);
        let input = matrix(&input, width, stride(width), 3, dtype);
        let (weight, bias) = (Buffer::of(&weight), Buffer::of(&bias));
        let output = Buffer::poisoned::<u16>(22 * stride(width));
        let params = Params::new().buffer(&num_rows).buffer(&input).buffer(&weight).buffer(&bias).buffer(&output);
        run("layer_norm", dtype, 19, 4, &params.u32(width as u32).u32(stride(width) as u32));
        let bits = rows_of(&output, 19, width, stride(width));
        assert_close(&bits, &expected, dtype, 1e-6, &format!("{dtype:?} {width}"));
    }
}

/// x Phi(x), the tail by its continued fraction.
fn gelu(x: f64) -> f64 {
    let a = x.abs() / std::f64::consts::SQRT_2;
    let tail = if a < 2.0 {
        // erf by its series.
        let (mut term, mut sum) = (a, a);
        for n in 1..200 {
            term *= -a * a / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        1.0 - sum * std::f64::consts::FRAC_2_SQRT_PI
    } else {
        let fraction = (1..400).rev().fold(a, |fraction, n| a + f64::from(n) / 2.0 / fraction);
        (-a * a).exp() / fraction / std::f64::consts::PI.sqrt()
    };
    0.5 * x * if x < 0.0 { tail } else { 2.0 - tail }
}

#[test]
fn products_meet_bias_and_activation() {
    for (dtype, width) in DTYPES.into_iter().flat_map(|dtype| WIDTHS.map(|width| (dtype, width))) {
        for (has_bias, has_gelu) in [(true, true), (true, false), (false, true), (false, false)] {
            let mut draw = Draw(width as u64);
            let product: Vec<f32> = (0..9 * width).map(|_| 2.0 * draw.normal()).collect();
            let bias: Vec<f32> = (0..width).map(|_| draw.normal()).collect();
            let value = |(index, x): (usize, &f32)| {
                let sum = f64::from(*x) + if has_bias { f64::from(bias[index % width]) } else { 0.0 };
                if has_gelu { gelu(sum) } else { sum }
            };
            let expected: Vec<f64> = product.iter().enumerate().map(value).collect();
            let num_rows = Buffer::of(&[9u32]);
            let product = matrix_f32(&product, width, stride(width));
            let bias = Buffer::of(&bias);
            let output = Buffer::poisoned::<u16>(11 * (stride(width) + 8));
            let params = Params::new().buffer(&num_rows).buffer(&product);
            let params = if has_bias { params.buffer(&bias) } else { params.null() };
            let params = params.buffer(&output).u32(width as u32).u32(stride(width) as u32);
            run("bias_activation", dtype, 9, 5, &params.u32(stride(width) as u32 + 8).u32(has_gelu.into()));
            let bits = rows_of(&output, 9, width, stride(width) + 8);
            assert_close(&bits, &expected, dtype, 1e-6, &format!("{dtype:?} {width} {has_bias} {has_gelu}"));
        }
    }
}

#[test]
fn products_are_gated_and_added() {
    for (dtype, width) in DTYPES.into_iter().flat_map(|dtype| WIDTHS.map(|width| (dtype, width))) {
        for in_place in [false, true] {
            let mut draw = Draw(width as u64);
            let product: Vec<f32> = (0..9 * width).map(|_| draw.normal()).collect();
            let bias: Vec<f32> = (0..width).map(|_| draw.normal()).collect();
            let residual = draw.stream(9, width, dtype);
            let gate = -0.3f32;
            let branch = |index: usize| f64::from(product[index]) + f64::from(bias[index % width]);
            let sum = |(index, x): (usize, &f32)| f64::from(*x) + f64::from(gate) * branch(index);
            let expected: Vec<f64> = residual.iter().enumerate().map(sum).collect();
            let num_rows = Buffer::of(&[9u32]);
            let product = matrix_f32(&product, width, stride(width) + 8);
            let bias = Buffer::of(&bias);
            let residual = matrix(&residual, width, stride(width), 2, dtype);
            let separate = Buffer::poisoned::<u16>(11 * stride(width));
            let output = if in_place { &residual } else { &separate };
            let params =
                Params::new().buffer(&num_rows).buffer(&product).buffer(&bias).buffer(&residual).buffer(output);
            let params = params.f32(gate).u32(width as u32).u32(stride(width) as u32 + 8).u32(stride(width) as u32);
            run("gated_residual", dtype, 9, 6, &params);
            let bits = rows_of(output, 9, width, stride(width));
            assert_close(&bits, &expected, dtype, 1e-6, &format!("{dtype:?} {width}"));
        }
    }
}

/// Rows of a projection: head, hidden, output, copies, with 3 tokens a tile.
const PROJECTED: [[u32; 4]; 6] = [[5, 2, 0, 2], [6, 3, 1, 2], [7, 4, 2, 2], [0, 9, 6, 1], [1, 8, 7, 1], [2, 7, 8, 1]];

#[test]
fn rows_are_gathered() {
    for (dtype, width) in DTYPES.into_iter().flat_map(|dtype| WIDTHS.map(|width| (dtype, width))) {
        for hidden in [0, 1] {
            let input = Draw(width as u64).stream(10, width, dtype);
            let row = |row: &[u32; 4]| &input[row[hidden] as usize * width..][..width];
            let expected: Vec<u16> = PROJECTED.iter().flat_map(row).map(|value| dtype.bits(*value)).collect();
            let batch = Batch { num_projected_rows: 6, ..Batch::default() }.upload();
            let rows = Buffer::of(&PROJECTED);
            let input = matrix(&input, width, stride(width), 0, dtype);
            let output = Buffer::poisoned::<u16>(8 * stride(width));
            let params = Params::new().buffer(&batch).buffer(&rows).buffer(&input).buffer(&output);
            run("gather_rows", dtype, 6, 7, &params.u32(width as u32).u32(stride(width) as u32).u32(hidden as u32));
            assert_eq!(rows_of(&output, 6, width, stride(width)), expected);
        }
    }
}

#[test]
fn embeddings_go_to_all_their_places() {
    for (dtype, width) in DTYPES.into_iter().flat_map(|dtype| WIDTHS.map(|width| (dtype, width))) {
        let mut draw = Draw(width as u64);
        let product: Vec<f32> = (0..6 * width).map(|_| draw.normal()).collect();
        let bias: Vec<f32> = (0..width).map(|_| draw.normal()).collect();
        let mut expected = vec![f64::NAN; 9 * width];
        for ([_, _, output, copies], row) in PROJECTED.into_iter().zip(product.chunks_exact(width)) {
            for place in (0..copies).map(|copy| (output + 3 * copy) as usize) {
                let sum = row.iter().zip(&bias).map(|(x, b)| f64::from(*x) + f64::from(*b));
                expected[place * width..(place + 1) * width].iter_mut().zip(sum).for_each(|(e, sum)| *e = sum);
            }
        }
        let embeddings = Buffer::poisoned::<u16>(9 * width);
        let batch = Batch { embeddings: embeddings.address(), num_projected_rows: 6, ..Batch::default() }.upload();
        let rows = Buffer::of(&PROJECTED);
        let product = matrix_f32(&product, width, stride(width));
        let bias = Buffer::of(&bias);
        let params = Params::new().buffer(&batch).buffer(&rows).buffer(&product).buffer(&bias);
        run("scatter_embeddings", dtype, 6, 8, &params.u32(width as u32).u32(stride(width) as u32).u32(3));
        let bits = rows_of(&embeddings, 9, width, width);
        assert_close(&bits, &expected, dtype, 1e-7, &format!("{dtype:?} {width}"));
    }
}

/// A stored matrix: its number in the contract, its memory, its values.
fn stored(kind: u32, values: &[f32]) -> (Buffer, Vec<f32>) {
    match kind {
        0 => (Buffer::of(values), values.to_vec()),
        _ => {
            let dtype = if kind == 1 { Dtype::Bf16 } else { Dtype::Fp16 };
            let bits: Vec<u16> = values.iter().map(|value| dtype.bits(*value)).collect();
            (Buffer::of(&bits), values.iter().map(|value| dtype.round(*value)).collect())
        }
    }
}

/// What lies at a place of rows or columns in groups of `len` that are `stride` apart.
fn at(place: usize, [len, stride]: [usize; 2], count: usize) -> Option<usize> {
    let number = place / stride * len + place % stride;
    (place % stride < len && number < count).then_some(number)
}

#[test]
fn weights_are_placed_and_norms_folded() {
    for (dtype, kind) in DTYPES.into_iter().flat_map(|dtype| [0, 1, 2].map(|kind| (dtype, kind))) {
        let shapes =
            [(10, 33, [5, 16], true), (6, 40, [6, 6], true), (9, 300, [3, 8], false), (160, 1280, [80, 80], true)];
        for (rows, columns, row_groups, fold) in shapes {
            let mut draw = Draw(columns as u64);
            let values: Vec<f32> = (0..rows * columns).map(|_| draw.normal() + 0.3).collect();
            let (input, values) = stored(kind, &values);
            let [norm_weight, norm_bias] = [0; 2].map(|_| draw.elements(columns, 1.0, dtype));
            let bias = draw.elements(rows, 1.0, dtype);
            let padded = rows / row_groups[0] * row_groups[1];
            let (mut expected, mut folded) = (Vec::new(), Vec::new());
            for row in (0..padded).map(|place| at(place, row_groups, rows)) {
                let Some(row) = row else {
                    expected.extend(vec![0.0; columns]);
                    folded.push([0.0; 2]);
                    continue;
                };
                let stored = &values[row * columns..(row + 1) * columns];
                let scaled: Vec<f64> =
                    stored.iter().zip(&norm_weight).map(|(x, w)| f64::from(*x) * f64::from(*w)).collect();
                let mean = scaled.iter().sum::<f64>() / columns as f64;
                expected.extend(scaled.iter().map(|x| x - mean));
                let products = stored.iter().zip(&norm_bias).map(|(x, b)| f64::from(*x) * f64::from(*b));
                folded.push(sum(products.chain(fold.then(|| f64::from(bias[row])))));
            }
            let weight = Buffer::poisoned::<u16>((padded + 1) * stride(columns));
            let (norm_weight, norm_bias, bias) = (Buffer::of(&norm_weight), Buffer::of(&norm_bias), Buffer::of(&bias));
            let count = Buffer::of(&[0u32]);
            let params = Params::new().buffer(&input).buffer(&weight).buffer(&norm_weight).buffer(&count).u32(kind);
            let numbers =
                [rows, columns, columns, 0, 1, stride(columns), row_groups[0], row_groups[1], columns, columns, 1];
            run("place_weight", dtype, padded, 9, &numbers.iter().fold(params, |params, n| params.u32(*n as u32)));
            let bits = rows_of(&weight, padded, columns, stride(columns));
            assert_close(&bits, &expected, dtype, 1e-6, "a folded weight");
            assert_eq!(count.read::<u32>(), [0]);
            let (folded_bias, column_sum) = (Buffer::poisoned::<f32>(padded), Buffer::poisoned::<f32>(padded));
            let params = Params::new().buffer(&input).buffer(&weight).buffer(&norm_bias);
            let params = if fold { params.buffer(&bias) } else { params.null() };
            let params = params.buffer(&folded_bias).buffer(&column_sum).u32(kind);
            let numbers = [rows, columns, columns, stride(columns), row_groups[0], row_groups[1]];
            run("fold_norm", dtype, padded, 10, &numbers.iter().fold(params, |params, n| params.u32(*n as u32)));
            let sums = bits.chunks_exact(columns).map(|row| sum(row.iter().map(|bits| f64::from(dtype.value(*bits)))));
            assert_sums(&column_sum.read(), &sums.collect::<Vec<_>>());
            assert_sums(&folded_bias.read(), &folded);
        }
    }
}

/// A sum in float64, and that of the magnitudes.
fn sum(terms: impl Iterator<Item = f64>) -> [f64; 2] {
    terms.fold([0.0; 2], |[sum, magnitude], x| [sum + x, magnitude + x.abs()])
}

/// Holds sums against what f32 can know of them. A centred row's own sum is next to nothing beside its terms.
fn assert_sums(found: &[f32], expected: &[[f64; 2]]) {
    assert_eq!(found.len(), expected.len());
    for (found, [sum, magnitude]) in found.iter().zip(expected) {
        assert!((f64::from(*found) - sum).abs() <= 2e-7 * magnitude, "{found} for {sum} of {magnitude}");
    }
}

#[test]
fn columns_are_taken_apart_and_padded() {
    for dtype in DTYPES {
        // Every third column from the second on, in groups of two that lie five apart; no norm, not centred.
        let (rows, width, columns) = (4, 20, 6);
        let values: Vec<f32> = (0..rows * width).map(|value| value as f32).collect();
        let input = Buffer::of(&values);
        let output = Buffer::poisoned::<u16>(rows * 24);
        let count = Buffer::of(&[0u32]);
        let params = Params::new().buffer(&input).buffer(&output).null().buffer(&count).u32(0);
        let numbers = [rows, columns, width, 2, 3, 24, rows, rows, 2, 5, 0];
        run("place_weight", dtype, rows, 11, &numbers.iter().fold(params, |params, n| params.u32(*n as u32)));
        let element = |row: usize, place: usize| {
            at(place, [2, 5], columns).map_or(0.0, |column| values[row * width + 2 + 3 * column])
        };
        let expected: Vec<u16> = (0..rows)
            .flat_map(|row| (0..15).map(move |place| (row, place)))
            .map(|(row, place)| dtype.bits(element(row, place)))
            .collect();
        assert_eq!(rows_of(&output, rows, 15, 24), expected);
    }
}

#[test]
fn elements_that_overflow_are_counted() {
    let values = [1.0f32, 70000.0, -1e6, f32::NAN, f32::INFINITY, 65504.0];
    for (dtype, expected) in [(Dtype::Bf16, 2), (Dtype::Fp16, 4)] {
        let (input, output, count) = (Buffer::of(&values), Buffer::poisoned::<u16>(8), Buffer::of(&[5u32]));
        let params = Params::new().buffer(&input).buffer(&output).null().buffer(&count).u32(0);
        let numbers = [1, 6, 6, 0, 1, 8, 1, 1, 6, 6, 0];
        run("place_weight", dtype, 1, 12, &numbers.iter().fold(params, |params, n| params.u32(*n)));
        assert_eq!(count.read::<u32>(), [5 + expected]);
    }
}
