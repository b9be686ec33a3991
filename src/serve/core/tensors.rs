//! A request's tensors, whichever protocol brought them, each checked against its own shape.

use axum::body::Bytes;

use super::error::ApiError;
use super::shared_memory::Window;
use crate::dtype::Dtype;
use crate::error::{Error, InputError};
use crate::memory;

const NAMES: [&str; 3] = ["image", "pixels", "aspect_ratio"];

/// All inputs of a request, by name.
#[derive(Default)]
pub(crate) struct Tensors(Vec<Tensor>);

/// One input.
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) datatype: String,
    pub(crate) elements: Elements,
}

/// What a tensor holds, as it came.
pub(crate) enum Elements {
    /// JSON's numbers.
    Numbers(Vec<f64>),
    /// Any datatype in memory, little endian; BYTES with the length of each element before it.
    Binary(Bytes),
    /// The same, in memory of the client's.
    Shared(Window),
    /// FP32.
    Floats(Vec<f32>),
    /// INT64.
    Integers(Vec<i64>),
    /// BYTES.
    Files(Vec<Bytes>),
}

/// The images that a request wants encoded.
pub(crate) enum Contents {
    /// Files.
    Pictures(Vec<Bytes>),
    /// A tensor, its shape, and the aspect ratio of each of its images.
    Pixels { values: Vec<f32>, shape: [usize; 5], aspect_ratio: Option<Vec<[i64; 2]>> },
}

impl Tensors {
    /// One picture, given as a file.
    pub(crate) fn picture(file: Bytes) -> Self {
        let (name, datatype) = ("image".to_string(), "BYTES".to_string());
        Self(vec![Tensor { name, shape: vec![1], datatype, elements: Elements::Files(vec![file]) }])
    }

    /// Adds an input. There are three names, so a request has no more inputs than that.
    pub(crate) fn add(&mut self, tensor: Tensor) -> Result<(), ApiError> {
        if !NAMES.contains(&&tensor.name[..]) {
            return Err(ApiError::malformed(format!("there is no input {:?}", tensor.name)));
        }
        if self.0.iter().any(|known| known.name == tensor.name) {
            return Err(ApiError::malformed(format!("input {} is there twice", tensor.name)));
        }
        self.0.push(tensor);
        Ok(())
    }

    /// Bytes that are in memory of the client's.
    pub(crate) fn shared_bytes(&self) -> u64 {
        let bytes = |tensor: &Tensor| match &tensor.elements {
            Elements::Shared(window) => window.byte_size,
            _ => 0,
        };
        self.0.iter().map(bytes).fold(0, u64::saturating_add)
    }

    /// Copies them from there.
    pub(crate) fn read_shared(&mut self) -> Result<(), ApiError> {
        for tensor in &mut self.0 {
            if let Elements::Shared(window) = &tensor.elements {
                tensor.elements = Elements::Binary(window.read()?);
            }
        }
        Ok(())
    }

    /// Bytes that reading the elements moves.
    pub(crate) fn bytes(&self) -> usize {
        let bytes = |tensor: &Tensor| match &tensor.elements {
            Elements::Binary(bytes) => bytes.len(),
            Elements::Numbers(numbers) => size_of_val(&numbers[..]),
            Elements::Shared(_) | Elements::Floats(_) | Elements::Integers(_) | Elements::Files(_) => 0,
        };
        self.0.iter().map(bytes).sum()
    }

    /// Bytes that the elements of BYTES take beside themselves, of which the shortest have four.
    pub(crate) fn slices(&self) -> u64 {
        let slices = |tensor: &Tensor| match (&tensor.elements, &tensor.shape[..]) {
            (Elements::Binary(bytes), [count]) => 2 * size_of::<Bytes>() * (*count).min(bytes.len() / 4),
            _ => 0,
        };
        self.0.iter().map(|tensor| slices(tensor) as u64).sum()
    }

    /// What the request holds.
    pub(crate) fn into_contents(mut self) -> Result<Contents, ApiError> {
        match (self.take("image"), self.take("pixels")) {
            (Some(image), None) => {
                self.require_no_more()?;
                let files = image.into_files()?;
                if files.is_empty() {
                    return Err(Error::from(InputError::Empty { name: "images" }).into());
                }
                Ok(Contents::Pictures(files))
            }
            (None, Some(pixels)) => {
                let shape: [usize; 5] = pixels.shape[..].try_into().map_err(|_| {
                    let found = &pixels.shape;
                    ApiError::malformed(format!("pixels must have shape [n, t, channels, s, s], found {found:?}"))
                })?;
                let aspect_ratio = self.take("aspect_ratio").map(|tensor| tensor.into_pairs(shape[0])).transpose()?;
                self.require_no_more()?;
                Ok(Contents::Pixels { values: pixels.into_floats()?, shape, aspect_ratio })
            }
            _ => Err(ApiError::malformed("a request has one of the inputs image and pixels")),
        }
    }

