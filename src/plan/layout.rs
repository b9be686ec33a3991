//! Which rows an image's sequence has, and which of them are computed once for many.
//!
//! Rows that start equal and are treated equally stay equal through every layer. In `meta` semantics most of a small
//! picture's sequence is such rows: the alignment rows of all tiles, and whole padding tiles. They are computed once and
//! carry a multiplicity m; as keys their score gets ln m added, which makes one row weigh in the softmax what m equal
//! rows would.

use std::ops::Range;

use crate::checkpoint::{NameFormat, TileBlocks};
use crate::config::EncoderConfig;
use crate::error::{Error, InputError, Result};
use crate::image::Preprocess;

/// Which function of the weights is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Semantics {
    /// torchtune's: a tile has its N tokens, and every row sees every row.
    Torchtune,
    /// Meta's and, up to version 4.54, Hugging Face transformers': what the published weights were trained with.
    /// Each tile has zero rows after its tokens, up to a multiple of 8; an image has `max_num_tiles` tiles; and rows
    /// of padding (alignment rows, and all rows of padding tiles) do not see one another, though real rows see them.
    Meta,
}

impl Semantics {
    /// What a checkpoint in these names means, unless somebody says otherwise.
    pub fn of(names: NameFormat) -> Self {
        match names {
            NameFormat::Torchtune => Self::Torchtune,
            NameFormat::Meta | NameFormat::HuggingFace => Self::Meta,
        }
    }

    /// How its reference makes tiles of pictures.
    pub fn preprocess(self) -> Preprocess {
        match self {
            Self::Torchtune => Preprocess::Torchtune,
            Self::Meta => Preprocess::Pil,
        }
    }

    /// The name on the command line and in output metadata.
    pub fn name(self) -> &'static str {
        match self {
            Self::Torchtune => "torchtune",
            Self::Meta => "meta",
        }
    }
}

impl std::str::FromStr for Semantics {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "torchtune" => Ok(Self::Torchtune),
            "meta" => Ok(Self::Meta),
            _ => {
                let reason = "there are torchtune and meta";
                Err(InputError::Unavailable { option: "semantics", found: name.to_string(), reason }.into())
            }
        }
    }
}

impl std::fmt::Display for Semantics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// What decides the rows of every image of an encoder.
pub struct LayoutRules<'a> {
    /// The encoder's parameters.
    pub config: &'a EncoderConfig,
    /// Which function of the weights is computed.
    pub semantics: Semantics,
    /// Which block of the position tables a tile gets; none in torchtune's model for one tile, which has no tables.
    pub blocks: Option<&'a TileBlocks>,
    /// Whether two places of the tables hold the same values; equality of the places is always right, if not always
    /// the most that can be said.
    pub blocks_are_equal: &'a dyn Fn(Option<usize>, Option<usize>) -> bool,
    /// Whether equal rows are computed once.
    pub collapse: bool,
}

/// One image of a batch, before anything is known about rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageShape {
    /// Tiles down and tiles across. `[0, 0]` is a missing image.
    pub aspect_ratio: [usize; 2],
    /// Where each tile's pixels are, tiles that lie in the aspect ratio first: a tile's number in the pixel tensor,
    /// or none for a tile of zeros. Padding tiles with one source have equal pixels.
    pub tiles: Vec<Option<usize>>,
    /// Whether the embeddings of padding tiles are wanted too.
    pub padding_output: bool,
}

/// The rows of one image's sequence.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct SequenceLayout {
    /// The tiles that are computed, N rows each: first those whose rows see everything.
    pub tiles: Vec<ComputedTile>,
    /// The sequence in the transformer: the tiles' rows, then alignment rows.
    pub transformer: Rows,
    /// The sequence in the gated layers: the tiles' rows, then alignment rows, which have met the post-tile embedding
    /// and are equal only within a tile.
    pub global_transformer: Rows,
    /// The alignment rows of the gated layers, in order.
    pub alignment: Vec<AlignmentRows>,
    /// For each tile of the output, in order, the number of the computed tile.
    pub output: Vec<usize>,
}

/// A tile that is computed, for itself or for several equal ones.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ComputedTile {
    /// The tile's number in the pixel tensor; none for zeros.
    pub source: Option<usize>,
    /// The block of the position tables that is added to it; none where nothing is.
    pub block: Option<usize>,
    /// How many equal tiles it stands for.
    pub multiplicity: usize,
}

