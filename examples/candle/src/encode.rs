//! The encoder, as an operation on candle's tensors.

use std::borrow::Cow;
use std::sync::{Mutex, MutexGuard};

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, Error, Layout, Result, Shape, bail};
use tilesight::{Encoder, Pixels};

#[cfg(feature = "gpu")]
mod gpu;

/// Pixels `[b, images, tiles, channels, s, s]` to states `[b, images * tiles * tokens, E]`.
pub(crate) struct Encode<'a> {
    pub(crate) encoder: &'a Mutex<Encoder>,
    /// Tiles down and across of each image.
    pub(crate) aspect_ratios: Vec<[i64; 2]>,
}

impl Encode<'_> {
    fn encoder(&self) -> Result<MutexGuard<'_, Encoder>> {
        self.encoder.lock().map_err(|_| Error::msg("an earlier call on the encoder panicked"))
    }
}

/// The tensor's place in its storage, and its six dimensions.
fn place(layout: &Layout) -> Result<(std::ops::Range<usize>, [usize; 6])> {
    let Some((begin, end)) = layout.contiguous_offsets() else { bail!("pixel_values must be contiguous") };
    match <[usize; 6]>::try_from(layout.dims()) {
        Ok(shape) => Ok((begin..end, shape)),
        Err(_) => bail!("pixel_values must have 6 dimensions, found {:?}", layout.dims()),
    }
}

impl CustomOp1 for Encode<'_> {
    fn name(&self) -> &'static str {
        "tilesight"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (place, shape) = place(layout)?;
        let images: Cow<[f32]> = match storage {
            CpuStorage::F32(values) => Cow::Borrowed(&values[place]),
            CpuStorage::BF16(values) => values[place].iter().map(|value| value.to_f32()).collect(),
            CpuStorage::F16(values) => values[place].iter().map(|value| value.to_f32()).collect(),
            other => bail!("pixel_values must be f32, bf16 or f16, found {:?}", other.dtype()),
        };
        let pixels = Pixels { images: &images, shape, aspect_ratio: Some(&self.aspect_ratios) };
        let encoded = self.encoder()?.encode_pixels(&pixels).map_err(Error::wrap)?;
        Ok((CpuStorage::F32(encoded.embeddings), Shape::from_dims(&encoded.shape)))
    }

    #[cfg(feature = "gpu")]
    fn cuda_fwd(
        &self,
        storage: &candle_core::CudaStorage,
        layout: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        self.on_gpu(storage, layout)
    }
}
