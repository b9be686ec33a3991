//! The messages of `ModelInfer`: a request is read, and a response is written.

use std::collections::HashMap;

use axum::body::Bytes;
use prost::Message;

use super::frame_writer::FrameWriter;
use super::memory;
use super::protocol::inference::infer_parameter::ParameterChoice;
use super::protocol::inference::model_infer_request::InferInputTensor;
use super::protocol::inference::model_infer_response::InferOutputTensor;
use super::protocol::inference::{InferParameter, InferTensorContents, ModelInferRequest, ModelInferResponse};
use crate::serve::core::error::ApiError;
use crate::serve::core::metadata::{MODEL, VERSION, require_model, require_version};
use crate::serve::core::outputs::{OutputTransport, RequestedOutputs};
use crate::serve::core::pipeline::{InferRequest, ResponseParts};
use crate::serve::core::shared_memory::{Regions, Window};
use crate::serve::core::tensors::{Elements, Tensor, Tensors};

/// The field of an answer that holds tensors in memory.
const RAW_OUTPUT_CONTENTS: u32 = 6;

/// The parameters that name a part of a region.
const REGION: &str = "shared_memory_region";
const OFFSET: &str = "shared_memory_offset";
const BYTE_SIZE: &str = "shared_memory_byte_size";

/// Reads a message. Its memory is reserved before it is allocated.
pub(in crate::serve) fn read(
    message: Bytes,
    regions: &Regions,
    reserve: &dyn Fn(u64) -> Result<(), ApiError>,
) -> Result<InferRequest, ApiError> {
    let malformed = |e| ApiError::malformed(format!("the message is not a ModelInferRequest: {e}"));
    reserve(memory::of_request(&message).map_err(malformed)?)?;
    let request = ModelInferRequest::decode(message).map_err(malformed)?;
    require_model(&request.model_name)?;
    require_version(&request.model_version)?;
    let outputs = requested_outputs(&request, regions)?;
    let tensors = tensors(request.inputs, request.raw_input_contents, regions)?;
    Ok(InferRequest { id: Some(request.id), outputs, tensors })
}

/// The outputs that a message asks for.
fn requested_outputs(request: &ModelInferRequest, regions: &Regions) -> Result<RequestedOutputs, ApiError> {
    let mut dtype = string(&request.parameters, "dtype")?;
    for output in &request.outputs {
        dtype = string(&output.parameters, "dtype")?.or(dtype);
    }
    let outputs = Some(&request.outputs).filter(|outputs| !outputs.is_empty());
    let named = outputs.map(|outputs| {
        outputs.iter().map(|output| {
            let window = window(&output.name, &output.parameters, regions)?;
            Ok((&output.name[..], window.map_or(OutputTransport::Binary, OutputTransport::Shared)))
        })
    });
    RequestedOutputs::new(named, &OutputTransport::Binary, dtype)
}

/// Writes the message of a response.
pub(super) fn write(parts: &ResponseParts) -> Result<FrameWriter, ApiError> {
    let ResponseParts { id, outputs: requested, encoded, place } = *parts;
    let (mut outputs, mut raw) = (Vec::new(), Vec::new());
    for (tensor, transport) in requested.tensors(encoded) {
        let mut bytes = requested.bytes(tensor.values, place)?;
        let mut parameters = HashMap::new();
        if let OutputTransport::Shared(window) = transport {
            window.write(tensor.name, &bytes)?;
            parameters = written(window, bytes.len());
            // Triton's clients find an output's bytes by its place among all outputs.
            bytes = Bytes::new();
        }
        outputs.push(InferOutputTensor {
            name: tensor.name.into(),
            datatype: tensor.datatype.into(),
            shape: tensor.shape.iter().map(|size| *size as i64).collect(),
            parameters,
            ..<_>::default()
        });
        raw.push(bytes);
    }
    let content_hash = parameter(ParameterChoice::StringParam(encoded.content_hash().to_string()));
    let head = ModelInferResponse {
        model_name: MODEL.into(),
        model_version: VERSION.into(),
        id: id.unwrap_or_default().into(),
        parameters: HashMap::from([("content_hash".into(), content_hash)]),
        outputs,
        ..<_>::default()
    };
    let mut message = FrameWriter::new(&head);
    for bytes in raw {
        message.push(RAW_OUTPUT_CONTENTS, bytes);
    }
    Ok(message)
}

