//! Batches over one or several GPUs, each of which has all weights and works by itself.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use super::architecture::{self, Architecture};
use super::caller_stream::{CallerStream, Enqueued};
use super::driver::{Context, DeviceModel, list_devices};
use super::in_flight::{FlightState, InFlight, InFlightBatch, Outcome, Pending};
use super::replica::{Observer, Replica};
use super::slot::{NO_TIME, SLOTS};
use super::{abi, fatbin};
use crate::checkpoint::VisionWeights;
use crate::config::EncoderConfig;
use crate::digest::Digest;
use crate::error::{CudaError, Error, InputError};
use crate::plan::{Batch, BatchShape, Capacity, Form, Peak, Profile, StepTiming, Target, Timing};

/// The widest head there is a kernel for.
const MAX_HEAD_DIM: usize = 128;

/// The compute capability of Hopper, whose own instructions run nowhere else.
const HOPPER: (u32, u32) = (9, 0);

/// The encoder on GPUs.
#[derive(Debug)]
pub(crate) struct CudaBackend {
    replicas: Vec<Replica>,
    in_flight: InFlight,
    target: Target,
    weights_digest: Digest,
}

impl CudaBackend {
    /// The encoder on the GPUs with these numbers, ready for batches that `capacity` covers.
    ///
    /// # Errors
    /// [`CudaError`].
    pub(crate) fn new(
        ordinals: &[usize],
        weights: &VisionWeights,
        config: &EncoderConfig,
        target: Target,
        capacity: &Capacity,
    ) -> Result<Self, Error> {
        require_model(config)?;
        let replica = |&ordinal: &usize| Replica::new(ordinal, weights, config, target, capacity);
        // The weights are read while they travel: afterwards they are only on the GPUs.
        let digest = OnceLock::new();
        let read = || *digest.get_or_init(|| weights.digest());
        let replicas = rayon::in_place_scope(|scope| {
            scope.spawn(|_| {
                read();
            });
            ordinals.iter().map(replica).collect::<Result<_, _>>()
        })?;
        Ok(Self { replicas, in_flight: InFlight::default(), target, weights_digest: read() })
    }

    /// Measures the tilings of the matrix operations of these batches on each GPU, where they are not known from an earlier
    /// start. On the simulated device, where no time means anything, only with `always`.
    ///
    /// # Errors
    /// [`CudaError`].
    pub(crate) fn tune(&mut self, shapes: &[BatchShape], always: bool) -> Result<(), Error> {
        let mut measured = self.replicas.iter_mut().filter(|replica| always || !replica.is_simulated());
        measured.try_for_each(|replica| replica.measuring().tune(shapes))
    }

    /// Times the kinds of steps of a batch on the first GPU, in every tiling; with `timed` unset, launches all of them once.
    ///
    /// # Errors
    /// [`InputError::Unavailable`] for times of a simulated device; [`CudaError`].
    pub(crate) fn time_steps(&mut self, shape: &BatchShape, timed: bool) -> Result<Vec<StepTiming>, Error> {
        self.measured(timed)?.measuring().time_steps(shape, timed)
    }

    /// Walks a batch' plan on the first GPU, step by step; without rounds, launches everything once.
    ///
    /// # Errors
    /// Likewise.
    pub(crate) fn profile(&mut self, batch: &Batch, rounds: usize) -> Result<Profile, Error> {
        self.measured(rounds > 0)?.measuring().profile(batch, rounds)
    }

    /// What the first GPU does at best; without `timed`, launches little once.
    ///
    /// # Errors
    /// Likewise.
    pub(crate) fn measure_peak(&mut self, timed: bool) -> Result<Option<Peak>, Error> {
        self.measured(timed)?.measuring().measure_peak(timed)
    }

    /// The GPU that is measured, idle.
    fn measured(&mut self, timed: bool) -> Result<&mut Replica, Error> {
        self.drain_all();
        let replica = &mut self.replicas[0];
        if timed && replica.is_simulated() {
            let reason = "no time of a simulated device means anything: launch without timing";
            return Err(InputError::Unavailable { option: "device", found: replica.describe(), reason }.into());
        }
        Ok(replica)
    }

    pub(crate) fn is_simulated(&self) -> bool {
        self.replicas.iter().any(Replica::is_simulated)
    }

    /// Bytes that each GPU has given.
    pub(crate) fn device_bytes(&self) -> Vec<u64> {
        self.replicas.iter().map(|replica| replica.context().allocated_bytes()).collect()
    }

    /// What the plans it runs are made for.
    pub(crate) fn target(&self) -> Target {
        self.target
    }

    /// The GPUs, for people.
    pub(crate) fn describe(&self) -> String {
        self.replicas.iter().map(Replica::describe).collect::<Vec<_>>().join(", ")
    }

