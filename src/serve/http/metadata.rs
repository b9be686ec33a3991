//! The Open Inference Protocol's metadata over HTTP.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use serde::Serialize;
use serde_json::{Value, json};

use super::health;
use crate::serve::core::error::ApiError;
use crate::serve::core::metadata::{MODEL, VERSION, data_type, extensions, index, inputs, outputs, require_model};
use crate::serve::core::service::Service;
use crate::serve::core::statistics::BatchCounters;

fn answer(json: &Value) -> impl IntoResponse + use<> {
    ([(CONTENT_TYPE, "application/json")], json.to_string())
}

pub(super) async fn server(State(service): State<Arc<Service>>) -> impl IntoResponse {
    let extensions: Vec<&str> = extensions(&service).collect();
    answer(&json!({ "name": MODEL, "version": env!("CARGO_PKG_VERSION"), "extensions": extensions }))
}

pub(super) async fn ready(
    State(service): State<Arc<Service>>,
    Path(name): Path<String>,
) -> Result<StatusCode, ApiError> {
    require_model(&name)?;
    Ok(health::ready(State(service)).await)
}

pub(super) async fn model(
    State(service): State<Arc<Service>>,
    Path(name): Path<String>,
) -> Result<impl IntoResponse, ApiError> {
    require_model(&name)?;
    let tensor =
        |(name, datatype, shape): (&str, &str, Vec<i64>)| json!({ "name": name, "datatype": datatype, "shape": shape });
    Ok(answer(&json!({
        "name": MODEL,
        "versions": [VERSION],
        "platform": "tilesight",
        "inputs": inputs(&service).map(tensor),
        "outputs": outputs(&service).map(tensor),
    })))
}

pub(super) async fn config(
    State(service): State<Arc<Service>>,
    Path(name): Path<String>,
) -> Result<impl IntoResponse, ApiError> {
    require_model(&name)?;
    let output = |(name, datatype, dims): (&str, &str, Vec<i64>)| json!({ "name": name, "data_type": data_type(datatype), "dims": dims });
    // A request has a picture or pixels, so none of the inputs is in every request.
    let input = |(name, datatype, dims): (&str, &str, Vec<i64>)| json!({ "name": name, "data_type": data_type(datatype), "dims": dims, "optional": true });
    Ok(answer(&json!({
        "name": MODEL,
        "platform": "tilesight",
        "backend": "tilesight",
        "max_batch_size": 0,
        "input": inputs(&service).map(input),
        "output": outputs(&service).map(output),
    })))
}

/// What the model has done.
pub(super) async fn statistics(
    State(service): State<Arc<Service>>,
    Path(name): Path<String>,
) -> Result<impl IntoResponse, ApiError> {
    require_model(&name)?;
    Ok(all_statistics(State(service)).await)
}

/// The same of all models, which is one.
pub(super) async fn all_statistics(State(service): State<Arc<Service>>) -> impl IntoResponse {
    /// Batches of one size.
    #[derive(Serialize)]
    struct Batches {
        batch_size: u64,
        #[serde(flatten)]
        counters: BatchCounters,
    }
    let counters = service.metrics.statistics.read();
    let batches = counters.batches.into_iter().map(|(batch_size, counters)| Batches { batch_size, counters });
    answer(&json!({ "model_stats": [{
        "name": MODEL,
        "version": VERSION,
        "last_inference": counters.last_inference,
        "inference_count": counters.inference_count,
        "execution_count": counters.execution_count,
        "inference_stats": counters.requests,
        "batch_stats": batches.collect::<Vec<_>>(),
    }] }))
}

/// `POST /v2/repository/index`: the one model and whether it is ready.
pub(super) async fn repository(State(service): State<Arc<Service>>) -> impl IntoResponse {
    let [name, version, state, reason] = index(&service);
    answer(&json!([{ "name": name, "version": version, "state": state, "reason": reason }]))
}
