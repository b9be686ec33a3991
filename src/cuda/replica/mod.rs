//! One GPU with all it needs to encode: weights, arena, and the graphs recorded so far.

mod graphs;
mod measuring;

use std::sync::Arc;
use std::time::Instant;

use rayon::prelude::*;

use self::graphs::Graphs;
pub(super) use self::measuring::Measuring;
use super::architecture;
use super::batch::BatchTables;
use super::caller_stream::{CallerStream, DescriptorPool, Enqueued};
use super::cublas::Cublas;
use super::driver::{Context, DeviceMemory, DeviceModel, Event, Graph};
use super::fatbin;
use super::lower::Lowering;
use super::ops::{Kernels, Launcher};
use super::slot::{NO_TIME, SLOTS, Slot, Streams};
use super::tuning::{Tuning, driver_version};
use super::weights::DeviceWeights;
use crate::checkpoint::VisionWeights;
use crate::config::EncoderConfig;
use crate::error::{CudaError, Error};
use crate::plan::{Batch, BatchShape, Capacity, Form, Plan, Step, Target, Timing};

/// One GPU. Fields are dropped in this order: graphs before the memory they name.
#[derive(Debug)]
pub(super) struct Replica {
    graphs: Graphs,
    slots: Vec<Slot>,
    /// For callers' streams, from the first on.
    descriptor_pool: Option<DescriptorPool>,
    /// Buffers of the plan.
    arena: DeviceMemory,
    /// The batch descriptor.
    descriptor: DeviceMemory,
    /// What `slots` and `descriptor` have room for.
    capacity: Capacity,
    weights: DeviceWeights,
    cublas: Option<Cublas>,
    tuning: Tuning,
    kernels: Kernels,
    streams: Streams,
    context: Arc<Context>,
    config: EncoderConfig,
    target: Target,
    /// The failure after which nothing on this GPU succeeds.
    lost: Option<String>,
}

/// Called after each step, with everything the step wrote.
pub(crate) type Observer<'a> = dyn FnMut(&Plan, &Step, &[f32]) + 'a;

impl Replica {
    /// Sets GPU number `ordinal` up for `config`'s encoder and for batches that `capacity` covers.
    ///
    /// # Errors
    /// [`CudaError`] where there is no such GPU, it cannot run the kernels, or it lacks the memory.
    pub(super) fn new(
        ordinal: usize,
        weights: &VisionWeights,
        config: &EncoderConfig,
        target: Target,
        capacity: &Capacity,
    ) -> Result<Self, Error> {
        let context = Context::new(ordinal)?;
        require_architecture(&context)?;
        // A capacity that no memory holds is refused before the weights travel.
        let arena_bytes = Plan::with_capacity(config, &Default::default(), *capacity, target)?.arena_bytes;
        let kernels = Kernels::load(&context, target.precision.activations, target.form)?;
        let streams = Streams::new(&context)?;
        let cublas = if target.form == Form::Cublas { Some(Cublas::new(&context)?) } else { None };
        let weights = DeviceWeights::load(weights, config, target, Launcher::new(&kernels, &streams.compute))?;
        let arena = DeviceMemory::new(&context, arena_bytes, "the arena")?;
        let (slots, descriptor) = rooms(&context, config, capacity, target)?;
        Ok(Self {
            graphs: Graphs::default(),
            slots,
            descriptor_pool: None,
            arena,
            descriptor,
            capacity: *capacity,
            weights,
            cublas,
            tuning: Tuning::open(context.model()),
            kernels,
            streams,
            context,
            config: config.clone(),
            target,
            lost: None,
        })
    }

    /// The GPU, for people.
    pub(super) fn describe(&self) -> String {
        format!("cuda:{} ({})", self.context.ordinal(), self.context.model().name)
    }

    /// What the GPU adds to the numerics class. Our kernels give the same bits on all GPUs of a compute capability;
    /// cuBLASLt chooses its own by GPU and release.
    pub(super) fn numerics(&self, form: Form) -> String {
        let DeviceModel { name, capability: (major, minor), .. } = self.context.model();
        match form {
            Form::Cublas => format!("{name}, {}", driver_version()),
            Form::Cpu | Form::Portable | Form::Hopper => format!("{major}.{minor}"),
        }
    }

