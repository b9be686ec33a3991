//! Requests of the Open Inference Protocol with the binary tensor extension, and what comes back.
//!
//! Reference: <https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md> and
//! <https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md>.

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};

use crate::cli::grid::Grid;
use crate::cli::inputs::noise;
use crate::error::{Error, InputError, Result};
use crate::stages::{Stage, StageTimes};

/// Where the length of a body's JSON part stands.
const JSON_LEN: &str = "inference-header-content-length";

/// A model on a server.
#[derive(Clone)]
pub(super) struct Target {
    client: Client<HttpConnector, Full<Bytes>>,
    url: String,
    model: String,
}

/// One thing to encode, as it travels.
#[derive(Clone)]
pub(super) struct Query {
    pub(super) name: String,
    json_len: usize,
    body: Bytes,
}

/// What a server gave.
pub(super) struct Answer {
    /// When its head was there.
    pub(super) first: Instant,
    /// When it was whole.
    pub(super) end: Instant,
    pub(super) embeddings: Bytes,
    /// Tiles whose embeddings came.
    pub(super) tiles: usize,
    /// As the server timed them, where it says.
    pub(super) stages: StageTimes,
}

/// Why a query has no embeddings.
#[derive(Debug)]
pub(super) enum Failure {
    /// The server has no room now.
    Refused,
    /// What the server, or the way to it, said.
    Failed(String),
}

/// What a query is made of.
pub(super) enum Source {
    Picture(PathBuf),
    Noise(Grid, u64),
}

impl Target {
    pub(super) fn new(url: &str, model: &str) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Self { client, url: url.trim_end_matches('/').to_string(), model: model.to_string() }
    }

    /// What the server says of the model.
    ///
    /// # Errors
    /// [`Error::Io`] at the address.
    pub(super) async fn metadata(&self) -> Result<Value> {
        let path = format!("/v2/models/{}", self.model);
        let refuse = |reason: String| Error::io(PathBuf::from(&self.url))(io::Error::other(reason));
        let uri = self.uri(&path).map_err(refuse)?;
        let response = self.client.get(uri).await.map_err(|error| refuse(said(&error)))?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(|error| refuse(error.to_string()))?.to_bytes();
        if status != StatusCode::OK {
            return Err(refuse(format!("{path}: {status}: {}", reason(&body))));
        }
        serde_json::from_slice(&body).map_err(|error| refuse(format!("{path}: {error}")))
    }

    fn uri(&self, path: &str) -> std::result::Result<Uri, String> {
        if !self.url.starts_with("http://") {
            return Err("the address of a server starts with http://".to_string());
        }
        let text = format!("{}{path}", self.url);
        text.parse().map_err(|error| format!("{text} is no address: {error}"))
    }

    /// Sends a query, and takes the whole answer.
    pub(super) async fn send(&self, query: &Query) -> std::result::Result<Answer, Failure> {
        let uri = self.uri(&format!("/v2/models/{}/infer", self.model)).map_err(Failure::Failed)?;
        let request = Request::post(uri)
            .header("content-type", "application/octet-stream")
            .header(JSON_LEN, query.json_len)
            .body(Full::new(query.body.clone()))
            .map_err(|error| Failure::Failed(error.to_string()))?;
        let response = self.client.request(request).await.map_err(|error| Failure::Failed(said(&error)))?;
        let first = Instant::now();
        let (head, body) = response.into_parts();
        let body = body.collect().await.map_err(|error| Failure::Failed(said(&error)))?.to_bytes();
        let end = Instant::now();
        match head.status {
            StatusCode::OK => {}
            StatusCode::TOO_MANY_REQUESTS => return Err(Failure::Refused),
            status => return Err(Failure::Failed(format!("{status}: {}", reason(&body)))),
        }
        let header = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
        let json_len = header(JSON_LEN).and_then(|len| len.parse().ok()).filter(|len| *len <= body.len());
        let json_len = json_len.ok_or_else(|| Failure::Failed("the answer is not in binary tensors".to_string()))?;
        let (tiles, bytes) = outputs(&body[..json_len]).map_err(Failure::Failed)?;
        if body.len() - json_len != bytes {
            return Err(Failure::Failed(format!("{} bytes of embeddings, not {bytes}", body.len() - json_len)));
        }
        let stages = header("server-timing").map(stages).unwrap_or_default();
        Ok(Answer { first, end, embeddings: body.slice(json_len..), tiles, stages })
    }
}

/// An error with what is behind it.
fn said(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(behind) = source {
        text = format!("{text}: {behind}");
        source = behind.source();
    }
    text
}

/// What a refusal says for itself.
fn reason(body: &[u8]) -> String {
    let json: Option<Value> = serde_json::from_slice(body).ok();
    let words = json.and_then(|json| json["error"].as_str().map(str::to_string));
    words.unwrap_or_else(|| String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned())
}

/// Tiles of an answer, and the bytes of its embeddings.
fn outputs(json: &[u8]) -> std::result::Result<(usize, usize), String> {
    let json: Value = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    let output = |name: &str| {
        let found = json["outputs"].as_array().into_iter().flatten().find(|output| output["name"] == name);
        found.ok_or_else(|| format!("the answer has no output {name}"))
    };
    let bytes = output("embeddings")?["parameters"]["binary_data_size"].as_u64();
    let tiles =
        output("num_tiles")?["data"].as_array().map(|tiles| tiles.iter().filter_map(Value::as_u64).sum::<u64>());
    let lacks = |what: &str| format!("the answer does not say {what}");
    Ok((
        tiles.ok_or_else(|| lacks("num_tiles"))? as usize,
        bytes.ok_or_else(|| lacks("the embeddings' bytes"))? as usize,
    ))
}

