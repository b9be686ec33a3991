//! Triton's extension for system shared memory, over HTTP.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use http_body_util::{BodyExt, Limited};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::serve::core::body::BodyClock;
use crate::serve::core::error::ApiError;
use crate::serve::core::metadata::MAX_QUESTION;
use crate::serve::core::service::Service;
use crate::serve::core::shared_memory::Region;

/// The part of an object that is registered under a name.
#[derive(Debug, Deserialize)]
struct Registration {
    key: String,
    #[serde(default)]
    offset: u64,
    byte_size: u64,
}

/// The extension's routes, for a server where it is on.
pub(super) fn routes() -> Router<Arc<Service>> {
    Router::new()
        .route("/v2/systemsharedmemory/status", get(status_of_all))
        .route("/v2/systemsharedmemory/region/{name}/status", get(status))
        .route("/v2/systemsharedmemory/region/{name}/register", post(register))
        .route("/v2/systemsharedmemory/region/{name}/unregister", post(unregister))
        .route("/v2/systemsharedmemory/unregister", post(unregister_all))
}

fn answer(regions: &[Arc<Region>]) -> impl IntoResponse + use<> {
    let one = |region: &Arc<Region>| {
        let Region { name, key, offset, byte_size, .. } = &**region;
        json!({ "name": name, "key": key, "offset": offset, "byte_size": byte_size })
    };
    let all: Value = regions.iter().map(one).collect();
    ([(header::CONTENT_TYPE, "application/json")], all.to_string())
}

async fn status_of_all(State(service): State<Arc<Service>>) -> Result<impl IntoResponse, ApiError> {
    Ok(answer(&service.regions.status(None)?))
}

async fn status(State(service): State<Arc<Service>>, Path(name): Path<String>) -> Result<impl IntoResponse, ApiError> {
    Ok(answer(&service.regions.status(Some(&name))?))
}

async fn register(
    State(service): State<Arc<Service>>,
    Path(name): Path<String>,
    body: Body,
) -> Result<StatusCode, ApiError> {
    let clock = BodyClock::new(Instant::now() + service.options.timeout, &service.options.connections);
    let body = clock.wait(Limited::new(body, MAX_QUESTION).collect()).await?;
    let body = body.map_err(|e| ApiError::malformed(format!("the registration cannot be read: {e}")))?.to_bytes();
    let registration: Registration = serde_json::from_slice(&body)
        .map_err(|e| ApiError::malformed(format!("the registration is not the protocol's: {e}")))?;
    let Registration { key, offset, byte_size } = registration;
    service.regions.register(&name, &key, offset, byte_size)?;
    Ok(StatusCode::OK)
}

async fn unregister(State(service): State<Arc<Service>>, Path(name): Path<String>) -> StatusCode {
    service.regions.unregister(Some(&name));
    StatusCode::OK
}

async fn unregister_all(State(service): State<Arc<Service>>) -> StatusCode {
    service.regions.unregister(None);
    StatusCode::OK
}