    /// What times its steps.
    pub(super) fn measuring(&mut self) -> Measuring<'_> {
        Measuring::new(self)
    }

    pub(super) fn context(&self) -> &Arc<Context> {
        &self.context
    }

    pub(super) fn is_simulated(&self) -> bool {
        self.context.model().is_simulated()
    }

    /// Starts a batch in slot `slot`, which is free; `timed` has the GPU keep the time of its stages.
    pub(super) fn submit(&mut self, slot: usize, batch: &Batch, timed: bool) -> Result<(), Error> {
        self.in_slot(slot, |replica| {
            replica.context.bind()?;
            let graph = replica.prepare(&batch.shape)?;
            let embeddings = replica.slots[slot].embeddings.address();
            replica.send(slot, graph, (batch, embeddings), timed)?;
            let len = batch.shape.num_output_tiles() * replica.config.num_tokens() * replica.config.decoder_embed_dim;
            Ok(replica.slots[slot].download(len, replica.target.precision.activations, &replica.streams)?)
        })
    }

    /// Waits for the batch in slot `slot`, if one is there, and writes its results as f32.
    pub(super) fn finish(&mut self, slot: usize, embeddings: &mut [f32]) -> Result<Timing, Error> {
        self.in_slot(slot, |replica| {
            let dtype = replica.target.precision.activations;
            let Some((bytes, mut timing)) = replica.slots[slot].finish(dtype)? else { return Ok(NO_TIME) };
            let begin = Instant::now();
            // Blocks that fit the inner caches, whole elements.
            const BLOCK: usize = 1 << 15;
            let blocks = embeddings.par_chunks_mut(BLOCK).zip(bytes.par_chunks(BLOCK * dtype.size()));
            blocks.for_each(|(values, bytes)| dtype.widen(bytes, values));
            if let Timing::Gpu { d2h, .. } = &mut timing {
                *d2h += begin.elapsed();
            }
            Ok(timing)
        })
    }

    /// Waits for the batch in slot `slot`, if one is there, for whose results nobody asks.
    pub(super) fn discard(&mut self, slot: usize) -> Result<(), Error> {
        let dtype = self.target.precision.activations;
        self.in_slot(slot, |replica| Ok(replica.slots[slot].finish(dtype).map(drop)?))
    }

    /// What can be waited for on any thread until the batch in slot `slot` is computed.
    pub(super) fn computed(&self, slot: usize) -> &Arc<Event> {
        self.slots[slot].computed()
    }

    /// Runs a batch step by step, without a graph, and shows what each step wrote.
    pub(super) fn observe(
        &mut self,
        batch: &Batch,
        embeddings: &mut [f32],
        observer: &mut Observer,
    ) -> Result<(), Error> {
        self.in_slot(0, |replica| {
            replica.context.bind()?;
            let plan = Plan::build(&replica.config, &batch.shape, replica.target)?;
            let tables = replica.send_first(&plan, batch)?;
            let lowering = replica.lowering(&plan, &tables);
            for step in &plan.steps {
                lowering.step(step)?;
                let values = lowering.written(step, &replica.slots[0].embeddings)?;
                observer(&plan, step, &values);
                // Whoever looks may use another GPU meanwhile.
                replica.context.bind()?;
            }
            let len = plan.capacity.output_rows * replica.config.decoder_embed_dim;
            Ok(replica.slots[0].download(len, replica.target.precision.activations, &replica.streams)?)
        })?;
        self.finish(0, embeddings).map(drop)
    }

    /// Enqueues batches whose pixels are on the GPU.
    pub(super) fn enqueue(&mut self, batches: &[Enqueued], caller: &CallerStream) -> Result<(), Error> {
        let shapes = batches.iter().map(|batch| &batch.shape);
        self.pass(shapes, caller, |replica, graph, index| {
            let Self { descriptor_pool: Some(pool), graphs, config, descriptor, streams, .. } = replica else {
                unreachable!("made before the first batch passes")
            };
            pool.describe(config, &graphs.get(graph).tables, &batches[index], descriptor, &streams.compute)?;
            Ok(replica.launch(graph)?)
        })
    }

    /// Enqueues batches whose pixels go by slots, in turn, and whose embeddings to addresses of the caller's.
    pub(super) fn enqueue_from_host(
        &mut self,
        slots: &[usize],
        batches: &[(Batch, u64)],
        caller: &CallerStream,
    ) -> Result<(), Error> {
        let shapes = batches.iter().map(|(batch, _)| &batch.shape);
        self.pass(shapes, caller, |replica, graph, index| {
            let (slot, (batch, embeddings)) = (slots[index % slots.len()], &batches[index]);
            replica.send(slot, graph, (batch, *embeddings), false)?;
            Ok(replica.slots[slot].pass(&replica.streams)?)
        })
    }

    /// Gives batches of these shapes to the compute stream, between what the caller's stream was given before and after;
    /// `send` sends the graph of a number and, before it, the descriptor of the batch of another. What may have to be made
    /// for them is made before the caller's stream is touched.
    fn pass<'s>(
        &mut self,
        shapes: impl Iterator<Item = &'s BatchShape> + Clone,
        caller: &CallerStream,
        mut send: impl FnMut(&mut Self, usize, usize) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.guarded(|replica| {
            replica.context.bind()?;
            for shape in shapes.clone() {
                replica.prepare(shape)?;
            }
            if replica.descriptor_pool.is_none() {
                let bytes = BatchTables::new(replica.capacity, replica.target).bytes;
                replica.descriptor_pool = Some(DescriptorPool::new(&replica.context, bytes)?);
            }
            replica.descriptor_pool().enter(caller, &replica.streams.compute)?;
            for (index, shape) in shapes.enumerate() {
                let graph = replica.record(replica.capacity_for(shape), shape)?;
                send(replica, graph, index)?;
            }
            replica.descriptor_pool().leave(caller, &replica.streams.compute)
        })
    }

    fn descriptor_pool(&self) -> &DescriptorPool {
        let Some(pool) = &self.descriptor_pool else { unreachable!("made before the first batch passes") };
        pool
    }

    /// Sends a batch by a slot, and launches its graph; its embeddings go to an address of the GPU.
    fn send(
        &mut self,
        slot: usize,
        graph: usize,
        (batch, embeddings): (&Batch, u64),
        timed: bool,
    ) -> Result<(), Error> {
        self.slots[slot].time(&self.context, timed)?;
        let tables = &self.graphs.get(graph).tables;
        self.slots[slot].upload(&self.config, tables, (batch, embeddings), &self.descriptor, &self.streams)?;
        Ok(self.launch(graph)?)
    }

    /// Sends a batch by the first slot, for a plan that is walked step by step.
    fn send_first(&mut self, plan: &Plan, batch: &Batch) -> Result<BatchTables, Error> {
        self.reserve(&plan.capacity)?;
        self.reserve_arena(plan.arena_bytes)?;
        let tables = BatchTables::new(plan.capacity, self.target);
        let embeddings = self.slots[0].embeddings.address();
        self.slots[0].time(&self.context, false)?;
        self.slots[0].upload(&self.config, &tables, (batch, embeddings), &self.descriptor, &self.streams)?;
        Ok(tables)
    }

    /// Launches a graph for the batch whose descriptor was sent last.
    fn launch(&self, graph: usize) -> Result<(), CudaError> {
        // SAFETY: the graph names weights, arena and descriptor, which live as long as it does; pixels and embeddings
        // are named by the descriptor that was sent before, and belong to a slot or to a caller who has promised them.
        #[expect(unsafe_code, reason = "a recorded graph's memory is this struct's to keep")]
        unsafe {
            self.graphs.get(graph).graph.launch(&self.streams.compute)
        }
    }

    /// Makes room for a batch of this shape, and returns the number of its graph.
    fn prepare(&mut self, shape: &BatchShape) -> Result<usize, Error> {
        let capacity = self.capacity_for(shape);
        self.reserve(&capacity)?;
        self.record(capacity, shape)
    }

    /// The number of the graph for `capacity`, recorded now if it is the first time.
    fn record(&mut self, capacity: Capacity, shape: &BatchShape) -> Result<usize, Error> {
        if let Some(known) = self.graphs.find(&capacity) {
            return Ok(known);
        }
        let plan = Plan::with_capacity(&self.config, shape, capacity, self.target)?;
        self.reserve_arena(plan.arena_bytes)?;
        let tables = BatchTables::new(capacity, self.target);
        let graph = {
            let lowering = self.lowering(&plan, &tables);
            let give = || plan.steps.iter().try_for_each(|step| Ok(lowering.step(step)?));
            Graph::record(&self.streams.compute, give)?
        };
        graph.upload(&self.streams.compute)?;
        Ok(self.graphs.keep(graph, tables))
    }

    fn lowering<'a>(&'a self, plan: &'a Plan, tables: &BatchTables) -> Lowering<'a> {
        Lowering {
            plan,
            weights: &self.weights,
            arena: &self.arena,
            batch: tables.views(&self.descriptor),
            launcher: Launcher::new(&self.kernels, &self.streams.compute),
            tuning: &self.tuning,
            cublas: self.cublas.as_ref(),
        }
    }

    /// Makes room for batches that `capacity` covers. A batch within the budget of tiles finds it made.
    fn reserve(&mut self, capacity: &Capacity) -> Result<(), Error> {
        if self.capacity.covers(capacity) {
            return Ok(());
        }
        assert!(self.slots.iter().all(Slot::is_free), "memory cannot grow under a batch in flight");
        let capacity = self.capacity.union(capacity);
        self.forget_graphs()?;
        self.descriptor_pool = None;
        (self.slots, self.descriptor) = rooms(&self.context, &self.config, &capacity, self.target)?;
        self.capacity = capacity;
        Ok(())
    }

    /// Makes the arena at least this large, likewise.
    fn reserve_arena(&mut self, bytes: usize) -> Result<(), Error> {
        if self.arena.len() < bytes {
            self.forget_graphs()?;
            self.arena = DeviceMemory::new(&self.context, bytes, "the arena")?;
        }
        Ok(())
    }

    /// Forgets all graphs, for they name memory that is about to go; what is under way ends first.
    fn forget_graphs(&mut self) -> Result<(), Error> {
        self.context.synchronize()?;
        self.graphs.clear();
        Ok(())
    }

    /// Does something for the batch in slot `slot`. After a failure nothing may be under way any more: the next batch starts
    /// from a clean state, or learns why not. This batch has failed; another's results are whole once everything could be
    /// waited for.
    fn in_slot<T>(&mut self, slot: usize, work: impl FnOnce(&mut Self) -> Result<T, Error>) -> Result<T, Error> {
        // What is in the slots of a GPU that is lost stays there.
        self.require_usable()?;
        let result = self.guarded(work);
        if result.is_err() {
            self.slots[slot].abandon();
        }
        result
    }

    /// Does something on a GPU that is not lost. After a failure everything is waited for, and what is lost is remembered.
    fn guarded<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, Error>) -> Result<T, Error> {
        self.require_usable()?;
        let result = work(self);
        if let Err(error) = &result {
            self.settle();
            if let Error::Cuda(cause) = error
                && cause.is_fatal()
            {
                self.lost.get_or_insert_with(|| cause.to_string());
            }
        }
        result
    }

    fn require_usable(&self) -> Result<(), Error> {
        match &self.lost {
            Some(cause) => Err(CudaError::Lost { cause: cause.clone() }.into()),
            None => Ok(()),
        }
    }

    /// Ends whatever is under way and forgets it. Where not even that can be waited for, memory must not be used again.
    pub(super) fn abandon(&mut self) {
        self.settle();
        self.slots.iter_mut().for_each(Slot::abandon);
    }

    fn settle(&mut self) {
        if let Err(error) = self.context.synchronize() {
            self.lost.get_or_insert_with(|| error.to_string());
        }
    }

    /// Whether a batch can start while another is in flight: growing memory for it has to wait.
    pub(super) fn has_room_for(&self, shape: &BatchShape) -> bool {
        self.capacity.covers(&self.capacity_for(shape))
    }

    /// The capacity of the graph that a batch takes.
    fn capacity_for(&self, shape: &BatchShape) -> Capacity {
        self.capacity_on(self.target, shape)
    }

    /// The same for a plan of another target.
    fn capacity_on(&self, target: Target, shape: &BatchShape) -> Capacity {
        let exact = Capacity::of(&self.config, shape, target);
        // One image has a graph of its own shape: the shapes are few, and its latency counts most.
        if shape.images.len() == 1 { exact } else { exact.rounded_up() }
    }
}

/// Slots and descriptor for batches that `capacity` covers.
fn rooms(
    context: &Arc<Context>,
    config: &EncoderConfig,
    capacity: &Capacity,
    target: Target,
) -> Result<(Vec<Slot>, DeviceMemory), CudaError> {
    let slot = || Slot::new(context, config, capacity, target);
    let slots = (0..SLOTS).map(|_| slot()).collect::<Result<Vec<_>, _>>()?;
    let descriptor = DeviceMemory::new(context, BatchTables::new(*capacity, target).bytes, "the batch descriptor")?;
    Ok((slots, descriptor))
}

fn require_architecture(context: &Context) -> Result<(), CudaError> {
    let (model, built) = (context.model(), fatbin::architectures());
    if architecture::code_for(model.capability, &built).is_some() {
        return Ok(());
    }
    let (device, capability) = (model.name.clone(), model.capability);
    Err(CudaError::Architecture { device, capability, built_for: architecture::Architecture::join(&built) })
}