    /// The numerics class: the form and the machine code of the kernels, and the kinds of GPUs they run on.
    pub(crate) fn numerics(&self) -> String {
        let gpus: BTreeSet<String> = self.replicas.iter().map(|replica| replica.numerics(self.target.form)).collect();
        let gpus: Vec<String> = gpus.into_iter().collect();
        format!("cuda {} {} {}", self.target.form, fatbin::build(), gpus.join(", "))
    }

    pub(crate) fn weights_digest(&self) -> Digest {
        self.weights_digest
    }

    /// How many GPUs there are.
    pub(crate) fn num_devices(&self) -> usize {
        self.replicas.len()
    }

    /// Batches that each GPU can have at once.
    pub(crate) fn depth(&self) -> usize {
        SLOTS
    }

    /// Encodes batches, each into its own piece of `embeddings`, f32. Batches go to the GPUs in turn; on each, one
    /// computes while the next one's pixels and the last one's results are on their way. With `timed`, where their time
    /// went.
    ///
    /// # Errors
    /// [`CudaError`]. After one, nothing is under way.
    pub(crate) fn run(&mut self, batches: &[Batch], embeddings: Vec<&mut [f32]>, timed: bool) -> Result<Timing, Error> {
        self.drain_all();
        let num_replicas = self.replicas.len();
        let mut timing = NO_TIME;
        let mut waiting: Vec<[Option<&mut [f32]>; SLOTS]> = self.replicas.iter().map(|_| Default::default()).collect();
        let mut finish = |replica: &mut Replica, waiting: &mut Option<&mut [f32]>, slot: usize| {
            if let Some(embeddings) = waiting.take() {
                add(&mut timing, replica.finish(slot, embeddings)?);
            }
            Ok::<_, Error>(())
        };
        let run = || {
            for (number, (batch, embeddings)) in batches.iter().zip(embeddings).enumerate() {
                let (turn, slot) = (number % num_replicas, number / num_replicas % SLOTS);
                let (replica, waiting) = (&mut self.replicas[turn], &mut waiting[turn]);
                finish(replica, &mut waiting[slot], slot)?;
                if !replica.has_room_for(&batch.shape) {
                    for (slot, waiting) in waiting.iter_mut().enumerate() {
                        finish(replica, waiting, slot)?;
                    }
                }
                replica.submit(slot, batch, timed)?;
                waiting[slot] = Some(embeddings);
            }
            for (replica, waiting) in self.replicas.iter_mut().zip(&mut waiting) {
                for (slot, waiting) in waiting.iter_mut().enumerate() {
                    finish(replica, waiting, slot)?;
                }
            }
            Ok(())
        };
        let result = run();
        if result.is_err() {
            self.replicas.iter_mut().for_each(Replica::abandon);
        }
        result.map(|()| timing)
    }

    /// Encodes one batch on the first GPU, step by step, and shows what each step wrote.
    ///
    /// # Errors
    /// [`CudaError`].
    pub(crate) fn observe(
        &mut self,
        batch: &Batch,
        embeddings: &mut [f32],
        observer: &mut Observer,
    ) -> Result<(), Error> {
        self.drain_all();
        self.replicas[0].observe(batch, embeddings, observer)
    }

    /// Starts a batch on GPU number `device` of this backend's, whose results will be written to `embeddings`. Waits where
    /// the GPU has as many as it has slots, or needs more memory than the batches under way leave it.
    ///
    /// # Errors
    /// [`CudaError`]; batches under way are not affected, unless the GPU is lost.
    pub(crate) fn submit(
        &mut self,
        device: usize,
        batch: &Batch,
        embeddings: Vec<f32>,
    ) -> Result<InFlightBatch, Error> {
        if !self.replicas[device].has_room_for(&batch.shape) {
            self.drain(device);
        }
        let slot = self.free_slots(device)[0];
        self.replicas[device].submit(slot, batch, true)?;
        Ok(self.in_flight.add(device, slot, embeddings, self.replicas[device].computed(slot)))
    }

    /// Waits for a batch; its results, and where its time went. None for a batch of another backend.
    pub(crate) fn finish(&mut self, batch: &InFlightBatch) -> Option<Outcome> {
        let pending = self.in_flight.take(batch)?;
        Some(match pending.state {
            FlightState::Finished(outcome) => outcome,
            FlightState::Slot { slot, mut embeddings } => {
                let timing = self.replicas[pending.replica].finish(slot, &mut embeddings);
                timing.map(|timing| (embeddings, timing))
            }
        })
    }

    /// The context of GPU number `device` of this backend's.
    pub(crate) fn context(&self, device: usize) -> &Arc<Context> {
        self.replicas[device].context()
    }

    /// Enqueues batches whose pixels are on GPU number `device` of this backend's.
    ///
    /// # Errors
    /// [`CudaError`]. After one, none of the batches is under way, and the caller's stream waits for nothing of ours.
    pub(crate) fn enqueue(&mut self, device: usize, batches: &[Enqueued], caller: &CallerStream) -> Result<(), Error> {
        if !batches.iter().all(|batch| self.replicas[device].has_room_for(&batch.shape)) {
            self.drain(device);
        }
        self.replicas[device].enqueue(batches, caller)
    }

