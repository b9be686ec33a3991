//! Which model, and how it is to compute: the options that commands share.

use std::fmt::Arguments;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::builder::PossibleValue;
use clap::{Args, ValueEnum};

use super::note;
use crate::checkpoint::Checkpoint;
use crate::config::EncoderConfig;
use crate::dtype::Dtype;
use crate::encoder::{Device, Encoder, EncoderBuilder, Kernels, Tune};
use crate::error::Result;
use crate::image::Preprocess;
use crate::plan::{Plan, Semantics};

/// The geometry of an encoder, where it is not read from beside the weights.
#[derive(Args, Clone)]
#[group(multiple = true)]
pub(super) struct Geometry {
    /// A published geometry: 11b or 90b
    #[arg(long, value_name = "NAME", conflicts_with = "config")]
    pub(super) preset: Option<String>,
    /// A config.json: Hugging Face's, or torchtune's parameters (bare or under `encoder`)
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Side of a tile in pixels, where it is not the configuration's: 448 for the base weights' presets; position
    /// tables of another size are resized
    #[arg(long, value_name = "PIXELS")]
    pub(super) tile_size: Option<usize>,
}

impl Geometry {
    /// The configuration these options name, if they name one.
    pub(super) fn config(&self) -> Result<Option<EncoderConfig>> {
        match (&self.preset, &self.config) {
            (Some(name), _) => self.resized(EncoderConfig::preset(name)?).map(Some),
            (None, Some(file)) => self.resized(EncoderConfig::from_file(file)?).map(Some),
            (None, None) => Ok(None),
        }
    }

    /// A configuration with the tile size asked for.
    pub(super) fn resized(&self, mut config: EncoderConfig) -> Result<EncoderConfig> {
        config.tile_size = self.tile_size.unwrap_or(config.tile_size);
        config.validated()
    }
}

/// The model, and what function of its weights is meant.
#[derive(Args, Clone)]
pub(super) struct Model {
    /// The checkpoint: a folder, a .safetensors file, an index of shards, or, in a build with the feature `hub`,
    /// OWNER/NAME on the Hugging Face Hub [default: a built-in demo model with random weights]
    #[arg(long, value_name = "DIR")]
    pub(super) model: Option<PathBuf>,
    #[command(flatten)]
    pub(super) geometry: Geometry,
    /// Which function of the weights to compute [default: torchtune for torchtune's tensor names, meta for Meta's and
    /// Hugging Face's]
    #[arg(long, value_enum, value_name = "NAME")]
    pub(super) semantics: Option<SemanticsName>,
}

/// How the model computes.
#[derive(Args, Clone)]
pub(super) struct Computing {
    /// Where to compute: auto (a GPU if one is there, else the CPU), cpu, cuda, or GPUs by number, which share the
    /// batches: cuda:0,1
    #[arg(long, default_value = "auto", value_parser = Device::from_str)]
    pub(super) device: Device,
    /// The element type to compute in: f32 on the CPU, bf16 or fp16 on GPUs [default there: fp16 for weights stored so,
    /// else bf16]
    #[arg(long, value_enum, value_name = "TYPE")]
    pub(super) dtype: Option<Dtype>,
    /// The kernels of the matrix operations on GPUs: auto (the fastest), hopper or portable (one fused kernel a
    /// matrix), or cublas (cuBLASLt's products: the baseline)
    #[arg(long, default_value = "auto", value_parser = Kernels::from_str)]
    pub(super) kernels: Kernels,
    /// Whether the tiles of matrix operations are measured at the start: auto (on real GPUs, where no earlier start has done
    /// it), never, or always (on a simulated GPU too); changes times, no result
    #[arg(long, default_value = "auto", value_parser = Tune::from_str)]
    pub(super) tune: Tune,
    /// Threads to compute on where the CPU does it [default: one for each core]
    #[arg(long, value_name = "N")]
    pub(super) threads: Option<std::num::NonZeroUsize>,
    /// The most tiles computed together; bounds the working memory and changes no result
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub(super) max_batch_tiles: usize,
    /// Compute every padding row, even where rows are equal by construction
    #[arg(long)]
    pub(super) no_collapse: bool,
}

/// `--preprocess`.
#[derive(Args, Clone)]
pub(super) struct Preprocessing {
    /// How pictures become tiles: torchtune (its CLIPImageTransform in float32), torchtune-bf16 (in bfloat16), or pil
    /// (Hugging Face 4.x and Meta, through Pillow's arithmetic) [default: what the semantics were made with]
    #[arg(long, value_name = "NAME", value_parser = Preprocess::from_str)]
    pub(super) preprocess: Option<Preprocess>,
}

/// All that an encoder is built from.
#[derive(Args, Clone)]
pub(super) struct EncoderOptions {
    #[command(flatten)]
    model: Model,
    #[command(flatten)]
    pub(super) computing: Computing,
    #[command(flatten)]
    preprocessing: Preprocessing,
}

/// The names of the semantics on the command line.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum SemanticsName {
    /// torchtune's function of the weights: no padding rows, no mask
    Torchtune,
    /// What the published weights were trained with: padding rows that real rows see
    Meta,
}

impl From<SemanticsName> for Semantics {
    fn from(name: SemanticsName) -> Self {
        match name {
            SemanticsName::Torchtune => Self::Torchtune,
            SemanticsName::Meta => Self::Meta,
        }
    }
}

