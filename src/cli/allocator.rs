//! The program's allocator: the system's, with a reserve for what cannot fail.
//!
//! Where memory lacks, whatever takes much of it asks in ways that can fail, and its request is refused. Much else takes little
//! and cannot fail: the runtime's tasks, headers, strings of JSON. For want of a few bytes there Rust ends the process. So a
//! reserve is set aside at the start, and given back piece by piece to small allocations that would fail.
#![allow(unsafe_code, reason = "an allocator")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicPtr, Ordering};
use std::time::Duration;
use std::{io, ptr, thread};

/// Allocations up to this size may use the reserve: hyper's buffers are the largest that cannot fail. Larger ones are made of
/// sizes from outside, in ways that can.
const SMALL: usize = 1 << 20;

/// A piece of the reserve. What the system's allocator takes at a time to serve small allocations is not more.
const PIECE: Layout = match Layout::from_size_align(2 << 20, 4096) {
    Ok(layout) => layout,
    Err(_) => panic!("a size and an alignment of a piece"),
};

const PIECES: usize = 16;

/// How often it is looked whether the reserve lacks anything.
const REFILL: Duration = Duration::from_millis(100);

/// The system's allocator, with the reserve where there is one.
pub struct Allocator;

/// 32 MiB of address space. No page of it is touched before it is used.
struct Reserve {
    pieces: [AtomicPtr<u8>; PIECES],
}

static RESERVE: Reserve = Reserve::empty();

/// Sets the reserve aside, and keeps it filled for as long as the program runs.
pub(super) fn keep_reserve() -> io::Result<()> {
    RESERVE.refill();
    let keep = || loop {
        thread::sleep(REFILL);
        RESERVE.refill();
    };
    thread::Builder::new().name("reserve".to_string()).spawn(keep).map(drop)
}

impl Reserve {
    const fn empty() -> Self {
        Self { pieces: [const { AtomicPtr::new(ptr::null_mut()) }; PIECES] }
    }

    /// Sets the missing pieces of the reserve aside, as far as there is memory for them.
    fn refill(&self) {
        for piece in &self.pieces {
            if piece.load(Ordering::Relaxed).is_null() {
                // SAFETY: a piece is not empty.
                let memory = unsafe { System.alloc(PIECE) };
                if memory.is_null() {
                    return;
                }
                if piece.compare_exchange(ptr::null_mut(), memory, Ordering::AcqRel, Ordering::Relaxed).is_err() {
                    // SAFETY: it was allocated above with this layout, and nobody else has it.
                    unsafe { System.dealloc(memory, PIECE) };
                }
            }
        }
    }

    /// Gives a piece back to the system. False where none is left.
    fn release(&self) -> bool {
        for piece in &self.pieces {
            let memory = piece.swap(ptr::null_mut(), Ordering::AcqRel);
            if !memory.is_null() {
                // SAFETY: `refill` allocated it with this layout, and the exchange has made it this call's alone.
                unsafe { System.dealloc(memory, PIECE) };
                return true;
            }
        }
        false
    }

    /// Calls `allocate` again after each piece that is given back, until it succeeds or none is left.
    fn with_reserve(&self, size: usize, allocate: impl Fn() -> *mut u8) -> *mut u8 {
        let mut memory = allocate();
        while memory.is_null() && size <= SMALL && self.release() {
            memory = allocate();
        }
        memory
    }
}

// SAFETY: every call is the system's allocator's, with the arguments of the caller, who keeps its contract.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's.
        RESERVE.with_reserve(layout.size(), || unsafe { System.alloc(layout) })
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's.
        RESERVE.with_reserve(layout.size(), || unsafe { System.alloc_zeroed(layout) })
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller's. Where it fails the old memory is as it was, so it may be tried again.
        RESERVE.with_reserve(new_size, || unsafe { System.realloc(memory, layout, new_size) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_allocations_use_the_reserve_and_large_ones_do_not() {
        let reserve = Reserve::empty();
        let left = || reserve.pieces.iter().filter(|piece| !piece.load(Ordering::Relaxed).is_null()).count();
        reserve.refill();
        assert_eq!(left(), PIECES);
        assert!(reserve.with_reserve(SMALL + 1, ptr::null_mut).is_null());
        assert_eq!(left(), PIECES);
        // A system that has memory again after three pieces.
        let calls = std::cell::Cell::new(0);
        let memory = reserve.with_reserve(SMALL, || {
            calls.set(calls.get() + 1);
            if calls.get() > 3 { ptr::dangling_mut() } else { ptr::null_mut() }
        });
        assert!(!memory.is_null());
        assert_eq!(left(), PIECES - 3);
        reserve.refill();
        assert_eq!(left(), PIECES);
        assert!(reserve.with_reserve(1, ptr::null_mut).is_null(), "nothing helps");
        assert_eq!(left(), 0);
    }
}
