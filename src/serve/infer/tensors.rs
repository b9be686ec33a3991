//! A request's tensors, each checked against its own shape.

use axum::body::Bytes;

use super::wire::Input;
use crate::dtype::Dtype;
use crate::serve::output::dtype_named;
use crate::serve::refused::Refused;

/// All inputs of a request, by name.
pub(super) struct Tensors(Vec<Tensor>);

/// One input.
pub(super) struct Tensor {
    name: String,
    shape: Vec<usize>,
    datatype: String,
    elements: Elements,
}

enum Elements {
    Json(Vec<f64>),
    Binary(Bytes),
}

impl Tensors {
    /// The tensors of a request; `binary` is what stands behind its JSON.
    pub(super) fn read(inputs: Vec<Input>, mut binary: Bytes) -> Result<Self, Refused> {
        let mut tensors: Vec<Tensor> = Vec::with_capacity(inputs.len());
        for Input { name, shape, datatype, parameters, data } in inputs {
            if tensors.iter().any(|tensor| tensor.name == name) {
                return Err(Refused::malformed(format!("input {name} is there twice")));
            }
            let elements = match (parameters.binary_data_size, data) {
                (Some(size), None) if size <= binary.len() => Elements::Binary(binary.split_to(size)),
                (Some(size), None) => {
                    let found = binary.len();
                    return Err(Refused::malformed(format!(
                        "{name} must have {size} bytes of binary data, found {found}"
                    )));
                }
                (None, Some(numbers)) => Elements::Json(numbers.0),
                _ => return Err(Refused::malformed(format!("{name} has either data or binary_data_size"))),
            };
            tensors.push(Tensor { name, shape, datatype, elements });
        }
        if !binary.is_empty() {
            return Err(Refused::malformed(format!("{} bytes of binary data belong to no input", binary.len())));
        }
        Ok(Self(tensors))
    }

    /// Takes the input of this name.
    pub(super) fn take(&mut self, name: &str) -> Option<Tensor> {
        let place = self.0.iter().position(|tensor| tensor.name == name)?;
        Some(self.0.swap_remove(place))
    }

    /// Refuses inputs that nobody took.
    pub(super) fn require_no_more(&self) -> Result<(), Refused> {
        match self.0.first() {
            Some(tensor) => Err(Refused::malformed(format!("input {} has no place in this request", tensor.name))),
            None => Ok(()),
        }
    }
}

impl Tensor {
    pub(super) fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// BYTES `[n]`: each element's length as four bytes, little endian, and the element.
    pub(super) fn into_bytes(self) -> Result<Vec<Bytes>, Refused> {
        let refuse = |reason: String| Err(Refused::malformed(format!("{} {reason}", self.name)));
        let Elements::Binary(mut rest) = self.elements else {
            return refuse("must be binary data, for JSON cannot hold it".to_string());
        };
        if self.datatype != "BYTES" || self.shape.len() != 1 {
            return refuse(format!("must be BYTES [n], found {} {:?}", self.datatype, self.shape));
        }
        let mut elements = Vec::new();
        while !rest.is_empty() {
            let len = rest.first_chunk().map(|len| u32::from_le_bytes(*len) as usize);
            let Some(len) = len.filter(|len| *len <= rest.len() - 4) else {
                return refuse(format!("ends within element {}", elements.len()));
            };
            elements.push(rest.split_to(4 + len).slice(4..));
        }
        if elements.len() != self.shape[0] {
            return refuse(format!("has {} elements, its shape says {}", elements.len(), self.shape[0]));
        }
        Ok(elements)
    }

    /// FP32, FP16 or BF16 elements, as f32.
    pub(super) fn into_floats(self) -> Result<Vec<f32>, Refused> {
        let refuse = |reason: String| Err(Refused::malformed(format!("{} {reason}", self.name)));
        let Some(dtype) = dtype_named(&self.datatype).filter(|_| self.datatype.starts_with(char::is_uppercase)) else {
            return refuse(format!("must be FP32, FP16 or BF16, found {}", self.datatype));
        };
        let len = num_elements(&self.shape);
        let values = match self.elements {
            Elements::Json(_) if dtype != Dtype::F32 => {
                return refuse(format!("must be binary data in {}", self.datatype));
            }
            Elements::Json(numbers) => numbers.into_iter().map(|number| number as f32).collect(),
            Elements::Binary(bytes) => {
                if Some(bytes.len()) != len.and_then(|len| len.checked_mul(dtype.size())) {
                    return refuse(format!(
                        "has {} bytes, which is not {:?} in {}",
                        bytes.len(),
                        self.shape,
                        self.datatype
                    ));
                }
                let mut values = vec![0.0; bytes.len() / dtype.size()];
                dtype.widen(&bytes, &mut values);
                values
            }
        };
        if Some(values.len()) != len {
            return refuse(format!("has {} elements, its shape is {:?}", values.len(), self.shape));
        }
        Ok(values)
    }

    /// INT64 `[n, 2]`.
    pub(super) fn into_pairs(self, n: usize) -> Result<Vec<[i64; 2]>, Refused> {
        let refuse = |reason: String| Err(Refused::malformed(format!("{} {reason}", self.name)));
        if self.datatype != "INT64" || self.shape != [n, 2] {
            return refuse(format!("must be INT64 [{n}, 2], found {} {:?}", self.datatype, self.shape));
        }
        let values: Vec<i64> = match self.elements {
            Elements::Json(numbers) => {
                if let Some(number) = numbers.iter().find(|number| number.fract() != 0.0) {
                    return refuse(format!("must hold whole numbers, found {number}"));
                }
                numbers.into_iter().map(|number| number as i64).collect()
            }
            Elements::Binary(bytes) if bytes.len() % 8 == 0 => {
                bytes.as_chunks().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect()
            }
            Elements::Binary(bytes) => return refuse(format!("has {} bytes, not a multiple of 8", bytes.len())),
        };
        if Some(values.len()) != n.checked_mul(2) {
            return refuse(format!("has {} elements, its shape is [{n}, 2]", values.len()));
        }
        Ok(values.as_chunks().0.to_vec())
    }
}

fn num_elements(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |len, size| len.checked_mul(*size))
}
