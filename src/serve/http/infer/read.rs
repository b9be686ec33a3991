//! A request is read: its JSON, and the tensors behind that.

use axum::body::Bytes;
use axum::http::HeaderValue;

use super::HEADER_LEN;
use super::wire::{self, TensorParameters};
use crate::serve::core::error::ApiError;
use crate::serve::core::outputs::{OutputTransport, RequestedOutputs};
use crate::serve::core::pipeline::InferRequest;
use crate::serve::core::shared_memory::{Regions, Window};
use crate::serve::core::tensors::{Elements, Tensor, Tensors};

/// What JSON takes in memory at most, for each byte of its text: `0,` is a number of eight bytes, and strings are copied.
const JSON_GROWTH: u64 = 5;

/// Reads a body, whose JSON is so long where tensors stand behind it. Its memory is reserved before it is allocated.
pub(crate) fn read(
    json_len: Option<&HeaderValue>,
    body: Bytes,
    regions: &Regions,
    reserve: &dyn Fn(u64) -> Result<(), ApiError>,
) -> Result<InferRequest, ApiError> {
    let (json, binary) = split(json_len, body)?;
    reserve(JSON_GROWTH.saturating_mul(json.len() as u64))?;
    wire::check_limits(&json)?;
    let request: wire::Request = serde_json::from_slice(&json)
        .map_err(|e| ApiError::malformed(format!("the request is not the protocol's: {e}")))?;
    let outputs = requested_outputs(&request, regions)?;
    Ok(InferRequest { id: request.id, outputs, tensors: tensors(request.inputs.0, binary, regions)? })
}

/// The outputs that a request asks for.
fn requested_outputs(request: &wire::Request<'_>, regions: &Regions) -> Result<RequestedOutputs, ApiError> {
    let binary = request.parameters.binary_data_output;
    let transport = |binary| if binary { OutputTransport::Binary } else { OutputTransport::Json };
    let outputs = request.outputs.as_ref().map(|outputs| &outputs.0);
    let named = outputs.map(|outputs| {
        outputs.iter().map(|output| {
            let window = window(&output.name, &output.parameters, regions)?;
            let transport = window
                .map_or_else(|| transport(output.parameters.binary_data.unwrap_or(binary)), OutputTransport::Shared);
            Ok((&output.name[..], transport))
        })
    });
    let own_dtype = outputs.into_iter().flatten().filter_map(|output| output.parameters.dtype.as_deref()).next_back();
    RequestedOutputs::new(named, &transport(binary), own_dtype.or(request.parameters.dtype.as_deref()))
}

/// The shared memory that a tensor is in, or goes to.
fn window(tensor: &str, parameters: &TensorParameters, regions: &Regions) -> Result<Option<Window>, ApiError> {
    let TensorParameters { shared_memory_region, shared_memory_offset, shared_memory_byte_size, .. } = parameters;
    let region = shared_memory_region.as_deref();
    Ok(regions.window_of(tensor, region, *shared_memory_offset, *shared_memory_byte_size)?)
}

/// The JSON, and the tensors behind it.
fn split(json_len: Option<&HeaderValue>, mut body: Bytes) -> Result<(Bytes, Bytes), ApiError> {
    let Some(len) = json_len else { return Ok((body, Bytes::new())) };
    let len = len.to_str().ok().and_then(|text| text.parse().ok()).filter(|len| *len <= body.len());
    let refuse = || ApiError::malformed(format!("{HEADER_LEN} must be a number of bytes within the body's"));
    let binary = body.split_off(len.ok_or_else(refuse)?);
    Ok((body, binary))
}

/// The tensors of a request; `binary` is what stands behind its JSON.
fn tensors(inputs: Vec<wire::Input>, mut binary: Bytes, regions: &Regions) -> Result<Tensors, ApiError> {
    let mut tensors = Tensors::default();
    for wire::Input { name, shape, datatype, parameters, data } in inputs {
        let window = window(&name, &parameters, regions)?;
        let elements = match (parameters.binary_data_size, data, window) {
            (Some(size), None, None) if size <= binary.len() => Elements::Binary(binary.split_to(size)),
            (Some(size), None, None) => {
                let found = binary.len();
                return Err(ApiError::malformed(format!(
                    "{name} must have {size} bytes of binary data, found {found}"
                )));
            }
            (None, Some(json), None) => Elements::Numbers(wire::numbers(json)?),
            (None, None, Some(window)) => Elements::Shared(window),
            _ => {
                let reason = format!("{name} has one of data, binary_data_size and shared_memory_region");
                return Err(ApiError::malformed(reason));
            }
        };
        tensors.add(Tensor { name, shape: shape.0, datatype, elements })?;
    }
    if !binary.is_empty() {
        return Err(ApiError::malformed(format!("{} bytes of binary data belong to no input", binary.len())));
    }
    Ok(tensors)
}
