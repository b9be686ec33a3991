//! The model, step by step. This is the one place that knows the order.

use super::{
    ATTENTION_PIECES, BatchShape, Beside, Buffer, BufferId, Capacity, Form, LayerId, NormLinear, Op, Place, Plan,
    ResidualLinear, Stack, Step, Target, arena,
};
use crate::config::EncoderConfig;
use crate::dtype::Dtype;
use crate::error::{InputError, Result};

impl Plan {
    /// Columns of a row that share a mean and squared deviations; see [`Beside::moments`].
    pub const MOMENTS_COLUMNS: usize = 128;

    /// Maxima and totals that a thread of attention leaves beside its sums; see [`Beside::partials`].
    pub const PARTIAL_EXTRA: usize = 4;

    /// The steps that take `batch` from pixels to embeddings.
    ///
    /// # Errors
    /// The configuration's [`ConfigError`](crate::error::ConfigError)s; [`InputError::OutOfMemory`] where the size
    /// of a buffer or of all together cannot be expressed.
    pub fn build(config: &EncoderConfig, batch: &BatchShape, target: Target) -> Result<Self> {
        Self::with_capacity(config, batch, Capacity::of(config, batch, target), target)
    }

    /// [`build`](Self::build) with room for every batch that `capacity` covers; FLOPs and bytes are those of `batch`.
    ///
    /// # Errors
    /// As [`build`](Self::build).
    pub fn with_capacity(
        config: &EncoderConfig,
        batch: &BatchShape,
        capacity: Capacity,
        target: Target,
    ) -> Result<Self> {
        let config = config.clone().validated()?;
        let mut building = Building { config, batch, capacity, target, buffers: Vec::new(), steps: Vec::new() };
        building.model()?;
        let Building { config, mut buffers, steps, .. } = building;
        let arena_bytes = arena::place(&mut buffers, &steps);
        if isize::try_from(arena_bytes).is_err() {
            return Err(InputError::OutOfMemory { bytes: arena_bytes as u64 }.into());
        }
        Ok(Plan { config, batch: batch.clone(), capacity, target, buffers, steps, arena_bytes })
    }
}

/// A plan without offsets.
struct Building<'a> {
    config: EncoderConfig,
    batch: &'a BatchShape,
    capacity: Capacity,
    target: Target,
    buffers: Vec<Buffer>,
    steps: Vec<Step>,
}

/// A residual stream, and whether the norm that follows needs its moments.
type Stream = (BufferId, Option<BufferId>);

