//! Batches in the order of a caller's stream, whose embeddings, and as a rule pixels, lie in the caller's memory.
//!
//! The compute stream waits for what the caller's stream was given before the call, and what that is given later waits for
//! the compute stream: calls on one encoder come one after another on the GPU, and the host waits for nothing, as long as
//! it is no more than [`CALLS_AHEAD`] batches ahead.

use std::ffi::c_void;
use std::sync::Arc;

use super::backend::CudaBackend;
use super::batch::{BatchTables, Places};
use super::driver::{Context, DeviceMemory, Event, ForeignStream, PinnedMemory, Stream};
use super::replica::Replica;
use crate::config::EncoderConfig;
use crate::error::{CudaError, Error};
use crate::plan::{Batch, BatchShape, Capacity};

/// Batches of device pixels that are on their way at once. Each keeps its descriptor in pinned memory until the GPU has
/// fetched it: half a megabyte for eight tiles of the published model.
pub(super) const CALLS_AHEAD: usize = 8;

/// Where a call's work goes, and in which order.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Order {
    pub(crate) stream: ForeignStream,
    /// An event to record behind it; null for none.
    pub(crate) done: *mut c_void,
}

/// A batch whose pixels the caller has on the GPU.
#[derive(Debug)]
pub(crate) struct Enqueued {
    pub(crate) shape: BatchShape,
    pub(crate) places: Places,
}

/// Descriptors on their way to the GPU.
#[derive(Debug)]
pub(super) struct Ring {
    entries: Vec<Entry>,
    next: usize,
    /// The caller's stream, where the compute stream may begin.
    entered: Event,
    /// The compute stream, where the caller's may go on.
    left: Event,
}

#[derive(Debug)]
struct Entry {
    tables: PinnedMemory,
    /// The GPU has the tables.
    fetched: Event,
    /// What they describe, but for places: the same again needs no new tables.
    described: Option<(Capacity, BatchShape, Option<usize>)>,
}

impl Ring {
    /// Room for tables of so many bytes.
    pub(super) fn new(context: &Arc<Context>, bytes: usize) -> Result<Self, CudaError> {
        let entry = || {
            let tables = PinnedMemory::new(context, bytes)?;
            Ok::<_, CudaError>(Entry { tables, fetched: Event::new(context)?, described: None })
        };
        let entries = (0..CALLS_AHEAD).map(|_| entry()).collect::<Result<_, _>>()?;
        Ok(Self { entries, next: 0, entered: Event::new(context)?, left: Event::new(context)? })
    }

    /// Sends a batch' descriptor to `descriptor`, behind what `stream` was given.
    pub(super) fn describe(
        &mut self,
        config: &EncoderConfig,
        tables: &BatchTables,
        batch: &Enqueued,
        descriptor: &DeviceMemory,
        stream: &Stream,
    ) -> Result<(), CudaError> {
        let next = self.next;
        self.next = (next + 1) % self.entries.len();
        let Entry { tables: pinned, fetched, described } = &mut self.entries[next];
        fetched.synchronize()?;
        let (shape, image_tiles) = (&batch.shape, batch.places.image_tiles);
        let known = described.as_ref().is_some_and(|(of, described, tiles)| {
            of == tables.capacity() && described == shape && *tiles == image_tiles
        });
        if known {
            batch.places.write(pinned.bytes_mut());
        } else {
            *described = None;
            tables.write(config, shape, &batch.places, pinned.bytes_mut());
            *described = Some((*tables.capacity(), shape.clone(), image_tiles));
        }
        // SAFETY: these bytes are written again only after `fetched`, which is recorded behind the copy; memory is dropped
        // only once the GPU is idle.
        #[expect(unsafe_code, reason = "a copy from pinned memory goes on after the call")]
        unsafe { pinned.upload(0..tables.bytes, descriptor, 0, stream) }?;
        fetched.record(stream)
    }

    /// The compute stream follows the caller's.
    pub(super) fn enter(&self, order: &Order, compute: &Stream) -> Result<(), Error> {
        compute.follow(&order.stream, &self.entered)
    }

    /// The caller's stream follows the compute stream.
    pub(super) fn leave(&self, order: &Order, compute: &Stream) -> Result<(), Error> {
        self.left.record(compute)?;
        order.stream.wait(&self.left)?;
        if !order.done.is_null() {
            // SAFETY: the event is the caller's, who has promised that it lives.
            #[expect(unsafe_code, reason = "an event of the caller's")]
            unsafe { order.stream.record_foreign(order.done) }?;
        }
        Ok(())
    }
}

impl CudaBackend {
    /// The context of GPU number `device` of this backend's.
    pub(crate) fn context(&self, device: usize) -> &Arc<Context> {
        self.replicas[device].context()
    }

    /// Enqueues batches whose pixels are on GPU number `device` of this backend's.
    ///
    /// # Errors
    /// [`CudaError`]. After one, none of the batches is under way, and the caller's stream waits for nothing of ours.
    pub(crate) fn enqueue(&mut self, device: usize, batches: &[Enqueued], order: &Order) -> Result<(), Error> {
        if !batches.iter().all(|batch| self.replicas[device].has_room_for(&batch.shape)) {
            self.land(device);
        }
        self.replicas[device].enqueue(batches, order)
    }

    /// Enqueues batches whose pixels are the host's, which are copied before this returns; each one's embeddings go to an
    /// address of the GPU.
    ///
    /// # Errors
    /// Likewise.
    pub(crate) fn enqueue_from_host(
        &mut self,
        device: usize,
        batches: &[(Batch, u64)],
        order: &Order,
    ) -> Result<(), Error> {
        if !batches.iter().all(|(batch, _)| self.replicas[device].has_room_for(&batch.shape)) {
            self.land(device);
        }
        let slots = self.free_slots(device);
        self.replicas[device].enqueue_from_host(&slots, batches, order)
    }
}

impl Replica {
    fn enqueue(&mut self, batches: &[Enqueued], order: &Order) -> Result<(), Error> {
        self.require_usable()?;
        let result = self.pass(batches.iter().map(|batch| &batch.shape), order, |replica, recorded, index| {
            replica.compute_there(recorded, &batches[index])
        });
        self.note(result)
    }

    fn enqueue_from_host(&mut self, slots: &[usize], batches: &[(Batch, u64)], order: &Order) -> Result<(), Error> {
        self.require_usable()?;
        let shapes = batches.iter().map(|(batch, _)| &batch.shape);
        let result = self.pass(shapes, order, |replica, recorded, index| {
            let (batch, embeddings) = &batches[index];
            replica.compute_by(slots[index % slots.len()], recorded, batch, *embeddings)
        });
        self.note(result)
    }
}
