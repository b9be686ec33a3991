//! `tilesight plan`: what an encode would do, step by step, with its FLOPs, bytes and memory.

use std::str::FromStr;

use clap::Args;

use super::grid::Grid;
use super::model::{Model, tell_fallbacks};
use super::note;
use super::{readable_bytes, table};
use crate::checkpoint::{PositionTables, TileBlocks, demo_config};
use crate::config::EncoderConfig;
use crate::cuda;
use crate::dtype::Dtype;
use crate::encoder::{Device, Kernels, require_dtype};
use crate::error::{CudaError, Result};
use crate::plan::{BatchShape, Form, LayoutRules, Place, Plan, Semantics, Stack, Step, Target};

/// Print what an encode would do: steps, FLOPs, bytes, memory
#[derive(Args)]
#[command(after_help = "Examples:
  tilesight plan --preset 11b --tiles 2x2
  tilesight plan --preset 11b --tiles 2x2 --device cuda
  tilesight plan --preset 11b --semantics meta --tiles 1x1 --tiles 1x2 --json")]
pub(super) struct Arguments {
    #[command(flatten)]
    model: Model,
    /// An image of the batch, as tiles across x tiles down; several make a ragged batch
    #[arg(long, value_name = "WxH", default_value = "1x1")]
    tiles: Vec<Grid>,
    /// Compute every padding row, even where rows are equal by construction
    #[arg(long)]
    no_collapse: bool,
    /// List every step, not one line for each kind
    #[arg(long)]
    steps: bool,
    /// What the plan is for: auto and cpu are the CPU, cuda are GPUs, which need not be there
    #[arg(long, default_value = "auto", value_parser = Device::from_str)]
    device: Device,
    /// The element type on GPUs
    #[arg(long, value_enum, value_name = "TYPE", default_value = "bf16")]
    dtype: Dtype,
    /// The kernels of the matrix operations on GPUs: hopper, portable or cublas; auto are those that an encoder would take
    /// here, portable where no driver is
    #[arg(long, default_value = "auto", value_parser = Kernels::from_str)]
    kernels: Kernels,
    /// Print the whole plan as JSON
    #[arg(long)]
    json: bool,
}

impl Arguments {
    /// What the plan is made for; and where this machine decides the kernels, which they are and why.
    fn target(&self, stored: Dtype) -> Result<(Target, Option<String>)> {
        let (form, reason) = match (&self.device, self.kernels) {
            (Device::Auto | Device::Cpu, _) => return Ok((Target::cpu(stored), None)),
            (Device::Cuda(_), Kernels::Hopper) => (Form::Hopper, None),
            (Device::Cuda(_), Kernels::Portable) => (Form::Portable, None),
            (Device::Cuda(_), Kernels::Cublas) => (Form::Cublas, None),
            (Device::Cuda(ordinals), Kernels::Auto) => {
                let (form, reason) = form_here(ordinals);
                (form, Some(format!("{form} kernels: {reason}")))
            }
        };
        require_dtype(self.dtype, true)?;
        Ok((Target::cuda(self.dtype, form), reason))
    }
}

/// The form that an encoder on these GPUs would take, and why. Where none can be asked, the one that runs on all.
fn form_here(ordinals: &[usize]) -> (Form, String) {
    if !cuda::IS_BUILT {
        return (Form::Portable, "this build has no CUDA".to_string());
    }
    let device = Device::Cuda(ordinals.to_vec());
    match cuda::best_form(ordinals) {
        Ok(Form::Hopper) => (Form::Hopper, format!("{device} is a Hopper")),
        Ok(form) => (form, format!("{device} is no Hopper that this build has kernels for")),
        Err(CudaError::NoDriver) => (Form::Portable, "there is no driver here".to_string()),
        Err(error) => (Form::Portable, format!("the driver says nothing of GPUs: {error}")),
    }
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let (config, semantics, tables, stored) = match arguments.model.open()? {
        Some((checkpoint, config)) => {
            let tables = PositionTables::load(&checkpoint, &config)?;
            (config, Semantics::of(checkpoint.format()), tables, checkpoint.projection_dtype())
        }
        None => {
            let named = arguments.model.geometry.config()?;
            let config = named.map_or_else(|| arguments.model.geometry.resized(demo_config()), Ok)?;
            (config, Semantics::Torchtune, None, Dtype::Bf16)
        }
    };
    let semantics = arguments.model.semantics.map_or(semantics, Semantics::from);
    let (target, reason) = arguments.target(stored)?;
    let plan = build(arguments, &config, semantics, tables.as_ref(), target)?;
    if arguments.json {
        println!("{:#}", serde_json::json!(plan));
    } else {
        print(arguments, &plan, semantics, reason.as_deref());
    }
    Ok(())
}

