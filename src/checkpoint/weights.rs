//! The encoder's weights in the order the model uses them, each checked against the configuration.

use std::borrow::Cow;

use super::names::{self, NameFormat, layer_tensor, stored_name};
use super::resize;
use super::tables::PositionTables;
use super::tensor::Tensor;
use super::{Checkpoint, StoredTensor};
use crate::config::EncoderConfig;
use crate::error::{CheckpointError, Result};

/// Every weight of the encoder. Matrices stay in their stored type, wherever they lie; vectors are widened.
#[derive(Debug)]
pub struct VisionWeights {
    /// `[C, channels·p·p]`: a patch's values, channel by channel and row by row, to the residual stream.
    pub patch_embedding: Tensor,
    /// `[C]`: what stands in front of the patches of every tile.
    pub class_embedding: Vec<f32>,
    /// The position of a token in its tile, and of the tile in the image.
    pub token_positions: TokenPositions,
    /// The tables that depend on where a tile lies; none in a model of one tile in torchtune's names.
    pub tables: Option<PositionTables>,
    /// The norm before the transformer.
    pub layernorm_pre: Norm,
    /// The norm after the transformer.
    pub layernorm_post: Norm,
    /// The transformer's layers, which have no gates.
    pub transformer: Vec<LayerWeights>,
    /// The projection head's layers, which have two gates each.
    pub global_transformer: Vec<LayerWeights>,
    /// `[E, (1 + n)·C]`: the head's values first, then the `n` hidden states interleaved (element `e·n + j` is channel
    /// `e` of state `j`).
    pub projection: Linear,
}

/// The embedding of a token's position within its tile.
#[derive(Debug)]
pub enum TokenPositions {
    /// `x + embedding[row]`, `[N, C]`: torchtune's model for one tile.
    Plain(Vec<f32>),
    /// `x + (1 − tanh(gate))·embedding[row] + tanh(gate)·global[tile][row]`, `[N, C]`; the global part and the
    /// gate are in [`PositionTables`].
    Gated {
        /// `[N, C]`.
        local: Vec<f32>,
    },
}

/// A layer norm's scale and shift, `[C]` each.
#[derive(Debug)]
pub struct Norm {
    /// γ.
    pub weight: Vec<f32>,
    /// β.
    pub bias: Vec<f32>,
}

/// A linear map with a bias.
#[derive(Debug)]
pub struct Linear {
    /// `[out, in]`.
    pub weight: Tensor,
    /// `[out]`.
    pub bias: Vec<f32>,
}

/// A layer of either stack.
#[derive(Debug)]
pub struct LayerWeights {
    /// The norm before attention.
    pub input_layernorm: Norm,
    /// `[C, C]` each: queries, keys, values.
    pub qkv_proj: [Tensor; 3],
    /// `[C, C]`: attention's output.
    pub o_proj: Tensor,
    /// The norm before the MLP.
    pub post_attention_layernorm: Norm,
    /// `[F, C]`, followed by GELU.
    pub fc1: Linear,
    /// `[C, F]`.
    pub fc2: Linear,
    /// Before tanh, of attention's and the MLP's branch; none in the transformer.
    pub gates: Option<[f32; 2]>,
}

/// tanh of a gate, in the precision the gate has.
pub(crate) fn tanh(gate: f32) -> f32 {
    f64::from(gate).tanh() as f32
}

/// A tensor that a configuration asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct ExpectedTensor {
    /// torchtune's name.
    pub name: String,
    /// The shape in a checkpoint of the format asked for.
    pub shape: Vec<usize>,
}

