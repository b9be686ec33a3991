//! What a queue takes, and why it takes no more.

use std::time::Duration;

/// What a queue holds at most, and what a batch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Requests between the last byte of their body and the last byte of their answer.
    pub max_requests: usize,
    /// Bytes that all requests hold together: bodies, pixels and embeddings.
    pub max_bytes: u64,
    /// Requests that are prepared (decoded and cut) at once.
    pub preparers: usize,
    /// Tiles of a batch. A request with more goes alone.
    pub batch_tiles: usize,
    /// How long a batch that is not full waits for more, from when its first request was ready.
    pub max_delay: Duration,
}

/// What computes: how many devices, and how many batches each can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Devices {
    /// Devices, at least one.
    pub count: usize,
    /// Batches that a device has at once, at least one: one that computes, and those that wait behind it or whose results
    /// wait to be collected.
    pub depth: usize,
}

impl Devices {
    /// One device that has one batch at a time.
    pub const ONE: Self = Self { count: 1, depth: 1 };
}

/// Whether requests are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The encoder has not encoded anything yet.
    Starting,
    /// Requests are taken and answered.
    Serving,
    /// No new requests; those that are there are answered.
    Draining,
    /// Nothing will be computed any more.
    Stopped,
}

/// Why a request is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// There is no room now; there will be.
    #[error("the server is full: {requests} requests hold {bytes} bytes; try again later")]
    Full {
        /// Requests that are there.
        requests: usize,
        /// Bytes they hold.
        bytes: u64,
    },
    /// It would not be answered in time.
    #[error(
        "the server is busy: the request would take about {} ms and has {} ms; try again later",
        expected.as_millis(),
        left.as_millis()
    )]
    Overloaded {
        /// How long it would take, its wait included.
        expected: Duration,
        /// How long it may take.
        left: Duration,
    },
    /// The request alone is beyond the limit.
    #[error("the request needs {bytes} bytes for its body, pixels and embeddings, the limit is {max_bytes}")]
    TooLarge {
        /// What it needs.
        bytes: u64,
        /// What all requests together may hold.
        max_bytes: u64,
    },
    /// No request is taken in this phase.
    #[error("{}", match phase {
        Phase::Starting => "the encoder is starting",
        Phase::Serving => "the request is not there any more",
        Phase::Draining => "the server is shutting down",
        Phase::Stopped => "the encoder has stopped",
    })]
    Closed {
        /// The phase.
        phase: Phase,
    },
}
