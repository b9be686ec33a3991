//! The CPU backend: walks a plan in f32, on all cores it is given.
//!
//! Matrix products are faer's, called image by image; everything else is written here. Results depend neither on the
//! number of threads nor on what else is in the batch.

mod attention;
mod embed;
mod linear;
mod math;
mod norm;
mod peak;
mod tile;

use std::ops::Range;

use pulp::Arch;
use rayon::prelude::*;

use crate::checkpoint::{LayerWeights, Tensor, VisionWeights, tanh};
use crate::digest::Digest;
use crate::error::{Error, InputError, Result};
use crate::plan::{BufferId, LayerId, NormLinear, Op, Place, Plan, ResidualLinear, Stack, Step, Target};
use embed::ranges;
use linear::{Input, Into, Multiplier, Output};

/// Called after each step with what it wrote: all rows of the batch, row-major.
pub(crate) type Observer<'a> = dyn FnMut(&Plan, &Step, &[f32]) + Send + 'a;

/// The encoder on the CPU.
pub(crate) struct CpuBackend {
    weights: VisionWeights,
    /// The output matrix, one for the head's state and one for each hidden state, `[E, C]`: its interleaved columns
    /// put in order once.
    projection: Vec<Tensor>,
    pool: rayon::ThreadPool,
    multiplier: Multiplier,
    arena: Vec<f32>,
    /// What a norm hands to the matrix behind it.
    normed: Vec<f32>,
    /// Keys and values of an image, as attention's tiles take them.
    packed: Vec<f32>,
}

impl CpuBackend {
    /// A backend with threads of its own; 0 takes one for each core.
    pub(crate) fn new(weights: VisionWeights, threads: usize) -> Result<Self> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|n| format!("tilesight-{n}"))
            .build()
            .map_err(|e| Error::Threads { threads, reason: e.to_string() })?;
        // In its first product a thread sets memory aside in a way that cannot fail: twice the size of the last cache. It does
        // so here, where a lack of it ends no request.
        pool.broadcast(|_| linear::multiply_once());
        let width = weights.class_embedding.len();
        let projection = pool.install(|| deinterleave(&weights.projection.weight, width));
        let multiplier = Multiplier::new(pool.current_num_threads());
        Ok(Self { weights, projection, pool, multiplier, arena: Vec::new(), normed: Vec::new(), packed: Vec::new() })
    }

    pub(crate) fn num_threads(&self) -> usize {
        self.pool.current_num_threads()
    }

    /// The numerics class: sums are as wide as this CPU's vectors.
    pub(crate) fn numerics(&self) -> String {
        format!("cpu {} {:?}", std::env::consts::ARCH, Arch::new())
    }

    /// The digest of its weights, which takes as long as reading all of them.
    pub(crate) fn weights_digest(&self) -> Digest {
        self.pool.install(|| self.weights.digest())
    }

    /// What the plans it walks are made for.
    pub(crate) fn target(&self) -> Target {
        Target::cpu(self.weights.projection.weight.dtype())
    }

    /// Walks `plan`. `pixels` has one tensor an image, `[tiles of the input, channels, s, s]`; `embeddings` is
    /// `[output rows, E]`.
    ///
    /// # Errors
    /// [`InputError::OutOfMemory`] where the arena cannot be had.
    pub(crate) fn run(
        &mut self,
        plan: &Plan,
        pixels: &[&[f32]],
        embeddings: &mut [f32],
        observer: Option<&mut Observer>,
    ) -> Result<()> {
        grow(&mut self.arena, plan.arena_bytes / size_of::<f32>())?;
        let stacks = [Stack::Transformer, Stack::GlobalTransformer];
        let widest = stacks.map(|stack| plan.batch.num_rows(stack));
        grow(&mut self.normed, widest[0].max(widest[1]) * plan.config.clip_embed_dim)?;
        let longest = stacks.iter().flat_map(|stack| plan.batch.rows(*stack)).map(|rows| rows.len).max().unwrap_or(0);
        grow(&mut self.packed, attention::num_packed(longest, plan.config.num_heads, plan.config.head_dim()))?;
        let Self { weights, projection, pool, multiplier, arena, normed, packed } = self;
        let mut walk = Walk { plan, weights, projection, multiplier, arena, normed, packed, pixels, embeddings };
        pool.install(|| walk.run(observer));
        Ok(())
    }
}

