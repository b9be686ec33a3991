//! What the encoder's thread computes with.

use crate::encoder::{Encoder, Input, Pixels};
use crate::error::Result;
use crate::image::Tiles;

/// What one request wants encoded.
#[derive(Debug, Clone, PartialEq)]
pub enum Inputs {
    /// Pictures that are cut already.
    Pictures(Vec<Tiles>),
    /// A pixel tensor.
    Pixels {
        /// `[n, t, channels, s, s]`, as [`Pixels::images`] has it.
        values: Vec<f32>,
        /// The dimensions of `values`.
        shape: [usize; 5],
        /// `[n, 2]`, as [`Pixels::aspect_ratio`] has it.
        aspect_ratio: Option<Vec<[i64; 2]>>,
    },
}

impl Inputs {
    /// Tiles whose embeddings come out.
    pub fn num_output_tiles(&self) -> usize {
        match self {
            Self::Pictures(pictures) => pictures.iter().map(Tiles::num_tiles).sum(),
            Self::Pixels { shape: [images, tiles, ..], .. } => images.saturating_mul(*tiles),
        }
    }

    fn as_input(&self) -> Input<'_> {
        match self {
            Self::Pictures(tiles) => Input::Pictures(tiles),
            Self::Pixels { values, shape: [n, t, channels, height, width], aspect_ratio } => Input::Pixels(Pixels {
                images: values,
                shape: [1, *n, *t, *channels, *height, *width],
                aspect_ratio: aspect_ratio.as_deref(),
            }),
        }
    }
}

/// An encoder, as far as batching is concerned.
pub trait Compute: Send + 'static {
    /// The embeddings of all requests, one after another.
    ///
    /// # Errors
    /// Those of [`Encoder::encode_inputs`].
    fn encode(&mut self, requests: &[Inputs]) -> Result<Vec<f32>>;

    /// Values of one tile's embeddings, N·E.
    fn tile_embeddings_len(&self) -> usize;
}

impl Compute for Encoder {
    fn encode(&mut self, requests: &[Inputs]) -> Result<Vec<f32>> {
        let inputs: Vec<Input> = requests.iter().map(Inputs::as_input).collect();
        self.encode_inputs(&inputs)
    }

    fn tile_embeddings_len(&self) -> usize {
        self.config().num_tokens() * self.config().decoder_embed_dim
    }
}