/// Alignment rows that have met one block of the post-tile embedding.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct AlignmentRows {
    /// Rows that are computed.
    pub rows: usize,
    /// How many equal rows each stands for.
    pub multiplicity: usize,
    /// The block that is added after the transformer; none where nothing is.
    pub block: Option<usize>,
}

/// A sequence's rows, as attention sees them.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Rows {
    /// Rows that are computed.
    pub len: usize,
    /// The first `all_seeing` rows see every row; the others see these rows only.
    pub all_seeing: usize,
    /// The rows that stand for more than one, in order.
    pub multiples: Vec<MultipleRows>,
}

/// Rows that each stand for several equal ones.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct MultipleRows {
    /// Which rows.
    pub rows: Range<usize>,
    /// How many equal rows each stands for.
    pub multiplicity: usize,
}

impl Rows {
    fn push(&mut self, rows: usize, multiplicity: usize, all_seeing: bool) {
        if multiplicity > 1 && rows > 0 {
            self.multiples.push(MultipleRows { rows: self.len..self.len + rows, multiplicity });
        }
        self.len += rows;
        if all_seeing {
            self.all_seeing = self.len;
        }
    }

    /// Pairs of query and key that attention scores.
    pub fn num_scores(&self) -> u64 {
        let [len, all_seeing] = [self.len, self.all_seeing].map(|x| x as u64);
        all_seeing.saturating_mul(len).saturating_add((len - all_seeing).saturating_mul(all_seeing))
    }
}

