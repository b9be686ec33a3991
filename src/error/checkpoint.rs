//! What can be wrong with a checkpoint.

use std::path::PathBuf;

/// What is wrong with a checkpoint.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// There is no checkpoint at the path.
    #[error(
        "{}: no safetensors checkpoint here; expected a .safetensors file, or a folder with model.safetensors or \
         model.safetensors.index.json",
        path.display()
    )]
    NotFound {
        /// The path given.
        path: PathBuf,
    },
    /// The checkpoint is a Python pickle, which is never executed.
    #[error(
        "{}: PyTorch .pth and .bin files are not read, for they can run code; convert it once with \
         python -c \"import torch, safetensors.torch as s; s.save_file({{k: v.contiguous() for k, v in \
         torch.load('{}', map_location='cpu', weights_only=True).items()}}, 'model.safetensors')\"",
        path.display(), path.display()
    )]
    Pickle {
        /// The file.
        path: PathBuf,
    },
    /// There is no configuration beside the weights.
    #[error("{}: no config.json beside the weights; name the geometry with --preset", path.display())]
    NoConfig {
        /// The folder.
        path: PathBuf,
    },
    /// A file's header or layout breaks the safetensors format.
    #[error("{}: not a sound safetensors file: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Which rule of the format is broken.
        reason: String,
    },
    /// The index of a sharded checkpoint is broken.
    #[error("{}: {reason}", path.display())]
    Index {
        /// The index file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// No tensor's name belongs to a Llama 3.2 Vision encoder.
    #[error(
        "{}: none of its {num_tensors} tensors belongs to a Llama 3.2 Vision encoder in torchtune's, Meta's or \
         Hugging Face's names",
        path.display()
    )]
    NotAnEncoder {
        /// The file or folder.
        path: PathBuf,
        /// Tensors it holds.
        num_tensors: usize,
    },
    /// Tensors of two name families lie in one checkpoint.
    #[error("tensors of two checkpoint formats are mixed: {first} and {second}")]
    MixedNames {
        /// A tensor of one format.
        first: String,
        /// A tensor of the other.
        second: String,
    },
    /// The same tensor stands in the checkpoint twice.
    #[error("tensor {tensor} stands in the checkpoint twice, in {first} and in {second}")]
    Repeated {
        /// The tensor's torchtune name.
        tensor: String,
        /// Where it stands first.
        first: String,
        /// Where it stands again.
        second: String,
    },
    /// Tensors of the encoder are absent.
    #[error("{num_missing} of {num_expected} tensors are missing, {tensor} first")]
    Missing {
        /// The first absent tensor, in the checkpoint's own names.
        tensor: String,
        /// How many are absent.
        num_missing: usize,
        /// How many the configuration asks for.
        num_expected: usize,
    },
    /// A tensor belongs to an encoder with more layers than configured.
    #[error("tensor {tensor} is beyond the configuration, which has {expected}")]
    Unexpected {
        /// The tensor, in the checkpoint's own names.
        tensor: String,
        /// What the configuration has.
        expected: String,
    },
    /// A tensor's shape does not fit the configuration.
    #[error("tensor {tensor} must have shape {expected}, found {found:?}")]
    Shape {
        /// The tensor, in the checkpoint's own names.
        tensor: String,
        /// The shape the configuration asks for.
        expected: String,
        /// The shape in the file.
        found: Vec<usize>,
    },
    /// A tensor's element type is not one of the three that are read.
    #[error("tensor {tensor} must be F32, BF16 or F16, found {found}")]
    Dtype {
        /// The tensor, in the checkpoint's own names.
        tensor: String,
        /// The element type in the file.
        found: String,
    },
    /// Position tables cannot be resized.
    #[error("tensor {tensor} cannot be resized: {reason}")]
    Resize {
        /// The tensor, in the checkpoint's own names.
        tensor: String,
        /// Why not.
        reason: String,
    },
}
