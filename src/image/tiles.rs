//! A picture's tiles: resized, laid on its canvas, normalised and cut.

use std::path::Path;

use rayon::prelude::*;

use crate::config::EncoderConfig;
use crate::error::{Error, ImageError, InputError, Result};
use crate::image::canvas::{Canvas, choose_canvas};
use crate::image::picture::Image;
use crate::image::preprocess::Preprocess;
use crate::image::processor_config::ProcessorConfig;
use crate::image::resize::{resize_float32_until, resize_uint8_until};
use crate::interrupt::Interrupt;
use crate::memory;

/// The mean of each channel that Llama 3.2 Vision was trained with, which is CLIP's.
pub const CLIP_MEAN: [f32; 3] = [0.48145466, 0.4578275, 0.40821073];
/// The standard deviation of each channel that Llama 3.2 Vision was trained with, which is CLIP's.
#[expect(clippy::excessive_precision, reason = "the digits as they are published")]
pub const CLIP_STD: [f32; 3] = [0.26862954, 0.26130258, 0.27577711];

/// The tiles of one picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Tiles {
    /// Tiles down, tiles across.
    pub aspect_ratio: [usize; 2],
    /// Normalised values, `[tiles, 3, tile_size, tile_size]`; the tiles row by row, none of them padding.
    pub pixels: Vec<f32>,
}

impl Tiles {
    /// How many tiles there are.
    pub fn num_tiles(&self) -> usize {
        self.aspect_ratio[0].saturating_mul(self.aspect_ratio[1])
    }
}

/// Makes tiles of pictures, for one model and in the manner of one reference.
#[derive(Debug, Clone, PartialEq)]
pub struct Preprocessor {
    preprocess: Preprocess,
    tile_size: usize,
    max_num_tiles: usize,
    mean: [f32; 3],
    std: [f32; 3],
}

impl Preprocessor {
    /// A preprocessor for this encoder, with CLIP's mean and standard deviation.
    ///
    /// # Errors
    /// Every rule of [`EncoderConfig::validated`], and [`ImageError::Channels`] if the encoder does not take 3
    /// channels.
    pub fn new(config: &EncoderConfig, preprocess: Preprocess) -> Result<Self> {
        let config = config.clone().validated()?;
        if config.in_channels != 3 {
            return Err(ImageError::Channels { expected: config.in_channels }.into());
        }
        let EncoderConfig { tile_size, max_num_tiles, .. } = config;
        Ok(Self { preprocess, tile_size, max_num_tiles, mean: CLIP_MEAN, std: CLIP_STD })
    }

    /// The same with mean and standard deviation from a Hugging Face `preprocessor_config.json`.
    ///
    /// # Errors
    /// [`Error::Io`], [`ConfigError::Json`](crate::error::ConfigError::Json), and
    /// [`ConfigError::Unsupported`](crate::error::ConfigError::Unsupported) if the file asks for anything but bilinear
    /// resizing to this encoder's tiles, rescaling by 1/255 and normalising.
    pub fn with_config_file(self, path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
        let [mean, std] = ProcessorConfig::from_json(&text, path)?.mean_and_std(self.tile_size, self.max_num_tiles)?;
        Ok(Self { mean, std, ..self })
    }

    /// The reference that is followed.
    pub fn preprocess(&self) -> Preprocess {
        self.preprocess
    }

    /// Side of a tile in pixels.
    pub fn tile_size(&self) -> usize {
        self.tile_size
    }

    /// The most tiles a picture is cut into.
    pub fn max_num_tiles(&self) -> usize {
        self.max_num_tiles
    }

    /// What is subtracted from each channel's values in 0 to 1.
    pub fn mean(&self) -> [f32; 3] {
        self.mean
    }

    /// What each channel's values are then divided by.
    pub fn std(&self) -> [f32; 3] {
        self.std
    }

    /// The canvas for a picture of this size.
    ///
    /// # Errors
    /// As [`choose_canvas`].
    pub fn canvas(&self, width: usize, height: usize) -> Result<Canvas> {
        choose_canvas(width, height, self.tile_size, self.max_num_tiles, self.preprocess)
    }

    /// How many tiles a picture of this size gets.
    ///
    /// # Errors
    /// As [`choose_canvas`].
    pub fn num_tiles(&self, width: usize, height: usize) -> Result<usize> {
        Ok(self.canvas(width, height)?.num_tiles())
    }

