//! On a GPU: from candle's memory to candle's memory, on candle's stream.
#![expect(unsafe_code, reason = "candle's handles and memory are handed over")]

use candle_core::cuda::cudarc::driver::{CudaSlice, CudaView, DevicePtr, DevicePtrMut, DeviceRepr};
use candle_core::cuda::{CudaDType, CudaDevice, CudaStorageSlice};
use candle_core::{CudaStorage, Error, Layout, Result, Shape, bail};
use half::{bf16, f16};
use tilesight::Dtype;
use tilesight::encoder::{DeviceEmbeddings, DevicePixels, Padding, RawStream};

use super::{BackendStorage, Encode, place};

impl Encode<'_> {
    pub(super) fn on_gpu(&self, storage: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (place, shape) = place(layout)?;
        match &storage.slice {
            CudaStorageSlice::F32(values) => self.from(&values.slice(place), Dtype::F32, shape, storage.device()),
            CudaStorageSlice::BF16(values) => self.from(&values.slice(place), Dtype::Bf16, shape, storage.device()),
            CudaStorageSlice::F16(values) => self.from(&values.slice(place), Dtype::F16, shape, storage.device()),
            _ => bail!("pixel_values must be f32, bf16 or f16, found {:?}", storage.dtype()),
        }
    }

    /// From pixels of type `P`, into what the encoder computes in.
    fn from<P>(
        &self,
        pixels: &CudaView<P>,
        dtype: Dtype,
        shape: [usize; 6],
        device: &CudaDevice,
    ) -> Result<(CudaStorage, Shape)> {
        let computed_in = self.encoder()?.precision().activations;
        match computed_in {
            Dtype::Bf16 => self.between::<P, bf16>(pixels, dtype, shape, device),
            Dtype::F16 => self.between::<P, f16>(pixels, dtype, shape, device),
            Dtype::F32 => bail!("the pixels are on a GPU, and the encoder is not: build it for one"),
        }
    }

    fn between<P, E: CudaDType + DeviceRepr>(
        &self,
        pixels: &CudaView<P>,
        dtype: Dtype,
        shape: [usize; 6],
        device: &CudaDevice,
    ) -> Result<(CudaStorage, Shape)> {
        let mut encoder = self.encoder()?;
        let stream = device.cuda_stream();
        let [samples, images, tiles, ..] = shape;
        let config = encoder.config();
        let dims = [samples, images * tiles * config.num_tokens(), config.decoder_embed_dim];
        // SAFETY: the encoder writes all of it, or this function fails and it is freed unread.
        let mut states: CudaSlice<E> = unsafe { device.alloc(dims.iter().product()) }?;
        {
            let bytes = states.num_bytes();
            // What these return with the addresses says at their end that the memory is in use by the stream until then.
            let (address, _pixels_are_read) = pixels.device_ptr(&stream);
            let (states, _states_are_written) = states.device_ptr_mut(&stream);
            let aspect_ratio = Some(&self.aspect_ratios[..]);
            let pixels = DevicePixels { address, dtype, shape, aspect_ratio, padding: Padding::Zeros };
            let raw = RawStream { stream: stream.cu_stream().cast(), done: std::ptr::null_mut() };
            let embeddings = DeviceEmbeddings { address: states, bytes };
            // SAFETY: candle frees memory in the order of this stream, behind the encoder's work, and its stream lives as long
            // as the device. Whoever uses one of the tensors on another stream waits for this one, as candle does.
            unsafe { encoder.enqueue_pixels(0, &pixels, embeddings, raw) }.map_err(Error::wrap)?;
        }
        Ok((CudaStorage::wrap_cuda_slice(states, device.clone()), Shape::from_dims(&dims)))
    }
}
