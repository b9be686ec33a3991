//! `tilesight random`: a checkpoint of random weights.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::model::Geometry;
use super::{progress, readable_bytes};
use crate::checkpoint::{NameFormat, RandomWeights, demo_config};
use crate::dtype::Dtype;
use crate::error::Result;

/// Write a checkpoint of random weights, of any geometry
///
/// Every gate, bias and position table is non-zero, so that every path of the model shows in its output. The same seed
/// gives the same encoder in every layout.
#[derive(Args)]
#[command(after_help = "Example:\n  tilesight random --preset 11b --dtype bf16 --seed 7 --output random-11b")]
pub(super) struct Arguments {
    #[command(flatten)]
    geometry: Geometry,
    /// Whose tensor names and table layout to write
    #[arg(long, value_enum, default_value = "torchtune")]
    layout: Layout,
    /// The element type of every tensor
    #[arg(long, value_enum, value_name = "TYPE", default_value = "bf16")]
    dtype: Dtype,
    /// The seed of the random numbers
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// The folder to write config.json and model.safetensors into; it is made if need be
    #[arg(long, short, value_name = "DIR")]
    output: PathBuf,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Layout {
    /// torchtune's names, one grid of tiles
    Torchtune,
    /// Hugging Face's names, one table row an aspect ratio
    Huggingface,
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let config = match arguments.geometry.config()? {
        Some(config) => config,
        None => arguments.geometry.resized(demo_config())?,
    };
    let format = match arguments.layout {
        Layout::Torchtune => NameFormat::Torchtune,
        Layout::Huggingface => NameFormat::HuggingFace,
    };
    let weights = RandomWeights::new(&config, arguments.dtype, arguments.seed)?;
    let bar = progress::bytes_bar(0, "writing");
    weights.write(&arguments.output, format, &|written, all| {
        bar.set_length(all);
        bar.set_position(written);
    })?;
    bar.finish_and_clear();
    let bytes = bar.length().unwrap_or_default();
    println!(
        "{}: {} of random weights, {}, {format} names, seed {}",
        arguments.output.display(),
        readable_bytes(bytes),
        arguments.dtype,
        arguments.seed
    );
    Ok(())
}
