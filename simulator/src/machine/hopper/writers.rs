//! Which thread wrote what in shared memory by plain stores, and whether it has told the asynchronous proxy.

use std::cell::Cell;

/// Bytes that have one writer: an element's.
const GRAIN: usize = 2;

/// Bits of a tag that count a thread's fences; above them is the thread's index, plus one.
const FENCE_BITS: u32 = 20;

/// A tag for each element of shared memory: who wrote it last, and after how many fences. `native.cc` sets them.
pub(super) struct Writers {
    tags: Box<[Cell<u32>]>,
    /// By thread: the tag of what it writes now.
    current: Box<[Cell<u32>]>,
}

impl Writers {
    /// For that much shared memory.
    pub(super) fn new(shared_bytes: usize, num_threads: usize) -> Self {
        let tags = vec![Cell::new(0); shared_bytes.div_ceil(GRAIN)].into();
        let first = |thread: usize| Cell::new((thread as u32 + 1) << FENCE_BITS);
        Self { tags, current: (0..num_threads).map(first).collect() }
    }

    /// Whether nothing is noted.
    pub(super) fn is_empty(&self) -> bool {
        self.tags.is_empty()
    }

    /// Where the tags are.
    pub(super) fn tags(&self) -> *const Cell<u32> {
        self.tags.as_ptr()
    }

    /// A thread's tag.
    pub(super) fn tag(&self, thread: usize) -> u32 {
        self.current[thread].get()
    }

    /// The thread's next tag: what it wrote with earlier ones is known to the asynchronous proxy.
    pub(super) fn fence(&self, thread: usize) -> u32 {
        let tag = self.tag(thread);
        let fences = (tag + 1) & ((1 << FENCE_BITS) - 1);
        self.current[thread].set(tag >> FENCE_BITS << FENCE_BITS | fences);
        self.tag(thread)
    }

    /// The bytes at this offset were written by the thread, on its behalf.
    pub(super) fn note(&self, offset: usize, num_bytes: usize, thread: usize) {
        let tag = self.tag(thread);
        self.range(offset, num_bytes).iter().for_each(|cell| cell.set(tag));
    }

    /// The bytes were written by the asynchronous proxy, or belong to no one.
    pub(super) fn clear(&self, offset: usize, num_bytes: usize) {
        self.range(offset, num_bytes).iter().for_each(|cell| cell.set(0));
    }

    /// A thread that wrote some of these bytes and has not fenced since.
    pub(super) fn unfenced(&self, offset: usize, num_bytes: usize) -> Option<usize> {
        self.range(offset, num_bytes).iter().map(Cell::get).find_map(|tag| {
            let thread = (tag >> FENCE_BITS).checked_sub(1)? as usize;
            (self.tag(thread) == tag).then_some(thread)
        })
    }

    fn range(&self, offset: usize, num_bytes: usize) -> &[Cell<u32>] {
        &self.tags[offset / GRAIN..(offset + num_bytes).div_ceil(GRAIN)]
    }
}
