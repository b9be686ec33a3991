//! Pictures and pixel tensors of several callers in one call.

use super::pixels::require_finite_embeddings;
use super::{Encoder, Pixels, zeros};
use crate::error::Result;
use crate::image::Tiles;
use crate::plan::SequenceLayout;

/// An image's rows and its pixels.
type Image<'a> = (SequenceLayout, &'a [f32]);

/// What one of several callers wants encoded.
#[derive(Debug, Clone, Copy)]
pub enum Input<'a> {
    /// As [`Encoder::encode_tiles`] takes them.
    Pictures(&'a [Tiles]),
    /// As [`Encoder::encode_pixels`] takes it.
    Pixels(Pixels<'a>),
}

impl Input<'_> {
    /// The embeddings of this input must be numbers.
    ///
    /// # Errors
    /// Those of [`require_finite_embeddings`].
    pub(crate) fn require_finite(&self, embeddings: &[f32]) -> Result<()> {
        require_finite_embeddings(embeddings, self.pixels())
    }

    fn pixels(&self) -> impl Iterator<Item = &[f32]> {
        let (tiles, tensor) = match self {
            Self::Pictures(tiles) => (*tiles, None),
            Self::Pixels(pixels) => (&[][..], Some(pixels.images)),
        };
        tiles.iter().map(|tiles| &tiles.pixels[..]).chain(tensor)
    }
}

impl Encoder {
    /// Encodes the inputs of several callers together, in batches that keep the tile budget: for each what
    /// [`encode_tiles`](Self::encode_tiles) or [`encode_pixels`](Self::encode_pixels) would give, one after another,
    /// `[rows, E]`.
    ///
    /// # Errors
    /// Those of the two, for the first input that has one; nothing is encoded then.
    pub fn encode_inputs(&mut self, inputs: &[Input]) -> Result<Vec<f32>> {
        let (images, mut embeddings) = self.prepare(inputs)?;
        self.run(&self.batches(images), &mut embeddings, false)?;
        require_finite_embeddings(&embeddings, inputs.iter().flat_map(Input::pixels))?;
        Ok(embeddings)
    }

    /// The images of all inputs, and memory for their embeddings.
    pub(super) fn prepare<'a>(&self, inputs: &[Input<'a>]) -> Result<(Vec<Image<'a>>, Vec<f32>)> {
        let mut images = Vec::new();
        for input in inputs {
            match input {
                Input::Pictures(tiles) => images.extend(self.picture_layouts(tiles)?),
                Input::Pixels(pixels) => images.extend(self.pixel_layouts(pixels)?),
            }
        }
        let num_tiles: usize = images.iter().map(|(image, _)| image.num_output_tiles()).sum();
        let embeddings = zeros(num_tiles.saturating_mul(self.config.num_tokens()), self.config.decoder_embed_dim)?;
        Ok((images, embeddings))
    }

    /// How many tiles are computed for a picture of this aspect ratio: its own and, in `meta` semantics, the padding
    /// that is not equal to other padding. What [`max_batch_tiles`](super::EncoderBuilder::max_batch_tiles) counts.
    ///
    /// # Errors
    /// Those of the aspect ratio.
    pub fn num_computed_tiles(&self, aspect_ratio: [usize; 2]) -> Result<usize> {
        Ok(self.rules(|rules| rules.picture(aspect_ratio, 0))?.tiles.len())
    }

    /// The most tiles that are computed together.
    pub fn max_batch_tiles(&self) -> usize {
        self.max_batch_tiles
    }
}
