//! The results of requests and batches.

use std::ops::{Deref, Range};
use std::sync::Arc;
use std::time::Duration;

use super::queue::Refusal;
use crate::encoder::Timing;
use crate::error::Error;

/// One request's embeddings, `[rows, E]` in f32: its part of what its batch gave, which lives as long as any of them.
#[derive(Debug, Clone)]
pub struct Reply {
    pub(super) batch: Arc<Vec<f32>>,
    pub(super) part: Range<usize>,
    /// Between submission and the batch it was in.
    pub queued: Duration,
    /// The time of that batch in the encoder, its wait for the batch before included.
    pub encoded: Duration,
    /// Where that time went; what is missing was spent waiting.
    pub timing: Timing,
    /// Requests that were computed together; none where it was known already.
    pub batch_requests: usize,
}

/// A batch that was computed.
#[derive(Debug, Clone, Copy)]
pub struct Report {
    /// Requests that were computed together.
    pub requests: usize,
    /// Their tiles, as they count in a batch.
    pub tiles: usize,
    /// Tiles whose embeddings came out.
    pub output_tiles: usize,
    /// Whether the batch was given to its device while that computed another.
    pub ahead: bool,
    /// Where its time went.
    pub timing: Timing,
}

impl Reply {
    /// Embeddings that are known already: nobody waited for them, and no batch gave them.
    pub fn known(embeddings: Vec<f32>) -> Self {
        let part = 0..embeddings.len();
        let (queued, encoded) = (Duration::ZERO, Duration::ZERO);
        let timing = Timing::Host { compute: Duration::ZERO };
        Self { batch: Arc::new(embeddings), part, queued, encoded, timing, batch_requests: 0 }
    }
}

impl Deref for Reply {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.batch[self.part.clone()]
    }
}

impl AsRef<[u8]> for Reply {
    /// The values in memory.
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(self)
    }
}

/// Why there are no embeddings.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The deadline came while the request waited.
    #[error("the deadline came before the request's turn")]
    Expired,
    /// Its turn would have come too late.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The encoder is lost to this process.
    #[error("the encoder has stopped: {reason}")]
    Lost {
        /// The first failure.
        reason: String,
    },
    /// The encoder refused this request; others are not affected.
    #[error(transparent)]
    Failed(#[from] Error),
}
