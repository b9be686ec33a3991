//! Tilesight as the vision tower of an engine that is built on candle.
//!
//! The encoder is an operation on candle's tensors (`encode`): it reads the pixels where the tensor has them, and what it
//! writes becomes a tensor, with no copy between the two. On a GPU it is enqueued on the stream of the tensor's device,
//! between what candle was given before and what it is given later.
//!
//! [`VisionTower::encode_image`] takes and gives what the vision model and the projector of such an engine do, by the names
//! and in the shapes that Hugging Face's processor made common; mistral.rs's model calls the two at one place each, and
//! holds a `VisionTower` in their stead:
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use tilesight_candle::VisionTower;
//!
//! let encoder = tilesight::Encoder::builder().demo().semantics(tilesight::plan::Semantics::Meta).build()?;
//! let tower = VisionTower::new(encoder, DType::F32);
//!
//! // One picture of one sample: one tile of four, the rest of the canvas zeros.
//! let pixel_values = Tensor::zeros((1, 1, 4, 3, 224, 224), DType::F32, &Device::Cpu)?;
//! let aspect_ratio_ids = Tensor::new(&[[1i64]], &Device::Cpu)?;
//! let aspect_ratio_mask = Tensor::new(&[[[1i64, 0, 0, 0]]], &Device::Cpu)?;
//! let states = tower.encode_image(&pixel_values, &aspect_ratio_ids, &aspect_ratio_mask)?;
//! assert_eq!(states.dims(), [1, 4 * 257, 512]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod aspect_ratios;
mod encode;

use std::sync::Mutex;

use candle_core::{DType, Result, Tensor, bail};
use tilesight::Encoder;

use encode::Encode;

/// A vision model with its projector, by which an image becomes the states that the decoder's cross-attention reads.
///
/// What the published weights mean is what an encoder computes in Meta's semantics, the default for their names.
pub struct VisionTower {
    encoder: Mutex<Encoder>,
    dtype: DType,
    max_num_tiles: usize,
}

impl VisionTower {
    /// A tower whose states are of type `dtype`. On a GPU, that which the encoder computes in costs no conversion.
    pub fn new(encoder: Encoder, dtype: DType) -> Self {
        let max_num_tiles = encoder.config().max_num_tiles;
        Self { encoder: Mutex::new(encoder), dtype, max_num_tiles }
    }

    /// Encodes images that Hugging Face's processor, or one like it, has prepared: `pixel_values` is
    /// `[b, images, tiles, 3, s, s]`, in any of f32, bf16 and f16, padding tiles zero; `aspect_ratio_ids` `[b, images]` numbers
    /// the supported aspect ratios from 1 on, 0 being a missing image; `aspect_ratio_mask` `[b, images, tiles]` has ones for
    /// the tiles of the aspect ratio. Gives `[b, images * tiles * tokens, E]`, on the device of the pixels.
    ///
    /// Ids and mask are read by the host: keep them on the CPU, where they were made.
    ///
    /// # Errors
    /// Where shapes, ids and mask do not fit the model or one another, and what the encoder refuses.
    pub fn encode_image(
        &self,
        pixel_values: &Tensor,
        aspect_ratio_ids: &Tensor,
        aspect_ratio_mask: &Tensor,
    ) -> Result<Tensor> {
        let (samples, images, tiles, ..) = match *pixel_values.dims() {
            [samples, images, tiles, channels, height, width] => (samples, images, tiles, channels, height, width),
            ref other => bail!("pixel_values must be [b, images, tiles, channels, s, s], found {other:?}"),
        };
        let aspect_ratios = aspect_ratios::read(aspect_ratio_ids, &[samples, images], self.max_num_tiles)?;
        aspect_ratios::require_mask(aspect_ratio_mask, &[samples, images, tiles], &aspect_ratios)?;
        let encode = Encode { encoder: &self.encoder, aspect_ratios };
        pixel_values.contiguous()?.apply_op1_no_bwd(&encode)?.to_dtype(self.dtype)
    }
}
