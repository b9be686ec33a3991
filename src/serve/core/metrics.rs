//! Counters and histograms, as Prometheus reads them. They belong to one server; nothing is global.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::http::StatusCode;

use super::cache::{Counts, Lookup};
use super::statistics::Statistics;
use crate::batch::{Occupancy, Report};
use crate::stages::{Stage, StageTimes};

/// Upper bounds of the buckets of times, in seconds: from a header's parsing to a large model on a CPU.
const SECONDS: [f64; 14] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];

/// Upper bounds of the buckets of requests and of tiles in a batch.
const COUNTS: [f64; 7] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0];

/// Upper bounds of the buckets of shares.
const SHARES: [f64; 7] = [0.0, 0.1, 0.25, 0.5, 0.67, 0.75, 0.9];

/// All counters of a server.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    responses: Mutex<BTreeMap<u16, u64>>,
    tiles: AtomicU64,
    stages: [Histogram<14>; Stage::ALL.len()],
    batch_requests: Histogram<7>,
    batch_tiles: Histogram<7>,
    batch_padding: Histogram<7>,
    batches_ahead: AtomicU64,
    pub(crate) statistics: Statistics,
}

/// The counters of one request, which has failed unless it is said to have succeeded.
pub(crate) struct RequestStats {
    metrics: Arc<Metrics>,
    begin: Instant,
    is_settled: bool,
}

impl RequestStats {
    pub(crate) fn begin(metrics: &Arc<Metrics>) -> Self {
        Self { metrics: metrics.clone(), begin: Instant::now(), is_settled: false }
    }

    /// The request is answered with embeddings.
    pub(crate) fn succeed(&mut self, times: &StageTimes, lookup: Option<Lookup>) {
        self.is_settled = true;
        self.metrics.succeeded(times, lookup);
    }
}

impl Drop for RequestStats {
    fn drop(&mut self) {
        if !self.is_settled {
            self.metrics.statistics.failed(self.begin.elapsed());
        }
    }
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
    /// A request was answered with embeddings.
    fn succeeded(&self, times: &StageTimes, lookup: Option<Lookup>) {
        self.statistics.succeeded(times, lookup);
        for (stage, time) in times.iter() {
            self.stages[stage as usize].observe(time.as_secs_f64(), &SECONDS);
        }
    }

    /// A batch was computed.
    pub(crate) fn observe_batch(&self, batch: &Report) {
        self.batch_requests.observe(batch.requests as f64, &COUNTS);
        self.batch_tiles.observe(batch.tiles as f64, &COUNTS);
        let padding = batch.tiles.saturating_sub(batch.output_tiles) as f64 / batch.tiles.max(1) as f64;
        self.batch_padding.observe(padding, &SHARES);
        self.batches_ahead.fetch_add(u64::from(batch.ahead), Ordering::Relaxed);
        self.statistics.computed(batch);
    }

    pub(crate) fn count_tiles(&self, tiles: i64) {
        self.tiles.fetch_add(tiles.unsigned_abs(), Ordering::Relaxed);
    }

    pub(crate) fn count_response(&self, status: StatusCode) {
        *self.responses.lock().unwrap_or_else(PoisonError::into_inner).entry(status.as_u16()).or_default() += 1;
    }

    /// All of it, with the requests that are there now and the bytes they hold.
    pub(crate) fn render(
        &self,
        Occupancy { announced, admitted, bytes }: Occupancy,
        cache: Option<Counts>,
        ready: bool,
        lost_log_lines: Option<u64>,
    ) -> String {
        let mut text = String::new();
        let head = |text: &mut String, name: &str, kind: &str, help: &str| {
            line(text, format_args!("# HELP {name} {help}"));
            line(text, format_args!("# TYPE {name} {kind}"));
        };
        head(&mut text, "tilesight_ready", "gauge", "Whether requests are taken.");
        line(&mut text, format_args!("tilesight_ready {}", u8::from(ready)));
        head(&mut text, "tilesight_receiving_requests", "gauge", "Requests whose bodies are on their way.");
        line(&mut text, format_args!("tilesight_receiving_requests {announced}"));
        head(&mut text, "tilesight_requests", "gauge", "Requests whose bodies are there.");
        line(&mut text, format_args!("tilesight_requests {admitted}"));
        head(&mut text, "tilesight_held_bytes", "gauge", "Bytes held for them.");
        line(&mut text, format_args!("tilesight_held_bytes {bytes}"));
        if let Some(lost) = lost_log_lines {
            head(&mut text, "tilesight_log_lines_lost_total", "counter", "Lines of the log that were not written.");
            line(&mut text, format_args!("tilesight_log_lines_lost_total {lost}"));
        }
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
        for (stage, histogram) in Stage::ALL.iter().zip(&self.stages).filter(|(_, histogram)| !histogram.is_empty()) {
            let label = format!("stage=\"{}\",", stage.name());
            histogram.render(&mut text, "tilesight_stage_seconds", &label, &SECONDS);
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