    /// The tiles of a picture.
    ///
    /// Reference: <https://github.com/meta-pytorch/torchtune/blob/v0.6.1/torchtune/models/clip/_transform.py#L143> and
    /// <https://github.com/huggingface/transformers/blob/v4.53.3/src/transformers/models/mllama/image_processing_mllama.py#L601>.
    ///
    /// # Errors
    /// As [`choose_canvas`], and [`InputError::OutOfMemory`].
    pub fn tiles(&self, image: &Image) -> Result<Tiles> {
        self.tiles_until(image, Interrupt::NEVER)
    }

    /// [`tiles`](Self::tiles), which end within milliseconds once nobody waits for them.
    ///
    /// # Errors
    /// Those of [`tiles`](Self::tiles), and [`ImageError::Interrupted`].
    pub fn tiles_until(&self, image: &Image, interrupt: Interrupt) -> Result<Tiles> {
        let canvas = self.canvas(image.width(), image.height())?;
        let sizes = [[image.height(), image.width()], canvas.resized];
        let pixels = match self.preprocess {
            Preprocess::Torchtune => {
                let resized = resize_float32_until(image.rgb(), &unit_values(|value| value), sizes, interrupt)?;
                self.cut(&canvas, &resized, interrupt, |channel, value| {
                    (value - self.mean[channel]) / self.std[channel]
                })?
            }
            Preprocess::TorchtuneBf16 => {
                let [mean, std] = [self.mean, self.std].map(|values| values.map(round_to_bf16));
                let resized = resize_float32_until(image.rgb(), &unit_values(round_to_bf16), sizes, interrupt)?;
                self.cut(&canvas, &resized, interrupt, |channel, value| {
                    round_to_bf16(round_to_bf16(round_to_bf16(value) - mean[channel]) / std[channel])
                })?
            }
            Preprocess::Pil => {
                let values = self.normalized_levels();
                let resized = resize_uint8_until(&image.over_white_until(interrupt)?, sizes, interrupt)?;
                self.cut(&canvas, &resized, interrupt, |channel, level| values[channel][usize::from(level)])?
            }
        };
        Ok(Tiles { aspect_ratio: canvas.aspect_ratio, pixels })
    }

    /// The normalised value of each level in each channel, rounded where Hugging Face rounds: the level is scaled in
    /// float64 and normalised in float32.
    fn normalized_levels(&self) -> [[f32; 256]; 3] {
        std::array::from_fn(|channel| {
            std::array::from_fn(|level| {
                ((level as f64 * (1.0 / 255.0)) as f32 - self.mean[channel]) / self.std[channel]
            })
        })
    }

    /// Lays `resized`, `[height, width, 3]`, in the top left corner of a canvas of zeros, normalises every value, and
    /// cuts the canvas into `[tiles, 3, tile_size, tile_size]`.
    fn cut<T: Copy + Default + Sync>(
        &self,
        canvas: &Canvas,
        resized: &[T],
        interrupt: Interrupt,
        normalize: impl Fn(usize, T) -> f32 + Sync,
    ) -> Result<Vec<f32>> {
        let side = self.tile_size;
        let [height, width] = canvas.resized;
        let len = [3, side, side].iter().try_fold(canvas.num_tiles(), |len, &factor| len.checked_mul(factor));
        let mut pixels = memory::zeroed(len.ok_or(InputError::OutOfMemory { bytes: u64::MAX })?)?;
        pixels.par_chunks_mut(side).with_min_len(ROWS_PER_TASK).enumerate().try_for_each(|(row, values)| {
            interrupt.check()?;
            let (tile, channel) = (row / side / 3, row / side % 3);
            let y = tile / canvas.aspect_ratio[1] * side + row % side;
            let x = tile % canvas.aspect_ratio[1] * side;
            let filled = if y < height { width.saturating_sub(x).min(side) } else { 0 };
            let (picture, border) = values.split_at_mut(filled);
            if filled > 0 {
                let source = resized[(y * width + x) * 3..].as_chunks::<3>().0;
                for (value, pixel) in picture.iter_mut().zip(source) {
                    *value = normalize(channel, pixel[channel]);
                }
            }
            border.fill(normalize(channel, T::default()));
            Ok::<_, ImageError>(())
        })?;
        Ok(pixels)
    }
}

/// Rows of one tile that one thread takes at least.
const ROWS_PER_TASK: usize = 64;

/// The levels as values in 0 to 1, each rounded by `round`. torchvision multiplies by the reciprocal.
fn unit_values(round: impl Fn(f32) -> f32) -> [f32; 256] {
    std::array::from_fn(|level| round(level as f32 * (1.0 / 255.0)))
}

/// A finite value rounded to bfloat16, ties to even. `half` does the same, but not in vectors.
fn round_to_bf16(value: f32) -> f32 {
    let bits = value.to_bits();
    f32::from_bits(bits.wrapping_add(0x7fff + (bits >> 16 & 1)) & 0xffff_0000)
}
