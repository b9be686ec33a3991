//! Work in the order of a caller's stream, on a caller's memory: how another engine on the same GPU calls this one.
use std::ffi::c_void;

use super::Encoder;
use super::backend::Backend;
use super::pixels;
use crate::cuda::{CallerStream, Context, CudaBackend, Enqueued, ForeignStream, Places, require_memory};
use crate::dtype::Dtype;
use crate::error::{InputError, Result};
use crate::image::Tiles;
use crate::plan::{Batch, ImageShape, SequenceLayout};

/// What the kernels' vectors ask of an address of embeddings.
const EMBEDDINGS_ALIGNMENT: u64 = 16;

/// Preprocessed tiles on a GPU, as torchtune's and Hugging Face's models take them.
#[derive(Debug, Clone, Copy)]
pub struct DevicePixels<'a> {
    /// The address (`CUdeviceptr`) of `[b, i, t, channels, s, s]`, row-major and normalised, padding tiles last.
    pub address: u64,
    /// The type of its elements; it starts at a multiple of their size.
    pub dtype: Dtype,
    /// Its dimensions.
    pub shape: [usize; 6],
    /// `[b, i, 2]`, in the host's memory: tiles down and tiles across of each image, as
    /// [`Pixels::aspect_ratio`](super::Pixels::aspect_ratio) has them.
    pub aspect_ratio: Option<&'a [[i64; 2]]>,
    /// What the padding tiles hold.
    pub padding: Padding,
}

/// What the padding tiles of a pixel tensor hold, which the host cannot see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Padding {
    /// Anything: each is read and computed.
    #[default]
    AsGiven,
    /// Zeros, as torchtune's collation and Hugging Face's image processor leave them: none is read, and equal ones are
    /// computed once.
    Zeros,
}

/// Memory on a GPU for embeddings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceEmbeddings {
    /// The address (`CUdeviceptr`), a multiple of 16, of `[rows, E]` in the element type that the encoder computes in
    /// ([`precision`](Encoder::precision)).
    pub address: u64,
    /// The bytes that are there.
    pub bytes: usize,
}

/// A stream of the caller's. Raw handles, for the types of two versions of one binding are not the same, while every version
/// has the same primary context.
#[derive(Debug, Clone, Copy)]
pub struct RawStream {
    /// The `CUstream`, in the primary context of the GPU; null is the default stream, and `CU_STREAM_PER_THREAD` that of the
    /// calling thread.
    pub stream: *mut c_void,
    /// A `CUevent` that is recorded on it behind the work; null for none.
    pub done: *mut c_void,
}

impl Encoder {
    /// Enqueues the encoding of a pixel tensor that is on a GPU, `device` by its place among the encoder's. It begins when
    /// what `stream` was given before is done, and what it is given later begins when the embeddings are there. Every tile's
    /// rows come out, padding tiles included: returns their shape, `[b, i·t·N, E]`.
    ///
    /// Nothing is copied, and the host waits for nothing: work of one encoder and GPU is done in the order of the calls,
    /// whichever streams they name. The exceptions are the first batch of a shape, which is recorded, and a host that is
    /// eight batches ahead of the GPU, which waits for the oldest.
    ///
    /// What a call that returns its embeddings looks at on the host is not looked at: pixels or embeddings that are not
    /// finite. What goes wrong on the GPU is told by the driver to whoever waits, and to the next call.
    ///
    /// # Errors
    /// Those of [`encode_pixels`](Self::encode_pixels) for shapes and aspect ratios; [`InputError::DeviceMemory`],
    /// [`InputError::Handle`]; [`InputError::Unavailable`] for an encoder on the CPU; [`Error::Cuda`](crate::Error::Cuda).
    /// After one, nothing was enqueued that anybody waits for.
    ///
    /// # Panics
    /// Where there is no such device.
    ///
    /// # Safety
    /// `stream.stream` and `stream.done` live. Until the work is done, nobody frees the memory at `pixels.address` and
    /// `embeddings.address`, nobody writes the pixels, and nobody uses the embeddings but on `stream` or behind it.
    #[expect(unsafe_code, reason = "addresses and handles are the caller's to vouch for")]
    pub unsafe fn enqueue_pixels(
        &mut self,
        device: usize,
        pixels: &DevicePixels,
        embeddings: DeviceEmbeddings,
        stream: RawStream,
    ) -> Result<[usize; 3]> {
        pixels::check_shape(&pixels.shape, None, &self.config)?;
        let [samples, images_each, num_tiles, ..] = pixels.shape;
        let rows_each = images_each * num_tiles * self.config.num_tokens();
        let bytes = pixels.shape.iter().product::<usize>().saturating_mul(pixels.dtype.size());
        // Before anything is made for each image: a shape may claim any number of them, memory is what there is.
        self.require_embeddings(device, samples * rows_each, embeddings)?;
        let context = self.gpus(device)?.context(device);
        require_memory(context, "pixels", pixels.address, bytes, pixels.dtype.size() as u64)?;
        let images = self.device_layouts(pixels)?;
        let tile_bytes = self.config.tile_len() * pixels.dtype.size();
        let mut address = pixels.address;
        let place = |(batch, embeddings): (Batch, u64)| {
            let places =
                Places { pixels: address, pixels_dtype: pixels.dtype, image_tiles: Some(num_tiles), embeddings };
            address += (batch.shape.images.len() * num_tiles * tile_bytes) as u64;
            Enqueued { shape: batch.shape, places }
        };
        let images = images.into_iter().map(|image| (image, &[][..])).collect();
        let batches: Vec<Enqueued> = self.placed_batches(images, embeddings).into_iter().map(place).collect();
        let cuda = self.gpus(device)?;
        // SAFETY: the caller's promise.
        let caller = unsafe { caller_stream(cuda.context(device), stream) }?;
        cuda.enqueue(device, &batches, &caller)?;
        Ok([samples, rows_each, self.config.decoder_embed_dim])
    }

