//! Embeddings by their content hash, so that what was encoded is not encoded again while there is room for it.
//!
//! They are kept a picture at a time (a pixel tensor at a time), in the element type in which they were computed: what a
//! GPU has computed in bf16 is exact in bf16, whatever type its client asks for. A request is answered from here if all
//! its pictures are here; otherwise all of them are encoded. Equal requests at once are all encoded, for none of them
//! waits for another: the second finds its place taken.

mod lru;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use axum::body::Bytes;
use rayon::prelude::*;

use crate::batch::Place;
use crate::digest::Digest;
use crate::dtype::Dtype;
use crate::error::InputError;
use crate::memory;
use lru::Lru;

/// Values that are widened in one piece.
const PIECE: usize = 1 << 14;

/// What is kept, and how often it was asked for.
#[derive(Debug)]
pub(crate) struct Cache {
    kept: Mutex<Lru<Bytes>>,
    /// The element type of all of it.
    dtype: Dtype,
    hits: AtomicU64,
    misses: AtomicU64,
}

/// What a request has met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lookup {
    Hit,
    Miss,
}

/// Counts, and the bytes that are kept now.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Counts {
    pub(crate) hits: u64,
    pub(crate) misses: u64,
    pub(crate) bytes: u64,
}

impl Lookup {
    /// Its name in logs.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
        }
    }

    /// The value of a `Cache-Status` header (RFC 9211).
    pub(crate) fn header(self) -> &'static str {
        match self {
            Self::Hit => "tilesight; hit",
            Self::Miss => "tilesight; fwd=miss",
        }
    }
}

impl Cache {
    /// A cache of so many bytes, for embeddings that are computed in this type.
    pub(crate) fn new(budget: u64, dtype: Dtype) -> Self {
        let kept = Mutex::new(Lru::new(budget));
        Self { kept, dtype, hits: AtomicU64::new(0), misses: AtomicU64::new(0) }
    }

    /// The embeddings of these content hashes, where all of them are here.
    pub(crate) fn find(&self, content_hashes: &[Digest]) -> Option<Vec<Bytes>> {
        let found = self.lock().get_all(content_hashes);
        let count = if found.is_some() { &self.hits } else { &self.misses };
        count.fetch_add(1, Ordering::Relaxed);
        found
    }

    /// One after another, in f32.
    ///
    /// # Errors
    /// [`InputError::OutOfMemory`].
    pub(crate) fn widen(&self, found: &[Bytes]) -> Result<Vec<f32>, InputError> {
        let size = self.dtype.size();
        let mut values = memory::zeroed(found.iter().map(Bytes::len).sum::<usize>() / size)?;
        let mut rest = &mut values[..];
        for bytes in found {
            let (own, others) = rest.split_at_mut(bytes.len() / size);
            rest = others;
            let pieces = own.par_chunks_mut(PIECE).zip(bytes.par_chunks(PIECE * size));
            pieces.for_each(|(values, bytes)| self.dtype.widen(bytes, values));
        }
        Ok(values)
    }

    /// Keeps embeddings, of which so many values belong to each content hash. The copy is the request's until the cache
    /// has it, so it is held; where that is too much, nothing is kept.
    pub(crate) fn keep(&self, content_hashes: &[Digest], lens: &[usize], embeddings: &[f32], place: &Place) {
        if place.hold((self.dtype.size() * embeddings.len()) as u64).is_err() {
            return;
        }
        let mut rest = embeddings;
        for (content_hash, len) in content_hashes.iter().zip(lens) {
            let (own, others) = rest.split_at(*len);
            rest = others;
            // Without memory for the copy, nothing is kept.
            let Ok(bytes) = self.dtype.try_narrowed(own) else { return };
            let bytes = Bytes::from(bytes);
            let len = bytes.len() as u64;
            // Large memory is not given back under the lock.
            let evicted = self.lock().insert(*content_hash, bytes, len);
            drop(evicted);
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Counts { hits: load(&self.hits), misses: load(&self.misses), bytes: self.lock().bytes() }
    }

    /// The entries are whole between their changes, so a panic elsewhere leaves them sound.
    fn lock(&self) -> MutexGuard<'_, Lru<Bytes>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_exact_in_a_type_comes_back_bit_for_bit() {
        for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F16] {
            let values: Vec<f32> = (0..100_003).map(|i| (i as f32 * 0.37).sin() * 1e3).collect();
            let narrow = dtype.narrowed(&values);
            let mut exact = vec![0.0; values.len()];
            dtype.widen(&narrow, &mut exact);
            let cache = Cache::new(1 << 20, dtype);
            let (first, second) = exact.split_at(40_001);
            let found = [first, second].map(|values| Bytes::from(dtype.narrowed(values)));
            let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            assert!(bits(&cache.widen(&found).unwrap()) == bits(&exact), "{dtype}");
        }
    }
}
