//! What a plan is made for: element types, and the form that the steps take there.

use serde::Serialize;

use super::{AttentionTiling, Op};
use crate::config::EncoderConfig;
use crate::dtype::Dtype;

/// States that the projection of Hopper's form reads at most, the head among them.
pub const HOPPER_PROJECTION_STATES: usize = 8;

/// Rows that the projection of Hopper's form takes together at most.
pub const PROJECTION_ROWS: usize = 128;

/// Queries that attention takes together on a GPU at most; an image's last ones may be fewer.
pub const ATTENTION_QUERIES: usize = 128;

/// The element types of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Precision {
    /// Of the activations in the arena.
    pub activations: Dtype,
    /// Of the weight matrices, as they lie in memory.
    pub weights: Dtype,
}

/// How a layer's matrix operations are carried out; all other steps are the same in every form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// On the CPU: rows without gaps, heads as wide as the model has them.
    Cpu,
    /// On a GPU, matrix products by cuBLASLt, with a norm before and the rest after in kernels of their own: the baseline.
    Cublas,
    /// On a GPU from compute capability 8.0 up, one kernel a matrix: norm, bias, activation, gate and residual included.
    Portable,
    /// The same steps in the instructions of Hopper: on GPUs of compute capability 9.0 alone.
    Hopper,
}

impl Form {
    /// Whether norms are folded into the matrices that follow them.
    pub const fn folds_norms(self) -> bool {
        matches!(self, Self::Portable | Self::Hopper)
    }
}

impl std::fmt::Display for Form {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Cpu => "cpu",
            Self::Cublas => "cublas",
            Self::Portable => "portable",
            Self::Hopper => "hopper",
        })
    }
}

/// What a plan is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Target {
    /// Element types.
    pub precision: Precision,
    /// The matrix operations' form.
    pub form: Form,
    /// How attention divides an image's rows where it is not as the model's heads have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attention: Option<AttentionTiling>,
}

impl Target {
    /// The CPU, which computes in f32, with weights stored in `weights`.
    pub const fn cpu(weights: Dtype) -> Self {
        Self { precision: Precision { activations: Dtype::F32, weights }, form: Form::Cpu, attention: None }
    }

    /// A GPU, which keeps activations and weights in `dtype`.
    pub const fn cuda(dtype: Dtype, form: Form) -> Self {
        Self { precision: Precision { activations: dtype, weights: dtype }, form, attention: None }
    }

    /// The same with attention's rows divided otherwise, in the form that has groups of queries. Results have other bits.
    #[cfg(feature = "cuda-unversioned")]
    pub(crate) const fn with_attention(self, tiling: AttentionTiling) -> Self {
        Self { attention: Some(tiling), ..self }
    }

    /// Elements between the starts of two rows that are `width` elements wide. On a GPU rows start on 16 bytes.
    pub fn stride(&self, width: usize) -> usize {
        match self.form {
            Form::Cpu => width,
            Form::Cublas | Form::Portable | Form::Hopper => width.saturating_add(7) / 8 * 8,
        }
    }

    /// The form of the kernel that carries a step out: that of the target where it reaches so far. None for steps that are
    /// the same in every form.
    pub(crate) fn form_of(&self, op: &Op) -> Option<Form> {
        match op {
            Op::Patchify { .. } | Op::TilePosition { .. } | Op::TileNorm { .. } => None,
            Op::PatchEmbedding { .. }
            | Op::LayerNormLinear { .. }
            | Op::Attention { .. }
            | Op::LinearResidual { .. } => Some(self.form),
            Op::Projection { hidden, .. } => Some(match self.form {
                Form::Hopper if hidden.len() >= HOPPER_PROJECTION_STATES => Form::Portable,
                form => form,
            }),
        }
    }

    /// How attention divides an image's rows, in the form that has groups of queries in place of items.
    pub(crate) fn attention_tiling(&self, config: &EncoderConfig) -> Option<AttentionTiling> {
        let usual = || AttentionTiling::of(self.head_columns(config));
        (self.form == Form::Hopper).then(|| self.attention.unwrap_or_else(usual))
    }

    /// Columns that a head takes in queries, keys, values and attention's output. On a GPU they are filled up with
    /// zeros to the depth of a matrix instruction.
    pub fn head_columns(&self, config: &EncoderConfig) -> usize {
        match self.form {
            Form::Cpu => config.head_dim(),
            Form::Cublas | Form::Portable | Form::Hopper => config.head_dim().next_multiple_of(16),
        }
    }
}