/// The stages that `Server-Timing` names, in milliseconds. Names that are not ours are left out.
fn stages(timing: &str) -> StageTimes {
    let mut stages = StageTimes::default();
    for entry in timing.split(',') {
        let Some((name, milliseconds)) = entry.trim().split_once(";dur=") else { continue };
        let stage = Stage::ALL.into_iter().find(|stage| stage.name() == name);
        if let (Some(stage), Ok(milliseconds)) = (stage, milliseconds.parse::<f64>()) {
            stages.add(stage, Duration::try_from_secs_f64(milliseconds / 1e3).unwrap_or_default());
        }
    }
    stages
}

impl Query {
    /// The query for a source, as the model's metadata have its inputs.
    ///
    /// # Errors
    /// [`Error::Io`] for a file; [`InputError::Unavailable`] for an input that the model does not have.
    pub(super) fn new(source: &Source, metadata: &Value, dtype: Option<&str>) -> Result<Self> {
        let shape_of = |input: &'static str| -> Result<Vec<i64>> {
            let found = metadata["inputs"].as_array().into_iter().flatten().find(|found| found["name"] == input);
            let shape = found.and_then(|found| found["shape"].as_array());
            let shape: Option<Vec<i64>> = shape.and_then(|shape| shape.iter().map(Value::as_i64).collect());
            let reason = "the server's model has no such input";
            shape.ok_or_else(|| InputError::Unavailable { option: "input", found: input.to_string(), reason }.into())
        };
        let (name, inputs, binary) = match source {
            Source::Picture(path) => {
                let file = std::fs::read(path).map_err(Error::io(path))?;
                let binary = [&(file.len() as u32).to_le_bytes()[..], &file].concat();
                // One picture, whether or not batches of a server's own have a dimension.
                let shape = vec![1; shape_of("image")?.len().max(1)];
                let size = json!({ "binary_data_size": binary.len() });
                let input = json!({ "name": "image", "shape": shape, "datatype": "BYTES", "parameters": size });
                (path.display().to_string(), vec![input], binary)
            }
            Source::Noise(grid, seed) => {
                let &[_, tiles, channels, side, _] = &shape_of("pixels")?[..] else { return Err(no_pixels()) };
                if channels < 1 || side < 1 {
                    return Err(no_pixels());
                }
                let [down, across] = grid.aspect_ratio();
                // A model that wants a certain number gets tiles of zeros behind the image's own.
                let tiles = if tiles > 0 { tiles as usize } else { down * across };
                let tile_len = channels as usize * side as usize * side as usize;
                let mut pixels = noise(tile_len, grid.aspect_ratio(), *seed).pixels;
                pixels.resize(tiles * tile_len, 0.0);
                let binary: Vec<u8> = pixels.iter().flat_map(|x| x.to_le_bytes()).collect();
                let pixels = json!({
                    "name": "pixels", "shape": [1, tiles, channels, side, side], "datatype": "FP32",
                    "parameters": { "binary_data_size": binary.len() },
                });
                let ratio =
                    json!({ "name": "aspect_ratio", "shape": [1, 2], "datatype": "INT64", "data": [down, across] });
                (format!("{grid} tiles of noise, {}", seed + 1), vec![pixels, ratio], binary)
            }
        };
        let outputs = json!([
            { "name": "embeddings", "parameters": { "binary_data": true } },
            { "name": "num_tiles", "parameters": { "binary_data": false } },
        ]);
        let mut request = json!({ "inputs": inputs, "outputs": outputs });
        if let Some(dtype) = dtype {
            request["parameters"] = json!({ "dtype": dtype });
        }
        let json = request.to_string();
        Ok(Self { name, json_len: json.len(), body: [json.as_bytes(), &binary].concat().into() })
    }
}

fn no_pixels() -> Error {
    let reason = "the server does not say how large its tiles are: send pictures";
    InputError::Unavailable { option: "input", found: "pixels".to_string(), reason }.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_are_those_that_are_known() {
        let found = stages("receive;dur=1.0, decode;dur=2.5, compute;dur=40, serialise;dur=x, gpu;dur=-1, other;dur=1");
        let found: Vec<_> = found.iter().map(|(stage, time)| (stage.name(), time.as_secs_f64())).collect();
        assert_eq!(found, [("receive", 0.001), ("decode", 0.0025), ("compute", 0.04), ("gpu", 0.0)]);
    }

    #[test]
    fn an_answer_says_what_it_holds_or_what_it_lacks() {
        let whole = json!({ "outputs": [
            { "name": "embeddings", "parameters": { "binary_data_size": 640 } },
            { "name": "num_tiles", "data": [1, 3] },
        ]});
        assert_eq!(outputs(whole.to_string().as_bytes()), Ok((4, 640)));
        let lacking = json!({ "outputs": [{ "name": "num_tiles", "data": [1] }] });
        assert!(outputs(lacking.to_string().as_bytes()).unwrap_err().contains("embeddings"));
        assert!(outputs(b"{").is_err());
    }
}
