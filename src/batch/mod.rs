//! Many callers, one encoder: requests wait in a bounded queue, and a thread that owns the encoder takes as many of them
//! at once as its budget of tiles allows.
//!
//! While a device computes one batch, the next is made ready there as soon as it is full, and answers leave.
//!
//! [`Queue`] is the state machine alone, without threads or a clock. [`Batcher`] is the queue with an encoder's thread
//! around it; a [`Place`] is one request's stay in it, and ends when it is dropped.

mod batcher;
mod compute;
mod queue;
mod reply;
mod shared;
mod state;
mod worker;

pub use batcher::{Batcher, Occupancy, Place};
pub use compute::{Compute, Inputs, Wait};
pub use queue::{Devices, Limits, Next, Phase, Queue, Refusal, Taken, Ticket};
pub use reply::{Failure, Reply, Report};