    /// Takes the input of this name.
    fn take(&mut self, name: &str) -> Option<Tensor> {
        let place = self.0.iter().position(|tensor| tensor.name == name)?;
        Some(self.0.swap_remove(place))
    }

    /// Refuses inputs that nobody took.
    fn require_no_more(&self) -> Result<(), ApiError> {
        match self.0.first() {
            Some(tensor) => Err(ApiError::malformed(format!("input {} has no place in this request", tensor.name))),
            None => Ok(()),
        }
    }
}

impl Tensor {
    /// BYTES `[n]`, of which binary data hold each element's length as four bytes, little endian, and the element.
    fn into_files(self) -> Result<Vec<Bytes>, ApiError> {
        let refuse = |reason: String| Err(ApiError::malformed(format!("{} {reason}", self.name)));
        if self.datatype != "BYTES" || self.shape.len() != 1 {
            return refuse(format!("must be BYTES [n], found {} {:?}", self.datatype, self.shape));
        }
        let mut files = Vec::new();
        match self.elements {
            Elements::Files(elements) => files = elements,
            Elements::Binary(mut rest) => {
                while !rest.is_empty() && files.len() <= self.shape[0] {
                    let len = rest.first_chunk().map(|len| u32::from_le_bytes(*len) as usize);
                    let Some(len) = len.filter(|len| *len <= rest.len() - 4) else {
                        return refuse(format!("ends within element {}", files.len()));
                    };
                    files.push(rest.split_to(4 + len).slice(4..));
                }
            }
            _ => return refuse("must be binary data, for JSON cannot hold it".to_string()),
        }
        if files.len() != self.shape[0] {
            return refuse(format!("must have as many elements as its shape says, {}", self.shape[0]));
        }
        Ok(files)
    }

    /// FP32, FP16 or BF16 elements, as f32.
    fn into_floats(self) -> Result<Vec<f32>, ApiError> {
        let refuse = |reason: String| Err(ApiError::malformed(format!("{} {reason}", self.name)));
        let Some(dtype) = Dtype::from_kserve_name(&self.datatype) else {
            return refuse(format!("must be FP32, FP16 or BF16, found {}", self.datatype));
        };
        let len = num_elements(&self.shape);
        let values = match self.elements {
            Elements::Floats(values) if dtype == Dtype::F32 => values,
            Elements::Numbers(numbers) if dtype == Dtype::F32 => {
                memory::collect(numbers.into_iter().map(|number| number as f32))?
            }
            Elements::Binary(bytes) => {
                if Some(bytes.len()) != len.and_then(|len| len.checked_mul(dtype.size())) {
                    return refuse(format!(
                        "has {} bytes, which is not {:?} in {}",
                        bytes.len(),
                        self.shape,
                        self.datatype
                    ));
                }
                dtype.widened(&bytes)?
            }
            _ => return refuse(format!("must be binary data in {}", self.datatype)),
        };
        if Some(values.len()) != len {
            return refuse(format!("has {} elements, its shape is {:?}", values.len(), self.shape));
        }
        Ok(values)
    }

    /// INT64 `[n, 2]`.
    fn into_pairs(self, n: usize) -> Result<Vec<[i64; 2]>, ApiError> {
        let refuse = |reason: String| Err(ApiError::malformed(format!("{} {reason}", self.name)));
        if self.datatype != "INT64" || self.shape != [n, 2] {
            return refuse(format!("must be INT64 [{n}, 2], found {} {:?}", self.datatype, self.shape));
        }
        let values: Vec<i64> = match self.elements {
            Elements::Integers(values) => values,
            Elements::Numbers(numbers) => {
                if let Some(number) = numbers.iter().find(|number| number.fract() != 0.0) {
                    return refuse(format!("must hold whole numbers, found {number}"));
                }
                memory::collect(numbers.into_iter().map(|number| number as i64))?
            }
            Elements::Binary(bytes) if bytes.len() % 8 == 0 => {
                memory::collect(bytes.as_chunks().0.iter().map(|bytes| i64::from_le_bytes(*bytes)))?
            }
            Elements::Binary(bytes) => return refuse(format!("has {} bytes, not a multiple of 8", bytes.len())),
            Elements::Shared(_) | Elements::Floats(_) | Elements::Files(_) => {
                return refuse("must hold whole numbers".to_string());
            }
        };
        if Some(values.len()) != n.checked_mul(2) {
            return refuse(format!("has {} elements, its shape is [{n}, 2]", values.len()));
        }
        Ok(memory::copy(values.as_chunks().0)?)
    }
}

fn num_elements(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |len, size| len.checked_mul(*size))
}
