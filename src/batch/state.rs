//! The state that callers share with the encoder's thread.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::compute::Inputs;
use super::queue::{Devices, Limits, Queue, Taken, Ticket};
use super::reply::{Failure, Reply};
use super::shared::Shared;

pub(super) type Answer = Box<dyn FnOnce(Result<Reply, Failure>) + Send>;

pub(super) struct Job {
    pub(super) inputs: Inputs,
    pub(super) answer: Answer,
}

/// The queue, and what is known of the encoder's thread.
pub(super) struct State {
    pub(super) shared: Shared<Job>,
    /// What each device computes.
    computing: Mutex<Vec<Option<Computing>>>,
    lost: OnceLock<String>,
}

/// The oldest of a device's submissions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Computing {
    /// When the device turned to it.
    pub(super) since: Instant,
    /// Batches of the device that it is at most.
    pub(super) batches: u32,
}

impl Computing {
    pub(super) fn new(tiles: usize, batch_tiles: usize) -> Self {
        // Two batches one after the other have more tiles together than one has room for.
        let batches = (2 * tiles.div_ceil(batch_tiles.max(1))).saturating_sub(1).max(1);
        Self { since: Instant::now(), batches: batches.try_into().unwrap_or(u32::MAX) }
    }

    pub(super) fn time_per_batch(&self) -> Duration {
        self.since.elapsed() / self.batches
    }
}

impl State {
    pub(super) fn new(limits: Limits, devices: Devices) -> Self {
        let computing = Mutex::new(vec![None; devices.count]);
        Self { shared: Shared::new(Queue::new(limits, devices)), computing, lost: OnceLock::new() }
    }

    /// Why nothing is computed any more, once that is so.
    pub(super) fn lost(&self) -> Option<&str> {
        self.lost.get().map(String::as_str)
    }

    pub(super) fn computing(&self) -> MutexGuard<'_, Vec<Option<Computing>>> {
        self.computing.lock().unwrap_or_else(PoisonError::into_inner)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_of_many_batches_has_the_time_of_each() {
        // 16 tiles are one batch; 17 may be two, and images that leave room unused make them more.
        for (tiles, batches) in [(0, 1), (1, 1), (16, 1), (17, 3), (200, 25)] {
            assert_eq!(Computing::new(tiles, 16).batches, batches, "{tiles} tiles");
        }
        let computing = Computing { since: Instant::now() - Duration::from_secs(50), batches: 25 };
        assert!((2.0..3.0).contains(&computing.time_per_batch().as_secs_f64()));
    }
}
