//! The protocol's JSON.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{DeserializeSeed, Deserializer, Error, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::memory;
use crate::serve::core::error::ApiError;
use crate::serve::core::outputs::Values;

/// A request's JSON.
#[derive(Debug, Deserialize)]
pub(super) struct Request<'a> {
    pub(super) id: Option<String>,
    #[serde(default)]
    pub(super) parameters: Parameters,
    #[serde(borrow)]
    pub(super) inputs: Short<Input<'a>>,
    pub(super) outputs: Option<Short<RequestedOutput>>,
}

/// Parameters of a request that mean something here; the protocol lets a client send others.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Parameters {
    #[serde(default)]
    pub(super) binary_data_output: bool,
    pub(super) dtype: Option<String>,
}

/// Likewise those of a tensor.
#[derive(Debug, Default, Deserialize)]
pub(super) struct TensorParameters {
    pub(super) binary_data: Option<bool>,
    pub(super) binary_data_size: Option<usize>,
    pub(super) dtype: Option<String>,
    pub(super) shared_memory_region: Option<String>,
    pub(super) shared_memory_offset: Option<u64>,
    pub(super) shared_memory_byte_size: Option<u64>,
}

/// A tensor: its elements are here, behind the JSON, or in shared memory.
#[derive(Debug, Deserialize)]
pub(super) struct Input<'a> {
    pub(super) name: String,
    pub(super) shape: Short<usize>,
    pub(super) datatype: String,
    #[serde(default)]
    pub(super) parameters: TensorParameters,
    /// [`numbers`] reads it.
    #[serde(borrow)]
    pub(super) data: Option<&'a RawValue>,
}

/// An output that is asked for.
#[derive(Debug, Deserialize)]
pub(super) struct RequestedOutput {
    pub(super) name: String,
    #[serde(default)]
    pub(super) parameters: TensorParameters,
}

/// A response, its elements here or behind the JSON.
#[derive(Debug, Serialize)]
pub(super) struct Response<'a> {
    pub(super) model_name: &'static str,
    pub(super) model_version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) id: Option<&'a str>,
    pub(super) parameters: ResponseParameters,
    pub(super) outputs: Vec<Output<'a>>,
}

/// Parameters of a response.
#[derive(Debug, Serialize)]
pub(super) struct ResponseParameters {
    pub(super) content_hash: String,
}

/// A tensor of a response.
#[derive(Debug, Serialize)]
pub(super) struct Output<'a> {
    pub(super) name: &'static str,
    pub(super) datatype: &'static str,
    pub(super) shape: Vec<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) parameters: Option<DataLocation<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) data: Option<Values<'a>>,
}

/// Where a tensor's bytes are, if not in the JSON.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum DataLocation<'a> {
    /// So many of the binary part.
    Behind { binary_data_size: usize },
    /// So many in a region of the client's.
    Shared { shared_memory_region: &'a str, shared_memory_offset: u64, shared_memory_byte_size: usize },
}

/// The most tensors of a request, and sizes of a shape. There are three names, and five sizes at most.
const MAX_LEN: usize = 16;

/// A list that is short in every request that means something: a long one is refused before it takes memory.
#[derive(Debug)]
pub(super) struct Short<T>(pub(super) Vec<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Short<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ShortVisitor(PhantomData)).map(Self)
    }
}

struct ShortVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ShortVisitor<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "a list of at most {MAX_LEN}")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            if items.len() == MAX_LEN {
                return Err(A::Error::invalid_length(MAX_LEN + 1, &self));
            }
            items.push(item);
        }
        Ok(items)
    }
}

/// Reads the numbers of a list, or of lists of lists, which the protocol allows as well: flat.
///
/// # Errors
/// [`ApiError::Malformed`], and a lack of memory.
pub(super) fn numbers(json: &RawValue) -> Result<Vec<f64>, ApiError> {
    let json = json.get();
    // A comma stands before every number but the first.
    let most = 1 + json.bytes().filter(|byte| *byte == b',').count();
    let mut numbers = memory::reserve(most)?;
    Flatten(&mut numbers)
        .deserialize(&mut serde_json::Deserializer::from_str(json))
        .map_err(|e| ApiError::malformed(format!("data must be a list of numbers: {e}")))?;
    Ok(numbers)
}

/// Into memory that is there.
struct Flatten<'a>(&'a mut Vec<f64>);

impl<'de> DeserializeSeed<'de> for Flatten<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Flatten<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("numbers; BYTES travel as binary data")
    }

    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        self.0.push(value);
        Ok(())
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.0.push(value as f64);
        Ok(())
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        self.0.push(value as f64);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(Flatten(self.0))?.is_some() {}
        Ok(())
    }
}

/// The longest string of a request's JSON, and its deepest nesting: what serde_json keeps of them is in memory that it cannot
/// be refused.
const MAX_STRING: usize = 64 << 10;
const MAX_DEPTH: usize = 64;

/// Looks whether JSON keeps these limits. Whether it is JSON at all is found out later.
///
/// # Errors
/// [`ApiError::Malformed`].
pub(super) fn check_limits(json: &[u8]) -> Result<(), ApiError> {
    let (mut depth, mut string_start, mut is_escaped) = (0usize, None, false);
    for (place, byte) in json.iter().enumerate() {
        if let Some(start) = string_start {
            if is_escaped {
                is_escaped = false;
            } else if *byte == b'\\' {
                is_escaped = true;
            } else if *byte == b'"' {
                string_start = None;
            }
            if place - start > MAX_STRING {
                return Err(ApiError::malformed(format!("a string is longer than {MAX_STRING} bytes")));
            }
            continue;
        }
        match byte {
            b'"' => string_start = Some(place),
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return Err(ApiError::malformed(format!("the request is nested deeper than {MAX_DEPTH}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_that_would_take_memory_of_its_own_is_refused() {
        let string = |len: usize| format!("{{\"id\": \"{}\"}}", "x".repeat(len));
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        for allowed in [string(MAX_STRING - 1), nested(MAX_DEPTH), r#"["\"[[", "\\", "]"]"#.to_string()] {
            check_limits(allowed.as_bytes()).unwrap();
        }
        let brackets_in_strings = format!("[\"{}\"]", "[".repeat(2 * MAX_DEPTH));
        check_limits(brackets_in_strings.as_bytes()).unwrap();
        for refused in [string(MAX_STRING + 1), nested(MAX_DEPTH + 1)] {
            check_limits(refused.as_bytes()).unwrap_err();
        }
        let outputs = vec![r#"{"name":"x"}"#; MAX_LEN + 1].join(",");
        let refused =
            serde_json::from_str::<Request>(&format!("{{\"inputs\":[],\"outputs\":[{outputs}]}}")).unwrap_err();
        assert!(refused.to_string().contains("at most 16"), "{refused}");
    }

    #[test]
    fn numbers_are_read_flat_from_lists_of_any_shape() {
        let read = |json: &str| numbers(&RawValue::from_string(json.to_string()).unwrap());
        assert_eq!(read("[]").unwrap(), Vec::<f64>::new());
        assert_eq!(read("[1, -2.5, [3e2, [4]]]").unwrap(), [1.0, -2.5, 300.0, 4.0]);
        assert!(read(r#"["1"]"#).is_err());
        assert!(read("[null]").is_err());
    }
}
