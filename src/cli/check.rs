//! `tilesight check`: the proof that a build computes rightly on the machine it is on.

use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

use clap::Args;
use serde::Serialize;

use super::report_file::ReportFile;
use super::{golden, progress, table};
use crate::cuda;
use crate::dtype::Dtype;
use crate::encoder::{Device, Kernels, require_dtype};
use crate::error::{Error, InputError, Result};
use crate::plan::Form;

/// Check this build on this machine: every kernel against float64, then whole encoders against golden data
#[derive(Args)]
#[command(after_help = "Examples:
  tilesight check                             what is best here, everything
  tilesight check --device cuda:1 --dtype bf16 --json check.json
  tilesight check --device cpu --golden tests/golden

A kernel fails where its result is further from float64 than its element type explains, where it wrote beyond its output,
or where it left something unwritten. An encoder fails where it is further from float64 than torch's own is in the same
element type (on the CPU in f32: where max |a-b| / max |b| is above 3e-6). Exit code 1 on any failure.")]
pub(super) struct Arguments {
    /// Where to check: auto (a GPU if one is there, else the CPU), cpu, cuda, or one GPU by number
    #[arg(long, default_value = "auto", value_parser = Device::from_str)]
    device: Device,
    /// One element type only [default: bf16 and fp16 on GPUs, f32 on the CPU]
    #[arg(long, value_enum, value_name = "TYPE")]
    dtype: Option<Dtype>,
    /// One form of the kernels only: hopper, portable or cublas [default: all that run here]
    #[arg(long, value_parser = Kernels::from_str)]
    kernels: Option<Kernels>,
    /// Leave the kernels out, or the encoders
    #[arg(long, value_enum, value_name = "PART")]
    only: Option<Part>,
    /// The folder of golden data [default: golden/ beside the program, or tests/golden/ here]
    #[arg(long, value_name = "DIR")]
    golden: Option<PathBuf>,
    /// Write every finding as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Part {
    /// Every kernel against float64
    Kernels,
    /// Whole encoders against golden data
    Encoders,
}

/// One thing that was checked.
#[derive(Debug, Serialize)]
struct Line {
    part: Part,
    name: String,
    case: String,
    dtype: String,
    error: Option<f64>,
    limit: Option<f64>,
    passed: bool,
    /// What kept it from running.
    #[serde(skip_serializing_if = "Option::is_none")]
    refusal: Option<String>,
}

pub(super) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let report = ReportFile::create(arguments.json.as_ref())?;
    let (device, name) = arguments.resolve()?;
    let dtypes = arguments.dtypes(&device)?;
    println!("device: {name}");
    let mut lines = Vec::new();
    for dtype in dtypes {
        if arguments.only != Some(Part::Encoders) {
            arguments.check_kernels(&device, dtype, &mut lines)?;
        }
        if arguments.only != Some(Part::Kernels) {
            arguments.check_encoders(&device, dtype, &mut lines)?;
        }
    }
    print(&lines);
    let failed = lines.iter().filter(|line| !line.passed).count();
    if let Some(file) = report {
        file.write(&serde_json::json!({
            "version": super::VERSION,
            "device": name,
            "checked": lines.len(),
            "failed": failed,
            "findings": lines,
        }))?;
    }
    println!("{} checks, {failed} failed", lines.len());
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Arguments {
    /// The device that is meant, and its name.
    fn resolve(&self) -> Result<(Device, String)> {
        match &self.device {
            Device::Cpu => Ok((Device::Cpu, "cpu".to_string())),
            Device::Auto if !cuda::IS_BUILT => Ok((Device::Cpu, "cpu (this build has no CUDA)".to_string())),
            Device::Auto => match cuda::check::describe(0) {
                Ok(name) => Ok((Device::Cuda(vec![0]), name)),
                Err(reason) => Ok((Device::Cpu, format!("cpu ({reason})"))),
            },
            Device::Cuda(ordinals) if cuda::IS_BUILT && ordinals.len() == 1 => {
                Ok((self.device.clone(), cuda::check::describe(ordinals[0])?))
            }
            Device::Cuda(_) => {
                let reason = match cuda::IS_BUILT {
                    true => "check takes one GPU at a time",
                    false => "this build has no CUDA: build it with --features cuda",
                };
                Err(InputError::Unavailable { option: "device", found: self.device.to_string(), reason }.into())
            }
        }
    }

    /// The element types to check in, on the device that was resolved.
    fn dtypes(&self, device: &Device) -> Result<Vec<Dtype>> {
        let on_gpu = matches!(device, Device::Cuda(_));
        if !on_gpu && self.only == Some(Part::Kernels) {
            let reason = "only GPUs have kernels to check by themselves";
            return Err(InputError::Unavailable { option: "only", found: "kernels".to_string(), reason }.into());
        }
        match (self.dtype, on_gpu) {
            (Some(dtype), _) => require_dtype(dtype, on_gpu).map(|()| vec![dtype]),
            (None, true) => Ok(vec![Dtype::Bf16, Dtype::F16]),
            (None, false) => Ok(vec![Dtype::F32]),
        }
    }

    fn check_kernels(&self, device: &Device, dtype: Dtype, lines: &mut Vec<Line>) -> Result<()> {
        let Device::Cuda(ordinals) = device else { return Ok(()) };
        let forms = match self.kernels {
            None | Some(Kernels::Auto) if runs_hopper(ordinals)? => vec![Form::Portable, Form::Hopper],
            Some(Kernels::Hopper) => {
                cuda::require_hopper(ordinals)?;
                vec![Form::Hopper]
            }
            // The baseline's kernels are among those of the portable form.
            None | Some(Kernels::Auto | Kernels::Portable | Kernels::Cublas) => vec![Form::Portable],
        };
        for form in forms {
            let bar = progress::bar(cuda::check::num_cases(dtype, form) as u64, "kernels");
            cuda::check::run(ordinals[0], dtype, form, |kernel, shape, found| {
                bar.set_message(format!("{kernel} {shape}"));
                let found = found.map_err(|e| e.to_string());
                let name = match form {
                    Form::Hopper => format!("{kernel}, {form}"),
                    _ => kernel.to_string(),
                };
                lines.push(Line::new(Part::Kernels, name, shape.to_string(), dtype, found));
                bar.inc(1);
            })?;
            bar.finish_and_clear();
        }
        Ok(())
    }

    fn check_encoders(&self, device: &Device, dtype: Dtype, lines: &mut Vec<Line>) -> Result<()> {
        let folder = self.golden.clone().or_else(golden::default_folder);
        let folder = folder.ok_or_else(|| {
            let reason = "name the folder with --golden, or leave the encoders out with --only kernels";
            InputError::Unavailable { option: "golden data", found: "none".to_string(), reason }
        })?;
        let forms = match (device, self.kernels) {
            (_, Some(kernels)) => vec![kernels],
            (Device::Cuda(ordinals), None) if runs_hopper(ordinals)? => {
                vec![Kernels::Portable, Kernels::Hopper, Kernels::Cublas]
            }
            (Device::Cuda(_), None) => vec![Kernels::Portable, Kernels::Cublas],
            (Device::Auto | Device::Cpu, None) => vec![Kernels::Auto],
        };
        let sets = golden::sets(&folder)?;
        let bar = progress::bar((sets.len() * forms.len()) as u64, "encoders");
        for kernels in forms {
            for set in &sets {
                let found = set.run(device, dtype, kernels);
                if matches!(found, Err(Error::Cuda(crate::error::CudaError::NoCublas))) && self.kernels.is_none() {
                    bar.println("cuBLASLt is not on this machine: the form that uses it is left out");
                    break;
                }
                let form = format!("encoder, {}", format!("{kernels:?}").to_lowercase());
                let found = found.map(|found| (found.error, found.limit)).map_err(|e| e.to_string());
                lines.push(Line::new(Part::Encoders, form, set.name.clone(), dtype, found));
                bar.inc(1);
            }
        }
        bar.finish_and_clear();
        Ok(())
    }
}

