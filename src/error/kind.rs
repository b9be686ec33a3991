//! The kinds of errors, from which other interfaces choose their statuses.

/// The remedy of an [`Error`](super::Error), as far as a caller has one.
///
/// Every interface with statuses of its own (HTTP, from which gRPC's follow, C, Triton) maps these kinds. The list is
/// exhaustive on purpose: a new kind does not compile until each of them has a status for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// Mend the configuration of the model.
    Config,
    /// Mend the checkpoint, or name another.
    Checkpoint,
    /// Convert the picture: its format, or a feature of its format, is not read.
    ImageFormat,
    /// Send a smaller picture.
    ImageTooLarge,
    /// Send another picture.
    Image,
    /// Mend the tensors of the call.
    Input,
    /// Mend the values of the call's pixels: they are numbers, and too large.
    Overflow,
    /// Choose another option or device: this build or this machine does not have it.
    Unavailable,
    /// Ask for less at once, or try again later: memory of the host or of the GPU is lacking, or threads are.
    OutOfMemory,
    /// Mend the file or its path.
    Io,
    /// The model hub did not deliver, or this build does not ask it: try again later, or download the model by other means.
    Hub,
    /// Mend the weights: the embeddings are not numbers.
    NotFinite,
    /// Try again: a call to the GPU failed, and others may succeed.
    Device,
    /// Start the process again: the GPU is lost to it.
    DeviceLost,
}
