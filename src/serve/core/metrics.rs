//! Counters and histograms, as Prometheus reads them. They belong to one server; nothing is global.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::http::StatusCode;

use super::cache::{Counts, Lookup};
use super::statistics::Statistics;
use crate::batch::Report;

/// Upper bounds of the buckets of times, in seconds: from a header's parsing to a large model on a CPU.
const SECONDS: [f64; 14] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];

/// Upper bounds of the buckets of requests and of tiles in a batch.
const COUNTS: [f64; 7] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0];

/// Upper bounds of the buckets of shares.
const SHARES: [f64; 7] = [0.0, 0.1, 0.25, 0.5, 0.67, 0.75, 0.9];

/// A part of a request's way, in order. Not every request passes all of them.
#[derive(Debug, Clone, Copy)]
pub(super) enum Stage {
    /// The body comes.
    Receive,
    /// Pictures are decoded; tensors are read.
    Decode,
    /// Pictures are resized and cut.
    Preprocess,
    /// It waits: for a decoder, for its turn, and on the device behind the batch before.
    Queue,
    /// The CPU computes its batch.
    Compute,
    /// Its batch' pixels go to the GPU.
    H2d,
    /// The GPU computes its batch.
    Gpu,
    /// Its batch' embeddings come back and become f32.
    D2h,
    /// It is copied from the cache, or to it.
    Cache,
    /// The answer is made.
    Serialise,
}

/// As they are called in metrics and headers.
const STAGES: [&str; 10] =
    ["receive", "decode", "preprocess", "queue", "compute", "h2d", "gpu", "d2h", "cache", "serialise"];

/// Where a request's time went, as far as it has come.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Timing([Option<Duration>; STAGES.len()]);

impl Timing {
    /// Adds to a stage's time.
    pub(super) fn add(&mut self, stage: Stage, time: Duration) {
        *self.0[stage as usize].get_or_insert_default() += time;
    }

    /// A stage's time, where it was gone through.
    pub(super) fn milliseconds(&self, stage: Stage) -> Option<f64> {
        self.0[stage as usize].map(|time| time.as_secs_f64() * 1e3)
    }

    /// A stage's time; none where it was not gone through.
    pub(super) fn time(&self, stage: Stage) -> Duration {
        self.0[stage as usize].unwrap_or_default()
    }

    /// Adds all times of another.
    pub(super) fn append(&mut self, other: &Self) {
        for (own, other) in self.0.iter_mut().zip(other.0) {
            *own = own.map_or(other, |own| Some(own + other.unwrap_or_default()));
        }
    }

    pub(super) fn total(&self) -> Duration {
        self.stages().map(|(_, time)| time).sum()
    }

    fn stages(&self) -> impl Iterator<Item = (usize, Duration)> {
        self.0.iter().enumerate().filter_map(|(stage, time)| Some((stage, (*time)?)))
    }

    /// The stages that were gone through and their times, in order.
    pub(super) fn named(&self) -> impl Iterator<Item = (&'static str, Duration)> {
        self.stages().map(|(stage, time)| (STAGES[stage], time))
    }

    /// The value of a `Server-Timing` header, in milliseconds.
    fn header(&self) -> String {
        let stages = self.named().map(|(name, time)| format!("{name};dur={:.3}", time.as_secs_f64() * 1e3));
        stages.collect::<Vec<_>>().join(", ")
    }
}

/// What a server has done.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    responses: Mutex<BTreeMap<u16, u64>>,
    tiles: AtomicU64,
    stages: [Histogram<14>; STAGES.len()],
    batch_requests: Histogram<7>,
    batch_tiles: Histogram<7>,
    batch_padding: Histogram<7>,
    batches_ahead: AtomicU64,
    pub(super) statistics: Statistics,
}

/// How many values were at most each bound, in all, and their sum in millionths.
#[derive(Debug)]
struct Histogram<const BOUNDS: usize> {
    buckets: [AtomicU64; BOUNDS],
    count: AtomicU64,
    sum: AtomicU64,
}

impl<const BOUNDS: usize> Default for Histogram<BOUNDS> {
    fn default() -> Self {
        Self { buckets: [const { AtomicU64::new(0) }; BOUNDS], count: AtomicU64::new(0), sum: AtomicU64::new(0) }
    }
}

impl<const BOUNDS: usize> Histogram<BOUNDS> {
    fn observe(&self, value: f64, bounds: &[f64; BOUNDS]) {
        if let Some(bucket) = bounds.iter().position(|bound| value <= *bound) {
            self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        }
        self.sum.fetch_add((value * 1e6) as u64, Ordering::Relaxed);
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    fn is_empty(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }

    fn render(&self, text: &mut String, name: &str, label: &str, bounds: &[f64; BOUNDS]) {
        let mut below = 0;
        for (bucket, bound) in self.buckets.iter().zip(bounds) {
            below += bucket.load(Ordering::Relaxed);
            line(text, format_args!("{name}_bucket{{{label}le=\"{bound}\"}} {below}"));
        }
        let count = self.count.load(Ordering::Relaxed).max(below);
        let braces = if label.is_empty() { String::new() } else { format!("{{{}}}", label.trim_end_matches(',')) };
        line(text, format_args!("{name}_bucket{{{label}le=\"+Inf\"}} {count}"));
        line(text, format_args!("{name}_sum{braces} {}", self.sum.load(Ordering::Relaxed) as f64 / 1e6));
        line(text, format_args!("{name}_count{braces} {count}"));
    }
}

impl Metrics {
    /// A request has its answer; its `Server-Timing`.
    pub(super) fn answered(&self, timing: &Timing, lookup: Option<Lookup>) -> String {
        self.statistics.succeeded(timing, lookup);
        for (stage, time) in timing.stages() {
            self.stages[stage].observe(time.as_secs_f64(), &SECONDS);
        }
        timing.header()
    }

