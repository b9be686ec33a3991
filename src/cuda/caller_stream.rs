//! Batches in the order of a caller's stream, whose embeddings, and as a rule pixels, lie in the caller's memory.
//!
//! The compute stream waits for what the caller's stream was given before the call, and what that is given later waits for
//! the compute stream: calls on one encoder come one after another on the GPU, and the host waits for nothing, as long as
//! it is no more than [`CALLS_AHEAD`] batches ahead.

use std::ffi::c_void;
use std::sync::Arc;

use super::batch::{BatchTables, Places};
use super::driver::{Context, DeviceMemory, Event, ForeignStream, PinnedMemory, Stream};
use crate::config::EncoderConfig;
use crate::error::{CudaError, Error};
use crate::plan::{BatchShape, Capacity};

/// Batches of device pixels that are on their way at once. Each keeps its descriptor in pinned memory until the GPU has
/// fetched it: half a megabyte for eight tiles of the published model.
const CALLS_AHEAD: usize = 8;

/// The caller's stream, which a call's work is put in order with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CallerStream {
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
pub(super) struct DescriptorPool {
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

impl DescriptorPool {
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
    pub(super) fn enter(&self, caller: &CallerStream, compute: &Stream) -> Result<(), Error> {
        compute.follow(&caller.stream, &self.entered)
    }

    /// The caller's stream follows the compute stream.
    pub(super) fn leave(&self, caller: &CallerStream, compute: &Stream) -> Result<(), Error> {
        self.left.record(compute)?;
        caller.stream.wait(&self.left)?;
        if !caller.done.is_null() {
            // SAFETY: the event is the caller's, who has promised that it lives.
            #[expect(unsafe_code, reason = "an event of the caller's")]
            unsafe { caller.stream.record_foreign(caller.done) }?;
        }
        Ok(())
    }
}
