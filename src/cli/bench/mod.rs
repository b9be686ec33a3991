//! `tilesight bench`: how fast this build is on this machine.

mod arrivals;
mod compare;
mod environment;
mod kernels;
mod page;
mod report;
mod samples;
mod scenario;
#[cfg(feature = "serve")]
mod serve;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use indicatif::ProgressBar;

use self::arrivals::Queued;
use self::compare::Earlier;
use self::environment::Environment;
use self::report::{Measured, Report};
use self::scenario::{Run, Scenario, Until};
use super::inputs::{Input, Selection};
use super::model::EncoderOptions;
use super::profile::{StepKind, kinds};
use super::progress;
use super::report_file::ReportFile;
use crate::digest::Digest;
use crate::encoder::Encoder;
use crate::error::{InputError, Result};
use crate::plan::Peak;

/// Time this build on this machine
///
/// Loads the encoder as a scenario says and reports latencies with their stages, images and tiles a second, FLOP/s against
/// what a large product reaches in the same run, memory, and how full batches were. Every input is encoded once before, for
/// warmth and the checksum, and once after, which must give the same bits. Latencies of `server` count from the moment at
/// which a query was due, however late it was let in.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
#[command(after_help = "Examples:
  tilesight bench --tiles 2x2                                    # one query at a time, on noise
  tilesight bench --model DIR --scenario offline --duration 60 *.jpg --json new.json --compare old.json
  tilesight bench --scenario server --rate 12 --tiles 1x1,1x2,2x2 --report bench.html
  tilesight bench --scenario server --bound 400                  # the highest rate whose p99 is within 400 ms
  tilesight bench kernels                                        # each kernel of a GPU in every form and tiling")]
pub(super) struct Arguments {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    load: Load,
}

#[derive(Subcommand)]
enum What {
    Kernels(kernels::Arguments),
    #[cfg(feature = "serve")]
    Serve(serve::Arguments),
}

/// How the encoder is loaded.
#[derive(Args)]
struct Load {
    #[command(flatten)]
    selection: Selection,
    #[command(flatten)]
    encoder: EncoderOptions,
    /// How queries come
    #[arg(long, value_enum, value_name = "NAME", default_value = "single")]
    scenario: Scenario,
    /// How long queries come
    #[arg(long, value_name = "SECONDS", default_value_t = 20.0, value_parser = positive)]
    duration: f64,
    /// Images of a query in `multi`
    #[arg(long, value_name = "N", default_value = "8")]
    images_per_query: std::num::NonZeroUsize,
    /// Images a second in `server` [default: 0.8 of what `offline` reaches in a quarter of the duration]
    #[arg(long, value_name = "N", value_parser = positive, conflicts_with = "bound")]
    rate: Option<f64>,
    /// In `server`, look for the highest rate whose 99th percentile is within this, by runs of the duration each
    #[arg(long, value_name = "MILLISECONDS", value_parser = positive)]
    bound: Option<f64>,
    /// In `server`, how long a batch that is not full waits for more
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 0)]
    max_delay: u64,
    /// Decides the moments at which queries come in `server`
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Encode every input once in the scenario and time nothing; all that a simulated GPU is asked for
    #[arg(long, conflicts_with_all = ["report", "compare", "bound"])]
    dry_run: bool,
    /// Write everything as JSON; latencies are seconds
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a page with pictures of it
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Put an earlier report beside it, this program's or one of benches/peers; may be given several times
    #[arg(long, value_name = "FILE")]
    compare: Vec<PathBuf>,
}

fn positive(text: &str) -> std::result::Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|number| number.is_finite() && *number > 0.0);
    number.ok_or_else(|| "a number above 0 is needed".to_string())
}

pub(super) fn run(arguments: &Arguments) -> Result<ExitCode> {
    match &arguments.what {
        Some(What::Kernels(arguments)) => kernels::run(arguments).map(|()| ExitCode::SUCCESS),
        #[cfg(feature = "serve")]
        Some(What::Serve(arguments)) => serve::run(arguments),
        None => load(&arguments.load),
    }
}