/// One walk over a plan.
struct Walk<'a> {
    plan: &'a Plan,
    weights: &'a VisionWeights,
    projection: &'a [Tensor],
    multiplier: &'a mut Multiplier,
    arena: &'a mut [f32],
    normed: &'a mut [f32],
    packed: &'a mut [f32],
    pixels: &'a [&'a [f32]],
    embeddings: &'a mut [f32],
}

impl Walk<'_> {
    fn run(&mut self, mut observer: Option<&mut Observer>) {
        for step in &self.plan.steps {
            self.step(&step.op);
            if let Some(observer) = &mut observer {
                let id = step.op.writes();
                match self.plan.buffer(id).place {
                    Place::Embeddings => observer(self.plan, step, self.embeddings),
                    _ => observer(self.plan, step, &self.arena[elements(self.plan, id)]),
                }
            }
        }
    }

    fn step(&mut self, op: &Op) {
        match *op {
            Op::Patchify { output, .. } => self.patchify(output),
            Op::PatchEmbedding { input, output } => self.patch_embedding(input, output),
            Op::TilePosition { input, output } => {
                let (config, weights, rows) = (&self.plan.config, self.weights, self.sequences(Stack::Transformer));
                let patches = self.sequences_of(|image| image.tiles.len() * config.num_patches());
                let width = config.clip_embed_dim;
                let images = &self.plan.batch.images;
                let [input, output] = views(self.plan, self.arena, [input, output]);
                for ((image, patches), rows) in images.iter().zip(patches).zip(rows) {
                    let (input, output) = (&input[scaled(&patches, width)], &mut output[scaled(&rows, width)]);
                    embed::tile_position(config, weights, image, input, output);
                }
            }
            Op::LayerNormLinear { layer, part, input, output } => self.layer_norm_linear(layer, part, input, output),
            Op::Attention { layer, input, output } => self.attention(layer.stack, input, output),
            Op::LinearResidual { layer, part, input, residual, output } => {
                self.linear_residual(layer, part, input, residual, output);
            }
            Op::TileNorm { input, output } => {
                let (config, weights) = (&self.plan.config, self.weights);
                let from = self.sequences(Stack::Transformer);
                let to = self.sequences(Stack::GlobalTransformer);
                let width = config.clip_embed_dim;
                let images = &self.plan.batch.images;
                let [input, output] = views(self.plan, self.arena, [input, output]);
                for ((image, from), to) in images.iter().zip(from).zip(to) {
                    let (input, output) = (&input[scaled(&from, width)], &mut output[scaled(&to, width)]);
                    embed::tile_norm(config, weights, image, input, output);
                }
            }
            Op::Projection { head, ref hidden, .. } => self.project(head, hidden),
        }
    }

    fn patchify(&mut self, output: BufferId) {
        let config = &self.plan.config;
        let patches = self.sequences_of(|image| image.tiles.len() * config.num_patches());
        let output = &mut self.arena[elements(self.plan, output)];
        for ((image, pixels), patches) in self.plan.batch.images.iter().zip(self.pixels).zip(patches) {
            embed::patchify(config, &image.tiles, pixels, &mut output[scaled(&patches, config.patch_len())]);
        }
    }

    fn patch_embedding(&mut self, input: BufferId, output: BufferId) {
        let config = &self.plan.config;
        let sequences = self.sequences_of(|image| image.tiles.len() * config.num_patches());
        let [input, output] = views(self.plan, self.arena, [input, output]);
        let input = Input { values: input, width: config.patch_len(), sequences: &sequences };
        let output = Output { values: output, width: config.clip_embed_dim, start: 0, sequences: &sequences };
        self.multiplier.multiply(input, &self.weights.patch_embedding, output, Into::Place, None);
    }

    fn layer_norm_linear(&mut self, layer: LayerId, part: NormLinear, input: BufferId, output: BufferId) {
        let sequences = self.sequences(layer.stack);
        let width = self.plan.config.clip_embed_dim;
        let layer = layer_weights(self.weights, layer);
        let [input, values] = views(self.plan, self.arena, [input, output]);
        let normed = &mut self.normed[..input.len()];
        let norm = match part {
            NormLinear::Qkv => &layer.input_layernorm,
            NormLinear::Fc1 => &layer.post_attention_layernorm,
        };
        norm::layer_norm(input, norm, normed);
        let input = Input { values: normed, width, sequences: &sequences };
        let full_width = self.plan.buffer(output).width;
        match part {
            NormLinear::Qkv => {
                for (third, weight) in layer.qkv_proj.iter().enumerate() {
                    let values = &mut *values;
                    let output = Output { values, width: full_width, start: third * width, sequences: &sequences };
                    self.multiplier.multiply(input, weight, output, Into::Place, None);
                }
            }
            NormLinear::Fc1 => {
                let bias = &layer.fc1.bias;
                let finish = |row: &mut [f32], outputs: Range<usize>| {
                    Arch::new().dispatch(math::BiasGelu { row, bias: &bias[outputs] });
                };
                let output = Output { values, width: full_width, start: 0, sequences: &sequences };
                self.multiplier.multiply(input, &layer.fc1.weight, output, Into::Place, Some(&finish));
            }
        }
    }

    fn attention(&mut self, stack: Stack, input: BufferId, output: BufferId) {
        let config = &self.plan.config;
        let sequences = self.sequences(stack);
        let width = config.clip_embed_dim;
        let [input, output] = views(self.plan, self.arena, [input, output]);
        for (rows, range) in self.plan.batch.rows(stack).zip(sequences) {
            let qkv = &input[scaled(&range, 3 * width)];
            let (num_heads, head_dim) = (config.num_heads, config.head_dim());
            let sequence = attention::Sequence { qkv, rows, num_heads, head_dim };
            sequence.attend(&mut output[scaled(&range, width)], self.packed);
        }
    }

    fn linear_residual(
        &mut self,
        layer: LayerId,
        part: ResidualLinear,
        input: BufferId,
        residual: BufferId,
        output: BufferId,
    ) {
        let sequences = self.sequences(layer.stack);
        let input_width = self.plan.buffer(input).width;
        let width = self.plan.config.clip_embed_dim;
        let layer = layer_weights(self.weights, layer);
        let [attention_gate, mlp_gate] = layer.gates.map_or([1.0, 1.0], |gates| gates.map(tanh));
        let (weight, bias, gate) = match part {
            ResidualLinear::Out => (&layer.o_proj, None, attention_gate),
            ResidualLinear::Fc2 => (&layer.fc2.weight, Some(&layer.fc2.bias), mlp_gate),
        };
        if residual != output {
            let [from, to] = views(self.plan, self.arena, [residual, output]);
            to.copy_from_slice(from);
        }
        let [input, values] = views(self.plan, self.arena, [input, output]);
        if let Some(bias) = bias {
            let add = |row: &mut [f32]| row.iter_mut().zip(bias).for_each(|(x, bias)| *x += gate * bias);
            values.par_chunks_exact_mut(width).for_each(add);
        }
        let input = Input { values: input, width: input_width, sequences: &sequences };
        let output = Output { values, width, start: 0, sequences: &sequences };
        self.multiplier.multiply(input, weight, output, Into::Sum(gate), None);
    }

    /// The output matrix, a state at a time, into the rows of the embeddings; a tile that stands for several is
    /// computed in the first one's place and copied.
    fn project(&mut self, head: BufferId, hidden: &[BufferId]) {
        let config = &self.plan.config;
        let (width, outer, tokens) = (config.clip_embed_dim, config.decoder_embed_dim, config.num_tokens());
        let mut targets = Vec::new();
        let mut sources = [Vec::new(), Vec::new()];
        let mut copies = Vec::new();
        let starts = [Stack::GlobalTransformer, Stack::Transformer].map(|stack| self.sequences(stack));
        let mut row = 0;
        for (number, image) in self.plan.batch.images.iter().enumerate() {
            let mut first_row = vec![None; image.tiles.len()];
            for &tile in &image.output {
                match first_row[tile] {
                    Some(first) => copies.push((first..first + tokens, row)),
                    None => {
                        first_row[tile] = Some(row);
                        targets.push(row..row + tokens);
                        for (sources, starts) in sources.iter_mut().zip(&starts) {
                            let start = starts[number].start + tile * tokens;
                            sources.push(start..start + tokens);
                        }
                    }
                }
                row += tokens;
            }
        }
        let bias = &self.weights.projection.bias;
        self.embeddings.par_chunks_exact_mut(outer).for_each(|row| row.copy_from_slice(bias));
        let states = std::iter::once((head, &sources[0])).chain(hidden.iter().map(|id| (*id, &sources[1])));
        for ((id, sequences), weight) in states.zip(self.projection) {
            let input = Input { values: &self.arena[elements(self.plan, id)], width, sequences };
            let output = Output { values: self.embeddings, width: outer, start: 0, sequences: &targets };
            self.multiplier.multiply(input, weight, output, Into::Sum(1.0), None);
        }
        for (from, to) in copies {
            self.embeddings.copy_within(scaled(&from, outer), to * outer);
        }
    }

    /// Where each image's rows lie, in a stack.
    fn sequences(&self, stack: Stack) -> Vec<Range<usize>> {
        ranges(self.plan.batch.rows(stack).map(|rows| rows.len))
    }

    fn sequences_of(&self, len: impl Fn(&crate::plan::SequenceLayout) -> usize) -> Vec<Range<usize>> {
        ranges(self.plan.batch.images.iter().map(len))
    }
}

