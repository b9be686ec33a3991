//! Times of a plan's steps on the GPU: for the choice of tiles, and for whoever wants to know.

use std::collections::BTreeMap;

use super::Replica;
use crate::cuda::batch::BatchTables;
use crate::cuda::cublas::{Cublas, Product};
use crate::cuda::driver::{DeviceMemory, Event, Stream};
use crate::cuda::lower::Lowering;
use crate::cuda::ops::{self, Matrix};
use crate::cuda::tuning::{tilings, tilings_of_sweep};
use crate::error::{CudaError, Error};
use crate::plan::{Batch, BatchShape, Form, Op, Peak, Plan, Profile, Spread, Step, StepSpan, StepTiming, Target};

/// Rounds in which a tiling shows its least time.
const TUNING_ROUNDS: usize = 5;

/// Rounds of what is reported.
const REPORTED_ROUNDS: usize = 50;

/// Rows and columns of the matrices whose product shows what a GPU does at best: 1.1 TFLOP, beside which a launch and the
/// last wave are nothing.
const PEAK_SIDE: usize = 8192;

/// Bytes of the copy that shows it: ten times what the largest L2 holds.
const PEAK_COPY_BYTES: usize = 512 << 20;

/// Algorithms of cuBLASLt's that are tried for a product.
const MAX_ALGORITHMS: usize = 32;

/// A GPU while it is measured.
#[derive(Debug)]
pub(in crate::cuda) struct Measuring<'r> {
    replica: &'r mut Replica,
}

impl<'r> Measuring<'r> {
    pub(super) fn new(replica: &'r mut Replica) -> Self {
        Self { replica }
    }

    /// Measures the tilings of every operation of these batches that is not known yet, and keeps what was found. Before the
    /// first batch; shapes beyond the capacity are left to the prediction.
    ///
    /// # Errors
    /// Those of the GPU.
    pub(in crate::cuda) fn tune(&mut self, shapes: &[BatchShape]) -> Result<(), Error> {
        self.replica.context.bind()?;
        let mut tuning = self.replica.tuning.clone();
        let mut is_new = false;
        for shape in shapes {
            let plan = Plan::with_capacity(
                &self.replica.config,
                shape,
                self.replica.capacity_for(shape),
                self.replica.target,
            )?;
            let is_known = plan.steps.iter().all(|step| tuning.knows(&plan, step));
            if is_known || !self.replica.capacity.covers(&plan.capacity) || self.replica.arena.len() < plan.arena_bytes
            {
                continue;
            }
            let tables = self.set_scene(&plan, shape)?;
            let lowering = self.replica.lowering(&plan, &tables);
            for step in &plan.steps {
                if tuning.knows(&plan, step) {
                    continue;
                }
                let seconds = (0..tilings(&plan, step).len()).map(|tiling| {
                    let launcher = lowering.launcher.with_tiling(Some(tiling));
                    let lowering = Lowering { launcher, ..lowering };
                    Ok(self.measure(TUNING_ROUNDS, || lowering.step(step))?.least)
                });
                let seconds = seconds.collect::<Result<Vec<f64>, Error>>()?;
                tuning.choose(&plan, step, &seconds);
                is_new = true;
            }
        }
        self.replica.tuning = tuning;
        if is_new {
            // Where it cannot be kept it is measured again at the next start, and nothing else is lost.
            let _ = self.replica.tuning.keep();
        }
        Ok(())
    }

    /// Times every kind of step of a batch of this shape, in every tiling of its form, and its matrix product alone by the best
    /// of cuBLASLt's algorithms where the library is there. Rounds go over all steps of a kind, so that weights come from
    /// memory as they do in an encode. Without `timed` everything is launched once.
    ///
    /// # Errors
    /// Those of the GPU; [`CudaError::OutOfMemory`] where the shape is beyond what there is.
    pub(in crate::cuda) fn time_steps(&mut self, shape: &BatchShape, timed: bool) -> Result<Vec<StepTiming>, Error> {
        self.replica.context.bind()?;
        let mut timings = self.time_steps_on(self.replica.target, shape, timed, |_| true)?;
        // Attention's other divisions of the rows have tables of their own.
        let in_use = self.replica.target.attention_tiling(&self.replica.config);
        let all = ops::attention_tilings(self.replica.target.head_columns(&self.replica.config));
        for tiling in all.into_iter().filter(|tiling| in_use.is_some_and(|in_use| in_use != *tiling)) {
            let target = self.replica.target.with_attention(tiling);
            let is_attention = |step: &Step| matches!(step.op, Op::Attention { .. });
            timings.extend(self.time_steps_on(target, shape, timed, is_attention)?);
        }
        let mut kinds: Vec<String> = timings.iter().map(|timing| timing.step.clone()).collect();
        kinds.dedup();
        timings.sort_by_key(|timing| kinds.iter().position(|kind| *kind == timing.step));
        Ok(timings)
    }

