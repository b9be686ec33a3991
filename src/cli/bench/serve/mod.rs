//! `tilesight bench serve`: loads a running server from outside, and looks at the clock.

mod load;
mod protocol;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use self::load::{Outcome, Round};
use self::protocol::{Query, Source, Target};
use super::compare::Earlier;
use super::environment::Environment;
use super::report::Figures;
use super::samples::{Summary, stages};
use super::{positive, scenario::Until};
use crate::cli::grid::Grid;
use crate::cli::report_file::ReportFile;
use crate::cli::{VERSION, table};
use crate::digest::Digest;
use crate::dtype::Dtype;
use crate::error::{Error, Result};

/// Load a running server, and time its answers
///
/// Any server of the Open Inference Protocol with Tilesight's tensor names and binary tensors: `tilesight serve`, or Triton
/// with Tilesight's backend. Closed loop: so many clients, each of which sends its next query when it has its answer. Open
/// loop: queries at moments of chance, at a rate, however long the ones before take; latencies count from the moment at
/// which a query was due. Each input is sent once before, and every answer must have the same bits as that one.
#[derive(Args)]
#[command(after_help = "Examples:
  tilesight bench serve --tiles 2x2                                       # one client, http://127.0.0.1:8000
  tilesight bench serve --clients 16 --duration 60 *.jpg --json load.json
  tilesight bench serve --url http://gpu:8000 --rate 40 --tiles 1x1,2x2 --compare load.json")]
pub(super) struct Arguments {
    /// JPEG, PNG or WebP pictures, sent in turn [default: tiles of noise]
    #[arg(value_name = "IMAGE")]
    images: Vec<PathBuf>,
    /// Pixel tensors of noise, as tiles across x tiles down, sent in turn: 1x1,2x2
    #[arg(long, value_name = "WxH", value_delimiter = ',', conflicts_with = "images", default_value = "1x1")]
    tiles: Vec<Grid>,
    /// The server
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8000")]
    url: String,
    /// The name that the server has for the model
    #[arg(long, value_name = "NAME", default_value = "tilesight")]
    model_name: String,
    /// Clients that send one query at a time
    #[arg(long, value_name = "N", default_value = "1")]
    clients: std::num::NonZeroUsize,
    /// Queries a second at moments of chance, in place of clients
    #[arg(long, value_name = "N", value_parser = positive, conflicts_with = "clients")]
    rate: Option<f64>,
    /// Decides these moments
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// How long queries are sent
    #[arg(long, value_name = "SECONDS", default_value_t = 20.0, value_parser = positive)]
    duration: f64,
    /// The element type that is asked for [default: the server's]
    #[arg(long, value_enum, value_name = "TYPE")]
    dtype: Option<Dtype>,
    /// Write everything as JSON; latencies are seconds
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Put an earlier report beside it; may be given several times
    #[arg(long, value_name = "FILE")]
    compare: Vec<PathBuf>,
}

/// Tensors of a grid: they take turns, so that no cache of the server's answers for it.
const VARIANTS: u64 = 3;

pub(super) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let earlier = arguments.compare.iter().map(|path| Earlier::read(path)).collect::<Result<Vec<_>>>()?;
    let json = ReportFile::create(arguments.json.as_ref())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::Threads { threads: 0, reason: error.to_string() })?;
    let environment = Environment::before();
    let target = Target::new(&arguments.url, &arguments.model_name);
    let metadata = runtime.block_on(target.metadata())?;
    let dtype = arguments.dtype.map(Dtype::kserve_name);
    let queries =
        sources(arguments).iter().map(|source| Query::new(source, &metadata, dtype)).collect::<Result<Vec<_>>>()?;
    let names: Vec<String> = queries.iter().map(|query| query.name.clone()).collect();
    let until = Until::Time(Duration::from_secs_f64(arguments.duration));
    let bar = super::bar(until);
    let round = Round::first(target, queries, &runtime, &arguments.url)?;
    let checksum = round.checksum();
    let outcome = match arguments.rate {
        Some(rate) => round.open(rate, arguments.seed, until, &runtime, &bar),
        None => round.closed(arguments.clients.get(), until, &runtime, &bar),
    };
    bar.finish_and_clear();
    let environment = environment.after();
    let figures = Figures::of(&outcome.samples, outcome.seconds);
    print(arguments, &outcome, figures.as_ref(), &checksum, &environment);
    if let Some(figures) = &figures {
        earlier.iter().for_each(|earlier| earlier.print_beside(figures, &checksum));
    }
    if let Some(file) = json {
        let report = report(arguments, &metadata, &names, &outcome, figures.as_ref(), &checksum, &environment);
        file.write(&report)?;
    }
    // Refusals are answers that a loaded server may give; anything else is not.
    let is_well = outcome.failures.is_empty() && outcome.differing == 0;
    Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn sources(arguments: &Arguments) -> Vec<Source> {
    if !arguments.images.is_empty() {
        return arguments.images.iter().cloned().map(Source::Picture).collect();
    }
    (0..VARIANTS).flat_map(|variant| arguments.tiles.iter().map(move |grid| Source::Noise(*grid, variant))).collect()
}

