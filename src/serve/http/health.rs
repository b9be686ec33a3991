//! Whether the process lives, whether it serves, and what it has done.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;

use crate::serve::core::cache::Cache;
use crate::serve::core::service::Service;

/// The process answers.
pub(super) async fn live() -> StatusCode {
    StatusCode::OK
}

/// The first encode has succeeded, nothing has been lost since, and no signal has come.
pub(super) async fn ready(State(service): State<Arc<Service>>) -> StatusCode {
    if service.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

/// Prometheus' text format.
pub(super) async fn metrics(State(service): State<Arc<Service>>) -> impl IntoResponse {
    let cache = service.cache.as_ref().map(Cache::counts);
    let text = service.metrics.render(
        service.batcher.occupancy(),
        cache,
        service.is_ready(),
        service.options.lost_log_lines.count(),
    );
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text)
}
