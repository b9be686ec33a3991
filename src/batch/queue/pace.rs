//! How long work takes, learned from work that was done.

use std::time::Duration;

/// What is left of an observation's weight after the next one: the last twenty or so count.
const DECAY: f64 = 0.95;

/// A line through the times of recent batches: a part that every batch takes, and a part for each of its tiles.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct BatchPace {
    /// Sums over the batches, each with its weight.
    weight: f64,
    tiles: f64,
    seconds: f64,
    tiles_squared: f64,
    tiles_seconds: f64,
}

impl BatchPace {
    /// A batch of so many tiles has taken so long.
    pub(super) fn observe(&mut self, tiles: usize, time: Duration) {
        let (tiles, seconds) = (tiles as f64, time.as_secs_f64());
        for (sum, value) in [
            (&mut self.weight, 1.0),
            (&mut self.tiles, tiles),
            (&mut self.seconds, seconds),
            (&mut self.tiles_squared, tiles * tiles),
            (&mut self.tiles_seconds, tiles * seconds),
        ] {
            *sum = *sum * DECAY + value;
        }
    }

    /// The time of batches with so many tiles together, at most `batch_tiles` each. Zero while nothing is known.
    pub(super) fn time(&self, tiles: usize, batch_tiles: usize) -> Duration {
        let (each, per_tile) = self.line();
        let batches = tiles.div_ceil(batch_tiles.max(1));
        Duration::try_from_secs_f64(each * batches as f64 + per_tile * tiles as f64).unwrap_or(Duration::MAX)
    }

    /// Seconds of a batch, and of each of its tiles. Neither is negative.
    fn line(&self) -> (f64, f64) {
        if self.tiles <= 0.0 {
            return (0.0, 0.0);
        }
        let (tiles, seconds) = (self.tiles / self.weight, self.seconds / self.weight);
        let variance = self.tiles_squared / self.weight - tiles * tiles;
        let covariance = self.tiles_seconds / self.weight - tiles * seconds;
        let proportional = seconds / tiles;
        // Batches of one size say nothing of others: their time is taken to be their tiles'.
        let per_tile = if variance > 1e-6 * tiles * tiles { covariance / variance } else { proportional };
        let per_tile = per_tile.clamp(0.0, proportional);
        (seconds - per_tile * tiles, per_tile)
    }
}

/// A mean in which recent values count more.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Mean {
    weight: f64,
    sum: f64,
}

impl Mean {
    pub(super) fn observe(&mut self, value: f64) {
        self.weight = self.weight * DECAY + 1.0;
        self.sum = self.sum * DECAY + value;
    }

    /// None before the first value.
    pub(super) fn get(&self) -> Option<f64> {
        (self.weight > 0.0).then(|| self.sum / self.weight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(batches: &[(usize, u64)]) -> BatchPace {
        let mut pace = BatchPace::default();
        for (tiles, millis) in batches {
            pace.observe(*tiles, Duration::from_millis(*millis));
        }
        pace
    }

    #[track_caller]
    fn assert_near(found: Duration, millis: f64) {
        let found = found.as_secs_f64() * 1e3;
        assert!((found - millis).abs() < 1e-6 * millis.max(1.0), "{found} ms, expected {millis} ms");
    }

    #[test]
    fn nothing_known_takes_no_time() {
        assert_near(BatchPace::default().time(100, 4), 0.0);
        assert_eq!(Mean::default().get(), None);
    }

    #[test]
    fn batches_of_one_size_are_proportional_to_their_tiles() {
        let pace = pace(&[(4, 40), (4, 40)]);
        assert_near(pace.time(4, 4), 40.0);
        assert_near(pace.time(10, 4), 100.0);
    }

    #[test]
    fn a_line_is_found_with_what_every_batch_takes() {
        // 8 ms, and 2 ms a tile.
        let pace = pace(&[(1, 10), (4, 16), (16, 40), (2, 12)]);
        assert_near(pace.time(1, 16), 10.0);
        assert_near(pace.time(16, 16), 40.0);
        assert_near(pace.time(40, 16), 3.0 * 8.0 + 80.0);
    }

    #[test]
    fn no_part_is_negative() {
        // Larger batches that were quicker by chance, and batches whose line would begin below zero.
        assert_near(pace(&[(1, 20), (4, 10)]).time(0, 4), 0.0);
        let quicker = pace(&[(1, 20), (4, 10)]);
        assert!(quicker.time(4, 4) >= Duration::from_millis(10));
        assert!(pace(&[(1, 1), (4, 40)]).time(1, 4) > Duration::ZERO);
    }

    #[test]
    fn recent_batches_count_more() {
        let mut pace = pace(&[(4, 1000)]);
        for _ in 0..200 {
            pace.observe(4, Duration::from_millis(10));
        }
        let time = pace.time(4, 4).as_secs_f64();
        assert!((0.009..0.012).contains(&time), "{time}");
    }
}
