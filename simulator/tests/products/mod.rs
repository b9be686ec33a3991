//! How tests launch the matrix kernels: their forms and tilings, and the maps that Hopper's take.

use tilesight_simulator::machine::testing::{Buffer, Kernel, Params, SEEDS};
use tilesight_simulator::machine::{Adversary, Landing, Swizzle, TensorMap, TiledTensor, entry_of};

use super::elements::Dtype;

/// A form of the kernels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Form {
    /// `kernels/gemm.cuh`.
    Portable,
    /// `kernels/sm90/gemm.cuh`.
    Hopper,
}

pub const FORMS: [Form; 2] = [Form::Portable, Form::Hopper];

/// A tiling of the kernels.
#[derive(Clone, Copy, Debug)]
struct Tile {
    rows: usize,
    columns: usize,
    threads: usize,
}

const TILES: [Tile; 3] = [
    Tile { rows: 128, columns: 256, threads: 256 },
    Tile { rows: 128, columns: 128, threads: 128 },
    Tile { rows: 64, columns: 128, threads: 128 },
];

const HOPPER_TILES: [Tile; 2] =
    [Tile { rows: 128, columns: 128, threads: 384 }, Tile { rows: 128, columns: 256, threads: 384 }];

/// `HOPPER_GEMM_SHARED_BYTES`.
const HOPPER_SHARED_BYTES: u32 = 229_504;

/// Columns of K in a slab of Hopper's, rows and columns of its panels.
const DEPTH: usize = 64;
const PANEL: usize = 64;

impl Form {
    fn tiles(self) -> &'static [Tile] {
        match self {
            Self::Portable => &TILES,
            Self::Hopper => &HOPPER_TILES,
        }
    }

    /// The run that others are held against.
    pub fn run(self) -> Run {
        Run { form: self, tile: TILES.len().min(self.tiles().len()) - 2, spare: 0, seed: 0, landing: Landing::Seeded }
    }

    /// Runs that all have to give one result: every tiling, every seed, more capacity than rows, copies and products that
    /// are done as late and as soon as they may.
    pub fn runs(self) -> impl Iterator<Item = Run> {
        let (run, num_tiles) = (self.run(), self.tiles().len());
        let tiles = (0..num_tiles).map(move |tile| Run { tile, ..run });
        let spare = (0..num_tiles).map(move |tile| Run { tile, spare: 300, seed: 11, ..run });
        let seeds = SEEDS.zip((0..num_tiles).cycle()).map(move |(seed, tile)| Run { tile, seed, ..run });
        let landings = [Landing::Late, Landing::AtIssue, Landing::Mixed];
        let landings = landings.into_iter().map(move |landing| Run { tile: num_tiles - 1, seed: 5, landing, ..run });
        tiles.chain(spare).chain(seeds).chain(landings)
    }
}

/// How a kernel is launched; none of it may show in its result.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    pub form: Form,
    /// Its number.
    pub tile: usize,
    /// Rows that the grid is made for, beyond those there are.
    pub spare: usize,
    pub seed: u64,
    pub landing: Landing,
}

/// A matrix that Hopper's form takes as a map: `[rows, width]`, rows `stride` apart; of several such, that lie one after
/// another, where there is a depth.
#[derive(Clone, Copy)]
pub enum Mapped<'a> {
    Input(&'a Buffer, [usize; 3]),
    Weight(&'a Buffer, [usize; 3]),
    Weights(&'a Buffer, usize, [usize; 3]),
    Output(&'a Buffer, [usize; 3]),
    Nothing,
}

impl Run {
    fn tile(self) -> Tile {
        self.form.tiles()[self.tile]
    }

    /// Params that start with the maps, in the form that has any.
    pub fn params(self, mapped: &[Mapped]) -> Params {
        match self.form {
            Form::Portable => Params::new(),
            Form::Hopper => mapped.iter().fold(Params::new(), |params, matrix| params.tensor_map(&self.map(matrix))),
        }
    }

    fn map(self, matrix: &Mapped) -> TensorMap {
        let columns = self.tile().columns;
        let (buffer, depth, [rows, width, stride], boxes) = match *matrix {
            Mapped::Input(buffer, shape) => (buffer, None, shape, [DEPTH, 128]),
            Mapped::Weight(buffer, shape) => (buffer, None, shape, [DEPTH, columns]),
            Mapped::Weights(buffer, depth, shape) => (buffer, Some(depth), shape, [DEPTH, columns]),
            Mapped::Output(buffer, shape) => (buffer, None, shape, [PANEL, 64]),
            Mapped::Nothing => return bytemuck::Zeroable::zeroed(),
        };
        let rank = if depth.is_some() { 3 } else { 2 };
        let extents = [width, rows, depth.unwrap_or(1)].map(|extent| extent as u64);
        let strides = [2 * stride, 2 * stride * rows].map(|stride| stride as u64);
        let boxes = [boxes[0], boxes[1], 1].map(|elements| elements as u32);
        let tensor = TiledTensor {
            address: buffer.address(),
            element_bytes: 2,
            extents: &extents[..rank],
            strides: &strides[..rank - 1],
            boxes: &boxes[..rank],
            swizzle: Swizzle::Bytes128,
        };
        TensorMap::tiled(&tensor).unwrap()
    }

    pub fn launch(self, kernel: &str, file: &str, dtype: Dtype, [rows, outputs]: [usize; 2], params: &Params) {
        let Tile { rows: tile_rows, columns, threads } = self.tile();
        let row_tiles = (rows + self.spare).div_ceil(tile_rows).max(1);
        let column_tiles = outputs.div_ceil(columns);
        let name = format!("{kernel}_{}_{tile_rows}x{columns}", dtype.name());
        let (module, grid, shared_bytes) = match self.form {
            // Groups of three, so that the last one has row tiles that do not exist.
            Form::Portable => (
                file.to_owned(),
                [row_tiles.min(3), column_tiles, row_tiles.div_ceil(3)],
                (4 * (tile_rows + columns) * 64 + tile_rows * 8) as u32,
            ),
            // Few blocks, so that each has several tiles.
            Form::Hopper => (
                format!("sm90/{file}"),
                [1 + self.seed as usize % (row_tiles * column_tiles), 1, 1],
                HOPPER_SHARED_BYTES,
            ),
        };
        let entry = entry_of(&module, &name).unwrap_or_else(|| panic!("no kernel of {module} has an entry {name}"));
        let kernel = Kernel::of(entry)
            .grid(grid.map(|blocks| blocks as u32))
            .block([threads as u32, 1, 1])
            .shared_bytes(shared_bytes)
            .seed(self.seed)
            .adversary(Adversary { landing: self.landing, ..Adversary::default() });
        let kernel = if self.form == Form::Hopper { kernel.programmatic() } else { kernel };
        kernel.run(params).unwrap_or_else(|fault| panic!("{name}, {rows} rows, {outputs} outputs, {self:?}: {fault}"));
    }
}
