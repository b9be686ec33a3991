//! What is computed, in which order, from where to where: the model written once, as data.
//!
//! [`Plan::build`] is pure. A backend walks [`Plan::steps`]; the `plan` command prints them; tests check that no two
//! live buffers overlap, that every read has a writer, and that the FLOPs are those of the closed form.

mod arena;
mod attention;
mod build;
mod capacity;
mod layout;
mod target;
mod timing;

use serde::Serialize;

use crate::config::EncoderConfig;
use crate::dtype::Dtype;
pub use attention::{ATTENTION_PIECES, ATTENTION_TILE, AttentionTiling, QueryGroup};
pub use capacity::Capacity;
pub use layout::{AlignmentRows, ComputedTile, ImageShape, LayoutRules, MultipleRows, Rows, Semantics, SequenceLayout};
pub use target::{ATTENTION_QUERIES, Form, HOPPER_PROJECTION_STATES, PROJECTION_ROWS, Precision, Target};
pub use timing::{Peak, Profile, Spread, StepSpan, StepTiming, Timing};

/// A batch that is to be encoded.
pub(crate) struct Batch<'a> {
    /// Its images' rows.
    pub(crate) shape: BatchShape,
    /// One tensor an image, `[tiles of the input, channels, s, s]`.
    pub(crate) pixels: Vec<&'a [f32]>,
}

/// The images of a batch, one after another: ragged, none padded to another's tiles.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct BatchShape {
    /// One sequence an image.
    pub images: Vec<SequenceLayout>,
}

/// A stack of layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stack {
    /// The layers without gates.
    Transformer,
    /// The gated layers of the projection head.
    GlobalTransformer,
}

/// A layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct LayerId {
    /// The stack it belongs to.
    pub stack: Stack,
    /// Its number there.
    pub index: usize,
}

/// A matrix of a layer that follows a norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NormLinear {
    /// Queries, keys and values side by side, `[rows, 3·C]`, without bias.
    Qkv,
    /// The MLP's first, `[rows, F]`, with bias and exact GELU.
    Fc1,
}

/// A matrix of a layer whose result is gated and added to the residual stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ResidualLinear {
    /// Attention's output, without bias.
    Out,
    /// The MLP's second, with bias.
    Fc2,
}

/// A buffer's number in [`Plan::buffers`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct BufferId(pub usize);

/// What a step does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Op {
    /// Cuts each computed tile's pixels into patches, `[tiles·P, channels·p·p]`; tiles without a source are zeros.
    Patchify {
        /// The pixel tensors.
        input: BufferId,
        /// The patches.
        output: BufferId,
    },
    /// Patches to the residual stream's width; no bias.
    PatchEmbedding {
        /// The patches.
        input: BufferId,
        /// `[tiles·P, C]`.
        output: BufferId,
    },
    /// Pre-tile embedding, class token, gated token positions and the norm before the transformer, in one pass; zero
    /// alignment rows.
    TilePosition {
        /// `[tiles·P, C]`.
        input: BufferId,
        /// The residual stream, in the transformer's rows.
        output: BufferId,
    },
    /// A layer norm and the matrix that reads it.
    LayerNormLinear {
        /// Whose norm and matrix.
        layer: LayerId,
        /// Which of them.
        part: NormLinear,
        /// The residual stream.
        input: BufferId,
        /// The matrix' result.
        output: BufferId,
    },
    /// Softmax attention of each image's rows, all heads.
    Attention {
        /// Whose.
        layer: LayerId,
        /// Queries, keys and values, `[rows, 3·C]`.
        input: BufferId,
        /// `[rows, C]`.
        output: BufferId,
    },
    /// A matrix, its bias and gate, and the addition to the residual stream.
    LinearResidual {
        /// Whose matrix and gate.
        layer: LayerId,
        /// Which of them.
        part: ResidualLinear,
        /// What the matrix reads.
        input: BufferId,
        /// The residual stream before.
        residual: BufferId,
        /// The residual stream after; the same buffer unless a hidden state is kept in the one before.
        output: BufferId,
    },
    /// The norm after the transformer and the post-tile embedding; from the transformer's rows to the gated layers'.
    TileNorm {
        /// The residual stream, in the transformer's rows.
        input: BufferId,
        /// The residual stream, in the gated layers' rows.
        output: BufferId,
    },
    /// The output matrix over the head's state and the hidden states, where they lie: nothing is concatenated.
    Projection {
        /// The gated layers' result, in their rows.
        head: BufferId,
        /// The hidden states, in the transformer's rows.
        hidden: Vec<BufferId>,
        /// The embeddings, `[output tiles·N, E]`.
        output: BufferId,
    },
}

