//! Pixel tensors in, as torchtune's forward takes them.

use rayon::prelude::*;

use super::{Encoder, zeros};
use crate::config::EncoderConfig;
use crate::error::{Error, InputError, Result};
use crate::plan::{ImageShape, SequenceLayout};

/// Preprocessed tiles, as torchtune's and Hugging Face's models take them.
#[derive(Debug, Clone, Copy)]
pub struct Pixels<'a> {
    /// `[b, i, t, channels, s, s]`, f32, normalised: `t` tiles of `i` images of `b` samples, tiles row by row of an
    /// image's grid, padding tiles last.
    pub images: &'a [f32],
    /// The dimensions of `images`.
    pub shape: [usize; 6],
    /// `[b, i, 2]`: tiles down and tiles across of each image; `[0, 0]` is a missing image. May be left out where
    /// `t = 1`. A model of one tile in torchtune's names takes any values.
    pub aspect_ratio: Option<&'a [[i64; 2]]>,
}

impl Pixels<'_> {
    /// Whether the tensor has the tiles of this encoder, and as many values as its shape says. Allocates nothing, so that
    /// sizes from outside can be trusted afterwards: no dimension is larger than the number of values.
    ///
    /// # Errors
    /// [`InputError::Empty`], [`InputError::Shape`].
    pub fn check(&self, config: &EncoderConfig) -> Result<()> {
        check_shape(&self.shape, Some(self.images.len()), config)
    }
}

/// The embeddings of a pixel tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct PixelEncodings {
    /// `[b, i·t·N, E]`, f32, padding tiles included.
    pub embeddings: Vec<f32>,
    /// The dimensions of `embeddings`.
    pub shape: [usize; 3],
}

/// No pixel is larger after normalisation, by far: those of a white picture are below 3.
const LARGEST_PIXEL: f32 = 1000.0;

impl Encoder {
    /// Encodes a pixel tensor as torchtune's `forward(images, aspect_ratio)` does; every tile's rows come out, padding
    /// tiles included. In `meta` semantics `t` must be `max_num_tiles`, as for Hugging Face's model.
    ///
    /// Padding tiles with equal pixels are computed once.
    ///
    /// # Errors
    /// [`InputError::Empty`], [`Shape`](InputError::Shape), [`NoAspectRatio`](InputError::NoAspectRatio),
    /// [`AspectRatio`](InputError::AspectRatio), [`TooFewTiles`](InputError::TooFewTiles),
    /// [`MetaTiles`](InputError::MetaTiles), [`NoPositionTable`](InputError::NoPositionTable),
    /// [`NotFinite`](InputError::NotFinite), [`Overflow`](InputError::Overflow),
    /// [`OutOfMemory`](InputError::OutOfMemory);
    /// [`Error::NotFinite`].
    pub fn encode_pixels(&mut self, pixels: &Pixels) -> Result<PixelEncodings> {
        let images = self.pixel_layouts(pixels)?;
        let [samples, images_each, num_tiles, ..] = pixels.shape;
        let rows_each = images_each * num_tiles * self.config.num_tokens();
        let width = self.config.decoder_embed_dim;
        let mut embeddings = zeros(samples * rows_each, width)?;
        self.run(&self.batches(images), &mut embeddings, false)?;
        require_finite_embeddings(&embeddings, [pixels.images])?;
        Ok(PixelEncodings { embeddings, shape: [samples, rows_each, width] })
    }

    /// [`encode_pixels`](Self::encode_pixels) into the caller's memory, `[b·i·t·N, E]`.
    ///
    /// # Errors
    /// As [`encode_pixels`](Self::encode_pixels), and [`InputError::Shape`] where `embeddings` has another length.
    pub fn encode_pixels_into(&mut self, pixels: &Pixels, embeddings: &mut [f32]) -> Result<()> {
        let images = self.pixel_layouts(pixels)?;
        self.run(&self.batches(images), embeddings, false)?;
        require_finite_embeddings(embeddings, [pixels.images])
    }

