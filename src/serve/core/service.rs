//! The server's state, which all requests share.

use std::sync::Arc;

use axum::http::StatusCode;
use tokio::sync::{Semaphore, watch};

use super::cache::Cache;
use super::error::ApiError;
use super::health::Health;
use super::metrics::Metrics;
use super::model::Model;
use super::shared_memory::Regions;
use crate::batch::{Batcher, Phase};
use crate::serve::options::Options;

/// The server's state.
pub(crate) struct Service {
    pub(crate) batcher: Batcher,
    pub(crate) model: Model,
    pub(crate) options: Options,
    pub(crate) metrics: Arc<Metrics>,
    health: Health,
    pub(crate) regions: Regions,
    /// None where it is off.
    pub(crate) cache: Option<Cache>,
    /// None where no collector of spans is named.
    #[cfg(feature = "otel")]
    pub(crate) traces: Option<super::traces::Traces>,
    /// One for each picture that is decoded at once.
    pub(crate) image_slots: Arc<Semaphore>,
    /// Why the server has stopped, once it has.
    pub(crate) stopped: watch::Sender<Option<String>>,
}

impl Service {
    /// `metrics` count the batches of `batcher`.
    pub(crate) fn new(batcher: Batcher, model: Model, metrics: Arc<Metrics>, options: Options) -> Self {
        let image_slots = Arc::new(Semaphore::new(options.image_threads.max(1)));
        let (stopped, _) = watch::channel(None);
        let regions = Regions::new(options.shared_memory_regions);
        let budget = Some(options.answer_cache).filter(|budget| *budget > 0);
        let cache = budget.map(|budget| Cache::new(budget, model.computed_in));
        Self {
            batcher,
            model,
            options,
            metrics,
            health: Health::default(),
            regions,
            cache,
            #[cfg(feature = "otel")]
            traces: None,
            image_slots,
            stopped,
        }
    }

    /// Whether requests are taken and answered as they should be.
    pub(crate) fn is_ready(&self) -> bool {
        self.batcher.phase() == Phase::Serving && !self.health.is_failing()
    }

    /// Counts the response to a request for embeddings by its status.
    pub(crate) fn count_response<T>(&self, result: &Result<T, ApiError>) {
        let status = result.as_ref().map_or_else(ApiError::status, |_| StatusCode::OK);
        self.metrics.count_response(status);
        self.health.observe(status);
    }

    /// Answers all requests that wait, those in the running batch included.
    pub(crate) fn stop(&self, reason: &str) {
        self.batcher.lose(reason);
        self.stopped.send_replace(Some(reason.to_string()));
    }
}