    /// Enqueues batches whose pixels are the host's, which are copied before this returns; each one's embeddings go to an
    /// address of the GPU.
    ///
    /// # Errors
    /// Likewise.
    pub(crate) fn enqueue_from_host(
        &mut self,
        device: usize,
        batches: &[(Batch, u64)],
        caller: &CallerStream,
    ) -> Result<(), Error> {
        if !batches.iter().all(|(batch, _)| self.replicas[device].has_room_for(&batch.shape)) {
            self.drain(device);
        }
        let slots = self.free_slots(device);
        self.replicas[device].enqueue_from_host(&slots, batches, caller)
    }

    /// The slots of a GPU that no batch is in, at least one: where all are taken, the oldest batch is finished.
    fn free_slots(&mut self, device: usize) -> Vec<usize> {
        let free = self.in_flight.free_slots(device);
        if !free.is_empty() {
            return free;
        }
        self.finish_oldest(device);
        self.in_flight.free_slots(device)
    }

    /// Frees all slots: waits for what is in them, and keeps the results for those who will ask.
    fn drain_all(&mut self) {
        (0..self.replicas.len()).for_each(|device| self.drain(device));
    }

    fn drain(&mut self, device: usize) {
        while self.finish_oldest(device) {}
    }

    /// Frees the slot of the oldest batch of a GPU; false where all are free.
    fn finish_oldest(&mut self, device: usize) -> bool {
        let oldest = self.in_flight.take_oldest(device);
        let Some(Pending { owner, replica, state: FlightState::Slot { slot, mut embeddings } }) = oldest else {
            return false;
        };
        if owner.strong_count() == 0 {
            // Nobody will ask; what went wrong concerns the next batch, which is told.
            let _ = self.replicas[replica].discard(slot);
        } else {
            let timing = self.replicas[replica].finish(slot, &mut embeddings);
            self.in_flight.put_back(owner, replica, timing.map(|timing| (embeddings, timing)));
        }
        true
    }
}

/// Adds the times of another batch on a GPU; their ways may have overlapped.
fn add(sum: &mut Timing, more: Timing) {
    let (Timing::Gpu { h2d, compute, d2h }, Timing::Gpu { h2d: more_h2d, compute: more_compute, d2h: more_d2h }) =
        (sum, more)
    else {
        unreachable!("a GPU gives a GPU's times")
    };
    *h2d += more_h2d;
    *compute += more_compute;
    *d2h += more_d2h;
}

/// What the kernels are made for; every other model runs on the CPU.
pub(crate) fn require_model(config: &EncoderConfig) -> Result<(), CudaError> {
    if config.head_dim() > MAX_HEAD_DIM {
        return Err(CudaError::Model { limit: "heads of at most 128 channels", found: config.head_dim() });
    }
    if config.clip_hidden_states.len() > abi::MAX_HIDDEN_STATES as usize {
        let found = config.clip_hidden_states.len();
        return Err(CudaError::Model { limit: "at most 62 hidden states", found });
    }
    Ok(())
}

/// The fastest form that runs on all of these GPUs.
///
/// # Errors
/// The driver's.
pub(crate) fn best_form(ordinals: &[usize]) -> Result<Form, CudaError> {
    let (devices, built) = (list_devices()?, fatbin::architectures());
    let is_hopper = |ordinal: &usize| devices.get(*ordinal).is_some_and(|model| takes_hopper(model, &built));
    Ok(if ordinals.iter().all(is_hopper) { Form::Hopper } else { Form::Portable })
}

/// Checks that the kernels of Hopper run on all of these GPUs. GPUs that are not there are not its business.
///
/// # Errors
/// [`CudaError::Hopper`], and the driver's.
pub(crate) fn require_hopper(ordinals: &[usize]) -> Result<(), CudaError> {
    let (devices, built) = (list_devices()?, fatbin::architectures());
    let refused =
        ordinals.iter().filter_map(|ordinal| devices.get(*ordinal)).find(|model| !takes_hopper(model, &built));
    let Some(model) = refused else { return Ok(()) };
    let (device, capability) = (model.name.clone(), model.capability);
    Err(CudaError::Hopper { device, capability, built_for: architecture::Architecture::join(&built) })
}

fn takes_hopper(model: &DeviceModel, built: &[Architecture]) -> bool {
    model.capability == HOPPER && built.iter().any(|of| of.specific && of.runs_on(HOPPER))
}

/// The first GPU, where the driver, the GPU and the model are such that this build can use it.
pub(crate) fn best_gpu(config: &EncoderConfig) -> Option<usize> {
    require_model(config).ok()?;
    let first = list_devices().ok()?.into_iter().next()?;
    architecture::code_for(first.capability, &fatbin::architectures()).map(|_| 0)
}
