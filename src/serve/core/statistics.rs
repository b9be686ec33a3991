//! What a server has done, as Triton's statistics extension counts it, in nanoseconds.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::cache::Lookup;
use super::grpc::inference::{InferBatchStatistics, ModelStatistics, ModelStatisticsResponse, StatisticDuration};
use super::metrics::{self, Metrics, Stage};
use super::protocol::{MODEL, VERSION};
use crate::batch::Report;
use crate::encoder::Timing;

/// The statistics of the one model.
#[derive(Debug, Default)]
pub(super) struct Statistics(Mutex<ModelStatistics>);

/// One request, which has failed unless it is said to have succeeded.
pub(super) struct Account {
    metrics: Arc<Metrics>,
    begin: Instant,
    is_settled: bool,
}

impl Statistics {
    /// All of it, as it is now.
    pub(super) fn read(&self) -> ModelStatisticsResponse {
        let mut statistics = self.change(|statistics| statistics.clone());
        (statistics.name, statistics.version) = (MODEL.into(), VERSION.into());
        // What has not happened yet has been counted, too: never.
        let all = statistics.inference_stats.get_or_insert_default();
        for one in [
            &mut all.success,
            &mut all.fail,
            &mut all.queue,
            &mut all.compute_input,
            &mut all.compute_infer,
            &mut all.compute_output,
            &mut all.cache_hit,
            &mut all.cache_miss,
        ] {
            one.get_or_insert_default();
        }
        ModelStatisticsResponse { model_stats: vec![statistics] }
    }

    /// A batch was computed.
    pub(super) fn computed(&self, batch: &Report) {
        let (input, infer, output) = match batch.timing {
            Timing::Host { compute } => (Duration::ZERO, compute, Duration::ZERO),
            Timing::Gpu { h2d, compute, d2h } => (h2d, compute, d2h),
        };
        let batch_size = batch.requests as u64;
        self.change(|statistics| {
            statistics.execution_count += 1;
            let batches = &mut statistics.batch_stats;
            let place = batches.binary_search_by_key(&batch_size, |batch| batch.batch_size);
            let place = place.unwrap_or_else(|place| {
                batches.insert(place, InferBatchStatistics { batch_size, ..<_>::default() });
                place
            });
            let batch = &mut batches[place];
            add(&mut batch.compute_input, input);
            add(&mut batch.compute_infer, infer);
            add(&mut batch.compute_output, output);
        });
    }

    /// A request has its answer. What the network took is not the server's; what the cache had was not computed.
    pub(super) fn succeeded(&self, timing: &metrics::Timing, lookup: Option<Lookup>) {
        let sum = |stages: &[Stage]| stages.iter().map(|stage| timing.time(*stage)).sum();
        self.change(|statistics| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            statistics.last_inference = now.as_millis() as u64;
            let all = statistics.inference_stats.get_or_insert_default();
            add(&mut all.success, timing.total() - timing.time(Stage::Receive));
            add(&mut all.queue, timing.time(Stage::Queue));
            match lookup {
                Some(Lookup::Hit) => return add(&mut all.cache_hit, timing.time(Stage::Cache)),
                Some(Lookup::Miss) => add(&mut all.cache_miss, timing.time(Stage::Cache)),
                None => {}
            }
            statistics.inference_count += 1;
            add(&mut all.compute_input, sum(&[Stage::Decode, Stage::Preprocess, Stage::H2d]));
            add(&mut all.compute_infer, sum(&[Stage::Compute, Stage::Gpu]));
            add(&mut all.compute_output, sum(&[Stage::D2h, Stage::Serialise]));
        });
    }

    fn failed(&self, time: Duration) {
        self.change(|statistics| add(&mut statistics.inference_stats.get_or_insert_default().fail, time));
    }

    /// The counters hold between changes, so a panic elsewhere leaves them sound.
    fn change<T>(&self, change: impl FnOnce(&mut ModelStatistics) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Account {
    pub(super) fn open(metrics: &Arc<Metrics>) -> Self {
        Self { metrics: metrics.clone(), begin: Instant::now(), is_settled: false }
    }

    /// The request has its answer; its `Server-Timing`.
    pub(super) fn succeed(&mut self, timing: &metrics::Timing, lookup: Option<Lookup>) -> String {
        self.is_settled = true;
        self.metrics.answered(timing, lookup)
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        if !self.is_settled {
            self.metrics.statistics.failed(self.begin.elapsed());
        }
    }
}

fn add(sum: &mut Option<StatisticDuration>, time: Duration) {
    let sum = sum.get_or_insert_default();
    sum.count += 1;
    sum.ns += time.as_nanos() as u64;
}
