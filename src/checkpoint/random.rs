//! Checkpoints of random weights, for machines without the licensed ones: any geometry, any seed, the same values in
//! every layout.
//!
//! The published initial values would prove little: their zero gates hide whole paths. Here every gate, bias and table
//! is non-zero, a few norm channels are loud as in trained models, and the activations stay near unit scale.

use std::path::Path;

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{RngCore, SeedableRng};
use rayon::prelude::*;

use super::names::{self, NameFormat, stored_name};
use super::weights::{ExpectedTensor, expected_tensors};
use super::{Checkpoint, Tensor};
use crate::config::EncoderConfig;
use crate::dtype::Dtype;
use crate::error::{Error, Result};

/// Elements that share one generator; tensors are filled in parallel, chunk by chunk, with the same result on any
/// number of threads.
const CHUNK: usize = 1 << 16;

/// The small encoder that runs where no model is named: 224-pixel tiles, a tenth of a second an image.
pub fn demo_config() -> EncoderConfig {
    EncoderConfig {
        patch_size: 14,
        num_heads: 4,
        clip_embed_dim: 320,
        clip_num_layers: 4,
        clip_hidden_states: vec![1, 3],
        num_layers_projection: 2,
        decoder_embed_dim: 512,
        tile_size: 224,
        max_num_tiles: 4,
        in_channels: 3,
    }
}

/// A recipe for random weights.
#[derive(Debug, Clone)]
pub struct RandomWeights {
    config: EncoderConfig,
    dtype: Dtype,
    seed: u64,
}

impl RandomWeights {
    /// Weights of `config`'s encoder, stored as `dtype`.
    ///
    /// # Errors
    /// Those of [`EncoderConfig::validated`].
    pub fn new(config: &EncoderConfig, dtype: Dtype, seed: u64) -> Result<Self> {
        Ok(Self { config: config.clone().validated()?, dtype, seed })
    }

    /// The checkpoint in memory, in torchtune's names.
    pub fn in_memory(&self) -> Checkpoint {
        let path = format!("random weights (seed {})", self.seed);
        let tensors = expected_tensors(&self.config, NameFormat::Torchtune).into_iter().map(|tensor| {
            let values = self.stored_values(&tensor, NameFormat::Torchtune);
            (tensor.name, Tensor::owned(self.dtype, tensor.shape, values))
        });
        Checkpoint::in_memory(Path::new(&path), tensors)
    }

