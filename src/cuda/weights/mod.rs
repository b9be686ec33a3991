//! The weights on one GPU, in the form its kernels read.
//!
//! Matrices go as they are stored and are turned on the GPU: into its element type, with norms folded in, heads padded
//! to the depth of a matrix instruction, and the output matrix' columns sorted by state.

mod block;
#[expect(unsafe_code, reason = "copies from pinned memory")]
mod upload;

use std::sync::Arc;

use self::block::BlockLayout;
pub(super) use self::block::{ArrayPiece, MatrixPiece};
use self::upload::{Folding, Placing, Upload};
use super::driver::{Context, DeviceMemory};
use super::ops::{Groups, Launcher};
use crate::checkpoint::{LayerWeights, PositionTables, Tensor, TokenPositions, VisionWeights, tanh};
use crate::config::EncoderConfig;
use crate::dtype::Dtype;
use crate::error::CudaError;
use crate::plan::{LayerId, Stack, Target};

/// All weights of an encoder.
#[derive(Debug)]
pub(super) struct DeviceWeights {
    pub(super) embedding: DeviceEmbedding,
    transformer: Vec<DeviceLayer>,
    global_transformer: Vec<DeviceLayer>,
    pub(super) projection: DeviceProjection,
}

/// What stands before the first layer and between the two stacks.
#[derive(Debug)]
pub(super) struct DeviceEmbedding {
    pub(super) block: DeviceMemory,
    /// `[C, patch_len]`.
    pub(super) patch: MatrixPiece,
    /// `[C]`.
    pub(super) class_embedding: ArrayPiece<f32>,
    /// `[N, C]`, rows without gaps.
    pub(super) local: MatrixPiece,
    /// `[blocks, C]`, `[blocks·N, C]`, `[blocks, C]`, rows without gaps: pre-tile, global, post-tile.
    pub(super) tables: Option<[MatrixPiece; 3]>,
    /// tanh of the tables' gates; 0 without tables.
    pub(super) gates: [f32; 3],
    /// Weight and bias, `[C]` each.
    pub(super) layernorm_pre: [ArrayPiece<f32>; 2],
    pub(super) layernorm_post: [ArrayPiece<f32>; 2],
}

/// A layer.
#[derive(Debug)]
pub(super) struct DeviceLayer {
    pub(super) block: DeviceMemory,
    /// `[3·H·columns of a head, C]`.
    pub(super) qkv: DeviceNormLinear,
    /// `[C, H·columns of a head]`.
    pub(super) out: MatrixPiece,
    /// `[F, C]`.
    pub(super) fc1: DeviceNormLinear,
    /// `[C, F]`.
    pub(super) fc2: MatrixPiece,
    /// `[C]`.
    pub(super) fc2_bias: ArrayPiece<f32>,
    /// tanh of the gates; 1 where there are none.
    pub(super) gates: [f32; 2],
}

/// A norm and the matrix that reads it.
#[derive(Debug)]
pub(super) struct DeviceNormLinear {
    pub(super) weight: MatrixPiece,
    /// Weight and bias of the norm, `[C]` each.
    pub(super) norm: [ArrayPiece<f32>; 2],
    /// The matrix' own bias, `[outputs]`.
    pub(super) bias: Option<ArrayPiece<f32>>,
    /// Where the norm is folded into `weight`.
    pub(super) folded: Option<DeviceFolded>,
}

/// What folding leaves beside the matrix, `[outputs]` each.
#[derive(Debug)]
pub(super) struct DeviceFolded {
    pub(super) bias: ArrayPiece<f32>,
    pub(super) column_sum: ArrayPiece<f32>,
}

/// The output matrix.
#[derive(Debug)]
pub(super) struct DeviceProjection {
    pub(super) block: DeviceMemory,
    /// `[(1 + n)·E, C]`: the columns of the head's state, then of each hidden state.
    pub(super) weight: MatrixPiece,
    /// `[E]`.
    pub(super) bias: ArrayPiece<f32>,
}

