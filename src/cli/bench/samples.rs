//! What a run leaves: a sample for each query, and what can be said of many.

use serde::Serialize;

use crate::plan::Spread;
use crate::stages::{Stage, StageTimes};

/// Groups of queries that a run is cut into, to see how much it varies in itself.
const GROUPS: usize = 10;

/// One query.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sample {
    /// When it was due, in seconds of the run.
    pub(super) start: f64,
    /// When its embeddings were there.
    pub(super) end: f64,
    pub(super) images: usize,
    /// Tiles whose embeddings came out.
    pub(super) tiles: usize,
    pub(super) flops: u64,
    pub(super) stages: StageTimes,
}

impl Sample {
    pub(super) fn latency(&self) -> f64 {
        self.end - self.start
    }
}

/// Many values of a kind, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Summary {
    pub(super) mean: f64,
    pub(super) p50: f64,
    pub(super) p90: f64,
    pub(super) p95: f64,
    pub(super) p99: f64,
    pub(super) max: f64,
    pub(super) count: usize,
}

impl Summary {
    /// None of no values.
    pub(super) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let max = *values.last()?;
        let count = values.len();
        let at = |share| percentile(&values, share);
        let mean = values.iter().sum::<f64>() / count as f64;
        Some(Self { mean, p50: at(0.5), p90: at(0.9), p95: at(0.95), p99: at(0.99), max, count })
    }

    /// Mean to maximum, for people.
    pub(super) fn milliseconds(&self) -> [String; 6] {
        let Self { mean, p50, p90, p95, p99, max, .. } = *self;
        [mean, p50, p90, p95, p99, max].map(|seconds| format!("{:.2}", seconds * 1e3))
    }
}

/// The stages that took any time, in the order of the way.
pub(super) fn stages(samples: &[Sample]) -> Vec<(Stage, Summary)> {
    let summary = |stage: Stage| {
        let times = samples.iter().map(|sample| sample.stages.time(stage).as_secs_f64());
        Some((stage, Summary::of(times).filter(|all| all.max > 0.0)?))
    };
    Stage::ALL.into_iter().filter_map(summary).collect()
}

/// The least of sorted values that this share of them does not exceed: one that was measured, never one between two.
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

/// Groups of samples that ended one after another, each with the seconds from the end of the one before.
fn groups(samples: &[Sample]) -> Vec<(Vec<Sample>, f64)> {
    let mut samples = samples.to_vec();
    samples.sort_by(|a, b| a.end.total_cmp(&b.end));
    let size = samples.len().div_ceil(GROUPS).max(1);
    let mut before = samples.iter().map(|sample| sample.start).fold(f64::INFINITY, f64::min);
    let group = |group: &[Sample]| {
        let end = group[group.len() - 1].end;
        let seconds = end - std::mem::replace(&mut before, end);
        (group.to_vec(), seconds)
    };
    samples.chunks(size).map(group).filter(|(_, seconds)| *seconds > 0.0).collect()
}

/// How what `count` counts of a sample varies over the groups of a run, a second; none where there are fewer than two.
pub(super) fn rates(samples: &[Sample], count: impl Fn(&Sample) -> usize) -> Option<Spread> {
    let rate = |(group, seconds): (Vec<Sample>, f64)| group.iter().map(&count).sum::<usize>() as f64 / seconds;
    spread(groups(samples).into_iter().map(rate).collect())
}

/// The same of the median latency of each group.
pub(super) fn median_latencies(samples: &[Sample]) -> Option<Spread> {
    let median = |(group, _): (Vec<Sample>, f64)| Summary::of(group.iter().map(Sample::latency)).map(|all| all.p50);
    spread(groups(samples).into_iter().filter_map(median).collect())
}

/// None of fewer than two values: one has no spread.
pub(super) fn spread(values: Vec<f64>) -> Option<Spread> {
    if values.len() < 2 { None } else { Spread::of(values) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(start: f64, end: f64, images: usize) -> Sample {
        Sample { start, end, images, tiles: 4 * images, flops: 1, stages: StageTimes::default() }
    }

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let summary = Summary::of((1..=200).rev().map(f64::from)).unwrap();
        assert_eq!((summary.p50, summary.p90, summary.p95, summary.p99, summary.max), (100., 180., 190., 198., 200.));
        assert_eq!((summary.mean, summary.count), (100.5, 200));
        let one = Summary::of([3.0]).unwrap();
        assert_eq!((one.p50, one.p99, one.max), (3.0, 3.0, 3.0));
        assert_eq!(Summary::of([]), None);
    }

    #[test]
    fn rates_are_of_groups_that_follow_one_another() {
        // Twenty queries of two images: ten at one a second, then ten at two a second.
        let ends = (0..10).map(|n| f64::from(n) + 1.0).chain((0..10).map(|n| 10.0 + (f64::from(n) + 1.0) / 2.0));
        let samples: Vec<Sample> = ends.map(|end| sample(end - 0.25, end, 2)).collect();
        let found = rates(&samples, |sample| sample.images).unwrap();
        assert_eq!((found.most, found.rounds), (4.0, 10));
        assert!((found.least - 2.0).abs() < 1e-9, "{found:?}");
        // The first group begins with its first query.
        let latencies = median_latencies(&samples).unwrap();
        assert_eq!((latencies.least, latencies.most), (0.25, 0.25));
        assert_eq!(rates(&samples[..1], |sample| sample.images), None, "one group has no spread");
    }
}
