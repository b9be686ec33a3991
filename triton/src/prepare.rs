//! A request's tensors to what the encoder takes: tiles of its pictures, or its pixels in single precision.

use rayon::prelude::*;
use tilesight::encoder::Input;
use tilesight::error::ImageError;
use tilesight::image::{Image, Limits, Preprocessor, Tiles};
use tilesight::{EncoderConfig, Error, Pixels};

use crate::api::DataType;
use crate::config::dtype;
use crate::refusal::{Refusal, Result};
use crate::request::Tensor;

/// What a request holds.
pub(crate) enum Contents<'r> {
    /// Files, of which there is at least one.
    Pictures(Vec<&'r [u8]>),
    /// A tensor `[n, t, channels, s, s]`, as `[n, 1, t, channels, s, s]`, and the aspect ratio of each of its images.
    Pixels { values: Vec<f32>, shape: [usize; 6], aspect_ratio: Option<Vec<[i64; 2]>> },
}

/// What is to be encoded of a request.
pub(crate) struct Prepared {
    inputs: Inputs,
    /// The tiles of each image that have rows.
    pub(crate) num_tiles: Vec<usize>,
    /// Tiles down and tiles across of each image.
    pub(crate) aspect_ratios: Vec<[i64; 2]>,
}

enum Inputs {
    Pictures(Vec<Tiles>),
    Pixels { values: Vec<f32>, shape: [usize; 6], aspect_ratio: Option<Vec<[i64; 2]>> },
}

/// What turns a request's contents into tiles.
pub(crate) struct Cutter<'a> {
    pub(crate) config: &'a EncoderConfig,
    pub(crate) limits: &'a Limits,
    /// None where the model's pixels have not three channels.
    pub(crate) preprocessor: Option<&'a Preprocessor>,
}

impl<'r> Contents<'r> {
    /// Reads a request's tensors, each checked against its own shape.
    pub(crate) fn read(tensors: &'r [Tensor<'r>]) -> Result<Self> {
        let named = |name: &str| tensors.iter().find(|tensor| tensor.name == name);
        match (named("image"), named("pixels"), named("aspect_ratio")) {
            (Some(image), None, None) => Ok(Self::Pictures(image.files()?)),
            (Some(_), None, Some(_)) => Err(Refusal::invalid("input aspect_ratio belongs to pixels, not to image")),
            (None, Some(pixels), aspect_ratio) => {
                let shape: [usize; 5] = pixels.shape[..].try_into().map_err(|_| {
                    let found = &pixels.shape;
                    Refusal::invalid(format!("pixels must have shape [n, t, channels, s, s], found {found:?}"))
                })?;
                let [n, t, channels, height, width] = shape;
                if n == 0 {
                    return Err(Refusal::invalid("pixels must hold an image at least, found none"));
                }
                Ok(Self::Pixels {
                    values: pixels.floats()?,
                    shape: [n, 1, t, channels, height, width],
                    aspect_ratio: aspect_ratio.map(|tensor| tensor.pairs(n)).transpose()?,
                })
            }
            _ => Err(Refusal::invalid("a request has one of the inputs image and pixels")),
        }
    }
}

