//! The queue under arbitrary histories: nothing is lost and nothing comes twice, the budget is kept, the order is fair,
//! deadlines are honoured, and every byte is given back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use tilesight::batch::{Limits, Next, Phase, Queue, Refusal, Taken, Ticket};

#[derive(Debug, Clone)]
enum Event {
    Admit { patience: u64 },
    Hold { of: usize, bytes: u64 },
    Submit { of: usize, tiles: usize },
    Leave { of: usize },
    Pass { milliseconds: u64 },
    Turn,
    Finish,
    Drain,
    Stop,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (1u64..200).prop_map(|patience| Event::Admit { patience }),
        4 => (0usize..20, 0u64..60).prop_map(|(of, bytes)| Event::Hold { of, bytes }),
        8 => (0usize..20, 0usize..12).prop_map(|(of, tiles)| Event::Submit { of, tiles }),
        3 => (0usize..20).prop_map(|of| Event::Leave { of }),
        4 => (0u64..40).prop_map(|milliseconds| Event::Pass { milliseconds }),
        6 => Just(Event::Turn),
        4 => Just(Event::Finish),
        1 => Just(Event::Drain),
        1 => Just(Event::Stop),
    ]
}

/// What a request is, told apart from the queue.
#[derive(Debug)]
struct Known {
    bytes: u64,
    deadline: Instant,
    tiles: Option<usize>,
    is_out: bool,
    is_gone: bool,
}

struct Model {
    queue: Queue<Ticket>,
    known: BTreeMap<Ticket, Known>,
    computing: BTreeSet<Ticket>,
    now: Instant,
    limits: Limits,
}

impl Model {
    fn pick(&self, of: usize) -> Option<Ticket> {
        let there: Vec<Ticket> = self.known.iter().filter(|(_, known)| !known.is_gone).map(|(t, _)| *t).collect();
        there.get(of % there.len().max(1)).copied()
    }

    /// Requests that wait for their turn, oldest first.
    fn waiting(&self) -> Vec<Ticket> {
        let waits = |known: &Known| known.tiles.is_some() && !known.is_out && !known.is_gone;
        self.known.iter().filter(|(_, known)| waits(known)).map(|(ticket, _)| *ticket).collect()
    }

    fn comes_out(&mut self, taken: &Taken<Ticket>) {
        assert_eq!(taken.ticket, taken.work, "the work is another request's");
        let known = self.known.get_mut(&taken.ticket).expect("a request that nobody made");
        assert!(!known.is_out, "{:?} came twice", taken.ticket);
        assert!(!known.is_gone, "{:?} had left", taken.ticket);
        assert!(known.tiles.is_some(), "{:?} was not submitted", taken.ticket);
        known.is_out = true;
        self.computing.insert(taken.ticket);
    }

    fn turn(&mut self) {
        let waiting = self.waiting();
        for taken in self.queue.expire(self.now) {
            assert!(self.known[&taken.ticket].deadline <= self.now, "{:?} had time left", taken.ticket);
            self.comes_out(&taken);
            self.finish(taken.ticket);
        }
        let waiting: Vec<Ticket> = waiting.into_iter().filter(|t| self.known[t].deadline > self.now).collect();
        match self.queue.next(self.now) {
            Next::Batch(batch) => {
                let taken: Vec<Ticket> = batch.iter().map(|taken| taken.ticket).collect();
                assert!(!taken.is_empty());
                assert_eq!(taken, waiting[..taken.len()], "not the oldest, in their order");
                let tiles = |tickets: &[Ticket]| tickets.iter().filter_map(|t| self.known[t].tiles).sum::<usize>();
                assert!(taken.len() == 1 || tiles(&taken) <= self.limits.batch_tiles, "beyond the budget");
                let more = &waiting[..waiting.len().min(taken.len() + 1)];
                assert!(more.len() == taken.len() || tiles(more) > self.limits.batch_tiles, "room was left unused");
                batch.iter().for_each(|taken| self.comes_out(taken));
            }
            Next::WaitUntil(until) => {
                assert!(until > self.now && until <= self.now + self.limits.max_delay);
                assert!(!waiting.is_empty() && self.queue.phase() == Phase::Serving);
            }
            Next::Wait => assert!(waiting.is_empty(), "{waiting:?} wait for nothing"),
            Next::Finished => {
                assert!(waiting.is_empty() && matches!(self.queue.phase(), Phase::Draining | Phase::Stopped));
            }
        }
    }

