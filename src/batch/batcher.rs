//! The queue as its callers meet it.

use std::ops::{Deref, Range};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::compute::{Compute, Inputs};
use super::queue::{Limits, Phase, Queue, Refusal, Taken, Ticket};
use super::shared::Shared;
use super::worker;
use crate::encoder::Timing;
use crate::error::Error;

/// One request's embeddings, `[rows, E]` in f32: its part of what its batch gave, which lives as long as any of them.
#[derive(Debug, Clone)]
pub struct Reply {
    pub(super) batch: Arc<Vec<f32>>,
    pub(super) part: Range<usize>,
    /// Between submission and the batch it was in.
    pub queued: Duration,
    /// That batch' time in the encoder, behind the batch before included.
    pub encoded: Duration,
    /// Where that time went; what is missing was spent waiting.
    pub timing: Timing,
    /// Requests that were computed together; none where it was known already.
    pub batch_requests: usize,
}

/// A batch that was computed.
#[derive(Debug, Clone, Copy)]
pub struct Report {
    /// Requests that were computed together.
    pub requests: usize,
    /// Their tiles, as they count in a batch.
    pub tiles: usize,
    /// Tiles whose embeddings came out.
    pub output_tiles: usize,
    /// Whether the batch was given to its device while that computed another.
    pub ahead: bool,
    /// Where its time went.
    pub timing: Timing,
}

impl Reply {
    /// Embeddings that are known already: nobody waited for them, and no batch gave them.
    pub fn known(embeddings: Vec<f32>) -> Self {
        let part = 0..embeddings.len();
        let (queued, encoded) = (Duration::ZERO, Duration::ZERO);
        let timing = Timing::Host { compute: Duration::ZERO };
        Self { batch: Arc::new(embeddings), part, queued, encoded, timing, batch_requests: 0 }
    }
}

impl Deref for Reply {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.batch[self.part.clone()]
    }
}

impl AsRef<[u8]> for Reply {
    /// The values in memory.
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(self)
    }
}

/// Why there are no embeddings.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The deadline came while the request waited.
    #[error("the deadline came before the request's turn")]
    Expired,
    /// The encoder is lost to this process.
    #[error("the encoder has stopped: {reason}")]
    Lost {
        /// The first failure.
        reason: String,
    },
    /// The encoder refused this request; others are not affected.
    #[error(transparent)]
    Failed(#[from] Error),
}

pub(super) type Answer = Box<dyn FnOnce(Result<Reply, Failure>) + Send>;

pub(super) struct Job {
    pub(super) inputs: Inputs,
    pub(super) answer: Answer,
}

/// An encoder that many threads share. Stops its thread when it is dropped, after the batch that is under way.
pub struct Batcher {
    inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) shared: Shared<Job>,
    /// For each device that has a batch, when it turned to its oldest.
    computing_since: Mutex<Vec<Option<Instant>>>,
    lost: OnceLock<String>,
}

impl Batcher {
    /// Gives the encoder a thread of its own. It encodes `first` on each device before any request is let in: what cannot
    /// do that is lost from the start.
    ///
    /// # Errors
    /// [`Error::Threads`].
    pub fn start(encoder: impl Compute, limits: Limits, first: Inputs) -> Result<Self, Error> {
        Self::observed(encoder, limits, first, |_| {})
    }

    /// [`start`](Self::start), and has `observe` called for each batch that was computed, on the encoder's thread.
    ///
    /// # Errors
    /// Likewise.
    pub fn observed(
        encoder: impl Compute,
        limits: Limits,
        first: Inputs,
        observe: impl FnMut(&Report) + Send + 'static,
    ) -> Result<Self, Error> {
        let devices = encoder.devices();
        let shared = Shared::new(Queue::new(limits, devices));
        let computing_since = Mutex::new(vec![None; devices.count]);
        let inner = Arc::new(Inner { shared, computing_since, lost: OnceLock::new() });
        worker::spawn(&inner, encoder, first, Box::new(observe))?;
        Ok(Self { inner })
    }

