//! `tilesight profile`: where the time of one encode goes, step by step.

mod kinds;
mod trace;

use std::path::PathBuf;

use clap::Args;

pub(super) use self::kinds::{StepKind, kinds};
use super::inputs::Selection;
use super::model::EncoderOptions;
use super::report_file::ReportFile;
use super::{VERSION, progress, table};
use crate::encoder::Encoder;
use crate::error::Result;
use crate::image::Tiles;
use crate::plan::{Peak, Profile};

/// Show where the time of one encode goes, step by step
///
/// All images named are one batch. Steps are timed on the CPU by its clock, on a GPU by events between launches one by one;
/// a graph launches them closer together, and the encode as a whole is timed, too. The roofline is what a large matrix
/// product and a large copy reach on this device in the same run: a step's share of it is the time that its FLOPs or bytes
/// would take at these rates, whichever is more, over the median. What caches keep may be faster than memory.
#[derive(Args)]
#[command(after_help = "Examples:
  tilesight profile --tiles 2x2
  tilesight profile --model DIR --device cuda photo.jpg --trace trace.json   # for ui.perfetto.dev or chrome://tracing
  tilesight profile --tiles 1x1,1x1,2x2 --json profile.json")]
pub(super) struct Arguments {
    #[command(flatten)]
    selection: Selection,
    #[command(flatten)]
    encoder: EncoderOptions,
    /// Encodes that are timed, after one that is not
    #[arg(long, value_name = "N", default_value = "10")]
    rounds: std::num::NonZeroUsize,
    /// Do everything once and time nothing; all that a simulated GPU is asked for
    #[arg(long, conflicts_with = "trace")]
    dry_run: bool,
    /// Write the rounds as a trace in Chrome's format
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Write everything as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let report = ReportFile::create(arguments.json.as_ref())?;
    let trace = ReportFile::create(arguments.trace.as_ref())?;
    let mut encoder = arguments.encoder.build()?;
    let inputs = arguments.selection.batch(&encoder)?;
    let tiles = inputs.iter().map(|input| Ok(input.decode()?.cut()?.as_ref().clone())).collect::<Result<Vec<_>>>()?;
    let bar = progress::spinner("measuring");
    let timed = !arguments.dry_run;
    let peak = encoder.measure_peak(timed)?;
    let whole = if timed { whole(&mut encoder, &tiles, arguments.rounds.get())? } else { Vec::new() };
    let profile = encoder.profile(&tiles, if timed { arguments.rounds.get() } else { 0 })?;
    bar.finish_and_clear();
    let kinds = kinds(&profile, peak.as_ref());
    print(&encoder, &profile, &kinds, peak, &whole);
    if let Some(file) = trace {
        file.write_compact(&trace::trace(&profile))?;
    }
    if let Some(file) = report {
        file.write(&serde_json::json!({
            "version": VERSION,
            "device": encoder.device(),
            "dtype": encoder.precision().activations.to_string(),
            "semantics": encoder.semantics().name(),
            "threads": encoder.num_threads(),
            "config": encoder.config(),
            "inputs": inputs.iter().map(|input| input.describe()).collect::<Vec<_>>(),
            "timed": timed,
            "peak": peak,
            "encode_seconds": whole,
            "steps": kinds,
            "rounds": profile.rounds,
        }))?;
    }
    Ok(())
}

/// Seconds of whole encodes, after one that does not count, sorted: on a GPU of the graph alone.
fn whole(encoder: &mut Encoder, tiles: &[Tiles], rounds: usize) -> Result<Vec<f64>> {
    use crate::encoder::{Input, Timing};
    let mut seconds = Vec::with_capacity(rounds);
    for round in 0..=rounds {
        let submission = encoder.submit(0, &[Input::Pictures(tiles)])?;
        let (Timing::Host { compute } | Timing::Gpu { compute, .. }) = encoder.finish(submission)?.timing;
        if round > 0 {
            seconds.push(compute.as_secs_f64());
        }
    }
    seconds.sort_by(f64::total_cmp);
    Ok(seconds)
}

fn print(encoder: &Encoder, profile: &Profile, kinds: &[StepKind], peak: Option<Peak>, whole: &[f64]) {
    let number = |value: Option<f64>, digits: usize| value.map_or("-".to_string(), |v| format!("{v:.digits$}"));
    let heading = ["step", "kernels", "times", "ms", "share", "range", "GFLOP/s", "GB/s", "% of roofline"];
    let mut table = table(&heading);
    for kind in kinds {
        table.add_row([
            kind.step.clone(),
            kind.form.map_or("-".to_string(), |form| form.to_string()),
            kind.times.to_string(),
            number(kind.seconds.map(|seconds| seconds.median * 1e3), 3),
            kind.share.map_or("-".to_string(), |share| format!("{:.1} %", 100.0 * share)),
            kind.seconds.map_or("-".to_string(), |s| format!("{:.3} to {:.3}", s.least * 1e3, s.most * 1e3)),
            number(kind.flops_per_second.map(|rate| rate / 1e9), 0),
            number(kind.bytes_per_second.map(|rate| rate / 1e9), 1),
            number(kind.percent_of_roofline, 0),
        ]);
    }
    println!("{table}\n");
    if let Some(peak) = peak {
        let product = peak.flops.map_or("not measured, for cuBLASLt is not there".to_string(), |flops| {
            format!("{:.0} GFLOP/s", flops / 1e9)
        });
        println!("at best, measured: a large product {product}, a large copy {:.1} GB/s", peak.bytes / 1e9);
    }
    let plan = &profile.plan;
    println!("{} steps, {:.3} TFLOP, on {}", plan.steps.len(), plan.flops() as f64 / 1e12, encoder.device());
    let total: f64 = kinds.iter().filter_map(|kind| Some(kind.seconds?.median)).sum();
    if let [fastest, .., slowest] | [fastest @ slowest] = whole {
        let median = whole[whole.len() / 2];
        println!(
            "all steps {:.3} ms, one by one; an encode {:.3} ms ({:.3} to {:.3}), {:.3} TFLOP/s",
            total * 1e3,
            median * 1e3,
            fastest * 1e3,
            slowest * 1e3,
            plan.flops() as f64 / median / 1e12,
        );
    }
}
