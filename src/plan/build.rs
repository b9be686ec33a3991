//! The model, step by step. This is the one place that knows the order.

use super::{
    BatchShape, Buffer, BufferId, LayerId, NormLinear, Op, Place, Plan, Precision, ResidualLinear, Stack, Step, arena,
};
use crate::config::EncoderConfig;
use crate::error::{InputError, Result};

impl Plan {
    /// The steps that take `batch` from pixels to embeddings.
    ///
    /// # Errors
    /// The configuration's [`ConfigError`](crate::error::ConfigError)s; [`InputError::OutOfMemory`] where the size
    /// of a buffer or of all together cannot be expressed.
    pub fn build(config: &EncoderConfig, batch: &BatchShape, precision: Precision) -> Result<Self> {
        let config = config.clone().validated()?;
        let mut building = Building { config, batch, precision, buffers: Vec::new(), steps: Vec::new() };
        building.model()?;
        let Building { config, mut buffers, steps, .. } = building;
        let arena_bytes = arena::place(&mut buffers, &steps);
        if isize::try_from(arena_bytes).is_err() {
            return Err(InputError::OutOfMemory { bytes: arena_bytes as u64 }.into());
        }
        Ok(Plan { config, batch: batch.clone(), buffers, steps, arena_bytes })
    }
}

/// A plan without offsets.
struct Building<'a> {
    config: EncoderConfig,
    batch: &'a BatchShape,
    precision: Precision,
    buffers: Vec<Buffer>,
    steps: Vec<Step>,
}

