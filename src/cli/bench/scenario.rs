//! The four ways to load an encoder: one query at a time, of one image or of several; as much as goes; and arrivals by chance.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use indicatif::ProgressBar;
use rayon::prelude::*;

use super::samples::Sample;
use crate::cli::inputs::{Decoded, Input};
use crate::encoder::{Encoder, Input as EncoderInput, Submission, TileBudget};
use crate::error::Result;
use crate::image::Tiles;
use crate::stages::{Stage, StageTimes};

/// How queries come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Scenario {
    /// One image, and the next when its embeddings are there
    Single,
    /// Several images at once, and the next when all embeddings are there
    Multi,
    /// Images at moments of chance, at a rate (Poisson), through the server's queue
    Server,
    /// All images at once: batches as full as they go, one behind the other; a query is a batch
    Offline,
}

impl Scenario {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Single => "single",
            Self::Multi => "multi",
            Self::Server => "server",
            Self::Offline => "offline",
        }
    }
}

/// When a run ends.
#[derive(Debug, Clone, Copy)]
pub(super) enum Until {
    /// With the first query that ends after this time.
    Time(Duration),
    /// When so many images are encoded.
    Images(usize),
}

impl Until {
    pub(super) fn is_over(self, elapsed: Duration, images: usize) -> bool {
        match self {
            Self::Time(duration) => elapsed >= duration && images > 0,
            Self::Images(most) => images >= most,
        }
    }
}

/// Batches of one kind that were computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct BatchKind {
    pub(super) images: usize,
    /// Tiles as they count in a batch.
    pub(super) tiles: usize,
}

/// What came of a run.
#[derive(Debug, Default)]
pub(super) struct Run {
    pub(super) samples: Vec<Sample>,
    /// Every batch.
    pub(super) batches: Vec<BatchKind>,
    /// From the first query to the last embeddings.
    pub(super) seconds: f64,
    /// Queries that the queue had no room for.
    pub(super) refused: usize,
}

/// Shows a run's time, or its images.
pub(super) fn show(bar: &ProgressBar, until: Until, elapsed: Duration, images: usize) {
    match until {
        Until::Time(_) => bar.set_position(elapsed.as_secs()),
        Until::Images(_) => bar.set_position(images as u64),
    }
    bar.set_message(format!("{images} images"));
}

/// An endless row of inputs.
pub(super) struct Turns<'a> {
    inputs: &'a [Input],
    next: usize,
}

impl<'a> Turns<'a> {
    pub(super) fn new(inputs: &'a [Input]) -> Self {
        Self { inputs, next: 0 }
    }

    fn peek(&self) -> &'a Input {
        &self.inputs[self.next % self.inputs.len()]
    }

    pub(super) fn take(&mut self) -> &'a Input {
        let input = self.peek();
        self.next += 1;
        input
    }

    /// As many as fit a batch of this encoder.
    fn batch(&mut self, max_tiles: usize) -> Vec<&'a Input> {
        let (mut batch, mut budget) = (Vec::new(), TileBudget::new(max_tiles));
        while budget.try_add(self.peek().computed_tiles) {
            batch.push(self.take());
        }
        batch
    }
}

/// What is to be encoded together, cut, and what that took.
pub(super) struct Prepared {
    pub(super) tiles: Vec<Arc<Tiles>>,
    pub(super) stages: StageTimes,
}

/// Decodes and cuts, in parallel. Tiles that are there already take no stage.
pub(super) fn prepare(inputs: &[&Input]) -> Result<Prepared> {
    let mut stages = StageTimes::default();
    let begin = Instant::now();
    let decoded = inputs.par_iter().map(|input| input.decode()).collect::<Result<Vec<_>>>()?;
    let is_decoded = Instant::now();
    let tiles = decoded.par_iter().map(|decoded| decoded.cut()).collect::<Result<Vec<_>>>()?;
    if decoded.iter().any(|decoded| matches!(decoded, Decoded::Picture(..))) {
        stages.add(Stage::Decode, is_decoded - begin);
        stages.add(Stage::Preprocess, is_decoded.elapsed());
    }
    Ok(Prepared { tiles, stages })
}

/// Gives tiles to a device.
fn submit(encoder: &mut Encoder, device: usize, tiles: &[Arc<Tiles>]) -> Result<Submission> {
    let inputs: Vec<EncoderInput> =
        tiles.iter().map(|tiles| EncoderInput::Pictures(std::slice::from_ref(&**tiles))).collect();
    encoder.submit(device, &inputs)
}

