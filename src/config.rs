//! The encoder's parameters: torchtune's ten names, their rules, the published presets, and the two forms of
//! `config.json` they are read from.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{ConfigError, Error, Result};

/// Epsilon of every layer norm; torchtune, Meta and Hugging Face fix it alike.
pub const NORM_EPS: f32 = 1e-5;

/// Largest value any single parameter may have: products of four of them then still fit into 128 bits, and any
/// encoder that could ever be loaded lies far below.
const MAX_PARAMETER: usize = 1 << 24;

/// Most layers of either stack: a plan and a list of tensors grow with them, and nothing else bounds what a
/// `config.json` could ask for.
const MAX_LAYERS: usize = 1 << 12;

/// The parameters of `torchtune.models.llama3_2_vision.llama3_2_vision_encoder`, under the same names.
///
/// The fields are free to set; [`validated`](Self::validated) holds the rules, and everything that takes a
/// configuration applies it first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncoderConfig {
    /// Side of a patch in pixels.
    pub patch_size: usize,
    /// Attention heads, in the transformer and the gated layers alike.
    pub num_heads: usize,
    /// Width of the residual stream; a multiple of `num_heads`.
    pub clip_embed_dim: usize,
    /// Layers of the transformer before the gated ones.
    pub clip_num_layers: usize,
    /// Indices of the hidden states handed to the projection, in any order: `l` is the input of layer `l`, and
    /// `clip_num_layers` the last layer's output. Serialised as `null` or a list.
    #[serde(deserialize_with = "hidden_states")]
    pub clip_hidden_states: Vec<i64>,
    /// Gated layers of the projection head; may be 0.
    pub num_layers_projection: usize,
    /// Width of the embeddings, which is the decoder's.
    pub decoder_embed_dim: usize,
    /// Side of a tile in pixels; what lies beyond a multiple of `patch_size` is never read.
    pub tile_size: usize,
    /// Side of the position tables, and the most tiles an image is cut into. 1 builds another model, with neither
    /// tile embeddings nor gates before the transformer.
    #[serde(default = "default_max_num_tiles")]
    pub max_num_tiles: usize,
    /// Channels of a pixel.
    #[serde(default = "default_in_channels")]
    pub in_channels: usize,
}

fn default_max_num_tiles() -> usize {
    4
}

fn default_in_channels() -> usize {
    3
}

fn hidden_states<'de, D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Vec<i64>, D::Error> {
    Ok(Option::<Vec<i64>>::deserialize(deserializer)?.unwrap_or_default())
}

/// The published geometries, by name.
const PRESETS: [(&str, usize); 2] = [("11b", 4096), ("90b", 8192)];

impl EncoderConfig {
    /// The geometry of a published model: `11b` or `90b`, at tile side 560 (the Instruct weights; set `tile_size` to
    /// 448 for the base weights).
    ///
    /// # Errors
    /// [`ConfigError::UnknownPreset`].
    pub fn preset(name: &str) -> Result<Self> {
        let (_, decoder_embed_dim) = PRESETS
            .into_iter()
            .find(|(known, _)| *known == name)
            .ok_or_else(|| ConfigError::UnknownPreset { found: name.to_string(), known: "11b and 90b" })?;
        Ok(Self {
            patch_size: 14,
            num_heads: 16,
            clip_embed_dim: 1280,
            clip_num_layers: 32,
            clip_hidden_states: vec![3, 7, 15, 23, 30],
            num_layers_projection: 8,
            decoder_embed_dim,
            tile_size: 560,
            max_num_tiles: 4,
            in_channels: 3,
        })
    }

    /// Reads `config.json`: Hugging Face's form (`vision_config` and `text_config`), or an object with torchtune's
    /// parameters under `encoder`, or those parameters alone.
    ///
    /// # Errors
    /// [`Error::Io`], [`ConfigError::Json`], [`ConfigError::Unsupported`] and every rule of
    /// [`validated`](Self::validated).
    pub fn from_file(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
        Self::from_json(&text, path)
    }

    /// [`from_file`](Self::from_file) on text at hand; `path` names it in errors.
    ///
    /// # Errors
    /// As [`from_file`](Self::from_file).
    pub fn from_json(text: &str, path: &Path) -> Result<Self> {
        let refuse = |reason: String| ConfigError::Json { path: path.to_path_buf(), reason };
        let json: serde_json::Value = serde_json::from_str(text).map_err(|e| refuse(e.to_string()))?;
        // A list would be taken for the parameters in their order.
        if !json.get("encoder").unwrap_or(&json).is_object() {
            return Err(refuse("expected an object".to_string()).into());
        }
        let config = if let Some(encoder) = json.get("encoder") {
            serde_json::from_value(encoder.clone()).map_err(|e| refuse(format!("encoder: {e}")))?
        } else if json.get("vision_config").is_some() {
            let file: HuggingFace = serde_json::from_value(json).map_err(|e| refuse(e.to_string()))?;
            file.into_config()?
        } else {
            serde_json::from_value(json).map_err(|e| refuse(e.to_string()))?
        };
        config.validated()
    }

