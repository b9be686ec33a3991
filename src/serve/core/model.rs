//! The model, as its clients see it.

use std::collections::BTreeMap;

use crate::config::EncoderConfig;
use crate::dtype::Dtype;
use crate::encoder::{Encoder, Identity};
use crate::image::Preprocessor;
use crate::plan::Semantics;

/// Aspect ratios of up to this many tiles have their computed tiles counted at the start.
const MAX_COUNTED_TILES: usize = 64;

/// What the server has to know of its encoder, which lives on a thread of its own.
pub(crate) struct Model {
    pub(crate) config: EncoderConfig,
    pub(crate) semantics: Semantics,
    pub(crate) computed_in: Dtype,
    /// None where the model's pixels do not have three channels.
    pub(crate) preprocessor: Option<Preprocessor>,
    pub(crate) identity: Identity,
    computed_tiles: BTreeMap<[usize; 2], usize>,
}

impl Model {
    pub(crate) fn new(encoder: &mut Encoder) -> Self {
        let config = encoder.config().clone();
        let most = config.max_num_tiles.min(MAX_COUNTED_TILES);
        let ratios = (1..=most).flat_map(|down| (1..=most / down).map(move |across| [down, across]));
        let count = |ratio| Some((ratio, encoder.num_computed_tiles(ratio).ok()?));
        Self {
            computed_tiles: ratios.filter_map(count).collect(),
            config,
            semantics: encoder.semantics(),
            identity: encoder.identity(),
            computed_in: encoder.precision().activations,
            preprocessor: encoder.preprocessor().ok().cloned(),
        }
    }

    /// Values of one tile's embeddings.
    pub(crate) fn tile_embeddings_len(&self) -> usize {
        self.config.num_tokens() * self.config.decoder_embed_dim
    }

    /// Bytes that a tile takes from its pixels to its embeddings, in f32.
    pub(crate) fn tile_bytes(&self) -> u64 {
        4 * (self.config.tile_len() + self.tile_embeddings_len()) as u64
    }

    /// Tiles that are computed for a picture of this aspect ratio, padding included.
    pub(crate) fn num_computed_tiles(&self, ratio: [usize; 2]) -> usize {
        self.computed_tiles.get(&ratio).copied().unwrap_or(ratio[0] * ratio[1])
    }
}
