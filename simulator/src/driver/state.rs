//! The state of the driver, and its devices at work.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::thread::{self, ThreadId};

use super::RELEASED;
use super::capture::{Capture, Executable, Graph, Recording};
use super::config::Config;
use super::image::Image;
use super::memory::{Memory, Space};
use super::objects::Table;
use super::schedule::{Frontier, Schedule, Wait};
use super::status::{Result, Status};
use super::work::{Misfortune, Work};
use crate::machine::{Entry, Random};

/// A device and its primary context.
#[derive(Default)]
pub(super) struct Device {
    /// How often its context was retained and not released.
    pub(super) retained: usize,
    /// What went wrong on it, for ever: the manual asks for a new process.
    pub(super) fault: Option<Status>,
    /// The end of the legacy default stream.
    pub(super) default_frontier: Frontier,
}

/// A stream.
pub(super) struct Stream {
    pub(super) device: usize,
    /// Whether it and the legacy default stream wait for each other.
    pub(super) is_blocking: bool,
    /// The thread whose default stream it is; nobody created that one.
    pub(super) thread: Option<ThreadId>,
    pub(super) frontier: Frontier,
    pub(super) recording: Option<Recording>,
}

/// What an event marks.
pub(super) enum Marked {
    /// Nothing yet.
    Nothing,
    /// Work that was given.
    Work(Frontier),
    /// Work that was recorded.
    Recording(Recording),
}

/// An event.
pub(super) struct Event {
    pub(super) device: usize,
    pub(super) keeps_time: bool,
    pub(super) marked: Marked,
    /// When it was reached, by the device's clock.
    pub(super) time: Option<u64>,
}

/// A loaded fatbin.
pub(super) struct Module {
    pub(super) device: usize,
    pub(super) image: Image,
}

/// A kernel of a loaded fatbin.
pub(super) struct Function {
    pub(super) device: usize,
    pub(super) module: usize,
    pub(super) entry: &'static Entry,
    /// Dynamic shared memory that a launch may ask for.
    pub(super) max_shared_bytes: u32,
}

/// All of it.
pub(super) struct Driver {
    pub(super) config: Config,
    pub(super) environment_error: Option<String>,
    pub(super) is_initialized: bool,
    pub(super) num_calls: u64,
    pub(super) num_launches: u64,
    /// The same by the kernel's name.
    pub(super) launches: BTreeMap<&'static str, u64>,
    /// Operations done so far: the device's clock, which tells order and no time.
    clock: u64,
    random: Random,
    pub(super) devices: Vec<Device>,
    pub(super) memory: Memory,
    pub(super) schedule: Schedule,
    pub(super) streams: Table<Stream>,
    pub(super) events: Table<Event>,
    pub(super) modules: Table<Module>,
    pub(super) functions: Table<Function>,
    pub(super) graphs: Table<Graph>,
    pub(super) executables: Table<Executable>,
    pub(super) captures: Table<Capture>,
}

thread_local! {
    /// The contexts of this thread, the current one last; each by its device's ordinal, or none.
    static CONTEXTS: RefCell<Vec<Option<usize>>> = const { RefCell::new(Vec::new()) };
}

/// The contexts of this thread, to look at or to change.
pub(super) fn with_contexts<T>(use_them: impl FnOnce(&mut Vec<Option<usize>>) -> T) -> T {
    CONTEXTS.with_borrow_mut(use_them)
}

impl Driver {
    pub(super) fn from_environment() -> Self {
        match Config::from_environment() {
            Ok(config) => Self::new(config, None),
            Err(error) => Self::new(Config::default(), Some(error)),
        }
    }

    fn new(config: Config, environment_error: Option<String>) -> Self {
        Self {
            random: Random::new(config.seed, 0),
            config,
            environment_error,
            is_initialized: false,
            num_calls: 0,
            num_launches: 0,
            launches: BTreeMap::new(),
            clock: 0,
            devices: Vec::new(),
            memory: Memory::default(),
            schedule: Schedule::default(),
            streams: Table::new(0x51),
            events: Table::new(0x52),
            modules: Table::new(0x53),
            functions: Table::new(0x54),
            graphs: Table::new(0x55),
            executables: Table::new(0x56),
            captures: Table::new(0x57),
        }
    }

