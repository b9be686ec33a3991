//! The queue as a state machine. Time comes in as a value; who waits for what is `shared`'s affair.
//!
//! A request is announced when its head has come, and holds the bytes of its body that have come. It is admitted when all
//! of the body is there, is submitted when its tiles are cut, and is taken by the encoder's thread in a batch. What it holds
//! is given back when it is released, which is after its answer has left.
//!
//! Under overload the queue stays short: a request that would wait for most of the time that it has is refused before any
//! work is done for it. Of those that wait, the oldest that can still be in time is first. So what is computed is of use to
//! somebody, and no request overtakes another.

mod expectation;
mod limits;
mod pace;
mod turn;

use std::collections::BTreeMap;
use std::time::Instant;

use crate::encoder::TileBudget;
pub use limits::{Devices, Limits, Phase, Refusal};
use pace::{BatchPace, Mean};
pub use turn::{Next, Taken, Ticket};

#[derive(Debug)]
enum Stage<W> {
    /// Being decoded and cut.
    Preparing,
    Ready {
        tiles: usize,
        work: W,
        since: Instant,
    },
    Computing {
        tiles: usize,
    },
    /// Its client has left while it was being computed: what it holds is in use until the batch ends.
    Abandoned {
        tiles: usize,
    },
    Answered,
}

impl<W> Stage<W> {
    /// Tiles that wait or are computed.
    fn tiles(&self) -> usize {
        match self {
            Self::Ready { tiles, .. } | Self::Computing { tiles } | Self::Abandoned { tiles } => *tiles,
            Self::Preparing | Self::Answered => 0,
        }
    }
}

/// A request whose body is on its way.
#[derive(Debug)]
struct Announced {
    bytes: u64,
    deadline: Instant,
}

#[derive(Debug)]
struct Entry<W> {
    bytes: u64,
    deadline: Instant,
    stage: Stage<W>,
}

/// A device's batches: those it was given and whose results were not collected, and how many of them it has computed.
#[derive(Debug, Clone, Copy, Default)]
struct Load {
    given: usize,
    computed: usize,
}

impl Load {
    fn computing(&self) -> usize {
        self.given - self.computed
    }
}

/// Requests in the order they came. See the module's head.
#[derive(Debug)]
pub struct Queue<W> {
    limits: Limits,
    depth: usize,
    devices: Vec<Load>,
    phase: Phase,
    announced: BTreeMap<Ticket, Announced>,
    entries: BTreeMap<Ticket, Entry<W>>,
    next: u64,
    bytes: u64,
    pace: BatchPace,
    /// Seconds that a request was worked on before it was submitted.
    preparation: Mean,
    request_tiles: Mean,
}

impl<W> Queue<W> {
    /// An empty queue in [`Phase::Starting`].
    ///
    /// # Panics
    /// Without a device, or with devices that can have no batch.
    pub fn new(limits: Limits, devices: Devices) -> Self {
        assert!(devices.count > 0 && devices.depth > 0, "{devices:?} compute nothing");
        Self {
            limits,
            depth: devices.depth,
            devices: vec![Load::default(); devices.count],
            phase: Phase::Starting,
            announced: BTreeMap::new(),
            entries: BTreeMap::new(),
            next: 0,
            bytes: 0,
            pace: BatchPace::default(),
            preparation: Mean::default(),
            request_tiles: Mean::default(),
        }
    }

    /// The limits it keeps.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The phase it is in.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Requests that were admitted and are there.
    pub fn num_requests(&self) -> usize {
        self.entries.len()
    }

    /// Requests that were announced, and whose bodies are on their way.
    pub fn num_announced(&self) -> usize {
        self.announced.len()
    }

    /// Bytes that all of them hold.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The encoder works: requests are taken from now on.
    pub fn open(&mut self) {
        if self.phase == Phase::Starting {
            self.phase = Phase::Serving;
        }
    }

    /// Takes no more requests, and finishes those that are there.
    pub fn drain(&mut self) {
        if self.phase != Phase::Stopped {
            self.phase = Phase::Draining;
        }
    }

    /// Ends it; returns what was ready and will not be computed.
    pub fn stop(&mut self) -> Vec<Taken<W>> {
        self.phase = Phase::Stopped;
        self.take_where(|_| true)
    }

    /// Notes a request of which nothing but its head is there. It takes no other request's place. It is not computed once
    /// `deadline` has come.
    ///
    /// # Errors
    /// [`Refusal::Closed`]; [`Refusal::Full`] and [`Refusal::Overloaded`] where it would not be admitted if it were there.
    pub fn announce(&mut self, deadline: Instant, now: Instant) -> Result<Ticket, Refusal> {
        if self.phase != Phase::Serving {
            return Err(Refusal::Closed { phase: self.phase });
        }
        self.require_room(deadline, now)?;
        let ticket = Ticket(self.next);
        self.next += 1;
        self.announced.insert(ticket, Announced { bytes: 0, deadline });
        Ok(ticket)
    }

