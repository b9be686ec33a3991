//! The plans of the published encoders cost what the specification says, to the FLOP, and sizes that no machine has are
//! refused.

use tilesight::checkpoint::{NameFormat, TileBlocks, expected_tensors};
use tilesight::error::InputError;
use tilesight::plan::{BatchShape, ImageShape, LayoutRules, Plan, Semantics, SequenceLayout, Stack, Target};
use tilesight::{Dtype, EncoderConfig, Error};

const TARGET: Target = Target::cpu(Dtype::Bf16);

fn preset(name: &str, tile_size: usize) -> EncoderConfig {
    EncoderConfig { tile_size, ..EncoderConfig::preset(name).unwrap() }
}

fn with_rules<T>(
    config: &EncoderConfig,
    semantics: Semantics,
    collapse: bool,
    lay_out: impl FnOnce(&LayoutRules) -> T,
) -> T {
    let blocks = TileBlocks::grid(config.max_num_tiles);
    lay_out(&LayoutRules { config, semantics, blocks: Some(&blocks), blocks_are_equal: &|a, b| a == b, collapse })
}

/// A picture cut into `aspect_ratio`.
fn picture(config: &EncoderConfig, semantics: Semantics, aspect_ratio: [usize; 2], collapse: bool) -> SequenceLayout {
    with_rules(config, semantics, collapse, |rules| rules.picture(aspect_ratio, 0)).unwrap()
}

fn plan(config: &EncoderConfig, images: Vec<SequenceLayout>) -> Plan {
    Plan::build(config, &BatchShape { images }, TARGET).unwrap()
}

fn tera(flops: u64) -> f64 {
    flops as f64 / 1e12
}

#[test]
fn torchtunes_flops() {
    let totals = [
        ("11b", 560, 1, 3.146),
        ("11b", 560, 2, 7.342),
        ("11b", 560, 3, 12.588),
        ("11b", 560, 4, 18.884),
        ("11b", 448, 1, 1.893),
        ("11b", 448, 4, 10.156),
        ("90b", 560, 1, 3.247),
        ("90b", 560, 2, 7.544),
        ("90b", 560, 3, 12.891),
        ("90b", 560, 4, 19.287),
        ("90b", 448, 1, 1.958),
        ("90b", 448, 4, 10.413),
    ];
    for (name, tile_size, num_tiles, expected) in totals {
        let config = preset(name, tile_size);
        let image = || picture(&config, Semantics::Torchtune, [1, num_tiles], true);
        let one = plan(&config, vec![image()]);
        let found = tera(one.flops());
        assert!((found - expected).abs() <= 0.0005, "{name} at {tile_size}, {num_tiles} tiles: {found} TFLOP");
        assert_eq!(plan(&config, vec![image(), image()]).flops(), 2 * one.flops(), "two images cost two");
    }
}

/// The parts of the total, for one tile and for four.
#[test]
fn torchtunes_flops_by_kind() {
    let config = preset("11b", 560);
    for (num_tiles, parts) in [(1, [2.4, 839.0, 1679.0, 525.0, 101.0]), (4, [9.6, 3358.0, 6715.0, 8399.0, 403.0])] {
        let plan = plan(&config, vec![picture(&config, Semantics::Torchtune, [num_tiles, 1], true)]);
        let giga = |ends: &[&str]| {
            let steps = plan.steps.iter().filter(|step| ends.iter().any(|end| step.name.ends_with(end)));
            steps.map(|step| step.flops).sum::<u64>() as f64 / 1e9
        };
        let found = [
            giga(&["patch_embedding"]),
            giga(&[".qkv", ".out"]),
            giga(&[".fc1", ".fc2"]),
            giga(&[".attention"]),
            giga(&["projection"]),
        ];
        for (found, expected) in found.iter().zip(parts) {
            let rounding = if expected < 10.0 { 0.05 } else { 0.5 };
            assert!((found - expected).abs() <= rounding, "{found:?} GFLOP for {expected}");
        }
        assert_eq!(giga(&[""]), plan.flops() as f64 / 1e9);
    }
}

