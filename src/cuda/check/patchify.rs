//! `patchify`: pixels are moved and rounded, nothing else.

use super::linear::{batch_of_pixels, stride};
use super::{Bench, Case, Draw, Finding, relative_error, rounding_error};
use crate::cuda::abi;
use crate::cuda::ops::{Array, DeviceBatch, Patchify};
use crate::dtype::Dtype;
use crate::error::CudaError;

/// Channels, tile size, patch size: the published model's, pixels left over, odd patches, a patch that is the tile.
const SHAPES: [[usize; 3]; 4] = [[3, 560, 14], [3, 31, 7], [1, 11, 5], [2, 6, 6]];

/// Where each tile's pixels are.
const SOURCES: [i32; 3] = [2, -1, 0];

pub(super) fn cases(dtype: Dtype) -> Vec<Case> {
    let case = |(shape, pixels): ([usize; 3], Dtype)| Case {
        kernel: "patchify",
        shape: format!("{}×{}×{1} in patches of {}, a tile of zeros, {pixels} pixels", shape[0], shape[1], shape[2]),
        run: Box::new(move |bench| run(bench, dtype, shape, pixels)),
    };
    let types = [Dtype::F32, Dtype::Bf16, Dtype::F16];
    SHAPES.into_iter().flat_map(|shape| types.map(|pixels| (shape, pixels))).map(case).collect()
}

fn run(bench: &Bench, dtype: Dtype, shape: [usize; 3], pixels_type: Dtype) -> Result<Finding, CudaError> {
    let [channels, tile_size, patch_size] = shape;
    let (grid, width) = (tile_size / patch_size, channels * patch_size * patch_size);
    let rows = SOURCES.len() * grid * grid;
    let values = Draw::new(tile_size as u64).normal(3 * channels * tile_size * tile_size, 1.0, pixels_type);
    let pixels = bench.upload(&pixels_type.narrowed(&values))?;
    let sources = SOURCES.map(|pixels| abi::TileSource { pixels, block: -1 });
    let tiles = bench.upload(&sources)?;
    let patches = bench.output(rows, width, stride(width), dtype)?;
    let batch = batch_of_pixels(bench, rows, pixels.address(), pixels_type)?;
    let op = Patchify {
        batch: DeviceBatch::new(&batch, 0),
        tiles: Array::new(&tiles, 0, SOURCES.len()),
        patches: patches.view(),
        channels,
        tile_size,
        patch_size,
    };
    op.launch(&bench.launcher())?;

    let element = |(row, column): (usize, usize)| {
        let (tile, patch) = (row / (grid * grid), row % (grid * grid));
        let (channel, within) = (column / (patch_size * patch_size), column % (patch_size * patch_size));
        let [y, x] = [patch / grid * patch_size + within / patch_size, patch % grid * patch_size + within % patch_size];
        let source = usize::try_from(SOURCES[tile]).ok();
        source.map_or(0.0, |source| values[((source * channels + channel) * tile_size + y) * tile_size + x])
    };
    let places = (0..rows).flat_map(|row| (0..width).map(move |column| (row, column)));
    let expected: Vec<f64> = places.map(|place| f64::from(element(place))).collect();
    let error = relative_error(&bench.result(&patches, rows)?, &expected);
    Ok(Finding { error, limit: rounding_error(&expected, dtype) })
}
