//! The server and its model, as the Open Inference Protocol's metadata describe them.

use super::error::ApiError;
use super::service::Service;
use super::shared_memory;
use crate::batch::Phase;
use crate::plan::Semantics;

/// The model's name; a part of the contract.
pub(crate) const MODEL: &str = "tilesight";

/// The one version there is.
pub(crate) const VERSION: &str = "1";

/// Bytes of a question at most, whose body has names, versions and places of memory.
pub(crate) const MAX_QUESTION: usize = 64 << 10;

/// What is here beyond the protocol itself.
const EXTENSIONS: [&str; 4] = ["binary_tensor_data", "model_configuration", "model_repository", "statistics"];

/// The same, and what this server was told to have.
pub(crate) fn extensions(service: &Service) -> impl Iterator<Item = &'static str> {
    EXTENSIONS.into_iter().chain(service.regions.is_on().then_some(shared_memory::EXTENSION))
}

/// Refuses other models.
pub(crate) fn require_model(name: &str) -> Result<(), ApiError> {
    if name == MODEL {
        return Ok(());
    }
    Err(ApiError::NotFound { what: format!("model {name:?}, for the one there is is called {MODEL},") })
}

/// Refuses other versions. An empty one is any.
pub(crate) fn require_version(version: &str) -> Result<(), ApiError> {
    if version.is_empty() || version == VERSION {
        return Ok(());
    }
    Err(ApiError::NotFound { what: format!("version {version:?}, for the one there is is {VERSION},") })
}

/// The model's name, version, state, and the reason where it is not ready.
pub(crate) fn index(service: &Service) -> [String; 4] {
    let (state, reason) = match service.batcher.phase() {
        Phase::Serving => ("READY", ""),
        Phase::Starting => ("LOADING", ""),
        Phase::Draining => ("UNLOADING", "the server is shutting down"),
        Phase::Stopped => ("UNAVAILABLE", service.batcher.lost().unwrap_or("the server is shutting down")),
    };
    [MODEL, VERSION, state, reason].map(String::from)
}

/// A datatype as the model's configuration names it.
pub(crate) fn data_type(datatype: &str) -> String {
    match datatype {
        "BYTES" => "TYPE_STRING".to_string(),
        other => format!("TYPE_{other}"),
    }
}

/// Name, type and shape; −1 is any size.
pub(crate) fn inputs(service: &Service) -> [(&'static str, &'static str, Vec<i64>); 3] {
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

pub(crate) fn outputs(service: &Service) -> [(&'static str, &'static str, Vec<i64>); 3] {
    let width = service.model.config.decoder_embed_dim as i64;
    [("embeddings", "FP32", vec![-1, width]), ("num_tiles", "INT64", vec![-1]), ("aspect_ratio", "INT64", vec![-1, 2])]
}
