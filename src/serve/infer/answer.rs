//! The response: the outputs that were asked for, in JSON or behind it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::Response;

use super::HEADER_LEN;
use super::wire::{self, BinarySize, Parameters, Request};
use crate::batch::Place;
use crate::serve::body::Pieces;
use crate::serve::log::Told;
use crate::serve::outputs::{OutputTensor, Values, Wanted};
use crate::serve::protocol::{MODEL, VERSION};
use crate::serve::refused::Refused;
use crate::serve::service::Answer;

/// Bytes of JSON text that an f32 takes at most, its comma included: `-1.17549435e-38,`.
const JSON_FLOAT_BYTES: u64 = 16;

/// What a request asks for.
pub(super) fn wanted(request: &Request) -> Result<Wanted, Refused> {
    let Parameters { binary_data_output: binary, dtype, .. } = &request.parameters;
    let outputs = request.outputs.as_ref();
    let named = outputs.map(|outputs| {
        outputs.iter().map(|output| (&output.name[..], output.parameters.binary_data.unwrap_or(*binary)))
    });
    let own_dtype = outputs.into_iter().flatten().filter_map(|output| output.parameters.dtype.as_deref()).next_back();
    Wanted::new(named, *binary, own_dtype.or(dtype.as_deref()))
}

/// The response to a request of this id.
pub(super) fn respond(
    id: Option<&str>,
    wanted: &Wanted,
    mut answer: Answer,
    place: Arc<Place>,
) -> Result<Response, Refused> {
    let begin = Instant::now();
    let mut pieces = VecDeque::from([Bytes::new()]);
    let mut outputs = Vec::new();
    for (OutputTensor { name, datatype, shape, values }, binary) in wanted.of(&answer) {
        let (parameters, data) = if binary {
            let piece = wanted.bytes(values, &place)?;
            let size = piece.len();
            pieces.push_back(piece);
            (Some(BinarySize { binary_data_size: size }), None)
        } else {
            if let Values::Floats(values) = values {
                place.hold(JSON_FLOAT_BYTES.saturating_mul(values.len() as u64))?;
            }
            (None, Some(values))
        };
        outputs.push(wire::Output { name, datatype, shape, parameters, data });
    }
    let response = wire::Response {
        model_name: MODEL,
        model_version: VERSION,
        id,
        parameters: wire::Facts { content_hash: answer.content_hash().to_string() },
        outputs,
    };
    let json = serde_json::to_vec(&response).map_err(|_| Refused::Dropped { reason: "the answer has no JSON form" })?;
    let json_len = json.len();
    pieces[0] = json.into();
    let is_binary = pieces.len() > 1;
    let mut response = Response::new(Body::new(Pieces { pieces, place }));
    response.extensions_mut().insert(Told::of(&answer));
    let headers = response.headers_mut();
    let content_type = if is_binary { "application/octet-stream" } else { "application/json" };
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    if is_binary {
        headers.insert(HEADER_LEN, json_len.into());
    }
    if let Ok(etag) = answer.etag(wanted.dtype()).try_into() {
        headers.insert(header::ETAG, etag);
    }
    if let Ok(timing) = answer.is_made(begin.elapsed()).try_into() {
        headers.insert("server-timing", timing);
    }
    Ok(response)
}