    /// Starts to draw by another seed.
    pub(super) fn set_seed(&mut self, seed: u64) {
        self.config.seed = seed;
        self.random = Random::new(seed, 0);
    }

    /// Counts a call; an error if it is to fail.
    pub(super) fn count(&mut self, name: &str) -> Result<()> {
        self.num_calls += 1;
        if let Some((_, status)) = self.config.fail_call.filter(|(number, _)| *number == self.num_calls) {
            return Err(status);
        }
        match &self.config.fail_function {
            Some((function, status)) if function == name => Err(*status),
            _ => Ok(()),
        }
    }

    /// The device whose context is current on this thread, if it is well.
    pub(super) fn current(&self) -> Result<usize> {
        self.initialized()?;
        let current = with_contexts(|contexts| contexts.last().copied().flatten());
        let device = current.ok_or(Status::ERROR_INVALID_CONTEXT)?;
        if self.devices[device].retained == 0 {
            return Err(Status::ERROR_CONTEXT_IS_DESTROYED);
        }
        self.healthy(device)?;
        Ok(device)
    }

    pub(super) fn initialized(&self) -> Result<()> {
        if self.is_initialized { Ok(()) } else { Err(Status::ERROR_NOT_INITIALIZED) }
    }

    /// An error if something has gone wrong on the device.
    pub(super) fn healthy(&self, device: usize) -> Result<()> {
        self.devices[device].fault.map_or(Ok(()), Err)
    }

    /// A device's fault: its work is lost, and every later call fails.
    pub(super) fn fail(&mut self, device: usize, misfortune: Misfortune) -> Status {
        let Misfortune { status, text } = misfortune;
        eprintln!("CUDA simulator: device {device}: {text} (status {}, which stays)", status.0);
        self.devices[device].fault = Some(status);
        self.schedule.abandon(device);
        RELEASED.notify_all();
        status
    }

    /// A wait of the host, answered in an order by the seed.
    pub(super) fn begin_wait(&mut self, mut target: Frontier) -> Wait {
        self.schedule.undone(&mut target);
        self.schedule.wait(target, &mut self.random)
    }

    /// Does one operation; false if all that the wait needs is behind one that hangs.
    pub(super) fn step(&mut self, wait: &Wait) -> bool {
        let Some(operation) = self.schedule.choose(wait, &mut self.random) else { return false };
        let Some(pending) = self.schedule.get(operation) else { return false };
        let device = pending.device;
        if let Work::Kernel(kernel) = &pending.work
            && self.schedule.released != Some(operation)
        {
            self.num_launches += 1;
            *self.launches.entry(kernel.entry.name).or_default() += 1;
            if self.config.hang_launch == Some(self.num_launches) {
                self.schedule.hung = Some(operation);
                return true;
            }
        }
        let Some(pending) = self.schedule.take(operation) else { return false };
        self.clock += 1;
        if let Err(misfortune) = self.run(&pending.work, device) {
            self.fail(device, misfortune);
        }
        true
    }

    fn run(&mut self, work: &Work, device: usize) -> std::result::Result<(), Misfortune> {
        if let Work::Mark { event } = work {
            // The event may be gone; its work is done all the same.
            if let Ok(event) = self.events.get_mut(*event) {
                event.time = Some(self.clock);
            }
            return Ok(());
        }
        if let (Work::Kernel(kernel), Some((number, status))) = (work, self.config.fail_launch)
            && number == self.num_launches
        {
            let text = format!("{}: made to fail", kernel.entry.name);
            return Err(Misfortune { status, text });
        }
        work.run(&self.memory, device, self.config.model, self.random.next())
    }

    /// Some progress, or none, as a query may find it.
    pub(super) fn poll(&mut self, work: &Frontier) {
        if self.random.coin() {
            let wait = self.begin_wait(work.clone());
            self.step(&wait);
        }
    }

    /// If devices may be quick, lets them be.
    pub(super) fn run_promptly(&mut self) {
        if !self.config.prompt {
            return;
        }
        for _ in 0..self.random.below(4) {
            let wait = self.begin_wait(Frontier::new());
            self.step(&wait);
        }
    }

