//! From a plan's steps to launches.

use super::abi;
use super::batch::BatchViews;
use super::cublas::{Cublas, Product};
use super::driver::DeviceMemory;
use super::ops::{self, Array, Count, GroupedQueries, Launcher, Matrix, Queries};
use super::tuning::Tuning;
use super::weights::{DeviceNormLinear, DeviceWeights};
use crate::error::CudaError;
use crate::plan::{BufferId, LayerId, NormLinear, Op, Place, Plan, ResidualLinear, Stack, Step};

/// A plan on one GPU.
pub(super) struct Lowering<'a> {
    pub(super) plan: &'a Plan,
    pub(super) weights: &'a DeviceWeights,
    pub(super) arena: &'a DeviceMemory,
    pub(super) batch: BatchViews<'a>,
    pub(super) launcher: Launcher<'a>,
    /// What was measured of tilings.
    pub(super) tuning: &'a Tuning,
    /// The library, in the form that uses it.
    pub(super) cublas: Option<&'a Cublas>,
}

impl<'a> Lowering<'a> {
    /// Gives one step to the launcher's stream.
    pub(super) fn step(&self, step: &Step) -> Result<(), CudaError> {
        match step.op {
            Op::Patchify { output, .. } => self.patchify(output),
            Op::PatchEmbedding { input, output } => self.patch_embedding(step, input, output),
            Op::TilePosition { input, output } => self.tile_position(step, input, output),
            Op::LayerNormLinear { layer, part, input, output } => {
                self.layer_norm_linear(step, (layer, part), input, output)
            }
            Op::Attention { layer, input, output } => self.attention(step, layer.stack, input, output),
            Op::LinearResidual { layer, part, input, residual, output } => {
                self.linear_residual(step, (layer, part), input, [residual, output])
            }
            Op::TileNorm { input, output } => self.tile_norm(step, input, output),
            Op::Projection { head, ref hidden, .. } => self.projection(step, head, hidden),
        }
    }