    /// Walks a batch' plan without a graph, `num_rounds` times after one that does not count, with an event between any two
    /// steps.
    ///
    /// # Errors
    /// Those of the GPU.
    pub(in crate::cuda) fn profile(&mut self, batch: &Batch, num_rounds: usize) -> Result<Profile, Error> {
        self.replica.in_slot(0, |replica| {
            replica.context.bind()?;
            let capacity = replica.capacity_for(&batch.shape);
            let plan = Plan::with_capacity(&replica.config, &batch.shape, capacity, replica.target)?;
            let tables = replica.send_first(&plan, batch)?;
            let (lowering, stream) = (replica.lowering(&plan, &tables), &replica.streams.compute);
            let event = || Event::timed(&replica.context);
            let events = std::iter::repeat_with(event).take(plan.steps.len() + 1).collect::<Result<Vec<_>, _>>()?;
            let mut rounds = Vec::with_capacity(num_rounds);
            for round in 0..=num_rounds {
                events[0].record(stream)?;
                for (step, event) in plan.steps.iter().zip(&events[1..]) {
                    lowering.step(step)?;
                    event.record(stream)?;
                }
                stream.synchronize()?;
                if round > 0 {
                    let span = |pair: &[Event]| {
                        let start = pair[0].seconds_since(&events[0])?;
                        Ok::<_, CudaError>(StepSpan { start, seconds: pair[1].seconds_since(&pair[0])? })
                    };
                    rounds.push(events.windows(2).map(span).collect::<Result<_, _>>()?);
                }
            }
            Ok(Profile { plan, rounds })
        })
    }

    /// The rates of a large product, by the best of cuBLASLt's algorithms where the library is there, and of a large copy.
    ///
    /// # Errors
    /// Those of the GPU; [`CudaError::OutOfMemory`].
    pub(in crate::cuda) fn measure_peak(&mut self, timed: bool) -> Result<Option<Peak>, Error> {
        self.replica.context.bind()?;
        let (side, copied) = if timed { (PEAK_SIDE, PEAK_COPY_BYTES) } else { (256, 1 << 20) };
        let flops = match Cublas::new(&self.replica.context) {
            Ok(cublas) => {
                self.peak_of_products(&cublas, side, timed)?.map(|seconds| 2.0 * (side as f64).powi(3) / seconds)
            }
            Err(CudaError::NoCublas) => None,
            Err(error) => return Err(error.into()),
        };
        let memory = || DeviceMemory::new(&self.replica.context, copied, "a copy that is timed");
        let (mut from, to) = (memory()?, memory()?);
        fill(&mut from, &self.replica.streams.compute)?;
        let seconds = self.rounds(timed, 1, || from.copy_to(&to, &self.replica.streams.compute))?;
        Ok(seconds.map(|seconds| Peak { flops, bytes: 2.0 * copied as f64 / seconds.least }))
    }

    /// Seconds of a product of square matrices at best.
    fn peak_of_products(&self, cublas: &Cublas, side: usize, timed: bool) -> Result<Option<f64>, CudaError> {
        let dtype = self.replica.target.precision.activations;
        let memory = || DeviceMemory::new(&self.replica.context, side * side * dtype.size(), "a product that is timed");
        let mut operands = [memory()?, memory()?, memory()?];
        operands[..2].iter_mut().try_for_each(|operand| fill(operand, &self.replica.streams.compute))?;
        let [input, weight, output] = operands.each_ref().map(|memory| Matrix::new(memory, 0, [side; 3], dtype));
        let product = Product { input, weight, output, rows: side, add: false };
        let mut best: Option<f64> = None;
        for algorithm in &cublas.algorithms(&product, MAX_ALGORITHMS)? {
            let give = || cublas.multiply_by(algorithm, &product, &self.replica.streams.compute);
            let least = self.rounds(timed, 1, give)?.map(|seconds| seconds.least);
            best = [best, least].into_iter().flatten().min_by(f64::total_cmp);
        }
        Ok(best)
    }

