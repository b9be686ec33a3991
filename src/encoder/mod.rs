//! The encoder as its users meet it: built once, then called with images or with pixel tensors.

mod backend;
mod batches;
mod builder;
mod device;
#[cfg(feature = "cuda-unversioned")]
mod enqueue;
mod identity;
mod inputs;
mod measuring;
mod pixels;
mod submission;

use std::sync::OnceLock;
use std::time::Instant;

use self::backend::Backend;
use crate::checkpoint::PositionTables;
use crate::config::EncoderConfig;
#[cfg(doc)]
use crate::error::Error;
use crate::error::{ImageError, InputError, Result};
use crate::image::{Image, Preprocessor, Tiles};
use crate::memory;
use crate::plan::{Batch, BatchShape, LayoutRules, Plan, Precision, Semantics, SequenceLayout, Step};
pub(crate) use batches::TileBudget;
pub use builder::EncoderBuilder;
pub(crate) use device::require_dtype;
pub use device::{Device, Kernels, Tune};
#[cfg(feature = "cuda-unversioned")]
pub use enqueue::{DeviceEmbeddings, DevicePixels, Padding, RawStream};
pub use identity::Identity;
pub use inputs::Input;
pub use pixels::{PixelEncodings, Pixels};
pub use submission::{Computed, Encoded, Submission, Timing};

/// The Llama 3.2 Vision encoder, ready to run.
///
/// An encoder owns its working memory and its threads; several can live in one process, and one can move between
/// threads. Calls take `&mut self`: an encoder does one batch at a time.
///
/// On a GPU it works in the GPU's primary context, which a call leaves current on its thread. The first batch of a shape
/// is recorded as a graph; CUDA forbids other code of the process to wait for that whole context meanwhile
/// (`cuCtxSynchronize`; waiting for a stream is free).
///
/// A result depends on its image alone: not on the batch it was in, not on the number of threads, not on the run, to
/// the bit.
pub struct Encoder {
    config: EncoderConfig,
    /// Known once somebody has asked.
    identity: OnceLock<Identity>,
    semantics: Semantics,
    collapse: bool,
    max_batch_tiles: usize,
    preprocessor: Option<Preprocessor>,
    tables: Option<PositionTables>,
    backend: Backend,
    observer: Option<Observer>,
}

type Observer = Box<dyn FnMut(StepOutput) + Send>;

/// What a step of the plan wrote; see [`Encoder::observe`].
pub struct StepOutput<'a> {
    /// The plan that is being walked.
    pub plan: &'a Plan,
    /// The step that has just ended.
    pub step: &'a Step,
    /// Everything the step wrote: `[rows, width]` of the buffer it writes, all images of the batch.
    pub values: &'a [f32],
}

/// The embeddings of some images.
#[derive(Debug, Clone, PartialEq)]
pub struct Encodings {
    /// `[Σ tiles·N, E]`, f32: image after image, tile after tile (row by row of the grid), token after token, the
    /// class token first. Only tiles that lie in an image's aspect ratio.
    pub embeddings: Vec<f32>,
    /// How each image was cut: tiles down and tiles across.
    pub aspect_ratios: Vec<[usize; 2]>,
    /// Tokens of a tile, N.
    pub num_tokens: usize,
    /// Width of an embedding, E.
    pub embed_dim: usize,
}

impl Encodings {
    /// Tiles of each image.
    pub fn num_tiles(&self) -> impl Iterator<Item = usize> {
        self.aspect_ratios.iter().map(|[height, width]| height * width)
    }

    /// One image's embeddings, `[tiles·N, E]`; none where there is no such image.
    pub fn image(&self, index: usize) -> Option<&[f32]> {
        let num_tiles = self.num_tiles().nth(index)?;
        let before: usize = self.num_tiles().take(index).sum();
        let tile_len = self.num_tokens * self.embed_dim;
        self.embeddings.get(before * tile_len..(before + num_tiles) * tile_len)
    }
}

impl Encoder {
    /// Starts a new encoder.
    ///
    /// ```
    /// let encoder = tilesight::Encoder::builder().demo().build()?;
    /// assert_eq!(encoder.config().tile_size, 224);
    /// # Ok::<(), tilesight::Error>(())
    /// ```
    pub fn builder() -> EncoderBuilder {
        EncoderBuilder::default()
    }

    /// The encoder's parameters.
    pub fn config(&self) -> &EncoderConfig {
        &self.config
    }

    /// Which function of the weights it computes.
    pub fn semantics(&self) -> Semantics {
        self.semantics
    }

