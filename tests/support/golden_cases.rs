//! Golden cases: the pixels that a reference encoded, and its values.

use std::collections::BTreeMap;
use std::path::Path;

use tilesight::Pixels;

use crate::golden_tensors::{Tensor, read};

/// The pixel tensor of a golden case.
pub struct Case {
    pub tensors: BTreeMap<String, Tensor>,
    images: Vec<f32>,
    shape: [usize; 6],
    aspect_ratio: Option<Vec<[i64; 2]>>,
}

impl Case {
    pub fn read(path: &Path) -> Self {
        let tensors = read(path);
        let images = &tensors["images"];
        let aspect_ratio = tensors.get("aspect_ratio").map(|t| t.i64().as_chunks().0.to_vec());
        Self { images: images.f32(), shape: images.shape.clone().try_into().unwrap(), aspect_ratio, tensors }
    }

    pub fn new(images: Vec<f32>, shape: [usize; 6], aspect_ratio: Option<Vec<[i64; 2]>>) -> Self {
        Self { tensors: BTreeMap::new(), images, shape, aspect_ratio }
    }

    pub fn pixels(&self) -> Pixels<'_> {
        Pixels { images: &self.images, shape: self.shape, aspect_ratio: self.aspect_ratio.as_deref() }
    }
}