impl Building<'_> {
    fn model(&mut self) -> Result<()> {
        let (width, patch_len) = (self.config.clip_embed_dim, self.config.patch_len());
        let num_tiles = self.batch.num_tiles();
        let num_patches = num_tiles.saturating_mul(self.config.num_patches());
        let pixels = self.buffer("pixels", num_tiles, self.config.tile_len(), Place::Pixels)?;
        let patches = self.arena_buffer("patches", num_patches, patch_len)?;
        self.step("patchify", Op::Patchify { input: pixels, output: patches }, 0, 0);

        let embedded = self.arena_buffer("patch_embeddings", num_patches, width)?;
        let op = Op::PatchEmbedding { input: patches, output: embedded };
        self.matrix_step("patch_embedding", op, num_patches, patch_len, width);

        let num_rows = self.batch.num_rows(Stack::Transformer);
        let mut stream = self.arena_buffer("hidden_state.0", num_rows, width)?;
        let op = Op::TilePosition { input: embedded, output: stream };
        let positions = ((self.config.num_tokens() * width) as u64).saturating_mul(num_tiles as u64);
        self.step("tile_position", op, 0, positions);

        let mut hidden = Vec::new();
        for index in 0..self.config.clip_num_layers {
            let keep = self.config.clip_hidden_states.contains(&(index as i64));
            if keep {
                hidden.push(stream);
            }
            stream = self.layer(LayerId { stack: Stack::Transformer, index }, stream, keep)?;
        }
        if self.config.clip_hidden_states.contains(&(self.config.clip_num_layers as i64)) {
            hidden.push(stream);
        }

        let num_rows = self.batch.num_rows(Stack::GlobalTransformer);
        let mut head = self.arena_buffer("global_hidden_state", num_rows, width)?;
        self.step("tile_norm", Op::TileNorm { input: stream, output: head }, 0, num_tiles.saturating_mul(width) as u64);
        for index in 0..self.config.num_layers_projection {
            head = self.layer(LayerId { stack: Stack::GlobalTransformer, index }, head, false)?;
        }
        self.projection(head, hidden)
    }

    /// A layer's five steps. With `keep`, the stream's buffer holds a hidden state, and the layer writes elsewhere.
    fn layer(&mut self, layer: LayerId, stream: BufferId, keep: bool) -> Result<BufferId> {
        let (width, mlp) = (self.config.clip_embed_dim, self.config.mlp_dim());
        let num_rows = self.batch.num_rows(layer.stack);

        let qkv = self.arena_buffer(&format!("{layer}.qkv"), num_rows, 3 * width)?;
        let op = Op::LayerNormLinear { layer, part: NormLinear::Qkv, input: stream, output: qkv };
        self.matrix_step(&format!("{layer}.qkv"), op, num_rows, width, 3 * width);

        let attended = self.arena_buffer(&format!("{layer}.attention"), num_rows, width)?;
        let num_scores = self.batch.rows(layer.stack).fold(0u64, |sum, rows| sum.saturating_add(rows.num_scores()));
        let flops = num_scores.saturating_mul(4 * width as u64);
        let op = Op::Attention { layer, input: qkv, output: attended };
        self.step(&format!("{layer}.attention"), op, flops, 0);

        let after = match keep {
            true => self.arena_buffer(&format!("hidden_state.{}", layer.index + 1), num_rows, width)?,
            false => stream,
        };
        let part = ResidualLinear::Out;
        let op = Op::LinearResidual { layer, part, input: attended, residual: stream, output: after };
        self.matrix_step(&format!("{layer}.out"), op, num_rows, width, width);

        let inner = self.arena_buffer(&format!("{layer}.fc1"), num_rows, mlp)?;
        let op = Op::LayerNormLinear { layer, part: NormLinear::Fc1, input: after, output: inner };
        self.matrix_step(&format!("{layer}.fc1"), op, num_rows, width, mlp);

        let part = ResidualLinear::Fc2;
        let op = Op::LinearResidual { layer, part, input: inner, residual: after, output: after };
        self.matrix_step(&format!("{layer}.fc2"), op, num_rows, mlp, width);
        Ok(after)
    }

    fn projection(&mut self, head: BufferId, hidden: Vec<BufferId>) -> Result<()> {
        let tokens = self.config.num_tokens();
        // Equal tiles are projected once and copied.
        let computed = |outputs: &[usize]| outputs.iter().collect::<std::collections::BTreeSet<_>>().len();
        let tiles = self.batch.images.iter().map(|image| [computed(&image.output), image.num_output_tiles()]);
        let [num_computed, num_rows] = tiles.fold([0; 2], |sum: [usize; 2], tiles| {
            [0, 1].map(|k| sum[k].saturating_add(tiles[k].saturating_mul(tokens)))
        });
        let (inner, outer) = (self.config.projection_dim(), self.config.decoder_embed_dim);
        let output = self.buffer("embeddings", num_rows, outer, Place::Embeddings)?;
        let op = Op::Projection { head, hidden, output };
        self.matrix_step("projection", op, num_computed, inner, outer);
        Ok(())
    }

    fn arena_buffer(&mut self, name: &str, rows: usize, width: usize) -> Result<BufferId> {
        self.buffer(name, rows, width, Place::Arena { offset: 0 })
    }

    fn buffer(&mut self, name: &str, rows: usize, width: usize, place: Place) -> Result<BufferId> {
        let size = match place {
            Place::Arena { .. } => self.precision.activations.size(),
            // The caller speaks f32 on every backend that is handed host memory.
            Place::Pixels | Place::Embeddings => size_of::<f32>(),
        };
        let bytes = rows.checked_mul(width).and_then(|len| len.checked_mul(size));
        let bytes = bytes.filter(|bytes| *bytes <= isize::MAX as usize / 8);
        let bytes = bytes.ok_or(InputError::OutOfMemory { bytes: u64::MAX })?;
        let name = name.to_string();
        self.buffers.push(Buffer { name, rows, width, bytes, place, first_use: usize::MAX, last_use: 0 });
        Ok(BufferId(self.buffers.len() - 1))
    }

    /// A step that multiplies `[rows, inner]` by a weight matrix into `[rows, outer]`.
    fn matrix_step(&mut self, name: &str, op: Op, rows: usize, inner: usize, outer: usize) {
        let weights = inner as u64 * outer as u64;
        self.step(name, op, (2 * rows as u64).saturating_mul(weights), weights);
    }

    /// A step; `weights` counts the elements of parameters it reads.
    fn step(&mut self, name: &str, op: Op, flops: u64, weights: u64) {
        let number = self.steps.len();
        let mut bytes = weights.saturating_mul(self.precision.weights.size() as u64);
        for id in op.reads().into_iter().chain([op.writes()]) {
            let buffer = &mut self.buffers[id.0];
            buffer.first_use = buffer.first_use.min(number);
            buffer.last_use = buffer.last_use.max(number);
            bytes = bytes.saturating_add(buffer.bytes as u64);
        }
        self.steps.push(Step { name: name.to_string(), op, flops, bytes });
    }
}
