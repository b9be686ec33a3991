//! What a message takes in memory once it is decoded, told from its wire form: a tensor's description of 600 bytes may be
//! two there, and an integer of eight one.

use axum::body::Bytes;
use prost::DecodeError;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use super::protocol::inference::model_infer_request::InferInputTensor;

/// A message or a part of it, as far as its memory is concerned.
#[derive(Debug, Clone, Copy)]
enum Part {
    Request,
    Input,
    Output,
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

/// Bytes that decoding a ModelInferRequest takes at most, beside the message itself.
pub(super) fn of_request(message: &[u8]) -> Result<u64, DecodeError> {
    memory(Part::Request, message)
}

fn memory(part: Part, mut message: &[u8]) -> Result<u64, DecodeError> {
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
            (Part::Request, 6) => OBJECT + memory(Part::Output, field)?,
            (Part::Input, 5) => memory(Part::Contents, field)?,
            (Part::Contents, 6 | 7) => FLOAT * len,
            (Part::Request, 7) | (Part::Contents, 8) => SLICE,
            // Names, shapes and parameters.
            _ => OBJECT + INTEGER * len,
        };
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;
    use prost::Message;

    use super::super::message;
    use super::super::protocol::inference::infer_parameter::ParameterChoice;
    use super::super::protocol::inference::model_infer_request::InferRequestedOutputTensor;
    use super::super::protocol::inference::{InferParameter, InferTensorContents, ModelInferRequest};
    use super::*;
    use crate::serve::core::shared_memory::Regions;

    fn parameters_memory(parameters: &HashMap<String, InferParameter>) -> usize {
        let heap = |(key, value): (&String, &InferParameter)| {
            let text = match &value.parameter_choice {
                Some(ParameterChoice::StringParam(text)) => text.capacity(),
                _ => 0,
            };
            key.capacity() + text
        };
        let entry = size_of::<(String, InferParameter)>() + 1;
        parameters.capacity() * 8 / 7 * entry + parameters.iter().map(heap).sum::<usize>()
    }

    /// What a decoded message takes.
    fn request_memory(request: &ModelInferRequest) -> usize {
        fn list<T>(list: &Vec<T>) -> usize {
            list.capacity() * size_of::<T>()
        }
        let contents = |contents: &InferTensorContents| {
            let InferTensorContents {
                bool_contents,
                int_contents,
                int64_contents,
                uint_contents,
                uint64_contents,
                fp32_contents,
                fp64_contents,
                bytes_contents,
            } = contents;
            let integers = list(int_contents) + list(int64_contents) + list(uint_contents) + list(uint64_contents);
            integers + list(bool_contents) + list(fp32_contents) + list(fp64_contents) + list(bytes_contents)
        };
        let input = |input: &InferInputTensor| {
            input.name.capacity()
                + input.datatype.capacity()
                + list(&input.shape)
                + parameters_memory(&input.parameters)
                + input.contents.as_ref().map_or(0, contents)
        };
        let output =
            |output: &InferRequestedOutputTensor| output.name.capacity() + parameters_memory(&output.parameters);
        request.model_name.capacity()
            + request.model_version.capacity()
            + request.id.capacity()
            + parameters_memory(&request.parameters)
            + list(&request.inputs)
            + request.inputs.iter().map(input).sum::<usize>()
            + list(&request.outputs)
            + request.outputs.iter().map(output).sum::<usize>()
            + list(&request.raw_input_contents)
    }

    fn parameters() -> impl Strategy<Value = HashMap<String, InferParameter>> {
        let text = "[a-z]{0,20}".prop_map(|text| Some(ParameterChoice::StringParam(text)));
        let choice = prop_oneof![Just(None), any::<i64>().prop_map(|n| Some(ParameterChoice::Int64Param(n))), text];
        let parameter = choice.prop_map(|parameter_choice| InferParameter { parameter_choice });
        btree_map("[a-z]{0,3}", parameter, 0..40).prop_map(|parameters| parameters.into_iter().collect())
    }

    fn contents() -> impl Strategy<Value = InferTensorContents> {
        let small = || vec(0i64..200, 0..50);
        (small(), small(), vec(any::<f32>(), 0..50), vec(any::<bool>(), 0..50), 0..100usize).prop_map(
            |(int64, int, fp32_contents, bool_contents, elements)| InferTensorContents {
                bool_contents,
                int_contents: int.iter().map(|n| *n as i32).collect(),
                int64_contents: int64.clone(),
                uint_contents: int64.iter().map(|n| *n as u32).collect(),
                uint64_contents: int.iter().map(|n| *n as u64).collect(),
                fp64_contents: fp32_contents.iter().map(|x| f64::from(*x)).collect(),
                fp32_contents,
                bytes_contents: vec![Bytes::new(); elements],
            },
        )
    }

    fn requests() -> impl Strategy<Value = ModelInferRequest> {
        let input =
            ("[a-z]{0,9}", "[A-Z]{0,5}", vec(-1i64..300, 0..20), parameters(), proptest::option::of(contents()))
                .prop_map(|(name, datatype, shape, parameters, contents)| InferInputTensor {
                    name,
                    datatype,
                    shape,
                    parameters,
                    contents,
                });
        let output =
            ("[a-z]{0,9}", parameters()).prop_map(|(name, parameters)| InferRequestedOutputTensor { name, parameters });
        let empty_inputs = (0..60usize).prop_map(|n| vec![InferInputTensor::default(); n]);
        (
            "[a-z]{0,9}",
            parameters(),
            prop_oneof![vec(input, 0..4), empty_inputs],
            vec(output, 0..5),
            vec(vec(any::<u8>(), 0..9).prop_map(Bytes::from), 0..50),
        )
            .prop_map(|(model_name, parameters, inputs, outputs, raw_input_contents)| ModelInferRequest {
                model_name,
                parameters,
                inputs,
                outputs,
                raw_input_contents,
                ..<_>::default()
            })
    }

    proptest! {
        #[test]
        fn what_a_message_becomes_was_held(request in requests()) {
            let message = Bytes::from(request.encode_to_vec());
            let held = of_request(&message).unwrap();
            let decoded = ModelInferRequest::decode(message).unwrap();
            prop_assert!(request_memory(&decoded) as u64 <= held, "{} > {held}", request_memory(&decoded));
        }

        #[test]
        fn any_bytes_are_a_request_or_refused(bytes in vec(any::<u8>(), 0..200)) {
            let _ = message::read(bytes.into(), &Regions::new(0), &|_| Ok(()));
        }
    }

    #[test]
    fn tensors_cost_nothing_beside_the_message() {
        let raw_input_contents = vec![Bytes::from(vec![0; 1 << 20]); 2];
        let fp32_contents = vec![1.0; 1 << 18];
        let contents = Some(InferTensorContents { fp32_contents, ..<_>::default() });
        let inputs = vec![InferInputTensor { contents, ..<_>::default() }];
        let request = ModelInferRequest { inputs, raw_input_contents, ..<_>::default() };
        let held = of_request(&request.encode_to_vec()).unwrap();
        assert!((2 << 20..(2 << 20) + 2000).contains(&held), "{held}");
    }
}
