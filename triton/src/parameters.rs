//! The `parameters` of a `config.pbtxt`: which model, and how it is to compute.

use std::collections::BTreeMap;
use std::path::Path;
use std::str::FromStr;

use tilesight::checkpoint::{Checkpoint, demo_config};
use tilesight::encoder::EncoderBuilder;
use tilesight::image::{Limits, Preprocess};
use tilesight::plan::Semantics;
use tilesight::{Device, Dtype, Encoder, EncoderConfig, Kernels, Tune};

use crate::refusal::{Refusal, Result};

/// The most pixels of a picture, unless said otherwise: those of `tilesight serve`.
const MAX_PIXELS: usize = 50_000_000;

const KNOWN: [&str; 11] = [
    "model",
    "preset",
    "semantics",
    "preprocess",
    "dtype",
    "kernels",
    "tune",
    "threads",
    "max_batch_tiles",
    "max_pixels",
    "rows",
];

/// The parameters of a model, each checked by itself.
#[derive(Debug, Clone)]
pub(crate) struct Parameters {
    source: Source,
    config: EncoderConfig,
    semantics: Option<Semantics>,
    preprocess: Option<Preprocess>,
    dtype: Option<Dtype>,
    kernels: Kernels,
    tune: Tune,
    threads: usize,
    max_batch_tiles: Option<usize>,
    limits: Limits,
    rows: Rows,
}

/// Where the weights come from.
#[derive(Debug, Clone)]
enum Source {
    Demo,
    /// One for all instances, which share its bytes on the CPU.
    Checkpoint(Checkpoint),
}

/// How many rows the embeddings of a request have for each picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rows {
    /// Those of a picture of `max_num_tiles` tiles.
    Max,
    /// Those of the request's largest picture.
    Request,
}

impl Parameters {
    /// Reads them. `folder` is the model's version in the repository, which holds the checkpoint unless `model` says
    /// otherwise.
    pub(crate) fn read(given: &BTreeMap<String, String>, folder: &Path) -> Result<Self> {
        // The server's own begin so.
        let unknown = given.keys().find(|name| !KNOWN.contains(&&name[..]) && !name.starts_with("TRITON_"));
        if let Some(name) = unknown {
            return Err(Refusal::invalid(format!("there is no parameter {name:?}; there are {}", KNOWN.join(", "))));
        }
        let source = match given.get("model").map(String::as_str) {
            Some("demo") => Source::Demo,
            Some(path) => Source::Checkpoint(Checkpoint::open(&folder.join(path))?),
            None => Source::Checkpoint(Checkpoint::open(folder)?),
        };
        let preset = given.get("preset").map(|name| EncoderConfig::preset(name)).transpose()?;
        let config = match (&source, preset) {
            (Source::Demo, Some(_)) => return Err(Refusal::invalid("the demo model has no preset")),
            (Source::Demo, None) => demo_config(),
            (Source::Checkpoint(checkpoint), preset) => preset.map_or_else(|| checkpoint.config(), Ok)?,
        };
        let rows = match given.get("rows").map(String::as_str) {
            None | Some("max") => Rows::Max,
            Some("request") => Rows::Request,
            Some(other) => return Err(Refusal::invalid(format!("rows must be max or request, found {other:?}"))),
        };
        let max_batch_tiles = number(given, "max_batch_tiles")?;
        if max_batch_tiles == Some(0) {
            return Err(Refusal::invalid("max_batch_tiles must be at least 1, found 0"));
        }
        let max_pixels = number(given, "max_pixels")?.unwrap_or(MAX_PIXELS);
        Ok(Self {
            source,
            config,
            semantics: parsed(given, "semantics")?,
            preprocess: parsed(given, "preprocess")?,
            dtype: parsed(given, "dtype")?,
            kernels: parsed(given, "kernels")?.unwrap_or_default(),
            tune: parsed(given, "tune")?.unwrap_or_default(),
            threads: number(given, "threads")?.unwrap_or(0),
            max_batch_tiles,
            limits: Limits { max_pixels, ..Limits::default() },
            rows,
        })
    }

    /// The model's sizes.
    pub(crate) fn config(&self) -> &EncoderConfig {
        &self.config
    }

    /// Threads of the host for each instance; 0 is one for each core.
    pub(crate) fn threads(&self) -> usize {
        self.threads
    }

    /// How large a picture may be.
    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// How many rows an answer has.
    pub(crate) fn rows(&self) -> Rows {
        self.rows
    }

    /// Builds an encoder on a device.
    pub(crate) fn encoder(&self, device: Device) -> Result<Encoder> {
        let builder = match &self.source {
            Source::Demo => Encoder::builder().demo(),
            Source::Checkpoint(checkpoint) => {
                Encoder::builder().checkpoint(checkpoint.clone()).config(self.config.clone())
            }
        };
        let builder = builder.device(device).kernels(self.kernels).tune(self.tune).threads(self.threads);
        let builder = with(builder, self.semantics, EncoderBuilder::semantics);
        let builder = with(builder, self.preprocess, EncoderBuilder::preprocess);
        let builder = with(builder, self.dtype, EncoderBuilder::dtype);
        Ok(with(builder, self.max_batch_tiles, EncoderBuilder::max_batch_tiles).build()?)
    }

    /// What is served, for the log.
    pub(crate) fn source(&self) -> String {
        match &self.source {
            Source::Demo => "the demo model, whose embeddings mean nothing".to_string(),
            Source::Checkpoint(checkpoint) => checkpoint.path().display().to_string(),
        }
    }
}

fn with<T>(builder: EncoderBuilder, value: Option<T>, set: fn(EncoderBuilder, T) -> EncoderBuilder) -> EncoderBuilder {
    match value {
        Some(value) => set(builder, value),
        None => builder,
    }
}

fn parsed<T: FromStr<Err = tilesight::Error>>(given: &BTreeMap<String, String>, name: &str) -> Result<Option<T>> {
    Ok(given.get(name).map(|text| text.parse()).transpose()?)
}

fn number(given: &BTreeMap<String, String>, name: &str) -> Result<Option<usize>> {
    let parse = |text: &String| {
        text.parse().map_err(|_| Refusal::invalid(format!("{name} must be a whole number, found {text:?}")))
    };
    given.get(name).map(parse).transpose()
}
