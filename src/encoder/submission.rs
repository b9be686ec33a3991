//! One batch given to a device while another computes there.

use std::time::Instant;

use super::backend::Backend;
use super::{Encoder, Input, pixels};
pub use crate::cuda::Computed;
use crate::cuda::InFlightBatch;
use crate::error::{Error, InputError, Result};
pub use crate::plan::Timing;

/// Inputs on their way through an encoder, from [`Encoder::submit`] to [`Encoder::finish`]. Dropping it gives their
/// embeddings up.
#[must_use = "the embeddings come from `finish`"]
pub struct Submission(State);

enum State {
    Done(Encoded),
    Pending(InFlightBatch),
}

/// What an encoder gave, and where its time went.
#[derive(Debug, Clone, PartialEq)]
pub struct Encoded {
    /// `[rows, E]`, as [`Encoder::encode_inputs`] has it.
    pub embeddings: Vec<f32>,
    /// The time of each stage.
    pub timing: Timing,
}

impl Submission {
    /// What to wait for; none where the embeddings are there already.
    pub fn computed(&self) -> Option<Computed> {
        match &self.0 {
            State::Done(_) => None,
            State::Pending(batch) => Some(batch.computed()),
        }
    }
}

impl Encoder {
    /// Devices that compute at the same time, each what it is given: the GPUs, or the CPU as one.
    pub fn num_devices(&self) -> usize {
        self.backend.num_devices()
    }

    /// Submissions that a device can have at once: on a GPU two, of which one computes while the other one's pixels or
    /// results are on their way. [`submit`](Self::submit) beyond it waits for the oldest.
    pub fn depth(&self) -> usize {
        match &self.backend {
            Backend::Cpu(_) => 1,
            Backend::Cuda(cuda) => cuda.depth(),
        }
    }

    /// Starts encoding the inputs of several callers on one device, by its place among the encoder's.
    /// [`finish`](Self::finish) gives what [`encode_inputs`](Self::encode_inputs) would; calls in between disturb nothing.
    /// The pixels are copied before this returns. On the CPU, with an observer, and where the inputs are more than one
    /// batch, they are encoded before it returns.
    ///
    /// # Errors
    /// Those of [`encode_inputs`](Self::encode_inputs). Other submissions are not affected, unless the GPU is lost.
    ///
    /// # Panics
    /// Where there is no such device.
    pub fn submit(&mut self, device: usize, inputs: &[Input]) -> Result<Submission> {
        assert!(device < self.num_devices(), "device {device} of {}", self.num_devices());
        let begin = Instant::now();
        let (images, mut embeddings) = self.prepare(inputs)?;
        let batches = self.batches(images);
        if let (Backend::Cuda(cuda), None, [batch]) = (&mut self.backend, &self.observer, &batches[..]) {
            return Ok(Submission(State::Pending(cuda.submit(device, batch, embeddings)?)));
        }
        let timing = self.run(&batches, &mut embeddings, true)?;
        let timing = match timing {
            Timing::Host { .. } => Timing::Host { compute: begin.elapsed() },
            gpu @ Timing::Gpu { .. } => gpu,
        };
        Ok(Submission(State::Done(Encoded { embeddings, timing })))
    }

    /// Waits for what was submitted.
    ///
    /// # Errors
    /// Those of [`encode_inputs`](Self::encode_inputs);
    /// [`InputError::Unavailable`] for a submission to another encoder.
    pub fn finish(&mut self, submission: Submission) -> Result<Encoded> {
        let encoded = self.finish_unchecked(submission)?;
        match pixels::first_not_finite(&encoded.embeddings) {
            Some(index) => Err(Error::NotFinite { index }),
            None => Ok(encoded),
        }
    }

    /// [`finish`](Self::finish), for embeddings that may not be finite.
    pub(crate) fn finish_unchecked(&mut self, submission: Submission) -> Result<Encoded> {
        match submission.0 {
            State::Done(encoded) => Ok(encoded),
            State::Pending(batch) => self.collect(&batch),
        }
    }

    /// Waits for a batch on a GPU.
    fn collect(&mut self, batch: &InFlightBatch) -> Result<Encoded> {
        let outcome = match &mut self.backend {
            Backend::Cpu(_) => None,
            Backend::Cuda(cuda) => cuda.finish(batch),
        };
        let Some(outcome) = outcome else {
            let reason = "it was submitted to another encoder";
            return Err(InputError::Unavailable { option: "submission", found: "given".to_string(), reason }.into());
        };
        let (embeddings, timing) = outcome?;
        Ok(Encoded { embeddings, timing })
    }
}
