//! The response: the outputs that were asked for, in JSON or behind it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::Response;

use super::HEADER_LEN;
use super::wire::{self, Elsewhere, Request, TensorParameters};
use crate::batch::Place;
use crate::serve::body::Pieces;
use crate::serve::log::Told;
use crate::serve::outputs::{OutputTensor, Values, Wanted, Way};
use crate::serve::protocol::{MODEL, VERSION};
use crate::serve::refused::Refused;
use crate::serve::service::Answer;
use crate::serve::shared_memory::{Regions, Window};

/// Bytes of JSON text that an f32 takes at most, its comma included: `-1.17549435e-38,`.
const JSON_FLOAT_BYTES: u64 = 16;

/// What a request asks for.
pub(super) fn wanted(request: &Request, regions: &Regions) -> Result<Wanted, Refused> {
    let binary = request.parameters.binary_data_output;
    let way = |binary| if binary { Way::Binary } else { Way::Json };
    let outputs = request.outputs.as_ref();
    let named = outputs.map(|outputs| {
        outputs.iter().map(|output| {
            let window = window(&output.name, &output.parameters, regions)?;
            let way = window.map_or_else(|| way(output.parameters.binary_data.unwrap_or(binary)), Way::Shared);
            Ok((&output.name[..], way))
        })
    });
    let own_dtype = outputs.into_iter().flatten().filter_map(|output| output.parameters.dtype.as_deref()).next_back();
    Wanted::new(named, &way(binary), own_dtype.or(request.parameters.dtype.as_deref()))
}

/// The shared memory that a tensor is in, or goes to.
pub(super) fn window(
    tensor: &str,
    parameters: &TensorParameters,
    regions: &Regions,
) -> Result<Option<Window>, Refused> {
    let TensorParameters { shared_memory_region, shared_memory_offset, shared_memory_byte_size, .. } = parameters;
    regions.window_of(tensor, shared_memory_region.as_deref(), *shared_memory_offset, *shared_memory_byte_size)
}

/// The response to a request of this id.
pub(super) fn respond(
    id: Option<&str>,
    wanted: &Wanted,
    mut answer: Answer,
    place: &Arc<Place>,
) -> Result<Response, Refused> {
    let begin = Instant::now();
    let mut pieces = VecDeque::from([Bytes::new()]);
    let mut outputs = Vec::new();
    for (OutputTensor { name, datatype, shape, values }, way) in wanted.of(&answer) {
        let (parameters, data) = match way {
            Way::Json => {
                if let Values::Floats(values) = values {
                    place.hold(JSON_FLOAT_BYTES.saturating_mul(values.len() as u64))?;
                }
                (None, Some(values))
            }
            Way::Binary => {
                let piece = wanted.bytes(values, place)?;
                let binary_data_size = piece.len();
                pieces.push_back(piece);
                (Some(Elsewhere::Behind { binary_data_size }), None)
            }
            Way::Shared(window) => {
                let bytes = wanted.bytes(values, place)?;
                window.write(name, &bytes)?;
                let parameters = Elsewhere::Shared {
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
        parameters: wire::Facts { content_hash: answer.content_hash().to_string() },
        outputs,
    };
    let json = serde_json::to_vec(&response).map_err(|_| Refused::Dropped { reason: "the answer has no JSON form" })?;
    let json_len = json.len();
    pieces[0] = json.into();
    let is_binary = pieces.len() > 1;
    let mut response = Response::new(Body::new(Pieces::new(pieces, place)));
    let made = answer.is_made(begin.elapsed());
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
    headers.extend(made);
    Ok(response)
}
