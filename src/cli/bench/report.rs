//! What a benchmark found: for people as tables, for programs as JSON.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::environment::Environment;
use super::samples::{Sample, Summary, median_latencies, rates, stages};
use super::scenario::{BatchKind, Run, Scenario};
use crate::cli::inputs::Input;
use crate::cli::profile::StepKind;
use crate::cli::{VERSION, readable_bytes, table};
use crate::digest::Digest;
use crate::encoder::Encoder;
use crate::plan::{Peak, Spread};
use crate::stages::Stage;

/// A benchmark, whole.
pub(super) struct Report {
    pub(super) scenario: Scenario,
    pub(super) device: String,
    pub(super) dtype: String,
    semantics: &'static str,
    threads: usize,
    max_batch_tiles: usize,
    config: Value,
    inputs: Vec<Value>,
    pub(super) peak: Option<Peak>,
    /// Of one encode of the largest input, step by step.
    pub(super) steps: Option<Vec<StepKind>>,
    measured: Option<Measured>,
}

/// What a run and the passes around it gave.
pub(super) struct Measured {
    pub(super) run: Run,
    /// Images a second that came by chance.
    pub(super) rate: Option<f64>,
    /// Of the embeddings of all inputs, each encoded alone.
    pub(super) checksum: Digest,
    /// Whether the run left it so.
    pub(super) is_same: bool,
    pub(super) device_bytes: Vec<u64>,
    pub(super) environment: Environment,
    /// Whether times mean anything.
    pub(super) timed: bool,
}

/// What is compared between reports.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Figures {
    pub(super) images_per_second: f64,
    pub(super) tiles_per_second: f64,
    pub(super) flops_per_second: f64,
    pub(super) latency: Summary,
    /// How these vary over groups of queries within the run.
    pub(super) images_spread: Option<Spread>,
    pub(super) tiles_spread: Option<Spread>,
    pub(super) p50_spread: Option<Spread>,
}

impl Figures {
    /// Of a run of so many seconds; none where nothing was encoded.
    pub(super) fn of(samples: &[Sample], seconds: f64) -> Option<Self> {
        let latency = Summary::of(samples.iter().map(Sample::latency))?;
        let total = |count: fn(&Sample) -> f64| samples.iter().map(count).sum::<f64>() / seconds;
        Some(Self {
            images_per_second: total(|sample| sample.images as f64),
            tiles_per_second: total(|sample| sample.tiles as f64),
            flops_per_second: total(|sample| sample.flops as f64),
            latency,
            images_spread: rates(samples, |sample| sample.images),
            tiles_spread: rates(samples, |sample| sample.tiles),
            p50_spread: median_latencies(samples),
        })
    }

    /// As reports have them.
    pub(super) fn spreads(&self) -> Value {
        json!({
            "images_per_second": self.images_spread,
            "tiles_per_second": self.tiles_spread,
            "p50": self.p50_spread,
        })
    }
}

impl Report {
    pub(super) fn of(
        encoder: &Encoder,
        scenario: Scenario,
        inputs: &[Input],
        peak: Option<Peak>,
        steps: Option<Vec<StepKind>>,
    ) -> Self {
        Self {
            scenario,
            device: encoder.device(),
            dtype: encoder.precision().activations.to_string(),
            semantics: encoder.semantics().name(),
            threads: encoder.num_threads(),
            max_batch_tiles: encoder.max_batch_tiles(),
            config: json!(encoder.config()),
            inputs: inputs.iter().map(Input::describe).collect(),
            peak,
            steps,
            measured: None,
        }
    }

    pub(super) fn finish(&mut self, measured: Measured) {
        self.measured = Some(measured);
    }

    pub(super) fn measured(&self) -> &Measured {
        let Some(measured) = &self.measured else { unreachable!("a report is shown when it is finished") };
        measured
    }

    pub(super) fn samples(&self) -> &[Sample] {
        &self.measured().run.samples
    }

    /// None where nothing was timed.
    pub(super) fn figures(&self) -> Option<Figures> {
        let Measured { run, timed: true, .. } = self.measured() else { return None };
        Figures::of(&run.samples, run.seconds)
    }

    /// The stages that took any time, in the order of the way.
    pub(super) fn stages(&self) -> Vec<(Stage, Summary)> {
        stages(self.samples())
    }

    /// How often each kind of batch was computed, the largest first.
    pub(super) fn batches(&self) -> Vec<(BatchKind, usize)> {
        let mut kinds = BTreeMap::new();
        self.measured().run.batches.iter().for_each(|kind| *kinds.entry(*kind).or_insert(0) += 1);
        kinds.into_iter().rev().collect()
    }