    /// How pictures become tiles.
    ///
    /// # Errors
    /// [`ImageError::Channels`] where the model cannot take pictures, for its pixels have not three channels.
    pub fn preprocessor(&self) -> Result<&Preprocessor> {
        let refuse = || ImageError::Channels { expected: self.config.in_channels };
        Ok(self.preprocessor.as_ref().ok_or_else(refuse)?)
    }

    /// Threads the encoder computes on.
    pub fn num_threads(&self) -> usize {
        self.backend.num_threads()
    }

    /// Where it computes: `cpu`, or the GPUs with their numbers and names.
    pub fn device(&self) -> String {
        self.backend.describe()
    }

    /// The element types it computes in and keeps its matrices in.
    pub fn precision(&self) -> Precision {
        self.backend.target().precision
    }

    /// Has `observer` called after each step of every plan, on a thread of the encoder's: for progress, and to look
    /// at what is between pixels and embeddings. On a GPU the steps are then launched one by one, and each one's output
    /// is copied back: for looking, not for speed.
    pub fn observe(&mut self, observer: impl FnMut(StepOutput) + Send + 'static) {
        self.observer = Some(Box::new(observer));
    }

    /// Encodes pictures: cuts each into tiles and runs them, in batches of at most
    /// [`max_batch_tiles`](EncoderBuilder::max_batch_tiles).
    ///
    /// # Errors
    /// [`Error::Image`] for pictures that cannot be cut, [`Error::Input`], [`Error::NotFinite`].
    pub fn encode(&mut self, images: &[Image]) -> Result<Encodings> {
        let preprocessor = self.preprocessor()?;
        let tiles = images.iter().map(|image| preprocessor.tiles(image)).collect::<Result<Vec<_>>>()?;
        self.encode_tiles(&tiles)
    }

    /// [`encode`](Self::encode) for pictures that are cut already.
    ///
    /// # Errors
    /// [`InputError::Shape`] where tiles are not `[h·w, channels, s, s]`, [`InputError::AspectRatio`],
    /// [`InputError::NotFinite`], [`InputError::OutOfMemory`], [`Error::NotFinite`].
    pub fn encode_tiles(&mut self, tiles: &[Tiles]) -> Result<Encodings> {
        let images = self.picture_layouts(tiles)?;
        let num_tiles: usize = tiles.iter().map(Tiles::num_tiles).sum();
        let mut embeddings = zeros(num_tiles.saturating_mul(self.config.num_tokens()), self.config.decoder_embed_dim)?;
        self.run(&self.batches(images), &mut embeddings, false)?;
        Input::Pictures(tiles).require_finite(&embeddings)?;
        Ok(Encodings {
            embeddings,
            aspect_ratios: tiles.iter().map(|tiles| tiles.aspect_ratio).collect(),
            num_tokens: self.config.num_tokens(),
            embed_dim: self.config.decoder_embed_dim,
        })
    }

    /// [`encode_tiles`](Self::encode_tiles) into the caller's memory, `[Σ tiles·N, E]`.
    ///
    /// # Errors
    /// As [`encode_tiles`](Self::encode_tiles), and [`InputError::Shape`] where `embeddings` has another length.
    pub fn encode_tiles_into(&mut self, tiles: &[Tiles], embeddings: &mut [f32]) -> Result<()> {
        let images = self.picture_layouts(tiles)?;
        self.run(&self.batches(images), embeddings, false)?;
        Input::Pictures(tiles).require_finite(embeddings)
    }