impl Op {
    /// The buffers it reads.
    pub fn reads(&self) -> Vec<BufferId> {
        match self {
            Self::Patchify { input, .. }
            | Self::PatchEmbedding { input, .. }
            | Self::TilePosition { input, .. }
            | Self::LayerNormLinear { input, .. }
            | Self::Attention { input, .. }
            | Self::TileNorm { input, .. } => vec![*input],
            Self::LinearResidual { input, residual, .. } => vec![*input, *residual],
            Self::Projection { head, hidden, .. } => std::iter::once(*head).chain(hidden.iter().copied()).collect(),
        }
    }

    /// The buffer it writes.
    pub fn writes(&self) -> BufferId {
        match self {
            Self::Patchify { output, .. }
            | Self::PatchEmbedding { output, .. }
            | Self::TilePosition { output, .. }
            | Self::LayerNormLinear { output, .. }
            | Self::Attention { output, .. }
            | Self::LinearResidual { output, .. }
            | Self::TileNorm { output, .. }
            | Self::Projection { output, .. } => *output,
        }
    }
}

/// Buffers that a step needs beside its operands, in some forms.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Beside {
    /// Mean and squared deviations of the residual stream's rows, two values for 128 columns: written by the steps that
    /// write the stream, read by the norm that follows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub moments: Option<BufferId>,
    /// What a matrix product reads that the step makes first: rows that have met the norm, or rows of one state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prepared: Option<BufferId>,
    /// A matrix product in f32, before bias, activation, gate and residual.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub product: Option<BufferId>,
    /// What pieces of attention leave to be merged, in f32.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partials: Option<BufferId>,
}

impl Beside {
    /// The buffers there are.
    pub fn buffers(&self) -> impl Iterator<Item = BufferId> {
        [self.moments, self.prepared, self.product, self.partials].into_iter().flatten()
    }
}

/// A step of the plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// A readable name: `transformer.3.attention`.
    pub name: String,
    /// What it does.
    #[serde(flatten)]
    pub op: Op,
    /// The form of the kernel that carries a matrix operation out: the target's, or the next one where the step is beyond
    /// that one's reach. None for steps that are the same in every form.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub form: Option<Form>,
    /// What its form needs beside the operands.
    pub beside: Beside,
    /// Floating-point operations of its matrix products, multiply and add counted apart; `u64::MAX` where there are
    /// more.
    pub flops: u64,
    /// Bytes that must move: each weight and each buffer it touches once.
    pub bytes: u64,
}

/// Where a buffer lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Place {
    /// In the arena, at a byte offset.
    Arena {
        /// Bytes from the arena's start, a multiple of [`Plan::ALIGNMENT`].
        offset: usize,
    },
    /// The caller's pixels.
    Pixels,
    /// The caller's embeddings.
    Embeddings,
}

/// A named piece of memory, `[rows, width]`, row-major; what lies between width and stride is nobody's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Buffer {
    /// A readable name.
    pub name: String,
    /// Rows.
    pub rows: usize,
    /// Elements of a row.
    pub width: usize,
    /// Elements between the starts of two rows.
    pub stride: usize,
    /// The elements' type.
    pub dtype: Dtype,
    /// Bytes.
    pub bytes: usize,
    /// Where it lies.
    pub place: Place,
    /// The step that writes it first.
    pub first_use: usize,
    /// The last step that touches it.
    pub last_use: usize,
}

