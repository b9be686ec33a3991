//! What a stream or a graph is given to do, and how it is done.

use std::ffi::c_void;
use std::ptr;
use std::sync::Arc;

use super::memory::{Memory, Place, Range, Space};
use super::status::Status;
use crate::machine::{self, Adversary, DeviceModel, Entry, Fault, Launch};

/// One piece of work; what it needs was copied when it was given.
#[derive(Clone)]
pub(super) enum Work {
    /// A kernel.
    Kernel(Kernel),
    /// Bytes from one address to another.
    Copy { to: Range, from: u64 },
    /// Bytes of pageable memory, as they were when the copy was given, to an address.
    Upload { to: Range, bytes: Arc<[u8]> },
    /// Bytes of an address to pageable memory, whose owner waits for it.
    Download { to: Range, from: u64 },
    /// A pattern of 1 or 4 bytes, repeated.
    Fill { to: Range, pattern: Arc<[u8]> },
    /// What another library does with device memory.
    Foreign(Foreign),
    /// The point at which an event was recorded.
    Mark { event: usize },
}

/// A launch.
#[derive(Clone)]
pub(super) struct Kernel {
    pub(super) entry: &'static Entry,
    pub(super) grid: [u32; 3],
    pub(super) block: [u32; 3],
    pub(super) shared_bytes: u32,
    pub(super) params: Arc<[u8]>,
    pub(super) module: usize,
    /// Whether it was launched with programmatic serialisation.
    pub(super) is_programmatic: bool,
}

/// A function on a copy of its arguments, and the memory that it will use.
#[derive(Clone)]
pub(super) struct Foreign {
    pub(super) name: &'static str,
    pub(super) run: unsafe extern "C" fn(*const c_void),
    pub(super) arguments: Arc<[u64]>,
    pub(super) ranges: Arc<[Range]>,
}

/// What went wrong on the device: the status that stays, and what to say about it.
pub(super) struct Misfortune {
    pub(super) status: Status,
    pub(super) text: String,
}

impl Misfortune {
    pub(super) fn illegal_address(text: String) -> Self {
        Self { status: Status::ERROR_ILLEGAL_ADDRESS, text }
    }
}

impl From<Fault> for Misfortune {
    /// What a device would report; one on which threads wait for each other for ever would not, so that is its own.
    fn from(fault: Fault) -> Self {
        let status = match fault {
            Fault::OutOfBounds { .. } | Fault::SharedOverrun { .. } => Status::ERROR_ILLEGAL_ADDRESS,
            Fault::Misaligned { .. } => Status::ERROR_MISALIGNED_ADDRESS,
            Fault::Operand { .. } | Fault::Misuse { .. } => Status::ERROR_ILLEGAL_INSTRUCTION,
            Fault::Endless { .. } => Status::ERROR_LAUNCH_TIMEOUT,
            Fault::Launch { .. } | Fault::Divergence { .. } | Fault::Unfinished { .. } => Status::ERROR_LAUNCH_FAILED,
        };
        Self { status, text: fault.to_string() }
    }
}

impl Work {
    /// Whether it uses this allocation, as far as can be told before it runs: kernels may also follow pointers in memory.
    pub(super) fn uses(&self, allocation: Range) -> bool {
        match self {
            Self::Kernel(kernel) => kernel.words().any(|word| allocation.contains(Range { address: word, bytes: 1 })),
            Self::Copy { to, from } => {
                to.overlaps(allocation) || Range { address: *from, bytes: to.bytes }.overlaps(allocation)
            }
            Self::Upload { to, .. } | Self::Fill { to, .. } => to.overlaps(allocation),
            Self::Download { to, from } => Range { address: *from, bytes: to.bytes }.overlaps(allocation),
            Self::Foreign(foreign) => foreign.ranges.iter().any(|range| range.overlaps(allocation)),
            Self::Mark { .. } => false,
        }
    }

