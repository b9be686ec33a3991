//! What the Open Inference Protocol asks about the server and its model.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use serde_json::{Value, json};

use super::health;
use super::refused::Refused;
use super::service::Service;
use super::shared_memory;
use crate::batch::Phase;
use crate::plan::Semantics;

/// The model's name; a part of the contract.
pub(super) const MODEL: &str = "tilesight";

/// The one version there is.
pub(super) const VERSION: &str = "1";

/// Bytes of a question at most, whose body has names, versions and places of memory.
pub(super) const MAX_QUESTION: usize = 64 << 10;

/// What is here beyond the protocol itself.
const EXTENSIONS: [&str; 4] = ["binary_tensor_data", "model_configuration", "model_repository", "statistics"];

/// The same, and what this server was told to have.
pub(super) fn extensions(service: &Service) -> impl Iterator<Item = &'static str> {
    EXTENSIONS.into_iter().chain(service.regions.is_on().then_some(shared_memory::EXTENSION))
}

/// Refuses other models.
pub(super) fn require_model(name: &str) -> Result<(), Refused> {
    if name == MODEL {
        return Ok(());
    }
    Err(Refused::NotHere { what: format!("model {name:?}, for the one there is is called {MODEL},") })
}

/// Refuses other versions. An empty one is any.
pub(super) fn require_version(version: &str) -> Result<(), Refused> {
    if version.is_empty() || version == VERSION {
        return Ok(());
    }
    Err(Refused::NotHere { what: format!("version {version:?}, for the one there is is {VERSION},") })
}

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
) -> Result<StatusCode, Refused> {
    require_model(&name)?;
    Ok(health::ready(State(service)).await)
}

pub(super) async fn model(
    State(service): State<Arc<Service>>,
    Path(name): Path<String>,
) -> Result<impl IntoResponse, Refused> {
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
) -> Result<impl IntoResponse, Refused> {
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
) -> Result<impl IntoResponse, Refused> {
    require_model(&name)?;
    Ok(all_statistics(State(service)).await)
}

/// The same of all models, which is one.
pub(super) async fn all_statistics(State(service): State<Arc<Service>>) -> impl IntoResponse {
    answer(&json!(service.metrics.statistics.read()))
}

/// `POST /v2/repository/index`: the one model and whether it is ready.
pub(super) async fn repository(State(service): State<Arc<Service>>) -> impl IntoResponse {
    let [name, version, state, reason] = index(&service);
    answer(&json!([{ "name": name, "version": version, "state": state, "reason": reason }]))
}

/// The model's name, version, state, and the reason where it is not ready.
pub(super) fn index(service: &Service) -> [String; 4] {
    let (state, reason) = match service.batcher.phase() {
        Phase::Serving => ("READY", ""),
        Phase::Starting => ("LOADING", ""),
        Phase::Draining => ("UNLOADING", "the server is shutting down"),
        Phase::Stopped => ("UNAVAILABLE", service.batcher.lost().unwrap_or("the server is shutting down")),
    };
    [MODEL, VERSION, state, reason].map(String::from)
}

/// A datatype as the model's configuration names it.
pub(super) fn data_type(datatype: &str) -> String {
    match datatype {
        "BYTES" => "TYPE_STRING".to_string(),
        other => format!("TYPE_{other}"),
    }
}

/// Name, type and shape; −1 is any size.
pub(super) fn inputs(service: &Service) -> [(&'static str, &'static str, Vec<i64>); 3] {
    let config = &service.model.config;
    let (channels, side) = (config.in_channels as i64, config.tile_size as i64);
    let tiles = match service.model.semantics {
        Semantics::Torchtune => -1,
        Semantics::Meta => config.max_num_tiles as i64,
    };
    [
        ("image", "BYTES", vec![-1]),
        ("pixels", "FP32", vec![-1, tiles, channels, side, side]),
        ("aspect_ratio", "INT64", vec![-1, 2]),
    ]
}

pub(super) fn outputs(service: &Service) -> [(&'static str, &'static str, Vec<i64>); 3] {
    let width = service.model.config.decoder_embed_dim as i64;
    [("embeddings", "FP32", vec![-1, width]), ("num_tiles", "INT64", vec![-1]), ("aspect_ratio", "INT64", vec![-1, 2])]
}