/// The tensors of an encoder, in the shapes that `format` stores them in: 511 for the published ones.
pub fn expected_tensors(config: &EncoderConfig, format: NameFormat) -> Vec<ExpectedTensor> {
    let (width, tokens, tiles, mlp) =
        (config.clip_embed_dim, config.num_tokens(), config.max_num_tiles, config.mlp_dim());
    let mut all = Vec::new();
    let mut add = |name: String, shape: &[usize]| all.push(ExpectedTensor { name, shape: shape.to_vec() });
    match format {
        NameFormat::Meta => add("clip.conv.weight".into(), &[width, config.patch_len()]),
        _ => {
            add("clip.conv.weight".into(), &[width, config.in_channels, config.patch_size, config.patch_size]);
        }
    }
    add("clip.cls_token_embedding.weight".into(), &[width]);
    if config.has_tile_embeddings() || format != NameFormat::Torchtune {
        add(names::LOCAL_POSITIONS.into(), &[tokens, width]);
        let rows = if format == NameFormat::HuggingFace { config.aspect_ratios().count() + 1 } else { 0 };
        for (table, block) in [(names::GLOBAL_POSITIONS, tokens), (names::PRE_TILE, 1), (names::POST_TILE, 1)] {
            match format {
                NameFormat::HuggingFace => add(table.into(), &[rows, tiles * block * width]),
                _ => add(table.into(), &[tiles, tiles, block, width]),
            }
            add(gate_of(table), &[1]);
        }
    } else {
        add(names::PLAIN_POSITIONS.into(), &[tokens, width]);
    }
    for norm in ["clip.ln_pre", "clip.ln_post"] {
        add(format!("{norm}.weight"), &[width]);
        add(format!("{norm}.bias"), &[width]);
    }
    for (gated, num_layers) in [(false, config.clip_num_layers), (true, config.num_layers_projection)] {
        let num_tensors = names::LAYER.len() - if gated { 0 } else { names::NUM_GATES };
        for layer in 0..num_layers {
            for (leaf, ..) in &names::LAYER[..num_tensors] {
                let shape: &[usize] = match *leaf {
                    "mlp.w1.weight" => &[mlp, width],
                    "mlp.w1.bias" => &[mlp],
                    "mlp.w2.weight" => &[width, mlp],
                    leaf if leaf.ends_with(".scale") => &[1],
                    leaf if leaf.starts_with("attn.") => &[width, width],
                    _ => &[width],
                };
                add(layer_tensor(gated, layer, leaf), shape);
            }
        }
    }
    add("projection.output.weight".into(), &[config.decoder_embed_dim, config.projection_dim()]);
    add("projection.output.bias".into(), &[config.decoder_embed_dim]);
    all
}

/// The gate that scales a position table.
fn gate_of(table: &str) -> String {
    let (module, _) = table.rsplit_once('.').unwrap_or((table, ""));
    format!("{module}.gate")
}

impl VisionWeights {
    /// Takes the weights of `config`'s encoder from a checkpoint. Every tensor is checked for presence, shape and
    /// element type before any is read; position tables of another size are resized as torchtune's
    /// `load_state_dict` does it.
    ///
    /// # Errors
    /// [`CheckpointError::Missing`], [`Unexpected`](CheckpointError::Unexpected),
    /// [`Shape`](CheckpointError::Shape), [`Dtype`](CheckpointError::Dtype),
    /// [`Resize`](CheckpointError::Resize).
    pub fn load(checkpoint: &Checkpoint, config: &EncoderConfig) -> Result<Self> {
        let config = config.clone().validated()?;
        let loading = Loading { checkpoint, format: checkpoint.format };
        let expected = expected_tensors(&config, loading.format);
        loading.check(&config, &expected)?;
        loading.weights(&config)
    }
}

/// A checkpoint whose tensors are all known to be there.
struct Loading<'a> {
    checkpoint: &'a Checkpoint,
    format: NameFormat,
}

