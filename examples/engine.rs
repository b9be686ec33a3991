//! An engine of somebody else's, in small: it owns its GPU, its streams and its memory, and has Tilesight encode pictures
//! between two pieces of its own work, with nothing copied for it and nobody waiting.
//!
//! ```text
//!  uploads stream:  pixels up ──▶ [ the encoder ] ──▶ event "encoded"      (the next picture's pixels up) ──▶ ...
//!                                                          │                          ▲
//!  decoder stream:                                         └──▶ attend ──▶ down ──▶ event "attended"
//! ```
//!
//! The types that own things are the engine's, here those of `cudarc`; what is handed over are raw handles, so they may be
//! those of any version of any binding. Two requests are under way at once: the host prepares one while the GPU is at the
//! other.
#![expect(unsafe_code, reason = "the engine vouches for its handles and its memory")]

use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaEvent, CudaSlice, CudaStream, PinnedHostSlice};
use cudarc::driver::{DevicePtr, DevicePtrMut};
use half::{bf16, f16};
use tilesight::encoder::{DeviceEmbeddings, DevicePixels, Padding, RawStream};
use tilesight::image::{Image, Limits, Tiles};
use tilesight::plan::Semantics;
use tilesight::{Device, Dtype, Encoder, EncoderConfig};

const HELP: &str = "\
Encodes pictures within an engine that owns the GPU, and prints what its decoder reads of each.

    cargo run --release --features cuda --example engine -- [OPTION]... PICTURE...

    --model DIR    the checkpoint; without it, the built-in model with random weights
    --gpu N        the GPU, by number (0)
    --check        encode each picture a second time, by the call that returns embeddings, and compare the bits";

/// What is asked for.
#[derive(Default)]
struct Arguments {
    model: Option<String>,
    gpu: usize,
    check: bool,
    pictures: Vec<String>,
}

impl Arguments {
    /// None where help is asked for.
    fn parse(mut given: impl Iterator<Item = String>) -> Result<Option<Self>, String> {
        let mut arguments = Self::default();
        while let Some(argument) = given.next() {
            let mut value = || given.next().ok_or(format!("{argument} needs a value"));
            match argument.as_str() {
                "-h" | "--help" => return Ok(None),
                "--model" => arguments.model = Some(value()?),
                "--gpu" => arguments.gpu = value()?.parse().map_err(|_| "--gpu needs a number".to_string())?,
                "--check" => arguments.check = true,
                option if option.starts_with('-') => return Err(format!("{option} is not an option")),
                _ => arguments.pictures.push(argument),
            }
        }
        if arguments.pictures.is_empty() { Err("a picture is missing".to_string()) } else { Ok(Some(arguments)) }
    }
}