    /// Does it on the device of that ordinal.
    pub(super) fn run(&self, memory: &Memory, device: usize, model: DeviceModel, seed: u64) -> Result<(), Misfortune> {
        let whole = |range: Range| match memory.place(range.address) {
            Place::Live(Space::Device(owner), allocation) if owner == device && allocation.contains(range) => Ok(()),
            Place::Live(Space::Pinned(_), allocation) if allocation.contains(range) => Ok(()),
            place => Err(Misfortune::illegal_address(format!("{}: uses {range}, but there is {place}", self.name()))),
        };
        match self {
            Self::Kernel(kernel) => kernel.run(memory, device, model, seed)?,
            Self::Copy { to, from } => {
                whole(*to)?;
                whole(Range { address: *from, bytes: to.bytes })?;
                // SAFETY: both ranges are inside of live allocations; they may be the same one.
                unsafe { ptr::copy(*from as *const u8, to.address as *mut u8, to.bytes as usize) };
            }
            Self::Upload { to, bytes } => {
                whole(*to)?;
                // SAFETY: the destination is inside of a live allocation and as long as the bytes.
                unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), to.address as *mut u8, bytes.len()) };
            }
            Self::Download { to, from } => {
                whole(Range { address: *from, bytes: to.bytes })?;
                // SAFETY: the source is inside of a live allocation; the owner of the destination is in a call until it is
                // written, and has promised that it is so long.
                unsafe { ptr::copy_nonoverlapping(*from as *const u8, to.address as *mut u8, to.bytes as usize) };
            }
            Self::Fill { to, pattern } => {
                whole(*to)?;
                // SAFETY: the destination is inside of a live allocation.
                let bytes = unsafe { std::slice::from_raw_parts_mut(to.address as *mut u8, to.bytes as usize) };
                bytes.chunks_exact_mut(pattern.len()).for_each(|chunk| chunk.copy_from_slice(pattern));
            }
            Self::Foreign(foreign) => {
                foreign.ranges.iter().try_for_each(|range| whole(*range))?;
                // SAFETY: the arguments are those that came with the function, and the memory it uses is there.
                unsafe { (foreign.run)(foreign.arguments.as_ptr().cast()) };
            }
            Self::Mark { .. } => {}
        }
        match self {
            Self::Kernel(_) | Self::Foreign(_) => {
                let overrun = |text| Misfortune::illegal_address(format!("{}: {text}", self.name()));
                memory.check().map_err(overrun)
            }
            _ => Ok(()),
        }
    }

    /// What messages call it.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Kernel(kernel) => kernel.entry.name,
            Self::Copy { .. } | Self::Upload { .. } | Self::Download { .. } => "copy",
            Self::Fill { .. } => "memset",
            Self::Foreign(foreign) => foreign.name,
            Self::Mark { .. } => "event",
        }
    }
}

impl Kernel {
    /// Whatever may be a pointer among the params. Who launches keeps what lies between their members zero: the stack is
    /// full of upper halves of addresses, which would look like one there.
    fn words(&self) -> impl Iterator<Item = u64> {
        self.params.chunks_exact(8).filter_map(|word| word.try_into().ok()).map(u64::from_ne_bytes)
    }

    fn run(&self, memory: &Memory, device: usize, model: DeviceModel, seed: u64) -> Result<(), Misfortune> {
        for word in self.words() {
            let what = match memory.place(word) {
                place @ Place::Retired(_) => place,
                place @ Place::Live(Space::Device(owner), _) if owner != device => place,
                _ => continue,
            };
            return Err(Misfortune::illegal_address(format!(
                "{}: was launched with {what}, on device {device}",
                self.entry.name
            )));
        }
        let Self { entry, grid, block, shared_bytes, ref params, is_programmatic, .. } = *self;
        let adversary = Adversary::default();
        let launch =
            Launch { entry, grid, block, shared_bytes, params, device: model, seed, adversary, is_programmatic };
        // SAFETY: the pointers that can be seen are to live memory; that a kernel stays inside of it is what is tested, and
        // the driver is locked, so that nothing else runs.
        unsafe { machine::run(&launch) }?;
        Ok(())
    }
}
