//! What a server has done, as Triton's statistics extension counts it, in nanoseconds.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::grpc::inference::{InferBatchStatistics, ModelStatistics, ModelStatisticsResponse, StatisticDuration};
use super::metrics::{Stage, Timing};
use super::protocol::{MODEL, VERSION};
use crate::batch::Report;
use crate::encoder;

/// The statistics of the one model.
#[derive(Debug, Default)]
pub(super) struct Statistics(Mutex<ModelStatistics>);

/// One request, which has failed unless it is said to have succeeded.
pub(super) struct Account {
    statistics: Arc<Statistics>,
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
    pub(super) fn executed(&self, report: &Report) {
        let [input, infer, output] = match report.timing {
            encoder::Timing::Host { compute } => [Duration::ZERO, compute, Duration::ZERO],
            encoder::Timing::Gpu { h2d, compute, d2h } => [h2d, compute, d2h],
        };
        self.change(|statistics| {
            statistics.execution_count += 1;
            let batch = batch(statistics, report.requests as u64);
            add(&mut batch.compute_input, 1, input);
            add(&mut batch.compute_infer, 1, infer);
            add(&mut batch.compute_output, 1, output);
        });
    }

    /// The counters hold between changes, so a panic elsewhere leaves them sound.
    fn change<T>(&self, change: impl FnOnce(&mut ModelStatistics) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Account {
    pub(super) fn open(statistics: &Arc<Statistics>) -> Self {
        Self { statistics: statistics.clone(), begin: Instant::now(), is_settled: false }
    }

    /// The answer is made.
    pub(super) fn succeed(mut self, timing: &Timing) {
        self.is_settled = true;
        // The network's time is not the server's.
        let time = timing.total().saturating_sub(timing.of(&[Stage::Receive]));
        self.statistics.change(|statistics| {
            statistics.inference_count += 1;
            statistics.last_inference =
                SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_millis() as u64);
            let all = statistics.inference_stats.get_or_insert_default();
            add(&mut all.success, 1, time);
            add(&mut all.queue, 1, timing.of(&[Stage::Queue]));
            add(&mut all.compute_input, 1, timing.of(&[Stage::Decode, Stage::Preprocess, Stage::H2d]));
            add(&mut all.compute_infer, 1, timing.of(&[Stage::Compute, Stage::Gpu]));
            add(&mut all.compute_output, 1, timing.of(&[Stage::D2h, Stage::Serialise]));
        });
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        if !self.is_settled {
            let time = self.begin.elapsed();
            let fail = |statistics: &mut ModelStatistics| {
                add(&mut statistics.inference_stats.get_or_insert_default().fail, 1, time);
            };
            self.statistics.change(fail);
        }
    }
}

/// The batches of this size.
fn batch(statistics: &mut ModelStatistics, batch_size: u64) -> &mut InferBatchStatistics {
    let batches = &mut statistics.batch_stats;
    let place = batches.binary_search_by_key(&batch_size, |batch| batch.batch_size).unwrap_or_else(|place| {
        batches.insert(place, InferBatchStatistics { batch_size, ..<_>::default() });
        place
    });
    &mut batches[place]
}

fn add(sum: &mut Option<StatisticDuration>, count: u64, time: Duration) {
    let sum = sum.get_or_insert_default();
    sum.count += count;
    sum.ns += time.as_nanos() as u64;
}