impl Loading<'_> {
    fn check(&self, config: &EncoderConfig, expected: &[ExpectedTensor]) -> Result<()> {
        let missing: Vec<_> = expected.iter().filter(|e| self.checkpoint.stored(&e.name).is_none()).collect();
        if let Some(first) = missing.first() {
            return Err(CheckpointError::Missing {
                tensor: self.name(&first.name),
                num_missing: missing.len(),
                num_expected: expected.len(),
            }
            .into());
        }
        let known: std::collections::HashSet<&str> = expected.iter().map(|e| e.name.as_str()).collect();
        if let Some((tune, stored)) = self.checkpoint.tensors.iter().find(|(tune, _)| !known.contains(tune.as_str())) {
            let expected = match names::layer_of(tune) {
                Some((true, _)) => format!("num_layers_projection = {}", config.num_layers_projection),
                Some((false, layer)) if layer < config.clip_num_layers => "no gates in these layers".to_string(),
                Some((false, _)) => format!("clip_num_layers = {}", config.clip_num_layers),
                None => format!("max_num_tiles = {}", config.max_num_tiles),
            };
            return Err(CheckpointError::Unexpected { tensor: stored.name.clone(), expected }.into());
        }
        for tensor in expected {
            let stored = self.stored(&tensor.name)?;
            if let Err(found) = &stored.dtype {
                return Err(CheckpointError::Dtype { tensor: stored.name.clone(), found: found.clone() }.into());
            }
            let fits = match self.is_resizable(&tensor.name, config) {
                true => resize::check(&stored.name, &tensor.name, &stored.shape, config)?,
                false => stored.shape == tensor.shape,
            };
            if !fits || !parts_fit(&tensor.name, stored) {
                return Err(CheckpointError::Shape {
                    tensor: stored.name.clone(),
                    expected: format!("{:?}", tensor.shape),
                    found: stored.shape.clone(),
                }
                .into());
            }
        }
        Ok(())
    }

    /// torchtune resizes the tables of a model with tile embeddings; Hugging Face's tables, one row an aspect ratio,
    /// have no grid to resize over.
    fn is_resizable(&self, tune: &str, config: &EncoderConfig) -> bool {
        let tables = [names::LOCAL_POSITIONS, names::GLOBAL_POSITIONS, names::PRE_TILE, names::POST_TILE];
        tables.contains(&tune) && config.has_tile_embeddings() && self.format != NameFormat::HuggingFace
    }

    /// What this checkpoint would call a tensor, with the prefix of those it has.
    fn name(&self, tune: &str) -> String {
        let beside =
            |(known, stored): (&String, &StoredTensor)| names::name_beside(tune, self.format, known, &stored.name);
        self.checkpoint.tensors.iter().find_map(beside).unwrap_or_else(|| stored_name(tune, self.format))
    }

    fn stored(&self, tune: &str) -> Result<&StoredTensor> {
        let missing = || CheckpointError::Missing { tensor: self.name(tune), num_missing: 1, num_expected: 1 };
        Ok(self.checkpoint.stored(tune).ok_or_else(missing)?)
    }

    /// A tensor whole, whatever number of ranks it is spread over.
    fn tensor(&self, tune: &str) -> Result<Tensor> {
        let stored = self.stored(tune)?;
        let unread = || CheckpointError::Dtype { tensor: stored.name.clone(), found: format!("{:?}", stored.dtype) };
        let parts = stored.parts.iter().map(|p| p.tensor.clone().ok_or_else(unread));
        let parts = parts.collect::<std::result::Result<Vec<_>, _>>()?;
        match &parts[..] {
            [whole] => Ok(whole.clone()),
            parts => Ok(join(parts, stored.shape.clone(), names::rank_dimension(tune) == Some(0))),
        }
    }

    fn vector(&self, tune: &str) -> Result<Vec<f32>> {
        Ok(self.tensor(tune)?.to_f32())
    }

    fn norm(&self, tune: &str) -> Result<Norm> {
        Ok(Norm { weight: self.vector(&format!("{tune}.weight"))?, bias: self.vector(&format!("{tune}.bias"))? })
    }

    fn linear(&self, tune: &str) -> Result<Linear> {
        Ok(Linear { weight: self.tensor(&format!("{tune}.weight"))?, bias: self.vector(&format!("{tune}.bias"))? })
    }

    fn layer(&self, gated: bool, layer: usize) -> Result<LayerWeights> {
        let name = |leaf: &str| layer_tensor(gated, layer, leaf);
        let tensor = |leaf: &str| self.tensor(&name(leaf));
        let gates = match gated {
            true => Some([self.vector(&name("sa_scale.scale"))?[0], self.vector(&name("mlp_scale.scale"))?[0]]),
            false => None,
        };
        Ok(LayerWeights {
            input_layernorm: self.norm(&name("sa_norm"))?,
            qkv_proj: [tensor("attn.q_proj.weight")?, tensor("attn.k_proj.weight")?, tensor("attn.v_proj.weight")?],
            o_proj: tensor("attn.output_proj.weight")?,
            post_attention_layernorm: self.norm(&name("mlp_norm"))?,
            fc1: self.linear(&name("mlp.w1"))?,
            fc2: self.linear(&name("mlp.w2"))?,
            gates,
        })
    }

    fn weights(&self, config: &EncoderConfig) -> Result<VisionWeights> {
        let width = config.clip_embed_dim;
        let gated = config.has_tile_embeddings() || self.format != NameFormat::Torchtune;
        let (token_positions, tables) = if gated {
            let resized = |tune: &str| -> Result<Tensor> {
                let tensor = self.tensor(tune)?;
                match self.is_resizable(tune, config) {
                    true => Ok(resize::resize(&self.stored(tune)?.name, tune, tensor, config)?),
                    false => Ok(tensor),
                }
            };
            let gate = |table: &str| -> Result<f32> { Ok(self.vector(&gate_of(table))?[0]) };
            let local = resized(names::LOCAL_POSITIONS)?.to_f32();
            let tables = PositionTables::new(
                config,
                self.format == NameFormat::HuggingFace,
                [resized(names::PRE_TILE)?, resized(names::GLOBAL_POSITIONS)?, resized(names::POST_TILE)?],
                [gate(names::PRE_TILE)?, gate(names::GLOBAL_POSITIONS)?, gate(names::POST_TILE)?],
            );
            (TokenPositions::Gated { local }, Some(tables))
        } else {
            (TokenPositions::Plain(self.vector(names::PLAIN_POSITIONS)?), None)
        };
        let stack = |gated: bool, n: usize| (0..n).map(|l| self.layer(gated, l)).collect::<Result<Vec<_>>>();
        Ok(VisionWeights {
            patch_embedding: self.tensor("clip.conv.weight")?.reshaped(vec![width, config.patch_len()]),
            class_embedding: self.vector("clip.cls_token_embedding.weight")?,
            token_positions,
            tables,
            layernorm_pre: self.norm("clip.ln_pre")?,
            layernorm_post: self.norm("clip.ln_post")?,
            transformer: stack(false, config.clip_num_layers)?,
            global_transformer: stack(true, config.num_layers_projection)?,
            projection: self.linear("projection.output")?,
        })
    }
}