/// Whether the kernels of Hopper run on these GPUs.
fn runs_hopper(ordinals: &[usize]) -> Result<bool> {
    Ok(cuda::best_form(ordinals)? == Form::Hopper)
}

impl Line {
    fn new(
        part: Part,
        name: String,
        case: String,
        dtype: Dtype,
        found: std::result::Result<(f64, f64), String>,
    ) -> Self {
        let dtype = dtype.to_string();
        match found {
            Ok((error, limit)) => {
                // A NaN is no number within the limit, and JSON has none.
                let (passed, number) = (error <= limit, error.is_finite().then_some(error));
                Self { part, name, case, dtype, error: number, limit: Some(limit), passed, refusal: None }
            }
            Err(refusal) => {
                Self { part, name, case, dtype, error: None, limit: None, passed: false, refusal: Some(refusal) }
            }
        }
    }
}

/// Every failure by itself, and of what passed the worst of each kind.
fn print(lines: &[Line]) {
    let mut table = table(&["what", "type", "checks", "failed", "worst case", "error", "limit"]);
    let mut kinds: Vec<(&str, &str)> = Vec::new();
    for line in lines {
        if !kinds.contains(&(&line.name, &line.dtype)) {
            kinds.push((&line.name, &line.dtype));
        }
    }
    for (name, dtype) in kinds {
        let of_kind = || lines.iter().filter(|line| line.name == name && line.dtype == dtype);
        let share = |line: &&Line| line.error.unwrap_or(f64::INFINITY) / line.limit.unwrap_or(1.0);
        let Some(worst) = of_kind().max_by(|a, b| share(a).total_cmp(&share(b))) else { continue };
        let number = |x: Option<f64>| x.map_or("none".to_string(), |x| format!("{x:.2e}"));
        table.add_row([
            name.to_string(),
            dtype.to_string(),
            of_kind().count().to_string(),
            of_kind().filter(|line| !line.passed).count().to_string(),
            worst.case.clone(),
            number(worst.error),
            number(worst.limit),
        ]);
    }
    println!("{table}");
    for line in lines.iter().filter(|line| !line.passed) {
        let reason = match (&line.refusal, line.error, line.limit) {
            (Some(refusal), ..) => refusal.clone(),
            (None, Some(error), Some(limit)) => format!("error {error:.3e} is above {limit:.3e}"),
            _ => "values are not finite: unwritten, overflowed, or written beyond the output".to_string(),
        };
        println!("FAILED: {} {} {}: {reason}", line.name, line.dtype, line.case);
    }
}
