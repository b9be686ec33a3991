//! A report beside an earlier one, ours or a peer's: ratios, and whether they stand out of what varies within a run.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::report::Figures;
use super::samples::spread;
use crate::cli::table;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::plan::Spread;

/// A report that was written before.
pub(super) struct Earlier {
    path: PathBuf,
    /// What it is of.
    title: String,
    metrics: Vec<Metric>,
    checksum: Option<String>,
}

/// A figure with how it varies.
#[derive(Debug, Clone, PartialEq)]
struct Metric {
    name: &'static str,
    value: f64,
    spread: Option<Spread>,
}

impl Earlier {
    /// # Errors
    /// [`Error::Io`] for a file that cannot be read or is no report.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(Error::io(path))?;
        let report: Value = serde_json::from_slice(&bytes).map_err(|e| Error::io(path)(e.into()))?;
        let metrics = if report["peer"].is_string() { peers(&report) } else { ours(&report) };
        if metrics.is_empty() {
            let reason = "this is no report of `tilesight bench` or of benches/peers that holds times";
            return Err(Error::io(path)(std::io::Error::new(std::io::ErrorKind::InvalidData, reason)));
        }
        let word = |key: &str| report[key].as_str().map(str::to_string);
        let title = [word("peer"), word("scenario"), word("device"), word("dtype"), word("version")];
        let title = title.into_iter().flatten().collect::<Vec<_>>().join(", ");
        Ok(Self { path: path.to_path_buf(), title, metrics, checksum: word("checksum") })
    }

    /// Prints both, with this run's figures over the earlier ones'.
    pub(super) fn print_beside(&self, figures: &Figures, checksum: &Digest) {
        println!("\nbeside {} ({})", self.path.display(), self.title);
        let mut table = table(&["", "earlier", "now", "now / earlier", "range", ""]);
        for now in metrics(figures) {
            let Some(earlier) = self.metrics.iter().find(|metric| metric.name == now.name) else { continue };
            let comparison = Comparison::of(earlier, &now);
            table.add_row([
                now.name.to_string(),
                shown(earlier.value),
                shown(now.value),
                format!("{:.3}", comparison.ratio),
                comparison.range.map_or("-".to_string(), |[least, most]| format!("{least:.3} to {most:.3}")),
                comparison.verdict().to_string(),
            ]);
        }
        println!("{table}");
        match &self.checksum {
            Some(earlier) if *earlier == checksum.to_string() => {
                println!("the embeddings are the same")
            }
            Some(_) => println!("the embeddings differ: another model, other inputs, or other numerics"),
            None => {}
        }
    }
}

/// A ratio, and between what it lies when both sides are anywhere in their spread.
struct Comparison {
    ratio: f64,
    range: Option<[f64; 2]>,
}

impl Comparison {
    fn of(earlier: &Metric, now: &Metric) -> Self {
        let range = earlier.spread.zip(now.spread).map(|(old, new)| [new.least / old.most, new.most / old.least]);
        Self { ratio: now.value / earlier.value, range }
    }

    fn verdict(&self) -> &'static str {
        match self.range {
            None => "without a spread on both sides nobody knows whether this is noise",
            Some([least, most]) if least <= 1.0 && 1.0 <= most => "within the spread: noise",
            Some(_) => "beyond the spread",
        }
    }
}

/// The names are the keys of our reports.
fn metrics(figures: &Figures) -> Vec<Metric> {
    vec![
        Metric { name: "images_per_second", value: figures.images_per_second, spread: figures.images_spread },
        Metric { name: "tiles_per_second", value: figures.tiles_per_second, spread: figures.tiles_spread },
        Metric { name: "p50", value: figures.latency.p50, spread: figures.p50_spread },
        Metric { name: "p99", value: figures.latency.p99, spread: None },
    ]
}

fn ours(report: &Value) -> Vec<Metric> {
    let metric = |name: &'static str| {
        let number = |key: &str| report["spread"][name][key].as_f64();
        let spread = || {
            let rounds = report["spread"][name]["rounds"].as_u64()?;
            Some(Spread {
                median: number("median")?,
                least: number("least")?,
                most: number("most")?,
                rounds: rounds as usize,
            })
        };
        Some(Metric { name, value: report[name].as_f64()?, spread: spread() })
    };
    ["images_per_second", "tiles_per_second", "p50", "p99"].into_iter().filter_map(metric).collect()
}

/// A peer's report has the seconds of each run and the shape of its images, `(b, i, t, …)`.
fn peers(report: &Value) -> Vec<Metric> {
    let numbers = |key: &str| -> Option<Vec<f64>> { report[key].as_array()?.iter().map(Value::as_f64).collect() };
    let (Some(mut seconds), Some(shape)) = (numbers("seconds"), numbers("images")) else { return Vec::new() };
    let [b, i, t, ..] = shape[..] else { return Vec::new() };
    seconds.sort_by(f64::total_cmp);
    let Some(&median) = seconds.get(seconds.len().saturating_sub(1) / 2) else { return Vec::new() };
    let rate = |amount: f64, name| Metric {
        name,
        value: amount / median,
        spread: spread(seconds.iter().map(|seconds| amount / seconds).collect()),
    };
    vec![
        rate(b * i, "images_per_second"),
        rate(b * i * t, "tiles_per_second"),
        Metric { name: "p50", value: median, spread: spread(seconds.clone()) },
    ]
}

fn shown(value: f64) -> String {
    if value < 1.0 { format!("{value:.5}") } else { format!("{value:.2}") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn metric(value: f64, spread: Option<[f64; 2]>) -> Metric {
        let spread = spread.map(|[least, most]| Spread { median: value, least, most, rounds: 2 });
        Metric { name: "p50", value, spread }
    }

    #[test]
    fn a_difference_within_the_spread_is_noise() {
        let old = metric(10.0, Some([9.0, 11.0]));
        let verdict = |new: &Metric| Comparison::of(&old, new).verdict();
        assert_eq!(verdict(&metric(10.8, Some([10.5, 11.5]))), "within the spread: noise");
        assert_eq!(verdict(&metric(12.0, Some([11.5, 13.0]))), "beyond the spread");
        assert_eq!(verdict(&metric(8.0, Some([7.0, 8.9]))), "beyond the spread");
        assert!(verdict(&metric(8.0, None)).starts_with("without a spread"));
        let comparison = Comparison::of(&old, &metric(20.0, Some([18.0, 22.0])));
        assert_eq!((comparison.ratio, comparison.range), (2.0, Some([18.0 / 11.0, 22.0 / 9.0])));
    }

    #[test]
    fn a_peers_report_gives_rates_of_its_median() {
        let report = json!({ "peer": "torchtune eager", "seconds": [2.0, 1.0, 4.0], "images": [1, 2, 4, 3, 28, 28] });
        let found = peers(&report);
        let value = |name: &str| found.iter().find(|metric| metric.name == name).map(|metric| metric.value);
        assert_eq!(value("images_per_second"), Some(1.0));
        assert_eq!(value("tiles_per_second"), Some(4.0));
        assert_eq!(value("p50"), Some(2.0));
        assert_eq!(found[0].spread.map(|spread| [spread.least, spread.most]), Some([0.5, 2.0]));
        assert!(peers(&json!({ "peer": "x", "seconds": [], "images": [1, 1, 1] })).is_empty());
    }
}
