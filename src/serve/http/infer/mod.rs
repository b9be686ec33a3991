//! `POST /v2/models/tilesight/infer`: the Open Inference Protocol over HTTP, with the binary tensor extension.
//!
//! Reference: <https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md> and
//! <https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md>.

mod answer;
mod wire;

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};

use super::body::{at_length, receive, swallow};
use super::outputs::Wanted;
use super::protocol::require_model;
use super::refused::Refused;
use super::service::Service;
use super::shared_memory::Regions;
use super::tensors::{Elements, Tensor, Tensors};

/// Where the JSON ends and the tensors begin.
const HEADER_LEN: HeaderName = HeaderName::from_static("inference-header-content-length");

/// What JSON takes in memory at most, for each byte of its text: `{"name":""},` is an output that is asked for, and lists
/// double while they grow.
const JSON_GROWTH: u64 = 22;
const _: () = assert!(2 * size_of::<wire::WantedOutput>() as u64 <= 12 * JSON_GROWTH);

pub(super) async fn infer(
    State(service): State<Arc<Service>>,
    Path(model): Path<String>,
    request: Request,
) -> Response {
    let response = respond(&service, &model, request).await.unwrap_or_else(IntoResponse::into_response);
    service.metrics.count_response(response.status());
    response
}

async fn respond(service: &Service, model: &str, request: Request) -> Result<Response, Refused> {
    let (head, body) = request.into_parts();
    let admitted = require_model(model).and_then(|()| service.admit(&head.headers));
    let mut visit = match admitted {
        Ok(visit) => visit,
        Err(refused) => {
            swallow(body);
            return Err(refused);
        }
    };
    let body = receive(body, &visit.place, service.options.max_body_bytes, visit.deadline).await?;
    visit.received();
    let place = visit.place.clone();
    // Bodies and answers can be a hundred megabytes: other requests of this thread do not wait for them.
    let json_len = head.headers.get(HEADER_LEN);
    let hold = |bytes| Ok(place.hold(bytes)?);
    let asked = at_length(body.len(), || Asked::read(json_len, body, &service.regions, hold))?;
    visit.unless_known(&head.headers, asked.wanted.dtype());
    visit.for_outputs(asked.wanted.clone());
    let answer = asked.tensors.encode(visit).await?;
    let bytes = size_of_val(&answer.reply[..]);
    at_length(bytes, || answer::respond(asked.id.as_deref(), &asked.wanted, answer, &place))
}

/// What a body asks for.
pub(super) struct Asked {
    id: Option<String>,
    wanted: Arc<Wanted>,
    pub(super) tensors: Tensors,
}

impl Asked {
    /// Reads a body, whose JSON is so long where tensors stand behind it. What that takes in memory is held before.
    pub(super) fn read(
        json_len: Option<&HeaderValue>,
        body: Bytes,
        regions: &Regions,
        hold: impl FnOnce(u64) -> Result<(), Refused>,
    ) -> Result<Self, Refused> {
        let (json, binary) = split(json_len, body)?;
        hold(JSON_GROWTH.saturating_mul(json.len() as u64))?;
        let request: wire::Request = serde_json::from_slice(&json)
            .map_err(|e| Refused::malformed(format!("the request is not the protocol's: {e}")))?;
        let wanted = answer::wanted(&request, regions)?.into();
        Ok(Self { id: request.id, wanted, tensors: tensors(request.inputs, binary, regions)? })
    }
}

/// The JSON, and the tensors behind it.
fn split(json_len: Option<&HeaderValue>, mut body: Bytes) -> Result<(Bytes, Bytes), Refused> {
    let Some(len) = json_len else { return Ok((body, Bytes::new())) };
    let len = len.to_str().ok().and_then(|text| text.parse().ok()).filter(|len| *len <= body.len());
    let refuse = || Refused::malformed(format!("{HEADER_LEN} must be a number of bytes within the body's"));
    let binary = body.split_off(len.ok_or_else(refuse)?);
    Ok((body, binary))
}

/// The tensors of a request; `binary` is what stands behind its JSON.
fn tensors(inputs: Vec<wire::Input>, mut binary: Bytes, regions: &Regions) -> Result<Tensors, Refused> {
    let mut tensors = Tensors::default();
    for wire::Input { name, shape, datatype, parameters, data } in inputs {
        let window = answer::window(&name, &parameters, regions)?;
        let elements = match (parameters.binary_data_size, data, window) {
            (Some(size), None, None) if size <= binary.len() => Elements::Binary(binary.split_to(size)),
            (Some(size), None, None) => {
                let found = binary.len();
                return Err(Refused::malformed(format!("{name} must have {size} bytes of binary data, found {found}")));
            }
            (None, Some(numbers), None) => Elements::Numbers(numbers.0),
            (None, None, Some(window)) => Elements::Shared(window),
            _ => {
                let reason = format!("{name} has one of data, binary_data_size and shared_memory_region");
                return Err(Refused::malformed(reason));
            }
        };
        tensors.add(Tensor { name, shape, datatype, elements })?;
    }
    if !binary.is_empty() {
        return Err(Refused::malformed(format!("{} bytes of binary data belong to no input", binary.len())));
    }
    Ok(tensors)
}
