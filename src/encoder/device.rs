//! Where an encoder computes, and with which kernels.

use std::str::FromStr;

use crate::dtype::Dtype;
use crate::error::{Error, InputError, Result};

/// A device, as `--device` names it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Device {
    /// The first GPU, if this build has CUDA and the machine and the model allow it; else the CPU.
    /// [`Encoder::device`](crate::Encoder::device) says which it is.
    #[default]
    Auto,
    /// The processor, in f32.
    Cpu,
    /// NVIDIA GPUs by their numbers, at least one: several hold the weights each and share the batches.
    Cuda(Vec<usize>),
}

/// Which kernels do the layers' matrix operations on a GPU.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Kernels {
    /// The fastest for the GPU.
    #[default]
    Auto,
    /// One fused kernel a matrix in the instructions of Hopper; needs GPUs of compute capability 9.0. A step beyond their
    /// reach takes its portable kernel: the plan says which.
    Hopper,
    /// One fused kernel a matrix; runs on every GPU from compute capability 8.0 up.
    Portable,
    /// cuBLASLt's products with kernels before and after: the baseline. Needs libcublasLt on the machine. Results are the
    /// same from run to run, but may depend on what else is in the batch.
    Cublas,
}

/// Whether an encoder on a GPU measures, when it is built, which tiles its matrix operations should take. What is found is
/// kept on disk for the GPU, its driver and this build (`TILESIGHT_CACHE_DIR`, else the user's folder for caches), so that
/// the next start finds it. It changes times, and no bit of a result.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Tune {
    /// What is not known yet, on real GPUs.
    #[default]
    Auto,
    /// Nothing: what is known from earlier starts, else predictions.
    Never,
    /// What is not known yet, on a simulated GPU too, whose times mean nothing: for tests.
    Always,
}

/// What is computed in where: f32 on the CPU, 16 bits on GPUs.
///
/// # Errors
/// [`InputError::Unavailable`].
pub(crate) fn require_dtype(dtype: Dtype, on_gpu: bool) -> Result<()> {
    let reason = match (on_gpu, dtype) {
        (false, Dtype::F32) | (true, Dtype::Bf16 | Dtype::F16) => return Ok(()),
        (false, _) => "the CPU computes in f32; weights may be stored in bf16 or fp16",
        (true, _) => "GPUs compute in bf16 or fp16",
    };
    Err(InputError::Unavailable { option: "dtype", found: dtype.to_string(), reason }.into())
}

impl FromStr for Device {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let refuse = || {
            let reason = "name auto, cpu, cuda, or GPUs by number: cuda:0,1";
            InputError::Unavailable { option: "device", found: name.to_string(), reason }
        };
        match name {
            "auto" => return Ok(Self::Auto),
            "cpu" => return Ok(Self::Cpu),
            "cuda" => return Ok(Self::Cuda(vec![0])),
            _ => {}
        }
        let numbers = name.strip_prefix("cuda:").ok_or_else(refuse)?;
        let parse = |number: &str| number.parse().map_err(|_| refuse());
        let ordinals = numbers.split(',').map(parse).collect::<std::result::Result<Vec<usize>, _>>()?;
        let twice = ordinals.iter().enumerate().any(|(place, ordinal)| ordinals[..place].contains(ordinal));
        if twice { Err(refuse().into()) } else { Ok(Self::Cuda(ordinals)) }
    }
}

impl FromStr for Tune {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "auto" => Ok(Self::Auto),
            "never" => Ok(Self::Never),
            "always" => Ok(Self::Always),
            _ => {
                let reason = "name auto, never or always";
                Err(InputError::Unavailable { option: "tune", found: name.to_string(), reason }.into())
            }
        }
    }
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(ordinals) => {
                let numbers: Vec<String> = ordinals.iter().map(usize::to_string).collect();
                write!(f, "cuda:{}", numbers.join(","))
            }
        }
    }
}

impl FromStr for Kernels {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "auto" => Ok(Self::Auto),
            "hopper" => Ok(Self::Hopper),
            "portable" => Ok(Self::Portable),
            "cublas" => Ok(Self::Cublas),
            _ => {
                let reason = "name auto, hopper, portable or cublas";
                Err(InputError::Unavailable { option: "kernels", found: name.to_string(), reason }.into())
            }
        }
    }
}
