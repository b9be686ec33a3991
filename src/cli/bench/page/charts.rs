//! The pictures of a report.

use super::super::report::Report;
use super::super::samples::{Sample, Summary};
use super::svg::{Anchor, Picture, Scale};
use crate::cli::profile::StepKind;

const WIDTH: f64 = 920.0;

/// Bars of a histogram at most.
const BARS: usize = 60;

/// Points of a timeline at most: more cannot be told apart, and make a large page.
const POINTS: usize = 4000;

/// How often a latency was seen, with its percentiles.
pub(super) fn latencies(report: &Report) -> String {
    let latencies: Vec<f64> = report.samples().iter().map(|sample| sample.latency() * 1e3).collect();
    let Some(summary) = Summary::of(latencies.iter().copied()) else { return String::new() };
    let mut picture = Picture::new(WIDTH, 260.0);
    let [left, top, right, bottom] = picture.inner();
    let least = latencies.iter().copied().fold(f64::INFINITY, f64::min);
    let margin = ((summary.max - least) * 0.05).max(summary.max * 0.01);
    let range = [(least - margin).max(0.0), summary.max + margin];
    let num_bars = (latencies.len() / 2).clamp(1, BARS);
    let width = (range[1] - range[0]) / num_bars as f64;
    let mut counts = vec![0usize; num_bars];
    for latency in &latencies {
        counts[(((latency - range[0]) / width) as usize).min(num_bars - 1)] += 1;
    }
    let most = counts.iter().copied().max().unwrap_or(1);
    let (across, up) = (Scale::linear(range, [left, right]), Scale::linear([0.0, most as f64], [bottom, top]));
    let whole = |(place, label): (f64, String)| (!label.contains('.')).then_some((place, label));
    picture.axes(&across.labels(), &up.labels().into_iter().filter_map(whole).collect::<Vec<_>>(), ["ms", "queries"]);
    for (number, count) in counts.into_iter().enumerate().filter(|(_, count)| *count > 0) {
        let [from, to] = [number, number + 1].map(|edge| range[0] + width * edge as f64);
        let title = format!("{count} queries of {from:.2} to {to:.2} ms");
        picture.rect([across.at(from), up.at(count as f64), across.at(to) - 1.0, bottom], "bar", &title);
    }
    for (name, value) in [("p50", summary.p50), ("p90", summary.p90), ("p99", summary.p99)] {
        let x = across.at(value);
        picture.line([x, top], [x, bottom], "mark");
        // Names of percentiles that lie near one another stand one under the other.
        let row = ["p50", "p90", "p99"].iter().position(|other| *other == name).unwrap_or(0);
        picture.text([x + 4.0, top + 10.0 + 13.0 * row as f64], Anchor::Start, name);
    }
    picture.finish("Histogram of the latencies")
}

/// The mean of each stage, one behind the other.
pub(super) fn stages(report: &Report) -> String {
    let Some(latency) = Summary::of(report.samples().iter().map(Sample::latency)) else { return String::new() };
    let stages = report.stages();
    let mut parts: Vec<(&str, f64)> = stages.iter().map(|(stage, summary)| (stage.name(), summary.mean)).collect();
    let known: f64 = parts.iter().map(|(_, mean)| mean).sum();
    parts.push(("rest", (latency.mean - known).max(0.0)));
    let mut picture = Picture::new(WIDTH, 110.0);
    let [left, top, right, bottom] = picture.inner();
    // Stages of a GPU overlap, so that they may be more than the latency.
    let total = known.max(latency.mean);
    let across = Scale::linear([0.0, total * 1e3], [left, right]);
    picture.axes(&across.labels(), &[], ["ms", ""]);
    let mut start = 0.0;
    for (name, mean) in parts {
        let end = start + mean;
        let [from, to] = [start, end].map(|seconds| across.at(seconds * 1e3));
        let share = 100.0 * mean / latency.mean;
        picture.rect(
            [from, top, to, bottom - 6.0],
            &format!("stage {name}"),
            &format!("{name}: {:.3} ms, {share:.1} %", mean * 1e3),
        );
        if to - from > 60.0 {
            picture.text([f64::midpoint(from, to), f64::midpoint(top, bottom)], Anchor::Middle, name);
        }
        start = end;
    }
    picture.finish("Mean of each stage")
}

