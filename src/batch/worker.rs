//! The encoder's thread: gives batches to devices, collects what they have computed, and answers.
//!
//! A thread for each device beside it waits for what the device computes, and changes the queue when it is done; so the
//! encoder's thread waits in one place for both, requests and devices.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use super::compute::{Compute, Inputs, Wait};
use super::queue::{Devices, Queue, Taken, Ticket};
use super::reply::{Failure, Reply, Report};
use super::shared::Turn;
use super::state::{Answer, Computing, Job, State};
use crate::encoder::Encoded;
use crate::error::Error;

type Observer = Box<dyn FnMut(&Report) + Send>;

/// The encoder with the batches it was given.
struct Worker<C: Compute> {
    state: Arc<State>,
    encoder: C,
    devices: Vec<Device<C::Submission>>,
    /// Tiles of a batch.
    batch_tiles: usize,
    observe: Observer,
    /// The encoder has lost its device, or itself in a panic: it is not called again.
    is_broken: bool,
}

struct Device<S> {
    /// Oldest first.
    under_way: VecDeque<(S, Batch)>,
    /// To the thread that waits for it; none where the encoder's can do so itself.
    waits: Option<mpsc::Sender<Wait>>,
}

/// Requests that are computed together.
struct Batch {
    inputs: Vec<Inputs>,
    callers: Vec<Caller>,
    begin: Instant,
    tiles: usize,
    ahead: bool,
}

struct Caller {
    ticket: Ticket,
    answer: Answer,
    tiles: usize,
    queued: Duration,
}

impl Batch {
    fn new(requests: Vec<Taken<Job>>, ahead: bool) -> Self {
        let begin = Instant::now();
        let tiles = requests.iter().map(|taken| taken.tiles).sum();
        let (mut inputs, mut callers) = (Vec::with_capacity(requests.len()), Vec::with_capacity(requests.len()));
        for Taken { ticket, tiles, work, since } in requests {
            inputs.push(work.inputs);
            callers.push(Caller { ticket, answer: work.answer, tiles, queued: begin.saturating_duration_since(since) });
        }
        Self { inputs, callers, begin, tiles, ahead }
    }

    /// Each request as a batch of its own.
    fn split(self) -> impl Iterator<Item = Self> {
        self.inputs.into_iter().zip(self.callers).map(move |(input, caller)| Self {
            inputs: vec![input],
            begin: self.begin,
            tiles: caller.tiles,
            ahead: false,
            callers: vec![caller],
        })
    }
}

/// Starts the encoder's thread and those that wait for its devices.
///
/// # Errors
/// [`Error::Threads`].
pub(super) fn spawn<C: Compute>(state: &Arc<State>, encoder: C, first: Inputs, observe: Observer) -> Result<(), Error> {
    let devices = encoder.devices();
    let device = |device| {
        let waits = if devices == Devices::ONE { None } else { Some(waiter(state, device)?) };
        Ok(Device { under_way: VecDeque::new(), waits })
    };
    let devices = (0..devices.count).map(device).collect::<Result<_, Error>>()?;
    let batch_tiles = state.shared.with(|queue| queue.limits().batch_tiles);
    let worker = Worker { state: state.clone(), encoder, devices, batch_tiles, observe, is_broken: false };
    thread("encoder".to_string(), move || worker.run(first))
}

/// Starts the thread that waits for a device, and ends when nobody can give it anything any more.
fn waiter(state: &Arc<State>, device: usize) -> Result<mpsc::Sender<Wait>, Error> {
    let (sender, waits) = mpsc::channel::<Wait>();
    let state = state.clone();
    let run = move || {
        for wait in waits {
            // Whatever happens here, the encoder's thread is told when it collects.
            drop(catch_unwind(AssertUnwindSafe(wait)));
            state.shared.change(|queue| queue.computed(device));
        }
    };
    thread(format!("device {device}"), run)?;
    Ok(sender)
}

fn thread(name: String, run: impl FnOnce() + Send + 'static) -> Result<(), Error> {
    let spawned = std::thread::Builder::new().name(name).spawn(run);
    spawned.map(drop).map_err(|e| Error::Threads { threads: 1, reason: e.to_string() })
}

impl<C: Compute> Worker<C> {
    fn run(mut self, first: Inputs) {
        let state = self.state.clone();
        for device in 0..self.devices.len() {
            let encoded = self.encode(device, first.num_output_tiles(), std::slice::from_ref(&first));
            match encoded.and_then(|encoded| Ok(first.require_finite(&encoded.embeddings)?)) {
                Ok(()) => {}
                Err(Failure::Lost { reason }) => return state.lose(&reason),
                Err(failure) => return state.lose(&failure.to_string()),
            }
        }
        drop(first);
        state.shared.change(Queue::open);
        loop {
            match state.shared.turn(Instant::now) {
                Turn::Batch { device, ahead, requests } => self.start(device, Batch::new(requests, ahead)),
                Turn::Collect { device } => self.collect(device),
                Turn::Expired(expired) => state.refuse(expired, || Failure::Expired),
                Turn::Finished => return,
            }
            if self.is_broken {
                return self.refuse_all();
            }
        }
    }