/// What comes of a scenario beside the checksum of what is encoded after it.
struct Loaded {
    run: Run,
    /// Images a second that came, where they came by chance.
    rate: Option<f64>,
    checksum: Digest,
    device_bytes: Vec<u64>,
}

fn load(arguments: &Load) -> Result<ExitCode> {
    let earlier = arguments.compare.iter().map(|path| Earlier::read(path)).collect::<Result<Vec<_>>>()?;
    let (json, page) = (ReportFile::create(arguments.json.as_ref())?, ReportFile::create(arguments.report.as_ref())?);
    let mut encoder = arguments.encoder.build()?;
    refuse_times_of_nothing(&encoder, arguments.dry_run)?;
    let inputs = arguments.selection.inputs(&encoder)?;
    let mut environment = Environment::before();
    let bar = progress::spinner("warming up");
    let checksum = Digest::of_all(&each(&inputs, |input| Ok(scenario::encode(&mut encoder, &[input])?.0))?);
    let (peak, steps) =
        if arguments.dry_run { (None, None) } else { environment.aside(|| at_best(&mut encoder, &inputs))? };
    bar.finish_and_clear();
    let mut report = Report::of(&encoder, arguments.scenario, &inputs, peak, steps);
    let Loaded { run, rate, checksum: checksum_after, device_bytes } = drive(arguments, encoder, &inputs)?;
    let is_same = checksum == checksum_after;
    report.finish(Measured {
        run,
        rate,
        checksum,
        is_same,
        device_bytes,
        environment: environment.after(),
        timed: !arguments.dry_run,
    });
    report.print();
    if let Some(figures) = report.figures() {
        earlier.iter().for_each(|earlier| earlier.print_beside(&figures, &checksum));
    }
    if let Some(file) = json {
        file.write(&report.json())?;
    }
    if let Some(file) = page {
        file.write_text(&page::page(&report))?;
    }
    if !is_same {
        eprintln!("error: the embeddings after the run are not those before it: {checksum_after}, not {checksum}");
        return Ok(ExitCode::from(1));
    }
    Ok(ExitCode::SUCCESS)
}

/// No time of a simulated device means anything.
fn refuse_times_of_nothing(encoder: &Encoder, dry_run: bool) -> Result<()> {
    if encoder.is_simulated() && !dry_run {
        let reason = "no time of a simulated device means anything: ask for --dry-run";
        return Err(InputError::Unavailable { option: "device", found: encoder.device(), reason }.into());
    }
    Ok(())
}

/// The digest of each input's embeddings.
fn each(inputs: &[Input], mut encode: impl FnMut(&Input) -> Result<Vec<f32>>) -> Result<Vec<Digest>> {
    inputs.iter().map(|input| Ok(Digest::of_bytes(bytemuck::cast_slice(&encode(input)?)))).collect()
}

/// Rounds of the profile that a report shows.
const PROFILE_ROUNDS: usize = 5;

/// What the device reaches at best, and where the time of the largest input goes.
fn at_best(encoder: &mut Encoder, inputs: &[Input]) -> Result<(Option<Peak>, Option<Vec<StepKind>>)> {
    let peak = encoder.measure_peak(true)?;
    let Some(largest) = inputs.iter().max_by_key(|input| input.flops) else { return Ok((peak, None)) };
    let tiles = largest.decode()?.cut()?;
    let profile = encoder.profile(std::slice::from_ref(&*tiles), PROFILE_ROUNDS)?;
    Ok((peak, Some(kinds(&profile, peak.as_ref()))))
}

fn bar(until: Until) -> ProgressBar {
    match until {
        Until::Time(duration) => progress::bar(duration.as_secs(), "seconds"),
        Until::Images(images) => progress::bar(images as u64, "images"),
    }
}

