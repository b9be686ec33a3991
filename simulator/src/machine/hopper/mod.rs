//! What compute capability 9.0 adds: the state of a block that its instructions share.

mod barriers;
mod boxes;
mod calls;
mod copies;
mod meetings;
mod operands;
mod products;
mod writers;

use std::cell::{Cell, RefCell};

use super::Launch;
use super::adversary::{Landing, Random};
use super::fault::Fault;
use super::operation::{Operation, Request};
use super::shared::{BASE, SharedWindow};
use super::thread::Thread;
use super::warp::operands;
use barriers::Barriers;
use copies::{Load, Stores};
use meetings::{Agreement, Deed, GROUP_WARPS, NUM_BARRIERS, NamedBarriers, Registers};
use products::Products;
use writers::Writers;

pub(super) use calls::Awaited;

/// `SimulatorNamedBarrier` of `include/sm90/hopper.cuh`.
#[repr(C)]
struct NamedBarrierOperands {
    number: u32,
    num_threads: u32,
}

/// The block's.
pub(super) struct Hopper {
    kernel: &'static str,
    block: [u32; 3],
    shared: SharedWindow,
    landing: Landing,
    random: RefCell<Random>,
    writers: Writers,
    barriers: RefCell<Barriers>,
    /// Issued and not landed.
    loads: RefCell<Vec<Load>>,
    /// By thread.
    stores: Box<[RefCell<Stores>]>,
    /// By warp.
    products: Box<[RefCell<Products>]>,
    /// By warpgroup; the last one may lack warps.
    agreements: Box<[RefCell<Agreement>]>,
    num_warps: usize,
    named: RefCell<NamedBarriers>,
    registers: RefCell<Registers>,
    /// The lane that `elect_one` elects.
    elected: usize,
    /// 1 until a thread has waited for the grids that come before, in a launch that asks for it.
    is_early: Cell<u32>,
    /// Whether anything happened that a blocked warp may wait for.
    event: Cell<bool>,
}

impl Hopper {
    /// For one block.
    pub(super) fn new(
        launch: &Launch<'_>,
        block: [u32; 3],
        landing: Landing,
        shared: SharedWindow,
        mut random: Random,
    ) -> Self {
        let num_threads = launch.block.iter().product::<u32>() as usize;
        let num_warps = num_threads.div_ceil(32);
        // Nobody writes what a portable kernel would have to fence.
        let tracked_bytes = if is_needed(launch) { shared.num_bytes as usize } else { 0 };
        Self {
            kernel: launch.entry.name,
            block,
            shared,
            landing,
            elected: random.below(32),
            random: RefCell::new(random),
            writers: Writers::new(tracked_bytes, num_threads),
            barriers: RefCell::default(),
            loads: RefCell::default(),
            stores: (0..num_threads).map(|_| RefCell::default()).collect(),
            products: (0..num_warps).map(|_| RefCell::default()).collect(),
            agreements: (0..num_warps.div_ceil(GROUP_WARPS)).map(|_| RefCell::default()).collect(),
            num_warps,
            named: RefCell::new(NamedBarriers::new(num_warps)),
            registers: RefCell::new(Registers::new(num_warps, launch.entry.max_threads)),
            is_early: Cell::new(launch.is_programmatic.into()),
            event: Cell::new(false),
        }
    }

    /// Where `native.cc` notes who wrote what.
    pub(super) fn tags(&self) -> *const Cell<u32> {
        self.writers.tags()
    }

    /// What a thread's plain stores are noted with.
    pub(super) fn tag(&self, thread: usize) -> u32 {
        self.writers.tag(thread)
    }

    /// Where `native.cc` sees whether global memory may be written.
    pub(super) fn is_early(&self) -> *const Cell<u32> {
        &self.is_early
    }

    /// A plain store that the machine does on a thread's behalf.
    pub(super) fn note_store(&self, thread: &Thread, place: *const u8, num_bytes: usize) {
        if self.writers.is_empty() {
            return;
        }
        let offset = place as usize - self.shared.bytes as usize;
        self.writers.note(offset, num_bytes, thread.index);
    }

    /// Whether anything has happened that a blocked warp may wait for.
    pub(super) fn has_event(&self) -> bool {
        self.event.get()
    }

    /// The same, since the last time.
    pub(super) fn take_event(&self) -> bool {
        self.event.take()
    }

    /// Whether the barrier's last phase of this parity is complete.
    pub(super) fn is_complete(&self, barrier: u32, parity: u32) -> bool {
        self.barriers.borrow().get(barrier).is_some_and(|barrier| barrier.is_complete(parity))
    }

    /// What a barrier that is waited for lacks.
    pub(super) fn describe(&self, barrier: u32) -> String {
        let barriers = self.barriers.borrow();
        let what = barriers.get(barrier).map_or_else(|| "no barrier".into(), |barrier| barrier.describe());
        format!("mbarrier at {}: {what}", barrier - BASE)
    }

