//! Queries that come by chance, at a rate, whether or not the ones before are answered.

use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{RngCore, SeedableRng};

use super::samples::Sample;
use super::scenario::{BatchKind, Prepared, Run, Turns, Until, prepare, show};
use crate::batch::{Batcher, Failure, Inputs, Limits, Phase, Place, Reply};
use crate::cli::inputs::Input;
use crate::encoder::Encoder;
use crate::error::{CudaError, Error, Result};
use crate::image::Tiles;
use crate::stages::{Stage, StageTimes};

/// Queries that wait at most: as many as the server lets in unless told otherwise. More are refused, and counted.
const MAX_REQUESTS: usize = 256;

/// Longer than any run.
const DEADLINE: Duration = Duration::from_secs(24 * 3600);

/// Moments of chance: the time between two is exponentially distributed, its mean one over the rate.
pub(super) struct Poisson {
    random: Xoshiro256PlusPlus,
    rate: f64,
    next: f64,
}

impl Poisson {
    pub(super) fn new(rate: f64, seed: u64) -> Self {
        Self { random: Xoshiro256PlusPlus::seed_from_u64(seed), rate, next: 0.0 }
    }
}

impl Iterator for Poisson {
    type Item = Duration;

    /// The next moment, from the start on.
    fn next(&mut self) -> Option<Duration> {
        // In (0, 1], whose logarithm is finite.
        let share = ((self.random.next_u64() >> 11) + 1) as f64 / (1u64 << 53) as f64;
        self.next -= share.ln() / self.rate;
        Some(Duration::from_secs_f64(self.next))
    }
}

/// An encoder behind the server's queue.
pub(super) struct Queued {
    batcher: Batcher,
    batches: Arc<Mutex<Vec<BatchKind>>>,
}

impl Queued {
    /// Hands the encoder over; it encodes `first` before anything else.
    ///
    /// # Errors
    /// Those of `first`; [`Error::Threads`].
    pub(super) fn start(encoder: Encoder, first: &Input, max_delay: Duration) -> Result<Self> {
        let batch_tiles = encoder.max_batch_tiles();
        let preparers = rayon::current_num_threads();
        let limits = Limits { max_requests: MAX_REQUESTS, max_bytes: u64::MAX, preparers, batch_tiles, max_delay };
        let batches = Arc::new(Mutex::new(Vec::new()));
        let seen = batches.clone();
        let observe = move |report: &crate::batch::Report| {
            let kind = BatchKind { images: report.requests, tiles: report.tiles };
            seen.lock().unwrap_or_else(PoisonError::into_inner).push(kind);
        };
        let first = Inputs::Pictures(owned(prepare(&[first])?));
        let batcher = Batcher::observed(encoder, limits, first, observe)?;
        while batcher.phase() == Phase::Starting {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(Self { batcher, batches })
    }

    /// Lets images come at `rate` a second.
    ///
    /// # Errors
    /// The first failure of a query.
    pub(super) fn run(&self, inputs: &[Input], rate: f64, until: Until, seed: u64, bar: &ProgressBar) -> Result<Run> {
        self.batches().clear();
        let mut run = Run::default();
        let (sender, results) = channel();
        let begin = Instant::now();
        rayon::in_place_scope(|scope| {
            let mut turns = Turns::new(inputs);
            for (number, due) in Poisson::new(rate, seed).enumerate() {
                if until.is_over(due, number) {
                    break;
                }
                let now = begin.elapsed();
                std::thread::sleep(due.saturating_sub(now));
                let input = turns.take();
                match self.batcher.admit(Instant::now() + DEADLINE) {
                    Ok(place) => {
                        let query = Query { input, due: begin + due, begin, place: Arc::new(place) };
                        let sender = sender.clone();
                        scope.spawn(move |_| query.send(sender));
                    }
                    Err(_) => run.refused += 1,
                }
                show(bar, until, begin.elapsed(), number + 1);
            }
        });
        drop(sender);
        run.samples = results.into_iter().collect::<Result<_>>()?;
        run.seconds = run.samples.iter().map(|sample| sample.end).fold(0.0, f64::max);
        run.batches = std::mem::take(&mut *self.batches());
        Ok(run)
    }

    /// One query alone.
    ///
    /// # Errors
    /// Its failure.
    pub(super) fn encode(&self, input: &Input) -> Result<Vec<f32>> {
        let place = self.batcher.admit(Instant::now() + DEADLINE).map_err(|refusal| lost(&refusal))?;
        let (sender, answer) = channel();
        let inputs = Inputs::Pictures(owned(prepare(&[input])?));
        place.submit(input.computed_tiles, inputs, move |result| {
            // Whoever asked waits below.
            let _ = sender.send(result.map(|reply| reply.to_vec()));
        });
        let result = answer.recv().map_err(|gone| lost(&gone))?;
        result.map_err(failed)
    }

    fn batches(&self) -> std::sync::MutexGuard<'_, Vec<BatchKind>> {
        self.batches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One image on its way.
struct Query<'a> {
    input: &'a Input,
    due: Instant,
    begin: Instant,
    /// Held until the answer is there.
    place: Arc<Place>,
}

impl Query<'_> {
    fn send(self, sender: std::sync::mpsc::Sender<Result<Sample>>) {
        let Self { input, due, begin, place } = self;
        let late = due.elapsed();
        let prepared = match prepare(&[input]) {
            Ok(prepared) => prepared,
            Err(error) => {
                let _ = sender.send(Err(error));
                return;
            }
        };
        let stages = prepared.stages;
        let (tiles, flops) = (input.num_tiles(), input.flops);
        let held = place.clone();
        place.submit(input.computed_tiles, Inputs::Pictures(owned(prepared)), move |result| {
            let end = Instant::now();
            let sample = result.map(|reply| {
                let seconds = |at: Instant| at.duration_since(begin).as_secs_f64();
                let stages = stages_of(&reply, late, stages);
                Sample { start: seconds(due), end: seconds(end), images: 1, tiles, flops, stages }
            });
            let _ = sender.send(sample.map_err(failed));
            drop(held);
        });
    }
}

/// Where a query's time went: what no stage had, it waited.
fn stages_of(reply: &Reply, late: Duration, mut stages: StageTimes) -> StageTimes {
    let busy = StageTimes::from(reply.timing);
    stages.append(&busy);
    stages.add(Stage::Queue, late + reply.queued + reply.encoded.saturating_sub(busy.total()));
    stages
}

fn owned(prepared: Prepared) -> Vec<Tiles> {
    prepared.tiles.into_iter().map(Arc::unwrap_or_clone).collect()
}

fn failed(failure: Failure) -> Error {
    match failure {
        Failure::Failed(error) => error,
        Failure::Expired | Failure::Refused(_) | Failure::Lost { .. } => lost(&failure),
    }
}

/// The encoder does not answer any more.
fn lost(reason: &dyn std::fmt::Display) -> Error {
    CudaError::Lost { cause: reason.to_string() }.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_have_the_rate_and_the_spread_of_chance() {
        let moments: Vec<f64> = Poisson::new(50.0, 1).take(20_000).map(|moment| moment.as_secs_f64()).collect();
        let gaps: Vec<f64> = moments.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        // Of 20000 gaps the mean is within 2 % but for one run in 200; this one is always the same.
        assert!((mean * 50.0 - 1.0).abs() < 0.02, "{mean}");
        let longer = gaps.iter().filter(|gap| **gap > mean).count() as f64 / gaps.len() as f64;
        assert!((longer - (-1.0f64).exp()).abs() < 0.01, "{longer}");
        assert!(gaps.iter().all(|gap| *gap >= 0.0));
    }
}