/// The whole encoder for one batch shape.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    /// The encoder's parameters.
    pub config: EncoderConfig,
    /// The rows of each image.
    pub batch: BatchShape,
    /// What the buffers have room for.
    pub capacity: Capacity,
    /// What it is made for.
    pub target: Target,
    /// What lies where.
    pub buffers: Vec<Buffer>,
    /// What is done, in order.
    pub steps: Vec<Step>,
    /// Bytes of the arena.
    pub arena_bytes: usize,
}

impl Plan {
    /// Every arena offset is a multiple of this many bytes: a DRAM sector times eight, and what tensor maps ask for.
    pub const ALIGNMENT: usize = 256;

    /// A buffer.
    pub fn buffer(&self, id: BufferId) -> &Buffer {
        &self.buffers[id.0]
    }

    /// Floating-point operations of all steps.
    pub fn flops(&self) -> u64 {
        self.steps.iter().fold(0, |sum, step| sum.saturating_add(step.flops))
    }

    /// The kinds of steps there are, in order; see [`Step::kind`].
    pub fn kinds(&self) -> Vec<String> {
        let mut kinds: Vec<String> = Vec::new();
        for step in &self.steps {
            let kind = step.kind();
            if !kinds.contains(&kind) {
                kinds.push(kind);
            }
        }
        kinds
    }

    /// The steps that another form's kernel carries out than the target's, each with that form.
    pub fn fallbacks(&self) -> impl Iterator<Item = (&Step, Form)> {
        let form = |step: &'_ Step| step.form.filter(|form| *form != self.target.form);
        self.steps.iter().filter_map(move |step| Some((step, form(step)?)))
    }

    /// Bytes that all steps must move.
    pub fn bytes(&self) -> u64 {
        self.steps.iter().fold(0, |sum, step| sum.saturating_add(step.bytes))
    }

    /// Rows of the embeddings.
    pub fn num_output_rows(&self) -> usize {
        self.batch.num_output_tiles() * self.config.num_tokens()
    }
}

impl Step {
    /// Its name without its layer's number: steps of one kind differ in their weights alone.
    pub fn kind(&self) -> String {
        self.name.split('.').filter(|part| part.parse::<usize>().is_err()).collect::<Vec<_>>().join(".")
    }
}

impl Stack {
    /// 0 for the transformer, 1 for the gated layers: the place of its numbers wherever both have one.
    pub fn index(self) -> usize {
        match self {
            Self::Transformer => 0,
            Self::GlobalTransformer => 1,
        }
    }
}

impl BatchShape {
    /// Computed tiles of all images.
    pub fn num_tiles(&self) -> usize {
        self.images.iter().map(|image| image.tiles.len()).sum()
    }

    /// Tiles that the embeddings of all images cover.
    pub fn num_output_tiles(&self) -> usize {
        self.images.iter().map(SequenceLayout::num_output_tiles).sum()
    }

    /// The rows of each image in a stack, in the batch's order.
    pub fn rows(&self, stack: Stack) -> impl Iterator<Item = &Rows> {
        self.images.iter().map(move |image| image.rows(stack))
    }

    /// Rows of all images in a stack.
    pub fn num_rows(&self, stack: Stack) -> usize {
        self.rows(stack).fold(0, |sum, rows| sum.saturating_add(rows.len))
    }
}

impl SequenceLayout {
    /// The sequence's rows in a stack.
    pub fn rows(&self, stack: Stack) -> &Rows {
        match stack {
            Stack::Transformer => &self.transformer,
            Stack::GlobalTransformer => &self.global_transformer,
        }
    }
}

impl std::fmt::Display for LayerId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let stack = match self.stack {
            Stack::Transformer => "transformer",
            Stack::GlobalTransformer => "global_transformer",
        };
        write!(f, "{stack}.{}", self.index)
    }
}
