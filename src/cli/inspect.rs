//! `tilesight inspect`: what is in a checkpoint, and whether it would load.

use clap::Args;

use super::model::Model;
use super::{readable_bytes, table};
use crate::checkpoint::{Checkpoint, TensorSummary, VisionWeights};
use crate::config::EncoderConfig;
use crate::error::Result;
use crate::plan::Semantics;

/// Show what a checkpoint holds, and whether it would load
#[derive(Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    model: Model,
    /// List every tensor
    #[arg(long)]
    tensors: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let Some(path) = arguments.model.path()? else {
        let reason = "name a checkpoint; there is nothing to inspect otherwise";
        return Err(crate::error::InputError::Unavailable { option: "model", found: "nothing".into(), reason }.into());
    };
    let checkpoint = Checkpoint::open(&path)?;
    let tensors = checkpoint.summary();
    let semantics = arguments.model.semantics.map_or(Semantics::of(checkpoint.format()), Semantics::from);
    let config = arguments.model.config_of(&checkpoint);
    let (config, loaded) = match config {
        Ok(config) => {
            let loaded = VisionWeights::check(&checkpoint, &config);
            (Some(config), loaded)
        }
        Err(error) => (None, Err(error)),
    };
    let verdict = loaded.as_ref().copied().map_err(ToString::to_string);
    if arguments.json {
        print_json(&checkpoint, config.as_ref(), semantics, &tensors, &verdict);
    } else {
        print_table(&checkpoint, config.as_ref(), semantics, &tensors, &verdict, arguments.tensors);
    }
    loaded
}

/// Elements and bytes of all tensors.
fn sizes(tensors: &[TensorSummary]) -> (u64, u64) {
    let elements = |tensor: &TensorSummary| tensor.shape.iter().map(|size| *size as u64).product::<u64>();
    let bytes = |tensor: &TensorSummary| elements(tensor) * if tensor.dtype == "F32" { 4 } else { 2 };
    (tensors.iter().map(elements).sum(), tensors.iter().map(bytes).sum())
}

/// The element types, most frequent first.
fn dtypes(tensors: &[TensorSummary]) -> String {
    let mut counts = std::collections::BTreeMap::new();
    tensors.iter().for_each(|tensor| *counts.entry(tensor.dtype.as_str()).or_insert(0usize) += 1);
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    counts.iter().map(|(dtype, count)| format!("{dtype} ({count})")).collect::<Vec<_>>().join(", ")
}

fn print_json(
    checkpoint: &Checkpoint,
    config: Option<&EncoderConfig>,
    semantics: Semantics,
    tensors: &[TensorSummary],
    loads: &std::result::Result<(), String>,
) {
    let (parameters, bytes) = sizes(tensors);
    let json = serde_json::json!({
        "path": checkpoint.path(),
        "names": checkpoint.format().to_string(),
        "semantics": semantics,
        "files": checkpoint.files(),
        "num_tensors": tensors.len(),
        "num_other_tensors": checkpoint.num_other_tensors(),
        "parameters": parameters,
        "bytes": bytes,
        "config": config,
        "loads": loads.is_ok(),
        "error": loads.as_ref().err(),
        "tensors": tensors,
    });
    println!("{json:#}");
}

fn print_table(
    checkpoint: &Checkpoint,
    config: Option<&EncoderConfig>,
    semantics: Semantics,
    tensors: &[TensorSummary],
    loads: &std::result::Result<(), String>,
    list: bool,
) {
    let (parameters, bytes) = sizes(tensors);
    let mut rows = table(&["checkpoint", &checkpoint.path().display().to_string()]);
    rows.add_row(["names", &checkpoint.format().to_string()]);
    rows.add_row(["semantics", semantics.name()]);
    let others = match checkpoint.num_other_tensors() {
        0 => String::new(),
        n => format!(", {n} others left alone"),
    };
    rows.add_row(["tensors", &format!("{}, in {} files{others}", tensors.len(), checkpoint.files().len())]);
    rows.add_row(["types", &dtypes(tensors)]);
    rows.add_row(["parameters", &format!("{parameters}, {}", readable_bytes(bytes))]);
    if let Some(config) = config {
        let json = serde_json::to_value(config).unwrap_or_default();
        for (name, value) in json.as_object().into_iter().flatten() {
            rows.add_row([name, &value.to_string()]);
        }
        rows.add_row(["tokens a tile", &config.num_tokens().to_string()]);
    }
    let verdict = loads.as_ref().err().map_or("yes", String::as_str);
    rows.add_row(["loads", verdict]);
    println!("{rows}");
    if list {
        let mut rows = table(&["tensor", "type", "shape", "torchtune's name"]);
        for tensor in tensors {
            rows.add_row([&tensor.name, &tensor.dtype, &format!("{:?}", tensor.shape), &tensor.torchtune]);
        }
        println!("\n{rows}");
    }
}