    /// Lets an announced request in, whose body is there.
    ///
    /// # Errors
    /// [`Refusal::Full`], [`Refusal::Overloaded`]; [`Refusal::Closed`] where nothing is computed any more, or the request is
    /// not there.
    pub fn admit(&mut self, ticket: Ticket, now: Instant) -> Result<(), Refusal> {
        let closed = Refusal::Closed { phase: self.phase };
        let deadline = self.announced.get(&ticket).map(|announced| announced.deadline).ok_or(closed)?;
        if self.phase == Phase::Stopped {
            return Err(closed);
        }
        self.require_room(deadline, now)?;
        if let Some(Announced { bytes, deadline }) = self.announced.remove(&ticket) {
            self.entries.insert(ticket, Entry { bytes, deadline, stage: Stage::Preparing });
        }
        Ok(())
    }

    /// Reserves so many more bytes for a request, before they are allocated.
    ///
    /// # Errors
    /// [`Refusal::TooLarge`], [`Refusal::Full`]; [`Refusal::Closed`] where the request is not there.
    pub fn hold(&mut self, ticket: Ticket, bytes: u64) -> Result<(), Refusal> {
        let max_bytes = self.limits.max_bytes;
        let full = self.full();
        let announced = self.announced.get_mut(&ticket).map(|announced| &mut announced.bytes);
        let held = announced.or_else(|| self.entries.get_mut(&ticket).map(|entry| &mut entry.bytes));
        let held = held.ok_or(Refusal::Closed { phase: self.phase })?;
        let own = held.saturating_add(bytes);
        if own > max_bytes {
            return Err(Refusal::TooLarge { bytes: own, max_bytes });
        }
        if self.bytes.saturating_add(bytes) > max_bytes {
            return Err(full);
        }
        *held = own;
        self.bytes += bytes;
        Ok(())
    }

    /// Hands over what is to be computed, once.
    ///
    /// # Errors
    /// The work itself, where nothing will compute it: [`Refusal::Closed`], or [`Refusal::Overloaded`] where those before it
    /// take all of its time.
    pub fn submit(&mut self, ticket: Ticket, tiles: usize, work: W, now: Instant) -> Result<(), Box<(W, Refusal)>> {
        let is_ahead =
            |(other, entry): &(&Ticket, &Entry<W>)| **other < ticket || !matches!(entry.stage, Stage::Ready { .. });
        let ahead: usize = self.entries.iter().filter(is_ahead).map(|(_, entry)| entry.stage.tiles()).sum();
        let expected = self.time_of(ahead + tiles);
        let phase = self.phase;
        match self.entries.get_mut(&ticket) {
            Some(entry) if phase != Phase::Stopped && matches!(entry.stage, Stage::Preparing) => {
                let left = entry.deadline.saturating_duration_since(now);
                if ahead > 0 && expected > left {
                    entry.stage = Stage::Answered;
                    return Err(Box::new((work, Refusal::Overloaded { expected, left })));
                }
                entry.stage = Stage::Ready { tiles, work, since: now };
                self.request_tiles.observe(tiles as f64);
                Ok(())
            }
            _ => Err(Box::new((work, Refusal::Closed { phase }))),
        }
    }

    /// The requests whose deadline came while they waited, and those whose deadline will have come before they are computed,
    /// where there are others to compute meanwhile.
    pub fn expire(&mut self, now: Instant) -> Vec<Taken<W>> {
        let (pace, batch_tiles) = (self.pace, self.limits.batch_tiles);
        let in_time = |entry: &Entry<W>| match entry.stage {
            Stage::Ready { tiles, .. } => entry.deadline > now + pace.time(tiles, batch_tiles),
            _ => false,
        };
        let others_are = self.entries.values().any(in_time);
        self.take_where(|entry| entry.deadline <= now || others_are && !in_time(entry))
    }