    /// All that a device has to do.
    pub(super) fn work_of(&self, device: usize) -> Frontier {
        self.schedule.of(device).map(|(operation, _)| operation).collect()
    }

    /// Invalidates the captures for which that is so; true if there were some.
    pub(super) fn invalidate(&mut self, is_hit: impl Fn(&Capture) -> bool) -> bool {
        let hit = self.captures.values_mut().filter(|capture| is_hit(capture));
        hit.map(|capture| capture.is_valid = false).count() > 0
    }

    /// What a call does first that no capture could see.
    pub(super) fn outside_of_captures(&mut self) -> Result<()> {
        let thread = thread::current().id();
        if self.invalidate(|capture| capture.forbids(thread)) {
            return Err(Status::ERROR_STREAM_CAPTURE_UNSUPPORTED);
        }
        Ok(())
    }

    /// Ends a device's context with all that is in it.
    pub(super) fn destroy_context(&mut self, device: usize) {
        let left = self.census(Some(device));
        if left.iter().any(|(_, count)| *count > 0) {
            eprintln!("CUDA simulator: the context of device {device} was released with {}", describe(&left));
        }
        self.schedule.abandon(device);
        for space in [Space::Device(device), Space::Pinned(device)] {
            let addresses: Vec<u64> = self.memory.of(space).map(|range| range.address).collect();
            for address in addresses {
                self.free(device, address);
            }
        }
        if let Err(text) = self.memory.check_retired() {
            self.fail(device, Misfortune::illegal_address(text));
        }
        self.streams.retain(|stream| stream.device != device);
        self.events.retain(|event| event.device != device);
        self.modules.retain(|module| module.device != device);
        self.functions.retain(|function| function.device != device);
        self.graphs.retain(|graph| graph.device != device);
        self.executables.retain(|executable| executable.graph.device != device);
        self.captures.retain(|capture| capture.graph.device != device);
        self.devices[device].default_frontier.clear();
    }

    /// Frees an allocation; what is found wrong with it, or that work still needs it, is the device's fault.
    pub(super) fn free(&mut self, device: usize, address: u64) {
        let range = self.memory.starting_at(address).map(|(_, range)| range);
        let user = range.and_then(|range| {
            let user = self.schedule.of(device).find(|(_, work)| work.uses(range));
            user.map(|(_, work)| format!("{range} were freed, but {} that was given before may use them", work.name()))
        });
        let found = self.memory.free(address);
        if let Some(text) = user.or(found.err()) {
            self.fail(device, Misfortune::illegal_address(text));
        }
    }

    /// How many objects of each kind are alive, of a device or of all.
    pub(super) fn census(&self, device: Option<usize>) -> [(&'static str, usize); 9] {
        let is_meant = |of: usize| device.is_none_or(|device| device == of);
        let devices = || (0..self.devices.len()).filter(|&of| is_meant(of));
        let contexts = devices().filter(|&of| device.is_none() && self.devices[of].retained > 0).count();
        let allocations = |space: fn(usize) -> Space| devices().map(|of| self.memory.of(space(of)).count()).sum();
        [
            ("contexts", contexts),
            ("allocations", allocations(Space::Device)),
            ("pinned", allocations(Space::Pinned)),
            ("streams", self.streams.iter().filter(|(_, of)| is_meant(of.device) && of.thread.is_none()).count()),
            ("events", self.events.iter().filter(|(_, event)| is_meant(event.device)).count()),
            ("modules", self.modules.iter().filter(|(_, module)| is_meant(module.device)).count()),
            ("graphs", self.graphs.iter().filter(|(_, graph)| is_meant(graph.device)).count()),
            ("executables", self.executables.iter().filter(|(_, graph)| is_meant(graph.graph.device)).count()),
            ("captures", self.captures.iter().filter(|(_, capture)| is_meant(capture.graph.device)).count()),
        ]
    }
}

/// The kinds of which there are some, with their numbers.
pub(super) fn describe(census: &[(&'static str, usize)]) -> String {
    let some = census.iter().filter(|(_, count)| *count > 0);
    let some: Vec<String> = some.map(|(kind, count)| format!("{kind} {count}")).collect();
    if some.is_empty() { "nothing".to_owned() } else { some.join(", ") }
}
