//! What can go wrong with a GPU, its driver, or the libraries beside it.

use super::ErrorKind;
use crate::dtype::Dtype;

/// The driver's status of a call that lacked memory for itself.
const CUDA_ERROR_OUT_OF_MEMORY: u32 = 2;

/// What went wrong on the way to a GPU or on it.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CudaError {
    /// The driver's library is not on this machine.
    #[error("the NVIDIA driver's library (libcuda.so) is not on this machine: install the driver, or use device cpu")]
    NoDriver,
    /// The driver is older than the machine code in this build.
    #[error("the NVIDIA driver knows CUDA {}.{}, this build needs {}.{}: update the driver", found / 1000, found % 1000 / 10, needed / 1000, needed % 1000 / 10)]
    OldDriver {
        /// CUDA's version as the driver reports it: 1000·major + 10·minor.
        found: u32,
        /// The least version that runs this build, likewise.
        needed: u32,
    },
    /// There is no GPU of this number.
    #[error("there is no GPU {ordinal}: this machine has {found}")]
    NoDevice {
        /// The number asked for.
        ordinal: usize,
        /// GPUs that the driver reports.
        found: usize,
    },
    /// The kernels in this build do not run on the GPU.
    #[error("{device} has compute capability {}.{}, this build holds kernels for {built_for}", capability.0, capability.1)]
    Architecture {
        /// The GPU's name.
        device: String,
        /// Its compute capability.
        capability: (u32, u32),
        /// The architectures in this build.
        built_for: String,
    },
    /// The kernels that were asked for do not run on the GPU, or are not in this build.
    #[error(
        "the hopper kernels need compute capability 9.0 and a build for sm_90a; {device} has {}.{}, this build is for \
         {built_for}: use kernels auto or portable", capability.0, capability.1
    )]
    Hopper {
        /// The GPU's name.
        device: String,
        /// Its compute capability.
        capability: (u32, u32),
        /// The architectures in this build.
        built_for: String,
    },
    /// The model is beyond what the kernels are made for; it runs on the CPU.
    #[error("the CUDA kernels take {limit}, found {found}: use device cpu for this model")]
    Model {
        /// What they take.
        limit: &'static str,
        /// What the model has.
        found: usize,
    },
    /// The GPU has not the memory. Nothing else is lost: ask for less, or try again later.
    #[error("GPU memory for {purpose}, {bytes} bytes, could not be had ({free} bytes are free)")]
    OutOfMemory {
        /// What it was to hold.
        purpose: &'static str,
        /// Bytes asked for.
        bytes: u64,
        /// Bytes that were free then.
        free: u64,
    },
    /// Pinned host memory could not be had.
    #[error("pinned host memory, {bytes} bytes, could not be had")]
    OutOfPinnedMemory {
        /// Bytes asked for.
        bytes: u64,
    },
    /// A weight's value is beyond the element type, or no number in the first place.
    #[error(
        "{tensor} holds {count} values that are not finite in {dtype}: use another element type, or mend the weights"
    )]
    WeightOverflow {
        /// The tensor.
        tensor: String,
        /// How many.
        count: u32,
        /// The element type.
        dtype: Dtype,
    },
    /// A call to the driver failed.
    #[error("{call} failed: {name} ({code}){}", if *fatal { "; the GPU's state is lost, start the process again" } else { "" })]
    Driver {
        /// The driver's function.
        call: &'static str,
        /// The status' name.
        name: String,
        /// The status.
        code: u32,
        /// Whether every later call in this process will fail too.
        fatal: bool,
    },
    /// cuBLASLt is not on this machine; it does not come with the driver.
    #[error("cuBLASLt (libcublasLt.so) is not on this machine: install it, or use kernels portable")]
    NoCublas,
    /// A call to cuBLASLt failed.
    #[error("{call} failed: {status}")]
    Cublas {
        /// cuBLASLt's function.
        call: &'static str,
        /// The status' name.
        status: String,
    },
    /// An earlier failure left the GPU in a state that only a new process mends.
    #[error("an earlier failure on this GPU was fatal ({cause}): start the process again")]
    Lost {
        /// The first failure.
        cause: String,
    },
}

impl CudaError {
    /// Whether everything on this GPU is lost to this process: no call will succeed again. Other failures leave the
    /// encoder usable.
    pub fn is_fatal(&self) -> bool {
        self.kind() == ErrorKind::DeviceLost
    }

    /// The kind of the error, by its remedy.
    pub(super) fn kind(&self) -> ErrorKind {
        match self {
            Self::Lost { .. } | Self::Driver { fatal: true, .. } => ErrorKind::DeviceLost,
            Self::OutOfMemory { .. }
            | Self::OutOfPinnedMemory { .. }
            | Self::Driver { code: CUDA_ERROR_OUT_OF_MEMORY, .. } => ErrorKind::OutOfMemory,
            Self::NoDriver
            | Self::OldDriver { .. }
            | Self::NoDevice { .. }
            | Self::Architecture { .. }
            | Self::Hopper { .. }
            | Self::Model { .. }
            | Self::NoCublas => ErrorKind::Unavailable,
            Self::WeightOverflow { .. } => ErrorKind::Checkpoint,
            Self::Driver { .. } | Self::Cublas { .. } => ErrorKind::Device,
        }
    }
}
