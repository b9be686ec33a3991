//! What warps of a block do together beside products: barriers by number, registers that change hands, and whether the
//! warps of a warpgroup agree.

use std::collections::VecDeque;

/// Barriers by number; 0 is `__syncthreads`'.
pub(super) const NUM_BARRIERS: u32 = 16;

/// Registers of a multiprocessor, and of a thread at most.
const ALL_REGISTERS: u32 = 64 << 10;
const MAX_REGISTERS: u32 = 256;

/// Registers are given by as many to a thread.
const REGISTERS_GRAIN: u32 = 8;

/// Warps of a warpgroup.
pub(super) const GROUP_WARPS: usize = 4;

/// Lanes of a warp.
const LANES: u32 = 32;

#[derive(Clone, Copy, Default)]
struct NamedBarrier {
    arrived: u32,
    expected: u32,
    completed: u64,
}

/// "barrier.cta" other than 0.
pub(super) struct NamedBarriers {
    barriers: [NamedBarrier; NUM_BARRIERS as usize],
    /// By warp: the barrier it waits at, and how often that had been complete before.
    waiting: Box<[Option<(u32, u64)>]>,
    event: bool,
}

impl NamedBarriers {
    pub(super) fn new(num_warps: usize) -> Self {
        Self { barriers: Default::default(), waiting: vec![None; num_warps].into(), event: false }
    }

    /// A warp arrives; an error is the number of threads that others expect.
    pub(super) fn arrive(&mut self, number: u32, num_threads: u32) -> Result<(), u32> {
        let barrier = &mut self.barriers[number as usize];
        if barrier.arrived != 0 && barrier.expected != num_threads {
            return Err(barrier.expected);
        }
        barrier.expected = num_threads;
        barrier.arrived += LANES;
        if barrier.arrived == num_threads {
            *barrier = NamedBarrier { arrived: 0, expected: 0, completed: barrier.completed + 1 };
            self.event = true;
        }
        Ok(())
    }

    /// Whether a barrier has been complete since the last time.
    pub(super) fn take_event(&mut self) -> bool {
        std::mem::take(&mut self.event)
    }

    /// A warp arrives, or goes on waiting; whether all are there.
    pub(super) fn sync(&mut self, warp: usize, number: u32, num_threads: u32) -> Result<bool, u32> {
        if self.waiting[warp].is_none() {
            self.waiting[warp] = Some((number, self.barriers[number as usize].completed));
            self.arrive(number, num_threads)?;
        }
        let is_complete =
            self.waiting[warp].is_some_and(|(number, before)| self.barriers[number as usize].completed > before);
        if is_complete {
            self.waiting[warp] = None;
        }
        Ok(is_complete)
    }
}

/// "setmaxnreg": what warps hold, and what the block has to give.
pub(super) struct Registers {
    idle: u32,
    /// By warp, a thread's.
    held: Box<[u32]>,
}

impl Registers {
    /// As a kernel starts that is compiled for blocks of so many threads, one on a multiprocessor.
    pub(super) fn new(num_warps: usize, max_threads: u32) -> Self {
        let held = (ALL_REGISTERS / max_threads / REGISTERS_GRAIN * REGISTERS_GRAIN).min(MAX_REGISTERS);
        Self { idle: 0, held: vec![held; num_warps].into() }
    }

    /// An error is how many the warp's threads have, which are fewer.
    pub(super) fn give(&mut self, warp: usize, registers: u32) -> Result<(), u32> {
        let held = self.held[warp];
        self.idle += held.checked_sub(registers).ok_or(held)? * LANES;
        self.held[warp] = registers;
        Ok(())
    }

    /// Whether there were enough; an error is how many the warp's threads have, which are more.
    pub(super) fn take(&mut self, warp: usize, registers: u32) -> Result<bool, u32> {
        let held = self.held[warp];
        let wanted = registers.checked_sub(held).ok_or(held)? * LANES;
        let is_enough = wanted <= self.idle;
        if is_enough {
            self.idle -= wanted;
            self.held[warp] = registers;
        }
        Ok(is_enough)
    }
}

/// What all warps of a warpgroup must do alike, each in its own time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deed {
    /// A product: both descriptors (A's none where A is in registers), N, and the other operands.
    Wgmma { a: Option<u64>, b: u64, columns: u32, is_fp16: bool, is_mn_major: bool, accumulates: bool },
    /// Another number of registers.
    Registers(u32),
}

/// The deeds of one warpgroup that not all of its warps have done.
#[derive(Default)]
pub(super) struct Agreement {
    deeds: VecDeque<Deed>,
    /// Deeds that all have done.
    forgotten: u64,
    /// By warp.
    done: [u64; GROUP_WARPS],
}

impl Agreement {
    /// A warp does the next thing; an error is what another has done in its place.
    pub(super) fn add(&mut self, warp: usize, deed: Deed) -> Result<(), Deed> {
        let place = (self.done[warp] - self.forgotten) as usize;
        match self.deeds.get(place) {
            Some(&other) if other != deed => return Err(other),
            Some(_) => {}
            None => self.deeds.push_back(deed),
        }
        self.done[warp] += 1;
        while self.done.iter().all(|&done| done > self.forgotten) {
            self.deeds.pop_front();
            self.forgotten += 1;
        }
        Ok(())
    }

    /// Something that not all have done.
    pub(super) fn first_open(&self) -> Option<Deed> {
        self.deeds.front().copied()
    }
}