fn build(
    arguments: &Arguments,
    config: &EncoderConfig,
    semantics: Semantics,
    tables: Option<&PositionTables>,
    target: Target,
) -> Result<Plan> {
    let grid = config.has_tile_embeddings().then(|| TileBlocks::grid(config.max_num_tiles));
    let rules = LayoutRules {
        config,
        semantics,
        blocks: tables.map(|tables| &tables.blocks).or(grid.as_ref()),
        blocks_are_equal: &|a, b| tables.map_or(a == b, |tables| tables.blocks_are_equal(a, b)),
        collapse: !arguments.no_collapse,
    };
    let sequence = |(number, grid): (usize, &Grid)| rules.picture(grid.aspect_ratio(), number);
    let images = arguments.tiles.iter().enumerate().map(sequence).collect::<Result<_>>()?;
    Plan::build(config, &BatchShape { images }, target)
}

fn print(arguments: &Arguments, plan: &Plan, semantics: Semantics, reason: Option<&str>) {
    let grids: Vec<_> = arguments.tiles.iter().map(Grid::to_string).collect();
    println!("{} tiles, {semantics} semantics, {} activations", grids.join(" + "), plan.target.precision.activations);
    let [rows, head] = [Stack::Transformer, Stack::GlobalTransformer].map(|stack| plan.batch.num_rows(stack));
    println!("{rows} rows in the transformer, {head} in the gated layers, {} embeddings\n", plan.num_output_rows());
    let (kernels, source) = cuda::kernels(plan);
    let mut steps = table(&["step", "times", "GFLOP", "MB", "FLOP/B", "writes", "kernel"]);
    let grouped = if arguments.steps { plan.steps.iter().map(|s| (s, 1)).collect() } else { by_kind(plan) };
    for (step, times) in grouped {
        let number = plan.steps.iter().position(|other| other.name == step.name).unwrap_or_default();
        let output = plan.buffer(step.op.writes());
        let (flops, bytes) = (step.flops as f64, step.bytes as f64);
        steps.add_row([
            if arguments.steps { step.name.clone() } else { step.kind() },
            times.to_string(),
            format!("{:.2}", flops * times as f64 / 1e9),
            format!("{:.1}", bytes * times as f64 / 1e6),
            format!("{:.0}", flops / bytes),
            format!("[{}, {}]", output.rows, output.width),
            kernels[number].clone(),
        ]);
    }
    println!("{steps}\n");
    for line in reason.into_iter().chain(source.as_deref()) {
        println!("{line}");
    }
    tell_fallbacks(plan, &note);
    let count = plan.buffers.iter().filter(|buffer| matches!(buffer.place, Place::Arena { .. })).count();
    println!(
        "{} steps, {:.3} TFLOP, {} moved at least; {count} buffers in an arena of {}",
        plan.steps.len(),
        plan.flops() as f64 / 1e12,
        readable_bytes(plan.bytes()),
        readable_bytes(plan.arena_bytes as u64),
    );
}

/// The first step of each kind, in order, with how many there are.
fn by_kind(plan: &Plan) -> Vec<(&Step, usize)> {
    let mut kinds: Vec<(&Step, usize)> = Vec::new();
    for step in &plan.steps {
        match kinds.iter_mut().find(|(first, _)| first.kind() == step.kind()) {
            Some((_, times)) => *times += 1,
            None => kinds.push((step, 1)),
        }
    }
    kinds
}
