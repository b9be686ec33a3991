//! The encoder's weights in the order the model uses them, each checked against the configuration.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Checkpoint;
use super::names::{self, NameFormat, layer_tensor, stored_name};
use super::resize;
use super::stored::StoredTensor;
use super::tables::PositionTables;
use super::tensor::Tensor;
use crate::config::EncoderConfig;
use crate::error::{CheckpointError, Result};

/// Every weight of the encoder. Matrices stay in their stored type; vectors are widened.
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
    /// All that was read, so that others who load the same checkpoint meanwhile are given it.
    #[expect(dead_code, reason = "held, and looked at by nobody")]
    pub(super) read: Arc<BTreeMap<String, Tensor>>,
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
    /// Reads the weights of `config`'s encoder from a checkpoint, unless weights that were loaded from it live, whose
    /// memory they share then. Every tensor is checked for presence, shape and element type before any is read; position tables of another
    /// size are resized as torchtune's `load_state_dict` does it.
    ///
    /// # Errors
    /// [`CheckpointError::Missing`], [`Unexpected`](CheckpointError::Unexpected),
    /// [`Shape`](CheckpointError::Shape), [`Dtype`](CheckpointError::Dtype),
    /// [`Resize`](CheckpointError::Resize); [`Damaged`](CheckpointError::Damaged) where a file has become shorter,
    /// [`Error::Io`](crate::Error::Io), [`InputError::OutOfMemory`](crate::error::InputError::OutOfMemory).
    pub fn load(checkpoint: &Checkpoint, config: &EncoderConfig) -> Result<Self> {
        let (loading, config) = Loading::checked(checkpoint, config)?;
        let read = checkpoint.read()?;
        Loading { read: Some(&read), ..loading }.weights(&config, read.clone())
    }

    /// Whether [`load`](Self::load) would find every tensor as `config` asks for it. Reads none.
    ///
    /// # Errors
    /// Those of [`load`](Self::load), but for reading.
    pub fn check(checkpoint: &Checkpoint, config: &EncoderConfig) -> Result<()> {
        Loading::checked(checkpoint, config).map(drop)
    }
}

impl PositionTables {
    /// Reads the position tables of `config`'s encoder alone, where every tensor is as [`VisionWeights::check`] wants it;
    /// none in a model of one tile in torchtune's names.
    ///
    /// # Errors
    /// Those of [`VisionWeights::load`].
    pub fn load(checkpoint: &Checkpoint, config: &EncoderConfig) -> Result<Option<Self>> {
        let (loading, config) = Loading::checked(checkpoint, config)?;
        loading.has_tables(&config).then(|| loading.tables(&config)).transpose()
    }
}

/// A checkpoint whose tensors are all known to be there.
struct Loading<'a> {
    checkpoint: &'a Checkpoint,
    format: NameFormat,
    /// All tensors, where all are wanted; otherwise each is read where it is asked for.
    read: Option<&'a BTreeMap<String, Tensor>>,
}

impl<'a> Loading<'a> {
    fn checked(checkpoint: &'a Checkpoint, config: &EncoderConfig) -> Result<(Self, EncoderConfig)> {
        let config = config.clone().validated()?;
        let loading = Self { checkpoint, format: checkpoint.format, read: None };
        loading.check(&config, &expected_tensors(&config, loading.format))?;
        Ok((loading, config))
    }

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
            if !fits || !stored.parts_fit(&tensor.name) {
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
        match self.read.and_then(|read| read.get(tune)) {
            Some(tensor) => Ok(tensor.clone()),
            None => self.stored(tune)?.read(tune),
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

    fn has_tables(&self, config: &EncoderConfig) -> bool {
        config.has_tile_embeddings() || self.format != NameFormat::Torchtune
    }

    fn tables(&self, config: &EncoderConfig) -> Result<PositionTables> {
        let table = |tune| self.resized(tune, config);
        let gate = |table: &str| -> Result<f32> { Ok(self.vector(&gate_of(table))?[0]) };
        Ok(PositionTables::new(
            config,
            self.format == NameFormat::HuggingFace,
            [table(names::PRE_TILE)?, table(names::GLOBAL_POSITIONS)?, table(names::POST_TILE)?],
            [gate(names::PRE_TILE)?, gate(names::GLOBAL_POSITIONS)?, gate(names::POST_TILE)?],
        ))
    }

    /// A table of positions, in the size that the configuration asks for.
    fn resized(&self, tune: &str, config: &EncoderConfig) -> Result<Tensor> {
        let tensor = self.tensor(tune)?;
        match self.is_resizable(tune, config) {
            true => Ok(resize::resize(&self.stored(tune)?.name, tune, tensor, config)?),
            false => Ok(tensor),
        }
    }

    fn weights(&self, config: &EncoderConfig, read: Arc<BTreeMap<String, Tensor>>) -> Result<VisionWeights> {
        let width = config.clip_embed_dim;
        let (token_positions, tables) = if self.has_tables(config) {
            let local = self.resized(names::LOCAL_POSITIONS, config)?.to_f32();
            (TokenPositions::Gated { local }, Some(self.tables(config)?))
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
            read,
        })
    }
}
