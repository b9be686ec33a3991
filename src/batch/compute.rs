//! What the encoder's thread computes with.

use super::queue::Devices;
use crate::encoder::{Encoded, Encoder, Input, Pixels, Submission};
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

    /// The embeddings of these inputs must be numbers.
    ///
    /// # Errors
    /// [`InputError::Overflow`](crate::error::InputError::Overflow), [`Error::NotFinite`](crate::Error::NotFinite).
    pub(super) fn require_finite(&self, embeddings: &[f32]) -> Result<()> {
        self.as_input().require_finite(embeddings)
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
    /// A batch on its way.
    type Submission: Send + 'static;

    /// What there is to compute on.
    fn devices(&self) -> Devices;

    /// Starts the embeddings of all requests on a device; the requests are not looked at later.
    ///
    /// # Errors
    /// Those of [`Encoder::submit`].
    fn submit(&mut self, device: usize, requests: &[Inputs]) -> Result<Self::Submission>;

    /// What returns when the device has computed the submission, on whatever thread it is called; none where it has.
    fn wait(submission: &Self::Submission) -> Option<Wait>;

    /// The embeddings of all requests, one after another. They need not be finite: each request's are looked at alone.
    ///
    /// # Errors
    /// Those of [`Encoder::finish`], but for values that are not finite.
    fn finish(&mut self, submission: Self::Submission) -> Result<Encoded>;

    /// Values of one tile's embeddings, N·E.
    fn tile_embeddings_len(&self) -> usize;
}

/// Blocks the thread that calls it until something is done.
pub type Wait = Box<dyn FnOnce() + Send>;

impl Compute for Encoder {
    type Submission = Submission;

    fn devices(&self) -> Devices {
        Devices { count: self.num_devices(), depth: self.depth() }
    }

    fn submit(&mut self, device: usize, requests: &[Inputs]) -> Result<Submission> {
        let inputs: Vec<Input> = requests.iter().map(Inputs::as_input).collect();
        Self::submit(self, device, &inputs)
    }

    fn wait(submission: &Submission) -> Option<Wait> {
        submission.computed().map(|computed| -> Wait { Box::new(move || computed.wait()) })
    }

    fn finish(&mut self, submission: Submission) -> Result<Encoded> {
        self.finish_unchecked(submission)
    }

    fn tile_embeddings_len(&self) -> usize {
        self.config().num_tokens() * self.config().decoder_embed_dim
    }
}