impl LayoutRules<'_> {
    /// The rows of a picture cut into `aspect_ratio` (tiles down, tiles across), whose embeddings leave out padding
    /// tiles; `number` is its number in the batch.
    ///
    /// # Errors
    /// As [`sequence`](Self::sequence), and [`InputError::OutOfMemory`].
    pub fn picture(&self, aspect_ratio: [usize; 2], number: usize) -> Result<SequenceLayout> {
        self.check_sides(aspect_ratio, number)?;
        let num_tiles = aspect_ratio[0].saturating_mul(aspect_ratio[1]);
        // Meta and Hugging Face fill an image up with tiles of zeros.
        let padding = match self.semantics {
            Semantics::Meta => self.config.max_num_tiles.saturating_sub(num_tiles),
            Semantics::Torchtune => 0,
        };
        let mut tiles = Vec::new();
        let bytes = (num_tiles as u64).saturating_mul(size_of::<Option<usize>>() as u64);
        tiles.try_reserve_exact(num_tiles.max(padding)).map_err(|_| InputError::OutOfMemory { bytes })?;
        tiles.extend((0..num_tiles).map(Some).chain(std::iter::repeat_n(None, padding)));
        self.sequence(&ImageShape { aspect_ratio, tiles, padding_output: false }, number)
    }

    /// The rows of `image`, number `number` of its batch.
    ///
    /// # Errors
    /// [`InputError::Empty`], [`AspectRatio`](InputError::AspectRatio), [`TooFewTiles`](InputError::TooFewTiles),
    /// [`MetaTiles`](InputError::MetaTiles), [`NoPositionTable`](InputError::NoPositionTable);
    /// [`InputError::OutOfMemory`] where the rows cannot be counted.
    pub fn sequence(&self, image: &ImageShape, number: usize) -> Result<SequenceLayout> {
        let num_real = self.num_real_tiles(image, number)?;
        let (tiles, output) = self.computed_tiles(image, num_real);
        let meta = self.semantics == Semantics::Meta;
        let tokens = self.config.num_tokens();
        let most_rows = image.tiles.len().checked_mul(tokens + self.config.num_alignment_rows());
        most_rows.filter(|rows| isize::try_from(*rows).is_ok()).ok_or(InputError::OutOfMemory { bytes: u64::MAX })?;
        let mut transformer = Rows::default();
        for (computed, tile) in tiles.iter().enumerate() {
            transformer.push(tokens, tile.multiplicity, !meta || computed < num_real);
        }
        let mut global_transformer = transformer.clone();
        let mut alignment = Vec::new();
        if meta && self.config.num_alignment_rows() > 0 {
            let per_tile = self.config.num_alignment_rows();
            let collapsed = |all| if self.collapse { (1, all) } else { (all, 1) };
            let (rows, multiplicity) = collapsed(per_tile * image.tiles.len());
            transformer.push(rows, multiplicity, false);
            for tile in &tiles {
                let (rows, multiplicity) = collapsed(per_tile * tile.multiplicity);
                global_transformer.push(rows, multiplicity, false);
                alignment.push(AlignmentRows { rows, multiplicity, block: tile.block });
            }
        }
        Ok(SequenceLayout { tiles, transformer, global_transformer, alignment, output })
    }

    /// The tiles that are computed, and for each tile of the output the number of the computed one.
    fn computed_tiles(&self, image: &ImageShape, num_real: usize) -> (Vec<ComputedTile>, Vec<usize>) {
        let padding_blocks = self.semantics == Semantics::Meta;
        let mut tiles: Vec<ComputedTile> = Vec::new();
        let mut output = Vec::with_capacity(image.tiles.len());
        for (tile, &source) in image.tiles.iter().enumerate() {
            let block = self.blocks.and_then(|blocks| blocks.block(image.aspect_ratio, tile, padding_blocks));
            let equals =
                |earlier: &ComputedTile| earlier.source == source && (self.blocks_are_equal)(earlier.block, block);
            let mut candidates = if self.collapse && tile >= num_real { num_real..tiles.len() } else { 0..0 };
            let earlier = candidates.find(|&earlier| equals(&tiles[earlier]));
            let computed = earlier.unwrap_or(tiles.len());
            match tiles.get_mut(computed) {
                Some(equal) => equal.multiplicity += 1,
                None => tiles.push(ComputedTile { source, block, multiplicity: 1 }),
            }
            if tile < num_real || image.padding_output {
                output.push(computed);
            }
        }
        (tiles, output)
    }

    /// The position tables hold T×T tiles, and nothing beyond.
    fn check_sides(&self, aspect_ratio: [usize; 2], number: usize) -> Result<()> {
        let max_num_tiles = self.config.max_num_tiles;
        if self.blocks.is_none() || aspect_ratio.iter().all(|side| *side <= max_num_tiles) {
            return Ok(());
        }
        let [height, width] = aspect_ratio.map(|side| i64::try_from(side).unwrap_or(i64::MAX));
        Err(InputError::AspectRatio { image: number, max_num_tiles, height, width }.into())
    }

    /// Checks an image's tiles against its aspect ratio; returns how many see everything.
    fn num_real_tiles(&self, image: &ImageShape, number: usize) -> Result<usize> {
        let num_tiles = image.tiles.len();
        let max_num_tiles = self.config.max_num_tiles;
        if num_tiles == 0 {
            return Err(InputError::Empty { name: "tiles of an image" }.into());
        }
        if self.semantics == Semantics::Meta && num_tiles != max_num_tiles {
            return Err(InputError::MetaTiles { expected: max_num_tiles, found: num_tiles }.into());
        }
        // torchtune's model for one tile does not read the aspect ratio: every tile it is given is real.
        let Some(blocks) = self.blocks else { return Ok(num_tiles) };
        self.check_sides(image.aspect_ratio, number)?;
        let [height, width] = image.aspect_ratio;
        if height * width > num_tiles {
            return Err(InputError::TooFewTiles { image: number, height, width, num_tiles }.into());
        }
        if !blocks.has_aspect_ratio(image.aspect_ratio) {
            let reason = "has no row in this checkpoint's position tables";
            return Err(InputError::NoPositionTable { image: number, height, width, max_num_tiles, reason }.into());
        }
        Ok(match self.semantics {
            // A missing image counts as one real tile in Hugging Face's mask.
            Semantics::Meta => (height * width).max(1),
            Semantics::Torchtune => height * width,
        })
    }
}

impl SequenceLayout {
    /// How many tiles the embeddings cover.
    pub fn num_output_tiles(&self) -> usize {
        self.output.len()
    }

    /// The tiles of the output that are projected, each with the equal ones right behind it, which are copies.
    pub fn projected_tiles(&self) -> impl Iterator<Item = &[usize]> {
        self.output.chunk_by(|a, b| a == b)
    }

    /// Tiles of the pixel tensor up to the last one that is read.
    pub fn num_input_tiles(&self) -> usize {
        self.tiles.iter().filter_map(|tile| tile.source).max().map_or(0, |last| last + 1)
    }
}
