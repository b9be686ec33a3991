//! From pixels to the residual stream, and from the transformer to the gated layers: everything that knows about tiles.

use std::ops::Range;

use pulp::Arch;
use rayon::prelude::*;

use super::norm::Normalise;
use crate::checkpoint::{TokenPositions, VisionWeights, tanh};
use crate::config::EncoderConfig;
use crate::plan::{ComputedTile, SequenceLayout};

/// Cuts an image's computed tiles into patches, `[tiles·P, channels·p·p]`: patch (r, c) holds, channel by channel, the
/// pixels of rows `r·p..` and columns `c·p..`. `pixels` is `[tiles of the input, channels, s, s]`.
pub(super) fn patchify(config: &EncoderConfig, tiles: &[ComputedTile], pixels: &[f32], patches: &mut [f32]) {
    let (side, patch, per_side) = (config.tile_size, config.patch_size, config.patches_per_side());
    let band_len = per_side * config.patch_len();
    patches.par_chunks_mut(band_len).enumerate().for_each(|(band, patches)| {
        let (tile, band) = (band / per_side, band % per_side);
        let Some(source) = tiles[tile].source else { return patches.fill(0.0) };
        let pixels = &pixels[source * config.tile_len()..][..config.tile_len()];
        for (column, values) in patches.chunks_exact_mut(config.patch_len()).enumerate() {
            for (line, values) in values.chunks_exact_mut(patch).enumerate() {
                let (channel, y) = (line / patch, line % patch);
                let start = (channel * side + band * patch + y) * side + column * patch;
                values.copy_from_slice(&pixels[start..start + patch]);
            }
        }
    });
}

/// Puts an image's tokens together, `[rows, C]`: patches with their pre-tile embedding, class tokens, positions, and
/// the norm before the transformer; then its alignment rows, zeros that no norm has met.
///
/// Semantics: torchtune's `VisionTransformer.forward` up to `ln_pre`; Meta's `VisionEncoder.forward`.
pub(super) fn tile_position(
    config: &EncoderConfig,
    weights: &VisionWeights,
    image: &SequenceLayout,
    embedded: &[f32],
    stream: &mut [f32],
) {
    let (width, tokens) = (config.clip_embed_dim, config.num_tokens());
    let tables = weights.tables.as_ref();
    let (pre_gate, position_gate) = tables.map_or((0.0, 0.0), |t| (tanh(t.gates[0]), tanh(t.gates[1])));
    let (tile_rows, alignment) = stream.split_at_mut(image.tiles.len() * tokens * width);
    alignment.fill(0.0);
    tile_rows.par_chunks_mut(width).enumerate().for_each_init(
        || vec![0.0; width],
        |added, (row, token)| {
            let (tile, row) = (row / tokens, row % tokens);
            let block = tables.zip(image.tiles[tile].block);
            if row == 0 {
                token.copy_from_slice(&weights.class_embedding);
            } else {
                let patch = tile * config.num_patches() + row - 1;
                token.copy_from_slice(&embedded[patch * width..(patch + 1) * width]);
                if let Some((tables, block)) = block {
                    tables.pre_tile.widen_into(block * width..(block + 1) * width, added);
                    add_scaled(token, added, pre_gate);
                }
            }
            match &weights.token_positions {
                TokenPositions::Plain(positions) => add_scaled(token, &positions[row * width..(row + 1) * width], 1.0),
                TokenPositions::Gated { local } => {
                    add_scaled(token, &local[row * width..(row + 1) * width], 1.0 - position_gate);
                    if let Some((tables, block)) = block {
                        let start = (block * tokens + row) * width;
                        tables.global.widen_into(start..start + width, added);
                        add_scaled(token, added, position_gate);
                    }
                }
            }
            Arch::new().dispatch(Normalise { rows: token, norm: &weights.layernorm_pre });
        },
    );
}

/// The norm after the transformer and the post-tile embedding, from the transformer's rows (`stream`) to the gated
/// layers' (`head`), where alignment rows stand apart tile by tile.
///
/// Semantics: the end of torchtune's `VisionTransformer.forward`; Meta's `VisionEncoder.forward`.
pub(super) fn tile_norm(
    config: &EncoderConfig,
    weights: &VisionWeights,
    image: &SequenceLayout,
    stream: &[f32],
    head: &mut [f32],
) {
    let (width, tokens) = (config.clip_embed_dim, config.num_tokens());
    let tables = weights.tables.as_ref();
    let gate = tables.map_or(0.0, |t| tanh(t.gates[2]));
    let num_tile_rows = image.tiles.len() * tokens;
    // For each alignment row of the gated layers, the row it comes from and the block it meets. The transformer keeps
    // either as many of them or a single one for all.
    let alignment: Vec<(usize, Option<usize>)> = image
        .alignment
        .iter()
        .flat_map(|rows| std::iter::repeat_n(rows.block, rows.rows))
        .enumerate()
        .map(|(k, block)| ((num_tile_rows + k).min(image.transformer.len - 1), block))
        .collect();
    head.par_chunks_mut(width).enumerate().for_each_init(
        || vec![0.0; width],
        |added, (row, token)| {
            let (source, block) = match row.checked_sub(num_tile_rows) {
                Some(k) => alignment[k],
                None => (row, image.tiles[row / tokens].block),
            };
            token.copy_from_slice(&stream[source * width..(source + 1) * width]);
            Arch::new().dispatch(Normalise { rows: token, norm: &weights.layernorm_post });
            if let Some((tables, block)) = tables.zip(block) {
                tables.post_tile.widen_into(block * width..(block + 1) * width, added);
                add_scaled(token, added, gate);
            }
        },
    );
}

/// `row += scale · added`.
fn add_scaled(row: &mut [f32], added: &[f32], scale: f32) {
    row.iter_mut().zip(added).for_each(|(x, a)| *x += scale * a);
}

/// Where each image's rows lie in a batch, from the number of rows of each.
pub(super) fn ranges(lens: impl Iterator<Item = usize>) -> Vec<Range<usize>> {
    let mut end = 0;
    lens.map(|len| {
        end += len;
        end - len..end
    })
    .collect()
}