    /// What launches a step's matrix operation, in the step's form.
    fn launcher(&self, step: &Step) -> Launcher<'a> {
        let launcher = step.form.map_or(self.launcher, |form| self.launcher.in_form(form));
        // Who names a tiling means it.
        launcher.with_tiling(self.launcher.tiling().or_else(|| self.tuning.tiling(self.plan, step)))
    }

    fn matrix(&self, id: BufferId) -> Matrix<'a> {
        let buffer = self.plan.buffer(id);
        let Place::Arena { offset } = buffer.place else { unreachable!("{} is not in the arena", buffer.name) };
        Matrix::new(self.arena, offset, [buffer.rows, buffer.width, buffer.stride], buffer.dtype)
    }

    fn moments(&self, step: &Step) -> Option<Array<'a, abi::RowMoments>> {
        let buffer = self.plan.buffer(step.beside.moments?);
        let Place::Arena { offset } = buffer.place else { unreachable!("{} is not in the arena", buffer.name) };
        Some(Array::new(self.arena, offset, buffer.bytes / size_of::<abi::RowMoments>()))
    }

    fn rows(&self, stack: Stack) -> Count<'a> {
        self.batch.batch.num_rows(stack, self.plan.capacity.rows[stack.index()])
    }

    /// A step's matrix product by itself, in the element type; none for steps that are no single one.
    pub(super) fn bare_product(&self, step: &Step) -> Option<Product<'a>> {
        let (weight, rows) = match step.op {
            Op::PatchEmbedding { .. } => {
                let embedding = &self.weights.embedding;
                (embedding.patch.view(&embedding.block), self.plan.capacity.tiles * self.plan.config.num_patches())
            }
            Op::LayerNormLinear { layer, part, .. } => {
                let weights = self.weights.layer(layer);
                let linear = match part {
                    NormLinear::Qkv => &weights.qkv,
                    NormLinear::Fc1 => &weights.fc1,
                };
                (linear.weight.view(&weights.block), self.rows(layer.stack).capacity)
            }
            Op::LinearResidual { layer, part, .. } => {
                let weights = self.weights.layer(layer);
                let matrix = match part {
                    ResidualLinear::Out => &weights.out,
                    ResidualLinear::Fc2 => &weights.fc2,
                };
                (matrix.view(&weights.block), self.rows(layer.stack).capacity)
            }
            Op::Patchify { .. }
            | Op::TilePosition { .. }
            | Op::Attention { .. }
            | Op::TileNorm { .. }
            | Op::Projection { .. } => return None,
        };
        let (input, output) = (self.matrix(step.op.reads()[0]), self.matrix(step.op.writes()));
        Some(Product { input, weight, output, rows, add: false })
    }

    fn patchify(&self, output: BufferId) -> Result<(), CudaError> {
        let config = &self.plan.config;
        let patchify = ops::Patchify {
            batch: self.batch.batch,
            tiles: self.batch.tiles,
            patches: self.matrix(output),
            channels: config.in_channels,
            tile_size: config.tile_size,
            patch_size: config.patch_size,
        };
        patchify.launch(&self.launcher)
    }

    fn patch_embedding(&self, step: &Step, input: BufferId, output: BufferId) -> Result<(), CudaError> {
        let embedding = &self.weights.embedding;
        let weight = embedding.patch.view(&embedding.block);
        let rows = self.plan.capacity.tiles * self.plan.config.num_patches();
        let (input, output) = (self.matrix(input), self.matrix(output));
        match self.cublas {
            Some(cublas) => {
                cublas.multiply(&Product { input, weight, output, rows, add: false }, self.launcher.stream())
            }
            None => {
                let num_rows = self.batch.batch.num_patches(rows);
                ops::PatchEmbedding { num_rows, input, weight, output }.launch(&self.launcher(step))
            }
        }
    }

    fn tile_position(&self, step: &Step, input: BufferId, output: BufferId) -> Result<(), CudaError> {
        let embedding = &self.weights.embedding;
        let block = &embedding.block;
        let [pre_tile_gate, global_gate, _] = embedding.gates;
        let tile_position = ops::TilePosition {
            batch: self.batch.batch,
            tiles: self.batch.tiles,
            rows: self.batch.token_rows,
            patches: self.matrix(input),
            pre_tile: embedding.tables.map(|[pre_tile, ..]| pre_tile.view(block)),
            local: embedding.local.view(block),
            global: embedding.tables.map(|[_, global, _]| global.view(block)),
            class_embedding: embedding.class_embedding.view(block),
            norm_weight: embedding.layernorm_pre[0].view(block),
            norm_bias: embedding.layernorm_pre[1].view(block),
            output: self.matrix(output),
            moments: self.moments(step),
            pre_tile_gate,
            global_gate,
        };
        tile_position.launch(&self.launcher)
    }

    fn layer_norm_linear(
        &self,
        step: &Step,
        (layer, part): (LayerId, NormLinear),
        input: BufferId,
        output: BufferId,
    ) -> Result<(), CudaError> {
        let layer_weights = self.weights.layer(layer);
        let block = &layer_weights.block;
        let linear = match part {
            NormLinear::Qkv => &layer_weights.qkv,
            NormLinear::Fc1 => &layer_weights.fc1,
        };
        let gelu = part == NormLinear::Fc1;
        let (num_rows, input, output) = (self.rows(layer.stack), self.matrix(input), self.matrix(output));
        let Some(folded) = &linear.folded else {
            return self.norm_then_linear(step, (linear, block), num_rows, [input, output]);
        };
        let Some(moments) = self.moments(step) else { unreachable!("{} has no moments", step.name) };
        let layer_norm_linear = ops::LayerNormLinear {
            num_rows,
            input,
            moments,
            weight: linear.weight.view(block),
            column_sum: folded.column_sum.view(block),
            bias: folded.bias.view(block),
            output,
            gelu,
        };
        layer_norm_linear.launch(&self.launcher(step))
    }

    /// The baseline: a norm, a product of the library's, and what is left.
    fn norm_then_linear(
        &self,
        step: &Step,
        (linear, block): (&DeviceNormLinear, &'a DeviceMemory),
        num_rows: Count<'a>,
        [input, output]: [Matrix<'a>; 2],
    ) -> Result<(), CudaError> {
        let normed = self.prepared(step);
        let norm = ops::LayerNorm {
            num_rows,
            input,
            weight: linear.norm[0].view(block),
            bias: linear.norm[1].view(block),
            output: normed,
        };
        norm.launch(&self.launcher)?;
        let weight = linear.weight.view(block);
        let Some(product) = step.beside.product.map(|id| self.matrix(id)) else {
            return self.multiply(normed, weight, output, num_rows.capacity, false);
        };
        self.multiply(normed, weight, product, num_rows.capacity, false)?;
        let bias = linear.bias.as_ref().map(|bias| bias.view(block));
        ops::BiasActivation { num_rows, product, bias, output, gelu: true }.launch(&self.launcher)
    }

    fn attention(&self, step: &Step, stack: Stack, input: BufferId, output: BufferId) -> Result<(), CudaError> {
        let index = stack.index();
        let queries = match self.plan.target.attention_tiling(&self.plan.config) {
            Some(tiling) => Queries::Groups(GroupedQueries {
                tiling,
                groups: self.batch.attention_groups[index],
                counters: self.batch.attention_counters,
                partials: step.beside.partials.map(|id| self.matrix(id)),
            }),
            None => Queries::Items(self.batch.attention_items[index]),
        };
        let attention = ops::FlashAttention {
            num_items: self.batch.batch.num_attention_items(stack, self.plan.capacity.attention_items[index]),
            queries,
            log2_multiplicity: self.batch.log2_multiplicity[index],
            qkv: self.matrix(input),
            output: self.matrix(output),
            num_heads: self.plan.config.num_heads,
            head_dim: self.plan.config.head_dim(),
        };
        attention.launch(&self.launcher(step))
    }

    fn linear_residual(
        &self,
        step: &Step,
        (layer, part): (LayerId, ResidualLinear),
        input: BufferId,
        [residual, output]: [BufferId; 2],
    ) -> Result<(), CudaError> {
        let weights = self.weights.layer(layer);
        let block = &weights.block;
        let (weight, bias, gate) = match part {
            ResidualLinear::Out => (weights.out.view(block), None, weights.gates[0]),
            ResidualLinear::Fc2 => (weights.fc2.view(block), Some(weights.fc2_bias.view(block)), weights.gates[1]),
        };
        let num_rows = self.rows(layer.stack);
        let [input, residual, output] = [input, residual, output].map(|id| self.matrix(id));
        let Some(product) = step.beside.product.map(|id| self.matrix(id)) else {
            let linear_residual = ops::LinearResidual {
                num_rows,
                input,
                weight,
                bias,
                residual,
                output,
                moments: self.moments(step),
                gate,
            };
            return linear_residual.launch(&self.launcher(step));
        };
        self.multiply(input, weight, product, num_rows.capacity, false)?;
        ops::GatedResidual { num_rows, product, bias, residual, output, gate }.launch(&self.launcher)
    }

    fn tile_norm(&self, step: &Step, input: BufferId, output: BufferId) -> Result<(), CudaError> {
        let embedding = &self.weights.embedding;
        let block = &embedding.block;
        let tile_norm = ops::TileNorm {
            batch: self.batch.batch,
            rows: self.batch.global_rows,
            input: self.matrix(input),
            post_tile: embedding.tables.map(|[.., post_tile]| post_tile.view(block)),
            norm_weight: embedding.layernorm_post[0].view(block),
            norm_bias: embedding.layernorm_post[1].view(block),
            output: self.matrix(output),
            moments: self.moments(step),
            post_tile_gate: embedding.gates[2],
        };
        tile_norm.launch(&self.launcher)
    }

    fn projection(&self, step: &Step, head: BufferId, hidden: &[BufferId]) -> Result<(), CudaError> {
        let weights = &self.weights.projection;
        let (weight, bias) = (weights.weight.view(&weights.block), weights.bias.view(&weights.block));
        let hidden: Vec<Matrix> = hidden.iter().map(|id| self.matrix(*id)).collect();
        let (head, tokens) = (self.matrix(head), self.plan.config.num_tokens());
        let (batch, rows) = (self.batch.batch, self.batch.projected_rows);
        let items = self.batch.projection_items;
        let Some(product) = step.beside.product.map(|id| self.matrix(id)) else {
            let projection = ops::Projection { batch, rows, items, head, hidden: &hidden, weight, bias, tokens };
            return projection.launch(&self.launcher(step));
        };
        let state_rows = self.prepared(step);
        for (state, input) in std::iter::once(head).chain(hidden).enumerate() {
            ops::GatherRows { batch, rows, input, output: state_rows, hidden: state > 0 }.launch(&self.launcher)?;
            let outputs = self.plan.config.decoder_embed_dim;
            let weight = weights.weight.rows(&weights.block, state * outputs, outputs);
            self.multiply(state_rows, weight, product, self.plan.capacity.projected_rows, state > 0)?;
        }
        ops::ScatterEmbeddings { batch, rows, product, bias, tokens }.launch(&self.launcher)
    }

    fn prepared(&self, step: &Step) -> Matrix<'a> {
        let Some(id) = step.beside.prepared else { unreachable!("{} prepares nothing", step.name) };
        self.matrix(id)
    }

    fn multiply(
        &self,
        input: Matrix<'a>,
        weight: Matrix<'a>,
        output: Matrix<'a>,
        rows: usize,
        add: bool,
    ) -> Result<(), CudaError> {
        let Some(cublas) = self.cublas else { unreachable!("only the baseline's plans ask for products") };
        cublas.multiply(&Product { input, weight, output, rows, add }, self.launcher.stream())
    }

    /// What `step` has written, as f32, once it is done; `embeddings` is where the last one writes.
    pub(super) fn written(&self, step: &Step, embeddings: &DeviceMemory) -> Result<Vec<f32>, CudaError> {
        let buffer = self.plan.buffer(step.op.writes());
        let (memory, offset) = match buffer.place {
            Place::Arena { offset } => (self.arena, offset),
            Place::Embeddings | Place::Pixels => (embeddings, 0),
        };
        let mut bytes = vec![0; buffer.bytes];
        memory.read(offset, &mut bytes, self.launcher.stream())?;
        let mut values = vec![0.0; buffer.rows * buffer.width];
        let row_bytes = [buffer.width, buffer.stride].map(|len| len * buffer.dtype.size());
        for (row, values) in bytes.chunks_exact(row_bytes[1]).zip(values.chunks_exact_mut(buffer.width)) {
            buffer.dtype.widen(&row[..row_bytes[0]], values);
        }
        Ok(values)
    }
}
