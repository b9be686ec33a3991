//! A request's message and its answer's.

use std::collections::HashMap;

use axum::body::Bytes;
use prost::Message;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use super::super::outputs::Wanted;
use super::super::protocol::{MODEL, VERSION, require_model, require_version};
use super::super::refused::Refused;
use super::super::service::Answer;
use super::super::tensors::{Elements, Tensor, Tensors};
use super::inference::infer_parameter::ParameterChoice;
use super::inference::model_infer_request::InferInputTensor;
use super::inference::model_infer_response::InferOutputTensor;
use super::inference::{InferParameter, InferTensorContents, ModelInferRequest, ModelInferResponse};
use super::sent::Pieces;
use crate::batch::Place;
use crate::dtype::Dtype;

/// The field of an answer that holds tensors in memory.
const RAW_OUTPUT_CONTENTS: u32 = 6;

/// What a message asks for.
pub(super) struct Asked {
    pub(super) tensors: Tensors,
    pub(super) form: Form,
}

/// The form of its answer.
pub(super) struct Form {
    id: String,
    wanted: Wanted,
}

impl Asked {
    /// Reads a message. What that takes in memory is held before.
    pub(super) fn read<E: From<Refused>>(message: Bytes, hold: impl FnOnce(u64) -> Result<(), E>) -> Result<Self, E> {
        let malformed = |e| Refused::malformed(format!("the message is not a ModelInferRequest: {e}"));
        hold(memory(Part::Request, &message).map_err(malformed)?)?;
        let request = ModelInferRequest::decode(message).map_err(malformed)?;
        Ok(Self::of(request)?)
    }

    fn of(request: ModelInferRequest) -> Result<Self, Refused> {
        require_model(&request.model_name)?;
        require_version(&request.model_version)?;
        let mut dtype = string(&request.parameters, "dtype")?;
        for output in &request.outputs {
            dtype = string(&output.parameters, "dtype")?.or(dtype);
        }
        let outputs = Some(&request.outputs).filter(|outputs| !outputs.is_empty());
        let named = outputs.map(|outputs| outputs.iter().map(|output| (&output.name[..], true)));
        let wanted = Wanted::new(named, true, dtype)?;
        let tensors = tensors(request.inputs, request.raw_input_contents)?;
        Ok(Self { tensors, form: Form { id: request.id, wanted } })
    }
}

impl Form {
    /// The element type of the embeddings.
    pub(super) fn dtype(&self) -> Dtype {
        self.wanted.dtype()
    }

    /// The message of an answer.
    pub(super) fn message(self, answer: &Answer, place: &Place) -> Result<Pieces, Refused> {
        let (mut outputs, mut raw) = (Vec::new(), Vec::new());
        for (tensor, _) in self.wanted.of(answer) {
            outputs.push(InferOutputTensor {
                name: tensor.name.into(),
                datatype: tensor.datatype.into(),
                shape: tensor.shape.iter().map(|size| *size as i64).collect(),
                ..<_>::default()
            });
            raw.push(self.wanted.bytes(tensor.values, place)?);
        }
        let content_hash = ParameterChoice::StringParam(answer.content_hash().to_string());
        let content_hash = InferParameter { parameter_choice: Some(content_hash) };
        let head = ModelInferResponse {
            model_name: MODEL.into(),
            model_version: VERSION.into(),
            id: self.id,
            parameters: HashMap::from([("content_hash".into(), content_hash)]),
            outputs,
            ..<_>::default()
        };
        let mut pieces = Pieces::of(&head);
        for bytes in raw {
            pieces.push(RAW_OUTPUT_CONTENTS, bytes);
        }
        Ok(pieces)
    }
}