/// Encodes inputs together; hands over what came of it, and what that took.
pub(super) fn encode(encoder: &mut Encoder, inputs: &[&Input]) -> Result<(Vec<f32>, StageTimes)> {
    let Prepared { tiles, mut stages } = prepare(inputs)?;
    let submission = submit(encoder, 0, &tiles)?;
    let encoded = encoder.finish(submission)?;
    stages.append(&encoded.timing.into());
    Ok((encoded.embeddings, stages))
}

fn sample(inputs: &[&Input], [start, end]: [Instant; 2], begin: Instant, stages: StageTimes) -> Sample {
    let seconds = |at: Instant| at.duration_since(begin).as_secs_f64();
    Sample {
        start: seconds(start),
        end: seconds(end),
        images: inputs.len(),
        tiles: inputs.iter().map(|input| input.num_tiles()).sum(),
        flops: inputs.iter().map(|input| input.flops).sum(),
        stages,
    }
}

fn batch_kind(inputs: &[&Input]) -> BatchKind {
    BatchKind { images: inputs.len(), tiles: inputs.iter().map(|input| input.computed_tiles).sum() }
}

/// Queries of `images` images, each when the one before has its embeddings. One image is a query of the first device's; of
/// several all devices take their part.
pub(super) fn one_at_a_time(
    encoder: &mut Encoder,
    inputs: &[Input],
    images: usize,
    until: Until,
    bar: &ProgressBar,
) -> Result<Run> {
    let (mut turns, mut run, begin) = (Turns::new(inputs), Run::default(), Instant::now());
    let mut done = 0;
    while !until.is_over(begin.elapsed(), done) {
        let query: Vec<&Input> = (0..images).map(|_| turns.take()).collect();
        let start = Instant::now();
        let (embeddings, stages) = encode(encoder, &query)?;
        let end = Instant::now();
        drop(embeddings);
        run.samples.push(sample(&query, [start, end], begin, stages));
        let batches = encoder.batch_ranges(query.iter().map(|input| input.computed_tiles));
        run.batches.extend(batches.into_iter().map(|batch| batch_kind(&query[batch])));
        done += images;
        show(bar, until, begin.elapsed(), done);
    }
    run.seconds = run.samples.last().map_or(0.0, |sample| sample.end);
    Ok(run)
}

/// A batch that a device has.
struct Ahead<'a> {
    inputs: Vec<&'a Input>,
    submission: Submission,
    start: Instant,
    stages: StageTimes,
}

/// Batches as full as they go. While one computes the next is decoded and cut; each device has as many as it can.
pub(super) fn offline(encoder: &mut Encoder, inputs: &[Input], until: Until, bar: &ProgressBar) -> Result<Run> {
    let (mut run, begin, max_tiles) = (Run::default(), Instant::now(), encoder.max_batch_tiles());
    let (sender, prepared) = sync_channel(encoder.num_devices());
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let (mut turns, mut images) = (Turns::new(inputs), 0);
            // The receiver goes when the run is over.
            while !until.is_over(begin.elapsed(), images) {
                let batch = turns.batch(max_tiles);
                images += batch.len();
                let result = prepare(&batch);
                if sender.send((batch, result)).is_err() {
                    break;
                }
            }
        });
        let mut ahead: Vec<VecDeque<Ahead>> = (0..encoder.num_devices()).map(|_| VecDeque::new()).collect();
        let mut done = 0;
        let mut collect = |encoder: &mut Encoder, batch: Ahead| -> Result<()> {
            let Ahead { inputs, submission, start, mut stages } = batch;
            let encoded = encoder.finish(submission)?;
            stages.append(&encoded.timing.into());
            run.samples.push(sample(&inputs, [start, Instant::now()], begin, stages));
            run.batches.push(batch_kind(&inputs));
            done += inputs.len();
            show(bar, until, begin.elapsed(), done);
            Ok(())
        };
        for (number, (inputs, result)) in prepared.into_iter().enumerate() {
            let device = number % ahead.len();
            if ahead[device].len() == encoder.depth()
                && let Some(oldest) = ahead[device].pop_front()
            {
                collect(encoder, oldest)?;
            }
            let (Prepared { tiles, stages }, start) = (result?, Instant::now());
            let submission = submit(encoder, device, &tiles)?;
            let batch = Ahead { inputs, submission, start, stages };
            // What is computed already has nothing to wait for.
            match batch.submission.computed() {
                Some(_) => ahead[device].push_back(batch),
                None => collect(encoder, batch)?,
            }
        }
        // In the order in which they were given.
        while let Some(oldest) = ahead.iter_mut().filter(|queue| !queue.is_empty()).min_by_key(|queue| queue[0].start) {
            if let Some(oldest) = oldest.pop_front() {
                collect(encoder, oldest)?;
            }
        }
        Ok(())
    })
    .map(|()| {
        run.seconds = run.samples.iter().map(|sample| sample.end).fold(0.0, f64::max);
        run
    })
}
