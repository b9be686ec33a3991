//! The server over HTTP: `POST /v1/encode`, the Open Inference Protocol, health, metrics, and pages for people.

mod body;
mod encode;
mod error;
mod health;
pub(super) mod infer;
mod metadata;
mod origin;
mod page;
mod shared_memory;
mod transfer_coding;

use std::sync::Arc;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{get, post};

use super::core::access_log;
use super::core::service::Service;
pub(super) use health::router as health_router;

/// All routes.
pub(super) fn router(service: Arc<Service>) -> Router {
    let infer = post(infer::infer);
    let shared_memory = if service.regions.is_on() { shared_memory::routes() } else { Router::new() };
    Router::new()
        .route("/v1/encode", post(encode::encode))
        .route("/v2", get(metadata::server))
        .route("/v2/health/live", get(health::live))
        .route("/v2/health/ready", get(health::ready))
        .route("/v2/models/{model}", get(metadata::model))
        .route("/v2/models/{model}/config", get(metadata::config))
        .route("/v2/models/{model}/ready", get(metadata::ready))
        .route("/v2/models/{model}/infer", infer.clone())
        .route("/v2/models/{model}/versions/1", get(metadata::model))
        .route("/v2/models/{model}/versions/1/config", get(metadata::config))
        .route("/v2/models/{model}/versions/1/ready", get(metadata::ready))
        .route("/v2/models/{model}/versions/1/infer", infer)
        .route("/v2/models/{model}/stats", get(metadata::statistics))
        .route("/v2/models/{model}/versions/1/stats", get(metadata::statistics))
        .route("/v2/models/stats", get(metadata::all_statistics))
        .route("/v2/repository/index", post(metadata::repository))
        .merge(health::routes())
        .merge(shared_memory)
        .merge(page::routes())
        .fallback(error::not_found)
        .layer(from_fn(transfer_coding::require_known))
        .layer(from_fn_with_state(service.clone(), origin::guard))
        .layer(from_fn_with_state(service.clone(), access_log::requests))
        .with_state(service)
}
