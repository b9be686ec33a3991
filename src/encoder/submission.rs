//! One batch given to a device while another computes there.

use std::time::{Duration, Instant};

use super::backend::Backend;
use super::{Encoder, Input, pixels};
#[cfg(feature = "cuda-unversioned")]
use crate::cuda::{self, GpuTimes};
use crate::error::{Error, InputError, Result};

/// Inputs on their way through an encoder, from [`Encoder::submit`] to [`Encoder::finish`]. Dropping it gives their
/// embeddings up.
#[must_use = "the embeddings come from `finish`"]
pub struct Submission(State);

enum State {
    Done(Encoded),
    #[cfg(feature = "cuda-unversioned")]
    Pending(cuda::InFlightBatch),
}

/// What can be waited for on any thread until a device has computed a submission.
#[derive(Debug, Clone)]
pub struct Computed {
    #[cfg(feature = "cuda-unversioned")]
    gpu: cuda::Computed,
}

impl Computed {
    /// Waits. Failures are told by [`Encoder::finish`].
    pub fn wait(&self) {
        #[cfg(feature = "cuda-unversioned")]
        self.gpu.wait();
    }
}

/// What an encoder gave, and where its time went.
#[derive(Debug, Clone, PartialEq)]
pub struct Encoded {
    /// `[rows, E]`, as [`Encoder::encode_inputs`] has it.
    pub embeddings: Vec<f32>,
    /// The time of each stage.
    pub timing: Timing,
}

/// Where the time of an encode went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timing {
    /// On the CPU, and step by step for an observer.
    Host {
        /// All of it.
        compute: Duration,
    },
    /// On a GPU. Times of several batches are added up, though their ways overlap.
    Gpu {
        /// From the first piece of the pixels to the last one's arrival, by the GPU's events.
        h2d: Duration,
        /// The kernels, by the GPU's events.
        compute: Duration,
        /// The results' way back by the GPU's events, and their widening to f32 by the host's clock.
        d2h: Duration,
    },
}

#[cfg(feature = "cuda-unversioned")]
impl From<GpuTimes> for Timing {
    fn from(GpuTimes { h2d, compute, d2h }: GpuTimes) -> Self {
        Self::Gpu { h2d, compute, d2h }
    }
}

impl Submission {
    /// What to wait for; none where the embeddings are there already.
    pub fn computed(&self) -> Option<Computed> {
        match &self.0 {
            State::Done(_) => None,
            #[cfg(feature = "cuda-unversioned")]
            State::Pending(batch) => Some(Computed { gpu: batch.computed() }),
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
            #[cfg(feature = "cuda-unversioned")]
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
        #[cfg(feature = "cuda-unversioned")]
        if let (Backend::Cuda(cuda), None, [batch]) = (&mut self.backend, &self.observer, &batches[..]) {
            return Ok(Submission(State::Pending(cuda.submit(device, batch, embeddings)?)));
        }
        let timing = self.run_batches(&batches, &mut embeddings, true)?;
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
        match submission.0 {
            State::Done(encoded) => Ok(encoded),
            #[cfg(feature = "cuda-unversioned")]
            State::Pending(batch) => self.collect(&batch),
        }
    }

    /// Waits for a batch on a GPU.
    #[cfg(feature = "cuda-unversioned")]
    fn collect(&mut self, batch: &cuda::InFlightBatch) -> Result<Encoded> {
        let outcome = match &mut self.backend {
            Backend::Cpu(_) => None,
            Backend::Cuda(cuda) => cuda.finish(batch),
        };
        let Some(outcome) = outcome else {
            let reason = "it was submitted to another encoder";
            return Err(InputError::Unavailable { option: "submission", found: "given".to_string(), reason }.into());
        };
        let (embeddings, times) = outcome?;
        match pixels::first_not_finite(&embeddings) {
            Some(index) => Err(Error::NotFinite { index }),
            None => Ok(Encoded { embeddings, timing: times.into() }),
        }
    }
}
