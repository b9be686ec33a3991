//! Broken rules of the encoder's parameters.

use std::path::PathBuf;

/// A rule of the encoder's parameters that was broken. Names are torchtune's.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A parameter that must be at least 1 is 0.
    #[error("{name} must be at least 1, found 0")]
    Zero {
        /// The parameter.
        name: &'static str,
    },
    /// `clip_embed_dim` is not a multiple of `num_heads`.
    #[error("clip_embed_dim must be a multiple of num_heads, found {embed_dim} and {num_heads}")]
    HeadsDoNotDivide {
        /// `clip_embed_dim`.
        embed_dim: usize,
        /// `num_heads`.
        num_heads: usize,
    },
    /// No patch fits into a tile.
    #[error("patch_size must be at most tile_size, found {patch_size} and {tile_size}")]
    PatchLargerThanTile {
        /// `patch_size`.
        patch_size: usize,
        /// `tile_size`.
        tile_size: usize,
    },
    /// More hidden states are asked for than there are layers.
    #[error("clip_hidden_states may hold at most clip_num_layers = {num_layers} indices, found {found}")]
    TooManyHiddenStates {
        /// `clip_num_layers`.
        num_layers: usize,
        /// Indices given.
        found: usize,
    },
    /// A hidden-state index is negative or beyond the last layer.
    #[error("clip_hidden_states must lie in 0..={num_layers}, found {index}")]
    HiddenStateOutOfRange {
        /// `clip_num_layers`; the index of the last layer's output.
        num_layers: usize,
        /// The index given.
        index: i64,
    },
    /// A hidden-state index is given twice.
    #[error("clip_hidden_states must not repeat an index, found {index} twice")]
    HiddenStateRepeated {
        /// The index given twice.
        index: usize,
    },
    /// The encoder has more layers, or larger tensors, than could be addressed.
    #[error("{name} makes an encoder too large to address: {found}")]
    TooLarge {
        /// The parameter.
        name: &'static str,
        /// Its value.
        found: usize,
    },
    /// A `config.json` asks for something this encoder does not have.
    #[error("{field} must be {expected}, found {found}")]
    Unsupported {
        /// The field, with its path in the file.
        field: &'static str,
        /// What the encoder computes.
        expected: String,
        /// What the file says.
        found: String,
    },
    /// A `config.json` is not JSON or lacks a field.
    #[error("{}: {reason}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the place.
        reason: String,
    },
    /// A preset's name is unknown.
    #[error("no preset is called {found:?}; there are {known}")]
    UnknownPreset {
        /// The name given.
        found: String,
        /// The names there are.
        known: &'static str,
    },
}
