//! A response is written: the outputs that were asked for, in JSON or behind it.

use std::collections::VecDeque;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::Response;

use super::HEADER_LEN;
use super::wire::{self, DataLocation};
use crate::error::InputError;
use crate::memory;
use crate::serve::core::body::ResponseBody;
use crate::serve::core::error::ApiError;
use crate::serve::core::metadata::{MODEL, VERSION};
use crate::serve::core::outputs::{OutputTensor, OutputTransport, Values};
use crate::serve::core::pipeline::ResponseParts;

/// Bytes of JSON text that an f32 takes at most, its comma included: `-1.17549435e-38,`.
const JSON_FLOAT_BYTES: u64 = 16;

/// Writes a response.
pub(super) fn write(parts: &ResponseParts) -> Result<Response, ApiError> {
    let ResponseParts { id, outputs: requested, encoded, place } = *parts;
    let mut pieces = VecDeque::from([Bytes::new()]);
    let (mut outputs, mut json_bytes) = (Vec::new(), 0);
    for (OutputTensor { name, datatype, shape, values }, transport) in requested.tensors(encoded) {
        let (parameters, data) = match transport {
            OutputTransport::Json => {
                if let Values::Floats(values) = values {
                    let bytes = JSON_FLOAT_BYTES.saturating_mul(values.len() as u64);
                    place.hold(bytes)?;
                    json_bytes += bytes;
                }
                (None, Some(values))
            }
            OutputTransport::Binary => {
                let piece = requested.bytes(values, place)?;
                let binary_data_size = piece.len();
                pieces.push_back(piece);
                (Some(DataLocation::Behind { binary_data_size }), None)
            }
            OutputTransport::Shared(window) => {
                let bytes = requested.bytes(values, place)?;
                window.write(name, &bytes)?;
                let parameters = DataLocation::Shared {
                    shared_memory_region: window.name(),
                    shared_memory_offset: window.offset,
                    shared_memory_byte_size: bytes.len(),
                };
                (Some(parameters), None)
            }
        };
        outputs.push(wire::Output { name, datatype, shape, parameters, data });
    }
    let response = wire::Response {
        model_name: MODEL,
        model_version: VERSION,
        id,
        parameters: wire::ResponseParameters { content_hash: encoded.content_hash().to_string() },
        outputs,
    };
    let mut json = memory::Writer::default();
    serde_json::to_writer(&mut json, &response).map_err(|error| match error.io_error_kind() {
        Some(_) => InputError::OutOfMemory { bytes: json_bytes }.into(),
        None => ApiError::Dropped { reason: "the response has no JSON form" },
    })?;
    let json = json.0;
    let json_len = json.len();
    pieces[0] = json.into();
    let is_binary = pieces.len() > 1;
    let mut response = Response::new(Body::new(ResponseBody::new(pieces, place)));
    let headers = response.headers_mut();
    let content_type = if is_binary { "application/octet-stream" } else { "application/json" };
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    if is_binary {
        headers.insert(HEADER_LEN, json_len.into());
    }
    if let Ok(etag) = encoded.etag(requested.dtype()).try_into() {
        headers.insert(header::ETAG, etag);
    }
    Ok(response)
}
