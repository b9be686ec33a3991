//! From a checkpoint to an encoder.

use std::path::PathBuf;
use std::sync::OnceLock;

use super::backend::{Backend, Choice};
use super::{Device, Encoder, Kernels, Tune};
use crate::checkpoint::{Checkpoint, RandomWeights, VisionWeights, demo_config};
use crate::config::EncoderConfig;
use crate::dtype::Dtype;
use crate::error::{InputError, Result};
use crate::image::Preprocess;
use crate::plan::{Capacity, Semantics};

/// Computed tiles of a batch, unless said otherwise: two full images, enough to share the widening of the weights, and
/// about a gigabyte of working memory at the published geometry.
const MAX_BATCH_TILES: usize = 8;

/// Threads of an encoder at most. No machine has as many cores, and a mistyped number would start threads for minutes.
const MAX_THREADS: usize = 1024;

/// The choices an [`Encoder`] is built from; everything but the model has a default.
#[derive(Debug, Default)]
pub struct EncoderBuilder {
    model: Option<Model>,
    config: Option<EncoderConfig>,
    semantics: Option<Semantics>,
    preprocess: Option<Preprocess>,
    device: Device,
    dtype: Option<Dtype>,
    kernels: Kernels,
    tune: Tune,
    threads: usize,
    max_batch_tiles: Option<usize>,
    uncollapsed: bool,
}

#[derive(Debug)]
enum Model {
    Path(PathBuf),
    Checkpoint(Checkpoint),
    Demo,
}

impl EncoderBuilder {
    /// The checkpoint: a safetensors file, an index of shards, or a folder with either. Its weights are read
    /// once, into memory of the encoder's: what becomes of the files later changes no result.
    pub fn model(mut self, path: impl Into<PathBuf>) -> Self {
        self.model = Some(Model::Path(path.into()));
        self
    }

    /// A checkpoint that is open already. Encoders on the CPU that are built from clones of one share its weights.
    pub fn checkpoint(mut self, checkpoint: Checkpoint) -> Self {
        self.model = Some(Model::Checkpoint(checkpoint));
        self
    }

    /// The small built-in model with random weights, which shows the way and embeds nothing of meaning.
    pub fn demo(mut self) -> Self {
        self.model = Some(Model::Demo);
        self
    }

    /// The encoder's parameters, instead of those in the checkpoint's `config.json`.
    pub fn config(mut self, config: EncoderConfig) -> Self {
        self.config = Some(config);
        self
    }

    /// Which function of the weights to compute. Default: `torchtune` for a checkpoint in torchtune's names, `meta`
    /// for one in Meta's or Hugging Face's.
    pub fn semantics(mut self, semantics: Semantics) -> Self {
        self.semantics = Some(semantics);
        self
    }

    /// How pictures become tiles. Default: `torchtune` in torchtune's semantics, `pil` in Meta's.
    pub fn preprocess(mut self, preprocess: Preprocess) -> Self {
        self.preprocess = Some(preprocess);
        self
    }

    /// Where to compute. Default: the best there is.
    pub fn device(mut self, device: Device) -> Self {
        self.device = device;
        self
    }

    /// The element type to compute in. Default: f32 on the CPU; on a GPU fp16 for weights stored so, else bf16.
    pub fn dtype(mut self, dtype: Dtype) -> Self {
        self.dtype = Some(dtype);
        self
    }

    /// Which kernels do the matrix operations on a GPU. Default: the fastest for it.
    pub fn kernels(mut self, kernels: Kernels) -> Self {
        self.kernels = kernels;
        self
    }

    /// Whether the tiles of matrix operations are measured. Default: on real GPUs, where they are not known yet.
    pub fn tune(mut self, tune: Tune) -> Self {
        self.tune = tune;
        self
    }

    /// Threads to compute on where the CPU does it, at most 1024; 0, the default, takes one for each core.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// The most tiles that are computed together; an image with more goes alone. Bounds the working memory, which a GPU
    /// takes when the encoder is built, and changes no result. Default: 8.
    pub fn max_batch_tiles(mut self, tiles: usize) -> Self {
        self.max_batch_tiles = Some(tiles);
        self
    }

    /// Whether rows that are equal by construction are computed once and weighted (the default), or all of them.
    pub fn collapse(mut self, collapse: bool) -> Self {
        self.uncollapsed = !collapse;
        self
    }

    /// Opens the checkpoint, checks every tensor, and makes the encoder.
    ///
    /// # Errors
    /// [`Error::Checkpoint`](crate::Error::Checkpoint), [`Error::Config`](crate::Error::Config),
    /// [`Error::Io`](crate::Error::Io), [`Error::Threads`](crate::Error::Threads),
    /// [`Error::Cuda`](crate::Error::Cuda); [`InputError::Unavailable`] where the device cannot compute in the element
    /// type or with the kernels, or no model was named; [`InputError::OutOfMemory`] where
    /// [`max_batch_tiles`](Self::max_batch_tiles) is beyond what a GPU could have.
    pub fn build(mut self) -> Result<Encoder> {
        if self.threads > MAX_THREADS {
            let reason = "there may be 1024 at most";
            let found = self.threads.to_string();
            return Err(InputError::Unavailable { option: "threads", found, reason }.into());
        }
        let checkpoint = match self.model {
            Some(Model::Path(path)) => Checkpoint::open(&path)?,
            Some(Model::Checkpoint(checkpoint)) => checkpoint,
            Some(Model::Demo) => {
                self.config.get_or_insert_with(demo_config);
                RandomWeights::new(&demo_config(), Dtype::Bf16, 0)?.in_memory()
            }
            None => {
                let reason = "name a model with model, checkpoint or demo";
                return Err(InputError::Unavailable { option: "model", found: "none".to_string(), reason }.into());
            }
        };
        let config = match self.config {
            Some(config) => config.validated()?,
            None => checkpoint.config()?,
        };
        let weights = VisionWeights::load(&checkpoint, &config)?;
        let semantics = self.semantics.unwrap_or(Semantics::of(checkpoint.format()));
        let preprocess = self.preprocess.unwrap_or(semantics.preprocess());
        // Pictures have three channels; a model of another number takes pixel tensors only.
        let takes_pictures = config.in_channels == 3;
        let preprocessor = takes_pictures.then(|| checkpoint.preprocessor(&config, preprocess)).transpose()?;
        let collapse = !self.uncollapsed;
        let max_batch_tiles = self.max_batch_tiles.unwrap_or(MAX_BATCH_TILES);
        let tables = weights.tables.clone();
        let choice = Choice { device: self.device, dtype: self.dtype, kernels: self.kernels, threads: self.threads };
        let capacity = |target| Capacity::of_tiles(&config, semantics, collapse, max_batch_tiles, target);
        let backend = Backend::new(&choice, weights, &config, capacity)?;
        let mut encoder = Encoder {
            backend,
            identity: OnceLock::new(),
            config,
            semantics,
            collapse,
            max_batch_tiles,
            tables,
            preprocessor,
            observer: None,
        };
        encoder.tune(self.tune)?;
        Ok(encoder)
    }
}
