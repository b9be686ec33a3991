//! What stands for `cuda` in a build without it: a backend that nothing can make, and what such a build says of GPUs.

use std::convert::Infallible;

use crate::checkpoint::VisionWeights;
use crate::config::EncoderConfig;
use crate::digest::Digest;
use crate::error::{CudaError, Error};
use crate::plan::{Batch, BatchShape, Capacity, Form, Peak, Plan, Profile, Step, StepTiming, Target, Timing};

/// Whether this build computes on GPUs. Callers look at it before they name a GPU, and say how to get a build that does. The
/// functions here that would ask the driver fail.
pub(crate) const IS_BUILT: bool = false;

/// The encoder on GPUs, of which this build makes none.
#[derive(Debug)]
pub(crate) struct CudaBackend(Infallible);

/// A batch on its way, likewise.
#[derive(Debug)]
pub(crate) struct InFlightBatch(Infallible);

/// What can be waited for on any thread until a device has computed a submission.
#[derive(Debug, Clone)]
pub struct Computed(Infallible);

impl Computed {
    /// Waits. Failures are told by [`Encoder::finish`](crate::Encoder::finish).
    pub fn wait(&self) {
        match self.0 {}
    }
}

impl InFlightBatch {
    pub(crate) fn computed(&self) -> Computed {
        match self.0 {}
    }
}

impl CudaBackend {
    pub(crate) fn new(
        _: &[usize],
        _: &VisionWeights,
        _: &EncoderConfig,
        _: Target,
        _: &Capacity,
    ) -> Result<Self, Error> {
        Err(CudaError::NoDriver.into())
    }

    pub(crate) fn tune(&mut self, _: &[BatchShape], _: bool) -> Result<(), Error> {
        match self.0 {}
    }

    pub(crate) fn time_steps(&mut self, _: &BatchShape, _: bool) -> Result<Vec<StepTiming>, Error> {
        match self.0 {}
    }

    pub(crate) fn profile(&mut self, _: &Batch, _: usize) -> Result<Profile, Error> {
        match self.0 {}
    }

    pub(crate) fn measure_peak(&mut self, _: bool) -> Result<Option<Peak>, Error> {
        match self.0 {}
    }

    pub(crate) fn is_simulated(&self) -> bool {
        match self.0 {}
    }

    pub(crate) fn device_bytes(&self) -> Vec<u64> {
        match self.0 {}
    }

    pub(crate) fn target(&self) -> Target {
        match self.0 {}
    }

    pub(crate) fn describe(&self) -> String {
        match self.0 {}
    }

    pub(crate) fn numerics(&self) -> String {
        match self.0 {}
    }

    pub(crate) fn weights_digest(&self) -> Digest {
        match self.0 {}
    }

    pub(crate) fn num_devices(&self) -> usize {
        match self.0 {}
    }

    pub(crate) fn depth(&self) -> usize {
        match self.0 {}
    }

    pub(crate) fn run(&mut self, _: &[Batch], _: Vec<&mut [f32]>, _: bool) -> Result<Timing, Error> {
        match self.0 {}
    }

    pub(crate) fn observe(
        &mut self,
        _: &Batch,
        _: &mut [f32],
        _: &mut dyn FnMut(&Plan, &Step, &[f32]),
    ) -> Result<(), Error> {
        match self.0 {}
    }

    pub(crate) fn submit(&mut self, _: usize, _: &Batch, _: Vec<f32>) -> Result<InFlightBatch, Error> {
        match self.0 {}
    }

    pub(crate) fn finish(&mut self, _: &InFlightBatch) -> Option<Result<(Vec<f32>, Timing), Error>> {
        match self.0 {}
    }
}

/// The GPU that `auto` takes.
pub(crate) fn best_gpu(_: &EncoderConfig) -> Option<usize> {
    None
}

pub(crate) fn best_form(_: &[usize]) -> Result<Form, CudaError> {
    Err(CudaError::NoDriver)
}

pub(crate) fn require_hopper(_: &[usize]) -> Result<(), CudaError> {
    Err(CudaError::NoDriver)
}

/// The kernel of each step of a plan, as far as the plan tells.
pub(crate) fn kernels(plan: &Plan) -> (Vec<String>, Option<String>) {
    let name = |step: &Step| step.form.map_or("-".to_string(), |form| form.to_string());
    (plan.steps.iter().map(name).collect(), None)
}

/// The checks of kernels, which this build has none of.
pub(crate) mod check {
    use crate::dtype::Dtype;
    use crate::error::CudaError;
    use crate::plan::Form;

    pub(crate) fn describe(_: usize) -> Result<String, CudaError> {
        Err(CudaError::NoDriver)
    }

    pub(crate) fn num_cases(_: Dtype, _: Form) -> usize {
        0
    }

    pub(crate) fn run(
        _: usize,
        _: Dtype,
        _: Form,
        _: impl FnMut(&str, &str, Result<(f64, f64), CudaError>),
    ) -> Result<(), CudaError> {
        Err(CudaError::NoDriver)
    }
}
