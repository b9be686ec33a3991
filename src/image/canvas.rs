//! How many tiles a picture gets and what size it is resized to, from its sides alone.

use crate::error::{ImageError, Result};
use crate::image::preprocess::Preprocess;

/// What is done with a picture of some size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Canvas {
    /// The canvas in tiles: tiles down, tiles across.
    pub aspect_ratio: [usize; 2],
    /// The resized picture's height and width in pixels; it lies in the canvas' top left corner.
    pub resized: [usize; 2],
}

impl Canvas {
    /// Tiles of the canvas.
    pub fn num_tiles(&self) -> usize {
        self.aspect_ratio[0] * self.aspect_ratio[1]
    }
}

/// The canvas for a picture of `width` by `height` pixels: of at most `max_num_tiles` tiles of side `tile_size`, the
/// one that needs the least enlarging or, if all are too small, the least shrinking.
///
/// Takes the time of a binary search, whatever the sizes.
///
/// Reference: <https://github.com/meta-pytorch/torchtune/blob/v0.6.1/torchtune/modules/transforms/vision_utils/get_canvas_best_fit.py#L17>
/// and <https://github.com/huggingface/transformers/blob/v4.53.3/src/transformers/models/mllama/image_processing_mllama.py#L134>.
///
/// # Errors
/// [`ImageError::Empty`], and [`ImageError::TooNarrow`] where a side would shrink to 0 pixels: torchtune fails then,
/// Hugging Face ([`Preprocess::Pil`]) makes it 1.
pub fn choose_canvas(
    width: usize,
    height: usize,
    tile_size: usize,
    max_num_tiles: usize,
    preprocess: Preprocess,
) -> Result<Canvas> {
    if width == 0 || height == 0 {
        return Err(ImageError::Empty { width: width as u64, height: height as u64 }.into());
    }
    let aspect_ratio = choose_aspect_ratio(width, height, tile_size, max_num_tiles, preprocess);
    let [canvas_height, canvas_width] = aspect_ratio.map(|tiles| tiles * tile_size);

    // A picture is enlarged up to a tile's side, never to fill the canvas.
    let target_height = height.max(tile_size).min(canvas_height);
    let target_width = width.max(tile_size).min(canvas_width);
    let scale_height = target_height as f64 / height as f64;
    let scale_width = target_width as f64 / width as f64;
    let mut resized = if scale_width < scale_height {
        [((height as f64 * scale_width).floor() as usize).min(target_height), target_width]
    } else {
        [target_height, ((width as f64 * scale_height).floor() as usize).min(target_width)]
    };
    if resized.contains(&0) {
        match preprocess {
            Preprocess::Pil => resized = resized.map(|side| side.max(1)),
            Preprocess::Torchtune | Preprocess::TorchtuneBf16 => {
                return Err(ImageError::TooNarrow { width, height, canvas_width, canvas_height }.into());
            }
        }
    }
    Ok(Canvas { aspect_ratio, resized })
}

/// Tiles down and across.
///
/// The scale of a canvas is the smaller of what its height and its width allow, and each grows with its own side. The
/// references take the smallest scale of at least 1, else the largest, and of the canvases with that scale the one of
/// the smallest area. So once the scale is known, height and width are each the smallest that reach it. No tie is
/// left, and nothing need be enumerated.
fn choose_aspect_ratio(
    width: usize,
    height: usize,
    tile_size: usize,
    max_num_tiles: usize,
    preprocess: Preprocess,
) -> [usize; 2] {
    let scale_of = |tiles: usize, side: usize| match preprocess {
        // torchtune divides in float32, which for very long sides makes different scales equal.
        Preprocess::Torchtune | Preprocess::TorchtuneBf16 => f64::from((tiles * tile_size) as f32 / side as f32),
        Preprocess::Pil => (tiles * tile_size) as f64 / side as f64,
    };
    let fewest = |side: usize, scale: f64| first_where(1, max_num_tiles, |tiles| scale_of(tiles, side) >= scale);

    let [down, across] = [fewest(height, 1.0), fewest(width, 1.0)];
    if down.saturating_mul(across) <= max_num_tiles {
        return [down, across];
    }
    // Along the rows of canvases the height's scale rises and that of the widest width falls: the best is where they
    // cross, or just before.
    let widest = |down: usize| scale_of(max_num_tiles / down, width);
    let crossing = first_where(1, max_num_tiles, |down| scale_of(down, height) >= widest(down));
    let best_scale = [crossing - 1, crossing]
        .into_iter()
        .filter(|down| (1..=max_num_tiles).contains(down))
        .map(|down| scale_of(down, height).min(widest(down)))
        .fold(0.0, f64::max);
    [fewest(height, best_scale), fewest(width, best_scale)]
}

/// The first number in `first..=last` from which on `reached` holds; `last + 1` if it never does.
fn first_where(first: usize, last: usize, reached: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (first, last + 1);
    while low < high {
        let middle = low + (high - low) / 2;
        if reached(middle) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    low
}
