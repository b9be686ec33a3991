//! Counters and histograms, as Prometheus reads them. They belong to one server; nothing is global.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::http::StatusCode;

/// Upper bounds of the buckets of times, in seconds: from a header's parsing to a large model on a CPU.
const SECONDS: [f64; 14] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];

/// Upper bounds of the buckets of requests in a batch.
const REQUESTS: [f64; 7] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0];

/// A part of a request's way.
#[derive(Debug, Clone, Copy)]
pub(super) enum Stage {
    Receive,
    Prepare,
    Queue,
    Encode,
}

const STAGES: [&str; 4] = ["receive", "prepare", "queue", "encode"];

/// What a server has done.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    responses: Mutex<BTreeMap<u16, u64>>,
    tiles: AtomicU64,
    stages: [Histogram<14>; 4],
    batches: Histogram<7>,
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
    pub(super) fn observe(&self, stage: Stage, time: Duration) {
        self.stages[stage as usize].observe(time.as_secs_f64(), &SECONDS);
    }

    /// A request was computed with so many, itself included.
    pub(super) fn observe_batch(&self, requests: usize) {
        self.batches.observe(requests as f64, &REQUESTS);
    }

    pub(super) fn count_tiles(&self, tiles: i64) {
        self.tiles.fetch_add(tiles.unsigned_abs(), Ordering::Relaxed);
    }

    pub(super) fn count_response(&self, status: StatusCode) {
        *self.responses.lock().unwrap_or_else(PoisonError::into_inner).entry(status.as_u16()).or_default() += 1;
    }

    /// All of it, with the requests that are there now and the bytes they hold.
    pub(super) fn render(&self, (requests, bytes): (usize, u64), ready: bool) -> String {
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
        head(&mut text, "tilesight_responses_total", "counter", "Answers to encode and infer requests, by status.");
        for (status, count) in &*self.responses.lock().unwrap_or_else(PoisonError::into_inner) {
            line(&mut text, format_args!("tilesight_responses_total{{status=\"{status}\"}} {count}"));
        }
        head(&mut text, "tilesight_stage_seconds", "histogram", "Time of each stage of an answered request.");
        for (name, histogram) in STAGES.into_iter().zip(&self.stages) {
            histogram.render(&mut text, "tilesight_stage_seconds", &format!("stage=\"{name}\","), &SECONDS);
        }
        head(&mut text, "tilesight_batch_requests", "histogram", "Requests computed together, once for each of them.");
        self.batches.render(&mut text, "tilesight_batch_requests", "", &REQUESTS);
        text
    }
}

fn line(text: &mut String, line: std::fmt::Arguments) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{line}");
}
