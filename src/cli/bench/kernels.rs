//! `tilesight bench kernels`: every kernel in every form and tiling, beside its roofline and the best of cuBLASLt.

use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use serde::Serialize;

use crate::checkpoint::RandomWeights;
use crate::cli::model::{Geometry, SemanticsName};
use crate::cli::report_file::ReportFile;
use crate::cli::{VERSION, progress, table};
use crate::config::EncoderConfig;
use crate::dtype::Dtype;
use crate::encoder::{Device, Encoder, Kernels, Tune, require_dtype};
use crate::error::{CudaError, Error, InputError, Result};
use crate::plan::{Semantics, StepTiming};

/// Time every kernel, in every form and tiling, on one GPU
///
/// Launches are timed by the GPU's own clock: 50 rounds after two that do not count, each over all layers that are there, so
/// that weights come from memory. Values are noise. Percent of the roofline is the time that FLOPs or bytes would take at
/// the datasheet's rates, whichever is more, over the median.
#[derive(Args)]
#[command(after_help = "Examples:
  tilesight bench kernels --json kernels.json
  tilesight bench kernels --tiles 1 --batch 1 --kernels hopper --semantics meta
  tilesight bench kernels --dry-run                 # launch everything once, time nothing")]
pub(in crate::cli) struct Arguments {
    #[command(flatten)]
    geometry: Geometry,
    /// Tiles of an image; several are timed one after another
    #[arg(long, value_name = "N", default_values_t = [1, 2, 3, 4])]
    tiles: Vec<usize>,
    /// Images of a batch, likewise
    #[arg(long, value_name = "N", default_values_t = [1, 8])]
    batch: Vec<usize>,
    /// The GPU, by number
    #[arg(long, default_value = "cuda:0", value_parser = Device::from_str)]
    device: Device,
    /// One form only: hopper, portable or cublas [default: all that run here]
    #[arg(long, value_parser = Kernels::from_str)]
    kernels: Option<Kernels>,
    /// The element type
    #[arg(long, value_enum, value_name = "TYPE", default_value = "bf16")]
    dtype: Dtype,
    /// Whose rows an image has
    #[arg(long, value_enum, value_name = "NAME", default_value = "torchtune")]
    semantics: SemanticsName,
    /// Launch everything once and time nothing; all that a simulated GPU is asked for
    #[arg(long)]
    dry_run: bool,
    /// Write everything as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// A kernel on a shape.
#[derive(Debug, Serialize)]
struct Row {
    tiles: usize,
    batch: usize,
    /// The kernels that the encoder was built with.
    kernels: String,
    #[serde(flatten)]
    timing: StepTiming,
    tflops: Option<f64>,
    gigabytes_per_second: Option<f64>,
    /// Of the time that the datasheet's rates would take.
    percent_of_roofline: Option<f64>,
    /// The bare product's time over this one's.
    ratio_to_cublas: Option<f64>,
}

/// What a GPU does in a second at best, by its datasheet: FLOPs in 16-bit products with f32 sums, and bytes of memory.
#[derive(Debug, Clone, Copy, Serialize)]
struct Datasheet {
    name: &'static str,
    flops: f64,
    bytes: f64,
}

/// By what the driver's name for it contains; the first that fits.
const DATASHEETS: [Datasheet; 4] = [
    Datasheet { name: "H200", flops: 989.5e12, bytes: 4.8e12 },
    Datasheet { name: "H100 80GB HBM3", flops: 989.5e12, bytes: 3.35e12 },
    Datasheet { name: "A100-SXM4-80GB", flops: 312e12, bytes: 2.039e12 },
    Datasheet { name: "A100-SXM4-40GB", flops: 312e12, bytes: 1.555e12 },
];

impl Datasheet {
    /// Seconds that this much takes at least.
    fn seconds(&self, timing: &StepTiming) -> f64 {
        (timing.flops as f64 / self.flops).max(timing.bytes as f64 / self.bytes)
    }
}

impl Row {
    fn new([tiles, batch]: [usize; 2], kernels: Kernels, timing: StepTiming, datasheet: Option<&Datasheet>) -> Self {
        let seconds = timing.seconds.map(|seconds| seconds.median);
        let rate = |amount: u64, unit: f64| seconds.filter(|_| amount > 0).map(|time| amount as f64 / time / unit);
        Self {
            tiles,
            batch,
            kernels: format!("{kernels:?}").to_lowercase(),
            tflops: rate(timing.flops, 1e12),
            gigabytes_per_second: rate(timing.bytes, 1e9).filter(|_| !timing.bare_product),
            percent_of_roofline: datasheet
                .zip(seconds)
                .filter(|_| !timing.bare_product)
                .map(|(sheet, time)| 100.0 * sheet.seconds(&timing) / time),
            ratio_to_cublas: None,
            timing,
        }
    }
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let report = ReportFile::create(arguments.json.as_ref())?;
    require_dtype(arguments.dtype, true)?;
    if !matches!(&arguments.device, Device::Cuda(ordinals) if ordinals.len() == 1) {
        let reason = "kernels are timed on one GPU: cuda, or cuda:N";
        return Err(InputError::Unavailable { option: "device", found: arguments.device.to_string(), reason }.into());
    }
    let config = layers_enough(arguments.geometry.config()?.map_or_else(|| EncoderConfig::preset("11b"), Ok)?)?;
    let weights = RandomWeights::new(&config, Dtype::Bf16, 0)?;
    let forms =
        arguments.kernels.map_or_else(|| vec![Kernels::Hopper, Kernels::Portable, Kernels::Cublas], |k| vec![k]);
    let shapes: Vec<[usize; 2]> =
        arguments.tiles.iter().flat_map(|&tiles| arguments.batch.iter().map(move |&batch| [tiles, batch])).collect();
    let bar = progress::bar((forms.len() * shapes.len()) as u64, "shapes");
    let (mut device, mut datasheet, mut rows) = (String::new(), None, Vec::new());
    for kernels in forms {
        let built = Encoder::builder()
            .checkpoint(weights.in_memory())
            .config(config.clone())
            .semantics(arguments.semantics.into())
            .device(arguments.device.clone())
            .dtype(arguments.dtype)
            .kernels(kernels)
            .tune(Tune::Never)
            .max_batch_tiles(1)
            .build();
        let mut encoder = match built {
            // Forms that do not run here are left out where all are asked for, and that is said.
            Err(Error::Cuda(error @ (CudaError::Hopper { .. } | CudaError::NoCublas)))
                if arguments.kernels.is_none() =>
            {
                bar.println(format!("{} is left out: {error}", format!("{kernels:?}").to_lowercase()));
                bar.inc(shapes.len() as u64);
                continue;
            }
            built => built?,
        };
        device = encoder.device();
        datasheet = DATASHEETS.iter().find(|sheet| device.contains(sheet.name));
        for &[tiles, batch] in &shapes {
            bar.set_message(format!("{kernels:?}, {batch} of {tiles} tiles").to_lowercase());
            let timings = encoder.time_steps(&vec![[1, tiles]; batch], !arguments.dry_run)?;
            rows.extend(timings.into_iter().map(|timing| Row::new([tiles, batch], kernels, timing, datasheet)));
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    compare_with_products(&mut rows);
    println!("device: {device}, {} in {}", arguments.dtype, Semantics::from(arguments.semantics));
    print(&rows);
    if let Some(file) = report {
        file.write(&serde_json::json!({
            "version": VERSION,
            "device": device,
            "dtype": arguments.dtype,
            "semantics": Semantics::from(arguments.semantics).to_string(),
            "config": config,
            "datasheet": datasheet,
            "timed": !arguments.dry_run,
            "kernels": rows,
        }))?;
    }
    Ok(())
}

/// The model with as few layers as keep the projection's width: a kernel's time is the same in each.
fn layers_enough(config: EncoderConfig) -> Result<EncoderConfig> {
    let num_states = config.clip_hidden_states.len();
    let layers = num_states.max(2).min(config.clip_num_layers);
    EncoderConfig {
        clip_num_layers: layers,
        num_layers_projection: config.num_layers_projection.min(1),
        clip_hidden_states: (0..num_states as i64).collect(),
        ..config
    }
    .validated()
}

/// Puts each step beside the fastest bare product of its shape, whichever run timed it.
fn compare_with_products(rows: &mut [Row]) {
    let product = |row: &Row, rows: &[Row]| {
        let same = |other: &&Row| {
            other.timing.bare_product
                && [other.tiles, other.batch] == [row.tiles, row.batch]
                && other.timing.step == row.timing.step
        };
        let times = rows.iter().filter(same).filter_map(|other| Some(other.timing.seconds?.median));
        times.min_by(f64::total_cmp)
    };
    let ratios: Vec<Option<f64>> =
        rows.iter().map(|row| Some(product(row, rows)? / row.timing.seconds?.median)).collect();
    for (row, ratio) in rows.iter_mut().zip(ratios) {
        row.ratio_to_cublas = ratio;
    }
}

fn print(rows: &[Row]) {
    let heading = ["step", "batch", "form", "tiles", "µs", "range", "TFLOP/s", "GB/s", "% of roofline", "× cuBLASLt"];
    let mut table = table(&heading);
    for row in rows {
        let number = |value: Option<f64>, digits: usize| value.map_or("-".to_string(), |v| format!("{v:.digits$}"));
        let form = match (row.timing.bare_product, row.timing.form) {
            (true, _) => "bare product, cuBLASLt".to_string(),
            (false, Some(form)) => form.to_string(),
            (false, None) => row.kernels.clone(),
        };
        let seconds = row.timing.seconds;
        table.add_row([
            row.timing.step.clone(),
            format!("{} × {}", row.batch, row.tiles),
            form,
            row.timing.tiling.unwrap_or("-").to_string(),
            number(seconds.map(|s| s.median * 1e6), 1),
            seconds.map_or("-".to_string(), |s| format!("{:.1} to {:.1}", s.least * 1e6, s.most * 1e6)),
            number(row.tflops, 0),
            number(row.gigabytes_per_second, 0),
            number(row.percent_of_roofline, 0),
            number(row.ratio_to_cublas, 2),
        ]);
    }
    println!("{table}");
}
