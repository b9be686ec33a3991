//! The Hopper form of the matrix kernels (`kernels/sm90/gemm.cuh`): its tilings, the maps of its operands, its launches.
//!
//! A tiling shows in the time and in nothing else: both give the same bits.

use super::super::gemm::GemmShape;
use super::super::rows::number;
use super::super::{Kernel, Launcher, Matrix};
use crate::cuda::abi;
use crate::cuda::driver::{Swizzle, Tiled};
use crate::error::CudaError;

const ROWS: usize = abi::HOPPER_GEMM_ROWS as usize;
const DEPTH: usize = abi::HOPPER_GEMM_DEPTH as usize;
const PANEL: usize = abi::HOPPER_GEMM_PANEL as usize;

/// States that `projection` reads at most, the head among them.
pub(in super::super) const STATES: usize = abi::HOPPER_PROJECTION_STATES as usize;

/// A tiling, `Tiling` in the kernels.
#[derive(Debug)]
struct Tiling {
    suffix: &'static str,
    columns: usize,
    /// Time of an element and a column of K, in percent of the larger tile's. Predicted from the traffic of L2, 48 and 64
    /// bytes a clock; not measured.
    cost: usize,
    /// What starting a block's first tile and finishing its last take, in columns of K of a tile: some 1500 clocks until
    /// the first slab is there, as many to finish half of the larger tile. Predicted, not measured.
    exposed: usize,
}

const TILINGS: [Tiling; 2] = [
    Tiling { suffix: "_128x256", columns: 256, cost: 100, exposed: 190 },
    Tiling { suffix: "_128x128", columns: 128, cost: 112, exposed: 280 },
];

/// Their names, as `super::tilings` gives them.
pub(in super::super) const NAMES: [&str; TILINGS.len()] = ["128x256", "128x128"];

/// An operation's kernels, one a tiling.
pub(in super::super) type GemmKernels = [Kernel; TILINGS.len()];

/// The kernels `name` of `file`.
pub(in super::super) const fn kernels(file: &'static str, name: &'static str) -> GemmKernels {
    const fn kernel(file: &'static str, name: &'static str, tiling: &Tiling) -> Kernel {
        let (block, shared_bytes) = (abi::HOPPER_GEMM_THREADS, abi::HOPPER_GEMM_SHARED_BYTES);
        Kernel { file, name, suffix: tiling.suffix, block, shared_bytes }
    }
    let [large, small] = &TILINGS;
    [kernel(file, name, large), kernel(file, name, small)]
}

/// A product in this form: the kernels that can do it, its row tiles at most, and the tiling that is taken.
#[derive(Debug)]
pub(in super::super) struct Product<'a> {
    kernels: &'static GemmKernels,
    tiling: usize,
    row_tiles: usize,
    shape: GemmShape,
    on: &'a Launcher<'a>,
}

impl<'a> Product<'a> {
    /// One whose row tiles are of `shape`'s rows.
    pub(in super::super) fn new(kernels: &'static GemmKernels, shape: GemmShape, on: &'a Launcher<'a>) -> Self {
        Self::of_row_tiles(kernels, shape.rows.div_ceil(ROWS), shape, on)
    }

    /// One of so many row tiles.
    pub(in super::super) fn of_row_tiles(
        kernels: &'static GemmKernels,
        row_tiles: usize,
        shape: GemmShape,
        on: &'a Launcher<'a>,
    ) -> Self {
        let tiling = on.tiling().unwrap_or_else(|| fastest(row_tiles, shape, num_multiprocessors(on)));
        Self { kernels, tiling, row_tiles, shape, on }
    }

    /// The map of a matrix whose rows are multiplied.
    pub(in super::super) fn input(&self, matrix: &Matrix) -> Result<abi::TensorMap, CudaError> {
        self.map(matrix, [DEPTH, ROWS])
    }

    /// The map of the weight.
    pub(in super::super) fn weight(&self, matrix: &Matrix) -> Result<abi::TensorMap, CudaError> {
        self.map(matrix, [DEPTH, TILINGS[self.tiling].columns])
    }

    /// The map of a weight of `depth` matrices one after another.
    pub(in super::super) fn weights(&self, matrix: &Matrix, depth: usize) -> Result<abi::TensorMap, CudaError> {
        let rows = matrix.rows / depth;
        let tensor = Tiled {
            address: matrix.address,
            dtype: matrix.dtype,
            extents: [matrix.width, rows, depth],
            strides: [1, matrix.stride, rows * matrix.stride],
            boxes: [DEPTH, TILINGS[self.tiling].columns, 1],
            swizzle: Swizzle::Bytes128,
        };
        tensor.encode()
    }

    /// The map of a matrix that goes through panels.
    pub(in super::super) fn panels(&self, matrix: &Matrix) -> Result<abi::TensorMap, CudaError> {
        self.map(matrix, [PANEL, PANEL])
    }

    fn map(&self, matrix: &Matrix, boxes: [usize; 2]) -> Result<abi::TensorMap, CudaError> {
        let tensor = Tiled {
            address: matrix.address,
            dtype: matrix.dtype,
            extents: [matrix.width, matrix.rows],
            strides: [1, matrix.stride],
            boxes,
            swizzle: Swizzle::Bytes128,
        };
        tensor.encode()
    }

    /// # Safety
    /// As [`Launcher::launch`].
    pub(in super::super) unsafe fn launch<P>(&self, params: &P) -> Result<(), CudaError> {
        let tiles = self.row_tiles * self.shape.outputs.div_ceil(TILINGS[self.tiling].columns);
        let grid = [number(tiles).min(num_multiprocessors(self.on)), 1, 1];
        // SAFETY: the caller's promise.
        unsafe { self.on.launch(&self.kernels[self.tiling], grid, params) }
    }
}

fn num_multiprocessors(on: &Launcher) -> u32 {
    on.stream().context().model().num_multiprocessors
}

/// The number of the tiling that a product takes where nothing was measured.
pub(in super::super) fn predicted(shape: GemmShape, num_multiprocessors: u32) -> usize {
    fastest(shape.rows.div_ceil(ROWS), shape, num_multiprocessors)
}

/// The number of the tiling that takes the least time: the multiprocessor with most tiles decides.
fn fastest(row_tiles: usize, shape: GemmShape, num_multiprocessors: u32) -> usize {
    let time = |tiling: &Tiling| {
        let tiles = row_tiles * shape.outputs.div_ceil(tiling.columns);
        let turns = tiles.div_ceil(num_multiprocessors as usize);
        (turns * shape.inputs + tiling.exposed) * tiling.columns * tiling.cost
    };
    let [large, small] = TILINGS.each_ref().map(time);
    usize::from(small < large)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_follow_from_waves() {
        let suffix = |rows: usize, inputs, outputs| {
            TILINGS[fastest(rows.div_ceil(ROWS), GemmShape { rows, inputs, outputs }, 132)].suffix
        };
        assert_eq!(suffix(6404, 1280, 3840), "_128x256", "765 tiles, six turns of which 97 % are full");
        assert_eq!(suffix(1601, 1280, 1280), "_128x128", "65 of the larger would leave half idle");
        assert_eq!(suffix(1, 1280, 1280), "_128x128");
        assert_eq!(suffix(64 * 1601, 5120, 1280), "_128x256", "many turns: the tile with the least traffic");
    }
}
