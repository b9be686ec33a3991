//! The structs of the interface. Each starts with its size; see `tilesight.h`'s head.

use std::ffi::{c_char, c_void};

use crate::arguments::SizedStruct;

/// An element type.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    /// IEEE 754 single precision.
    F32 = 0,
    /// The upper half of single precision.
    Bf16 = 1,
    /// IEEE 754 half precision.
    F16 = 2,
}

/// What an encoder is made from. Texts are UTF-8; what is null or zero has its default.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// sizeof(tilesight_options).
    pub size: usize,
    /// The checkpoint: a folder, a safetensors file, or an index of shards. None takes the built-in demo model, whose
    /// embeddings mean nothing.
    pub model: *const c_char,
    /// The config.json, where it is not beside the weights.
    pub config: *const c_char,
    /// "torchtune" or "meta": which function of the weights. By default what the tensors' names stand for.
    pub semantics: *const c_char,
    /// "torchtune", "torchtune-bf16" or "pil": how pictures become tiles. By default the semantics' own.
    pub preprocess: *const c_char,
    /// "auto", "cpu", "cuda", or GPUs by number: "cuda:0,1".
    pub device: *const c_char,
    /// "f32" on the CPU, "bf16" or "fp16" on GPUs: the type to compute in.
    pub dtype: *const c_char,
    /// "auto", "hopper", "portable" or "cublas": the kernels on GPUs.
    pub kernels: *const c_char,
    /// Threads to compute on where the CPU does it; 0 takes one for each core.
    pub threads: u32,
    /// The most tiles that are computed together; 0 takes 8.
    pub max_batch_tiles: u32,
}

/// What an encoder is.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Description {
    /// sizeof(tilesight_description), set by the caller.
    pub size: usize,
    /// Side of a tile in pixels.
    pub tile_size: u32,
    /// The most tiles a picture is cut into.
    pub max_num_tiles: u32,
    /// Channels of a pixel; pictures need 3.
    pub in_channels: u32,
    /// Embeddings of a tile, its class token first.
    pub num_tokens: u32,
    /// Values of an embedding.
    pub embed_dim: u32,
    /// The type it computes in, a tilesight_dtype.
    pub computed_in: u32,
    /// Which function of the weights: 0 is torchtune's, 1 is Meta's.
    pub semantics: u32,
    /// Threads of the host that it computes on.
    pub num_threads: u32,
    /// The digest of all that decides the bits of its embeddings, but its input.
    pub identity: [u8; 32],
}

/// Bytes in memory.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Bytes {
    /// Where they are.
    pub data: *const u8,
    /// How many there are.
    pub len: usize,
}

/// What becomes of a picture.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Picture {
    /// sizeof(tilesight_picture), set by the caller.
    pub size: usize,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Tiles down.
    pub tiles_down: u32,
    /// Tiles across.
    pub tiles_across: u32,
    /// Its embeddings: tiles times tokens of a tile.
    pub num_rows: u64,
}

/// Tiles that are there already, as torchtune's and Hugging Face's models take them.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Pixels {
    /// sizeof(tilesight_pixels).
    pub size: usize,
    /// [samples, images, tiles, channels, tile_size, tile_size], row-major, normalised; tiles row by row of an image's grid,
    /// padding tiles last.
    pub data: *const c_void,
    /// The dimensions of `data`.
    pub shape: [u64; 6],
    /// [samples, images, 2]: tiles down and tiles across of each image. May be null where there is one tile.
    pub aspect_ratio: *const i64,
    /// The type of `data`'s elements, a tilesight_dtype.
    pub dtype: u32,
    /// Zero: anything else is refused.
    pub reserved: u32,
}

/// Where embeddings go.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Output {
    /// sizeof(tilesight_output).
    pub size: usize,
    /// [rows, embed_dim], row-major: image after image, tile after tile, token after token.
    pub data: *mut c_void,
    /// The bytes that are there.
    pub capacity: usize,
    /// The type of the elements, a tilesight_dtype.
    pub dtype: u32,
    /// Zero: anything else is refused.
    pub reserved: u32,
}

/// What the padding tiles of a pixel tensor hold, which the host cannot see.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Padding {
    /// Anything: each is read and computed.
    AsGiven = 0,
    /// Zeros: none is read, and equal ones are computed once.
    Zeros = 1,
}

/// Tiles that are on a GPU.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct DevicePixels {
    /// sizeof(tilesight_device_pixels).
    pub size: usize,
    /// The address (CUdeviceptr) of what tilesight_pixels describes, a multiple of an element's size.
    pub address: u64,
    /// Its dimensions.
    pub shape: [u64; 6],
    /// In the host's memory, as tilesight_pixels has them.
    pub aspect_ratio: *const i64,
    /// The type of the elements, a tilesight_dtype.
    pub dtype: u32,
    /// What the padding tiles hold, a tilesight_padding.
    pub padding: u32,
}

/// Memory of a GPU where embeddings go.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct DeviceOutput {
    /// sizeof(tilesight_device_output).
    pub size: usize,
    /// The address (CUdeviceptr), a multiple of 16, of [rows, embed_dim] in the type that the encoder computes in.
    pub address: u64,
    /// The bytes that are there.
    pub capacity: u64,
}

/// A stream of the caller's.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Stream {
    /// sizeof(tilesight_stream).
    pub size: usize,
    /// The CUstream, in the primary context of the GPU; null is the default stream.
    pub stream: *mut c_void,
    /// A CUevent that is recorded on it behind the work, or null.
    pub done: *mut c_void,
    /// The GPU, by its place among the encoder's.
    pub device: u32,
    /// Zero: anything else is refused.
    pub reserved: u32,
}

/// Checks that a struct is what [`SizedStruct`] wants.
macro_rules! sized_structs {
    ($($name:ident, $size:literal, $text:literal $(, $reserved:ident)?;)*) => {$(
        const _: () = assert!(size_of::<$name>() >= $size && std::mem::offset_of!($name, size) == 0);
        // SAFETY: `repr(C)`, the size first, and nothing but pointers and integers, which may be zero.
        unsafe impl SizedStruct for $name {
            const FIRST_SIZE: usize = $size;
            const NAME: &'static str = $text;

            $(fn reserved(&self) -> u32 {
                self.$reserved
            })?
        }
    )*};
}

sized_structs! {
    Options, 72, "tilesight_options";
    Description, 72, "tilesight_description";
    Picture, 32, "tilesight_picture";
    Pixels, 80, "tilesight_pixels", reserved;
    Output, 32, "tilesight_output", reserved;
    DevicePixels, 80, "tilesight_device_pixels";
    DeviceOutput, 24, "tilesight_device_output";
    Stream, 32, "tilesight_stream", reserved;
}
