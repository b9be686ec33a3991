//! The threads of one block: warps run from barrier to barrier in an order that the seed gives; the lanes of a warp run
//! from one meeting to the next, which takes place when all it concerns are there.

use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::ptr;

use corosensei::stack::Stack;
use corosensei::{Coroutine, CoroutineResult};

use super::Launch;
use super::adversary::{Landing, Order, Random};
use super::copies::Copies;
use super::fault::Fault;
use super::hopper::{Awaited, Hopper};
use super::operation::{Lanes, Operation, Request};
use super::shared::{Guarded, POISON, SharedWindow};
use super::stack::ThreadStack;
use super::thread::{Thread, ThreadRecord};
use super::warp;

unsafe extern "C" {
    safe fn simulator_thread_slot() -> *mut *const ThreadRecord;
}

type Fiber = Coroutine<(), Request, (), ThreadStack>;

/// How far a warp has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    Running,
    Barrier,
    Returned,
    /// Until another warp, or a copy, has done something.
    Blocked,
    Stuck,
}

/// Meetings of a warp's turn at most, where warps take turns between two barriers.
const TURN_MEETINGS: usize = 4;

struct Warp {
    /// Index of its first thread.
    first: usize,
    /// Lanes there are: fewer than 32 only in the last warp.
    present: u32,
    runnable: u32,
    returned: u32,
    progress: Progress,
    requests: [Request; 32],
}

/// The block that runs; made once for a launch.
pub(super) struct Block<'a> {
    launch: &'a Launch<'a>,
    landing: Landing,
    shared: Guarded,
    hopper: Option<Box<Hopper>>,
    threads: Box<[Thread]>,
    fibers: Vec<Fiber>,
    warps: Vec<Warp>,
    index: [u32; 3],
    random: Random,
    steps: u64,
    slot: *mut *const ThreadRecord,
}

impl<'a> Block<'a> {
    pub(super) fn new(launch: &'a Launch<'a>, landing: Landing) -> Self {
        let num_threads = launch.block.iter().product::<u32>();
        let shared = Guarded::new(launch.shared_bytes as usize);
        let [width, height, _] = launch.block;
        let thread = |index: u32| Thread {
            record: Cell::new(ThreadRecord {
                thread_index: [index % width, index / width % height, index / width / height],
                block_index: [0; 3],
                block_size: launch.block,
                grid_size: launch.grid,
                shared: shared.bytes(),
                shared_bytes: launch.shared_bytes,
                lane: index % 32,
                writers: ptr::null(),
                is_early: ptr::null(),
                stack: [0; 2],
                writer: 0,
            }),
            kernel: launch.entry.name,
            index: index as usize,
            hopper: Cell::new(ptr::null()),
            yielder: Cell::new(ptr::null()),
            fault: Cell::new(None),
            copies: RefCell::new(Copies::new(landing, Random::new(0, 0))),
        };
        let warp = |first: u32| Warp {
            first: first as usize,
            present: u32::MAX >> (32 - (num_threads - first).min(32)),
            runnable: 0,
            returned: 0,
            progress: Progress::Running,
            requests: [Request::NONE; 32],
        };
        Self {
            launch,
            landing,
            threads: (0..num_threads).map(thread).collect(),
            fibers: Vec::with_capacity(num_threads as usize),
            warps: (0..num_threads).step_by(32).map(warp).collect(),
            shared,
            hopper: None,
            index: [0; 3],
            random: Random::new(0, 0),
            steps: 0,
            slot: simulator_thread_slot(),
        }
    }

    /// Runs one block to its end.
    pub(super) fn run(&mut self, number: u64) -> Result<(), Fault> {
        self.start(number);
        let ended = self.finish_threads();
        self.recycle();
        ended?;
        self.hopper().finish()?;
        for thread in &self.threads {
            thread.copies.borrow_mut().finish();
        }
        match self.shared.overrun() {
            None => Ok(()),
            Some(side) => {
                let (kernel, shared_bytes) = (self.launch.entry.name, self.launch.shared_bytes);
                Err(Fault::SharedOverrun { kernel, block: self.index, side, shared_bytes })
            }
        }
    }

