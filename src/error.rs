//! Every way Tilesight can refuse: one enum, one variant for each thing a caller can act on.
//!
//! [`Error`] groups the refusals by what has to be mended: the configuration, the checkpoint, the picture, the call.
//! Messages are lower case, name the thing, and give what was expected beside what was found.

use std::path::{Path, PathBuf};

/// The result of everything that can fail in this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong, by what the caller would have to change.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The encoder's parameters break one of its rules.
    #[error("configuration: {0}")]
    Config(#[from] ConfigError),
    /// The checkpoint is absent, damaged, or of another model.
    #[error("checkpoint: {0}")]
    Checkpoint(#[from] CheckpointError),
    /// A picture cannot be read or is beyond the limits.
    #[error("image: {0}")]
    Image(#[from] ImageError),
    /// The tensors or options of one call do not fit the model.
    #[error("input: {0}")]
    Input(#[from] InputError),
    /// A file could not be opened, read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The model hub could not deliver.
    #[error("model hub: {model}: {reason}")]
    Hub {
        /// The repository asked for, `OWNER/NAME`.
        model: String,
        /// What the hub's client said.
        reason: String,
    },
    /// The embeddings are not numbers: the weights hold NaN or infinity, or sums overflowed.
    #[error(
        "the embeddings hold a value that is not finite at element {index}: the weights are damaged or far too large"
    )]
    NotFinite {
        /// The flat index of the first such value.
        index: usize,
    },
    /// The worker threads could not be started.
    #[error("cannot start {threads} worker threads: {reason}")]
    Threads {
        /// Threads asked for.
        threads: usize,
        /// What the thread pool said.
        reason: String,
    },
}

impl Error {
    /// An [`Error::Io`] at `path`; made for `map_err`.
    pub fn io(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Error::Io { path, source }
    }
}

/// A rule of the encoder's parameters that was broken. Names are torchtune's.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A parameter that must be at least 1 is 0.
    #[error("{name} must be at least 1, found 0")]
    Zero {
        /// The parameter.
        name: &'static str,
    },
    /// `clip_embed_dim` is not a multiple of `num_heads`.
    #[error("clip_embed_dim must be a multiple of num_heads, found {embed_dim} and {num_heads}")]
    HeadsDoNotDivide {
        /// `clip_embed_dim`.
        embed_dim: usize,
        /// `num_heads`.
        num_heads: usize,
    },
    /// No patch fits into a tile.
    #[error("patch_size must be at most tile_size, found {patch_size} and {tile_size}")]
    PatchLargerThanTile {
        /// `patch_size`.
        patch_size: usize,
        /// `tile_size`.
        tile_size: usize,
    },
    /// More hidden states are asked for than there are layers.
    #[error("clip_hidden_states may hold at most clip_num_layers = {num_layers} indices, found {found}")]
    TooManyHiddenStates {
        /// `clip_num_layers`.
        num_layers: usize,
        /// Indices given.
        found: usize,
    },
    /// A hidden-state index is negative or beyond the last layer.
    #[error("clip_hidden_states must lie in 0..={num_layers}, found {index}")]
    HiddenStateOutOfRange {
        /// `clip_num_layers`; the index of the last layer's output.
        num_layers: usize,
        /// The index given.
        index: i64,
    },
    /// A hidden-state index is given twice.
    #[error("clip_hidden_states must not repeat an index, found {index} twice")]
    HiddenStateRepeated {
        /// The index given twice.
        index: usize,
    },
    /// The encoder has more layers, or larger tensors, than could be addressed.
    #[error("{name} makes an encoder too large to address: {found}")]
    TooLarge {
        /// The parameter.
        name: &'static str,
        /// Its value.
        found: usize,
    },
    /// A `config.json` asks for something this encoder does not have.
    #[error("{field} must be {expected}, found {found}")]
    Unsupported {
        /// The field, with its path in the file.
        field: &'static str,
        /// What the encoder computes.
        expected: String,
        /// What the file says.
        found: String,
    },
    /// A `config.json` is not JSON or lacks a field.
    #[error("{}: {reason}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the place.
        reason: String,
    },
    /// A preset's name is unknown.
    #[error("no preset is called {found:?}; there are {known}")]
    UnknownPreset {
        /// The name given.
        found: String,
        /// The names there are.
        known: &'static str,
    },
}

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

