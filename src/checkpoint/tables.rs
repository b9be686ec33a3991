//! The position tables: what is added to a tile for where it lies in its image.
//!
//! torchtune and Meta keep one T×T grid of blocks; Hugging Face keeps T blocks for each aspect ratio, padding tiles
//! included, and a fine-tuned checkpoint need not agree with any grid. Both are flat lists of blocks, so a tile's
//! position is one number, the same in all three tables, and no cell of either form is lost.

use super::tensor::Tensor;
use crate::config::{EncoderConfig, aspect_ratios};

/// The tables before the transformer, inside the token positions, and after the transformer.
#[derive(Debug, Clone)]
pub struct PositionTables {
    /// `[blocks, C]`: added to a tile's patches before the class token exists.
    pub pre_tile: Tensor,
    /// `[blocks, N, C]`: added to a tile's tokens.
    pub global: Tensor,
    /// `[blocks, C]`: added to a tile's tokens, and to its alignment rows, after the transformer.
    pub post_tile: Tensor,
    /// Before tanh, of the three tables in this order.
    pub gates: [f32; 3],
    /// Which block a tile gets.
    pub blocks: TileBlocks,
}

/// Which block of the position tables a tile gets, the same in all three.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TileBlocks {
    form: Form,
    max_num_tiles: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Form {
    /// Block `row·T + column`.
    Grid,
    /// Block `id·T + tile`.
    PerAspectRatio,
}

impl PositionTables {
    /// Tables in stored shapes, pre-tile, global, post-tile, checked by the caller.
    pub(super) fn new(config: &EncoderConfig, per_aspect_ratio: bool, tables: [Tensor; 3], gates: [f32; 3]) -> Self {
        let (width, tokens, tiles) = (config.clip_embed_dim, config.num_tokens(), config.max_num_tiles);
        let rows = if per_aspect_ratio { config.aspect_ratios().count() + 1 } else { tiles };
        let [pre_tile, global, post_tile] = tables;
        Self {
            pre_tile: pre_tile.reshaped(vec![rows * tiles, width]),
            global: global.reshaped(vec![rows * tiles, tokens, width]),
            post_tile: post_tile.reshaped(vec![rows * tiles, width]),
            gates,
            blocks: if per_aspect_ratio { TileBlocks::per_aspect_ratio(tiles) } else { TileBlocks::grid(tiles) },
        }
    }

    /// Whether a tile at either place gets the same bits added to it, in all three tables.
    pub fn blocks_are_equal(&self, a: Option<usize>, b: Option<usize>) -> bool {
        match (a, b) {
            (Some(a), Some(b)) => {
                a == b
                    || [&self.pre_tile, &self.global, &self.post_tile].into_iter().all(|t| block(t, a) == block(t, b))
            }
            (a, b) => a == b,
        }
    }
}

impl TileBlocks {
    /// One T×T grid, as torchtune and Meta keep it.
    pub fn grid(max_num_tiles: usize) -> Self {
        Self { form: Form::Grid, max_num_tiles }
    }

    /// T blocks for each aspect ratio, as Hugging Face keeps them.
    pub fn per_aspect_ratio(max_num_tiles: usize) -> Self {
        Self { form: Form::PerAspectRatio, max_num_tiles }
    }

    /// The block of tile number `tile` of an image with `aspect_ratio` (tiles down, tiles across; `[0, 0]` is a
    /// missing image), or none where nothing is added. With `padding`, tiles past the aspect ratio get what the
    /// checkpoint holds for them, as Hugging Face's model adds it; without, nothing, as torchtune and Meta have it.
    ///
    /// A checkpoint with a table for each aspect ratio has none for more than T tiles; see
    /// [`has_aspect_ratio`](Self::has_aspect_ratio).
    pub fn block(&self, aspect_ratio: [usize; 2], tile: usize, padding: bool) -> Option<usize> {
        let [height, width] = aspect_ratio;
        let real = tile < height * width;
        match self.form {
            Form::Grid => real.then(|| tile / width * self.max_num_tiles + tile % width),
            Form::PerAspectRatio => (real || padding && tile < self.max_num_tiles)
                .then(|| self.id(aspect_ratio))
                .flatten()
                .map(|id| id * self.max_num_tiles + tile),
        }
    }

    /// Whether the tables know the aspect ratio.
    pub fn has_aspect_ratio(&self, aspect_ratio: [usize; 2]) -> bool {
        match self.form {
            Form::Grid => true,
            Form::PerAspectRatio => self.id(aspect_ratio).is_some(),
        }
    }

    /// Hugging Face's id of an aspect ratio; 0 is a missing image.
    fn id(&self, [height, width]: [usize; 2]) -> Option<usize> {
        if [height, width] == [0, 0] {
            return Some(0);
        }
        aspect_ratios(self.max_num_tiles).position(|grid| grid == (height, width)).map(|index| index + 1)
    }
}

/// A block's bytes.
fn block(table: &Tensor, index: usize) -> &[u8] {
    let len = table.bytes().len() / table.shape()[0];
    &table.bytes()[index * len..(index + 1) * len]
}