fn main() -> ExitCode {
    let arguments = match Arguments::parse(std::env::args().skip(1)) {
        Ok(Some(arguments)) => arguments,
        Ok(None) => {
            println!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(reason) => {
            eprintln!("engine: {reason}; --help says how it is called");
            return ExitCode::from(2);
        }
    };
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("engine: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let mut builder = Encoder::builder().device(Device::Cuda(vec![arguments.gpu]));
    builder = match &arguments.model {
        Some(path) => builder.model(path),
        None => builder.demo(),
    };
    let mut encoder = builder.build()?;
    let mut engine = Engine::new(arguments.gpu, &encoder)?;
    let mut under_way: Option<(usize, Tiles)> = None;
    for (number, path) in arguments.pictures.iter().enumerate() {
        let picture = Image::decode(&std::fs::read(path)?, &Limits::default())?;
        let tiles = encoder.preprocessor()?.tiles(&picture)?;
        engine.submit(number, &tiles, &mut encoder)?;
        // The GPU is at this picture while the host is at the one before.
        if let Some((before, tiles)) = under_way.replace((number, tiles)) {
            engine.report(before, &tiles, &mut encoder, arguments)?;
        }
    }
    match under_way {
        Some((last, tiles)) => engine.report(last, &tiles, &mut encoder, arguments),
        None => Ok(()),
    }
}

/// The engine: its streams, and memory for two requests, all of it taken before the first one comes.
struct Engine {
    uploads: Arc<CudaStream>,
    decoder: Arc<CudaStream>,
    slots: [Slot; 2],
    config: EncoderConfig,
    /// What the embeddings are in: two bytes each on a GPU.
    dtype: Dtype,
    /// Tiles of a request's pixels, where it does not depend on the picture.
    fixed_tiles: Option<usize>,
}

/// One request's memory, and the events by which the two streams wait for one another.
struct Slot {
    /// `[tiles, 3, s, s]`, normalised.
    pixels: CudaSlice<f32>,
    /// `[tiles * N, E]`, as bits.
    embeddings: CudaSlice<u16>,
    /// `[tiles, E]`: what the decoder made of them.
    attended: CudaSlice<u16>,
    /// The same on the host, in memory that the GPU writes while the host does something else.
    answer: PinnedHostSlice<u16>,
    is_encoded: CudaEvent,
    is_attended: CudaEvent,
}

impl Engine {
    fn new(gpu: usize, encoder: &Encoder) -> Result<Self, Box<dyn Error>> {
        let config = encoder.config().clone();
        let context = CudaContext::new(gpu)?;
        // SAFETY: the engine orders its streams by events of its own, and waits for both before it frees anything.
        unsafe { context.disable_event_tracking() };
        let (uploads, decoder) = (context.new_stream()?, context.new_stream()?);
        let slot = || -> Result<Slot, Box<dyn Error>> {
            let (tiles, width) = (config.max_num_tiles, config.decoder_embed_dim);
            Ok(Slot {
                pixels: uploads.alloc_zeros(tiles * config.tile_len())?,
                embeddings: uploads.alloc_zeros(tiles * config.num_tokens() * width)?,
                attended: uploads.alloc_zeros(tiles * width)?,
                // SAFETY: it is read only after the GPU has written it. Not write-combined, for the host reads it.
                answer: unsafe { context.alloc_pinned_with_flags(tiles * width, 0) }?,
                is_encoded: context.new_event(None)?,
                is_attended: context.new_event(None)?,
            })
        };
        let slots = [slot()?, slot()?];
        // In Meta's semantics a picture is given with all the tiles that there can be, those it has not being zeros.
        let fixed_tiles = (encoder.semantics() == Semantics::Meta).then_some(config.max_num_tiles);
        Ok(Self { uploads, decoder, slots, config, dtype: encoder.precision().activations, fixed_tiles })
    }

    /// Gives the GPU everything that is to be done for a picture.
    fn submit(&mut self, number: usize, tiles: &Tiles, encoder: &mut Encoder) -> Result<(), Box<dyn Error>> {
        let (tokens, width, side) = (self.config.num_tokens(), self.config.decoder_embed_dim, self.config.tile_size);
        let num_tiles = self.fixed_tiles.unwrap_or(tiles.num_tiles());
        let slot = &mut self.slots[number % 2];

        // The engine's own work: pixels go up, once the decoder is done with what this memory held before.
        self.uploads.wait(&slot.is_attended)?;
        self.uploads.memset_zeros(&mut slot.pixels)?;
        self.uploads.memcpy_htod(&tiles.pixels, &mut slot.pixels)?;

        // The encoder's: from the engine's pixels to the engine's memory, on the engine's stream.
        let [down, across] = tiles.aspect_ratio.map(|count| count as i64);
        let bytes = slot.embeddings.num_bytes();
        {
            let (address, _are_read) = slot.pixels.device_ptr(&self.uploads);
            let (embeddings, _are_written) = slot.embeddings.device_ptr_mut(&self.uploads);
            let pixels = DevicePixels {
                address,
                dtype: Dtype::F32,
                shape: [1, 1, num_tiles, 3, side, side],
                aspect_ratio: Some(&[[down, across]]),
                padding: Padding::Zeros,
            };
            let embeddings = DeviceEmbeddings { address: embeddings, bytes };
            let stream = RawStream { stream: self.uploads.cu_stream().cast(), done: slot.is_encoded.cu_event().cast() };
            // SAFETY: stream, event and memory live until the engine ends, and that waits for both streams; `is_attended`
            // keeps everybody from the pixels and the embeddings until they are done with.
            unsafe { encoder.enqueue_pixels(0, &pixels, embeddings, stream) }?;
        }

        // The engine's again: a decoder whose cross-attention sees nothing but each tile's class token.
        self.decoder.wait(&slot.is_encoded)?;
        for tile in 0..tiles.num_tiles() {
            let class_token = slot.embeddings.slice(tile * tokens * width..).slice(..width);
            let mut seen = slot.attended.slice_mut(tile * width..(tile + 1) * width);
            self.decoder.memcpy_dtod(&class_token, &mut seen)?;
        }
        self.decoder.memcpy_dtoh(&slot.attended, &mut slot.answer)?;
        Ok(slot.is_attended.record(&self.decoder)?)
    }

    /// Waits for a picture's answer, and says what it is.
    fn report(
        &self,
        number: usize,
        tiles: &Tiles,
        encoder: &mut Encoder,
        arguments: &Arguments,
    ) -> Result<(), Box<dyn Error>> {
        let width = self.config.decoder_embed_dim;
        let slot = &self.slots[number % 2];
        // For the copy, and for nothing behind it. `cudarc` itself waits for no copy where it tracks no events.
        slot.is_attended.synchronize()?;
        let answer = &slot.answer.as_slice()?[..tiles.num_tiles() * width];
        let widen = |bits: &u16| match self.dtype {
            Dtype::F16 => f16::from_bits(*bits).to_f32(),
            _ => bf16::from_bits(*bits).to_f32(),
        };
        let class_tokens: Vec<f32> = answer.iter().map(widen).collect();
        let ([down, across], path) = (tiles.aspect_ratio, &arguments.pictures[number]);
        println!("{path}: {down} tiles down and {across} across, class tokens of length {:.3}", length(&class_tokens));
        if arguments.check {
            let whole = encoder.encode_tiles(std::slice::from_ref(tiles))?.embeddings;
            let expected = whole.chunks(self.config.num_tokens() * width).flat_map(|tile| &tile[..width]);
            if !expected.eq(&class_tokens) {
                return Err(format!("{path}: not what the call that returns embeddings gives").into());
            }
        }
        Ok(())
    }
}

impl Drop for Engine {
    /// Nothing is freed that is still in use.
    fn drop(&mut self) {
        for stream in [&self.uploads, &self.decoder] {
            if let Err(error) = stream.synchronize() {
                eprintln!("engine: {error}");
            }
        }
    }
}

/// The Euclidean norm.
fn length(values: &[f32]) -> f32 {
    values.iter().map(|value| value * value).sum::<f32>().sqrt()
}
