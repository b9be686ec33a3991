//! The outputs that a request may ask for, whichever protocol it came by.

use axum::body::Bytes;
use serde::Serialize;

use super::output::{self, dtype_named};
use super::refused::Refused;
use super::service::Answer;
use super::shared_memory::{RegionError, Window};
use crate::batch::{Place, Reply};
use crate::dtype::Dtype;

/// An output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Output {
    Embeddings,
    NumTiles,
    AspectRatio,
}

/// How an output travels.
#[derive(Debug, Clone)]
pub(super) enum Way {
    /// As numbers in the response's text.
    Json,
    /// As it is in memory, with the response.
    Binary,
    /// Not at all: it is put into memory of the client's.
    Shared(Window),
}

/// The outputs that a request asks for, in order, and the element type of its embeddings.
pub(super) struct Wanted {
    outputs: Vec<(Output, Way)>,
    dtype: Dtype,
}

/// One output's tensor.
pub(super) struct OutputTensor<'a> {
    pub(super) name: &'static str,
    pub(super) datatype: &'static str,
    pub(super) shape: Vec<usize>,
    pub(super) values: Values<'a>,
}

/// The elements of a tensor.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(untagged)]
pub(super) enum Values<'a> {
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

    /// The tensor of an answer, its embeddings in `dtype`.
    fn of(self, answer: &Answer, dtype: Dtype) -> OutputTensor<'_> {
        let (datatype, shape, values) = match self {
            Self::Embeddings => (datatype(dtype), answer.embeddings_shape.to_vec(), Values::Floats(&answer.reply)),
            Self::NumTiles => ("INT64", vec![answer.num_tiles.len()], Values::Integers(&answer.num_tiles)),
            Self::AspectRatio => {
                let values = Values::Integers(answer.aspect_ratios.as_flattened());
                ("INT64", vec![answer.aspect_ratios.len(), 2], values)
            }
        };
        OutputTensor { name: self.name(), datatype, shape, values }
    }
}

impl Wanted {
    /// The named outputs, or all where none is named. `dtype` names the element type; FP32 where it does not.
    pub(super) fn new<'a>(
        named: Option<impl IntoIterator<Item = Result<(&'a str, Way), Refused>>>,
        otherwise: &Way,
        dtype: Option<&str>,
    ) -> Result<Self, Refused> {
        let mut outputs = Vec::new();
        if named.is_none() {
            outputs.extend(Output::ALL.map(|output| (output, otherwise.clone())));
        }
        for named in named.into_iter().flatten() {
            let (name, way) = named?;
            let known = Output::ALL.into_iter().find(|output| output.name() == name);
            let output = known.ok_or_else(|| Refused::malformed(format!("there is no output {name:?}")))?;
            if outputs.iter().any(|(known, _)| *known == output) {
                return Err(Refused::malformed(format!("output {name} is asked for twice")));
            }
            outputs.push((output, way));
        }
        let dtype = dtype.map_or(Some(Dtype::F32), dtype_named);
        let dtype = dtype.ok_or_else(|| Refused::malformed("dtype must be FP32, FP16 or BF16"))?;
        let is_text = |(output, way): &(Output, Way)| *output == Output::Embeddings && matches!(way, Way::Json);
        if dtype != Dtype::F32 && outputs.iter().any(is_text) {
            return Err(Refused::malformed("embeddings in FP16 or BF16 travel as binary data: ask for binary_data"));
        }
        Ok(Self { outputs, dtype })
    }

    /// The element type of the embeddings.
    pub(super) fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Refuses outputs of so many images and so many values that their client has no room for.
    ///
    /// # Errors
    /// [`RegionError::TooSmall`].
    pub(super) fn require_room(&self, images: usize, embeddings_len: u64) -> Result<(), RegionError> {
        self.outputs.iter().try_for_each(|(output, way)| {
            let Way::Shared(window) = way else { return Ok(()) };
            let needed = match output {
                Output::Embeddings => embeddings_len.saturating_mul(self.dtype.size() as u64),
                Output::NumTiles => 8 * images as u64,
                Output::AspectRatio => 16 * images as u64,
            };
            window.require_room(output.name(), needed)
        })
    }

    /// The tensors of an answer, each with the way it goes.
    pub(super) fn of<'a>(&'a self, answer: &'a Answer) -> impl Iterator<Item = (OutputTensor<'a>, &'a Way)> {
        self.outputs.iter().map(|(output, way)| (output.of(answer, self.dtype), way))
    }

    /// Elements in memory, little endian; what is made for it is counted first.
    pub(super) fn bytes(&self, values: Values, place: &Place) -> Result<Bytes, Refused> {
        match values {
            Values::Floats(reply) => {
                if self.dtype != Dtype::F32 {
                    place.hold((self.dtype.size() * reply.len()) as u64)?;
                }
                Ok(output::embeddings(reply.clone(), self.dtype))
            }
            Values::Integers(values) => Ok(output::integers(values.iter().copied()).into()),
        }
    }
}

fn numbers<S: serde::Serializer>(reply: &Reply, serializer: S) -> Result<S::Ok, S::Error> {
    reply.serialize(serializer)
}

/// The protocol's name of an element type.
fn datatype(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::F32 => "FP32",
        Dtype::F16 => "FP16",
        Dtype::Bf16 => "BF16",
    }
}
