//! `--pixels`: a pixel tensor from a safetensors file.

use std::path::Path;

use safetensors::tensor::TensorView;
use safetensors::{Dtype as Stored, SafeTensorError, SafeTensors};

use crate::dtype::Dtype;
use crate::encoder::Pixels;
use crate::error::{CheckpointError, Error, InputError, Result};

/// The tensors `images` and, if it is there, `aspect_ratio` of a file.
pub(super) struct PixelFile {
    images: Vec<f32>,
    shape: [usize; 6],
    aspect_ratio: Option<Vec<[i64; 2]>>,
}

impl PixelFile {
    /// Reads `images` (b, i, t, channels, s, s) in F32, BF16 or F16, and `aspect_ratio` (b, i, 2) in I64 or I32.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(Error::io(path))?;
        let damaged = |e: SafeTensorError| CheckpointError::Damaged { path: path.to_path_buf(), reason: e.to_string() };
        let file = SafeTensors::deserialize(&bytes).map_err(damaged)?;
        let missing = |_| InputError::Missing { tensor: "images", path: path.display().to_string() };
        let images = file.tensor("images").map_err(missing)?;
        let refuse = |expected: &str, found: &TensorView, tensor| InputError::Shape {
            tensor,
            expected: expected.to_string(),
            found: found.shape().to_vec(),
        };
        let shape: [usize; 6] =
            images.shape().try_into().map_err(|_| refuse("[b, i, t, channels, s, s]", &images, "images"))?;
        let aspect_ratio = match file.tensor("aspect_ratio") {
            Ok(found) => {
                let [b, i, ..] = shape;
                if found.shape() != [b, i, 2] {
                    return Err(refuse(&format!("[{b}, {i}, 2]"), &found, "aspect_ratio").into());
                }
                Some(integers(&found)?.as_chunks().0.to_vec())
            }
            Err(SafeTensorError::TensorNotFound(_)) => None,
            Err(e) => return Err(damaged(e).into()),
        };
        Ok(Self { images: floats(&images)?, shape, aspect_ratio })
    }

    /// The tensors, as the encoder takes them.
    pub(super) fn pixels(&self) -> Pixels<'_> {
        Pixels { images: &self.images, shape: self.shape, aspect_ratio: self.aspect_ratio.as_deref() }
    }
}

fn floats(tensor: &TensorView) -> Result<Vec<f32>> {
    let dtype = match tensor.dtype() {
        Stored::F32 => Dtype::F32,
        Stored::BF16 => Dtype::Bf16,
        Stored::F16 => Dtype::F16,
        found => return Err(wrong_dtype("images", "F32, BF16 or F16", found)),
    };
    let mut values = vec![0.0; tensor.data().len() / dtype.size()];
    dtype.widen(tensor.data(), &mut values);
    Ok(values)
}

fn integers(tensor: &TensorView) -> Result<Vec<i64>> {
    match tensor.dtype() {
        Stored::I64 => Ok(tensor.data().as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect()),
        Stored::I32 => Ok(tensor.data().as_chunks().0.iter().map(|b| i32::from_le_bytes(*b).into()).collect()),
        found => Err(wrong_dtype("aspect_ratio", "I64 or I32", found)),
    }
}

fn wrong_dtype(tensor: &'static str, expected: &'static str, found: Stored) -> Error {
    InputError::Dtype { tensor, expected, found: format!("{found:?}") }.into()
}
