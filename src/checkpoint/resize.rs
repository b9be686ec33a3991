//! Position tables of another size, made to fit as torchtune's `load_state_dict` does it: bilinear with corners
//! aligned (`torchtune/modules/model_fusion` and `torchtune/models/clip/_position_embeddings.py`, the
//! `_load_state_dict_hook` of each embedding).

use super::names::{GLOBAL_POSITIONS, LOCAL_POSITIONS};
use super::tensor::Tensor;
use crate::config::EncoderConfig;
use crate::error::CheckpointError;

/// Whether a stored table of `shape` is one that can be brought to `config`'s size; an error where it is a table, but
/// has no grid.
pub(super) fn check(
    stored_name: &str,
    tune: &str,
    shape: &[usize],
    config: &EncoderConfig,
) -> Result<bool, CheckpointError> {
    let refuse = |reason: String| CheckpointError::Resize { tensor: stored_name.to_string(), reason };
    let (tokens, width) = match *shape {
        [tokens, width] if tune == LOCAL_POSITIONS => (tokens, width),
        [rows, columns, tokens, width] if tune != LOCAL_POSITIONS => {
            if rows != columns || rows == 0 {
                return Err(refuse(format!("its tiles must form a square, found {rows}x{columns}")));
            }
            (tokens, width)
        }
        _ => return Ok(false),
    };
    let has_tokens = [LOCAL_POSITIONS, GLOBAL_POSITIONS].contains(&tune);
    if width != config.clip_embed_dim || !has_tokens && tokens != 1 {
        return Ok(false);
    }
    if has_tokens && (tokens < 2 || (tokens - 1).isqrt().pow(2) != tokens - 1) {
        return Err(refuse(format!(
            "its tokens after the first must form a square, found {}",
            tokens.saturating_sub(1)
        )));
    }
    Ok(true)
}

/// Brings a table that passed [`check`] to `config`'s size; untouched, to the bit, where it fits already.
///
/// # Errors
/// [`CheckpointError::Resize`] where there is no memory for a table of `config`'s size, which is the configuration's
/// word alone: no file has to hold it.
pub(super) fn resize(
    stored_name: &str,
    tune: &str,
    tensor: Tensor,
    config: &EncoderConfig,
) -> Result<Tensor, CheckpointError> {
    let (tiles, side, width) = (config.max_num_tiles, config.patches_per_side(), config.clip_embed_dim);
    let tokens = config.num_tokens();
    let expected = match tune {
        LOCAL_POSITIONS => vec![tokens, width],
        GLOBAL_POSITIONS => vec![tiles, tiles, tokens, width],
        _ => vec![tiles, tiles, 1, width],
    };
    if tensor.shape() == expected {
        return Ok(tensor);
    }
    // The grid, perhaps once more in another order, and the result in its own type.
    let bytes = expected.iter().fold(3 * size_of::<f32>(), |bytes, size| bytes.saturating_mul(*size));
    if Vec::<u8>::new().try_reserve_exact(bytes).is_err() {
        let reason = format!("a table of shape {expected:?} needs {bytes} bytes of memory, which could not be had");
        return Err(CheckpointError::Resize { tensor: stored_name.to_string(), reason });
    }
    let wide = tensor.to_f32();
    let resized = match *tensor.shape() {
        [old_tokens, _] => {
            let mut all = wide[..width].to_vec();
            all.extend(bilinear(&wide[width..], (old_tokens - 1).isqrt(), side, width));
            all
        }
        [old_tiles, _, 1, _] if tune != GLOBAL_POSITIONS => bilinear(&wide, old_tiles, tiles, width),
        [old_tiles, _, old_tokens, _] => global(&wide, [old_tiles, old_tokens], tiles, side, width),
        _ => return Ok(tensor),
    };
    // The result takes the stored type, as torch's interpolation of a half-precision table does.
    Ok(Tensor::owned(tensor.dtype(), expected, tensor.dtype().narrowed(&resized)))
}

/// The global table: class tokens over the grid of tiles, patches over the one canvas that all tiles form.
fn global(old: &[f32], [old_tiles, old_tokens]: [usize; 2], tiles: usize, side: usize, width: usize) -> Vec<f32> {
    let old_side = (old_tokens - 1).isqrt();
    let token = |tile: usize, token: usize| {
        let start = (tile * old_tokens + token) * width;
        &old[start..start + width]
    };
    let class: Vec<f32> = (0..old_tiles * old_tiles).flat_map(|tile| token(tile, 0)).copied().collect();
    let class = bilinear(&class, old_tiles, tiles, width);
    let old_canvas = old_tiles * old_side;
    let patches: Vec<f32> = (0..old_canvas * old_canvas)
        .flat_map(|cell| {
            let (y, x) = (cell / old_canvas, cell % old_canvas);
            let tile = y / old_side * old_tiles + x / old_side;
            token(tile, 1 + y % old_side * old_side + x % old_side)
        })
        .copied()
        .collect();
    let canvas = tiles * side;
    let patches = bilinear(&patches, old_canvas, canvas, width);
    let mut out = Vec::with_capacity(tiles * tiles * (side * side + 1) * width);
    for tile in 0..tiles * tiles {
        out.extend_from_slice(&class[tile * width..(tile + 1) * width]);
        for y in 0..side {
            let row = (tile / tiles * side + y) * canvas + tile % tiles * side;
            out.extend_from_slice(&patches[row * width..(row + side) * width]);
        }
    }
    out
}

/// Resizes a square grid of vectors, `[old, old, width]` to `[new, new, width]`, bilinear with corners aligned.
fn bilinear(grid: &[f32], old: usize, new: usize, width: usize) -> Vec<f32> {
    // torch computes the step in the accumulation type, f32; so do we, for the same rounding of the weights.
    let step = if new > 1 { (old - 1) as f32 / (new - 1) as f32 } else { 0.0 };
    let source = |i: usize| {
        let position = step * i as f32;
        let low = (position as usize).min(old - 1);
        (low, (low + 1).min(old - 1), position - low as f32)
    };
    let mut out = Vec::with_capacity(new * new * width);
    for y in 0..new {
        let (top, bottom, down) = source(y);
        for x in 0..new {
            let (left, right, across) = source(x);
            let cell = |y: usize, x: usize, e: usize| grid[(y * old + x) * width + e];
            out.extend((0..width).map(|e| {
                let above = (1.0 - across) * cell(top, left, e) + across * cell(top, right, e);
                let below = (1.0 - across) * cell(bottom, left, e) + across * cell(bottom, right, e);
                (1.0 - down) * above + down * below
            }));
        }
    }
    out
}
