//! The shared memory of the block that runs: exactly as long as the launch asked for, between redzones, and full of NaNs
//! when a block starts.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ptr;

/// The shared address of the first byte, so that zero is none; `include/ptx.cuh` has the same number.
const BASE: u32 = 1024;

/// Every byte of it makes a NaN of any floating-point type.
pub(super) const POISON: u8 = 0xff;

/// Bytes on either side; a multiple of the strictest alignment that a kernel may ask for.
const REDZONE: usize = 1024;

unsafe extern "C" {
    fn simulator_forbid(bytes: *const u8, num_bytes: usize);
    fn simulator_allow(bytes: *const u8, num_bytes: usize);
}

/// Bytes between redzones, which AddressSanitizer watches where it is built in, and which are looked over otherwise.
pub(super) struct Guarded {
    allocation: *mut u8,
    layout: Layout,
    num_bytes: usize,
}

impl Guarded {
    pub(super) fn new(num_bytes: usize) -> Self {
        let layout = Layout::from_size_align(num_bytes + 2 * REDZONE, REDZONE).expect("far below the limit");
        // SAFETY: the size is not zero.
        let allocation = unsafe { alloc(layout) };
        if allocation.is_null() {
            handle_alloc_error(layout);
        }
        // SAFETY: the allocation is that long.
        unsafe { ptr::write_bytes(allocation, POISON, layout.size()) };
        let guarded = Self { allocation, layout, num_bytes };
        // SAFETY: the redzone is part of the allocation.
        unsafe { simulator_forbid(allocation, REDZONE) };
        // SAFETY: likewise.
        unsafe { simulator_forbid(guarded.bytes().wrapping_add(num_bytes), REDZONE) };
        guarded
    }

    pub(super) fn bytes(&self) -> *mut u8 {
        self.allocation.wrapping_add(REDZONE)
    }

    pub(super) fn len(&self) -> usize {
        self.num_bytes
    }

    /// The side whose redzone was written to; under AddressSanitizer such a write has ended the process.
    pub(super) fn overrun(&self) -> Option<&'static str> {
        if cfg!(feature = "sanitize") {
            return None;
        }
        let intact = |start: *mut u8| {
            // SAFETY: the redzone is part of the allocation, was written by `new` and nobody writes it now.
            let redzone = unsafe { std::slice::from_raw_parts(start, REDZONE) };
            redzone.iter().all(|&byte| byte == POISON)
        };
        match (intact(self.allocation), intact(self.bytes().wrapping_add(self.num_bytes))) {
            (false, _) => Some("before"),
            (_, false) => Some("after"),
            _ => None,
        }
    }
}

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