    /// The configuration with its hidden states sorted, if it keeps every rule.
    ///
    /// # Errors
    /// One [`ConfigError`] for each rule.
    pub fn validated(mut self) -> Result<Self> {
        let sizes = [
            ("patch_size", self.patch_size, 1, MAX_PARAMETER),
            ("num_heads", self.num_heads, 1, MAX_PARAMETER),
            ("clip_embed_dim", self.clip_embed_dim, 1, MAX_PARAMETER),
            ("clip_num_layers", self.clip_num_layers, 0, MAX_LAYERS),
            ("num_layers_projection", self.num_layers_projection, 0, MAX_LAYERS),
            ("decoder_embed_dim", self.decoder_embed_dim, 1, MAX_PARAMETER),
            ("tile_size", self.tile_size, 1, MAX_PARAMETER),
            ("max_num_tiles", self.max_num_tiles, 1, MAX_PARAMETER),
            ("in_channels", self.in_channels, 1, MAX_PARAMETER),
        ];
        for (name, found, least, most) in sizes {
            if found < least {
                return Err(ConfigError::Zero { name }.into());
            }
            if found > most {
                return Err(ConfigError::TooLarge { name, found }.into());
            }
        }
        if !self.clip_embed_dim.is_multiple_of(self.num_heads) {
            return Err(
                ConfigError::HeadsDoNotDivide { embed_dim: self.clip_embed_dim, num_heads: self.num_heads }.into()
            );
        }
        if self.patch_size > self.tile_size {
            return Err(
                ConfigError::PatchLargerThanTile { patch_size: self.patch_size, tile_size: self.tile_size }.into()
            );
        }
        let num_layers = self.clip_num_layers;
        for &index in &self.clip_hidden_states {
            if !(0..=num_layers as i64).contains(&index) {
                return Err(ConfigError::HiddenStateOutOfRange { num_layers, index }.into());
            }
        }
        self.clip_hidden_states.sort_unstable();
        if let Some(pair) = self.clip_hidden_states.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(ConfigError::HiddenStateRepeated { index: pair[0] as usize }.into());
        }
        if self.clip_hidden_states.len() > num_layers {
            let found = self.clip_hidden_states.len();
            return Err(ConfigError::TooManyHiddenStates { num_layers, found }.into());
        }
        self.check_tensor_sizes()?;
        Ok(self)
    }

    /// The largest tensors must be addressable, with room for 8-byte elements.
    fn check_tensor_sizes(&self) -> std::result::Result<(), ConfigError> {
        let fits = |product: u128| product < isize::MAX as u128 / 8;
        let [width, tokens, tiles] = [self.clip_embed_dim, self.num_tokens(), self.max_num_tiles].map(|x| x as u128);
        if !fits(width * width * 4) {
            return Err(ConfigError::TooLarge { name: "clip_embed_dim", found: self.clip_embed_dim });
        }
        if !fits(width * tokens) || !fits((self.in_channels * self.tile_size) as u128 * self.tile_size as u128) {
            return Err(ConfigError::TooLarge { name: "tile_size", found: self.tile_size });
        }
        if !(tiles * tokens).checked_mul(tiles * width).is_some_and(fits) {
            return Err(ConfigError::TooLarge { name: "max_num_tiles", found: self.max_num_tiles });
        }
        if !fits(self.patch_len() as u128 * width) {
            return Err(ConfigError::TooLarge { name: "patch_size", found: self.patch_size });
        }
        if !fits(self.projection_dim() as u128 * self.decoder_embed_dim as u128) {
            return Err(ConfigError::TooLarge { name: "decoder_embed_dim", found: self.decoder_embed_dim });
        }
        Ok(())
    }

    /// Patches along a tile's side.
    pub fn patches_per_side(&self) -> usize {
        self.tile_size / self.patch_size
    }

    /// Patches of a tile, P.
    pub fn num_patches(&self) -> usize {
        self.patches_per_side() * self.patches_per_side()
    }

    /// Tokens of a tile, N: the class token and the patches.
    pub fn num_tokens(&self) -> usize {
        self.num_patches() + 1
    }

    /// Values of a patch: channels × rows × columns.
    pub fn patch_len(&self) -> usize {
        self.in_channels * self.patch_size * self.patch_size
    }

    /// Pixel values of a tile: channels × rows × columns.
    pub fn tile_len(&self) -> usize {
        self.in_channels * self.tile_size * self.tile_size
    }

    /// Width of a head, D.
    pub fn head_dim(&self) -> usize {
        self.clip_embed_dim / self.num_heads
    }

    /// Inner width of the MLP, F.
    pub fn mlp_dim(&self) -> usize {
        4 * self.clip_embed_dim
    }

    /// What the output projection reads a token: the last state and the hidden states.
    pub fn projection_dim(&self) -> usize {
        (1 + self.clip_hidden_states.len()) * self.clip_embed_dim
    }

    /// Whether the model has tile embeddings and gated positions; torchtune leaves them out where an image is one
    /// tile.
    pub fn has_tile_embeddings(&self) -> bool {
        self.max_num_tiles > 1
    }

    /// Zero rows that `meta` semantics append to each tile, so that it has a multiple of 8.
    pub fn num_alignment_rows(&self) -> usize {
        self.num_tokens().next_multiple_of(8) - self.num_tokens()
    }

    /// The grids (tiles down, tiles across) that hold at most `max_num_tiles`, in the order of Hugging Face's and
    /// Meta's ids: grid `k` has id `k + 1`, and id 0 is a missing image.
    pub fn aspect_ratios(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        aspect_ratios(self.max_num_tiles)
    }
}

