//! The queue under arbitrary histories: nothing is lost and nothing comes twice, the budget is kept, the order is fair,
//! deadlines are honoured, every byte is given back, and no device idles or has more than its share.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use tilesight::batch::{Devices, Limits, Next, Phase, Queue, Refusal, Taken, Ticket};

#[derive(Debug, Clone)]
enum Event {
    Announce {
        patience: u64,
    },
    Admit {
        of: usize,
    },
    Hold {
        of: usize,
        bytes: u64,
    },
    Submit {
        of: usize,
        tiles: usize,
    },
    Leave {
        of: usize,
    },
    Pass {
        milliseconds: u64,
    },
    Turn,
    /// A device ends its oldest batch.
    Compute {
        device: usize,
    },
    Drain,
    Stop,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (1u64..200).prop_map(|patience| Event::Announce { patience }),
        8 => (0usize..20).prop_map(|of| Event::Admit { of }),
        4 => (0usize..20, 0u64..60).prop_map(|(of, bytes)| Event::Hold { of, bytes }),
        8 => (0usize..20, 0usize..12).prop_map(|(of, tiles)| Event::Submit { of, tiles }),
        3 => (0usize..20).prop_map(|of| Event::Leave { of }),
        4 => (0u64..40).prop_map(|milliseconds| Event::Pass { milliseconds }),
        6 => Just(Event::Turn),
        4 => (0usize..3).prop_map(|device| Event::Compute { device }),
        1 => Just(Event::Drain),
        1 => Just(Event::Stop),
    ]
}

/// What a request is, told apart from the queue.
#[derive(Debug)]
struct Known {
    bytes: u64,
    deadline: Instant,
    is_admitted: bool,
    tiles: Option<usize>,
    is_out: bool,
    is_gone: bool,
}

/// A device's batches, oldest first, and how many of them it has ended.
#[derive(Debug, Default)]
struct Device {
    batches: VecDeque<Vec<Ticket>>,
    ended: usize,
}

impl Device {
    fn computing(&self) -> usize {
        self.batches.len() - self.ended
    }
}