    /// What to do now. A batch is the oldest requests that are ready, up to the first that the budget of tiles has no room
    /// for; no younger one is taken in its place, so a large request waits no longer than a small one. A device that
    /// computes nothing gets one at once, a device that computes only a full one, for until it is free more may come.
    /// Results are collected when nothing can be given.
    pub fn next(&mut self, now: Instant) -> Next<W> {
        let (mut batch, mut is_full, mut oldest) = (TileBudget::new(self.limits.batch_tiles), false, None);
        for entry in self.entries.values() {
            let Stage::Ready { tiles, since, .. } = entry.stage else { continue };
            if entry.deadline <= now {
                continue;
            }
            if !batch.try_add(tiles) {
                is_full = true;
                break;
            }
            oldest = Some(oldest.map_or(since, |oldest: Instant| oldest.min(since)));
        }
        is_full |= batch.is_full();
        let taker = oldest.and_then(|oldest| Some((self.taker(is_full)?, oldest + self.limits.max_delay)));
        let waits = self.phase == Phase::Serving && !is_full;
        if let Some((device, leaves)) = taker
            && (!waits || leaves <= now)
        {
            let ahead = self.devices[device].computing() > 0;
            self.devices[device].given += 1;
            let mut left = batch.len();
            let requests = self.take_where(|entry| {
                let takes = entry.deadline > now && left > 0;
                left -= usize::from(takes);
                takes
            });
            return Next::Batch { device, ahead, requests };
        }
        if let Some(device) = self.devices.iter().position(|load| load.computed > 0) {
            self.devices[device].given -= 1;
            self.devices[device].computed -= 1;
            return Next::Collect { device };
        }
        match taker {
            Some((_, leaves)) => Next::WaitUntil(leaves),
            None if self.is_finished() => Next::Finished,
            None => Next::Wait,
        }
    }

    /// The device that takes the next batch: of those that have room the one with the least to do.
    fn taker(&self, is_full: bool) -> Option<usize> {
        let has_room = |load: &Load| load.given < self.depth && (is_full || load.computing() == 0);
        let takers = self.devices.iter().enumerate().filter(|(_, load)| has_room(load));
        takers.min_by_key(|(_, load)| (load.computing(), load.given)).map(|(device, _)| device)
    }

    /// A device has computed the oldest of the batches it was given.
    pub fn computed(&mut self, device: usize) {
        let load = &mut self.devices[device];
        load.computed = (load.computed + 1).min(load.given);
    }

    /// The batch that a device was given last did not begin there, and is not to be collected.
    pub fn withdraw(&mut self, device: usize) {
        let load = &mut self.devices[device];
        load.given = load.given.saturating_sub(1);
        load.computed = load.computed.min(load.given);
    }

    /// A request of a batch has been computed, or has failed; or one that was not submitted needs no computing.
    pub fn finish(&mut self, ticket: Ticket) {
        let Some(entry) = self.entries.get_mut(&ticket) else { return };
        match entry.stage {
            Stage::Preparing | Stage::Computing { .. } => entry.stage = Stage::Answered,
            Stage::Abandoned { .. } => self.remove(ticket),
            Stage::Ready { .. } | Stage::Answered => {}
        }
    }

    /// A request's answer has left, or its client has: what it holds is given back. While it is being computed, that is
    /// when the batch ends.
    pub fn release(&mut self, ticket: Ticket) {
        if let Some(announced) = self.announced.remove(&ticket) {
            self.bytes -= announced.bytes;
        }
        let Some(entry) = self.entries.get_mut(&ticket) else { return };
        match entry.stage {
            Stage::Computing { tiles } => entry.stage = Stage::Abandoned { tiles },
            Stage::Abandoned { .. } => {}
            Stage::Preparing | Stage::Ready { .. } | Stage::Answered => self.remove(ticket),
        }
    }

    fn remove(&mut self, ticket: Ticket) {
        if let Some(entry) = self.entries.remove(&ticket) {
            self.bytes -= entry.bytes;
        }
    }

    fn full(&self) -> Refusal {
        Refusal::Full { requests: self.entries.len(), bytes: self.bytes }
    }

    fn is_finished(&self) -> bool {
        let unfinished = |entry: &Entry<W>| matches!(entry.stage, Stage::Preparing | Stage::Ready { .. });
        let is_idle = self.devices.iter().all(|load| load.given == 0);
        match self.phase {
            Phase::Starting | Phase::Serving => false,
            Phase::Draining => is_idle && self.announced.is_empty() && !self.entries.values().any(unfinished),
            Phase::Stopped => is_idle,
        }
    }

    /// Takes the ready requests that `wanted` picks, oldest first.
    fn take_where(&mut self, mut wanted: impl FnMut(&Entry<W>) -> bool) -> Vec<Taken<W>> {
        let mut taken = Vec::new();
        for (&ticket, entry) in &mut self.entries {
            if !matches!(entry.stage, Stage::Ready { .. }) || !wanted(entry) {
                continue;
            }
            if let Stage::Ready { tiles, work, since } = std::mem::replace(&mut entry.stage, Stage::Answered) {
                entry.stage = Stage::Computing { tiles };
                taken.push(Taken { ticket, tiles, work, since });
            }
        }
        taken
    }
}