impl ValueEnum for Dtype {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::F32, Self::Bf16, Self::F16]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(match self {
            Self::F32 => PossibleValue::new("f32").alias("fp32").help("Single precision"),
            Self::Bf16 => PossibleValue::new("bf16").help("The upper half of single precision"),
            Self::F16 => PossibleValue::new("fp16").alias("f16").help("Half precision"),
        })
    }
}

impl Model {
    /// The checkpoint's place on this machine, fetched from the hub if need be; none for the demo model.
    pub(super) fn path(&self) -> Result<Option<PathBuf>> {
        self.model.as_deref().map(resolve).transpose()
    }

    /// Opens the checkpoint with the configuration that is meant; none for the demo model.
    pub(super) fn open(&self) -> Result<Option<(Checkpoint, EncoderConfig)>> {
        let Some(path) = self.path()? else { return Ok(None) };
        let checkpoint = Checkpoint::open(&path)?;
        let config = self.config_of(&checkpoint)?;
        Ok(Some((checkpoint, config)))
    }

    /// The configuration that is meant for a checkpoint: what the options say, or what lies beside it.
    pub(super) fn config_of(&self, checkpoint: &Checkpoint) -> Result<EncoderConfig> {
        match self.geometry.config()? {
            Some(config) => Ok(config),
            None => self.geometry.resized(checkpoint.config()?),
        }
    }

    /// Adds the weights to a builder; returns it with whose names they use.
    fn name(&self, builder: EncoderBuilder, tell: &dyn Fn(Arguments)) -> Result<(EncoderBuilder, String)> {
        Ok(match self.open()? {
            Some((checkpoint, config)) => {
                let names = format!("{}'s", checkpoint.format());
                (builder.checkpoint(checkpoint).config(config), names)
            }
            None => {
                tell(format_args!(
                    "no --model given: this is the built-in demo model with random weights; its embeddings mean nothing"
                ));
                (builder.demo(), "torchtune's".to_string())
            }
        })
    }
}

impl EncoderOptions {
    /// Builds the encoder, and says on standard error which model and which semantics it has.
    pub(super) fn build(&self) -> Result<Encoder> {
        self.build_telling(&note)
    }

    /// The same, said line by line to `tell`.
    pub(super) fn build_telling(&self, tell: &dyn Fn(Arguments)) -> Result<Encoder> {
        let Self { model, computing, preprocessing } = self;
        let mut builder = Encoder::builder()
            .device(computing.device.clone())
            .kernels(computing.kernels)
            .tune(computing.tune)
            .threads(computing.threads.map_or(0, usize::from))
            .max_batch_tiles(computing.max_batch_tiles)
            .collapse(!computing.no_collapse);
        if let Some(dtype) = computing.dtype {
            builder = builder.dtype(dtype);
        }
        if let Some(preprocess) = preprocessing.preprocess {
            builder = builder.preprocess(preprocess);
        }
        if let Some(semantics) = model.semantics {
            builder = builder.semantics(semantics.into());
        }
        let (builder, names) = model.name(builder, tell)?;
        let encoder = builder.build()?;
        let chosen = match model.semantics {
            Some(_) => "as asked".to_string(),
            None => format!("for tensors in {names} names"),
        };
        tell(format_args!("semantics: {} ({chosen}; --semantics says otherwise)", encoder.semantics()));
        tell(format_args!("device: {}, {}", encoder.device(), encoder.precision().activations));
        tell_fallbacks(&encoder.plan(&[[1, 1]])?, tell);
        Ok(encoder)
    }
}

/// Says which steps another form's kernels carry out.
pub(super) fn tell_fallbacks(plan: &Plan, tell: &dyn Fn(Arguments)) {
    let mut named: Vec<String> = Vec::new();
    for (step, form) in plan.fallbacks() {
        if !named.contains(&step.kind()) {
            named.push(step.kind());
            tell(format_args!("{}: beyond the {} kernels, done by the {form} one", step.kind(), plan.target.form));
        }
    }
}

/// A path as it is; a name of the form OWNER/NAME that is no path here, from the hub.
fn resolve(model: &Path) -> Result<PathBuf> {
    match repository_name(model).filter(|_| !model.exists()) {
        Some(name) => fetch(name),
        None => Ok(model.to_path_buf()),
    }
}

#[cfg(feature = "hub")]
fn fetch(name: &str) -> Result<PathBuf> {
    crate::checkpoint::hub::fetch(name, &super::progress::Transfer::new())
}

#[cfg(not(feature = "hub"))]
fn fetch(name: &str) -> Result<PathBuf> {
    let reason =
        "there is no such folder, and this build does not ask the Hub: build it with --features hub".to_string();
    Err(crate::error::Error::Hub { model: name.to_string(), reason })
}

/// `OWNER/NAME`, if that is what the path looks like.
fn repository_name(path: &Path) -> Option<&str> {
    let text = path.to_str()?;
    let (owner, name) = text.split_once('/')?;
    let is_word = |word: &str| {
        word.starts_with(|c: char| c.is_ascii_alphanumeric())
            && word.chars().all(|c| c.is_ascii_alphanumeric() || ['-', '_', '.'].contains(&c))
    };
    (is_word(owner) && is_word(name)).then_some(text)
}
