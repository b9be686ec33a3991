//! The way of one batch to the GPU and back, beside the way of the one before.

use std::sync::Arc;
use std::time::Duration;

use super::batch::{BatchTables, Places};
use super::driver::{Context, DeviceMemory, Event, PinnedMemory, Stream};
use crate::config::EncoderConfig;
use crate::dtype::Dtype;
use crate::error::CudaError;
use crate::plan::{Batch, BatchShape, Capacity, Target, Timing};

/// Batches on their way at once: one computes while the next one's pixels arrive and the last one's results leave.
pub(crate) const SLOTS: usize = 2;

/// Pixels are copied to pinned memory and sent off in pieces of this many bytes: the GPU fetches one while the host
/// copies the next.
const PIECE_BYTES: usize = 1 << 20;

/// A GPU's streams: what they do may overlap, but for what events order.
#[derive(Debug)]
pub(super) struct Streams {
    pub(super) upload: Stream,
    pub(super) compute: Stream,
    pub(super) download: Stream,
}

impl Streams {
    pub(super) fn new(context: &Arc<Context>) -> Result<Self, CudaError> {
        Ok(Self { upload: Stream::new(context)?, compute: Stream::new(context)?, download: Stream::new(context)? })
    }
}

/// The times of a batch that was not timed.
pub(super) const NO_TIME: Timing = Timing::Gpu { h2d: Duration::ZERO, compute: Duration::ZERO, d2h: Duration::ZERO };

/// Events that keep the time of a batch for which it is asked. They stand in the streams before and behind what they time,
/// outside of the recorded graph, and order nothing: the events that do are others, which keep no time.
#[derive(Debug)]
struct Clock {
    upload: [Event; 2],
    compute: [Event; 2],
    downloaded: Event,
}

impl Clock {
    fn new(context: &Arc<Context>) -> Result<Self, CudaError> {
        let pair = || Ok::<_, CudaError>([Event::timed(context)?, Event::timed(context)?]);
        Ok(Self { upload: pair()?, compute: pair()?, downloaded: Event::timed(context)? })
    }

    /// The times, once the results are here.
    fn read(&self) -> Result<Timing, CudaError> {
        let between = |start: &Event, end: &Event| end.seconds_since(start).map(Duration::from_secs_f64);
        let [started, computed] = &self.compute;
        Ok(Timing::Gpu {
            h2d: between(&self.upload[0], &self.upload[1])?,
            compute: between(started, computed)?,
            d2h: between(computed, &self.downloaded)?,
        })
    }
}

/// Memory and events of one batch in flight.
#[derive(Debug)]
pub(super) struct Slot {
    /// f32, all images' pixels one after another.
    pub(super) pixels: DeviceMemory,
    /// The results, in the encoder's element type.
    pub(super) embeddings: DeviceMemory,
    pinned_pixels: PinnedMemory,
    pinned_tables: PinnedMemory,
    pinned_embeddings: PinnedMemory,
    uploaded: Event,
    computed: Arc<Event>,
    downloaded: Event,
    /// Made for the first batch that is timed.
    clock: Option<Clock>,
    /// Whether the batch in flight is.
    is_timed: bool,
    /// Elements of the batch' results; none while no batch is in flight.
    in_flight: Option<usize>,
    /// Whether the last batch' results went elsewhere, so that nobody has waited for it yet.
    is_passing: bool,
    /// What `pinned_tables` describes: the same batch shape again needs no new tables.
    described: Option<(Capacity, BatchShape)>,
}

impl Slot {
    /// Memory for batches that `capacity` covers.
    pub(super) fn new(
        context: &Arc<Context>,
        config: &EncoderConfig,
        capacity: &Capacity,
        target: Target,
    ) -> Result<Self, CudaError> {
        let dtype = target.precision.activations;
        let pixels_bytes = capacity.input_tiles * config.tile_len() * size_of::<f32>();
        let embeddings_bytes = capacity.output_rows * config.decoder_embed_dim * dtype.size();
        Ok(Self {
            pixels: DeviceMemory::new(context, pixels_bytes, "pixels")?,
            embeddings: DeviceMemory::new(context, embeddings_bytes, "embeddings")?,
            pinned_pixels: PinnedMemory::new(context, pixels_bytes)?,
            pinned_tables: PinnedMemory::new(context, BatchTables::new(*capacity, target).bytes)?,
            pinned_embeddings: PinnedMemory::new(context, embeddings_bytes)?,
            uploaded: Event::new(context)?,
            computed: Arc::new(Event::new(context)?),
            downloaded: Event::new(context)?,
            clock: None,
            is_timed: false,
            in_flight: None,
            is_passing: false,
            described: None,
        })
    }

    /// Has the next batch timed, or not.
    pub(super) fn time(&mut self, context: &Arc<Context>, is_timed: bool) -> Result<(), CudaError> {
        if is_timed && self.clock.is_none() {
            self.clock = Some(Clock::new(context)?);
        }
        self.is_timed = is_timed;
        Ok(())
    }

    fn clock(&self) -> Option<&Clock> {
        self.clock.as_ref().filter(|_| self.is_timed)
    }