    fn finish(&mut self, ticket: Ticket) {
        self.queue.finish(ticket);
        self.computing.remove(&ticket);
    }

    fn leave(&mut self, ticket: Ticket) {
        self.queue.release(ticket);
        self.known.get_mut(&ticket).unwrap().is_gone = true;
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Admit { patience } => {
                let deadline = self.now + Duration::from_millis(patience);
                let is_full = self.queue.num_requests() >= self.limits.max_requests;
                match self.queue.admit(deadline) {
                    Ok(ticket) => {
                        assert!(!is_full && self.queue.phase() == Phase::Serving);
                        let known = Known { bytes: 0, deadline, tiles: None, is_out: false, is_gone: false };
                        assert!(self.known.insert(ticket, known).is_none());
                    }
                    Err(Refusal::Closed { phase }) => assert_ne!(phase, Phase::Serving),
                    Err(Refusal::Full { .. }) => assert!(is_full),
                    Err(other) => panic!("{other}"),
                }
            }
            Event::Hold { of, bytes } => {
                let Some(ticket) = self.pick(of) else { return };
                let held = self.queue.bytes();
                match self.queue.hold(ticket, bytes) {
                    Ok(()) => self.known.get_mut(&ticket).unwrap().bytes += bytes,
                    Err(Refusal::TooLarge { bytes: own, .. }) => {
                        assert!(own == self.known[&ticket].bytes + bytes && own > self.limits.max_bytes);
                    }
                    Err(Refusal::Full { .. }) => assert!(held + bytes > self.limits.max_bytes),
                    Err(other) => panic!("{other}"),
                }
            }
            Event::Submit { of, tiles } => {
                let Some(ticket) = self.pick(of) else { return };
                let known = self.known.get_mut(&ticket).unwrap();
                let takes = known.tiles.is_none() && self.queue.phase() != Phase::Stopped;
                assert_eq!(self.queue.submit(ticket, tiles, ticket, self.now).is_ok(), takes);
                if takes {
                    known.tiles = Some(tiles);
                }
            }
            Event::Leave { of } => {
                if let Some(ticket) = self.pick(of) {
                    self.leave(ticket);
                }
            }
            Event::Pass { milliseconds } => self.now += Duration::from_millis(milliseconds),
            Event::Turn => self.turn(),
            Event::Finish => {
                if let Some(&ticket) = self.computing.first() {
                    self.finish(ticket);
                }
            }
            Event::Drain => self.queue.drain(),
            Event::Stop => {
                let waiting = self.waiting();
                let back = self.queue.stop();
                assert_eq!(back.iter().map(|taken| taken.ticket).collect::<Vec<_>>(), waiting);
                for taken in back {
                    self.comes_out(&taken);
                    self.finish(taken.ticket);
                }
            }
        }
        let held = |(ticket, known): (&Ticket, &Known)| !known.is_gone || self.computing.contains(ticket);
        let there = || self.known.iter().filter(|(ticket, known)| held((ticket, known)));
        assert_eq!(self.queue.bytes(), there().map(|(_, known)| known.bytes).sum::<u64>());
        assert_eq!(self.queue.num_requests(), there().count());
        assert!(self.queue.bytes() <= self.limits.max_bytes);
    }

    /// Lets everything that is there come to its end.
    fn end(&mut self) {
        self.queue.drain();
        self.computing.clone().into_iter().for_each(|ticket| self.finish(ticket));
        let preparing: Vec<Ticket> =
            self.known.iter().filter(|(_, known)| known.tiles.is_none() && !known.is_gone).map(|(t, _)| *t).collect();
        preparing.into_iter().for_each(|ticket| self.leave(ticket));
        for _ in 0..=self.known.len() {
            self.turn();
            self.computing.clone().into_iter().for_each(|ticket| self.finish(ticket));
        }
        assert_eq!(self.queue.next(self.now), Next::Finished);
        let lost = self.known.iter().find(|(_, known)| known.tiles.is_some() && !known.is_out && !known.is_gone);
        assert!(lost.is_none(), "never computed, never refused: {lost:?}");
        let there: Vec<Ticket> = self.known.iter().filter(|(_, known)| !known.is_gone).map(|(t, _)| *t).collect();
        there.into_iter().for_each(|ticket| self.leave(ticket));
        assert_eq!((self.queue.num_requests(), self.queue.bytes()), (0, 0));
    }
}

