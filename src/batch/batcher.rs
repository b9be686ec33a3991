//! The queue with an encoder's thread around it.

use std::ops::{Deref, Range};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::compute::{Compute, Inputs};
use super::queue::{Limits, Phase, Queue, Refusal, Taken, Ticket};
use super::shared::{Shared, Turn};
use crate::error::Error;

/// One request's embeddings, `[rows, E]` in f32: its part of what its batch gave, which lives as long as any of them.
#[derive(Debug, Clone)]
pub struct Reply {
    batch: Arc<Vec<f32>>,
    part: Range<usize>,
    /// Between submission and the batch it was in.
    pub queued: Duration,
    /// That batch' time in the encoder.
    pub encoded: Duration,
    /// Requests that were computed together.
    pub batch_requests: usize,
    /// Whether it was the first of them: each batch has one.
    pub is_first: bool,
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

type Answer = Box<dyn FnOnce(Result<Reply, Failure>) + Send>;

struct Job {
    inputs: Inputs,
    answer: Answer,
}

/// An encoder that many threads share. Stops its thread when it is dropped, after the batch that is under way.
pub struct Batcher {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Shared<Job>,
    /// When the batch that is being computed began.
    computing_since: Mutex<Option<Instant>>,
    lost: OnceLock<String>,
}

impl Batcher {
    /// Gives the encoder a thread of its own. It encodes `first` before any request is let in: what cannot do that is
    /// lost from the start.
    ///
    /// # Errors
    /// [`Error::Threads`].
    pub fn start(encoder: impl Compute, limits: Limits, first: Inputs) -> Result<Self, Error> {
        let shared = Shared::new(Queue::new(limits));
        let inner = Arc::new(Inner { shared, computing_since: Mutex::new(None), lost: OnceLock::new() });
        let thread = std::thread::Builder::new().name("encoder".to_string());
        let run = {
            let inner = inner.clone();
            move || inner.run(encoder, first)
        };
        thread.spawn(run).map_err(|e| Error::Threads { threads: 1, reason: e.to_string() })?;
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

    /// How long the batch that is being computed has taken so far.
    pub fn computing_for(&self) -> Option<Duration> {
        self.inner.computing().map(|since| since.elapsed())
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
    fn run(&self, mut encoder: impl Compute, first: Inputs) {
        match self.encode(&mut encoder, &[first]) {
            Ok(_) => self.shared.change(Queue::open),
            Err(Failure::Lost { reason }) => return self.lose(&reason),
            Err(failure) => return self.lose(&failure.to_string()),
        }
        loop {
            match self.shared.turn(Instant::now) {
                Turn::Batch(batch) => self.compute(&mut encoder, batch),
                Turn::Expired(expired) => self.refuse(expired, || Failure::Expired),
                Turn::Finished => return,
            }
        }
    }

    fn compute(&self, encoder: &mut impl Compute, batch: Vec<Taken<Job>>) {
        let begin = Instant::now();
        let (mut inputs, mut rest) = (Vec::with_capacity(batch.len()), Vec::with_capacity(batch.len()));
        for Taken { ticket, work: Job { inputs: input, answer }, since } in batch {
            inputs.push(input);
            rest.push((ticket, answer, begin.saturating_duration_since(since)));
        }
        match self.encode(encoder, &inputs) {
            Ok(embeddings) => {
                let (encoded, batch_requests, mut start) = (begin.elapsed(), rest.len(), 0);
                let batch = Arc::new(embeddings);
                for (input, (ticket, answer, queued)) in inputs.iter().zip(rest) {
                    let end = start + input.num_output_tiles() * encoder.tile_embeddings_len();
                    let (part, is_first) = (start..end, start == 0);
                    let reply = Reply { batch: batch.clone(), part, queued, encoded, batch_requests, is_first };
                    start = end;
                    self.answer(ticket, answer, Ok(reply));
                }
            }
            // The fault is one request's: each alone, it meets nobody else.
            Err(Failure::Failed(_)) if inputs.len() > 1 => {
                for (input, (ticket, answer, queued)) in inputs.into_iter().zip(rest) {
                    let (work, since) = (Job { inputs: input, answer }, begin - queued);
                    if self.lost.get().is_some() {
                        self.refuse(vec![Taken { ticket, work, since }], || self.loss());
                    } else {
                        self.compute(encoder, vec![Taken { ticket, work, since }]);
                    }
                }
            }
            Err(Failure::Lost { reason }) => {
                self.lose(&reason);
                for (ticket, answer, _) in rest {
                    self.answer(ticket, answer, Err(self.loss()));
                }
            }
            Err(failure) => {
                if let Some((ticket, answer, _)) = rest.pop() {
                    self.answer(ticket, answer, Err(failure));
                }
            }
        }
    }

    /// Runs the encoder. Its loss is told from a refusal.
    fn encode(&self, encoder: &mut impl Compute, inputs: &[Inputs]) -> Result<Vec<f32>, Failure> {
        *self.computing_since.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        let result = catch_unwind(AssertUnwindSafe(|| encoder.encode(inputs)));
        *self.computing_since.lock().unwrap_or_else(PoisonError::into_inner) = None;
        match result {
            Ok(Err(Error::Cuda(error))) if error.is_fatal() => Err(Failure::Lost { reason: error.to_string() }),
            Ok(result) => Ok(result?),
            Err(_) => Err(Failure::Lost { reason: "the encoder's thread panicked".to_string() }),
        }
    }

    fn computing(&self) -> Option<Instant> {
        *self.computing_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, ticket: Ticket, answer: Answer, result: Result<Reply, Failure>) {
        self.shared.change(|queue| queue.finish(ticket));
        answer(result);
    }

    fn refuse(&self, taken: Vec<Taken<Job>>, failure: impl Fn() -> Failure) {
        for Taken { ticket, work, .. } in taken {
            self.answer(ticket, work.answer, Err(failure()));
        }
    }

    fn lose(&self, reason: &str) {
        self.lost.get_or_init(|| reason.to_string());
        let waiting = self.shared.change(Queue::stop);
        self.refuse(waiting, || self.loss());
    }

    fn loss(&self) -> Failure {
        let reason = self.lost.get().cloned().unwrap_or_else(|| "it was shut down".to_string());
        Failure::Lost { reason }
    }
}
