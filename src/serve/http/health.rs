//! Whether the process lives, whether it serves, and what it has done: among all other routes, and at an address of its own.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{from_fn_with_state, map_response};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::error;
use crate::serve::core::access_log;
use crate::serve::core::cache::Cache;
use crate::serve::core::service::Service;

/// The routes for probes and collectors of metrics.
pub(super) fn routes() -> Router<Arc<Service>> {
    Router::new().route("/health/live", get(live)).route("/health/ready", get(ready)).route("/metrics", get(metrics))
}

/// These routes alone, by whatever name the server is called: there is nothing to be had that a page could use.
pub(in crate::serve) fn router(service: Arc<Service>) -> Router {
    let nosniff = async |mut response: Response| {
        response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        response
    };
    routes()
        .fallback(error::not_found)
        .layer(map_response(nosniff))
        .layer(from_fn_with_state(service.clone(), access_log::requests))
        .with_state(service)
}

/// The process answers.
pub(super) async fn live() -> StatusCode {
    StatusCode::OK
}

/// The first encode has succeeded, nothing has been lost since, and no signal has come.
pub(super) async fn ready(State(service): State<Arc<Service>>) -> StatusCode {
    if service.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

/// Prometheus' text format.
async fn metrics(State(service): State<Arc<Service>>) -> impl IntoResponse {
    let cache = service.cache.as_ref().map(Cache::counts);
    let text = service.metrics.render(
        service.batcher.occupancy(),
        cache,
        service.is_ready(),
        service.options.lost_log_lines.count(),
    );
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text)
}