proptest! {
    #[test]
    fn every_history_is_fair_and_loses_nothing(
        events in prop::collection::vec(event(), 0..120),
        batch_tiles in 1usize..10,
        max_requests in 1usize..12,
        max_delay in prop_oneof![Just(0), 1u64..30],
    ) {
        let max_delay = Duration::from_millis(max_delay);
        let limits = Limits { max_requests, max_bytes: 100, batch_tiles, max_delay };
        let mut queue = Queue::new(limits);
        let now = Instant::now();
        prop_assert_eq!(queue.admit(now), Err(Refusal::Closed { phase: Phase::Starting }));
        queue.open();
        let mut model = Model { queue, known: BTreeMap::new(), computing: BTreeSet::new(), now, limits };
        events.into_iter().for_each(|event| model.happens(event));
        model.end();
    }
}

fn open(batch_tiles: usize, max_delay: u64) -> (Queue<u32>, Instant) {
    let max_delay = Duration::from_millis(max_delay);
    let mut queue = Queue::new(Limits { max_requests: 16, max_bytes: 100, batch_tiles, max_delay });
    queue.open();
    (queue, Instant::now())
}

fn submit(queue: &mut Queue<u32>, tiles: usize, work: u32, now: Instant) -> Ticket {
    let ticket = queue.admit(now + Duration::from_secs(1)).unwrap();
    queue.submit(ticket, tiles, work, now).unwrap();
    ticket
}

fn batch(next: Next<u32>) -> Vec<u32> {
    match next {
        Next::Batch(batch) => batch.into_iter().map(|taken| taken.work).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_large_request_is_not_overtaken_by_small_ones() {
    let (mut queue, now) = open(4, 0);
    for (tiles, work) in [(3, 0), (9, 1), (1, 2), (1, 3)] {
        submit(&mut queue, tiles, work, now);
    }
    assert_eq!(batch(queue.next(now)), [0]);
    assert_eq!(batch(queue.next(now)), [1], "it goes alone");
    assert_eq!(batch(queue.next(now)), [2, 3]);
    assert_eq!(queue.next(now), Next::Wait);
}

#[test]
fn a_batch_waits_for_more_only_while_it_has_room_and_time() {
    let (mut queue, now) = open(4, 10);
    submit(&mut queue, 1, 0, now);
    let until = now + Duration::from_millis(10);
    assert_eq!(queue.next(now), Next::WaitUntil(until));
    submit(&mut queue, 3, 1, now);
    assert_eq!(batch(queue.next(now)), [0, 1], "it is full");
    submit(&mut queue, 1, 2, now);
    assert_eq!(batch(queue.next(until)), [2], "its time has come");
    submit(&mut queue, 1, 3, now);
    queue.drain();
    assert_eq!(batch(queue.next(now)), [3], "nobody else will come");
}

#[test]
fn a_batch_in_the_making_keeps_the_memory_of_a_client_that_left() {
    let (mut queue, now) = open(4, 0);
    let ticket = submit(&mut queue, 1, 0, now);
    queue.hold(ticket, 70).unwrap();
    assert_eq!(batch(queue.next(now)), [0]);
    queue.release(ticket);
    assert_eq!(queue.bytes(), 70);
    queue.finish(ticket);
    assert_eq!((queue.bytes(), queue.num_requests()), (0, 0));
}
