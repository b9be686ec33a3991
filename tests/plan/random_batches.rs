//! Random small encoders and ragged batches of random images, both semantics, for properties of layouts and plans.

use proptest::prelude::*;
use proptest::sample::subsequence;
use tilesight::checkpoint::TileBlocks;
use tilesight::plan::{BatchShape, Form, ImageShape, LayoutRules, Plan, Semantics, Target};
use tilesight::{Dtype, EncoderConfig};

#[derive(Debug, Clone)]
pub struct Batch {
    pub config: EncoderConfig,
    pub semantics: Semantics,
    /// Whether the model has position tables that know tiles; torchtune's for one tile has none.
    pub has_tables: bool,
    pub per_aspect_ratio: bool,
    /// Whether the tables hold the same values everywhere, so that any two padding places are equal.
    pub flat_tables: bool,
    pub collapse: bool,
    /// What plans are made for.
    pub target: Target,
    pub images: Vec<ImageShape>,
}

impl Batch {
    fn blocks(&self) -> TileBlocks {
        match self.per_aspect_ratio {
            true => TileBlocks::per_aspect_ratio(self.config.max_num_tiles),
            false => TileBlocks::grid(self.config.max_num_tiles),
        }
    }

    /// Where in the tables a tile of an image finds what is added to it.
    pub fn block(&self, image: &ImageShape, tile: usize) -> Option<usize> {
        let padding = self.semantics == Semantics::Meta;
        self.has_tables.then(|| self.blocks().block(image.aspect_ratio, tile, padding)).flatten()
    }

    pub fn shape(&self) -> BatchShape {
        let blocks = self.has_tables.then(|| self.blocks());
        let rules = LayoutRules {
            config: &self.config,
            semantics: self.semantics,
            blocks: blocks.as_ref(),
            blocks_are_equal: &|a, b| a == b || self.flat_tables && a.is_some() == b.is_some(),
            collapse: self.collapse,
        };
        let layout = |(number, image)| rules.sequence(image, number).unwrap();
        BatchShape { images: self.images.iter().enumerate().map(layout).collect() }
    }

    pub fn plan(&self) -> Plan {
        Plan::build(&self.config, &self.shape(), self.target).unwrap()
    }
}

fn any_config() -> impl Strategy<Value = EncoderConfig> {
    let sizes = (1usize..4, 1usize..4, 1usize..6, 0usize..5, 0usize..4);
    let others = (1usize..40, 0usize..9, 1usize..6, 1usize..4);
    let all =
        (sizes, others).prop_map(|((patch_size, num_heads, head_dim, layers, gated), (out, more, tiles, channels))| {
            EncoderConfig {
                patch_size,
                num_heads,
                clip_embed_dim: num_heads * head_dim,
                clip_num_layers: layers,
                clip_hidden_states: vec![],
                num_layers_projection: gated,
                decoder_embed_dim: out,
                tile_size: patch_size + more,
                max_num_tiles: tiles,
                in_channels: channels,
            }
        });
    all.prop_flat_map(|config| {
        let last = config.clip_num_layers as i64;
        subsequence((0..=last).collect::<Vec<_>>(), 0..=config.clip_num_layers)
            .prop_map(move |clip_hidden_states| EncoderConfig { clip_hidden_states, ..config.clone() })
    })
}

/// An image that the rules allow: the padding tiles' pixels are zeros, shared, or their own.
fn any_image(tiles: usize, exactly: bool, per_aspect_ratio: bool) -> impl Strategy<Value = ImageShape> {
    let sides = (0..=tiles, 0..=tiles, 0usize..4, any::<bool>());
    let sources = prop::collection::vec(0usize..3, 40);
    (sides, sources).prop_map(move |((height, width, more, padding_output), sources)| {
        let bound = if exactly || per_aspect_ratio { tiles } else { tiles * tiles };
        let known = height * width <= bound && (height * width > 0 || [height, width] == [0, 0] || !per_aspect_ratio);
        let [height, width] = if known { [height, width] } else { [1, 1] };
        let num_real = height * width;
        let num_tiles = if exactly { tiles } else { (num_real + more).max(1) };
        let source = |tile: usize| match sources[tile % sources.len()] {
            _ if tile < num_real => Some(tile),
            0 => None,
            1 => Some(num_real),
            _ => Some(tile),
        };
        ImageShape { aspect_ratio: [height, width], tiles: (0..num_tiles).map(source).collect(), padding_output }
    })
}

pub fn any_batch() -> impl Strategy<Value = Batch> {
    let choices = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    let targets = [
        Target::cpu(Dtype::Bf16),
        Target::cuda(Dtype::Bf16, Form::Portable),
        Target::cuda(Dtype::Bf16, Form::Hopper),
        Target::cuda(Dtype::F16, Form::Cublas),
    ];
    let all = (any_config(), choices, prop::sample::select(targets.to_vec()));
    all.prop_flat_map(|(config, (meta, per_aspect_ratio, flat_tables, collapse, tables), target)| {
        let image = any_image(config.max_num_tiles, meta, per_aspect_ratio);
        let has_tables = config.max_num_tiles > 1 || tables;
        prop::collection::vec(image, 1..5).prop_map(move |images| Batch {
            config: config.clone(),
            semantics: if meta { Semantics::Meta } else { Semantics::Torchtune },
            has_tables,
            per_aspect_ratio,
            flat_tables,
            collapse,
            target,
            images,
        })
    })
}
