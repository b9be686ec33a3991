//! What comes out of a queue.

use std::time::Instant;

/// A request's number; older requests have lower ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub(super) u64);

/// What the encoder's thread does next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next<W> {
    /// Give these to a device together, oldest first.
    Batch {
        /// The device.
        device: usize,
        /// Whether it computes another batch still: this one was taken because it is full.
        ahead: bool,
        /// The requests.
        requests: Vec<Taken<W>>,
    },
    /// Collect the results of the oldest batch of this device, which makes room for another.
    Collect {
        /// The device.
        device: usize,
    },
    /// Wait for a change, and no longer than this.
    WaitUntil(Instant),
    /// Wait for a change.
    Wait,
    /// Nothing will come any more.
    Finished,
}

/// A request on its way out of the queue.
#[derive(Debug, PartialEq, Eq)]
pub struct Taken<W> {
    /// Its number.
    pub ticket: Ticket,
    /// Its tiles, as they count in a batch.
    pub tiles: usize,
    /// What was submitted.
    pub work: W,
    /// When that was.
    pub since: Instant,
}
