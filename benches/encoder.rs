//! The encoder on the CPU: its matrix products at the 11B widths, its attention, a whole small encoder, and what stands
//! before them, opening a checkpoint and planning.
//!
//! Whole encodes are of a geometry in which one part is nearly all of the work. Of steps the time within an encode counts.
//! The throughput shown is the plan's FLOPs.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tilesight::checkpoint::{Checkpoint, NameFormat, RandomWeights, VisionWeights, demo_config};
use tilesight::image::Tiles;
use tilesight::plan::{BatchShape, Plan, Target};
use tilesight::{Device, Dtype, Encoder, EncoderConfig, Pixels};

/// An encoder of random weights, and the pixels of `num_tiles` tiles.
fn encoder(config: &EncoderConfig, folder: &std::path::Path, num_tiles: usize) -> (Encoder, Vec<f32>) {
    RandomWeights::new(config, Dtype::Bf16, 1).unwrap().write(folder, NameFormat::Torchtune, &|_, _| {}).unwrap();
    let encoder = Encoder::builder().device(Device::Cpu).model(folder).build().unwrap();
    let pixels = (0..num_tiles * config.tile_len()).map(|i| (i % 251) as f32 / 125.0 - 1.0).collect();
    (encoder, pixels)
}

fn encodes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("encode");
    group.sample_size(10);
    let layer = EncoderConfig {
        clip_num_layers: 1,
        clip_hidden_states: vec![],
        num_layers_projection: 0,
        decoder_embed_dim: 8,
        ..EncoderConfig::preset("11b").unwrap()
    };
    let cases = [
        // Short sequences: 1025 rows of 1280 × 3840, 1280, 5120 and back.
        ("layer_11b_448", EncoderConfig { tile_size: 448, ..layer.clone() }, 1),
        // Long ones: attention is nearly half of the work.
        ("layer_11b_560_four_tiles", layer, 4),
        ("demo_one_tile", demo_config(), 1),
        ("demo_four_tiles", demo_config(), 4),
    ];
    for (name, config, num_tiles) in cases {
        let folder = tempfile::tempdir().unwrap();
        let (mut encoder, images) = encoder(&config, folder.path(), num_tiles);
        let side = config.tile_size;
        let aspect_ratio = [[1, num_tiles as i64]];
        let pixels =
            Pixels { images: &images, shape: [1, 1, num_tiles, 3, side, side], aspect_ratio: Some(&aspect_ratio) };
        group.throughput(Throughput::Elements(encoder.plan(&[[1, num_tiles]]).unwrap().flops()));
        group.bench_function(name, |bencher| bencher.iter(|| black_box(encoder.encode_pixels(&pixels).unwrap())));
    }
    group.finish();
}

/// The matrix products and attention of one layer at the 11B widths, and the projection, each within an encode of four tiles.
fn steps(criterion: &mut Criterion) {
    let config = EncoderConfig {
        clip_num_layers: 1,
        clip_hidden_states: vec![0],
        num_layers_projection: 0,
        ..EncoderConfig::preset("11b").unwrap()
    };
    let folder = tempfile::tempdir().unwrap();
    let (mut encoder, pixels) = encoder(&config, folder.path(), 4);
    let tiles = [Tiles { aspect_ratio: [2, 2], pixels }];
    let plan = encoder.plan(&[[2, 2]]).unwrap();
    let mut group = criterion.benchmark_group("step");
    group.sample_size(10);
    for step in plan.steps.iter().filter(|step| step.flops > 0) {
        let name = step.name.clone();
        group.throughput(Throughput::Elements(step.flops));
        group.bench_function(&name, |bencher| {
            bencher.iter_custom(|rounds| {
                let profile = encoder.profile(&tiles, rounds as usize).unwrap();
                let number = profile.plan.steps.iter().position(|step| step.name == name).unwrap();
                Duration::from_secs_f64(profile.rounds.iter().map(|round| round[number].seconds).sum())
            });
        });
    }
    group.finish();
}

fn before_the_first_encode(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    let config = EncoderConfig { clip_embed_dim: 320, num_heads: 4, ..EncoderConfig::preset("11b").unwrap() };
    let (encoder, _) = encoder(&config, folder.path(), 1);
    criterion.bench_function("open and load a checkpoint of 511 tensors", |bencher| {
        bencher.iter(|| VisionWeights::load(&Checkpoint::open(folder.path()).unwrap(), &config).unwrap());
    });
    let plan = encoder.plan(&[[2, 2], [1, 1], [1, 3]]).unwrap();
    let batch = BatchShape { images: plan.batch.images.clone() };
    criterion.bench_function("plan a ragged batch of 40 layers", |bencher| {
        bencher.iter(|| Plan::build(&config, &batch, Target::cpu(encoder.precision().weights)).unwrap());
    });
}

criterion_group!(benches, encodes, steps, before_the_first_encode);
criterion_main!(benches);
