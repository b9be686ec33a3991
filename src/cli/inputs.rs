//! What is timed: pictures, decoded and cut each time, or tiles of noise that are there already.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{RngCore, SeedableRng};

use super::grid::Grid;
use super::pictures::{self, PictureFile};
use crate::encoder::Encoder;
use crate::error::Result;
use crate::image::{Image, Limits, Preprocessor, Tiles};

/// Tensors of a grid of noise: they take turns, so that none is in a cache by accident.
const VARIANTS: u64 = 3;

/// What to encode.
#[derive(Args, Clone)]
pub(super) struct Selection {
    /// JPEG, PNG or WebP pictures, read once, decoded and cut each time [default: tiles of noise]
    #[arg(value_name = "IMAGE")]
    images: Vec<PathBuf>,
    /// Images of noise that are cut already, as tiles across x tiles down; several take turns: 1x1,2x2 [default: the most
    /// tiles that the model takes]
    #[arg(long, value_name = "WxH", value_delimiter = ',', conflicts_with = "images")]
    tiles: Vec<Grid>,
}

/// One thing to encode.
#[derive(Clone)]
pub(super) struct Input {
    /// What a person calls it.
    pub(super) name: String,
    /// Tiles down, tiles across.
    pub(super) aspect_ratio: [usize; 2],
    /// Tiles as they count in a batch.
    pub(super) computed_tiles: usize,
    /// What encoding it alone takes.
    pub(super) flops: u64,
    source: Source,
}

#[derive(Clone)]
enum Source {
    Picture { file: Arc<[u8]>, preprocessor: Arc<Preprocessor> },
    Noise(Arc<Tiles>),
}

/// An input on its way to tiles.
pub(super) enum Decoded<'a> {
    Picture(Image, &'a Preprocessor),
    Noise(&'a Arc<Tiles>),
}

impl Selection {
    /// The inputs, in turn.
    ///
    /// # Errors
    /// Those of files, of pictures, and of grids that the model does not take.
    pub(super) fn inputs(&self, encoder: &Encoder) -> Result<Vec<Input>> {
        if !self.images.is_empty() {
            return self.pictures(encoder);
        }
        let most = [Grid::of(encoder.config().max_num_tiles)];
        let grids = if self.tiles.is_empty() { &most[..] } else { &self.tiles };
        let turns = (0..VARIANTS).flat_map(|variant| grids.iter().map(move |grid| (variant, grid)));
        let input = |(number, (variant, grid)): (usize, (u64, &Grid))| {
            let tiles = noise(encoder.config().tile_len(), grid.aspect_ratio(), number as u64);
            let name = format!("{grid} tiles of noise, {}", variant + 1);
            Input::new(encoder, name, grid.aspect_ratio(), Source::Noise(Arc::new(tiles)))
        };
        turns.enumerate().map(input).collect()
    }

    /// Every picture, or every grid, once.
    ///
    /// # Errors
    /// Likewise.
    pub(super) fn batch(&self, encoder: &Encoder) -> Result<Vec<Input>> {
        let mut inputs = self.inputs(encoder)?;
        if self.images.is_empty() {
            inputs.truncate(self.tiles.len().max(1));
        }
        Ok(inputs)
    }

    fn pictures(&self, encoder: &Encoder) -> Result<Vec<Input>> {
        let preprocessor = Arc::new(encoder.preprocessor()?.clone());
        let input = |picture: pictures::Picture| {
            let file = picture.file.read()?.into();
            let source = Source::Picture { file, preprocessor: preprocessor.clone() };
            Input::new(encoder, picture.file.path.display().to_string(), picture.canvas.aspect_ratio, source)
        };
        pictures::survey(&PictureFile::list(&self.images), &preprocessor)?.into_iter().map(input).collect()
    }
}

impl Input {
    fn new(encoder: &Encoder, name: String, aspect_ratio: [usize; 2], source: Source) -> Result<Self> {
        let computed_tiles = encoder.num_computed_tiles(aspect_ratio)?;
        let flops = encoder.plan(&[aspect_ratio])?.flops();
        Ok(Self { name, aspect_ratio, computed_tiles, flops, source })
    }

    /// Tiles whose embeddings come out.
    pub(super) fn num_tiles(&self) -> usize {
        self.aspect_ratio.iter().product()
    }

    /// The first stage; nothing where tiles are there already.
    ///
    /// # Errors
    /// Those of the picture.
    pub(super) fn decode(&self) -> Result<Decoded<'_>> {
        Ok(match &self.source {
            Source::Picture { file, preprocessor } => {
                Decoded::Picture(Image::decode(file, &Limits::default())?, preprocessor)
            }
            Source::Noise(tiles) => Decoded::Noise(tiles),
        })
    }

    /// What stands for it in a report.
    pub(super) fn describe(&self) -> serde_json::Value {
        serde_json::json!({
            "name": self.name,
            "aspect_ratio": self.aspect_ratio,
            "computed_tiles": self.computed_tiles,
            "flops": self.flops,
        })
    }
}

impl Decoded<'_> {
    /// The second stage; likewise.
    ///
    /// # Errors
    /// Those of the picture.
    pub(super) fn cut(&self) -> Result<Arc<Tiles>> {
        match self {
            Self::Picture(image, preprocessor) => Ok(Arc::new(preprocessor.tiles(image)?)),
            Self::Noise(tiles) => Ok((*tiles).clone()),
        }
    }
}

/// Normalised pixels without a pattern: a device is faster on zeros than on what it will meet.
pub(super) fn noise(tile_len: usize, aspect_ratio: [usize; 2], seed: u64) -> Tiles {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
    // As far from zero as pixels that were normalised by CLIP's mean and deviation.
    let value = || (random.next_u64() >> 40) as f32 / (1u64 << 24) as f32 * 4.0 - 2.0;
    let len = tile_len * aspect_ratio.iter().product::<usize>();
    Tiles { aspect_ratio, pixels: std::iter::repeat_with(value).take(len).collect() }
}
