//! Counters of the model, as Triton's statistics extension has them, in nanoseconds.
//!
//! Reference:
//! <https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_statistics.md>.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::cache::Lookup;
use crate::batch::Report;
use crate::encoder::Timing;
use crate::stages::{Stage, StageTimes};

/// The statistics of the one model.
#[derive(Debug, Default)]
pub(crate) struct Statistics(Mutex<Counters>);

/// All counters at one moment.
#[derive(Debug, Default, Clone)]
pub(crate) struct Counters {
    /// When a request was last answered, in milliseconds since 1970.
    pub(crate) last_inference: u64,
    /// Requests that were computed.
    pub(crate) inference_count: u64,
    /// Batches that were computed.
    pub(crate) execution_count: u64,
    pub(crate) requests: RequestCounters,
    /// By the number of requests in a batch.
    pub(crate) batches: BTreeMap<u64, BatchCounters>,
}

/// Times of requests.
#[derive(Debug, Default, Clone, Copy, Serialize)]
pub(crate) struct RequestCounters {
    pub(crate) success: Times,
    pub(crate) fail: Times,
    pub(crate) queue: Times,
    pub(crate) compute_input: Times,
    pub(crate) compute_infer: Times,
    pub(crate) compute_output: Times,
    pub(crate) cache_hit: Times,
    pub(crate) cache_miss: Times,
}

/// Times of batches of one size.
#[derive(Debug, Default, Clone, Copy, Serialize)]
pub(crate) struct BatchCounters {
    pub(crate) compute_input: Times,
    pub(crate) compute_infer: Times,
    pub(crate) compute_output: Times,
}

/// How often something happened, and how long it took in all.
#[derive(Debug, Default, Clone, Copy, Serialize)]
pub(crate) struct Times {
    pub(crate) count: u64,
    pub(crate) ns: u64,
}

impl Times {
    fn add(&mut self, time: Duration) {
        self.count += 1;
        self.ns += time.as_nanos() as u64;
    }
}

impl Statistics {
    /// All counters, as they are now.
    pub(crate) fn read(&self) -> Counters {
        self.change(|counters| counters.clone())
    }

    /// A batch was computed.
    pub(crate) fn computed(&self, batch: &Report) {
        let times = StageTimes::from(batch.timing);
        let infer = match batch.timing {
            Timing::Host { .. } => Stage::Compute,
            Timing::Gpu { .. } => Stage::Gpu,
        };
        self.change(|counters| {
            counters.execution_count += 1;
            let counters = counters.batches.entry(batch.requests as u64).or_default();
            counters.compute_input.add(times.time(Stage::H2d));
            counters.compute_infer.add(times.time(infer));
            counters.compute_output.add(times.time(Stage::D2h));
        });
    }

    /// A request was answered with embeddings. Time on the network is not the server's; embeddings from the cache were
    /// not computed.
    pub(crate) fn succeeded(&self, times: &StageTimes, lookup: Option<Lookup>) {
        let sum = |stages: &[Stage]| stages.iter().map(|stage| times.time(*stage)).sum();
        self.change(|counters| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            counters.last_inference = now.as_millis() as u64;
            let requests = &mut counters.requests;
            requests.success.add(times.total() - times.time(Stage::Receive));
            requests.queue.add(times.time(Stage::Queue));
            match lookup {
                Some(Lookup::Hit) => return requests.cache_hit.add(times.time(Stage::Cache)),
                Some(Lookup::Miss) => requests.cache_miss.add(times.time(Stage::Cache)),
                None => {}
            }
            requests.compute_input.add(sum(&[Stage::Decode, Stage::Preprocess, Stage::H2d]));
            requests.compute_infer.add(sum(&[Stage::Compute, Stage::Gpu]));
            requests.compute_output.add(sum(&[Stage::D2h, Stage::Serialise]));
            counters.inference_count += 1;
        });
    }

    /// A request was answered with an error, or its client has left.
    pub(crate) fn failed(&self, time: Duration) {
        self.change(|counters| counters.requests.fail.add(time));
    }

    /// The counters are whole between changes, so a panic elsewhere leaves them sound.
    fn change<T>(&self, change: impl FnOnce(&mut Counters) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