fn drive(arguments: &Load, mut encoder: Encoder, inputs: &[Input]) -> Result<Loaded> {
    let duration = Duration::from_secs_f64(arguments.duration);
    let until = if arguments.dry_run { Until::Images(inputs.len()) } else { Until::Time(duration) };
    let bar = bar(until);
    let (run, rate) = match arguments.scenario {
        Scenario::Single => (scenario::one_at_a_time(&mut encoder, inputs, 1, until, &bar)?, None),
        Scenario::Multi => {
            let images = arguments.images_per_query.get();
            (scenario::one_at_a_time(&mut encoder, inputs, images, until, &bar)?, None)
        }
        Scenario::Offline => (scenario::offline(&mut encoder, inputs, until, &bar)?, None),
        Scenario::Server => {
            let loaded = by_chance(arguments, encoder, inputs, until, &bar);
            bar.finish_and_clear();
            return loaded;
        }
    };
    bar.finish_and_clear();
    let checksum = Digest::of_all(&each(inputs, |input| Ok(scenario::encode(&mut encoder, &[input])?.0))?);
    Ok(Loaded { run, rate, checksum, device_bytes: encoder.device_bytes() })
}

/// Rates that are tried to find the highest within the bound.
const TRIALS: usize = 6;

fn by_chance(
    arguments: &Load,
    mut encoder: Encoder,
    inputs: &[Input],
    until: Until,
    bar: &ProgressBar,
) -> Result<Loaded> {
    let capacity = match (arguments.rate, until) {
        (Some(rate), _) => rate,
        (None, Until::Images(_)) => 1e6,
        (None, Until::Time(duration)) => {
            bar.println("offline first, for the rate");
            let run = scenario::offline(&mut encoder, inputs, Until::Time(duration / 4), bar)?;
            run.samples.iter().map(|sample| sample.images).sum::<usize>() as f64 / run.seconds
        }
    };
    let device_bytes = encoder.device_bytes();
    let queued = Queued::start(encoder, &inputs[0], Duration::from_millis(arguments.max_delay))?;
    let (run, rate) = match (arguments.bound, arguments.rate) {
        (Some(bound), _) => highest_rate(&queued, arguments.seed, inputs, (capacity, bound / 1e3), until, bar)?,
        (None, given) => {
            let rate = given.unwrap_or(if arguments.dry_run { capacity } else { 0.8 * capacity });
            (queued.run(inputs, rate, until, arguments.seed, bar)?, rate)
        }
    };
    let checksum = Digest::of_all(&each(inputs, |input| queued.encode(input))?);
    Ok(Loaded { run, rate: Some(rate), checksum, device_bytes })
}

/// The run of the highest rate that was found whose 99th percentile is within `bound` seconds and that refused nobody, by
/// halving what lies between one that is and one that is not; the slowest one tried where none is.
fn highest_rate(
    queued: &Queued,
    seed: u64,
    inputs: &[Input],
    (capacity, bound): (f64, f64),
    until: Until,
    bar: &ProgressBar,
) -> Result<(Run, f64)> {
    let (mut least, mut most) = (0.0, capacity);
    let mut best: Option<(Run, f64)> = None;
    for _ in 0..TRIALS {
        let rate = f64::midpoint(least, most);
        let run = queued.run(inputs, rate, until, seed, bar)?;
        let p99 =
            samples::Summary::of(run.samples.iter().map(samples::Sample::latency)).map_or(f64::INFINITY, |all| all.p99);
        let is_within = p99 <= bound && run.refused == 0;
        let verdict = if is_within { "within" } else { "beyond" };
        bar.println(format!(
            "{rate:.2} images/s: p99 {:.1} ms, {verdict} the bound of {:.1} ms",
            p99 * 1e3,
            bound * 1e3
        ));
        if is_within {
            least = rate;
        } else {
            most = rate;
        }
        if is_within || least == 0.0 {
            best = Some((run, rate));
        }
    }
    Ok(best.unwrap_or_default())
}
