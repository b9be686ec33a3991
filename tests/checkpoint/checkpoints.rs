//! Checkpoints made to order: the same weights under other names, in other layouts, element types and files.
//!
//! The names are those of the reference implementations, written down here a second time and not taken from the
//! loader: torchtune's `llama3_2_vision/_convert_weights.py`, Meta's `multimodal/encoder_utils.py` and Hugging Face's
//! `mllama/modeling_mllama.py`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors, View};
use tempfile::TempDir;
use tilesight::checkpoint::Checkpoint;
use tilesight::error::CheckpointError;
use tilesight::{EncoderConfig, Error};

use crate::golden_data::golden;

/// Asserts that a result matches a pattern, and shows it where it does not.
macro_rules! assert_matches {
    ($found:expr, $($pattern:tt)+) => {
        match $found {
            $($pattern)+ => {}
            other => panic!("{other:?}"),
        }
    };
}
pub(crate) use assert_matches;

/// A tensor as a file holds it.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

/// A checkpoint's tensors, by name.
pub type Weights = BTreeMap<String, Stored>;

/// The golden set `tiny`, in torchtune's names.
pub fn tiny() -> Weights {
    read_weights(&golden("tiny/model.safetensors"))
}

/// The configuration of `tiny`.
pub fn config() -> EncoderConfig {
    EncoderConfig::from_file(&golden("tiny/config.json")).unwrap()
}