    /// Gives a batch to a device.
    fn start(&mut self, device: usize, batch: Batch) {
        let computing = Computing::new(batch.tiles, self.batch_tiles);
        self.state.computing()[device].get_or_insert(computing);
        match guarded(|| self.encoder.submit(device, &batch.inputs)) {
            Ok(submission) => {
                let waits = self.devices[device].waits.as_ref();
                let given = C::wait(&submission).zip(waits).is_some_and(|(wait, waits)| waits.send(wait).is_ok());
                self.devices[device].under_way.push_back((submission, batch));
                if !given {
                    self.state.shared.change(|queue| queue.computed(device));
                }
            }
            Err(failure) => {
                self.fail(device, batch, failure);
                self.state.shared.change(|queue| queue.withdraw(device));
                self.turn_to_next(device);
            }
        }
    }

    /// Takes what a device has computed, and answers.
    fn collect(&mut self, device: usize) {
        let Some((submission, batch)) = self.devices[device].under_way.pop_front() else { return };
        let finished = guarded(|| self.encoder.finish(submission));
        let computing = self.state.computing()[device];
        self.turn_to_next(device);
        match finished {
            Ok(encoded) => {
                if let Some(Computing { since, .. }) = computing {
                    self.state.shared.with(|queue| queue.observe_batch(batch.tiles, since.elapsed()));
                }
                self.answer(batch, encoded);
            }
            Err(failure) => self.fail(device, batch, failure),
        }
    }

    /// A batch gave nothing.
    fn fail(&mut self, device: usize, mut batch: Batch, failure: Failure) {
        if let Failure::Lost { reason } = &failure {
            self.is_broken = true;
            self.state.lose(reason);
            self.refuse(batch);
        } else if batch.callers.len() > 1 {
            // The fault may be one request's: each alone, it meets nobody else.
            for alone in batch.split() {
                if self.state.is_lost() {
                    self.refuse(alone);
                    continue;
                }
                match self.encode(device, alone.tiles, &alone.inputs) {
                    Ok(encoded) => self.answer(alone, encoded),
                    Err(failure) => self.fail(device, alone, failure),
                }
            }
        } else if let Some(Caller { ticket, answer, .. }) = batch.callers.pop() {
            self.state.answer(ticket, answer, Err(failure));
        }
    }

    fn answer(&mut self, batch: Batch, Encoded { embeddings, timing }: Encoded) {
        let Batch { inputs, callers, begin, tiles, ahead } = batch;
        let (encoded, batch_requests) = (begin.elapsed(), callers.len());
        let output_tiles = inputs.iter().map(Inputs::num_output_tiles).sum();
        (self.observe)(&Report { requests: batch_requests, tiles, output_tiles, ahead, timing });
        let (batch, mut start) = (Arc::new(embeddings), 0);
        for (input, Caller { ticket, answer, queued, .. }) in inputs.iter().zip(callers) {
            let end = start + input.num_output_tiles() * self.encoder.tile_embeddings_len();
            let reply = Reply { batch: batch.clone(), part: start..end, queued, encoded, timing, batch_requests };
            start = end;
            // What is wrong with one request's embeddings is not the others' affair, and computing them again mends nothing.
            let result = input.require_finite(&reply).map(|()| reply).map_err(Failure::from);
            self.state.answer(ticket, answer, result);
        }
    }

    /// What is under way will not be asked for.
    fn refuse_all(&mut self) {
        for device in 0..self.devices.len() {
            while let Some((submission, batch)) = self.devices[device].under_way.pop_front() {
                drop(submission);
                self.refuse(batch);
            }
        }
    }

    fn refuse(&self, batch: Batch) {
        for Caller { ticket, answer, .. } in batch.callers {
            self.state.answer(ticket, answer, Err(self.state.loss()));
        }
    }

    /// One batch, from its begin to its end.
    fn encode(&mut self, device: usize, tiles: usize, inputs: &[Inputs]) -> Result<Encoded, Failure> {
        self.state.computing()[device] = Some(Computing::new(tiles, self.batch_tiles));
        let result = guarded(|| {
            let submission = self.encoder.submit(device, inputs)?;
            self.encoder.finish(submission)
        });
        self.turn_to_next(device);
        result
    }

    /// Notes that a device turns to what it has next, if it has anything.
    fn turn_to_next(&self, device: usize) {
        let next = self.devices[device].under_way.front();
        self.state.computing()[device] = next.map(|(_, batch)| Computing::new(batch.tiles, self.batch_tiles));
    }
}

/// Calls the encoder. Its loss is told from a refusal.
fn guarded<T>(call: impl FnOnce() -> Result<T, Error>) -> Result<T, Failure> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Err(Error::Cuda(error))) if error.is_fatal() => Err(Failure::Lost { reason: error.to_string() }),
        Ok(result) => Ok(result?),
        Err(_) => Err(Failure::Lost { reason: "the encoder's thread panicked".to_string() }),
    }
}