/// The grids (tiles down, tiles across) of at most `max_num_tiles` tiles, in the order of Hugging Face's ids.
pub fn aspect_ratios(max_num_tiles: usize) -> impl Iterator<Item = (usize, usize)> {
    (1..=max_num_tiles).flat_map(move |h| (1..=max_num_tiles / h).map(move |w| (h, w)))
}

/// What of Hugging Face's `config.json` bears on the encoder.
#[derive(Deserialize)]
struct HuggingFace {
    vision_config: HuggingFaceVision,
    text_config: HuggingFaceText,
}

#[derive(Deserialize)]
struct HuggingFaceText {
    hidden_size: usize,
}

#[derive(Deserialize)]
struct HuggingFaceVision {
    hidden_size: usize,
    attention_heads: usize,
    num_hidden_layers: usize,
    num_global_layers: usize,
    intermediate_layers_indices: Vec<i64>,
    image_size: usize,
    patch_size: usize,
    num_channels: usize,
    max_num_tiles: usize,
    intermediate_size: Option<usize>,
    vision_output_dim: Option<usize>,
    norm_eps: Option<f64>,
    hidden_act: Option<String>,
    supported_aspect_ratios: Option<Vec<[usize; 2]>>,
}

impl HuggingFace {
    /// The same encoder in torchtune's words; what the file says beyond them must be what the encoder computes.
    fn into_config(self) -> Result<EncoderConfig> {
        let vision = self.vision_config;
        let config = EncoderConfig {
            patch_size: vision.patch_size,
            num_heads: vision.attention_heads,
            clip_embed_dim: vision.hidden_size,
            clip_num_layers: vision.num_hidden_layers,
            clip_hidden_states: vision.intermediate_layers_indices,
            num_layers_projection: vision.num_global_layers,
            decoder_embed_dim: self.text_config.hidden_size,
            tile_size: vision.image_size,
            max_num_tiles: vision.max_num_tiles,
            in_channels: vision.num_channels,
        }
        .validated()?;
        require("vision_config.intermediate_size", config.mlp_dim(), vision.intermediate_size)?;
        require("vision_config.vision_output_dim", config.projection_dim(), vision.vision_output_dim)?;
        require("vision_config.norm_eps", f64::from(NORM_EPS) as f32, vision.norm_eps.map(|eps| eps as f32))?;
        require("vision_config.hidden_act", "gelu".to_string(), vision.hidden_act)?;
        // The order is that of the position tables' rows.
        if let Some(found) = vision.supported_aspect_ratios
            && !config.aspect_ratios().eq(found.iter().map(|&[height, width]| (height, width)))
        {
            let expected = format!("every grid of at most {} tiles, by height and then width", config.max_num_tiles);
            let field = "vision_config.supported_aspect_ratios";
            return Err(ConfigError::Unsupported { field, expected, found: format!("{found:?}") }.into());
        }
        Ok(config)
    }
}

/// A field that is either absent or exactly what the encoder computes.
fn require<T: PartialEq + std::fmt::Debug>(
    field: &'static str,
    expected: T,
    found: Option<T>,
) -> std::result::Result<(), ConfigError> {
    match found {
        Some(found) if found != expected => {
            Err(ConfigError::Unsupported { field, expected: format!("{expected:?}"), found: format!("{found:?}") })
        }
        _ => Ok(()),
    }
}
