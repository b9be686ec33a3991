//! Pixels to patches.

use super::rows::{number, row_grid, row_kernel};
use super::{Array, DeviceBatch, Kernel, Launcher, Matrix};
use crate::cuda::abi;
use crate::error::CudaError;

pub(super) static KERNEL: Kernel = row_kernel("patchify");

/// Cuts the batch' pixels into patches; tiles without a source are zeros.
pub(crate) struct Patchify<'m> {
    pub(crate) batch: DeviceBatch<'m>,
    pub(crate) tiles: Array<'m, abi::TileSource>,
    /// `[tiles·P, channels·p·p]`.
    pub(crate) patches: Matrix<'m>,
    pub(crate) channels: usize,
    pub(crate) tile_size: usize,
    pub(crate) patch_size: usize,
}

impl Patchify<'_> {
    /// Gives the launch to `on`'s stream.
    pub(crate) fn launch(&self, on: &Launcher) -> Result<(), CudaError> {
        let grid_size = self.tile_size / self.patch_size;
        let rows = self.tiles.len * grid_size * grid_size;
        self.patches.require("patches", rows, self.channels * self.patch_size * self.patch_size, on.dtype());
        let params = abi::PatchifyParams {
            batch: self.batch.pointer(),
            tiles: self.tiles.pointer(),
            patches: self.patches.pointer(),
            stride: number(self.patches.stride),
            channels: number(self.channels),
            tile_size: number(self.tile_size),
            patch_size: number(self.patch_size),
            grid_size: number(grid_size),
            __bindgen_padding_0: Default::default(),
        };
        // SAFETY: the params are this kernel's, and the views were checked above; tiles name tiles of the pixels, which
        // the descriptor's writer has counted.
        unsafe { on.launch(&KERNEL, row_grid(rows), &params) }
    }
}
