//! Barriers in shared memory ("mbarrier"): phases, arrivals and bytes, exactly.

use std::collections::BTreeMap;

/// Bytes, and alignment, of a barrier.
pub(super) const BARRIER_BYTES: u32 = 8;

/// Arrivals of a phase, and bytes that it can wait for, at most: 2^20 - 1.
pub(super) const MAX_COUNT: u32 = (1 << 20) - 1;

pub(super) struct Barrier {
    count: u32,
    pending: u32,
    /// Announced and not landed; less than zero where bytes landed before they were announced.
    bytes: i64,
    phase: u64,
    /// Who made it, until that thread has told the asynchronous proxy of it.
    unfenced: Option<usize>,
}

/// The barriers of a block, by shared address. What their bytes hold is nobody's business.
#[derive(Default)]
pub(super) struct Barriers(BTreeMap<u32, Barrier>);

impl Barriers {
    /// False if there is one already.
    pub(super) fn init(&mut self, address: u32, count: u32, thread: usize) -> bool {
        let barrier = Barrier { count, pending: count, bytes: 0, phase: 0, unfenced: Some(thread) };
        self.0.insert(address, barrier).is_none()
    }

    /// What the thread made, copies may complete on.
    pub(super) fn fence(&mut self, thread: usize) {
        self.0.values_mut().for_each(|barrier| barrier.unfenced = barrier.unfenced.filter(|&maker| maker != thread));
    }

    pub(super) fn get(&self, address: u32) -> Option<&Barrier> {
        self.0.get(&address)
    }

    pub(super) fn get_mut(&mut self, address: u32) -> Option<&mut Barrier> {
        self.0.get_mut(&address)
    }

    /// A barrier of which these bytes are a part.
    pub(super) fn within(&self, address: u32, num_bytes: u32) -> Option<u32> {
        let first = (address + 1).saturating_sub(BARRIER_BYTES);
        self.0.range(first..address + num_bytes).next().map(|(&barrier, _)| barrier)
    }
}

impl Barrier {
    pub(super) fn is_fenced(&self) -> bool {
        self.unfenced.is_none()
    }

    /// One arrival, which announces so many bytes; whether it completes the phase. None if all have arrived already, and
    /// bytes are what the phase waits for.
    pub(super) fn arrive(&mut self, num_bytes: u32) -> Option<bool> {
        self.bytes += i64::from(num_bytes);
        self.pending = self.pending.checked_sub(1)?;
        Some(self.settle())
    }

    /// Bytes have landed; whether that completes the phase.
    pub(super) fn land(&mut self, num_bytes: u32) -> bool {
        self.bytes -= i64::from(num_bytes);
        self.settle()
    }

    /// Whether the last phase of this parity is complete: the current one has the other.
    pub(super) fn is_complete(&self, parity: u32) -> bool {
        self.phase % 2 != u64::from(parity)
    }

    /// Whether the count of bytes is one that the hardware can hold.
    pub(super) fn is_in_range(&self) -> bool {
        self.bytes.unsigned_abs() <= u64::from(MAX_COUNT)
    }

    /// What the current phase waits for.
    pub(super) fn describe(&self) -> String {
        format!("phase {} waits for {} arrivals and {} bytes", self.phase, self.pending, self.bytes)
    }

    fn settle(&mut self) -> bool {
        let is_complete = self.pending == 0 && self.bytes == 0;
        if is_complete {
            self.phase += 1;
            self.pending = self.count;
        }
        is_complete
    }
}
