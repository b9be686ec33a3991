//! The shared memory of the block that runs: exactly as long as the launch asked for, between redzones, and full of
//! NaNs when a block starts.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ptr;

/// The shared address of the first byte, so that zero is none; `include/ptx.cuh` has the same number.
pub(super) const BASE: u32 = 1024;

/// Every byte of it makes a NaN of any floating-point type.
pub(super) const POISON: u8 = 0xff;

/// Bytes on either side; a multiple of the strictest alignment that a kernel may ask for.
const REDZONE: usize = 1024;

unsafe extern "C" {
    fn simulator_forbid(bytes: *const u8, num_bytes: usize);
    fn simulator_allow(bytes: *const u8, num_bytes: usize);
}

/// Bytes between redzones, which AddressSanitizer watches where it is built in, and which are looked over otherwise.
pub(crate) struct Guarded {
    allocation: *mut u8,
    layout: Layout,
    num_bytes: usize,
}

impl Guarded {
    pub(super) fn new(num_bytes: usize) -> Self {
        Self::try_new(num_bytes).unwrap_or_else(|| handle_alloc_error(Layout::new::<u8>()))
    }

    /// None if the host has no more memory.
    pub(crate) fn try_new(num_bytes: usize) -> Option<Self> {
        let layout = Layout::from_size_align(num_bytes.checked_add(2 * REDZONE)?, REDZONE).ok()?;
        // SAFETY: the size is not zero.
        let allocation = unsafe { alloc(layout) };
        if allocation.is_null() {
            return None;
        }
        // SAFETY: the allocation is that long.
        unsafe { ptr::write_bytes(allocation, POISON, layout.size()) };
        let guarded = Self { allocation, layout, num_bytes };
        // SAFETY: the redzone is part of the allocation.
        unsafe { simulator_forbid(allocation, REDZONE) };
        // SAFETY: likewise.
        unsafe { simulator_forbid(guarded.bytes().wrapping_add(num_bytes), REDZONE) };
        Some(guarded)
    }

    pub(crate) fn bytes(&self) -> *mut u8 {
        self.allocation.wrapping_add(REDZONE)
    }

    pub(crate) fn len(&self) -> usize {
        self.num_bytes
    }

    /// The side whose redzone was written to; under AddressSanitizer such a write has ended the process.
    pub(crate) fn overrun(&self) -> Option<&'static str> {
        if cfg!(feature = "sanitize") {
            return None;
        }
        let intact = |start: *mut u8| {
            // SAFETY: the redzone is part of the allocation, was written by `new` and nobody writes it now.
            let redzone = unsafe { std::slice::from_raw_parts(start, REDZONE) };
            is_poison(redzone)
        };
        match (intact(self.allocation), intact(self.bytes().wrapping_add(self.num_bytes))) {
            (false, _) => Some("before"),
            (_, false) => Some("after"),
            _ => None,
        }
    }

    /// Poisons all of it, for good: whoever reads it gets NaNs, and AddressSanitizer reports any access.
    pub(crate) fn retire(&self) {
        // SAFETY: the allocation is that long, and the caller's own.
        unsafe { ptr::write_bytes(self.bytes(), POISON, self.num_bytes) };
        // SAFETY: the bytes are part of the allocation.
        unsafe { simulator_forbid(self.bytes(), self.num_bytes) };
    }

    /// Whether nobody has written to it since it was retired; under AddressSanitizer that would have ended the process.
    pub(crate) fn is_poisoned(&self) -> bool {
        if cfg!(feature = "sanitize") {
            return true;
        }
        // SAFETY: all bytes were written when it was retired.
        let bytes = unsafe { std::slice::from_raw_parts(self.bytes(), self.num_bytes) };
        is_poison(bytes)
    }
}

/// Compares all bytes with their neighbours, which the host does many at a time.
fn is_poison(bytes: &[u8]) -> bool {
    let Some((first, rest)) = bytes.split_first() else { return true };
    *first == POISON && *rest == bytes[..rest.len()]
}

// SAFETY: plain memory that belongs to this value.
unsafe impl Send for Guarded {}

impl Drop for Guarded {
    fn drop(&mut self) {
        // SAFETY: the allocation is that long.
        unsafe { simulator_allow(self.allocation, self.layout.size()) };
        // SAFETY: `new` made it with this layout.
        unsafe { dealloc(self.allocation, self.layout) };
    }
}

/// What a thread can do with shared addresses.
#[derive(Clone, Copy)]
pub(super) struct SharedWindow {
    pub(super) bytes: *mut u8,
    pub(super) num_bytes: u32,
}

impl SharedWindow {
    /// The bytes at a shared address, if they all are the block's; an error is their place from the block's first byte.
    pub(super) fn at(self, address: u32, num_bytes: u32) -> Result<*mut u8, i64> {
        let offset = i64::from(address) - i64::from(BASE);
        if offset < 0 || offset + i64::from(num_bytes) > i64::from(self.num_bytes) {
            return Err(offset);
        }
        Ok(self.bytes.wrapping_add(offset as usize))
    }
}