    /// [`enqueue_pixels`](Self::enqueue_pixels) for pictures that the host has cut into tiles: their pixels are copied
    /// before this returns. Only tiles that lie in an image's aspect ratio come out: returns the shape, `[Σ tiles·N, E]`.
    ///
    /// A host that is two batches ahead of the GPU waits for the oldest, whose memory the next pixels take.
    ///
    /// # Errors
    /// Those of [`encode_tiles`](Self::encode_tiles), and of [`enqueue_pixels`](Self::enqueue_pixels).
    ///
    /// # Panics
    /// Where there is no such device.
    ///
    /// # Safety
    /// As for [`enqueue_pixels`](Self::enqueue_pixels).
    #[expect(unsafe_code, reason = "addresses and handles are the caller's to vouch for")]
    pub unsafe fn enqueue_tiles(
        &mut self,
        device: usize,
        tiles: &[Tiles],
        embeddings: DeviceEmbeddings,
        stream: RawStream,
    ) -> Result<[usize; 2]> {
        let images = self.picture_layouts(tiles)?;
        let num_tiles: usize = images.iter().map(|(image, _)| image.num_output_tiles()).sum();
        let rows = num_tiles.saturating_mul(self.config.num_tokens());
        let batches = self.placed_batches(images, embeddings);
        self.require_embeddings(device, rows, embeddings)?;
        let cuda = self.gpus(device)?;
        // SAFETY: the caller's promise.
        let caller = unsafe { caller_stream(cuda.context(device), stream) }?;
        cuda.enqueue_from_host(device, &batches, &caller)?;
        Ok([rows, self.config.decoder_embed_dim])
    }

    /// Each image's rows, for pixels that only the GPU sees; of a shape that has been checked.
    fn device_layouts(&self, pixels: &DevicePixels) -> Result<Vec<SequenceLayout>> {
        let num_tiles = pixels.shape[2];
        let layout = |(number, &aspect_ratio): (usize, &[usize; 2])| {
            let num_real = aspect_ratio[0].saturating_mul(aspect_ratio[1]);
            let is_read = |tile: &usize| pixels.padding == Padding::AsGiven || *tile < num_real;
            let tiles = (0..num_tiles).map(|tile| Some(tile).filter(is_read)).collect();
            self.rules(|rules| rules.sequence(&ImageShape { aspect_ratio, tiles, padding_output: true }, number))
        };
        self.aspect_ratios(&pixels.shape, pixels.aspect_ratio)?.iter().enumerate().map(layout).collect()
    }

    /// Batches that keep the tile budget, each with the address where its embeddings begin.
    fn placed_batches<'a>(
        &self,
        images: Vec<(SequenceLayout, &'a [f32])>,
        embeddings: DeviceEmbeddings,
    ) -> Vec<(Batch<'a>, u64)> {
        let row_bytes = self.config.decoder_embed_dim * self.precision().activations.size();
        let mut address = embeddings.address;
        let place = |batch: Batch<'a>| {
            let begin = address;
            let rows = batch.shape.num_output_tiles() * self.config.num_tokens();
            address = address.wrapping_add((rows * row_bytes) as u64);
            (batch, begin)
        };
        self.batches(images).into_iter().map(place).collect()
    }

    /// The memory must hold `rows` rows.
    fn require_embeddings(&mut self, device: usize, rows: usize, embeddings: DeviceEmbeddings) -> Result<()> {
        let DeviceEmbeddings { address, bytes } = embeddings;
        let row_bytes = self.config.decoder_embed_dim * self.precision().activations.size();
        let needed = rows.checked_mul(row_bytes).ok_or(InputError::OutOfMemory { bytes: u64::MAX })?;
        let context = self.gpus(device)?.context(device);
        if needed == 0 {
            return Ok(());
        }
        if bytes < needed {
            let (ordinal, found) = (context.ordinal(), format!("{bytes} bytes"));
            let bytes = needed as u64;
            return Err(InputError::DeviceMemory { name: "embeddings", address, bytes, ordinal, found }.into());
        }
        require_memory(context, "embeddings", address, needed, EMBEDDINGS_ALIGNMENT)
    }

    /// The GPUs, of which `device` is one.
    fn gpus(&mut self, device: usize) -> Result<&mut CudaBackend> {
        assert!(device < self.num_devices(), "device {device} of {}", self.num_devices());
        match &mut self.backend {
            Backend::Cuda(cuda) => Ok(cuda),
            Backend::Cpu(_) => {
                let reason = "a stream's work is a GPU's: build the encoder for one";
                Err(InputError::Unavailable { option: "device", found: "cpu".to_string(), reason }.into())
            }
        }
    }
}

/// # Safety
/// The handles live.
#[expect(unsafe_code, reason = "handles are the caller's to vouch for")]
unsafe fn caller_stream(context: &Context, RawStream { stream, done }: RawStream) -> Result<CallerStream> {
    // SAFETY: the caller's promise.
    Ok(CallerStream { stream: unsafe { ForeignStream::new(context, stream) }?, done })
}