fn loop_name(arguments: &Arguments) -> &'static str {
    if arguments.rate.is_some() { "open" } else { "closed" }
}

fn print(
    arguments: &Arguments,
    outcome: &Outcome,
    figures: Option<&Figures>,
    checksum: &Digest,
    environment: &Environment,
) {
    let load = match arguments.rate {
        Some(rate) => format!("{rate:.2} queries/s"),
        None => format!("{} clients", arguments.clients),
    };
    println!("{} loop, {load}, against {}", loop_name(arguments), arguments.url);
    if let Some(figures) = figures {
        let mut times = table(&["ms", "mean", "p50", "p90", "p95", "p99", "max"]);
        let stages = stages(&outcome.samples);
        let first = Summary::of(outcome.first_bytes.iter().copied()).map(|first| ("first byte", first));
        let rows = std::iter::once(("latency", figures.latency))
            .chain(first)
            .chain(stages.iter().map(|(stage, summary)| (stage.name(), *summary)));
        for (name, summary) in rows {
            times.add_row(std::iter::once(name.to_string()).chain(summary.milliseconds()));
        }
        println!("{times}\n");
        println!(
            "{} answers in {:.1} s: {:.2} images/s, {:.2} tiles/s, {:.3} GB/s of embeddings",
            figures.latency.count,
            outcome.seconds,
            figures.images_per_second,
            figures.tiles_per_second,
            outcome.bytes as f64 / outcome.seconds / 1e9,
        );
    }
    println!(
        "{} refused (429), {} failed, {} differ from the first",
        outcome.refused,
        outcome.num_failed(),
        outcome.differing
    );
    for (reason, count) in &outcome.failures {
        println!("  {count} × {reason}");
    }
    println!("checksum: {checksum}");
    println!("machine of the client: {}", environment.line());
}

fn report(
    arguments: &Arguments,
    metadata: &serde_json::Value,
    names: &[String],
    outcome: &Outcome,
    figures: Option<&Figures>,
    checksum: &Digest,
    environment: &Environment,
) -> serde_json::Value {
    let stages: serde_json::Map<String, serde_json::Value> = stages(&outcome.samples)
        .into_iter()
        .map(|(stage, summary)| (stage.name().to_string(), json!(summary)))
        .collect();
    json!({
        "version": VERSION,
        "scenario": format!("{} loop against a server", loop_name(arguments)),
        "url": arguments.url,
        "server": metadata,
        "clients": arguments.rate.is_none().then_some(arguments.clients),
        "rate": arguments.rate,
        "inputs": names,
        "queries": outcome.samples.len(),
        "refused": outcome.refused,
        "failures": outcome.failures,
        "differing": outcome.differing,
        "seconds": outcome.seconds,
        "bytes": outcome.bytes,
        "images_per_second": figures.map(|f| f.images_per_second),
        "tiles_per_second": figures.map(|f| f.tiles_per_second),
        "p50": figures.map(|f| f.latency.p50),
        "p90": figures.map(|f| f.latency.p90),
        "p99": figures.map(|f| f.latency.p99),
        "latency": figures.map(|f| f.latency),
        "first_byte": Summary::of(outcome.first_bytes.iter().copied()),
        "spread": figures.map(Figures::spreads),
        "stages": stages,
        "checksum": checksum.to_string(),
        "environment": environment,
        "samples": outcome.samples.iter().map(|sample| [sample.start, sample.latency()]).collect::<Vec<_>>(),
    })
}