/// What is wrong with a picture.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// One of several pictures.
    #[error("{}: {source}", path.display())]
    InFile {
        /// The picture's file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<ImageError>,
    },
    /// The bytes start like no format that is read.
    #[error("not a JPEG, PNG or WebP picture (the first bytes are {found:02x?})")]
    UnknownFormat {
        /// The first bytes, eight at most.
        found: Vec<u8>,
    },
    /// The picture is wider, higher or larger than the limits allow; found before anything is decoded.
    #[error("{width}x{height} pixels are beyond the limit of {max_side} a side and {max_pixels} in all")]
    TooLarge {
        /// Width in pixels, from the header.
        width: u64,
        /// Height in pixels, from the header.
        height: u64,
        /// The most pixels a side may have.
        max_side: u64,
        /// The most pixels a picture may have.
        max_pixels: u64,
    },
    /// The picture has no pixels.
    #[error("the picture has no pixels ({width}x{height})")]
    Empty {
        /// Width in pixels.
        width: u64,
        /// Height in pixels.
        height: u64,
    },
    /// The data is damaged or ends early.
    #[error("damaged {format} data: {reason}")]
    Damaged {
        /// `JPEG`, `PNG` or `WebP`.
        format: &'static str,
        /// What the decoder said.
        reason: String,
    },
    /// The picture uses a feature of its format that is not read.
    #[error("{format} pictures with {feature} are not supported")]
    Unsupported {
        /// `JPEG`, `PNG` or `WebP`.
        format: &'static str,
        /// The feature.
        feature: String,
    },
    /// Pictures have three channels; the model wants another number.
    #[error("the model wants {expected} channels, pictures have 3; pass pixel tensors instead")]
    Channels {
        /// The model's `in_channels`.
        expected: usize,
    },
    /// A side would shrink to nothing on the canvas, which torchtune refuses too.
    #[error(
        "a {width}x{height} picture is too narrow: a side would shrink to 0 pixels on a {canvas_width}x{canvas_height} canvas"
    )]
    TooNarrow {
        /// Width in pixels.
        width: usize,
        /// Height in pixels.
        height: usize,
        /// The canvas' width in pixels.
        canvas_width: usize,
        /// The canvas' height in pixels.
        canvas_height: usize,
    },
}

/// What is wrong with the tensors or options of one call.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum InputError {
    /// A tensor's shape does not fit.
    #[error("{tensor} must have shape {expected}, found {found:?}")]
    Shape {
        /// The tensor.
        tensor: &'static str,
        /// The shape it must have.
        expected: String,
        /// The shape it has.
        found: Vec<usize>,
    },
    /// A tensor's element type does not fit.
    #[error("{tensor} must be {expected}, found {found}")]
    Dtype {
        /// The tensor.
        tensor: &'static str,
        /// The element types that are read.
        expected: &'static str,
        /// The element type it has.
        found: String,
    },
    /// A tensor is absent.
    #[error("{path} holds no tensor called {tensor}")]
    Missing {
        /// The tensor.
        tensor: &'static str,
        /// The file it should be in.
        path: String,
    },
    /// A dimension that must be at least 1 is 0.
    #[error("{name} must be at least 1, found 0")]
    Empty {
        /// The dimension.
        name: &'static str,
    },
    /// There are several tiles, but no aspect ratio says how they lie.
    #[error("aspect_ratio is required for more than one tile, found none for {num_tiles} tiles")]
    NoAspectRatio {
        /// Tiles an image.
        num_tiles: usize,
    },
    /// An aspect ratio has more tiles than were given.
    #[error("image {image}: aspect ratio {height}x{width} needs {} tiles, found {num_tiles}", height * width)]
    TooFewTiles {
        /// The image's number in the batch.
        image: usize,
        /// Tiles down.
        height: usize,
        /// Tiles across.
        width: usize,
        /// Tiles given.
        num_tiles: usize,
    },
    /// An aspect ratio is negative or beyond the position tables.
    #[error("image {image}: aspect ratio must lie in 0..={max_num_tiles} both ways, found {height}x{width}")]
    AspectRatio {
        /// The image's number in the batch.
        image: usize,
        /// `max_num_tiles`.
        max_num_tiles: usize,
        /// Tiles down.
        height: i64,
        /// Tiles across.
        width: i64,
    },
    /// The checkpoint has no position table for this aspect ratio, or `meta` semantics do not know it.
    #[error(
        "image {image}: aspect ratio {height}x{width} has more than max_num_tiles = {max_num_tiles} tiles, which {reason}"
    )]
    NoPositionTable {
        /// The image's number in the batch.
        image: usize,
        /// Tiles down.
        height: usize,
        /// Tiles across.
        width: usize,
        /// `max_num_tiles`.
        max_num_tiles: usize,
        /// What rules it out.
        reason: &'static str,
    },
    /// `meta` semantics are defined for exactly `max_num_tiles` tiles.
    #[error("in meta semantics an image has exactly max_num_tiles = {expected} tiles, found {found}")]
    MetaTiles {
        /// `max_num_tiles`.
        expected: usize,
        /// Tiles given.
        found: usize,
    },
    /// An input value is NaN or infinite.
    #[error("{tensor} holds a value that is not finite at element {index}")]
    NotFinite {
        /// The tensor.
        tensor: &'static str,
        /// The flat index of the first such element.
        index: usize,
    },
    /// An option names something this build or device cannot do.
    #[error("{option} {found} is not available: {reason}")]
    Unavailable {
        /// The option.
        option: &'static str,
        /// The value given.
        found: String,
        /// Why not, and what would help.
        reason: &'static str,
    },
    /// The batch needs more memory than can be addressed or allocated.
    #[error("the batch needs {bytes} bytes of working memory, which could not be had; encode fewer tiles at a time")]
    OutOfMemory {
        /// Bytes asked for.
        bytes: u64,
    },
}
