//! The outputs that a request may ask for, whichever protocol it came by.

use axum::body::Bytes;
use serde::Serialize;

use super::encoded::Encoded;
use super::error::ApiError;
use super::shared_memory::{RegionError, Window};
use crate::batch::{Place, Reply};
use crate::dtype::Dtype;

/// An output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Output {
    Embeddings,
    NumTiles,
    AspectRatio,
}

/// How an output travels.
#[derive(Debug, Clone)]
pub(crate) enum OutputTransport {
    /// As numbers in the response's text.
    Json,
    /// As it is in memory, with the response.
    Binary,
    /// Outside the response, in memory that the client shares.
    Shared(Window),
}

/// The outputs that a request asks for, in order, and the element type of its embeddings.
pub(crate) struct RequestedOutputs {
    outputs: Vec<(Output, OutputTransport)>,
    dtype: Dtype,
}

/// One output's tensor.
pub(crate) struct OutputTensor<'a> {
    pub(crate) name: &'static str,
    pub(crate) datatype: &'static str,
    pub(crate) shape: Vec<usize>,
    pub(crate) values: Values<'a>,
}

/// The elements of a tensor.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(untagged)]
pub(crate) enum Values<'a> {
    /// To be sent in the element type that was asked for.
    Floats(#[serde(serialize_with = "numbers")] &'a Reply),
    Integers(&'a [i64]),
}

impl Output {
    const ALL: [Self; 3] = [Self::Embeddings, Self::NumTiles, Self::AspectRatio];

    fn name(self) -> &'static str {
        match self {
            Self::Embeddings => "embeddings",
            Self::NumTiles => "num_tiles",
            Self::AspectRatio => "aspect_ratio",
        }
    }

    /// The output's tensor, embeddings in `dtype`.
    fn tensor(self, encoded: &Encoded, dtype: Dtype) -> OutputTensor<'_> {
        let (datatype, shape, values) = match self {
            Self::Embeddings => {
                (dtype.kserve_name(), encoded.embeddings_shape.to_vec(), Values::Floats(&encoded.reply))
            }
            Self::NumTiles => ("INT64", vec![encoded.num_tiles.len()], Values::Integers(&encoded.num_tiles)),
            Self::AspectRatio => {
                let values = Values::Integers(encoded.aspect_ratios.as_flattened());
                ("INT64", vec![encoded.aspect_ratios.len(), 2], values)
            }
        };
        OutputTensor { name: self.name(), datatype, shape, values }
    }
}

impl RequestedOutputs {
    /// All outputs as binary data, the embeddings in this element type.
    pub(crate) fn all(dtype: Dtype) -> Self {
        Self { outputs: Output::ALL.map(|output| (output, OutputTransport::Binary)).into(), dtype }
    }

    /// The named outputs, or all where none is named. `dtype` names the element type; FP32 where it does not.
    pub(crate) fn new<'a>(
        named: Option<impl IntoIterator<Item = Result<(&'a str, OutputTransport), ApiError>>>,
        otherwise: &OutputTransport,
        dtype: Option<&str>,
    ) -> Result<Self, ApiError> {
        let mut outputs = Vec::new();
        if named.is_none() {
            outputs.extend(Output::ALL.map(|output| (output, otherwise.clone())));
        }
        for named in named.into_iter().flatten() {
            let (name, transport) = named?;
            let known = Output::ALL.into_iter().find(|output| output.name() == name);
            let output = known.ok_or_else(|| ApiError::malformed(format!("there is no output {name:?}")))?;
            if outputs.iter().any(|(known, _)| *known == output) {
                return Err(ApiError::malformed(format!("output {name} is asked for twice")));
            }
            outputs.push((output, transport));
        }
        let dtype = dtype.map_or(Some(Dtype::F32), parse_dtype);
        let dtype = dtype.ok_or_else(|| ApiError::malformed("dtype must be FP32, FP16 or BF16"))?;
        let is_text =
            |(output, transport): &_| matches!((output, transport), (Output::Embeddings, OutputTransport::Json));
        if dtype != Dtype::F32 && outputs.iter().any(is_text) {
            return Err(ApiError::malformed("embeddings in FP16 or BF16 travel as binary data: ask for binary_data"));
        }
        Ok(Self { outputs, dtype })
    }

    /// The element type of the embeddings.
    pub(crate) fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Refuses outputs of so many images and so many values that their client has no room for.
    ///
    /// # Errors
    /// [`RegionError::TooSmall`].
    pub(crate) fn require_room(&self, images: usize, embeddings_len: u64) -> Result<(), RegionError> {
        self.outputs.iter().try_for_each(|(output, transport)| {
            let OutputTransport::Shared(window) = transport else { return Ok(()) };
            let needed = match output {
                Output::Embeddings => embeddings_len.saturating_mul(self.dtype.size() as u64),
                Output::NumTiles => 8 * images as u64,
                Output::AspectRatio => 16 * images as u64,
            };
            window.require_room(output.name(), needed)
        })
    }

    /// The tensors of a response, each with its transport.
    pub(crate) fn tensors<'a>(
        &'a self,
        encoded: &'a Encoded,
    ) -> impl Iterator<Item = (OutputTensor<'a>, &'a OutputTransport)> {
        self.outputs.iter().map(|(output, transport)| (output.tensor(encoded, self.dtype), transport))
    }

    /// Elements in memory, little endian. A copy is reserved before it is made.
    pub(crate) fn bytes(&self, values: Values, place: &Place) -> Result<Bytes, ApiError> {
        match values {
            Values::Floats(reply) => {
                if self.dtype != Dtype::F32 {
                    place.hold((self.dtype.size() * reply.len()) as u64)?;
                }
                // In f32 nothing is copied.
                if self.dtype == Dtype::F32 && cfg!(target_endian = "little") {
                    return Ok(Bytes::from_owner(reply.clone()));
                }
                Ok(self.dtype.try_narrowed(reply)?.into())
            }
            Values::Integers(values) => Ok(values.iter().flat_map(|value| value.to_le_bytes()).collect()),
        }
    }
}

fn numbers<S: serde::Serializer>(reply: &Reply, serializer: S) -> Result<S::Ok, S::Error> {
    reply.serialize(serializer)
}

/// An element type by the names that requests have for it: the protocol's, and our own.
pub(crate) fn parse_dtype(name: &str) -> Option<Dtype> {
    Dtype::from_kserve_name(name).or_else(|| name.parse().ok())
}