fn parameter(choice: ParameterChoice) -> InferParameter {
    InferParameter { parameter_choice: Some(choice) }
}

/// Where an output's bytes were put.
fn written(window: &Window, byte_size: usize) -> HashMap<String, InferParameter> {
    HashMap::from([
        (REGION.into(), parameter(ParameterChoice::StringParam(window.name().into()))),
        (OFFSET.into(), parameter(ParameterChoice::Int64Param(window.offset as i64))),
        (BYTE_SIZE.into(), parameter(ParameterChoice::Int64Param(byte_size as i64))),
    ])
}

/// The shared memory that a tensor is in, or goes to.
fn window(
    tensor: &str,
    parameters: &HashMap<String, InferParameter>,
    regions: &Regions,
) -> Result<Option<Window>, ApiError> {
    let number = |name| number(parameters, name);
    Ok(regions.window_of(tensor, string(parameters, REGION)?, number(OFFSET)?, number(BYTE_SIZE)?)?)
}

/// A parameter that is a number and not negative.
fn number(parameters: &HashMap<String, InferParameter>, name: &str) -> Result<Option<u64>, ApiError> {
    let number = match parameters.get(name).map(|parameter| &parameter.parameter_choice) {
        None => return Ok(None),
        Some(Some(ParameterChoice::Int64Param(number))) => u64::try_from(*number).ok(),
        Some(Some(ParameterChoice::Uint64Param(number))) => Some(*number),
        Some(_) => None,
    };
    let refuse = || ApiError::malformed(format!("the parameter {name} must be an int64_param that is not negative"));
    number.map(Some).ok_or_else(refuse)
}

/// A parameter that is text.
fn string<'a>(parameters: &'a HashMap<String, InferParameter>, name: &str) -> Result<Option<&'a str>, ApiError> {
    match parameters.get(name).map(|parameter| &parameter.parameter_choice) {
        None => Ok(None),
        Some(Some(ParameterChoice::StringParam(text))) => Ok(Some(text)),
        Some(_) => Err(ApiError::malformed(format!("the parameter {name} must be a string_param"))),
    }
}

/// The tensors of a request: those that are not in shared memory are all in `raw`, or none of them is.
fn tensors(inputs: Vec<InferInputTensor>, raw: Vec<Bytes>, regions: &Regions) -> Result<Tensors, ApiError> {
    let windows = inputs.iter().map(|input| window(&input.name, &input.parameters, regions));
    let windows = windows.collect::<Result<Vec<_>, _>>()?;
    let expected = windows.iter().filter(|window| window.is_none()).count();
    if !raw.is_empty() && raw.len() != expected {
        let found = raw.len();
        return Err(ApiError::malformed(format!("raw_input_contents must hold {expected} inputs, found {found}")));
    }
    let mut raw = raw.into_iter();
    let mut tensors = Tensors::default();
    for (InferInputTensor { name, datatype, shape, contents, .. }, window) in inputs.into_iter().zip(windows) {
        let shape = shape.iter().map(|size| usize::try_from(*size)).collect::<Result<_, _>>();
        let shape = shape.map_err(|_| ApiError::malformed(format!("{name} has a negative size")))?;
        let elements = match (window, contents) {
            (Some(window), None) => Elements::Shared(window),
            (Some(_), Some(_)) => {
                return Err(ApiError::malformed(format!("{name} has either contents or shared_memory_region")));
            }
            (None, contents) => match (raw.next(), contents) {
                (Some(bytes), None) => Elements::Binary(bytes),
                (Some(_), Some(_)) => {
                    return Err(ApiError::malformed(format!("{name} has either contents or raw_input_contents")));
                }
                (None, contents) => typed(&name, &datatype, contents.unwrap_or_default())?,
            },
        };
        tensors.add(Tensor { name, shape, datatype, elements })?;
    }
    Ok(tensors)
}

/// The list that a datatype's elements are in.
fn typed(name: &str, datatype: &str, contents: InferTensorContents) -> Result<Elements, ApiError> {
    match datatype {
        "FP32" => Ok(Elements::Floats(contents.fp32_contents)),
        "INT64" => Ok(Elements::Integers(contents.int64_contents)),
        "BYTES" => Ok(Elements::Files(contents.bytes_contents)),
        _ => Err(ApiError::malformed(format!("{name} in {datatype:?} must be in raw_input_contents"))),
    }
}