    /// Lets a request in, before anything of it is read.
    ///
    /// # Errors
    /// [`Refusal::Full`], [`Refusal::Closed`].
    pub fn admit(&self, deadline: Instant) -> Result<Place, Refusal> {
        let ticket = self.inner.shared.with(|queue| queue.admit(deadline))?;
        Ok(Place { inner: self.inner.clone(), ticket })
    }

    /// Whether requests are taken.
    pub fn phase(&self) -> Phase {
        self.inner.shared.with(|queue| queue.phase())
    }

    /// Requests that are there, and the bytes they hold.
    pub fn load(&self) -> (usize, u64) {
        self.inner.shared.with(|queue| (queue.num_requests(), queue.bytes()))
    }

    /// Why nothing is computed any more, once that is so.
    pub fn lost(&self) -> Option<&str> {
        self.inner.lost.get().map(String::as_str)
    }

    /// How long the batch that has been computing for the longest has taken so far. A batch that is behind another begins
    /// when that has ended.
    pub fn computing_for(&self) -> Option<Duration> {
        self.inner.computing_since().iter().flatten().min().map(Instant::elapsed)
    }

    /// Takes no more requests, and finishes those that are there.
    pub fn drain(&self) {
        self.inner.shared.change(Queue::drain);
    }

    /// Declares the encoder lost: requests that wait are answered so, and nothing more is computed.
    pub fn lose(&self, reason: &str) {
        self.inner.lose(reason);
    }
}

impl Drop for Batcher {
    fn drop(&mut self) {
        let waiting = self.inner.shared.change(Queue::stop);
        self.inner.refuse(waiting, || self.inner.loss());
    }
}

/// A request's stay: from before its first byte until it is dropped, after its answer has left or its client has.
pub struct Place {
    inner: Arc<Inner>,
    ticket: Ticket,
}

impl Place {
    /// Reserves so many more bytes, before they are allocated.
    ///
    /// # Errors
    /// [`Refusal::TooLarge`], [`Refusal::Full`].
    pub fn hold(&self, bytes: u64) -> Result<(), Refusal> {
        self.inner.shared.with(|queue| queue.hold(self.ticket, bytes))
    }

    /// Hands over what is to be encoded; `tiles` of it count in a batch. `answer` is called once, on the encoder's
    /// thread, or never if the place is dropped before.
    pub fn submit(&self, tiles: usize, inputs: Inputs, answer: impl FnOnce(Result<Reply, Failure>) + Send + 'static) {
        let job = Job { inputs, answer: Box::new(answer) };
        let refused = self.inner.shared.change(|queue| queue.submit(self.ticket, tiles, job, Instant::now()));
        if let Err(job) = refused {
            (job.answer)(Err(self.inner.loss()));
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.inner.shared.change(|queue| queue.release(self.ticket));
    }
}

impl Inner {
    pub(super) fn computing_since(&self) -> MutexGuard<'_, Vec<Option<Instant>>> {
        self.computing_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn answer(&self, ticket: Ticket, answer: Answer, result: Result<Reply, Failure>) {
        self.shared.change(|queue| queue.finish(ticket));
        answer(result);
    }

    pub(super) fn refuse(&self, taken: Vec<Taken<Job>>, failure: impl Fn() -> Failure) {
        for Taken { ticket, work, .. } in taken {
            self.answer(ticket, work.answer, Err(failure()));
        }
    }

    pub(super) fn lose(&self, reason: &str) {
        self.lost.get_or_init(|| reason.to_string());
        let waiting = self.shared.change(Queue::stop);
        self.refuse(waiting, || self.loss());
    }

    pub(super) fn is_lost(&self) -> bool {
        self.lost.get().is_some()
    }

    pub(super) fn loss(&self) -> Failure {
        let reason = self.lost.get().cloned().unwrap_or_else(|| "it was shut down".to_string());
        Failure::Lost { reason }
    }
}