    fn start(&mut self, number: u64) {
        let [width, height] = [self.launch.grid[0], self.launch.grid[1]].map(u64::from);
        self.index = [number % width, number / width % height, number / width / height].map(|index| index as u32);
        self.random = Random::new(self.launch.seed, 1 + number);
        // SAFETY: it is that long, and no thread runs.
        unsafe { ptr::write_bytes(self.shared.bytes(), POISON, self.shared.len()) };
        for warp in &mut self.warps {
            (warp.runnable, warp.returned) = (warp.present, 0);
        }
        let (function, params) = (self.launch.entry.function, self.launch.params.as_ptr().cast::<c_void>());
        let window = SharedWindow { bytes: self.shared.bytes(), num_bytes: self.launch.shared_bytes };
        let random = Random::new(!self.launch.seed, 1 + number);
        let hopper = self.hopper.insert(Box::new(Hopper::new(self.launch, self.index, self.landing, window, random)));
        for (index, thread) in self.threads.iter().enumerate() {
            let (writers, is_early, writer) = (hopper.tags(), hopper.is_early(), hopper.tag(index));
            let own = ThreadStack::take(index);
            let stack = [own.limit(), own.base()].map(|address| address.get());
            let record = thread.record.get();
            thread.record.set(ThreadRecord { block_index: self.index, writers, is_early, stack, writer, ..record });
            thread.hopper.set(&**hopper);
            let random = Random::new(self.random.next(), 0);
            thread.copies.replace(Copies::new(self.landing, random));
            let thread: *const Thread = thread;
            self.fibers.push(Fiber::with_stack(own, move |yielder, ()| {
                // SAFETY: threads are in their place until the block is dropped, which is after its fibers.
                unsafe { &*thread }.yielder.set(yielder);
                // SAFETY: the launch was checked to hold the entry's params; what they point to is its promise.
                unsafe { function(params) };
            }));
        }
    }

    fn hopper(&self) -> &Hopper {
        self.hopper.as_ref().expect("a block has one from its start on")
    }

    /// From barrier to barrier until all threads have returned.
    fn finish_threads(&mut self) -> Result<(), Fault> {
        let mut order: Vec<usize> = Vec::with_capacity(self.warps.len());
        loop {
            order.extend(0..self.warps.len());
            self.run_to_barrier(&mut order)?;
            let all = |progress| self.warps.iter().all(|warp| warp.progress == progress);
            if all(Progress::Returned) {
                return Ok(());
            }
            if !all(Progress::Barrier) {
                return Err(self.divergence());
            }
            for warp in &mut self.warps {
                warp.runnable = warp.present;
            }
        }
    }

    /// Runs warps until none can get further: each to its end before the next, or in turns, for a hazard may need one
    /// warp between two meetings of another.
    fn run_to_barrier(&mut self, running: &mut Vec<usize>) -> Result<(), Fault> {
        let seeded = self.launch.adversary.order == Order::Seeded;
        let in_turns = seeded && self.random.coin();
        if seeded {
            self.random.shuffle(running);
        } else {
            running.reverse();
        }
        loop {
            while !running.is_empty() {
                let (next, meetings) = match in_turns {
                    true => (self.random.below(running.len()), 1 + self.random.below(TURN_MEETINGS)),
                    false => (running.len() - 1, usize::MAX),
                };
                let warp = running[next];
                let progress = self.advance(warp, meetings)?;
                self.warps[warp].progress = progress;
                if progress != Progress::Running {
                    running.swap_remove(next);
                }
                self.wake(running);
            }
            // Nobody can go on: now a copy must land.
            if !self.hopper().land_for_any(&self.awaited())? {
                return Ok(());
            }
            self.wake(running);
        }
    }

    /// Lets the warps that are blocked look again whether they can go on, if anything has happened.
    fn wake(&mut self, running: &mut Vec<usize>) {
        if !self.hopper().take_event() {
            return;
        }
        for (index, warp) in self.warps.iter_mut().enumerate() {
            if warp.progress == Progress::Blocked {
                warp.progress = Progress::Running;
                running.insert(self.random.below(running.len() + 1), index);
            }
        }
    }

    /// What lanes of blocked warps wait for.
    fn awaited(&self) -> Vec<Awaited> {
        let blocked = self.warps.iter().filter(|warp| warp.progress == Progress::Blocked);
        let mut awaited: Vec<Awaited> = blocked.flat_map(|warp| warp.awaited().map(|(_, awaited)| awaited)).collect();
        awaited.sort_unstable();
        awaited.dedup();
        awaited
    }

    /// Runs a warp as far as it can get alone in so many meetings.
    fn advance(&mut self, warp: usize, meetings: usize) -> Result<Progress, Fault> {
        for _ in 0..meetings {
            self.resume_lanes(warp)?;
            // Who was waiting for what happened just now may be the faster one.
            if self.hopper().has_event() && self.random.coin() {
                return Ok(Progress::Running);
            }
            let Warp { first, present, returned, ref requests, .. } = self.warps[warp];
            let waiting = present & !returned;
            if waiting == 0 {
                return Ok(Progress::Returned);
            }
            let (mut at_barriers, mut ready) = (0, 0);
            for (lane, Awaited { barrier, parity }) in self.warps[warp].awaited() {
                at_barriers |= 1 << lane;
                ready |= u32::from(self.hopper().is_complete(barrier, parity)) << lane;
            }
            if ready != 0 {
                // Lanes that wait for the same may see it at different times.
                let some = ready & self.random.next() as u32;
                let seeded = self.launch.adversary.order == Order::Seeded;
                self.warps[warp].runnable = if seeded && some != 0 && self.random.coin() { some } else { ready };
                continue;
            }
            let Some(request) = complete(requests, waiting, at_barriers) else {
                return Ok(if at_barriers == 0 { Progress::Stuck } else { Progress::Blocked });
            };
            if request.operation == Operation::SyncThreads {
                return Ok(if returned == 0 { Progress::Barrier } else { Progress::Stuck });
            }
            if !warp::perform(request, &self.threads[first..], requests)? {
                return Ok(Progress::Blocked);
            }
            self.warps[warp].runnable = request.mask;
        }
        Ok(Progress::Running)
    }

