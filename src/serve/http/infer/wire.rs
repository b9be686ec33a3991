//! The protocol's JSON.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::serve::core::outputs::Values;

/// A request's JSON.
#[derive(Debug, Deserialize)]
pub(super) struct Request {
    pub(super) id: Option<String>,
    #[serde(default)]
    pub(super) parameters: Parameters,
    pub(super) inputs: Vec<Input>,
    pub(super) outputs: Option<Vec<RequestedOutput>>,
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
pub(super) struct Input {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    pub(super) datatype: String,
    #[serde(default)]
    pub(super) parameters: TensorParameters,
    pub(super) data: Option<Numbers>,
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

/// Numbers in a list, or in lists of lists, which the protocol allows as well: flat.
#[derive(Debug, Default)]
pub(super) struct Numbers(pub(super) Vec<f64>);

impl<'de> Deserialize<'de> for Numbers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut numbers = Vec::new();
        Flatten(&mut numbers).deserialize(deserializer)?;
        Ok(Self(numbers))
    }
}

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