    /// Lands what one of these barriers waits for; false if nothing is under way.
    pub(super) fn land_for_any(&self, waited: &[Awaited]) -> Result<bool, Fault> {
        let first = if waited.is_empty() { 0 } else { self.random.borrow_mut().below(waited.len()) };
        for &Awaited { barrier, parity } in waited[first..].iter().chain(&waited[..first]) {
            if self.land_for(barrier, parity)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A phase is complete: all that was under way for it has landed.
    fn complete(&self, barrier: u32) -> Result<(), Fault> {
        self.event.set(true);
        let late: u32 = self.loads.borrow().iter().filter(|load| load.barrier == barrier).map(Load::num_bytes).sum();
        if late == 0 {
            return Ok(());
        }
        let what = format!("{late} bytes under way to the mbarrier at {} when its phase was complete", barrier - BASE);
        Err(self.unfinished(what))
    }

    /// A warp does what all of its warpgroup must do.
    fn agree(&self, thread: &Thread, operation: &'static str, deed: Deed) -> Result<(), Fault> {
        let warp = thread.index / 32;
        let (group, member) = (warp / GROUP_WARPS, warp % GROUP_WARPS);
        if GROUP_WARPS * (group + 1) > self.num_warps {
            return Err(thread.misuse(operation, "a warpgroup of less than four warps"));
        }
        let agreed = self.agreements[group].borrow_mut().add(member, deed);
        agreed.map_err(|other| thread.misuse(operation, &format!("{deed:?}, where another warp did {other:?}")))
    }

    /// Does what all lanes of a warp wait at; false if it cannot be done yet.
    pub(super) fn perform(
        &self,
        request: Request,
        threads: &[Thread],
        requests: &[Request; 32],
    ) -> Result<bool, Fault> {
        let thread = &threads[0];
        let warp = thread.index / 32;
        let products = || self.products[warp].borrow_mut();
        match request.operation {
            Operation::Wgmma => products::issue(self, threads, requests)?,
            Operation::WgmmaFence => products().fence(),
            Operation::WgmmaCommit => products().commit(),
            Operation::WgmmaWait => products().wait(self, threads, products::immediate(requests))?,
            Operation::Elect => {
                // SAFETY: all lanes wait at an election, so this is what their operands are.
                let lanes = unsafe { operands::<u32>(requests) };
                *lanes[self.elected] = 1;
            }
            Operation::NamedBarrierSync | Operation::NamedBarrierArrive => {
                return self.meet_at_number(request.operation, threads, requests);
            }
            Operation::GiveRegisters | Operation::TakeRegisters => {
                let registers = products::immediate(requests);
                let mut all = self.registers.borrow_mut();
                let done = match request.operation {
                    Operation::GiveRegisters => all.give(warp, registers).map(|()| true),
                    _ => all.take(warp, registers),
                };
                let name = request.operation.name();
                let refuse = |held| thread.misuse(name, &format!("{registers} by threads that have {held}"));
                if !done.map_err(refuse)? {
                    return Ok(false);
                }
                self.event.set(true);
                self.agree(thread, name, Deed::Registers(registers))?;
            }
            other => unreachable!("{other:?} is not of Hopper"),
        }
        Ok(true)
    }

    fn meet_at_number(
        &self,
        operation: Operation,
        threads: &[Thread],
        requests: &[Request; 32],
    ) -> Result<bool, Fault> {
        // SAFETY: all lanes wait at such a barrier, so this is what their operands are.
        let lanes = unsafe { operands::<NamedBarrierOperands>(requests) };
        let (thread, name) = (&threads[0], operation.name());
        let NamedBarrierOperands { number, num_threads } = *lanes[0];
        if lanes.iter().any(|lane| (lane.number, lane.num_threads) != (number, num_threads)) {
            return Err(thread.misuse(name, "lanes of one warp are at different barriers"));
        }
        if number == 0 || number >= NUM_BARRIERS {
            return Err(thread.operand(name, "number", number.into()));
        }
        if num_threads == 0 || !num_threads.is_multiple_of(32) || num_threads as usize > 32 * self.num_warps {
            return Err(thread.operand(name, "num_threads", num_threads.into()));
        }
        let mut barriers = self.named.borrow_mut();
        let done = match operation {
            Operation::NamedBarrierArrive => barriers.arrive(number, num_threads).map(|()| true),
            _ => barriers.sync(thread.index / 32, number, num_threads),
        };
        self.event.set(barriers.take_event() || self.event.get());
        done.map_err(|other| thread.misuse(name, &format!("{num_threads} threads, where others expect {other}")))
    }

    /// The block has ended: what must be done by now is, and stores are written.
    pub(super) fn finish(&self) -> Result<(), Fault> {
        if let Some(load) = self.loads.borrow().first() {
            return Err(self.unfinished(format!("a load under way to the mbarrier at {}", load.barrier - BASE)));
        }
        if let Some(thread) = self.stores.iter().position(|stores| !stores.borrow_mut().finish()) {
            return Err(self.unfinished(format!("stores of thread {thread} that had not read their source")));
        }
        if let Some(warp) = self.products.iter().position(|products| !products.borrow().is_done()) {
            return Err(self.unfinished(format!("products of warp {warp} under way")));
        }
        if let Some(deed) = self.agreements.iter().find_map(|agreement| agreement.borrow().first_open()) {
            return Err(self.unfinished(format!("{deed:?} by some warps of a warpgroup, and not by others")));
        }
        if self.is_early.get() != 0 {
            return Err(self.unfinished("no wait_for_previous_grid, in a launch that asks for one".into()));
        }
        Ok(())
    }

    fn unfinished(&self, what: String) -> Fault {
        Fault::Unfinished { kernel: self.kernel, block: self.block, what }
    }
}

/// Whether the kernel may have instructions of Hopper.
fn is_needed(launch: &Launch<'_>) -> bool {
    launch.entry.compute_capability >= (9, 0)
}
