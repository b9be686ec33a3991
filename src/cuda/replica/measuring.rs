//! Times of a plan's steps on the GPU: for the choice of tiles, and for whoever wants to know.

use std::collections::BTreeMap;

use super::super::batch::BatchTables;
use super::super::cublas::{Cublas, Product};
use super::super::driver::Event;
use super::super::lower::Lowering;
use super::super::ops;
use super::super::tuning::{tilings, tilings_of_sweep};
use super::Replica;
use crate::error::{CudaError, Error};
use crate::plan::{BatchShape, Form, Op, Plan, Spread, Step, StepTiming, Target};

/// Rounds in which a tiling shows its least time.
const TUNING_ROUNDS: usize = 5;

/// Rounds of what is reported.
const REPORTED_ROUNDS: usize = 50;

/// Algorithms of cuBLASLt's that are tried for a product.
const MAX_ALGORITHMS: usize = 32;

impl Replica {
    /// Measures the tilings of every operation of these batches that is not known yet, and keeps what was found. Before the
    /// first batch; shapes beyond the capacity are left to the prediction.
    ///
    /// # Errors
    /// Those of the GPU.
    pub(in crate::cuda) fn tune(&mut self, shapes: &[BatchShape]) -> Result<(), Error> {
        self.context.bind()?;
        let mut tuning = self.tuning.clone();
        let mut is_new = false;
        for shape in shapes {
            let plan = Plan::with_capacity(&self.config, shape, self.capacity_for(shape), self.target)?;
            let is_known = plan.steps.iter().all(|step| tuning.knows(&plan, step));
            if is_known || !self.capacity.covers(&plan.capacity) || self.arena.len() < plan.arena_bytes {
                continue;
            }
            let tables = self.set_scene(&plan, shape)?;
            let lowering = self.lowering(&plan, &tables);
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
        self.tuning = tuning;
        if is_new {
            // Where it cannot be kept it is measured again at the next start, and nothing else is lost.
            let _ = self.tuning.keep();
        }
        Ok(())
    }

    /// Times every kind of step of a batch of this shape, in every tiling of its form, and its matrix product alone by the best
    /// of cuBLASLt's algorithms where the library is there. Rounds go over all steps of a kind, so that weights come from
    /// memory as they do in an encode. Without `timed` everything is launched once.
    ///
    /// # Errors
    /// Those of the GPU; [`CudaError::OutOfMemory`] where the shape is beyond what there is.
    pub(crate) fn time_steps(&mut self, shape: &BatchShape, timed: bool) -> Result<Vec<StepTiming>, Error> {
        self.context.bind()?;
        let mut timings = self.time_steps_on(self.target, shape, timed, |_| true)?;
        // Attention's other divisions of the rows have tables of their own.
        let in_use = self.target.attention_tiling(&self.config);
        let all = ops::attention_tilings(self.target.head_columns(&self.config));
        for tiling in all.into_iter().filter(|tiling| in_use.is_some_and(|in_use| in_use != *tiling)) {
            let target = self.target.with_attention(tiling);
            let is_attention = |step: &Step| matches!(step.op, Op::Attention { .. });
            timings.extend(self.time_steps_on(target, shape, timed, is_attention)?);
        }
        let mut kinds: Vec<String> = timings.iter().map(|timing| timing.step.clone()).collect();
        kinds.dedup();
        timings.sort_by_key(|timing| kinds.iter().position(|kind| *kind == timing.step));
        Ok(timings)
    }

    /// The same of those steps alone, in a plan for `target`.
    fn time_steps_on(
        &mut self,
        target: Target,
        shape: &BatchShape,
        timed: bool,
        is_timed: impl Fn(&Step) -> bool,
    ) -> Result<Vec<StepTiming>, Error> {
        let plan = Plan::with_capacity(&self.config, shape, self.capacity_on(target, shape), target)?;
        self.reserve(&plan.capacity)?;
        self.reserve_arena(plan.arena_bytes)?;
        let tables = self.set_scene(&plan, shape)?;
        let cublas = match Cublas::new(&self.context) {
            Ok(cublas) => Some(cublas),
            Err(CudaError::NoCublas) => None,
            Err(error) => return Err(error.into()),
        };
        let lowering = self.lowering(&plan, &tables);
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
                        products
                            .iter()
                            .try_for_each(|product| cublas.multiply_by(algorithm, product, &self.streams.compute))
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
        self.fill_arena()?;
        let tables = BatchTables::new(plan.capacity, plan.target);
        let mut bytes = vec![0; tables.bytes];
        let slot = &self.slots[0];
        tables.write(&self.config, shape, [slot.pixels.address(), slot.embeddings.address()], &mut bytes);
        self.descriptor.write(0, &bytes, &self.streams.compute)?;
        Ok(tables)
    }

    /// Fills the arena with finite numbers without a pattern: a GPU is faster on zeros than on what it will meet.
    fn fill_arena(&mut self) -> Result<(), CudaError> {
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
        for start in (0..self.arena.len()).step_by(BLOCK_BYTES) {
            let len = BLOCK_BYTES.min(self.arena.len() - start);
            self.arena.write(start, &block[..len], &self.streams.compute)?;
        }
        Ok(())
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
            self.streams.compute.synchronize()?;
            return Ok(None);
        }
        let spread = self.measure(REPORTED_ROUNDS, give)?;
        let one = |seconds: f64| seconds / launches as f64;
        let Spread { median, least, most, rounds } = spread;
        Ok(Some(Spread { median: one(median), least: one(least), most: one(most), rounds }))
    }

    /// Seconds of what a call of `give` gives to the compute stream, after two calls that do not count.
    fn measure(&self, rounds: usize, give: impl Fn() -> Result<(), CudaError>) -> Result<Spread, CudaError> {
        let stream = &self.streams.compute;
        let (start, end) = (Event::timed(&self.context)?, Event::timed(&self.context)?);
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
        seconds.sort_by(f64::total_cmp);
        Ok(Spread { median: seconds[rounds / 2], least: seconds[0], most: seconds[rounds - 1], rounds })
    }
}
