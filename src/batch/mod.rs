//! Many callers, one encoder: requests wait in a bounded queue, and a thread that owns the encoder takes as many of them
//! at once as its budget of tiles allows.
//!
//! [`Queue`] is the state machine alone, without threads or a clock. [`Batcher`] is the queue with an encoder's thread
//! around it; a [`Place`] is one request's stay in it, and ends when it is dropped.

mod batcher;
mod compute;
mod queue;
mod shared;

pub use batcher::{Batcher, Failure, Place, Reply};
pub use compute::{Compute, Inputs};
pub use queue::{Limits, Next, Phase, Queue, Refusal, Taken, Ticket};