    /// Runs every lane that can run until it waits or returns.
    fn resume_lanes(&mut self, warp: usize) -> Result<(), Fault> {
        let warp = &mut self.warps[warp];
        let mut runnable = std::mem::take(&mut warp.runnable);
        self.steps += u64::from(runnable.count_ones());
        if self.steps > self.launch.adversary.step_budget {
            let (kernel, steps) = (self.launch.entry.name, self.launch.adversary.step_budget);
            return Err(Fault::Endless { kernel, block: self.index, steps });
        }
        let descending = self.launch.adversary.order == Order::Seeded && self.random.coin();
        while runnable != 0 {
            let lane = if descending { 31 - runnable.leading_zeros() } else { runnable.trailing_zeros() } as usize;
            runnable &= !(1 << lane);
            let thread = &self.threads[warp.first + lane];
            // SAFETY: the slot is this host thread's own, and lives as long as it.
            unsafe { self.slot.write(ptr::from_ref(thread).cast()) };
            match self.fibers[warp.first + lane].resume(()) {
                CoroutineResult::Return(()) => warp.returned |= 1 << lane,
                CoroutineResult::Yield(request) if request.operation == Operation::Fault => {
                    return Err(thread.fault.take().expect("a thread that fails says why"));
                }
                CoroutineResult::Yield(request) => warp.requests[lane] = request,
            }
        }
        Ok(())
    }

    /// Where all threads wait, warp by warp.
    fn divergence(&self) -> Fault {
        let mut waiting = String::new();
        for (index, warp) in self.warps.iter().enumerate() {
            let mut rest = warp.present & !warp.returned;
            let mut places = Vec::new();
            while rest != 0 {
                let request = warp.requests[rest.trailing_zeros() as usize];
                let here = lanes_that(rest, |lane| warp.requests[lane].meets(&request));
                let mask = match request.mask {
                    u32::MAX => String::new(),
                    mask => format!(" for lanes {}", Lanes(mask)),
                };
                places.push(format!("lanes {} at {}{mask}", Lanes(here), request.operation.name()));
                rest &= !here;
            }
            if warp.returned != 0 {
                places.push(format!("lanes {} returned", Lanes(warp.returned)));
            }
            let separator = if index == 0 { "" } else { "; " };
            waiting += &format!("{separator}warp {index}: {}", places.join(", "));
        }
        for awaited in self.awaited() {
            waiting += &format!("; {}", self.hopper().describe(awaited.barrier));
        }
        Fault::Divergence { kernel: self.launch.entry.name, block: self.index, waiting }
    }

    /// Gives the stacks back, also those of threads that will never return.
    fn recycle(&mut self) {
        ThreadStack::give_back(self.fibers.drain(..).map(|mut fiber| {
            // SAFETY: a suspended thread has only a kernel's frames, which own nothing, and one of `suspend`.
            unsafe { fiber.force_reset() };
            fiber.into_stack()
        }));
    }
}

impl Warp {
    /// The lanes at a barrier in shared memory, and what each waits for.
    fn awaited(&self) -> impl Iterator<Item = (usize, Awaited)> {
        let waiting = self.present & !self.returned;
        let lanes =
            self.requests.iter().enumerate().filter(move |(lane, request)| {
                waiting >> lane & 1 == 1 && request.operation == Operation::MbarrierWait
            });
        lanes.map(|(lane, request)| {
            // SAFETY: the lane waits at a barrier, so this is what its operands are.
            (lane, unsafe { request.operands.cast::<Awaited>().read() })
        })
    }
}

fn lanes_that(among: u32, holds: impl Fn(usize) -> bool) -> u32 {
    (0..32).filter(|&lane| among >> lane & 1 == 1 && holds(lane)).fold(0, |lanes, lane| lanes | 1 << lane)
}

/// An operation that all lanes it concerns wait at; lanes at barriers in shared memory wait for no other lane.
fn complete(requests: &[Request; 32], waiting: u32, at_barriers: u32) -> Option<Request> {
    let mut rest = waiting & !at_barriers;
    while rest != 0 {
        let request = requests[rest.trailing_zeros() as usize];
        let here = lanes_that(rest, |lane| requests[lane].meets(&request));
        let all = if request.operation == Operation::SyncThreads { waiting } else { request.mask };
        if here == all {
            return Some(request);
        }
        rest &= !here;
    }
    None
}