impl DeviceWeights {
    /// Takes all weights to the GPU.
    ///
    /// # Errors
    /// [`CudaError::OutOfMemory`], [`CudaError::WeightOverflow`].
    pub(super) fn load(
        weights: &VisionWeights,
        config: &EncoderConfig,
        target: Target,
        launcher: Launcher,
    ) -> Result<Self, CudaError> {
        let num_layers = config.clip_num_layers + config.num_layers_projection;
        let num_tensors = 6 * num_layers + 6 + config.clip_hidden_states.len();
        let widest = config.clip_embed_dim.max(config.mlp_dim()).max(config.projection_dim()).max(config.patch_len());
        let group_bytes = config.head_dim().max(1) * widest * size_of::<f32>();
        let upload = Upload::new(launcher, num_tensors, group_bytes)?;
        let mut loading = Loading { config, target, upload, context: launcher.stream().context() };
        let embedding = loading.embedding(weights)?;
        let mut stack = |stack: Stack, layers: &[LayerWeights]| {
            let load = |(index, layer)| loading.layer(LayerId { stack, index }, layer);
            layers.iter().enumerate().map(load).collect::<Result<Vec<_>, _>>()
        };
        let transformer = stack(Stack::Transformer, &weights.transformer)?;
        let global_transformer = stack(Stack::GlobalTransformer, &weights.global_transformer)?;
        let projection = loading.projection(weights)?;
        loading.upload.finish()?;
        Ok(Self { embedding, transformer, global_transformer, projection })
    }

    pub(super) fn layer(&self, layer: LayerId) -> &DeviceLayer {
        match layer.stack {
            Stack::Transformer => &self.transformer[layer.index],
            Stack::GlobalTransformer => &self.global_transformer[layer.index],
        }
    }
}

/// Weights on their way to one GPU.
struct Loading<'a> {
    config: &'a EncoderConfig,
    target: Target,
    upload: Upload<'a>,
    context: &'a Arc<Context>,
}

/// A matrix as it is stored.
fn as_it_is(columns: usize) -> Placing<'static> {
    Placing { row_groups: None, column_groups: None, columns: (0, columns, 1), norm_weight: None }
}