/// Each query, when it was due and how long it took.
pub(super) fn timeline(report: &Report) -> String {
    let samples = report.samples();
    let mut picture = Picture::new(WIDTH, 260.0);
    let [left, top, right, bottom] = picture.inner();
    let most = |value: fn(&Sample) -> f64| samples.iter().map(value).fold(0.0, f64::max);
    let across = Scale::linear([0.0, most(|sample| sample.end).max(1e-9)], [left, right]);
    let up = Scale::linear([0.0, most(|sample| sample.latency() * 1e3).max(1e-9)], [bottom, top]);
    picture.axes(&across.labels(), &up.labels(), ["s of the run", "ms"]);
    for sample in samples.iter().step_by(samples.len().div_ceil(POINTS).max(1)) {
        let latency = sample.latency() * 1e3;
        let title =
            format!("at {:.3} s: {latency:.2} ms, {} images, {} tiles", sample.start, sample.images, sample.tiles);
        picture.point([across.at(sample.start), up.at(latency)], 2.5, "point", &title);
    }
    picture.finish("Latency of each query over the run")
}

/// FLOP/s over FLOPs a byte; none where nothing was measured.
pub(super) fn roofline(report: &Report) -> Option<String> {
    let (peak, steps) = (report.peak?, report.steps.as_ref()?);
    let roof = peak.flops?;
    // What moves bytes and computes nothing has no place on it.
    let intensity = |kind: &StepKind| kind.flops as f64 / kind.bytes as f64;
    let point = |(number, kind)| Some((number, kind, intensity(kind), kind.flops_per_second?));
    let points: Vec<(usize, &StepKind, f64, f64)> = (1..).zip(steps).filter_map(point).collect();
    let bound = |values: &mut dyn Iterator<Item = f64>| {
        values.fold([f64::INFINITY, 0.0f64], |[low, high], value| [low.min(value), high.max(value)])
    };
    let [least, most] = bound(&mut points.iter().map(|point| point.2).chain([roof / peak.bytes]));
    let [slowest, fastest] = bound(&mut points.iter().map(|point| point.3).chain([roof]));
    let mut picture = Picture::new(WIDTH, 400.0);
    let [left, top, right, bottom] = picture.inner();
    let intensities = [least / 2.0, most * 2.0];
    let across = Scale::logarithmic(intensities, [left, right]);
    let up = Scale::logarithmic([slowest / 2.0, fastest * 2.0], [bottom, top]);
    picture.axes(&across.labels(), &up.labels(), ["FLOPs a byte", "FLOP/s"]);
    let ridge = roof / peak.bytes;
    // The slope enters the picture from the left or from below.
    let start = intensities[0].max(slowest / 2.0 / peak.bytes);
    picture.line([across.at(start), up.at(start * peak.bytes)], [across.at(ridge), up.at(roof)], "roof");
    picture.line([across.at(ridge), up.at(roof)], [right, up.at(roof)], "roof");
    let mut labels: Vec<[f64; 2]> = Vec::new();
    for (number, kind, intensity, rate) in points {
        let share = kind.share.unwrap_or_default();
        let [x, y] = [across.at(intensity), up.at(rate)];
        let percent = kind.percent_of_roofline.unwrap_or_default();
        let title = format!(
            "{}: {:.1} GFLOP/s, {percent:.0} % of the roofline, {:.1} % of the time",
            kind.step,
            rate / 1e9,
            100.0 * share
        );
        // Areas are as the shares of the time.
        let radius = 3.0 + 20.0 * share.sqrt();
        picture.point([x, y], radius, "step", &title);
        // Numbers that would lie on one another stand one above the other.
        let mut label = [x, y - radius - 3.0];
        while labels.iter().any(|other| (other[0] - label[0]).abs() < 18.0 && (other[1] - label[1]).abs() < 12.0) {
            label[1] -= 12.0;
        }
        labels.push(label);
        picture.text(label, Anchor::Middle, &number.to_string());
    }
    Some(picture.finish("Steps under the roofline"))
}

/// How often batches of a size were computed.
pub(super) fn batches(report: &Report) -> String {
    let batches = report.batches();
    let mut picture = Picture::new(WIDTH, 62.0 + 24.0 * batches.len() as f64);
    let [left, top, right, _] = picture.inner();
    let most = batches.iter().map(|(_, count)| *count).max().unwrap_or(1) as f64;
    let across = Scale::linear([0.0, most], [left + 130.0, right - 60.0]);
    for (number, (kind, count)) in batches.into_iter().enumerate() {
        let y = top + 24.0 * number as f64;
        let name = format!("{} images, {} tiles", kind.images, kind.tiles);
        picture.text([left + 122.0, y + 13.0], Anchor::End, &name);
        picture.rect(
            [across.at(0.0), y, across.at(count as f64), y + 18.0],
            "bar",
            &format!("{count} batches of {name}"),
        );
        picture.text([across.at(count as f64) + 6.0, y + 13.0], Anchor::Start, &count.to_string());
    }
    picture.finish("Batches by size")
}