    pub(super) fn percent_of_peak(&self) -> Option<f64> {
        Some(100.0 * self.figures()?.flops_per_second / self.peak?.flops?)
    }

    pub(super) fn json(&self) -> Value {
        let Measured { run, rate, checksum, is_same, device_bytes, environment, timed } = self.measured();
        let figures = self.figures();
        let stages: serde_json::Map<String, Value> = if *timed {
            self.stages().into_iter().map(|(stage, summary)| (stage.name().to_string(), json!(summary))).collect()
        } else {
            serde_json::Map::new()
        };
        let batch =
            |(kind, count): (BatchKind, usize)| json!({ "images": kind.images, "tiles": kind.tiles, "count": count });
        json!({
            "version": VERSION,
            "scenario": self.scenario.name(),
            "timed": timed,
            "device": self.device,
            "dtype": self.dtype,
            "semantics": self.semantics,
            "threads": self.threads,
            "max_batch_tiles": self.max_batch_tiles,
            "config": self.config,
            "inputs": self.inputs,
            "rate": rate,
            "queries": run.samples.len(),
            "refused": run.refused,
            "seconds": timed.then_some(run.seconds),
            "images": run.samples.iter().map(|sample| sample.images).sum::<usize>(),
            "tiles": run.samples.iter().map(|sample| sample.tiles).sum::<usize>(),
            "images_per_second": figures.map(|f| f.images_per_second),
            "tiles_per_second": figures.map(|f| f.tiles_per_second),
            "flops_per_second": figures.map(|f| f.flops_per_second),
            "percent_of_peak": self.percent_of_peak(),
            "p50": figures.map(|f| f.latency.p50),
            "p90": figures.map(|f| f.latency.p90),
            "p99": figures.map(|f| f.latency.p99),
            "latency": figures.map(|f| f.latency),
            "spread": figures.as_ref().map(Figures::spreads),
            "stages": stages,
            "batches": self.batches().into_iter().map(batch).collect::<Vec<_>>(),
            "peak": self.peak,
            "steps": self.steps,
            "device_bytes": device_bytes,
            "checksum": checksum.to_string(),
            "checksum_is_the_same_after": is_same,
            "environment": environment,
            "samples": timed.then(|| run.samples.iter().map(|sample| [sample.start, sample.latency()]).collect::<Vec<_>>()),
        })
    }

    pub(super) fn print(&self) {
        let Measured { run, rate, checksum, device_bytes, environment, .. } = self.measured();
        let rate =
            rate.filter(|_| self.figures().is_some()).map_or(String::new(), |rate| format!(" at {rate:.2} images/s"));
        println!("{}{rate} on {}, {}, {} semantics", self.scenario.name(), self.device, self.dtype, self.semantics);
        if let Some(figures) = self.figures() {
            self.print_times(&figures);
        }
        let batches: Vec<String> = self
            .batches()
            .into_iter()
            .map(|(kind, count)| format!("{count} of {} images and {} tiles", kind.images, kind.tiles))
            .collect();
        println!("batches: {}", batches.join(", "));
        if run.refused > 0 {
            println!("{} queries were refused: more came than was done", run.refused);
        }
        let rss = environment.peak_rss_bytes.map_or("unknown".to_string(), readable_bytes);
        let on_gpus = device_bytes.iter().map(|bytes| format!(", {} on the GPU", readable_bytes(*bytes)));
        println!("memory: {rss} at most{}", on_gpus.collect::<String>());
        println!("checksum: {checksum}");
        println!("machine: {}", environment.line());
    }

    fn print_times(&self, figures: &Figures) {
        let mut times = table(&["ms", "mean", "p50", "p90", "p95", "p99", "max"]);
        let all = std::iter::once(("latency", figures.latency));
        let stages = self.stages();
        for (name, summary) in all.chain(stages.iter().map(|(stage, summary)| (stage.name(), *summary))) {
            times.add_row(std::iter::once(name.to_string()).chain(summary.milliseconds()));
        }
        println!("{times}\n");
        let range = |spread: Option<Spread>| {
            spread.map_or(String::new(), |s| {
                format!(" ({:.2} to {:.2} over {} parts of the run)", s.least, s.most, s.rounds)
            })
        };
        println!(
            "{} {} in {:.1} s: {:.2} images/s{}, {:.2} tiles/s",
            figures.latency.count,
            if self.scenario == Scenario::Offline { "batches" } else { "queries" },
            self.measured().run.seconds,
            figures.images_per_second,
            range(figures.images_spread),
            figures.tiles_per_second,
        );
        let share = self
            .percent_of_peak()
            .map_or(String::new(), |percent| format!(", {percent:.0} % of what a large product reaches here"));
        println!("{:.3} TFLOP/s{share}", figures.flops_per_second / 1e12);
    }
}
