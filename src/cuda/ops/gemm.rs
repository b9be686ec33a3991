//! The tilings of the portable matrix kernels (`kernels/gemm.cuh`): what one costs, which one a launch takes, its grid.
//!
//! A tiling shows in the time and in nothing else: every one gives the same bits.

use super::rows::number;
use super::{Count, Kernel, Launcher, Matrix};
use crate::cuda::abi;
use crate::error::CudaError;

/// Row tiles that run side by side, so that they read a weight from L2 together.
const GROUP: usize = 8;

/// A tiling, `GemmTiling` in the kernels.
#[derive(Debug)]
struct Tiling {
    suffix: &'static str,
    rows: usize,
    columns: usize,
    threads: u32,
    /// Time of an element and a column of K, in percent of the largest tile's. Predicted from the traffic of shared memory
    /// and L2, not measured.
    cost: usize,
    /// What starting and finishing a tile takes, in columns of K; little where another block computes meanwhile.
    /// Predicted, not measured.
    exposed: usize,
}

const TILINGS: [Tiling; 3] = [
    Tiling { suffix: "_128x256", rows: 128, columns: 256, threads: 256, cost: 100, exposed: 300 },
    Tiling { suffix: "_128x128", rows: 128, columns: 128, threads: 128, cost: 115, exposed: 100 },
    Tiling { suffix: "_64x128", rows: 64, columns: 128, threads: 128, cost: 140, exposed: 100 },
];

/// Their names, in their order.
pub(super) const NAMES: [&str; TILINGS.len()] = ["128x256", "128x128", "64x128"];

/// An operation's kernels, one a tiling.
pub(super) type GemmKernels = [Kernel; TILINGS.len()];

/// The kernels `name`, whose shared memory holds `row_bytes` for each row of the tile besides the slabs.
pub(super) const fn kernels(file: &'static str, name: &'static str, row_bytes: usize) -> GemmKernels {
    const fn kernel(file: &'static str, name: &'static str, row_bytes: usize, tiling: &Tiling) -> Kernel {
        let Tiling { suffix, rows, columns, threads: block, .. } = *tiling;
        let stage_bytes = (rows + columns) * abi::GEMM_DEPTH as usize * size_of::<u16>();
        let shared_bytes = (stage_bytes * abi::GEMM_STAGES as usize + row_bytes * rows) as u32;
        Kernel { file, name, suffix, block, shared_bytes }
    }
    let [large, middle, small] = &TILINGS;
    [kernel(file, name, row_bytes, large), kernel(file, name, row_bytes, middle), kernel(file, name, row_bytes, small)]
}

/// A product's size, its rows those of the capacity.
#[derive(Debug, Clone, Copy)]
pub(super) struct GemmShape {
    pub(super) rows: usize,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
}

impl GemmShape {
    /// The number of the tiling that takes the least time: the multiprocessor with most tiles decides.
    pub(super) fn tiling(self, num_multiprocessors: u32) -> usize {
        let time = |tiling: &Tiling| {
            let tiles = self.rows.div_ceil(tiling.rows) * self.outputs.div_ceil(tiling.columns);
            let turns = tiles.div_ceil(num_multiprocessors as usize);
            turns * tiling.rows * tiling.columns * tiling.cost * (self.inputs + tiling.exposed)
        };
        let [large, middle, small] = TILINGS.each_ref().map(time);
        if large <= middle.min(small) {
            0
        } else if middle <= small {
            1
        } else {
            2
        }
    }

    /// Row tiles of a group, column tiles, groups.
    fn grid(self, tiling: &Tiling) -> [u32; 3] {
        let row_tiles = self.rows.div_ceil(tiling.rows);
        let groups = row_tiles.div_ceil(GROUP).max(1);
        [row_tiles.div_ceil(groups), self.outputs.div_ceil(tiling.columns), groups].map(number)
    }
}

/// Launches the one of `kernels` that suits the shape.
///
/// # Safety
/// As [`Launcher::launch`].
pub(super) unsafe fn launch<P>(
    kernels: &'static GemmKernels,
    shape: GemmShape,
    on: &Launcher,
    params: &P,
) -> Result<(), CudaError> {
    let predicted = || shape.tiling(on.stream().context().model().num_multiprocessors);
    let tiling = on.tiling().unwrap_or_else(predicted);
    // SAFETY: the caller's promise.
    unsafe { on.launch(&kernels[tiling], shape.grid(&TILINGS[tiling]), params) }
}

/// Checks the operands of `output = input · weightᵀ` against one another.
///
/// # Panics
/// Where they do not belong together.
pub(super) fn require_operands(
    on: &Launcher,
    num_rows: Count,
    input: &Matrix,
    weight: &Matrix,
    output: &Matrix,
) -> GemmShape {
    let shape = GemmShape { rows: num_rows.capacity, inputs: input.width, outputs: weight.rows };
    input.require("input", shape.rows, shape.inputs, on.dtype());
    weight.require("weight", shape.outputs, shape.inputs, on.dtype());
    output.require("output", shape.rows, shape.outputs, on.dtype());
    shape
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suffix(rows: usize, inputs: usize, outputs: usize, num_multiprocessors: u32) -> &'static str {
        TILINGS[GemmShape { rows, inputs, outputs }.tiling(num_multiprocessors)].suffix
    }

    #[test]
    fn tiles_are_as_small_as_it_takes_to_busy_all_multiprocessors() {
        assert_eq!(suffix(1601, 1280, 1280, 132), "_128x128", "130 tiles, one each");
        assert_eq!(suffix(1601, 1280, 1280, 108), "_64x128", "130 tiles would leave most with one of two turns");
        assert_eq!(suffix(1, 1280, 1280, 108), "_64x128");
        assert_eq!(suffix(64 * 1601, 5120, 1280, 132), "_128x256", "many turns: the tile with the least traffic");
    }

    #[test]
    fn grids_cover_every_tile_once_and_waste_less_than_a_group() {
        for rows in [1, 64, 65, 1601, 6404, 102_400] {
            for tiling in &TILINGS {
                let [in_group, column_tiles, groups] = GemmShape { rows, inputs: 8, outputs: 300 }.grid(tiling);
                let (row_tiles, covered) = (rows.div_ceil(tiling.rows), (in_group * groups) as usize);
                assert!(covered >= row_tiles && covered - row_tiles < groups as usize, "{rows} rows, {tiling:?}");
                assert!(in_group as usize <= GROUP);
                assert_eq!(column_tiles as usize, 300usize.div_ceil(tiling.columns));
            }
        }
    }
}