impl Loading<'_> {
    fn dtype(&self) -> Dtype {
        self.target.precision.weights
    }

    /// A matrix whose rows start on 16 bytes.
    fn aligned(&self, layout: &mut BlockLayout, rows: usize, width: usize) -> MatrixPiece {
        layout.matrix([rows, width, self.target.stride(width)], self.dtype())
    }

    fn embedding(&mut self, weights: &VisionWeights) -> Result<DeviceEmbedding, CudaError> {
        let (config, dtype) = (self.config, self.dtype());
        let (width, tokens) = (config.clip_embed_dim, config.num_tokens());
        let mut layout = BlockLayout::default();
        let patch = self.aligned(&mut layout, width, config.patch_len());
        let class_embedding = layout.array(width);
        let local = layout.matrix([tokens, width, width], dtype);
        let stored_tables = weights
            .tables
            .as_ref()
            .map(|t| [("pre-tile", &t.pre_tile), ("global", &t.global), ("post-tile", &t.post_tile)]);
        let tables = stored_tables
            .map(|tables| tables.map(|(_, table)| layout.matrix([table.num_elements() / width, width, width], dtype)));
        let mut norm = || [layout.array(width), layout.array(width)];
        let (layernorm_pre, layernorm_post) = (norm(), norm());
        let mut block = layout.allocate(self.context)?;
        self.upload.vector(&weights.class_embedding, &mut block, &class_embedding)?;
        for (stored, pieces) in [(&weights.layernorm_pre, &layernorm_pre), (&weights.layernorm_post, &layernorm_post)] {
            self.upload.vector(&stored.weight, &mut block, &pieces[0])?;
            self.upload.vector(&stored.bias, &mut block, &pieces[1])?;
        }
        let patch_len = config.patch_len();
        let name = "the patch embedding".to_string();
        self.upload.matrix(name, &weights.patch_embedding, &block, (&patch, 0), as_it_is(patch_len), None)?;
        let (TokenPositions::Plain(positions) | TokenPositions::Gated { local: positions }) = &weights.token_positions;
        let bytes = bytemuck::cast_slice(positions).to_vec();
        let positions = Tensor::owned(Dtype::F32, vec![tokens, width], bytes);
        let name = "the token positions".to_string();
        self.upload.matrix(name, &positions, &block, (&local, 0), as_it_is(width), None)?;
        for (piece, (name, table)) in tables.iter().flatten().zip(stored_tables.iter().flatten()) {
            let name = format!("the {name} positions");
            self.upload.matrix(name, table, &block, (piece, 0), as_it_is(width), None)?;
        }
        let gates = weights.tables.as_ref().map_or([0.0; 3], |tables: &PositionTables| tables.gates.map(tanh));
        Ok(DeviceEmbedding { block, patch, class_embedding, local, tables, gates, layernorm_pre, layernorm_post })
    }

    fn layer(&mut self, id: LayerId, weights: &LayerWeights) -> Result<DeviceLayer, CudaError> {
        let config = self.config;
        let (width, mlp, head_dim) = (config.clip_embed_dim, config.mlp_dim(), config.head_dim());
        let heads = Groups { len: head_dim, stride: self.target.head_columns(config) };
        let all_heads = config.num_heads * heads.stride;
        let mut layout = BlockLayout::default();
        let qkv = self.norm_linear(&mut layout, 3 * all_heads, false);
        let out = self.aligned(&mut layout, width, all_heads);
        let fc1 = self.norm_linear(&mut layout, mlp, true);
        let fc2 = self.aligned(&mut layout, width, mlp);
        let fc2_bias = layout.array(width);
        let mut block = layout.allocate(self.context)?;

        let norms = [(&weights.input_layernorm, &qkv), (&weights.post_attention_layernorm, &fc1)];
        for (norm, linear) in norms {
            self.upload.vector(&norm.weight, &mut block, &linear.norm[0])?;
            self.upload.vector(&norm.bias, &mut block, &linear.norm[1])?;
        }
        for (bias, piece) in [(&weights.fc1.bias, fc1.bias.as_ref()), (&weights.fc2.bias, Some(&fc2_bias))] {
            if let Some(piece) = piece {
                self.upload.vector(bias, &mut block, piece)?;
            }
        }
        for (third, (stored, name)) in weights.qkv_proj.iter().zip(["q_proj", "k_proj", "v_proj"]).enumerate() {
            let name = format!("{id}.{name}");
            self.normed_matrix(name, stored, &block, (&qkv, third * all_heads), Some(heads))?;
        }
        let placing = Placing { column_groups: Some(heads), ..as_it_is(width) };
        self.upload.matrix(format!("{id}.o_proj"), &weights.o_proj, &block, (&out, 0), placing, None)?;
        self.normed_matrix(format!("{id}.fc1"), &weights.fc1.weight, &block, (&fc1, 0), None)?;
        self.upload.matrix(format!("{id}.fc2"), &weights.fc2.weight, &block, (&fc2, 0), as_it_is(mlp), None)?;
        let gates = weights.gates.map_or([1.0; 2], |gates| gates.map(tanh));
        Ok(DeviceLayer { block, qkv, out, fc1, fc2, fc2_bias, gates })
    }

    /// Places for a norm and the matrix that reads it.
    fn norm_linear(&self, layout: &mut BlockLayout, outputs: usize, has_bias: bool) -> DeviceNormLinear {
        let width = self.config.clip_embed_dim;
        DeviceNormLinear {
            weight: self.aligned(layout, outputs, width),
            norm: [layout.array(width), layout.array(width)],
            bias: has_bias.then(|| layout.array(outputs)),
            folded: self
                .target
                .form
                .folds_norms()
                .then(|| DeviceFolded { bias: layout.array(outputs), column_sum: layout.array(outputs) }),
        }
    }

    /// A matrix that reads a norm, from its row `first` on; the norm is folded in where the form asks for it.
    fn normed_matrix(
        &mut self,
        name: String,
        stored: &Tensor,
        block: &DeviceMemory,
        (linear, first): (&DeviceNormLinear, usize),
        row_groups: Option<Groups>,
    ) -> Result<(), CudaError> {
        let norm_weight = linear.folded.as_ref().map(|_| linear.norm[0].view(block));
        let placing = Placing { row_groups, norm_weight, ..as_it_is(self.config.clip_embed_dim) };
        let folding = linear.folded.as_ref().map(|folded| Folding {
            norm_bias: linear.norm[1].view(block),
            bias: linear.bias.as_ref().map(|bias| bias.view(block)),
            folded_bias: &folded.bias,
            column_sum: &folded.column_sum,
            first,
        });
        self.upload.matrix(name, stored, block, (&linear.weight, first), placing, folding)
    }

    fn projection(&mut self, weights: &VisionWeights) -> Result<DeviceProjection, CudaError> {
        let (width, outputs) = (self.config.clip_embed_dim, self.config.decoder_embed_dim);
        let num_hidden = self.config.clip_hidden_states.len();
        let mut layout = BlockLayout::default();
        let weight = self.aligned(&mut layout, (1 + num_hidden) * outputs, width);
        let bias = layout.array(outputs);
        let mut block = layout.allocate(self.context)?;
        self.upload.vector(&weights.projection.bias, &mut block, &bias)?;
        for state in 0..=num_hidden {
            // The head's columns stand first; column C + e·n + j is channel e of hidden state j.
            let columns = if state == 0 { (0, width, 1) } else { (width + state - 1, width, num_hidden) };
            let placing = Placing { columns, ..as_it_is(width) };
            let name = "the projection".to_string();
            let target = (&weight, state * outputs);
            self.upload.matrix(name, &weights.projection.weight, &block, target, placing, None)?;
        }
        Ok(DeviceProjection { block, weight, bias })
    }
}
