//! What a server has done, as Triton's statistics extension counts it, in nanoseconds.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::grpc::inference::{InferBatchStatistics, ModelStatistics, ModelStatisticsResponse, StatisticDuration};
use super::protocol::{MODEL, VERSION};
use super::service::Timing;
use crate::batch::Reply;

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

    /// A request was computed, after so much time to prepare it. Said of each request of a batch, whether its client is
    /// still there or not.
    pub(super) fn computed(&self, reply: &Reply, prepare: Duration) {
        self.change(|statistics| {
            let batch = batch(statistics, reply);
            add(&mut batch.compute_input, u64::from(reply.is_first), prepare);
            if reply.is_first {
                add(&mut batch.compute_infer, 1, reply.encoded);
                add(&mut batch.compute_output, 1, Duration::ZERO);
                statistics.execution_count += 1;
            }
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

    /// Since the request came.
    pub(super) fn elapsed(&self) -> Duration {
        self.begin.elapsed()
    }

    /// The answer is made, since when the rest of the time has been its own.
    pub(super) fn succeed(mut self, timing: &Timing, reply: &Reply) {
        self.is_settled = true;
        // The network's time is not the server's.
        let time = self.elapsed().saturating_sub(timing.receive);
        let output = time.saturating_sub(timing.prepare + timing.queue + timing.encode);
        self.statistics.change(|statistics| {
            statistics.inference_count += 1;
            statistics.last_inference =
                SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_millis() as u64);
            add(&mut batch(statistics, reply).compute_output, 0, output);
            let all = statistics.inference_stats.get_or_insert_default();
            add(&mut all.success, 1, time);
            add(&mut all.queue, 1, timing.queue);
            add(&mut all.compute_input, 1, timing.prepare);
            add(&mut all.compute_infer, 1, timing.encode);
            add(&mut all.compute_output, 1, output);
        });
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        if !self.is_settled {
            let time = self.elapsed();
            let fail = |statistics: &mut ModelStatistics| {
                add(&mut statistics.inference_stats.get_or_insert_default().fail, 1, time);
            };
            self.statistics.change(fail);
        }
    }
}

/// The batches of this size.
fn batch<'a>(statistics: &'a mut ModelStatistics, reply: &Reply) -> &'a mut InferBatchStatistics {
    let batches = &mut statistics.batch_stats;
    let batch_size = reply.batch_requests as u64;
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