impl Building<'_> {
    fn model(&mut self) -> Result<()> {
        let (width, patch_len) = (self.config.clip_embed_dim, self.config.patch_len());
        let (trunk, gated) = (self.config.clip_num_layers, self.config.num_layers_projection);
        let num_tiles = self.batch.num_tiles();
        let num_patches = self.capacity.tiles.saturating_mul(self.config.num_patches());
        let input_tiles = match self.target.form {
            // On the CPU pixels are read where the caller has them.
            Form::Cpu => self.capacity.tiles,
            Form::Cublas | Form::Portable | Form::Hopper => self.capacity.input_tiles,
        };
        let pixels = self.buffer("pixels", [input_tiles, self.config.tile_len()], Dtype::F32, Place::Pixels)?;
        let patches = self.arena_buffer("patches", num_patches, patch_len)?;
        self.step("patchify", Op::Patchify { input: pixels, output: patches }, Beside::default(), 0, 0);

        let embedded = self.arena_buffer("patch_embeddings", num_patches, width)?;
        let op = Op::PatchEmbedding { input: patches, output: embedded };
        let patches = num_tiles.saturating_mul(self.config.num_patches());
        self.matrix_step("patch_embedding", op, Beside::default(), patches, patch_len, width);

        let rows = self.capacity.rows[0];
        let output = self.arena_buffer("hidden_state.0", rows, width)?;
        let moments = self.moments("hidden_state.0", rows, trunk > 0)?;
        let op = Op::TilePosition { input: embedded, output };
        let positions = ((self.config.num_tokens() * width) as u64).saturating_mul(num_tiles as u64);
        self.step("tile_position", op, Beside { moments, ..Beside::default() }, 0, positions);

        let mut stream = (output, moments);
        let mut hidden = Vec::new();
        for index in 0..trunk {
            let keep = self.config.clip_hidden_states.contains(&(index as i64));
            if keep {
                hidden.push(stream.0);
            }
            stream = self.layer(LayerId { stack: Stack::Transformer, index }, stream, keep, index + 1 < trunk)?;
        }
        if self.config.clip_hidden_states.contains(&(trunk as i64)) {
            hidden.push(stream.0);
        }

        let rows = self.capacity.rows[1];
        let output = self.arena_buffer("global_hidden_state", rows, width)?;
        let moments = self.moments("global_hidden_state", rows, gated > 0)?;
        let op = Op::TileNorm { input: stream.0, output };
        let beside = Beside { moments, ..Beside::default() };
        self.step("tile_norm", op, beside, 0, num_tiles.saturating_mul(width) as u64);
        let mut head = (output, moments);
        for index in 0..gated {
            head = self.layer(LayerId { stack: Stack::GlobalTransformer, index }, head, false, index + 1 < gated)?;
        }
        self.projection(head.0, hidden)
    }

    /// A layer's five steps. With `keep`, the stream's buffer holds a hidden state, and the layer writes elsewhere;
    /// with `normed_after`, another layer's norm follows.
    fn layer(&mut self, layer: LayerId, stream: Stream, keep: bool, normed_after: bool) -> Result<Stream> {
        let (width, mlp) = (self.config.clip_embed_dim, self.config.mlp_dim());
        let (rows, computed) = (self.capacity.rows[layer.stack.index()], self.batch.num_rows(layer.stack));
        let heads = self.config.num_heads.saturating_mul(self.target.head_columns(&self.config));
        let (stream, moments) = stream;

        let qkv = self.arena_buffer(&format!("{layer}.qkv"), rows, heads.saturating_mul(3))?;
        let op = Op::LayerNormLinear { layer, part: NormLinear::Qkv, input: stream, output: qkv };
        let beside = Beside { moments, prepared: self.normed(layer, "qkv", rows)?, ..Beside::default() };
        self.matrix_step(&format!("{layer}.qkv"), op, beside, computed, width, 3 * width);

        let attended = self.arena_buffer(&format!("{layer}.attention"), rows, heads)?;
        let num_scores = self.batch.rows(layer.stack).fold(0u64, |sum, rows| sum.saturating_add(rows.num_scores()));
        let flops = num_scores.saturating_mul(4 * width as u64);
        let op = Op::Attention { layer, input: qkv, output: attended };
        let beside = Beside { partials: self.partials(layer)?, ..Beside::default() };
        self.step(&format!("{layer}.attention"), op, beside, flops, 0);

        let after = match keep {
            true => self.arena_buffer(&format!("hidden_state.{}", layer.index + 1), rows, width)?,
            false => stream,
        };
        let moments = self.moments(&format!("{layer}.out"), rows, true)?;
        let part = ResidualLinear::Out;
        let op = Op::LinearResidual { layer, part, input: attended, residual: stream, output: after };
        let beside = Beside { moments, product: self.product(layer, "out", rows, width)?, ..Beside::default() };
        self.matrix_step(&format!("{layer}.out"), op, beside, computed, width, width);

        let inner = self.arena_buffer(&format!("{layer}.fc1"), rows, mlp)?;
        let op = Op::LayerNormLinear { layer, part: NormLinear::Fc1, input: after, output: inner };
        let (prepared, product) = (self.normed(layer, "fc1", rows)?, self.product(layer, "fc1", rows, mlp)?);
        let beside = Beside { moments, prepared, product, ..Beside::default() };
        self.matrix_step(&format!("{layer}.fc1"), op, beside, computed, width, mlp);

        let moments = self.moments(&format!("{layer}.fc2"), rows, normed_after)?;
        let part = ResidualLinear::Fc2;
        let op = Op::LinearResidual { layer, part, input: inner, residual: after, output: after };
        let beside = Beside { moments, product: self.product(layer, "fc2", rows, width)?, ..Beside::default() };
        self.matrix_step(&format!("{layer}.fc2"), op, beside, computed, mlp, width);
        Ok((after, moments))
    }

    fn projection(&mut self, head: BufferId, hidden: Vec<BufferId>) -> Result<()> {
        let (inner, outer) = (self.config.projection_dim(), self.config.decoder_embed_dim);
        let activations = self.target.precision.activations;
        let output = self.buffer("embeddings", [self.capacity.output_rows, outer], activations, Place::Embeddings)?;
        let rows = self.capacity.projected_rows;
        let (prepared, product) = match self.target.form {
            Form::Cublas => (
                Some(self.arena_buffer("projection.state", rows, self.config.clip_embed_dim)?),
                Some(self.wide_buffer("projection.product", rows, outer)?),
            ),
            Form::Cpu | Form::Portable | Form::Hopper => (None, None),
        };
        let op = Op::Projection { head, hidden, output };
        let computed = Capacity::of(&self.config, self.batch, self.target).projected_rows;
        let beside = Beside { prepared, product, ..Beside::default() };
        self.matrix_step("projection", op, beside, computed, inner, outer);
        Ok(())
    }

    /// Room for the moments of a stream, where its form has a norm folded into the matrix that follows.
    fn moments(&mut self, name: &str, rows: usize, normed_after: bool) -> Result<Option<BufferId>> {
        if !self.target.form.folds_norms() || !normed_after {
            return Ok(None);
        }
        let width = self.config.clip_embed_dim.div_ceil(Plan::MOMENTS_COLUMNS) * 2;
        let place = Place::Arena { offset: 0 };
        self.dense_buffer(&format!("{name}.moments"), [rows, width], width, Dtype::F32, place).map(Some)
    }

    /// Room for rows that have met the norm, where its form has a norm of its own.
    fn normed(&mut self, layer: LayerId, part: &str, rows: usize) -> Result<Option<BufferId>> {
        if self.target.form != Form::Cublas {
            return Ok(None);
        }
        self.arena_buffer(&format!("{layer}.{part}.normed"), rows, self.config.clip_embed_dim).map(Some)
    }

    /// Room for a product, where its form leaves the rest of the step to another kernel.
    fn product(&mut self, layer: LayerId, part: &str, rows: usize, width: usize) -> Result<Option<BufferId>> {
        if self.target.form != Form::Cublas {
            return Ok(None);
        }
        self.wide_buffer(&format!("{layer}.{part}.product"), rows, width).map(Some)
    }

    /// Room for what pieces of attention leave, in the form that cuts an image's last queries so: for each ticket and piece
    /// the sums, maxima and totals of a warpgroup's 128 threads.
    fn partials(&mut self, layer: LayerId) -> Result<Option<BufferId>> {
        let rows = self.capacity.attention_tickets.saturating_mul(ATTENTION_PIECES);
        if rows == 0 {
            return Ok(None);
        }
        let width = 128 * (self.target.head_columns(&self.config) / 2 + Plan::PARTIAL_EXTRA);
        self.wide_buffer(&format!("{layer}.attention.partials"), rows, width).map(Some)
    }

    fn arena_buffer(&mut self, name: &str, rows: usize, width: usize) -> Result<BufferId> {
        self.buffer(name, [rows, width], self.target.precision.activations, Place::Arena { offset: 0 })
    }

    fn wide_buffer(&mut self, name: &str, rows: usize, width: usize) -> Result<BufferId> {
        self.buffer(name, [rows, width], Dtype::F32, Place::Arena { offset: 0 })
    }

    fn buffer(&mut self, name: &str, shape: [usize; 2], dtype: Dtype, place: Place) -> Result<BufferId> {
        let stride = match place {
            Place::Arena { .. } => self.target.stride(shape[1]),
            Place::Pixels | Place::Embeddings => shape[1],
        };
        self.dense_buffer(name, shape, stride, dtype, place)
    }

    fn dense_buffer(
        &mut self,
        name: &str,
        [rows, width]: [usize; 2],
        stride: usize,
        dtype: Dtype,
        place: Place,
    ) -> Result<BufferId> {
        let bytes = rows.checked_mul(stride).and_then(|len| len.checked_mul(dtype.size()));
        let bytes = bytes.filter(|bytes| *bytes <= isize::MAX as usize / 8);
        let bytes = bytes.ok_or(InputError::OutOfMemory { bytes: u64::MAX })?;
        let name = name.to_string();
        let (first_use, last_use) = (usize::MAX, 0);
        self.buffers.push(Buffer { name, rows, width, stride, dtype, bytes, place, first_use, last_use });
        Ok(BufferId(self.buffers.len() - 1))
    }

    /// A step that multiplies `[rows, inner]` by a weight matrix into `[rows, outer]`.
    fn matrix_step(&mut self, name: &str, op: Op, beside: Beside, rows: usize, inner: usize, outer: usize) {
        let weights = inner as u64 * outer as u64;
        self.step(name, op, beside, (2 * rows as u64).saturating_mul(weights), weights);
    }

    /// A step; `weights` counts the elements of parameters it reads.
    fn step(&mut self, name: &str, op: Op, beside: Beside, flops: u64, weights: u64) {
        let number = self.steps.len();
        let mut bytes = weights.saturating_mul(self.target.precision.weights.size() as u64);
        let operands = op.reads().into_iter().chain([op.writes()]);
        for id in operands.chain(beside.buffers()) {
            let buffer = &mut self.buffers[id.0];
            buffer.first_use = buffer.first_use.min(number);
            buffer.last_use = buffer.last_use.max(number);
            bytes = bytes.saturating_add(buffer.bytes as u64);
        }
        let form = self.target.form_of(&op);
        self.steps.push(Step { name: name.to_string(), op, form, beside, flops, bytes });
    }
}
