//! Device memory and pinned host memory: every allocation is one of the host's, between redzones, and full of NaNs at
//! first and at last.

use std::collections::{BTreeMap, VecDeque};

use crate::machine::Guarded;

/// Freed memory that is kept, so that who goes on using it is found out rather than served by its next owner.
const RETIRED_BYTES: usize = 256 << 20;

/// Who has an allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Space {
    /// A device, by its ordinal.
    Device(usize),
    /// The host; in the context of a device, by its ordinal.
    Pinned(usize),
}

/// Addresses from one on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) address: u64,
    pub(super) bytes: u64,
}

impl Range {
    pub(super) fn contains(self, other: Self) -> bool {
        let offset = other.address.checked_sub(self.address);
        offset.is_some_and(|offset| offset <= self.bytes && other.bytes <= self.bytes - offset)
    }

    pub(super) fn overlaps(self, other: Self) -> bool {
        self.address < other.address.saturating_add(other.bytes) && other.address < self.address + self.bytes
    }
}

impl std::fmt::Display for Range {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} bytes at {:#x}", self.bytes, self.address)
    }
}

struct Allocation {
    memory: Guarded,
    space: Space,
}

impl Allocation {
    fn range(&self) -> Range {
        Range { address: self.memory.bytes() as u64, bytes: self.memory.len() as u64 }
    }
}

/// What an address is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// An allocation.
    Live(Space, Range),
    /// An allocation that was freed.
    Retired(Range),
    /// Memory that the driver knows nothing of.
    Elsewhere,
}

impl std::fmt::Display for Place {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Live(Space::Device(device), range) => write!(formatter, "an allocation of device {device}, {range}"),
            Self::Live(Space::Pinned(_), range) => write!(formatter, "pinned memory, {range}"),
            Self::Retired(range) => write!(formatter, "memory that was freed, {range}"),
            Self::Elsewhere => write!(formatter, "memory that the driver knows nothing of"),
        }
    }
}

/// All allocations, by address.
#[derive(Default)]
pub(super) struct Memory {
    live: BTreeMap<u64, Allocation>,
    retired: VecDeque<Allocation>,
    retired_bytes: usize,
}

impl Memory {
    /// The address of a new allocation; none if the host has no more.
    pub(super) fn allocate(&mut self, space: Space, bytes: usize) -> Option<u64> {
        let allocation = Allocation { memory: Guarded::try_new(bytes)?, space };
        let address = allocation.range().address;
        self.live.insert(address, allocation);
        Some(address)
    }

    /// What `address` is in.
    pub(super) fn place(&self, address: u64) -> Place {
        let byte = Range { address, bytes: 1 };
        let below = self.live.range(..=address).next_back();
        if let Some((_, allocation)) = below.filter(|(_, allocation)| allocation.range().contains(byte)) {
            return Place::Live(allocation.space, allocation.range());
        }
        let retired = self.retired.iter().find(|allocation| allocation.range().contains(byte));
        retired.map_or(Place::Elsewhere, |allocation| Place::Retired(allocation.range()))
    }

    /// The allocation that starts at `address`.
    pub(super) fn starting_at(&self, address: u64) -> Option<(Space, Range)> {
        self.live.get(&address).map(|allocation| (allocation.space, allocation.range()))
    }

    /// Poisons an allocation and keeps it among the retired. An error says what was found wrong with it, or with a
    /// retired one that gave way to it.
    pub(super) fn free(&mut self, address: u64) -> Result<(), String> {
        let Some(allocation) = self.live.remove(&address) else { return Ok(()) };
        let mut found = describe_overrun(&allocation);
        allocation.memory.retire();
        self.retired_bytes += allocation.memory.len();
        self.retired.push_back(allocation);
        while self.retired_bytes > RETIRED_BYTES {
            let Some(oldest) = self.retired.pop_front() else { break };
            self.retired_bytes -= oldest.memory.len();
            if !oldest.memory.is_poisoned() {
                found = found.and(Err(format!("{} were written after they were freed", oldest.range())));
            }
        }
        found
    }

    /// Looks over all redzones; an error names one that was written.
    pub(super) fn check(&self) -> Result<(), String> {
        self.live.values().try_for_each(describe_overrun)
    }

    /// Looks over what was freed; an error names what was written since.
    pub(super) fn check_retired(&self) -> Result<(), String> {
        let written = self.retired.iter().find(|allocation| !allocation.memory.is_poisoned());
        written.map_or(Ok(()), |allocation| Err(format!("{} were written after they were freed", allocation.range())))
    }

    /// Bytes that a space has.
    pub(super) fn used_bytes(&self, space: Space) -> u64 {
        self.of(space).map(|range| range.bytes).sum()
    }

    /// Allocations of a space.
    pub(super) fn of(&self, space: Space) -> impl Iterator<Item = Range> {
        self.live.values().filter(move |allocation| allocation.space == space).map(Allocation::range)
    }
}

fn describe_overrun(allocation: &Allocation) -> Result<(), String> {
    let Some(side) = allocation.memory.overrun() else { return Ok(()) };
    Err(format!("bytes {side} an allocation of {} were overwritten", allocation.range()))
}