struct Model {
    queue: Queue<Ticket>,
    known: BTreeMap<Ticket, Known>,
    computing: BTreeSet<Ticket>,
    devices: Vec<Device>,
    depth: usize,
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
        let tiles = |tickets: &[Ticket]| tickets.iter().filter_map(|t| self.known[t].tiles).sum::<usize>();
        let is_full = |taken: &[Ticket]| {
            let more = &waiting[..waiting.len().min(taken.len() + 1)];
            tiles(taken) >= self.limits.batch_tiles || more.len() > taken.len() && tiles(more) > self.limits.batch_tiles
        };
        let idle = |device: &Device| device.computing() == 0 && device.batches.len() < self.depth;
        match self.queue.next(self.now) {
            Next::Batch { device, ahead, requests } => {
                let taken: Vec<Ticket> = requests.iter().map(|taken| taken.ticket).collect();
                assert!(!taken.is_empty());
                assert_eq!(taken, waiting[..taken.len()], "not the oldest, in their order");
                assert!(taken.len() == 1 || tiles(&taken) <= self.limits.batch_tiles, "beyond the budget");
                assert!(is_full(&taken) || taken.len() == waiting.len(), "room was left unused");
                let load = &self.devices[device];
                assert_eq!(ahead, load.computing() > 0);
                assert!(load.batches.len() < self.depth, "beyond the depth");
                assert!(!ahead || is_full(&taken), "more could have come while the device computes");
                assert!(!ahead || !self.devices.iter().any(idle), "another device has nothing to do");
                requests.iter().for_each(|taken| self.comes_out(taken));
                self.devices[device].batches.push_back(taken);
            }
            Next::Collect { device } => {
                assert!(self.devices[device].ended > 0, "it computes still");
                assert!(
                    waiting.is_empty() || self.limits.max_delay > Duration::ZERO || !self.devices.iter().any(idle),
                    "a device could compute meanwhile"
                );
                self.devices[device].ended -= 1;
                let batch = self.devices[device].batches.pop_front().unwrap();
                batch.into_iter().for_each(|ticket| self.finish(ticket));
            }
            Next::WaitUntil(until) => {
                assert!(until > self.now && until <= self.now + self.limits.max_delay);
                assert!(!waiting.is_empty() && self.queue.phase() == Phase::Serving);
                assert!(self.devices.iter().all(|device| device.ended == 0), "results wait");
            }
            Next::Wait => {
                assert!(self.devices.iter().all(|device| device.ended == 0), "results wait");
                assert!(waiting.is_empty() || !self.devices.iter().any(idle), "{waiting:?} wait for nothing");
                let has_room = self.devices.iter().any(|device| device.batches.len() < self.depth);
                // What would be taken: the longest row of the oldest that keeps the budget.
                let fits = |count: &usize| *count == 1 || tiles(&waiting[..*count]) <= self.limits.batch_tiles;
                let count = (1..=waiting.len()).take_while(fits).last().unwrap_or(0);
                assert!(!has_room || count == 0 || !is_full(&waiting[..count]), "a full batch waits for nothing");
            }
            Next::Finished => {
                assert!(waiting.is_empty() && matches!(self.queue.phase(), Phase::Draining | Phase::Stopped));
                assert!(self.devices.iter().all(|device| device.batches.is_empty()), "batches are under way");
            }
        }
    }

    fn finish(&mut self, ticket: Ticket) {
        self.queue.finish(ticket);
        self.computing.remove(&ticket);
    }

    fn compute(&mut self, device: usize) {
        if self.devices[device].computing() > 0 {
            self.devices[device].ended += 1;
            self.queue.computed(device);
        }
    }

    fn leave(&mut self, ticket: Ticket) {
        self.queue.release(ticket);
        self.known.get_mut(&ticket).unwrap().is_gone = true;
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Announce { patience } => {
                let deadline = self.now + Duration::from_millis(patience);
                let is_full = self.queue.num_requests() >= self.limits.max_requests;
                match self.queue.announce(deadline, self.now) {
                    Ok(ticket) => {
                        assert!(!is_full && self.queue.phase() == Phase::Serving);
                        let known = Known {
                            bytes: 0,
                            deadline,
                            is_admitted: false,
                            tiles: None,
                            is_out: false,
                            is_gone: false,
                        };
                        assert!(self.known.insert(ticket, known).is_none());
                    }
                    Err(Refusal::Closed { phase }) => assert_ne!(phase, Phase::Serving),
                    Err(Refusal::Full { .. }) => assert!(is_full),
                    Err(other) => panic!("{other}"),
                }
            }
            Event::Admit { of } => {
                let Some(ticket) = self.pick(of) else { return };
                let is_full = self.queue.num_requests() >= self.limits.max_requests;
                let known = self.known.get_mut(&ticket).unwrap();
                match self.queue.admit(ticket, self.now) {
                    Ok(()) => {
                        assert!(!is_full && !known.is_admitted && self.queue.phase() != Phase::Stopped);
                        known.is_admitted = true;
                    }
                    Err(Refusal::Closed { phase }) => assert!(known.is_admitted || phase == Phase::Stopped),
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
                let takes = known.is_admitted && known.tiles.is_none() && self.queue.phase() != Phase::Stopped;
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
            Event::Compute { device } => {
                let device = device % self.devices.len();
                self.compute(device);
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
        assert_eq!(self.queue.num_requests(), there().filter(|(_, known)| known.is_admitted).count());
        assert_eq!(self.queue.num_announced(), there().filter(|(_, known)| !known.is_admitted).count());
        assert!(self.queue.bytes() <= self.limits.max_bytes);
    }

    /// Lets everything that is there come to its end.
    fn end(&mut self) {
        self.queue.drain();
        let preparing: Vec<Ticket> =
            self.known.iter().filter(|(_, known)| known.tiles.is_none() && !known.is_gone).map(|(t, _)| *t).collect();
        preparing.into_iter().for_each(|ticket| self.leave(ticket));
        // A batch is given, ends and is collected.
        for _ in 0..=2 * self.known.len() {
            self.turn();
            (0..self.devices.len()).for_each(|device| self.compute(device));
        }
        assert_eq!(self.queue.next(self.now), Next::Finished);
        let lost = self.known.iter().find(|(_, known)| known.tiles.is_some() && !known.is_out && !known.is_gone);
        assert!(lost.is_none(), "never computed, never refused: {lost:?}");
        let there: Vec<Ticket> = self.known.iter().filter(|(_, known)| !known.is_gone).map(|(t, _)| *t).collect();
        there.into_iter().for_each(|ticket| self.leave(ticket));
        assert_eq!((self.queue.num_requests(), self.queue.num_announced(), self.queue.bytes()), (0, 0, 0));
    }
}

proptest! {
    #[test]
    fn every_history_is_fair_and_loses_nothing(
        events in prop::collection::vec(event(), 0..120),
        batch_tiles in 1usize..10,
        max_requests in 1usize..12,
        max_delay in prop_oneof![Just(0), 1u64..30],
        count in 1usize..4,
        depth in 1usize..4,
    ) {
        let max_delay = Duration::from_millis(max_delay);
        let limits = Limits { max_requests, max_bytes: 100, preparers: 1, batch_tiles, max_delay };
        let mut queue = Queue::new(limits, Devices { count, depth });
        let now = Instant::now();
        prop_assert_eq!(queue.announce(now, now), Err(Refusal::Closed { phase: Phase::Starting }));
        queue.open();
        let devices = std::iter::repeat_with(Device::default).take(count).collect();
        let (known, computing) = (BTreeMap::new(), BTreeSet::new());
        let mut model = Model { queue, known, computing, devices, depth, now, limits };
        events.into_iter().for_each(|event| model.happens(event));
        model.end();
    }
}

fn open(batch_tiles: usize, max_delay: u64, devices: Devices) -> (Queue<u32>, Instant) {
    let max_delay = Duration::from_millis(max_delay);
    let limits = Limits { max_requests: 16, max_bytes: 100, preparers: 1, batch_tiles, max_delay };
    let mut queue = Queue::new(limits, devices);
    queue.open();
    (queue, Instant::now())
}

fn submit(queue: &mut Queue<u32>, tiles: usize, work: u32, now: Instant) -> Ticket {
    let ticket = queue.announce(now + Duration::from_secs(1), now).unwrap();
    queue.admit(ticket, now).unwrap();
    queue.submit(ticket, tiles, work, now).unwrap();
    ticket
}

/// The device and the work of what is given next.
#[track_caller]
fn given(next: Next<u32>) -> (usize, Vec<u32>) {
    match next {
        Next::Batch { device, requests, .. } => (device, requests.into_iter().map(|taken| taken.work).collect()),
        other => panic!("{other:?}"),
    }
}

/// The same on a device that computes it at once and is collected.
#[track_caller]
fn batch(queue: &mut Queue<u32>, now: Instant) -> Vec<u32> {
    let (device, work) = given(queue.next(now));
    queue.computed(device);
    assert_eq!(queue.next(now), Next::Collect { device });
    work
}

#[test]
fn a_large_request_is_not_overtaken_by_small_ones() {
    let (mut queue, now) = open(4, 0, Devices::ONE);
    for (tiles, work) in [(3, 0), (9, 1), (1, 2), (1, 3)] {
        submit(&mut queue, tiles, work, now);
    }
    assert_eq!(batch(&mut queue, now), [0]);
    assert_eq!(batch(&mut queue, now), [1], "it goes alone");
    assert_eq!(batch(&mut queue, now), [2, 3]);
    assert_eq!(queue.next(now), Next::Wait);
}

#[test]
fn a_batch_waits_for_more_only_while_it_has_room_and_time() {
    let (mut queue, now) = open(4, 10, Devices::ONE);
    submit(&mut queue, 1, 0, now);
    let until = now + Duration::from_millis(10);
    assert_eq!(queue.next(now), Next::WaitUntil(until));
    submit(&mut queue, 3, 1, now);
    assert_eq!(batch(&mut queue, now), [0, 1], "it is full");
    submit(&mut queue, 1, 2, now);
    assert_eq!(batch(&mut queue, until), [2], "its time has come");
    submit(&mut queue, 1, 3, now);
    queue.drain();
    assert_eq!(batch(&mut queue, now), [3], "nobody else will come");
}

#[test]
fn a_full_batch_is_made_ready_behind_one_that_computes_and_another_waits() {
    let (mut queue, now) = open(4, 0, Devices { count: 1, depth: 2 });
    submit(&mut queue, 1, 0, now);
    assert_eq!(given(queue.next(now)), (0, vec![0]), "nothing is under way");
    submit(&mut queue, 1, 1, now);
    assert_eq!(queue.next(now), Next::Wait, "more may come until the device is free");
    submit(&mut queue, 3, 2, now);
    assert_eq!(given(queue.next(now)), (0, vec![1, 2]), "it is full");
    submit(&mut queue, 4, 3, now);
    assert_eq!(queue.next(now), Next::Wait, "the device has its two");
    queue.computed(0);
    assert_eq!(queue.next(now), Next::Collect { device: 0 }, "which makes room");
    assert_eq!(given(queue.next(now)), (0, vec![3]));
    submit(&mut queue, 1, 4, now);
    queue.computed(0);
    queue.computed(0);
    assert_eq!(queue.next(now), Next::Collect { device: 0 });
    assert_eq!(given(queue.next(now)), (0, vec![4]), "a free device comes before results");
    assert_eq!(queue.next(now), Next::Collect { device: 0 });
    queue.drain();
    assert_eq!(queue.next(now), Next::Wait);
    queue.computed(0);
    assert_eq!(queue.next(now), Next::Collect { device: 0 });
    assert_eq!(queue.next(now), Next::Finished);
}

#[test]
fn devices_share_what_comes_and_one_that_is_free_comes_first() {
    let (mut queue, now) = open(4, 0, Devices { count: 2, depth: 2 });
    for work in 0..4 {
        submit(&mut queue, 4, work, now);
        assert_eq!(given(queue.next(now)), (work as usize % 2, vec![work]));
    }
    submit(&mut queue, 4, 4, now);
    assert_eq!(queue.next(now), Next::Wait);
    queue.computed(1);
    queue.computed(1);
    assert_eq!(queue.next(now), Next::Collect { device: 1 });
    assert_eq!(given(queue.next(now)), (1, vec![4]), "it computes nothing");
}

#[test]
fn a_batch_that_did_not_begin_leaves_its_room() {
    let (mut queue, now) = open(4, 0, Devices { count: 1, depth: 2 });
    for work in 0..2 {
        submit(&mut queue, 4, work, now);
        given(queue.next(now));
    }
    queue.withdraw(0);
    submit(&mut queue, 4, 2, now);
    assert_eq!(given(queue.next(now)), (0, vec![2]));
    assert_eq!(queue.next(now), Next::Wait);
}

#[test]
fn a_batch_in_the_making_keeps_the_memory_of_a_client_that_left() {
    let (mut queue, now) = open(4, 0, Devices::ONE);
    let ticket = submit(&mut queue, 1, 0, now);
    queue.hold(ticket, 70).unwrap();
    assert_eq!(given(queue.next(now)).1, [0]);
    queue.release(ticket);
    assert_eq!(queue.bytes(), 70);
    queue.finish(ticket);
    assert_eq!((queue.bytes(), queue.num_requests()), (0, 0));
}