/// A parameter that is text.
fn string<'a>(parameters: &'a HashMap<String, InferParameter>, name: &str) -> Result<Option<&'a str>, Refused> {
    match parameters.get(name).map(|parameter| &parameter.parameter_choice) {
        None => Ok(None),
        Some(Some(ParameterChoice::StringParam(text))) => Ok(Some(text)),
        Some(_) => Err(Refused::malformed(format!("the parameter {name} must be a string_param"))),
    }
}

/// The tensors of a request: all of them are in `raw`, or none.
fn tensors(inputs: Vec<InferInputTensor>, raw: Vec<Bytes>) -> Result<Tensors, Refused> {
    if !raw.is_empty() && raw.len() != inputs.len() {
        let (found, expected) = (raw.len(), inputs.len());
        return Err(Refused::malformed(format!("raw_input_contents must hold {expected} inputs, found {found}")));
    }
    let mut raw = raw.into_iter();
    let mut tensors = Tensors::default();
    for InferInputTensor { name, datatype, shape, contents, .. } in inputs {
        let shape = shape.iter().map(|size| usize::try_from(*size)).collect::<Result<_, _>>();
        let shape = shape.map_err(|_| Refused::malformed(format!("{name} has a negative size")))?;
        let elements = match (raw.next(), contents) {
            (Some(bytes), None) => Elements::Binary(bytes),
            (Some(_), Some(_)) => {
                return Err(Refused::malformed(format!("{name} has either contents or raw_input_contents")));
            }
            (None, contents) => typed(&name, &datatype, contents.unwrap_or_default())?,
        };
        tensors.add(Tensor { name, shape, datatype, elements })?;
    }
    Ok(tensors)
}

/// The list that a datatype's elements are in.
fn typed(name: &str, datatype: &str, contents: InferTensorContents) -> Result<Elements, Refused> {
    match datatype {
        "FP32" => Ok(Elements::Floats(contents.fp32_contents)),
        "INT64" => Ok(Elements::Integers(contents.int64_contents)),
        "BYTES" => Ok(Elements::Files(contents.bytes_contents)),
        _ => Err(Refused::malformed(format!("{name} in {datatype:?} must be in raw_input_contents"))),
    }
}

/// A message or a part of it, as far as its memory is concerned.
#[derive(Debug, Clone, Copy)]
enum Part {
    Request,
    Input,
    Contents,
}

/// Bytes that an element of a list of messages takes at most, whose wire form may be two bytes. Lists double.
const OBJECT: u64 = 2 * size_of::<InferInputTensor>() as u64;

/// Bytes that an element of a list of bytes takes: it refers to the message.
const SLICE: u64 = 2 * size_of::<Bytes>() as u64;

/// Bytes that a byte of packed integers becomes: a number of one byte is one of eight.
const INTEGER: u64 = 2 * size_of::<u64>() as u64;

/// Bytes that a byte of packed floats becomes.
const FLOAT: u64 = 2;

/// Bytes that decoding takes at most, beside the message itself.
fn memory(part: Part, mut message: &[u8]) -> Result<u64, prost::DecodeError> {
    let mut sum = 0;
    while !message.is_empty() {
        let (number, wire_type) = decode_key(&mut message)?;
        if wire_type != WireType::LengthDelimited {
            skip_field(wire_type, number, &mut message, DecodeContext::default())?;
            sum += INTEGER;
            continue;
        }
        let len = decode_varint(&mut message)?;
        let field = usize::try_from(len).ok().and_then(|len| message.split_off(..len));
        // A message that is cut is left to the decoder, which says so.
        let Some(field) = field else { return Ok(sum) };
        sum += match (part, number) {
            (Part::Request, 5) => OBJECT + memory(Part::Input, field)?,
            (Part::Input, 5) => memory(Part::Contents, field)?,
            (Part::Contents, 6 | 7) => FLOAT * len,
            (Part::Request, 7) | (Part::Contents, 8) => SLICE,
            // Names, parameters, and outputs with theirs.
            _ => OBJECT + INTEGER * len,
        };
    }
    Ok(sum)
}