#[test]
fn metas_flops_and_rows() {
    let config = preset("11b", 560);
    let [whole, collapsed] =
        [false, true].map(|collapse| plan(&config, vec![picture(&config, Semantics::Meta, [1, 1], collapse)]));
    // Other engines score what the mask hides, pairs of padding rows, and project padding tiles.
    let padding = 4 * 1608 - 1601;
    let hidden = 40 * 4 * padding * padding * 1280 + 2 * 3 * 1601 * 7680 * 4096;
    let everything = tera(whole.flops() + hidden);
    assert!((everything - 19.0).abs() < 0.05, "{everything} TFLOP");
    assert!((tera(collapsed.flops()) - 6.7).abs() < 0.05, "{} TFLOP", tera(collapsed.flops()));
    assert_eq!(whole.batch.num_rows(Stack::Transformer), 4 * 1608);
    assert_eq!(whole.batch.num_rows(Stack::GlobalTransformer), 4 * 1608);
    // The real tile, one padding tile for three, and alignment rows: one for all, then one for each of the two tiles.
    assert_eq!(collapsed.batch.num_rows(Stack::Transformer), 3203);
    assert_eq!(collapsed.batch.num_rows(Stack::GlobalTransformer), 3204);
    assert_eq!(collapsed.num_output_rows(), 1601);
    for (aspect_ratio, rows) in [([1, 2], 3 * 1601 + 1), ([3, 1], 4 * 1601 + 1), ([2, 2], 4 * 1601 + 1)] {
        let image = picture(&config, Semantics::Meta, aspect_ratio, true);
        assert_eq!(image.transformer.len, rows, "{aspect_ratio:?}");
        let multiplicities: usize =
            image.transformer.multiples.iter().map(|m| m.rows.len() * (m.multiplicity - 1)).sum();
        assert_eq!(rows + multiplicities, 4 * 1608);
    }
}

#[test]
fn every_parameter_is_read_once() {
    let config = preset("11b", 560);
    let tensors = expected_tensors(&config, NameFormat::Torchtune);
    let num_parameters: u64 = tensors.iter().map(|t| t.shape.iter().product::<usize>() as u64).sum();
    let plan = plan(&config, vec![picture(&config, Semantics::Torchtune, [1, 1], true)]);
    let bytes_of = |step: &tilesight::plan::Step| {
        let buffers = step.op.reads().into_iter().chain([step.op.writes()]);
        step.bytes - buffers.map(|id| plan.buffer(id).bytes as u64).sum::<u64>()
    };
    let found: u64 = plan.steps.iter().map(bytes_of).sum();
    // Of the global position table one tile reads one block of sixteen; vectors are not counted.
    let unread = 15 * 1601 * 1280;
    let share = found as f64 / (2 * (num_parameters - unread)) as f64;
    assert!((0.99..=1.0).contains(&share), "{share} of the weights' bytes");
}

#[test]
fn sizes_that_no_machine_has_are_refused() {
    let largest = EncoderConfig {
        patch_size: 1,
        num_heads: 1,
        clip_embed_dim: 1,
        clip_num_layers: 1,
        clip_hidden_states: vec![],
        num_layers_projection: 0,
        decoder_embed_dim: 1,
        tile_size: 1 << 24,
        max_num_tiles: 4,
        in_channels: 1,
    };
    let too_large = |config: &EncoderConfig, num_tiles: usize| {
        let tiles = (0..num_tiles).map(Some).collect();
        let image = ImageShape { aspect_ratio: [1, 1], tiles, padding_output: true };
        let images = vec![with_rules(config, Semantics::Torchtune, false, |rules| rules.sequence(&image, 0))?];
        Plan::build(config, &BatchShape { images }, TARGET)
    };
    // More rows than can be counted, then more bytes; and one tile's fit an address, though no memory.
    let wider = EncoderConfig { clip_embed_dim: 1 << 7, ..largest.clone() };
    for (config, num_tiles) in [(&largest, 1 << 16), (&largest, 1 << 12), (&wider, 64)] {
        let found = too_large(config, num_tiles);
        assert!(matches!(found, Err(Error::Input(InputError::OutOfMemory { .. }))), "{found:?}");
    }
    let found = too_large(&largest, 1).unwrap();
    assert_eq!(found.flops(), u64::MAX, "the square of 2^48 rows");
    // Small encoders, but one image and many.
    let small = preset("11b", 560);
    let image = ImageShape { aspect_ratio: [0, 0], tiles: vec![None; 1 << 20], padding_output: true };
    let image = with_rules(&small, Semantics::Torchtune, false, |rules| rules.sequence(&image, 0)).unwrap();
    assert!(Plan::build(&small, &BatchShape { images: vec![image; 3] }, TARGET).is_ok());
    let broken = EncoderConfig { num_heads: 7, ..small };
    let found = Plan::build(&broken, &BatchShape { images: vec![] }, TARGET);
    assert!(matches!(found, Err(Error::Config(_))), "{found:?}");
}

/// The most layers there may be: a plan's cost grows no faster than they do by much.
#[test]
fn the_deepest_encoder_can_be_planned() {
    let config = EncoderConfig {
        clip_num_layers: 1 << 12,
        clip_hidden_states: (0..1 << 12).collect(),
        num_layers_projection: 1 << 12,
        clip_embed_dim: 16,
        decoder_embed_dim: 1,
        tile_size: 14,
        ..preset("11b", 14)
    };
    let plan = plan(&config, vec![picture(&config, Semantics::Torchtune, [1, 1], true)]);
    assert_eq!(plan.steps.len(), 3 + 5 * (1 << 12) + 1 + 5 * (1 << 12) + 1);
    // Every hidden state is kept: the arena holds them all.
    assert!(plan.arena_bytes >= (1 << 12) * 2 * 16 * 4);
}
