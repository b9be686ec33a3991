//! The queue as its callers meet it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::compute::{Compute, Inputs};
use super::queue::{Limits, Phase, Queue, Refusal, Ticket};
use super::reply::{Failure, Reply, Report};
use super::state::{Computing, Job, State};
use super::worker;
use crate::error::Error;

/// An encoder that many threads share. Stops its thread when it is dropped, after the batch that is under way.
pub struct Batcher {
    state: Arc<State>,
}

/// The requests of a [`Batcher`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Occupancy {
    /// Those whose bodies are on their way.
    pub announced: usize,
    /// Those that were admitted.
    pub admitted: usize,
    /// Bytes that all of them hold.
    pub bytes: u64,
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

    /// Lets a request in whose inputs are there.
    ///
    /// # Errors
    /// [`Refusal::Full`], [`Refusal::Overloaded`], [`Refusal::Closed`].
    pub fn admit(&self, deadline: Instant) -> Result<Place, Refusal> {
        let place = self.announce(deadline)?;
        place.admit()?;
        Ok(place)
    }

    /// Notes a request of which nothing but its head is there, and which [`Place::admit`] lets in later.
    ///
    /// # Errors
    /// Those of [`admit`](Self::admit).
    pub fn announce(&self, deadline: Instant) -> Result<Place, Refusal> {
        let ticket = self.state.shared.with(|queue| queue.announce(deadline, Instant::now()))?;
        Ok(Place { state: self.state.clone(), ticket })
    }

    /// Whether requests are taken.
    pub fn phase(&self) -> Phase {
        self.state.shared.with(|queue| queue.phase())
    }

    /// The requests that are there.
    pub fn occupancy(&self) -> Occupancy {
        self.state.shared.with(|queue| Occupancy {
            announced: queue.num_announced(),
            admitted: queue.num_requests(),
            bytes: queue.bytes(),
        })
    }

    /// Why nothing is computed any more, once that is so.
    pub fn lost(&self) -> Option<&str> {
        self.state.lost()
    }

    /// How long the device that has computed for the longest has done so, for each of the device's batches that it was
    /// given at once: a request with more tiles than a batch has is several. What is behind another begins when that has
    /// ended.
    pub fn computing_for(&self) -> Option<Duration> {
        self.state.computing().iter().flatten().map(Computing::time_per_batch).max()
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

/// A request's stay: from its head until it is dropped, after its answer has left or its client has.
pub struct Place {
    state: Arc<State>,
    ticket: Ticket,
}

impl Place {
    /// Lets the request in, whose body is there.
    ///
    /// # Errors
    /// [`Refusal::Full`], [`Refusal::Overloaded`], [`Refusal::Closed`].
    pub fn admit(&self) -> Result<(), Refusal> {
        self.state.shared.with(|queue| queue.admit(self.ticket, Instant::now()))
    }

    /// Tells how long the request was worked on before it is submitted, from which others' waits are expected.
    pub fn observe_preparation(&self, time: Duration) {
        self.state.shared.with(|queue| queue.observe_preparation(time));
    }

    /// Tells that nothing will be submitted, for the answer is known: others do not wait for it.
    pub fn finish(&self) {
        self.state.shared.change(|queue| queue.finish(self.ticket));
    }

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
        if let Err(refused) = refused {
            let (job, refusal) = *refused;
            let failure = match refusal {
                Refusal::Closed { .. } => self.state.loss(),
                refusal => refusal.into(),
            };
            (job.answer)(Err(failure));
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.state.shared.change(|queue| queue.release(self.ticket));
    }
}