/// Whether the parts of a tensor spread over ranks are slices of one tensor.
fn parts_fit(tune: &str, stored: &StoredTensor) -> bool {
    let Some(dimension) = names::rank_dimension(tune) else { return true };
    let same_but_one = |shape: &[usize]| {
        shape.len() == stored.shape.len()
            && shape.iter().zip(&stored.shape).enumerate().all(|(d, (a, b))| d == dimension || a == b)
    };
    let dtype = stored.parts[0].tensor.as_ref().map(Tensor::dtype);
    stored.parts.iter().all(|p| same_but_one(&p.shape) && p.tensor.as_ref().map(Tensor::dtype) == dtype)
}

/// Puts the ranks' parts of a tensor together, along rows or along columns.
fn join(parts: &[Tensor], shape: Vec<usize>, by_rows: bool) -> Tensor {
    let dtype = parts[0].dtype();
    let bytes: Cow<[u8]> = if by_rows {
        parts.iter().flat_map(Tensor::bytes).copied().collect()
    } else {
        let row = |part: &Tensor| part.shape()[1] * dtype.size();
        let rows = shape[0];
        let columns = |r: usize| parts.iter().flat_map(move |p| &p.bytes()[r * row(p)..(r + 1) * row(p)]);
        (0..rows).flat_map(columns).copied().collect()
    };
    Tensor::owned(dtype, shape, bytes.into_owned())
}
