//! A thread's asynchronous copies, from their issue to their landing.

use std::collections::VecDeque;
use std::ptr;

use super::adversary::{Landing, Random};
use super::shared::POISON;

/// Bytes of a copy's destination.
pub(super) const COPY_BYTES: u32 = 16;

unsafe extern "C" {
    fn simulator_copy(destination: *mut u8, source: *const u8, num_bytes: u32);
}

struct Copy {
    destination: *mut u8,
    source: *const u8,
    num_bytes: u32,
    group: u64,
}

/// Copies under way, oldest first.
pub(super) struct Copies {
    pending: VecDeque<Copy>,
    /// Groups that are closed; copies that are issued now belong to the next one.
    groups: u64,
    landing: Landing,
    random: Random,
}

impl Copies {
    pub(super) fn new(landing: Landing, random: Random) -> Self {
        Self { pending: VecDeque::new(), groups: 0, landing, random }
    }

    /// Until it lands, the destination holds nothing that may be read. Whether it has landed.
    ///
    /// # Safety
    ///
    /// Both pointers stay valid, for 16 and `num_bytes` bytes, until the copy has landed.
    pub(super) unsafe fn issue(&mut self, destination: *mut u8, source: *const u8, num_bytes: u32) -> bool {
        let at_once = match self.landing {
            Landing::AtIssue => true,
            Landing::Mixed => self.random.coin(),
            Landing::Late | Landing::Seeded => false,
        };
        if at_once {
            // SAFETY: the caller's promise.
            unsafe { simulator_copy(destination, source, num_bytes) };
        } else {
            // SAFETY: the caller's promise.
            unsafe { ptr::write_bytes(destination, POISON, COPY_BYTES as usize) };
            self.pending.push_back(Copy { destination, source, num_bytes, group: self.groups });
        }
        at_once
    }

    pub(super) fn commit(&mut self) {
        self.groups += 1;
    }

    /// Lands all groups but the youngest `pending` closed ones, and tells where. An open group waits for its commit.
    pub(super) fn wait(&mut self, pending: u32, landed: impl FnMut(*mut u8)) {
        let end_group = self.groups.saturating_sub(u64::from(pending));
        self.land(end_group, landed);
    }

    /// Lands what is under way when its thread has returned.
    pub(super) fn finish(&mut self) {
        self.land(u64::MAX, |_| {});
    }

    fn land(&mut self, end_group: u64, mut landed: impl FnMut(*mut u8)) {
        let num_landing = self.pending.partition_point(|copy| copy.group < end_group);
        for copy in self.pending.drain(..num_landing) {
            // SAFETY: who issued it promised that both stay valid until now.
            unsafe { simulator_copy(copy.destination, copy.source, copy.num_bytes) };
            landed(copy.destination);
        }
    }
}
