//! The backend that an encoder's options come to.

use super::{Device, Kernels, require_dtype};
use crate::checkpoint::VisionWeights;
use crate::config::EncoderConfig;
use crate::cpu::CpuBackend;
use crate::cuda::{self, CudaBackend};
use crate::digest::Digest;
use crate::dtype::Dtype;
use crate::error::{InputError, Result};
use crate::plan::{Capacity, Form, Target};

/// What walks the plans.
pub(super) enum Backend {
    Cpu(Box<CpuBackend>),
    Cuda(CudaBackend),
}

/// What was asked for.
pub(super) struct Choice {
    pub(super) device: Device,
    pub(super) dtype: Option<Dtype>,
    pub(super) kernels: Kernels,
    pub(super) threads: usize,
}

impl Backend {
    /// The backend that `choice` comes to, ready for batches that the target's `capacity` covers.
    pub(super) fn new(
        choice: &Choice,
        weights: VisionWeights,
        config: &EncoderConfig,
        capacity: impl Fn(Target) -> Capacity,
    ) -> Result<Self> {
        let ordinals = match &choice.device {
            Device::Auto if choice.dtype == Some(Dtype::F32) => None,
            Device::Auto => cuda::best_gpu(config).map(|ordinal| vec![ordinal]),
            Device::Cpu => None,
            Device::Cuda(ordinals) => Some(ordinals.clone()),
        };
        match ordinals {
            Some(ordinals) => Self::on_gpus(&ordinals, choice, &weights, config, capacity),
            None => Self::on_cpu(choice, weights),
        }
    }

    fn on_cpu(choice: &Choice, weights: VisionWeights) -> Result<Self> {
        require_dtype(choice.dtype.unwrap_or(Dtype::F32), false)?;
        if choice.kernels != Kernels::Auto {
            let reason = "they run on GPUs, and this encoder computes on the CPU";
            let found = format!("{:?}", choice.kernels).to_lowercase();
            return Err(InputError::Unavailable { option: "kernels", found, reason }.into());
        }
        Ok(Self::Cpu(Box::new(CpuBackend::new(weights, choice.threads)?)))
    }

    fn on_gpus(
        ordinals: &[usize],
        choice: &Choice,
        weights: &VisionWeights,
        config: &EncoderConfig,
        capacity: impl Fn(Target) -> Capacity,
    ) -> Result<Self> {
        if !cuda::IS_BUILT {
            let found = Device::Cuda(ordinals.to_vec()).to_string();
            let reason = "this build has no CUDA: build it with --features cuda, or name cpu or auto";
            return Err(InputError::Unavailable { option: "device", found, reason }.into());
        }
        if ordinals.is_empty() {
            return Err(InputError::Empty { name: "GPUs" }.into());
        }
        // The stored type where a GPU computes in it; of f32, what keeps its range.
        let stored = weights.projection.weight.dtype();
        let dtype = choice.dtype.unwrap_or(if stored == Dtype::F16 { Dtype::F16 } else { Dtype::Bf16 });
        require_dtype(dtype, true)?;
        let form = match choice.kernels {
            Kernels::Auto => cuda::best_form(ordinals)?,
            Kernels::Hopper => {
                cuda::require_hopper(ordinals)?;
                Form::Hopper
            }
            Kernels::Portable => Form::Portable,
            Kernels::Cublas => Form::Cublas,
        };
        let target = Target::cuda(dtype, form);
        Ok(Self::Cuda(CudaBackend::new(ordinals, weights, config, target, &capacity(target))?))
    }

    /// What its plans are made for.
    pub(super) fn target(&self) -> Target {
        match self {
            Self::Cpu(cpu) => cpu.target(),
            Self::Cuda(cuda) => cuda.target(),
        }
    }

    /// The numerics class of its results: where these words are the same, so are the bits.
    pub(super) fn numerics(&self) -> String {
        match self {
            Self::Cpu(cpu) => cpu.numerics(),
            Self::Cuda(cuda) => cuda.numerics(),
        }
    }

    /// The digest of the weights. Reads all of them where nobody has yet.
    pub(super) fn weights_digest(&self) -> Digest {
        match self {
            Self::Cpu(cpu) => cpu.weights_digest(),
            Self::Cuda(cuda) => cuda.weights_digest(),
        }
    }

    /// Threads of the host that work for it.
    pub(super) fn num_threads(&self) -> usize {
        match self {
            Self::Cpu(cpu) => cpu.num_threads(),
            Self::Cuda(_) => rayon::current_num_threads(),
        }
    }

    /// Devices that compute at the same time, each what it is given.
    pub(super) fn num_devices(&self) -> usize {
        match self {
            Self::Cpu(_) => 1,
            Self::Cuda(cuda) => cuda.num_devices(),
        }
    }

    /// The device, for people.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Cpu(_) => "cpu".to_string(),
            Self::Cuda(cuda) => cuda.describe(),
        }
    }
}