    /// Writes `config.json` and `model.safetensors` into `folder`, which is made if need be; in Hugging Face's layout
    /// `preprocessor_config.json` too. `progress` is told the bytes written so far and the bytes in all.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, folder: &Path, format: NameFormat, progress: &(dyn Fn(u64, u64) + Sync)) -> Result<()> {
        std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let write_json = |name: &str, json: &serde_json::Value| {
            let path = folder.join(name);
            std::fs::write(&path, format!("{json:#}\n")).map_err(Error::io(&path))
        };
        match format {
            NameFormat::HuggingFace => {
                write_json("config.json", &self.hugging_face_config())?;
                write_json("preprocessor_config.json", &self.preprocessor_config())?;
            }
            _ => write_json("config.json", &serde_json::json!({ "encoder": self.config, "seed": self.seed }))?,
        }
        let tensors = expected_tensors(&self.config, format);
        let num_bytes = tensors.iter().map(|t| self.num_bytes(t)).sum();
        let written = std::sync::atomic::AtomicU64::new(0);
        let views = tensors.into_iter().map(|tensor| {
            let name = stored_name(&tensor.name, format);
            (name, LazyTensor { recipe: self, tensor, format, written: &written, num_bytes, progress })
        });
        let path = folder.join("model.safetensors");
        let metadata = [("format".to_string(), "pt".to_string())].into();
        safetensors::serialize_to_file(views, Some(metadata), &path)
            .map_err(|e| Error::Io { path: path.clone(), source: std::io::Error::other(e) })?;
        // It is written beside its place and then moved there, which leaves it to its owner alone; the configuration
        // has the rights that files have here.
        let rights = std::fs::metadata(folder.join("config.json")).map_err(Error::io(folder))?.permissions();
        std::fs::set_permissions(&path, rights).map_err(Error::io(&path))
    }

    fn num_bytes(&self, tensor: &ExpectedTensor) -> u64 {
        (tensor.shape.iter().product::<usize>() * self.dtype.size()) as u64
    }

    /// A tensor's bytes as `format` lays them out.
    fn stored_values(&self, tensor: &ExpectedTensor, format: NameFormat) -> Vec<u8> {
        let is_table = [names::GLOBAL_POSITIONS, names::PRE_TILE, names::POST_TILE].contains(&tensor.name.as_str());
        if !(is_table && format == NameFormat::HuggingFace) {
            return self.values(tensor);
        }
        // One T×T grid, spread over the aspect ratios; blocks past a ratio's tiles, and all of id 0, stay zero.
        let tiles = self.config.max_num_tiles;
        let block_len = tensor.shape[1] / tiles;
        let grid = self.values(&ExpectedTensor { name: tensor.name.clone(), shape: vec![tiles, tiles, block_len] });
        let block_bytes = block_len * self.dtype.size();
        let mut bytes = vec![0; tensor.shape[0] * tiles * block_bytes];
        for (index, (height, width)) in self.config.aspect_ratios().enumerate() {
            for tile in 0..height * width {
                let from = (tile / width * tiles + tile % width) * block_bytes;
                let to = ((index + 1) * tiles + tile) * block_bytes;
                bytes[to..to + block_bytes].copy_from_slice(&grid[from..from + block_bytes]);
            }
        }
        bytes
    }

    /// A tensor's values as bytes of the stored type, in torchtune's layout.
    fn values(&self, tensor: &ExpectedTensor) -> Vec<u8> {
        let len: usize = tensor.shape.iter().product();
        let scale = Scale::of(tensor);
        let name_seed = tensor.name.bytes().fold(self.seed, |hash, byte| {
            // FNV-1a, so that a tensor's values depend on its name and not on its neighbours.
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let chunk_bytes = CHUNK * self.dtype.size();
        let mut bytes = vec![0; len * self.dtype.size()];
        bytes.par_chunks_mut(chunk_bytes).enumerate().for_each(|(chunk, out)| {
            let mut rng = Xoshiro256PlusPlus::seed_from_u64(name_seed.wrapping_add((chunk as u64) << 40));
            let values: Vec<f32> = (0..out.len() / self.dtype.size()).map(|_| scale.draw(&mut rng)).collect();
            self.dtype.narrow_into(&values, out);
        });
        bytes
    }

    fn hugging_face_config(&self) -> serde_json::Value {
        let config = &self.config;
        let grids: Vec<[usize; 2]> = config.aspect_ratios().map(|(h, w)| [h, w]).collect();
        serde_json::json!({
            "architectures": ["MllamaForConditionalGeneration"],
            "model_type": "mllama",
            "text_config": { "hidden_size": config.decoder_embed_dim, "model_type": "mllama_text_model" },
            "vision_config": {
                "attention_heads": config.num_heads,
                "hidden_act": "gelu",
                "hidden_size": config.clip_embed_dim,
                "image_size": config.tile_size,
                "intermediate_layers_indices": config.clip_hidden_states,
                "intermediate_size": config.mlp_dim(),
                "max_num_tiles": config.max_num_tiles,
                "model_type": "mllama_vision_model",
                "norm_eps": 1e-5,
                "num_channels": config.in_channels,
                "num_global_layers": config.num_layers_projection,
                "num_hidden_layers": config.clip_num_layers,
                "patch_size": config.patch_size,
                "supported_aspect_ratios": grids,
                "vision_output_dim": config.projection_dim(),
            },
        })
    }

    fn preprocessor_config(&self) -> serde_json::Value {
        let side = self.config.tile_size;
        serde_json::json!({
            "image_processor_type": "MllamaImageProcessor",
            "do_convert_rgb": true, "do_normalize": true, "do_pad": true, "do_rescale": true, "do_resize": true,
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711],
            "max_image_tiles": self.config.max_num_tiles,
            "resample": 2,
            "rescale_factor": 1.0 / 255.0,
            "size": { "height": side, "width": side },
        })
    }
}

