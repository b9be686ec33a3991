//! The queue between threads: callers and devices change it, and the encoder's thread waits for its turn.
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
    /// Give these to a device together.
    Batch { device: usize, ahead: bool, requests: Vec<Taken<W>> },
    /// Collect the results of this device's oldest batch.
    Collect { device: usize },
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
                Next::Batch { device, ahead, requests } => return Turn::Batch { device, ahead, requests },
                Next::Collect { device } => return Turn::Collect { device },
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
    use std::collections::VecDeque;
    use std::time::Duration;

    use loom::sync::{Arc, mpsc};
    use loom::thread;

    use super::super::queue::{Devices, Limits, Ticket};
    use super::*;

    fn shared(batch_tiles: usize, depth: usize) -> Arc<Shared<u32>> {
        let limits = Limits { max_requests: 8, max_bytes: 100, preparers: 1, batch_tiles, max_delay: Duration::ZERO };
        let mut queue = Queue::new(limits, Devices { count: 1, depth });
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

    /// Takes turns until there are none left; returns all work, in the order it was collected. A batch is computed by
    /// whoever `give` gives it to.
    fn turns(shared: &Shared<u32>, now: Instant, mut give: impl FnMut(usize)) -> Vec<u32> {
        let (mut given, mut collected) = (VecDeque::<Vec<Taken<u32>>>::new(), Vec::new());
        loop {
            match shared.turn(|| now) {
                Turn::Batch { device, ahead, requests } => {
                    assert!(!ahead || !given.is_empty(), "nothing computes that it could be ahead of");
                    given.push_back(requests);
                    give(device);
                }
                Turn::Collect { .. } => {
                    let batch = given.pop_front().expect("a batch that was never given");
                    let finish = |taken: &Taken<u32>| shared.change(|queue| queue.finish(taken.ticket));
                    batch.iter().for_each(finish);
                    collected.extend(batch.into_iter().map(|taken| taken.work));
                }
                Turn::Expired(expired) => panic!("nothing expires here: {expired:?}"),
                Turn::Finished => {
                    assert!(given.is_empty(), "home before the work is done");
                    return collected;
                }
            }
        }
    }

    /// The same with a device that has computed when it is given.
    fn compute(shared: &Shared<u32>, now: Instant) -> Vec<u32> {
        turns(shared, now, |device| shared.change(|queue| queue.computed(device)))
    }

    fn admit(shared: &Shared<u32>, now: Instant) -> Ticket {
        shared.change(|queue| {
            let ticket = queue.announce(now + Duration::from_secs(1), now).unwrap();
            queue.admit(ticket, now).unwrap();
            ticket
        })
    }

    /// The encoder's thread, the device's, and a caller, in every order.
    #[test]
    fn a_device_that_ends_at_any_moment_is_collected_once_for_each_batch() {
        model(|| {
            let (shared, now) = (shared(1, 2), Instant::now());
            let tickets = [0, 1].map(|_| admit(&shared, now));
            let (sender, given) = mpsc::channel();
            let device = thread::spawn({
                let shared = shared.clone();
                move || {
                    // Each request is a batch.
                    for _ in 0..tickets.len() {
                        let device = given.recv().unwrap();
                        shared.change(|queue| queue.computed(device));
                    }
                }
            });
            let encoder = thread::spawn({
                let shared = shared.clone();
                move || turns(&shared, now, |device| sender.send(device).unwrap())
            });
            for (ticket, work) in tickets.into_iter().zip(0..) {
                shared.change(|queue| queue.submit(ticket, 1, work, now)).unwrap();
            }
            shared.change(Queue::drain);
            assert_eq!(encoder.join().unwrap(), [0, 1]);
            device.join().unwrap();
        });
    }

    #[test]
    fn whatever_the_order_all_that_is_submitted_is_computed_once() {
        model(|| {
            let (shared, now) = (shared(1, 1), Instant::now());
            let tickets = [0, 1].map(|_| admit(&shared, now));
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
            let (shared, now) = (shared(4, 1), Instant::now());
            let ticket = admit(&shared, now);
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
            let (shared, now) = (shared(4, 1), Instant::now());
            let ticket = admit(&shared, now);
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
