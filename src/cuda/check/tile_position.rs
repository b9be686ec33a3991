//! `tile_position` against float64: two images with alignment rows, tiles with and without a block.

use super::layer_norm::{WIDTHS, norm};
use super::linear::{LUCK, SUM_NOISE, batch_of, moments_are_right, stride, wide};
use super::{Bench, Case, Draw, Finding, relative_error, rounding_error};
use crate::cuda::abi;
use crate::cuda::ops::{Array, DeviceBatch, TilePosition};
use crate::dtype::Dtype;
use crate::error::CudaError;

const TOKENS: usize = 5;
const BLOCKS: usize = 3;

/// The block of each tile.
const TILES: [i32; 3] = [2, -1, 0];

/// Two images: two tiles and three alignment rows, a tile and one alignment row.
const IMAGES: [(std::ops::Range<i32>, usize); 2] = [(0..2, 3), (2..3, 1)];

pub(super) fn cases(dtype: Dtype) -> Vec<Case> {
    let case = |(width, has_tables): (usize, bool)| Case {
        kernel: "tile_position",
        shape: format!("19×{width}{}", if has_tables { "" } else { ", without tables" }),
        run: Box::new(move |bench| Tokens::draw(width, has_tables, dtype).run(bench)),
    };
    WIDTHS.into_iter().flat_map(|width| [(width, true), (width, false)]).map(case).collect()
}

/// Tokens and what is added to them.
struct Tokens {
    width: usize,
    has_tables: bool,
    dtype: Dtype,
    rows: Vec<abi::TokenRow>,
    patches: Vec<f32>,
    pre_tile: Vec<f32>,
    local: Vec<f32>,
    global: Vec<f32>,
    /// Class embedding, the norm's weight and bias.
    vectors: [Vec<f32>; 3],
    /// Of the pre-tile and of the global table.
    gates: [f32; 2],
}

impl Tokens {
    fn draw(width: usize, has_tables: bool, dtype: Dtype) -> Self {
        let mut draw = Draw::new(width as u64);
        let mut rows = Vec::new();
        for (tiles, num_alignment) in IMAGES {
            let tokens = |tile| (0..TOKENS as u32).map(move |token| abi::TokenRow { tile, token });
            rows.extend(tiles.flat_map(tokens));
            rows.extend(std::iter::repeat_n(abi::TokenRow { tile: -1, token: 0 }, num_alignment));
        }
        Self {
            width,
            has_tables,
            dtype,
            rows,
            patches: draw.stream(TILES.len() * (TOKENS - 1), width, 5, dtype),
            pre_tile: draw.normal(BLOCKS * width, 1.0, dtype),
            local: draw.normal(TOKENS * width, 1.0, dtype),
            global: draw.normal(BLOCKS * TOKENS * width, 1.0, dtype),
            vectors: [0; 3].map(|_| draw.normal(width, 1.0, Dtype::F32)),
            gates: if has_tables { [-0.7, 0.4] } else { [0.0; 2] },
        }
    }

    fn run(&self, bench: &Bench) -> Result<Finding, CudaError> {
        let (width, rows, dtype) = (self.width, self.rows.len(), self.dtype);
        let patches = bench.matrix(&self.patches, width, stride(width), dtype)?;
        let gapless = |values: &[f32]| bench.matrix(values, width, width, dtype);
        let (pre_tile, local, global) = (gapless(&self.pre_tile)?, gapless(&self.local)?, gapless(&self.global)?);
        let [class, weight, bias] = &self.vectors;
        let (class, weight, bias) = (bench.upload(class)?, bench.upload(weight)?, bench.upload(bias)?);
        let output = bench.output(rows, width, stride(width), dtype)?;
        let num_groups = rows * width.div_ceil(abi::MOMENTS_COLUMNS as usize);
        let groups = bench.poisoned::<[f32; 2]>(num_groups)?;
        let tiles = bench.upload(&TILES.map(|block| abi::TileSource { pixels: -1, block }))?;
        let token_rows = bench.upload(&self.rows)?;
        let batch = batch_of(bench, rows, 0)?;
        let op = TilePosition {
            batch: DeviceBatch::new(&batch, 0),
            tiles: Array::new(&tiles, 0, TILES.len()),
            rows: Array::new(&token_rows, 0, rows),
            patches: patches.view(),
            pre_tile: self.has_tables.then(|| pre_tile.values()),
            local: local.values(),
            global: self.has_tables.then(|| global.values()),
            class_embedding: Array::new(&class, 0, width),
            norm_weight: Array::new(&weight, 0, width),
            norm_bias: Array::new(&bias, 0, width),
            output: output.view(),
            moments: Some(Array::new(&groups, 0, num_groups)),
            pre_tile_gate: self.gates[0],
            global_gate: self.gates[1],
        };
        op.launch(&bench.launcher())?;

        let found = bench.result(&output, rows)?;
        let expected: Vec<f64> = self.rows.iter().flat_map(|row| self.expected(row)).collect();
        let right = moments_are_right(&bench.download(&groups)?, &found, width);
        let error = if right { relative_error(&found, &expected) } else { f64::NAN };
        Ok(Finding { error, limit: LUCK * rounding_error(&expected, dtype) + SUM_NOISE })
    }

    fn expected(&self, row: &abi::TokenRow) -> Vec<f64> {
        let Ok(tile) = usize::try_from(row.tile) else { return vec![0.0; self.width] };
        let token = row.token as usize;
        let block = usize::try_from(TILES[tile]).ok().filter(|_| self.has_tables);
        let at = |values: &[f32], row: usize| wide(&values[row * self.width..(row + 1) * self.width]);
        let [class, weight, bias] = &self.vectors;
        let [pre_tile_gate, global_gate] = self.gates.map(f64::from);
        let patch = || at(&self.patches, tile * (TOKENS - 1) + token - 1);
        let mut sum = if token == 0 { wide(class) } else { patch() };
        let mut add = |added: Vec<f64>, scale: f64| sum.iter_mut().zip(added).for_each(|(x, a)| *x += scale * a);
        add(at(&self.local, token), 1.0 - global_gate);
        if let Some(block) = block {
            add(at(&self.global, block * TOKENS + token), global_gate);
            if token > 0 {
                add(at(&self.pre_tile, block), pre_tile_gate);
            }
        }
        norm(&sum, weight, bias)
    }
}