/// How a tensor's values are distributed: uniform around a centre, with a share of loud ones.
struct Scale {
    centre: f32,
    /// Half the width of the uniform distribution.
    reach: f32,
    /// The share of values that are three times as large.
    loud: f32,
    /// Whether values stay away from zero: gates between 0.3 and 1.2, of both signs.
    gate: bool,
}

impl Scale {
    fn of(tensor: &ExpectedTensor) -> Self {
        let name = tensor.name.as_str();
        let is_norm = ["sa_norm", "mlp_norm", "ln_pre", "ln_post"].iter().any(|norm| name.contains(norm));
        let fan_in = tensor.shape[1..].iter().product::<usize>().max(1) as f32;
        // A uniform distribution's standard deviation is its reach over √3.
        let with_std = |std: f32| Self { centre: 0.0, reach: std * 3f32.sqrt(), loud: 0.0, gate: false };
        if tensor.shape == [1] {
            Self { gate: true, ..with_std(1.0) }
        } else if is_norm && name.ends_with("weight") {
            Self { centre: 1.0, loud: 0.03, ..with_std(0.2) }
        } else if is_norm {
            with_std(0.15)
        } else if name.ends_with("bias") {
            with_std(0.1)
        } else if name.contains("q_proj") || name.contains("k_proj") {
            // Attention logits with a spread of about 1.7, as sharp as a trained model's.
            with_std(1.3 / fan_in.sqrt())
        } else if name.ends_with("conv.weight") {
            with_std(0.8 / fan_in.sqrt())
        } else if name.contains("proj.weight") || name.contains("mlp.") || name == "projection.output.weight" {
            with_std(1.0 / fan_in.sqrt())
        } else {
            with_std(0.4)
        }
    }

    fn draw(&self, rng: &mut Xoshiro256PlusPlus) -> f32 {
        let bits = rng.next_u64();
        // 24 bits fill an f32 exactly; the others decide the rest.
        let unit = (bits >> 40) as f32 / (1u32 << 24) as f32;
        let other = (bits & 0xffff) as f32 / 65536.0;
        if self.gate {
            let size = 0.3 + 0.9 * unit;
            return if other < 0.7 { size } else { -size };
        }
        let value = self.centre + self.reach * (2.0 * unit - 1.0);
        if other < self.loud { 3.0 * value } else { value }
    }
}

/// A tensor that is made when it is written, so that a checkpoint never lies in memory whole.
struct LazyTensor<'a> {
    recipe: &'a RandomWeights,
    tensor: ExpectedTensor,
    format: NameFormat,
    written: &'a std::sync::atomic::AtomicU64,
    num_bytes: u64,
    progress: &'a (dyn Fn(u64, u64) + Sync),
}

impl safetensors::View for LazyTensor<'_> {
    fn dtype(&self) -> safetensors::Dtype {
        match self.recipe.dtype {
            Dtype::F32 => safetensors::Dtype::F32,
            Dtype::Bf16 => safetensors::Dtype::BF16,
            Dtype::F16 => safetensors::Dtype::F16,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.tensor.shape
    }

    fn data(&self) -> std::borrow::Cow<'_, [u8]> {
        let bytes = self.recipe.stored_values(&self.tensor, self.format);
        let order = std::sync::atomic::Ordering::Relaxed;
        let before = self.written.fetch_add(bytes.len() as u64, order);
        (self.progress)(before + bytes.len() as u64, self.num_bytes);
        bytes.into()
    }

    fn data_len(&self) -> usize {
        self.recipe.num_bytes(&self.tensor) as usize
    }
}