    /// A batch was computed.
    pub(super) fn observe_batch(&self, batch: &Report) {
        self.batch_requests.observe(batch.requests as f64, &COUNTS);
        self.batch_tiles.observe(batch.tiles as f64, &COUNTS);
        let padding = batch.tiles.saturating_sub(batch.output_tiles) as f64 / batch.tiles.max(1) as f64;
        self.batch_padding.observe(padding, &SHARES);
        self.batches_ahead.fetch_add(u64::from(batch.ahead), Ordering::Relaxed);
        self.statistics.computed(batch);
    }

    pub(super) fn count_tiles(&self, tiles: i64) {
        self.tiles.fetch_add(tiles.unsigned_abs(), Ordering::Relaxed);
    }

    pub(super) fn count_response(&self, status: StatusCode) {
        *self.responses.lock().unwrap_or_else(PoisonError::into_inner).entry(status.as_u16()).or_default() += 1;
    }

    /// All of it, with the requests that are there now and the bytes they hold.
    pub(super) fn render(&self, (requests, bytes): (usize, u64), cache: Option<Counts>, ready: bool) -> String {
        let mut text = String::new();
        let head = |text: &mut String, name: &str, kind: &str, help: &str| {
            line(text, format_args!("# HELP {name} {help}"));
            line(text, format_args!("# TYPE {name} {kind}"));
        };
        head(&mut text, "tilesight_ready", "gauge", "Whether requests are taken.");
        line(&mut text, format_args!("tilesight_ready {}", u8::from(ready)));
        head(&mut text, "tilesight_requests", "gauge", "Requests that are there.");
        line(&mut text, format_args!("tilesight_requests {requests}"));
        head(&mut text, "tilesight_held_bytes", "gauge", "Bytes held for them.");
        line(&mut text, format_args!("tilesight_held_bytes {bytes}"));
        head(&mut text, "tilesight_tiles_total", "counter", "Tiles that were encoded.");
        line(&mut text, format_args!("tilesight_tiles_total {}", self.tiles.load(Ordering::Relaxed)));
        if let Some(Counts { hits, misses, bytes }) = cache {
            head(&mut text, "tilesight_cache_hits_total", "counter", "Requests that the cache had the embeddings of.");
            line(&mut text, format_args!("tilesight_cache_hits_total {hits}"));
            head(&mut text, "tilesight_cache_misses_total", "counter", "Requests that it had not all embeddings of.");
            line(&mut text, format_args!("tilesight_cache_misses_total {misses}"));
            head(&mut text, "tilesight_cache_bytes", "gauge", "Bytes that the cache keeps.");
            line(&mut text, format_args!("tilesight_cache_bytes {bytes}"));
        }
        head(&mut text, "tilesight_responses_total", "counter", "Answers to encode and infer requests, by status.");
        for (status, count) in &*self.responses.lock().unwrap_or_else(PoisonError::into_inner) {
            line(&mut text, format_args!("tilesight_responses_total{{status=\"{status}\"}} {count}"));
        }
        head(&mut text, "tilesight_stage_seconds", "histogram", "Time of each stage of an answered request.");
        for (name, histogram) in STAGES.into_iter().zip(&self.stages).filter(|(_, histogram)| !histogram.is_empty()) {
            histogram.render(&mut text, "tilesight_stage_seconds", &format!("stage=\"{name}\","), &SECONDS);
        }
        head(&mut text, "tilesight_batch_requests", "histogram", "Requests of a batch.");
        self.batch_requests.render(&mut text, "tilesight_batch_requests", "", &COUNTS);
        head(&mut text, "tilesight_batch_tiles", "histogram", "Tiles of a batch that were computed.");
        self.batch_tiles.render(&mut text, "tilesight_batch_tiles", "", &COUNTS);
        head(&mut text, "tilesight_batch_padding_share", "histogram", "Share of those that stand for padding.");
        self.batch_padding.render(&mut text, "tilesight_batch_padding_share", "", &SHARES);
        head(&mut text, "tilesight_batches_ahead_total", "counter", "Batches given to a device that computed another.");
        line(&mut text, format_args!("tilesight_batches_ahead_total {}", self.batches_ahead.load(Ordering::Relaxed)));
        text
    }
}

fn line(text: &mut String, line: std::fmt::Arguments) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{line}");
}
