//! The queue as its callers meet it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::compute::{Compute, Inputs};
use super::queue::{Limits, Phase, Queue, Refusal, Ticket};
use super::reply::{Failure, Reply, Report};
use super::state::{Job, State};
use super::worker;
use crate::error::Error;

/// An encoder that many threads share. Stops its thread when it is dropped, after the batch that is under way.
pub struct Batcher {
    state: Arc<State>,
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
        let state = Arc::new(State::new(limits, encoder.devices()));
        worker::spawn(&state, encoder, first, Box::new(observe))?;
        Ok(Self { state })
    }

    /// Lets a request in, before anything of it is read.
    ///
    /// # Errors
    /// [`Refusal::Full`], [`Refusal::Closed`].
    pub fn admit(&self, deadline: Instant) -> Result<Place, Refusal> {
        let ticket = self.state.shared.with(|queue| queue.admit(deadline))?;
        Ok(Place { state: self.state.clone(), ticket })
    }

    /// Whether requests are taken.
    pub fn phase(&self) -> Phase {
        self.state.shared.with(|queue| queue.phase())
    }

    /// Requests that are there, and the bytes they hold.
    pub fn load(&self) -> (usize, u64) {
        self.state.shared.with(|queue| (queue.num_requests(), queue.bytes()))
    }

    /// Why nothing is computed any more, once that is so.
    pub fn lost(&self) -> Option<&str> {
        self.state.lost()
    }

    /// How long the batch that has been computing for the longest has taken so far. A batch that is behind another begins
    /// when that has ended.
    pub fn computing_for(&self) -> Option<Duration> {
        self.state.computing_since().iter().flatten().min().map(Instant::elapsed)
    }

    /// Takes no more requests, and finishes those that are there.
    pub fn drain(&self) {
        self.state.shared.change(Queue::drain);
    }

    /// Declares the encoder lost: requests that wait are answered so, and nothing more is computed.
    pub fn lose(&self, reason: &str) {
        self.state.lose(reason);
    }
}

impl Drop for Batcher {
    fn drop(&mut self) {
        let waiting = self.state.shared.change(Queue::stop);
        self.state.refuse(waiting, || self.state.loss());
    }
}

/// A request's stay: from before its first byte until it is dropped, after its answer has left or its client has.
pub struct Place {
    state: Arc<State>,
    ticket: Ticket,
}

impl Place {
    /// Reserves so many more bytes, before they are allocated.
    ///
    /// # Errors
    /// [`Refusal::TooLarge`], [`Refusal::Full`].
    pub fn hold(&self, bytes: u64) -> Result<(), Refusal> {
        self.state.shared.with(|queue| queue.hold(self.ticket, bytes))
    }

    /// Hands over what is to be encoded; `tiles` of it count in a batch. `answer` is called once, on the encoder's
    /// thread, or never if the place is dropped before.
    pub fn submit(&self, tiles: usize, inputs: Inputs, answer: impl FnOnce(Result<Reply, Failure>) + Send + 'static) {
        let job = Job { inputs, answer: Box::new(answer) };
        let refused = self.state.shared.change(|queue| queue.submit(self.ticket, tiles, job, Instant::now()));
        if let Err(job) = refused {
            (job.answer)(Err(self.state.loss()));
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.state.shared.change(|queue| queue.release(self.ticket));
    }
}
