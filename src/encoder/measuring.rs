//! What an encoder can tell of its own speed.

use std::time::Instant;

use super::backend::Backend;
use super::{Encoder, zeros};
use crate::error::{InputError, Result};
use crate::image::Tiles;
use crate::plan::{Batch, BatchShape, Peak, Plan, Profile, StepSpan, StepTiming};

impl Encoder {
    /// Times the kinds of steps of a batch of pictures of these aspect ratios (tiles down, tiles across) on the first GPU,
    /// each in every tiling of its form, and the products alone by cuBLASLt where it is there. Values are noise. With
    /// `timed` unset all of it is launched once, and no time is given.
    ///
    /// # Errors
    /// [`InputError::Unavailable`] for an encoder on the CPU, and for times of a simulated GPU; those of the aspect ratios;
    /// [`Error::Cuda`](crate::Error::Cuda).
    pub fn time_steps(&mut self, aspect_ratios: &[[usize; 2]], timed: bool) -> Result<Vec<StepTiming>> {
        let shape = self.batch_shape(aspect_ratios)?;
        match &mut self.backend {
            Backend::Cuda(cuda) => cuda.time_steps(&shape, timed),
            Backend::Cpu(_) => {
                let reason = "kernels are timed on a GPU";
                Err(InputError::Unavailable { option: "device", found: "cpu".to_string(), reason }.into())
            }
        }
    }

    /// Walks the plan of these pictures, as one batch, `rounds` times after one that does not count, and tells the time of
    /// each step: on the CPU by its clock, on the first GPU by events between launches one by one. An encode launches them
    /// as a graph, in which the ends of steps overlap with the next ones' beginnings, and takes less than their sum. With 0
    /// rounds everything is done once, and nothing is timed.
    ///
    /// # Errors
    /// Those of [`encode_tiles`](Self::encode_tiles); [`InputError::Unavailable`] for times of a simulated GPU.
    pub fn profile(&mut self, tiles: &[Tiles], rounds: usize) -> Result<Profile> {
        let (images, pixels) = self.picture_layouts(tiles)?.into_iter().unzip();
        let batch = Batch { shape: BatchShape { images }, pixels };
        match &mut self.backend {
            Backend::Cpu(cpu) => {
                let plan = Plan::build(&self.config, &batch.shape, cpu.target())?;
                let mut embeddings = zeros(plan.num_output_rows(), self.config.decoder_embed_dim)?;
                let mut walk = || -> Result<Vec<StepSpan>> {
                    let (begin, mut start, mut spans) = (Instant::now(), 0.0, Vec::with_capacity(plan.steps.len()));
                    let mut observer = |_: &Plan, _: &_, _: &[f32]| {
                        let end = begin.elapsed().as_secs_f64();
                        spans.push(StepSpan { start, seconds: end - start });
                        start = end;
                    };
                    cpu.run(&plan, &batch.pixels, &mut embeddings, Some(&mut observer))?;
                    Ok(spans)
                };
                walk()?;
                let rounds = (0..rounds).map(|_| walk()).collect::<Result<_>>()?;
                Ok(Profile { plan, rounds })
            }
            Backend::Cuda(cuda) => cuda.profile(&batch, rounds),
        }
    }

    /// Measures what the device does at best: a large product and a large copy; on the first GPU, where there are several.
    /// With `timed` unset, small ones are done once and there is no answer; all that a simulated GPU is asked for.
    ///
    /// # Errors
    /// [`InputError::OutOfMemory`]; [`InputError::Unavailable`] for times of a simulated GPU;
    /// [`Error::Cuda`](crate::Error::Cuda).
    pub fn measure_peak(&mut self, timed: bool) -> Result<Option<Peak>> {
        match &mut self.backend {
            Backend::Cpu(cpu) => cpu.measure_peak(timed),
            Backend::Cuda(cuda) => cuda.measure_peak(timed),
        }
    }

    /// Whether it computes on the simulated GPU of this project's tests, on which no time means anything.
    pub fn is_simulated(&self) -> bool {
        match &self.backend {
            Backend::Cpu(_) => false,
            Backend::Cuda(cuda) => cuda.is_simulated(),
        }
    }

    /// Bytes of each GPU's memory that the encoder has taken; none on the CPU.
    pub fn device_bytes(&self) -> Vec<u64> {
        match &self.backend {
            Backend::Cpu(_) => Vec::new(),
            Backend::Cuda(cuda) => cuda.device_bytes(),
        }
    }
}
