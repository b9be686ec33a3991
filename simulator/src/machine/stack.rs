//! The threads' stacks. They outlive their block and their launch: mapping one costs more than most threads do on it.

use std::cell::RefCell;

use corosensei::stack::{DefaultStack, Stack, StackPointer};

/// A kernel's frames are small, those that AddressSanitizer pads are not. Only touched pages are memory.
const STACK_BYTES: usize = if cfg!(feature = "sanitize") { 512 << 10 } else { 128 << 10 };

/// How far the stacks of neighbours start from the ends of their pages. Were it the same, the few lines that each
/// thread has at hand would share one set of the cache, and every switch would miss.
const SKEW_BYTES: usize = 320;

/// Skews there are, of less than a page in all.
const NUM_SKEWS: usize = 12;

/// A stack that starts somewhat below the end of its mapping.
pub(super) struct ThreadStack {
    mapping: DefaultStack,
    skew: usize,
}

// SAFETY: the mapping has the guard page, and is far longer than the skew; the base stays aligned, for the skew is a
// multiple of every stack alignment.
unsafe impl Stack for ThreadStack {
    fn base(&self) -> StackPointer {
        StackPointer::new(self.mapping.base().get() - self.skew).expect("the mapping is longer than the skew")
    }

    fn limit(&self) -> StackPointer {
        self.mapping.limit()
    }
}

thread_local! {
    static IDLE: RefCell<Vec<ThreadStack>> = const { RefCell::new(Vec::new()) };
}

impl ThreadStack {
    /// A stack that is idle, or a new one.
    pub(super) fn take(thread: usize) -> Self {
        IDLE.with_borrow_mut(Vec::pop).unwrap_or_else(|| {
            let mapping = DefaultStack::new(STACK_BYTES).expect("the host has memory for a thread's stack");
            Self { mapping, skew: thread % NUM_SKEWS * SKEW_BYTES }
        })
    }

    /// Keeps the stacks for other threads; the first is the next to be taken.
    pub(super) fn give_back(stacks: impl DoubleEndedIterator<Item = Self>) {
        IDLE.with_borrow_mut(|idle| idle.extend(stacks.rev()));
    }
}