    /// The same of those steps alone, in a plan for `target`.
    fn time_steps_on(
        &mut self,
        target: Target,
        shape: &BatchShape,
        timed: bool,
        is_timed: impl Fn(&Step) -> bool,
    ) -> Result<Vec<StepTiming>, Error> {
        let plan = Plan::with_capacity(&self.replica.config, shape, self.replica.capacity_on(target, shape), target)?;
        self.replica.reserve(&plan.capacity)?;
        self.replica.reserve_arena(plan.arena_bytes)?;
        let tables = self.set_scene(&plan, shape)?;
        let cublas = match Cublas::new(&self.replica.context) {
            Ok(cublas) => Some(cublas),
            Err(CudaError::NoCublas) => None,
            Err(error) => return Err(error.into()),
        };
        let lowering = self.replica.lowering(&plan, &tables);
        let mut kinds: BTreeMap<String, Vec<&Step>> = BTreeMap::new();
        for step in &plan.steps {
            kinds.entry(step.kind()).or_default().push(step);
        }
        let mut timings = Vec::new();
        for kind in plan.kinds() {
            let steps = &kinds[&kind];
            if !is_timed(steps[0]) {
                continue;
            }
            let form = steps[0].form;
            let tilings = tilings_of_sweep(&plan, steps[0]);
            let choices = if tilings.is_empty() { vec![None] } else { (0..tilings.len()).map(Some).collect() };
            let timing = |tiling: Option<&'static str>, bare_product: bool, seconds: Option<Spread>| StepTiming {
                step: kind.clone(),
                form: if bare_product { Some(Form::Cublas) } else { form },
                tiling,
                bare_product,
                flops: steps[0].flops,
                bytes: steps[0].bytes,
                seconds,
            };
            for choice in choices {
                let lowering = Lowering { launcher: lowering.launcher.with_tiling(choice), ..lowering };
                let seconds =
                    self.rounds(timed, steps.len(), || steps.iter().try_for_each(|step| lowering.step(step)))?;
                timings.push(timing(choice.map(|choice| tilings[choice]), false, seconds));
            }
            let products: Option<Vec<Product>> = steps.iter().map(|step| lowering.bare_product(step)).collect();
            if let (Some(cublas), Some(products)) = (&cublas, products) {
                let algorithms = cublas.algorithms(&products[0], MAX_ALGORITHMS)?;
                let mut best: Option<Spread> = None;
                for algorithm in &algorithms {
                    let give = || {
                        products.iter().try_for_each(|product| {
                            cublas.multiply_by(algorithm, product, &self.replica.streams.compute)
                        })
                    };
                    let seconds = self.rounds(timed, steps.len(), give)?;
                    best = [best, seconds].into_iter().flatten().min_by(|a, b| a.median.total_cmp(&b.median));
                }
                timings.push(timing(None, true, best));
            }
        }
        Ok(timings)
    }

    /// Sets descriptor and arena up for a batch of this shape, whose values are noise.
    fn set_scene(&mut self, plan: &Plan, shape: &BatchShape) -> Result<BatchTables, CudaError> {
        fill(&mut self.replica.arena, &self.replica.streams.compute)?;
        let tables = BatchTables::new(plan.capacity, plan.target);
        let mut bytes = vec![0; tables.bytes];
        let slot = &self.replica.slots[0];
        tables.write(&self.replica.config, shape, &slot.places(), &mut bytes);
        self.replica.descriptor.write(0, &bytes, &self.replica.streams.compute)?;
        Ok(tables)
    }

    /// Seconds of one of the `launches` that a call of `give` makes; without `timed`, one call and no time.
    fn rounds(
        &self,
        timed: bool,
        launches: usize,
        give: impl Fn() -> Result<(), CudaError>,
    ) -> Result<Option<Spread>, CudaError> {
        if !timed {
            give()?;
            self.replica.streams.compute.synchronize()?;
            return Ok(None);
        }
        let spread = self.measure(REPORTED_ROUNDS, give)?;
        let one = |seconds: f64| seconds / launches as f64;
        let Spread { median, least, most, rounds } = spread;
        Ok(Some(Spread { median: one(median), least: one(least), most: one(most), rounds }))
    }

    /// Seconds of what a call of `give` gives to the compute stream, after two calls that do not count.
    fn measure(&self, rounds: usize, give: impl Fn() -> Result<(), CudaError>) -> Result<Spread, CudaError> {
        let stream = &self.replica.streams.compute;
        let (start, end) = (Event::timed(&self.replica.context)?, Event::timed(&self.replica.context)?);
        give()?;
        give()?;
        let mut seconds = Vec::with_capacity(rounds);
        for _ in 0..rounds {
            start.record(stream)?;
            give()?;
            end.record(stream)?;
            end.synchronize()?;
            seconds.push(end.seconds_since(&start)?);
        }
        let Some(spread) = Spread::of(seconds) else { unreachable!("whoever measures asks for a round") };
        Ok(spread)
    }
}

/// Fills memory with finite numbers without a pattern: a GPU is faster on zeros than on what it will meet.
fn fill(memory: &mut DeviceMemory, stream: &Stream) -> Result<(), CudaError> {
    const BLOCK_BYTES: usize = 1 << 20;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut noise = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // Sign and fraction at random, exponents from 2^-8 to 1 in both 16-bit types.
        let bits = (state >> 48) as u16;
        bits & 0x83ff | 0x3800
    };
    let block: Vec<u16> = std::iter::repeat_with(&mut noise).take(BLOCK_BYTES / 2).collect();
    let block: &[u8] = bytemuck::cast_slice(&block);
    for start in (0..memory.len()).step_by(BLOCK_BYTES) {
        let len = BLOCK_BYTES.min(memory.len() - start);
        memory.write(start, &block[..len], stream)?;
    }
    Ok(())
}
