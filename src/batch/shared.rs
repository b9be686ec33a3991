//! The queue between threads: callers change it, and the encoder's thread waits for its turn.
//!
//! Under test the lock is loom's, which tries every order of the threads.

use std::time::Instant;

#[cfg(test)]
use loom::sync::{Condvar, Mutex, MutexGuard};
#[cfg(not(test))]
use std::sync::{Condvar, Mutex, MutexGuard};

use super::queue::{Next, Queue, Taken};

/// A queue that threads share.
#[derive(Debug)]
pub(super) struct Shared<W> {
    queue: Mutex<Queue<W>>,
    changed: Condvar,
}

/// What the encoder's thread has to do.
#[derive(Debug)]
pub(super) enum Turn<W> {
    /// Compute these together.
    Batch(Vec<Taken<W>>),
    /// Tell these that their deadline has come.
    Expired(Vec<Taken<W>>),
    /// Go home.
    Finished,
}

impl<W> Shared<W> {
    pub(super) fn new(queue: Queue<W>) -> Self {
        Self { queue: Mutex::new(queue), changed: Condvar::new() }
    }

    /// Looks at the queue, or changes it in a way that nobody waits for.
    pub(super) fn with<T>(&self, look: impl FnOnce(&mut Queue<W>) -> T) -> T {
        look(&mut self.lock())
    }

    /// Changes the queue, and wakes the encoder's thread.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Queue<W>) -> T) -> T {
        let result = change(&mut self.lock());
        self.changed.notify_all();
        result
    }

    /// Waits until there is something to do.
    pub(super) fn turn(&self, now: impl Fn() -> Instant) -> Turn<W> {
        let mut queue = self.lock();
        loop {
            let expired = queue.expire(now());
            if !expired.is_empty() {
                return Turn::Expired(expired);
            }
            queue = match queue.next(now()) {
                Next::Batch(batch) => return Turn::Batch(batch),
                Next::Finished => return Turn::Finished,
                Next::Wait => self.changed.wait(queue).unwrap_or_else(|poisoned| poisoned.into_inner()),
                Next::WaitUntil(until) => {
                    let timeout = until.saturating_duration_since(now());
                    self.changed.wait_timeout(queue, timeout).unwrap_or_else(|poisoned| poisoned.into_inner()).0
                }
            };
        }
    }

    /// The queue's invariants hold between its calls, so a panic elsewhere leaves it sound.
    fn lock(&self) -> MutexGuard<'_, Queue<W>> {
        self.queue.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use loom::sync::Arc;
    use loom::thread;

    use super::super::queue::Limits;
    use super::*;

    fn shared(batch_tiles: usize) -> Arc<Shared<u32>> {
        let limits = Limits { max_requests: 8, max_bytes: 100, batch_tiles, max_delay: Duration::ZERO };
        let mut queue = Queue::new(limits);
        queue.open();
        Arc::new(Shared::new(queue))
    }

    /// Tries the orders of the threads with up to three switches away from one that could go on, which finds nearly all
    /// that any number would, in seconds.
    fn model(test: impl Fn() + Sync + Send + 'static) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(test);
    }

    /// Takes turns until there are none left; returns all work, in the order it was computed.
    fn compute(shared: &Shared<u32>, now: Instant) -> Vec<u32> {
        let mut computed = Vec::new();
        loop {
            match shared.turn(|| now) {
                Turn::Batch(batch) => {
                    for taken in &batch {
                        shared.change(|queue| queue.finish(taken.ticket));
                    }
                    computed.extend(batch.into_iter().map(|taken| taken.work));
                }
                Turn::Expired(expired) => panic!("nothing expires here: {expired:?}"),
                Turn::Finished => return computed,
            }
        }
    }

    #[test]
    fn whatever_the_order_all_that_is_submitted_is_computed_once() {
        model(|| {
            let (shared, now) = (shared(1), Instant::now());
            let tickets = [0, 1].map(|_| shared.change(|q| q.admit(now + Duration::from_secs(1))).unwrap());
            let device = thread::spawn({
                let shared = shared.clone();
                move || compute(&shared, now)
            });
            let caller = thread::spawn({
                let shared = shared.clone();
                move || {
                    shared.change(|q| q.submit(tickets[1], 1, 1, now)).unwrap();
                    shared.change(Queue::drain);
                }
            });
            shared.change(|q| q.submit(tickets[0], 1, 0, now)).unwrap();
            caller.join().unwrap();
            let mut computed = device.join().unwrap();
            computed.sort_unstable();
            assert_eq!(computed, [0, 1]);
        });
    }

    #[test]
    fn a_client_that_leaves_at_any_moment_gives_back_what_it_held() {
        model(|| {
            let (shared, now) = (shared(4), Instant::now());
            let ticket = shared.change(|q| q.admit(now + Duration::from_secs(1))).unwrap();
            shared.change(|q| q.hold(ticket, 60)).unwrap();
            shared.change(|q| q.submit(ticket, 1, 7, now)).unwrap();
            let device = thread::spawn({
                let shared = shared.clone();
                move || compute(&shared, now)
            });
            shared.change(|q| q.release(ticket));
            shared.change(Queue::drain);
            let computed = device.join().unwrap();
            assert!(computed.is_empty() || computed == [7]);
            assert_eq!(shared.with(|q| (q.num_requests(), q.bytes())), (0, 0));
        });
    }

    #[test]
    fn stopping_hands_back_what_the_device_has_not_taken() {
        model(|| {
            let (shared, now) = (shared(4), Instant::now());
            let ticket = shared.change(|q| q.admit(now + Duration::from_secs(1))).unwrap();
            shared.change(|q| q.submit(ticket, 1, 7, now)).unwrap();
            let device = thread::spawn({
                let shared = shared.clone();
                move || compute(&shared, now)
            });
            let back: Vec<u32> = shared.change(Queue::stop).into_iter().map(|taken| taken.work).collect();
            let computed = device.join().unwrap();
            assert_eq!([back, computed].concat(), [7]);
        });
    }
}
