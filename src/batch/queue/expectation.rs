//! How long a request would take that came now, and whether that is soon enough.

use std::time::{Duration, Instant};

use super::{Queue, Refusal, Stage};

/// The part of a request's time that it may be expected to take. The rest is for what the expectation misses.
const EXPECTED_PART: f64 = 0.75;

impl<W> Queue<W> {
    /// Whether another request can be there, and be answered in time.
    pub(super) fn require_room(&self, deadline: Instant, now: Instant) -> Result<(), Refusal> {
        if self.entries.len() >= self.limits.max_requests {
            return Err(self.full());
        }
        let left = deadline.saturating_duration_since(now);
        match self.expected_time() {
            Some(expected) if expected > left.mul_f64(EXPECTED_PART) => Err(Refusal::Overloaded { expected, left }),
            _ => Ok(()),
        }
    }

    /// How long another request would take. None where nothing is before it: then it is let in however long others took, so
    /// that one slow batch does not close the queue for good.
    fn expected_time(&self) -> Option<Duration> {
        let own_tiles = self.request_tiles.get().unwrap_or(0.0);
        let preparing = self.entries.values().filter(|entry| matches!(entry.stage, Stage::Preparing)).count();
        let tiles: usize = self.entries.values().map(|entry| entry.stage.tiles()).sum();
        if preparing + tiles == 0 {
            return None;
        }
        let preparation = self.preparation.get().unwrap_or(0.0);
        let prepared = preparation * (preparing as f64 / self.limits.preparers.max(1) as f64 + 1.0);
        let unknown = ((preparing as f64 + 1.0) * own_tiles).ceil() as usize;
        // The stages overlap, so the slower one decides.
        let computed = self.time_of(tiles + unknown);
        Some(computed.max(Duration::try_from_secs_f64(prepared).unwrap_or(Duration::MAX)))
    }

    /// How long all devices together compute so many tiles.
    pub(super) fn time_of(&self, tiles: usize) -> Duration {
        self.pace.time(tiles, self.limits.batch_tiles) / self.devices.len() as u32
    }

    /// A batch of so many tiles has taken a device so long.
    pub fn observe_batch(&mut self, tiles: usize, time: Duration) {
        self.pace.observe(tiles, time);
    }

    /// A request was worked on for so long before it was submitted.
    pub fn observe_preparation(&mut self, time: Duration) {
        self.preparation.observe(time.as_secs_f64());
    }
}