/// A layer's weights.
fn layer_weights(weights: &VisionWeights, layer: LayerId) -> &LayerWeights {
    match layer.stack {
        Stack::Transformer => &weights.transformer[layer.index],
        Stack::GlobalTransformer => &weights.global_transformer[layer.index],
    }
}

/// A buffer's elements in the arena.
fn elements(plan: &Plan, id: BufferId) -> Range<usize> {
    let buffer = plan.buffer(id);
    let Place::Arena { offset } = buffer.place else { unreachable!("{} is not in the arena", buffer.name) };
    let start = offset / size_of::<f32>();
    start..start + buffer.rows * buffer.width
}

/// Two buffers of the arena at once; the plan keeps buffers of one step apart.
fn views<'a>(plan: &Plan, arena: &'a mut [f32], ids: [BufferId; 2]) -> [&'a mut [f32]; 2] {
    match arena.get_disjoint_mut(ids.map(|id| elements(plan, id))) {
        Ok(views) => views,
        Err(e) => unreachable!("buffers of one step overlap or leave the arena: {e}"),
    }
}

/// Rows as elements.
fn scaled(rows: &Range<usize>, width: usize) -> Range<usize> {
    rows.start * width..rows.end * width
}

/// Makes room for `len` elements, if the machine has it.
fn grow(buffer: &mut Vec<f32>, len: usize) -> Result<()> {
    if buffer.len() < len {
        let more = len - buffer.len();
        let refuse = |_| InputError::OutOfMemory { bytes: (len * size_of::<f32>()) as u64 };
        buffer.try_reserve_exact(more).map_err(refuse)?;
        buffer.resize(len, 0.0);
    }
    Ok(())
}

/// Splits the output matrix `[E, (1 + n)·C]` by state: the head's columns stand first, and column `C + e·n + j` is
/// channel `e` of hidden state `j`.
fn deinterleave(weight: &Tensor, width: usize) -> Vec<Tensor> {
    let [rows, columns] = *weight.shape() else { unreachable!("weights are matrices") };
    let num_hidden = columns / width - 1;
    let size = weight.dtype().size();
    let split = |state: usize| {
        let (start, stride) = if state == 0 { (0, 1) } else { (width + state - 1, num_hidden) };
        let mut bytes = vec![0; rows * width * size];
        bytes.par_chunks_exact_mut(width * size).zip(weight.bytes().par_chunks_exact(columns * size)).for_each(
            |(row, stored)| {
                for (channel, element) in row.chunks_exact_mut(size).enumerate() {
                    let from = (start + stride * channel) * size;
                    element.copy_from_slice(&stored[from..from + size]);
                }
            },
        );
        Tensor::owned(weight.dtype(), vec![rows, width], bytes)
    };
    (0..=num_hidden).map(split).collect()
}