    /// Sends a batch' pixels and tables on their way; work that `streams.compute` gets next finds them. The embeddings go
    /// to an address of the GPU, the slot's own or another.
    pub(super) fn upload(
        &mut self,
        config: &EncoderConfig,
        tables: &BatchTables,
        (batch, embeddings): (&Batch, u64),
        descriptor: &DeviceMemory,
        streams: &Streams,
    ) -> Result<(), CudaError> {
        assert!(self.in_flight.is_none(), "a slot was given a batch before the last one was taken from it");
        if std::mem::take(&mut self.is_passing) {
            self.computed.synchronize()?;
        }
        if let Some(clock) = self.clock() {
            clock.upload[0].record(&streams.upload)?;
        }
        let mut offset = 0;
        for (image, pixels) in batch.shape.images.iter().zip(&batch.pixels) {
            let read = &pixels[..image.num_input_tiles() * config.tile_len()];
            for piece in bytemuck::cast_slice::<f32, u8>(read).chunks(PIECE_BYTES) {
                let range = offset..offset + piece.len();
                self.pinned_pixels.bytes_mut()[range.clone()].copy_from_slice(piece);
                // SAFETY: these pinned bytes are written again only for the next batch, which comes after this one's
                // results were waited for; memory is dropped only once the GPU is idle.
                unsafe { self.pinned_pixels.upload(range, &self.pixels, offset, &streams.upload) }?;
                offset += piece.len();
            }
        }
        if let Some(clock) = self.clock() {
            clock.upload[1].record(&streams.upload)?;
        }
        self.uploaded.record(&streams.upload)?;
        let places = Places { embeddings, ..self.places() };
        if self.describes(tables.capacity(), &batch.shape) {
            places.write(self.pinned_tables.bytes_mut());
        } else {
            self.described = None;
            tables.write(config, &batch.shape, &places, self.pinned_tables.bytes_mut());
            self.described = Some((*tables.capacity(), batch.shape.clone()));
        }
        // The descriptor has one place, which the batch before may still read: the compute stream keeps their order.
        // SAFETY: as above.
        unsafe { self.pinned_tables.upload(0..tables.bytes, descriptor, 0, &streams.compute) }?;
        streams.compute.wait(&self.uploaded)?;
        self.clock().map_or(Ok(()), |clock| clock.compute[0].record(&streams.compute))
    }

    /// Where the slot's own batches have their pixels and embeddings.
    pub(super) fn places(&self) -> Places {
        Places {
            pixels: self.pixels.address(),
            pixels_dtype: Dtype::F32,
            image_tiles: None,
            embeddings: self.embeddings.address(),
        }
    }

    /// Whether the tables that were written last are those of this batch.
    fn describes(&self, capacity: &Capacity, shape: &BatchShape) -> bool {
        self.described
            .as_ref()
            .is_some_and(|(described, shape_described)| described == capacity && shape_described == shape)
    }

    /// Sends the results back, `len` elements, once what `streams.compute` was given is done.
    pub(super) fn download(&mut self, len: usize, dtype: Dtype, streams: &Streams) -> Result<(), CudaError> {
        if let Some(clock) = self.clock() {
            clock.compute[1].record(&streams.compute)?;
        }
        self.computed.record(&streams.compute)?;
        streams.download.wait(&self.computed)?;
        // SAFETY: the pinned bytes are read only after `downloaded`, which is recorded behind this copy, and the memory
        // is dropped only once the GPU is idle.
        unsafe { self.pinned_embeddings.download(&self.embeddings, 0, len * dtype.size(), &streams.download) }?;
        if let Some(clock) = self.clock() {
            clock.downloaded.record(&streams.download)?;
        }
        self.downloaded.record(&streams.download)?;
        self.in_flight = Some(len);
        Ok(())
    }

    /// Nobody will ask the slot for its batch, whose embeddings go elsewhere; the slot's next batch waits for it.
    pub(super) fn pass(&mut self, streams: &Streams) -> Result<(), CudaError> {
        self.is_passing = true;
        self.computed.record(&streams.compute)
    }

    /// Waits for the results and hands their bytes over, with the times if the batch was timed; none where no batch is in
    /// flight.
    pub(super) fn finish(&mut self, dtype: Dtype) -> Result<Option<(&[u8], Timing)>, CudaError> {
        let Some(len) = self.in_flight else { return Ok(None) };
        self.downloaded.synchronize()?;
        let times = self.clock().map_or(Ok(NO_TIME), Clock::read)?;
        self.in_flight = None;
        Ok(Some((&self.pinned_embeddings.bytes()[..len * dtype.size()], times)))
    }

    /// What the compute stream reaches when it has done the batch in flight.
    pub(super) fn computed(&self) -> &Arc<Event> {
        &self.computed
    }

    /// Whether no batch is in flight.
    pub(super) fn is_free(&self) -> bool {
        self.in_flight.is_none()
    }

    /// Forgets a batch in flight, after a failure; the GPU is idle.
    pub(super) fn abandon(&mut self) {
        self.in_flight = None;
        self.is_passing = false;
        self.described = None;
    }
}
