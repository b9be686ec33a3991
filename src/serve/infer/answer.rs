//! The response: the outputs that were asked for, in JSON or behind it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::Response;

use super::HEADER_LEN;
use super::wire::{self, BinarySize, Output, Request, Values};
use crate::batch::Place;
use crate::dtype::Dtype;
use crate::serve::body::Pieces;
use crate::serve::log::Told;
use crate::serve::metrics::Metrics;
use crate::serve::output::{self, dtype_named};
use crate::serve::protocol::{MODEL, VERSION};
use crate::serve::refused::Refused;
use crate::serve::service::Answer;

/// Bytes of JSON text that an f32 takes at most, its comma included: `-1.17549435e-38,`.
const JSON_FLOAT_BYTES: u64 = 16;

/// The outputs that are asked for, in order.
pub(super) struct Wanted {
    outputs: Vec<(Name, bool)>,
    pub(super) dtype: Dtype,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Name {
    Embeddings,
    NumTiles,
    AspectRatio,
}

const NAMES: [(&str, Name); 3] =
    [("embeddings", Name::Embeddings), ("num_tiles", Name::NumTiles), ("aspect_ratio", Name::AspectRatio)];

impl Wanted {
    /// What a request asks for; all outputs where it names none.
    pub(super) fn of(request: &Request) -> Result<Self, Refused> {
        let binary = request.parameters.binary_data_output;
        let mut dtype = request.parameters.dtype.as_deref();
        let mut outputs = Vec::new();
        match &request.outputs {
            None => outputs.extend(NAMES.map(|(_, name)| (name, binary))),
            Some(wanted) => {
                for output in wanted {
                    let known = NAMES.iter().find(|(name, _)| *name == output.name);
                    let Some((_, name)) = known else {
                        return Err(Refused::malformed(format!("there is no output {:?}", output.name)));
                    };
                    outputs.push((*name, output.parameters.binary_data.unwrap_or(binary)));
                    dtype = output.parameters.dtype.as_deref().or(dtype);
                }
            }
        }
        let dtype = dtype.map_or(Some(Dtype::F32), dtype_named);
        let dtype = dtype.ok_or_else(|| Refused::malformed("dtype must be FP32, FP16 or BF16"))?;
        if dtype != Dtype::F32 && outputs.contains(&(Name::Embeddings, false)) {
            return Err(Refused::malformed("embeddings in FP16 or BF16 travel as binary data: ask for binary_data"));
        }
        Ok(Self { outputs, dtype })
    }
}

/// The response to a request of this id.
pub(super) fn respond(
    id: Option<&str>,
    wanted: &Wanted,
    answer: Answer,
    place: Arc<Place>,
    metrics: &Metrics,
) -> Result<Response, Refused> {
    let begin = Instant::now();
    let etag = answer.etag(wanted.dtype);
    let content_hash = answer.content_hash().to_string();
    let told = Told::of(&answer);
    let Answer { reply, embeddings_shape, num_tiles, aspect_ratios, timing, .. } = answer;
    let mut pieces = VecDeque::from([Bytes::new()]);
    let mut outputs = Vec::new();
    for &(name, binary) in &wanted.outputs {
        let (name, datatype, shape, values) = match name {
            Name::Embeddings => {
                let datatype = match wanted.dtype {
                    Dtype::F32 => "FP32",
                    Dtype::F16 => "FP16",
                    Dtype::Bf16 => "BF16",
                };
                ("embeddings", datatype, embeddings_shape.to_vec(), Values::Floats(&reply))
            }
            Name::NumTiles => ("num_tiles", "INT64", vec![num_tiles.len()], Values::Integers(&num_tiles)),
            Name::AspectRatio => {
                let values = Values::Integers(aspect_ratios.as_flattened());
                ("aspect_ratio", "INT64", vec![aspect_ratios.len(), 2], values)
            }
        };
        let (parameters, data) = if binary {
            let piece = match values {
                Values::Floats(_) => output::embeddings(reply.clone(), wanted.dtype),
                Values::Integers(values) => output::integers(values.iter().copied()).into(),
            };
            let size = piece.len();
            pieces.push_back(piece);
            (Some(BinarySize { binary_data_size: size }), None)
        } else {
            if let Values::Floats(values) = values {
                place.hold(JSON_FLOAT_BYTES.saturating_mul(values.len() as u64))?;
            }
            (None, Some(values))
        };
        outputs.push(Output { name, datatype, shape, parameters, data });
    }
    let response = wire::Response {
        model_name: MODEL,
        model_version: VERSION,
        id,
        parameters: wire::Facts { content_hash },
        outputs,
    };
    let json = serde_json::to_vec(&response).map_err(|_| Refused::Dropped { reason: "the answer has no JSON form" })?;
    let json_len = json.len();
    pieces[0] = json.into();
    let is_binary = pieces.len() > 1;
    let mut response = Response::new(Body::new(Pieces { pieces, _place: place }));
    response.extensions_mut().insert(told);
    let headers = response.headers_mut();
    let content_type = if is_binary { "application/octet-stream" } else { "application/json" };
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    if is_binary {
        headers.insert(HEADER_LEN, json_len.into());
    }
    if let Ok(etag) = etag.try_into() {
        headers.insert(header::ETAG, etag);
    }
    if let Ok(timing) = metrics.answered(timing, begin.elapsed()).try_into() {
        headers.insert("server-timing", timing);
    }
    Ok(response)
}