    /// Each image's rows and pixels, once the tensor is known to be sound.
    pub(super) fn pixel_layouts<'a>(&self, pixels: &Pixels<'a>) -> Result<Vec<(SequenceLayout, &'a [f32])>> {
        let num_tiles = pixels.shape[2];
        let config = &self.config;
        pixels.check(config)?;
        let aspect_ratios = self.aspect_ratios(&pixels.shape, pixels.aspect_ratio)?;
        require_finite(pixels.images)?;
        let image_len = num_tiles * config.tile_len();
        let layout = |(number, &aspect_ratio): (usize, &[usize; 2])| {
            let tiles = &pixels.images[number * image_len..(number + 1) * image_len];
            let num_real = aspect_ratio[0].saturating_mul(aspect_ratio[1]).min(num_tiles);
            let image =
                ImageShape { aspect_ratio, tiles: sources(tiles, config.tile_len(), num_real), padding_output: true };
            Ok((self.rules(|rules| rules.sequence(&image, number))?, tiles))
        };
        aspect_ratios.iter().enumerate().map(layout).collect()
    }

    /// The aspect ratio of each image, by torchtune's rules.
    pub(super) fn aspect_ratios(&self, shape: &[usize; 6], given: Option<&[[i64; 2]]>) -> Result<Vec<[usize; 2]>> {
        let [samples, images_each, num_tiles, ..] = *shape;
        let num_images = samples * images_each;
        let max_num_tiles = self.config.max_num_tiles;
        let Some(given) = given else {
            if num_tiles > 1 {
                return Err(InputError::NoAspectRatio { num_tiles }.into());
            }
            return Ok(vec![[1, 1]; num_images]);
        };
        if given.len() != num_images {
            let expected = format!("[{samples}, {images_each}, 2]");
            return Err(InputError::Shape { tensor: "aspect_ratio", expected, found: vec![given.len(), 2] }.into());
        }
        if self.tables.is_none() {
            // torchtune's model for one tile asks for the aspect ratio and does not look at it.
            return Ok(vec![[1, 1]; num_images]);
        }
        let check = |(image, &[height, width]): (usize, &[i64; 2])| {
            let refuse = || InputError::AspectRatio { image, max_num_tiles, height, width };
            let side = |side: i64| usize::try_from(side).map_err(|_| refuse());
            Ok([side(height)?, side(width)?])
        };
        given.iter().enumerate().map(check).collect()
    }
}

/// A pixel tensor must have the encoder's tiles, and `found` elements, where that is known.
pub(super) fn check_shape(shape: &[usize; 6], found: Option<usize>, config: &EncoderConfig) -> Result<()> {
    for (name, size) in ["samples", "images", "tiles"].into_iter().zip(*shape) {
        if size == 0 {
            return Err(InputError::Empty { name }.into());
        }
    }
    let (channels, side) = (config.in_channels, config.tile_size);
    let len = shape.iter().try_fold(1usize, |len, &size| len.checked_mul(size));
    if shape[3..] != [channels, side, side] || len.is_none_or(|len| found.is_some_and(|found| found != len)) {
        let [b, i, t, ..] = shape;
        let expected = format!("[{b}, {i}, {t}, {channels}, {side}, {side}]");
        return Err(InputError::Shape { tensor: "images", expected, found: shape.to_vec() }.into());
    }
    Ok(())
}

/// Where each tile's pixels are; a padding tile equal to an earlier one shares its source.
fn sources(pixels: &[f32], tile_len: usize, num_real: usize) -> Vec<Option<usize>> {
    let tiles: Vec<&[u8]> = pixels.chunks_exact(tile_len).map(bytemuck::cast_slice).collect();
    let source = |tile: usize| {
        let equal = (num_real..tile).find(|&earlier| tiles[earlier] == tiles[tile]);
        Some(equal.filter(|_| tile >= num_real).unwrap_or(tile))
    };
    (0..tiles.len()).map(source).collect()
}

/// Pixels must be numbers.
pub(super) fn require_finite(pixels: &[f32]) -> Result<()> {
    match first_not_finite(pixels) {
        Some(index) => Err(InputError::NotFinite { tensor: "images", index }.into()),
        None => Ok(()),
    }
}

/// Embeddings must be numbers. Where they are not, pixels beyond all that preprocessing makes have overflowed, or else the
/// weights are damaged.
///
/// # Errors
/// [`InputError::Overflow`], [`Error::NotFinite`].
pub(super) fn require_finite_embeddings<'a>(
    embeddings: &[f32],
    pixels: impl IntoIterator<Item = &'a [f32]>,
) -> Result<()> {
    let Some(index) = first_not_finite(embeddings) else { return Ok(()) };
    let largest = pixels.into_iter().flatten().fold(0.0, |largest: f32, value| largest.max(value.abs()));
    if largest > LARGEST_PIXEL { Err(InputError::Overflow { largest }.into()) } else { Err(Error::NotFinite { index }) }
}

/// The first value that is NaN or infinite.
pub(super) fn first_not_finite(values: &[f32]) -> Option<usize> {
    const CHUNK: usize = 1 << 16;
    values.par_chunks(CHUNK).enumerate().find_map_first(|(chunk, values)| {
        // Multiplying by zero keeps exactly what is not finite, and a sum has no branch.
        let poison: f32 = values.iter().map(|x| x * 0.0).sum();
        let index = if poison == 0.0 { None } else { values.iter().position(|x| !x.is_finite()) };
        index.map(|index| chunk * CHUNK + index)
    })
}