/// A folder that is gone when it is dropped.
pub fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// What is wrong with a checkpoint, where something is.
#[track_caller]
pub fn refusal<T: std::fmt::Debug>(result: Result<T, Error>) -> CheckpointError {
    match result {
        Err(Error::Checkpoint(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

/// Why a checkpoint is not opened.
#[track_caller]
pub fn refused_to_open(path: &Path) -> CheckpointError {
    refusal(Checkpoint::open(path))
}

/// The tensors of a safetensors file.
pub fn read_weights(path: &Path) -> Weights {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let stored = |view: &safetensors::tensor::TensorView| Stored {
        dtype: view.dtype(),
        shape: view.shape().to_vec(),
        bytes: view.data().to_vec(),
    };
    file.tensors().iter().map(|(name, view)| (name.clone(), stored(view))).collect()
}

/// Writes a safetensors file.
pub fn write(weights: &Weights, path: &Path) {
    safetensors::serialize_to_file(weights, None, path).unwrap();
}

/// Writes a safetensors file by hand: any header, any data, nothing checked.
pub fn write_raw(header: &str, data: &[u8], path: &Path) {
    std::fs::write(path, raw(header, data)).unwrap();
}

/// A safetensors file by hand.
pub fn raw(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

/// Writes `weights` as numbered shards with their index into `folder`; tensor number `i` goes to shard `shard_of(i)`.
pub fn write_shards(weights: &Weights, num_shards: usize, shard_of: impl Fn(usize) -> usize, folder: &Path) {
    let name = |shard: usize| format!("model-{:05}-of-{num_shards:05}.safetensors", shard + 1);
    let mut shards = vec![Weights::new(); num_shards];
    let mut map = BTreeMap::new();
    for (number, (tensor, stored)) in weights.iter().enumerate() {
        shards[shard_of(number)].insert(tensor.clone(), stored.clone());
        map.insert(tensor, name(shard_of(number)));
    }
    for (number, shard) in shards.iter().enumerate() {
        write(shard, &folder.join(name(number)));
    }
    write_index(&map, folder);
}

/// Writes the index of a sharded checkpoint: which tensor is in which file.
pub fn write_index<N: serde::Serialize, F: serde::Serialize>(map: &BTreeMap<N, F>, folder: &Path) {
    let index = serde_json::json!({ "metadata": { "total_size": 0 }, "weight_map": map });
    std::fs::write(folder.join("model.safetensors.index.json"), index.to_string()).unwrap();
}

impl View for &Stored {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        (&self.bytes).into()
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

impl Stored {
    pub fn of_f32(values: &[f32], shape: &[usize]) -> Self {
        let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        Self { dtype: Dtype::F32, shape: shape.to_vec(), bytes }
    }

    pub fn f32(&self) -> Vec<f32> {
        match self.dtype {
            Dtype::F32 => self.bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Dtype::BF16 => self.bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
            Dtype::F16 => self.bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
            other => panic!("{other:?} is not widened"),
        }
    }

    /// The same values in another element type.
    pub fn cast(&self, dtype: Dtype) -> Self {
        let values = self.f32();
        let bytes = match dtype {
            Dtype::F32 => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Dtype::BF16 => values.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect(),
            Dtype::F16 => values.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect(),
            other => panic!("{other:?} is not written"),
        };
        Self { dtype, shape: self.shape.clone(), bytes }
    }

    pub fn reshaped(mut self, shape: &[usize]) -> Self {
        assert_eq!(self.shape.iter().product::<usize>(), shape.iter().product::<usize>());
        self.shape = shape.to_vec();
        self
    }

    /// Part `part` of `parts` along `dimension`.
    pub fn slice(&self, dimension: usize, part: usize, parts: usize) -> Self {
        let mut shape = self.shape.clone();
        assert_eq!(shape[dimension] % parts, 0);
        shape[dimension] /= parts;
        let len = shape[dimension..].iter().product::<usize>() * self.dtype.bitsize() / 8;
        let bytes = self.bytes.chunks_exact(len).skip(part).step_by(parts).flatten().copied().collect();
        Self { dtype: self.dtype, shape, bytes }
    }
}

/// torchtune's name, Meta's without `vision_model.vision_encoder.`, Hugging Face's without `vision_model.`.
const MODEL: [[&str; 3]; 13] = [
    ["clip.conv.weight", "conv1._linear.weight", "patch_embedding.weight"],
    ["clip.cls_token_embedding.weight", "class_embedding", "class_embedding"],
    [
        "clip.token_pos_embedding.local_token_positional_embedding",
        "positional_embedding",
        "gated_positional_embedding.embedding",
    ],
    [
        "clip.token_pos_embedding.global_token_positional_embedding",
        "gated_positional_embedding",
        "gated_positional_embedding.tile_embedding.weight",
    ],
    ["clip.token_pos_embedding.gate", "gated_positional_embedding_gate", "gated_positional_embedding.gate"],
    [
        "clip.pre_tile_pos_embed.embedding",
        "pre_tile_pos_embed.embedding",
        "pre_tile_positional_embedding.embedding.weight",
    ],
    ["clip.pre_tile_pos_embed.gate", "pre_tile_pos_embed.gate", "pre_tile_positional_embedding.gate"],
    [
        "clip.post_tile_pos_embed.embedding",
        "post_tile_pos_embed.embedding",
        "post_tile_positional_embedding.embedding.weight",
    ],
    ["clip.post_tile_pos_embed.gate", "post_tile_pos_embed.gate", "post_tile_positional_embedding.gate"],
    ["clip.ln_pre.weight", "ln_pre.weight", "layernorm_pre.weight"],
    ["clip.ln_pre.bias", "ln_pre.bias", "layernorm_pre.bias"],
    ["clip.ln_post.weight", "ln_post.weight", "layernorm_post.weight"],
    ["clip.ln_post.bias", "ln_post.bias", "layernorm_post.bias"],
];

/// What stands before a layer's number.
const STACKS: [[&str; 3]; 2] = [
    ["clip.layers", "transformer.resblocks", "transformer.layers"],
    ["projection.layers", "global_transformer.resblocks", "global_transformer.layers"],
];

/// What stands behind a layer's number.
const LAYER: [[&str; 3]; 14] = [
    ["attn.q_proj.weight", "attn.wq.weight", "self_attn.q_proj.weight"],
    ["attn.k_proj.weight", "attn.wk.weight", "self_attn.k_proj.weight"],
    ["attn.v_proj.weight", "attn.wv.weight", "self_attn.v_proj.weight"],
    ["attn.output_proj.weight", "attn.wo.weight", "self_attn.o_proj.weight"],
    ["sa_norm.weight", "ln_1.weight", "input_layernorm.weight"],
    ["sa_norm.bias", "ln_1.bias", "input_layernorm.bias"],
    ["mlp_norm.weight", "ln_2.weight", "post_attention_layernorm.weight"],
    ["mlp_norm.bias", "ln_2.bias", "post_attention_layernorm.bias"],
    ["mlp.w1.weight", "mlp.c_fc.weight", "mlp.fc1.weight"],
    ["mlp.w1.bias", "mlp.c_fc.bias", "mlp.fc1.bias"],
    ["mlp.w2.weight", "mlp.c_proj.weight", "mlp.fc2.weight"],
    ["mlp.w2.bias", "mlp.c_proj.bias", "mlp.fc2.bias"],
    ["sa_scale.scale", "gate_attn", "gate_attn"],
    ["mlp_scale.scale", "gate_ffn", "gate_ffn"],
];

/// The other two name families.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Family {
    Meta,
    HuggingFace,
}

/// A torchtune name in another family.
pub fn renamed(tune: &str, family: Family) -> String {
    let (column, encoder, projection) = match family {
        Family::Meta => (1, "vision_model.vision_encoder.", "vision_model.vision_projection."),
        Family::HuggingFace => (2, "vision_model.", "multi_modal_projector."),
    };
    if let Some(leaf) = tune.strip_prefix("projection.output.") {
        return format!("{projection}{leaf}");
    }
    if let Some(row) = MODEL.iter().find(|row| row[0] == tune) {
        return format!("{encoder}{}", row[column]);
    }
    for stack in STACKS {
        let Some((number, leaf)) = tune.strip_prefix(&format!("{}.", stack[0])).and_then(|s| s.split_once('.')) else {
            continue;
        };
        let row = LAYER.iter().find(|row| row[0] == leaf).unwrap();
        return format!("{encoder}{}.{number}.{}", stack[column], row[column]);
    }
    panic!("{tune} is no name of torchtune's");
}

/// torchtune's weights under Meta's names, whose patch matrix is flat.
pub fn to_meta(weights: &Weights) -> Weights {
    let meta = |(name, stored): (&String, &Stored)| {
        let mut stored = stored.clone();
        if name == "clip.conv.weight" {
            let [width, channels, height, columns] = stored.shape[..] else { panic!("{:?}", stored.shape) };
            stored = stored.reshaped(&[width, channels * height * columns]);
        }
        (renamed(name, Family::Meta), stored)
    };
    weights.iter().map(meta).collect()
}

/// torchtune's weights under Hugging Face's names, whose position tables have a row for each aspect ratio.
pub fn to_hugging_face(weights: &Weights, max_num_tiles: usize) -> Weights {
    let hugging_face = |(name, stored): (&String, &Stored)| {
        let is_table = stored.shape.len() == 4 && name != "clip.conv.weight";
        let stored = if is_table { per_aspect_ratio(stored, max_num_tiles) } else { stored.clone() };
        (renamed(name, Family::HuggingFace), stored)
    };
    weights.iter().map(hugging_face).collect()
}

/// A table `[T, T, …]` as rows of T blocks: row 0 for a missing image, then one for each grid; zeros past its tiles.
fn per_aspect_ratio(table: &Stored, tiles: usize) -> Stored {
    let block = table.bytes.len() / (tiles * tiles);
    let mut bytes = vec![0; tiles * block];
    let mut num_rows = 1;
    for height in 1..=tiles {
        for width in (1..=tiles).filter(|width| height * width <= tiles) {
            for cell in 0..tiles {
                let (row, column) = (cell / width, cell % width);
                let start = (row * tiles + column) * block;
                match cell < height * width {
                    true => bytes.extend_from_slice(&table.bytes[start..start + block]),
                    false => bytes.extend(std::iter::repeat_n(0, block)),
                }
            }
            num_rows += 1;
        }
    }
    let row_len = tiles * block * 8 / table.dtype.bitsize();
    Stored { dtype: table.dtype, shape: vec![num_rows, row_len], bytes }
}

/// Meta's weights as `parts` model-parallel ranks.
pub fn to_ranks(meta: &Weights, parts: usize) -> Vec<Weights> {
    let by_rows = ["conv1._linear.weight", "wq.weight", "wk.weight", "wv.weight", "c_fc.weight", "c_fc.bias"];
    let by_columns = ["wo.weight", "c_proj.weight"];
    let rank = |part: usize| {
        let slice = |(name, stored): (&String, &Stored)| {
            let is_projection = name.starts_with("vision_model.vision_projection.");
            let part = if is_projection || by_rows.iter().any(|end| name.ends_with(end)) {
                stored.slice(0, part, parts)
            } else if by_columns.iter().any(|end| name.ends_with(end)) {
                stored.slice(1, part, parts)
            } else {
                stored.clone()
            };
            (name.clone(), part)
        };
        meta.iter().map(slice).collect()
    };
    (0..parts).map(rank).collect()
}

/// The same tensors, their names changed.
pub fn with_names(weights: &Weights, change: impl Fn(&str) -> String) -> Weights {
    weights.iter().map(|(name, stored)| (change(name), stored.clone())).collect()
}