impl Tensor<'_> {
    /// BYTES `[n, 1]`: each element's length as four bytes, little endian, and the element.
    fn files(&self) -> Result<Vec<&[u8]>> {
        let refuse = |reason: String| Err(Refusal::invalid(format!("image {reason}")));
        let &[count, 1] = &self.shape[..] else {
            return refuse(format!("must have shape [n, 1], found {:?}", self.shape));
        };
        if self.data_type != DataType::BYTES {
            return refuse("must be BYTES".to_string());
        }
        if count == 0 {
            return refuse("must hold a picture at least, found none".to_string());
        }
        let (mut files, mut rest) = (Vec::new(), &self.bytes[..]);
        while !rest.is_empty() && files.len() <= count {
            let element = rest
                .split_first_chunk()
                .and_then(|(len, behind)| behind.split_at_checked(u32::from_le_bytes(*len) as usize));
            let Some((file, behind)) = element else {
                return refuse(format!("ends within element {}", files.len()));
            };
            files.push(file);
            rest = behind;
        }
        if files.len() != count {
            return refuse(format!("must have as many elements as its shape says, {count}"));
        }
        Ok(files)
    }

    /// FP32, FP16 or BF16 elements, as f32.
    fn floats(&self) -> Result<Vec<f32>> {
        let name = self.name;
        let dtype = dtype(self.data_type);
        let dtype = dtype.ok_or_else(|| Refusal::invalid(format!("{name} must be FP32, FP16 or BF16")))?;
        self.require_bytes(dtype.size())?;
        Ok(dtype.widened(&self.bytes)?)
    }

    /// INT64 `[n, 2]`.
    fn pairs(&self, n: usize) -> Result<Vec<[i64; 2]>> {
        let name = self.name;
        if self.data_type != DataType::INT64 || self.shape != [n, 2] {
            return Err(Refusal::invalid(format!("{name} must be INT64 [{n}, 2], found shape {:?}", self.shape)));
        }
        self.require_bytes(size_of::<i64>())?;
        let numbers: Vec<i64> = self.bytes.as_chunks().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect();
        Ok(numbers.as_chunks().0.to_vec())
    }

    /// The elements must be as many as the shape says.
    fn require_bytes(&self, size: usize) -> Result<()> {
        let bytes = self.shape.iter().try_fold(size, |bytes, size| bytes.checked_mul(*size));
        if bytes == Some(self.bytes.len()) {
            return Ok(());
        }
        let (name, found, shape) = (self.name, self.bytes.len(), &self.shape);
        Err(Refusal::invalid(format!("{name} has {found} bytes, which is not {shape:?} of {size} bytes each")))
    }
}

impl Cutter<'_> {
    /// Makes tiles of pictures, on the threads of the pool that this is called in; pixels are tiles already.
    pub(crate) fn cut(&self, contents: Contents) -> Result<Prepared> {
        match contents {
            Contents::Pictures(files) => {
                let tiles = files.par_iter().enumerate().map(|(number, file)| {
                    self.tiles(file).map_err(|error| {
                        let Refusal { code, message } = error.into();
                        // One picture among several is named, which the client may want to leave out.
                        let which = if files.len() > 1 { format!("picture {number}: ") } else { String::new() };
                        Refusal { code, message: which + &message }
                    })
                });
                let tiles = tiles.collect::<Result<Vec<_>>>()?;
                Ok(Prepared {
                    num_tiles: tiles.iter().map(Tiles::num_tiles).collect(),
                    aspect_ratios: tiles.iter().map(|tiles| tiles.aspect_ratio.map(|side| side as i64)).collect(),
                    inputs: Inputs::Pictures(tiles),
                })
            }
            Contents::Pixels { values, shape, aspect_ratio } => {
                let [n, _, num_tiles, ..] = shape;
                let most = self.config.max_num_tiles;
                if num_tiles > most {
                    return Err(Refusal::invalid(format!("pixels may have {most} tiles an image, found {num_tiles}")));
                }
                // From here on the shape is as large as the values are many.
                Pixels { images: &values, shape, aspect_ratio: None }.check(self.config)?;
                Ok(Prepared {
                    num_tiles: vec![num_tiles; n],
                    aspect_ratios: aspect_ratio.clone().unwrap_or_else(|| vec![[1, 1]; n]),
                    inputs: Inputs::Pixels { values, shape, aspect_ratio },
                })
            }
        }
    }

    fn tiles(&self, file: &[u8]) -> std::result::Result<Tiles, Error> {
        let refuse = || ImageError::Channels { expected: self.config.in_channels };
        let preprocessor = self.preprocessor.ok_or_else(refuse)?;
        preprocessor.tiles(&Image::decode(file, self.limits)?)
    }
}

impl Prepared {
    /// As the encoder takes it.
    pub(crate) fn input(&self) -> Input<'_> {
        match &self.inputs {
            Inputs::Pictures(tiles) => Input::Pictures(tiles),
            Inputs::Pixels { values, shape, aspect_ratio } => {
                Input::Pixels(Pixels { images: values, shape: *shape, aspect_ratio: aspect_ratio.as_deref() })
            }
        }
    }
}