    /// Each picture's rows and pixels, once its tiles are known to be what they are said to be.
    fn picture_layouts<'a>(&self, tiles: &'a [Tiles]) -> Result<Vec<(SequenceLayout, &'a [f32])>> {
        let layout = |(number, tiles): (usize, &'a Tiles)| {
            let [height, width] = tiles.aspect_ratio;
            let num_tiles = height.saturating_mul(width);
            if num_tiles == 0 {
                return Err(InputError::Empty { name: "tiles of an image" }.into());
            }
            require_len("pixels", num_tiles, self.config.tile_len(), &tiles.pixels)?;
            pixels::require_finite(&tiles.pixels)?;
            Ok((self.rules(|rules| rules.picture(tiles.aspect_ratio, number))?, &tiles.pixels[..]))
        };
        tiles.iter().enumerate().map(layout).collect()
    }

    /// The plan for pictures of these aspect ratios (tiles down, tiles across): what a call would do, without doing it.
    ///
    /// # Errors
    /// Those of the aspect ratio.
    pub fn plan(&self, aspect_ratios: &[[usize; 2]]) -> Result<Plan> {
        Plan::build(&self.config, &self.batch_shape(aspect_ratios)?, self.backend.target())
    }

    /// The rows of pictures of these aspect ratios.
    fn batch_shape(&self, aspect_ratios: &[[usize; 2]]) -> Result<BatchShape> {
        let layout =
            |(number, &aspect_ratio): (usize, &[usize; 2])| self.rules(|rules| rules.picture(aspect_ratio, number));
        let images = aspect_ratios.iter().enumerate().map(layout).collect::<Result<_>>()?;
        Ok(BatchShape { images })
    }

    /// Measures what is best for one image of each number of tiles, and for a full batch.
    fn tune(&mut self, tune: Tune) -> Result<()> {
        if tune == Tune::Never || matches!(self.backend, Backend::Cpu(_)) {
            return Ok(());
        }
        let most = self.config.max_num_tiles.min(self.max_batch_tiles);
        let images: Vec<_> =
            (1..=most).map(|num_tiles| self.rules(|rules| rules.picture([1, num_tiles], 0))).collect::<Result<_>>()?;
        let largest = images.last().into_iter();
        let full = largest.flat_map(|image| {
            let num_images = self.max_batch_tiles / image.tiles.len().max(1);
            std::iter::repeat_n(image.clone(), num_images)
        });
        let full = BatchShape { images: full.collect() };
        let single = images.iter().map(|image| BatchShape { images: vec![image.clone()] });
        let shapes: Vec<_> = single.chain([full]).collect();
        match &mut self.backend {
            Backend::Cpu(_) => Ok(()),
            Backend::Cuda(cuda) => cuda.tune(&shapes, tune == Tune::Always),
        }
    }

    /// Hands the rules of this encoder's rows to `lay_out`.
    fn rules<T>(&self, lay_out: impl FnOnce(&LayoutRules) -> T) -> T {
        let tables = self.tables.as_ref();
        lay_out(&LayoutRules {
            config: &self.config,
            semantics: self.semantics,
            blocks: tables.map(|tables| &tables.blocks),
            blocks_are_equal: &|a, b| tables.is_none_or(|tables| tables.blocks_are_equal(a, b)),
            collapse: self.collapse,
        })
    }

    /// Runs batches, whose embeddings stand one after another and may not be finite; with `timed`, says where the time went
    /// on the device, too.
    fn run(&mut self, batches: &[Batch], embeddings: &mut [f32], timed: bool) -> Result<Timing> {
        let begin = Instant::now();
        let (tokens, width) = (self.config.num_tokens(), self.config.decoder_embed_dim);
        let num_rows = |batch: &Batch| batch.shape.num_output_tiles() * tokens;
        require_len("embeddings", batches.iter().map(num_rows).sum(), width, embeddings)?;
        let (mut rest, mut outputs) = (embeddings, Vec::new());
        for batch in batches {
            let (output, later) = rest.split_at_mut(num_rows(batch) * width);
            rest = later;
            outputs.push(output);
        }
        let on_gpu = match (&mut self.backend, &mut self.observer) {
            (Backend::Cpu(cpu), observer) => {
                for (batch, output) in batches.iter().zip(&mut outputs) {
                    let plan = Plan::build(&self.config, &batch.shape, cpu.target())?;
                    match observer {
                        Some(observer) => {
                            cpu.run(
                                &plan,
                                &batch.pixels,
                                output,
                                Some(&mut |plan, step, values| {
                                    observer(StepOutput { plan, step, values });
                                }),
                            )?;
                        }
                        None => cpu.run(&plan, &batch.pixels, output, None)?,
                    }
                }
                None
            }
            (Backend::Cuda(cuda), Some(observer)) => {
                for (batch, output) in batches.iter().zip(&mut outputs) {
                    cuda.observe(batch, output, &mut |plan, step, values| observer(StepOutput { plan, step, values }))?;
                }
                None
            }
            (Backend::Cuda(cuda), None) => {
                let outputs = outputs.iter_mut().map(|output| &mut **output).collect();
                Some(cuda.run(batches, outputs, timed)?)
            }
        };
        Ok(on_gpu.unwrap_or_else(|| Timing::Host { compute: begin.elapsed() }))
    }
}

/// Memory for `[rows, width]` values, if the machine has it.
fn zeros(rows: usize, width: usize) -> Result<Vec<f32>> {
    let len = rows.checked_mul(width).ok_or(InputError::OutOfMemory { bytes: u64::MAX })?;
    Ok(memory::zeroed(len)?)
}

/// `tensor` must be `[rows, width]`, flat.
fn require_len(tensor: &'static str, rows: usize, width: usize, values: &[f32]) -> Result<()> {
    if rows.checked_mul(width) == Some(values.len()) {
        return Ok(());
    }
    let expected = format!("[{rows} rows, {width} values each]");
    Err(InputError::Shape { tensor, expected, found: vec![values.len()] }.into())
}
