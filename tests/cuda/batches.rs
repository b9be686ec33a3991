//! On a GPU, or on the simulated one, a result depends on its image alone: not on the batch it was in, its place there,
//! the tile budget, the number of GPUs, or the run, to the bit.

use tilesight::checkpoint::{RandomWeights, demo_config};
use tilesight::encoder::EncoderBuilder;
use tilesight::image::Tiles;
use tilesight::plan::Semantics;
use tilesight::{Device, Dtype, Encoder, EncoderConfig, Kernels, Pixels, Tune};

use crate::difference::difference;
use crate::fused_kernels::fused_kernels;
use crate::kernel_sets;
use crate::noise::noise;
use crate::ragged_tiles::{alone, assert_same_bits, encode, pictures};
use crate::trace::trace;

const BOTH: [Semantics; 2] = [Semantics::Torchtune, Semantics::Meta];

/// 17 tokens a tile: a picture of four tiles fills no tile of a kernel.
fn config() -> EncoderConfig {
    EncoderConfig {
        num_heads: 2,
        clip_embed_dim: 96,
        clip_num_layers: 2,
        clip_hidden_states: vec![1, 2],
        num_layers_projection: 1,
        decoder_embed_dim: 40,
        tile_size: 56,
        ..demo_config()
    }
}

/// Sequences of more than one group of queries: 260 rows for four tiles.
fn long() -> EncoderConfig {
    EncoderConfig { clip_num_layers: 1, clip_hidden_states: vec![0], tile_size: 112, ..config() }
}

#[derive(Clone)]
struct Choice {
    semantics: Semantics,
    dtype: Dtype,
    kernels: Kernels,
    gpus: Vec<usize>,
    max_batch_tiles: usize,
}

impl Choice {
    fn of(semantics: Semantics) -> Self {
        Self { semantics, dtype: Dtype::Bf16, kernels: fused_kernels(), gpus: vec![0], max_batch_tiles: 64 }
    }

    fn builder(&self, config: &EncoderConfig) -> EncoderBuilder {
        Encoder::builder()
            .checkpoint(RandomWeights::new(config, Dtype::Bf16, 5).unwrap().in_memory())
            .config(config.clone())
            .semantics(self.semantics)
            .device(Device::Cuda(self.gpus.clone()))
            .dtype(self.dtype)
            .kernels(self.kernels)
            .max_batch_tiles(self.max_batch_tiles)
    }

    fn encoder(&self, config: &EncoderConfig) -> Encoder {
        self.builder(config).build().unwrap()
    }
}

#[test]
fn alone_is_in_a_batch() {
    for semantics in BOTH {
        for dtype in [Dtype::Bf16, Dtype::F16] {
            let choice = Choice { dtype, ..Choice::of(semantics) };
            let pictures = pictures(&config());
            let expected = alone(&mut choice.encoder(&config()), &pictures);
            assert!(expected[0] != expected[3], "two pictures of one size are told apart");
            for max_batch_tiles in [0, 1, 5, 64] {
                let mut encoder = Choice { max_batch_tiles, ..choice.clone() }.encoder(&config());
                let what = format!("{semantics}, {dtype}, {max_batch_tiles} tiles together");
                assert_same_bits(&what, &encode(&mut encoder, &pictures), &expected);
            }
        }
    }
}

#[test]
fn every_run_is_the_last_whatever_ran_between() {
    let pictures = pictures(&config());
    for &kernels in kernel_sets() {
        let mut encoder = Choice { kernels, ..Choice::of(Semantics::Meta) }.encoder(&config());
        let first = encode(&mut encoder, &pictures);
        // Other batches in between leave other values in the arena, and other shapes other graphs.
        alone(&mut encoder, &pictures[1..4]);
        assert_same_bits("the second run", &encode(&mut encoder, &pictures), &first);
        let again = Choice { kernels, ..Choice::of(Semantics::Meta) }.encoder(&config());
        let mut again = again;
        assert_same_bits("another encoder", &encode(&mut again, &pictures), &first);
    }
}

/// What is measured at the start decides over times, and over no bit.
#[test]
fn measured_tilings_give_the_same_bits() {
    let pictures = &pictures(&config())[..2];
    let choice = Choice { max_batch_tiles: 2, ..Choice::of(Semantics::Torchtune) };
    let encoder = |tune: Tune| choice.builder(&config()).tune(tune).build().unwrap();
    let expected = encode(&mut encoder(Tune::Never), pictures);
    assert_same_bits("measured", &encode(&mut encoder(Tune::Always), pictures), &expected);
    let Some(folder) = std::env::var_os("TILESIGHT_CACHE_DIR") else { return };
    let files = std::fs::read_dir(folder).unwrap().map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap());
    assert!(files.into_iter().any(|text| text.contains(" fc1 ")), "nothing was kept of what was measured");
}

#[test]
fn long_sequences_are_batched_the_same() {
    for semantics in BOTH {
        let pictures = &pictures(&long())[..3];
        let mut encoder = Choice::of(semantics).encoder(&long());
        let expected = alone(&mut encoder, pictures);
        let backwards: Vec<Tiles> = pictures.iter().rev().cloned().collect();
        let mut found = encode(&mut encoder, &backwards);
        found.reverse();
        assert_same_bits(&format!("{semantics}, backwards"), &found, &expected);
    }
}

#[test]
fn several_gpus_share_the_batches() {
    let pictures = pictures(&config());
    let choice = Choice { max_batch_tiles: 2, ..Choice::of(Semantics::Torchtune) };
    let expected = encode(&mut choice.encoder(&config()), &pictures);
    let mut both = Choice { gpus: vec![1, 0], ..choice.clone() }.encoder(&config());
    assert_same_bits("two GPUs", &encode(&mut both, &pictures), &expected);
    assert!(both.device().contains("cuda:1") && both.device().contains("cuda:0"), "{}", both.device());
}

#[test]
fn what_an_observer_sees_ends_in_what_the_graph_gives() {
    let pictures = &pictures(&config())[..3];
    let choice = Choice::of(Semantics::Meta);
    let expected = encode(&mut choice.encoder(&config()), pictures);
    let mut encoder = choice.encoder(&config());
    let trace = trace(&mut encoder);
    assert_same_bits("step by step", &encode(&mut encoder, pictures), &expected);
    let trace = trace.lock().unwrap();
    let plan = trace.plan.as_ref().unwrap();
    assert_eq!(trace.steps.len(), plan.steps.len());
    for (name, values) in &trace.steps {
        assert!(values.iter().all(|x| x.is_finite()), "{name} left something unwritten");
    }
    assert_eq!(trace.steps["projection"], expected.concat());
}

#[test]
fn an_observer_may_use_another_gpu() {
    let picture = &pictures(&config())[..1];
    for &kernels in kernel_sets() {
        let choice = Choice { kernels, ..Choice::of(Semantics::Torchtune) };
        let mut encoder = choice.encoder(&config());
        let expected = encode(&mut encoder, picture);
        let mut other = Choice { gpus: vec![1], ..choice }.encoder(&config());
        let other_picture = picture.to_vec();
        encoder.observe(move |_| {
            other.encode_tiles(&other_picture).unwrap();
        });
        assert_same_bits("beside another GPU", &encode(&mut encoder, picture), &expected);
    }
}

/// Models and batches at the edges of what there may be: against the CPU, whose answers are held against torch's.
#[test]
fn the_oddest_models_agree_with_the_cpu() {
    let models = [
        (
            "no layers",
            EncoderConfig { clip_num_layers: 0, num_layers_projection: 0, clip_hidden_states: vec![], ..config() },
        ),
        ("no gated layers", EncoderConfig { num_layers_projection: 0, clip_hidden_states: vec![0, 2], ..config() }),
        ("no hidden states", EncoderConfig { clip_hidden_states: vec![], ..config() }),
        ("one tile", EncoderConfig { max_num_tiles: 1, ..config() }),
        ("heads of one channel", EncoderConfig { num_heads: 3, clip_embed_dim: 3, decoder_embed_dim: 1, ..config() }),
        ("one patch", EncoderConfig { tile_size: 20, in_channels: 1, ..config() }),
    ];
    for (name, config) in models {
        for semantics in BOTH {
            // In torchtune's semantics copies of a padding tile that lie apart, read and computed once each.
            let num_tiles = if semantics == Semantics::Meta { config.max_num_tiles } else { 7 };
            let tile = |number: u64| noise(config.tile_len(), number);
            let pixels: Vec<f32> = [0, 1, 2, 1, 3, 2, 4][..num_tiles].iter().flat_map(|number| tile(*number)).collect();
            let shape = [1, 1, num_tiles, config.in_channels, config.tile_size, config.tile_size];
            let pixels = Pixels { images: &pixels, shape, aspect_ratio: Some(&[[1, 1]]) };
            let choice = Choice { max_batch_tiles: 1, ..Choice::of(semantics) };
            let expected = choice
                .builder(&config)
                .device(Device::Cpu)
                .dtype(Dtype::F32)
                .kernels(Kernels::Auto)
                .build()
                .unwrap()
                .encode_pixels(&pixels);
            let expected: Vec<f64> = expected.unwrap().embeddings.into_iter().map(f64::from).collect();
            for &kernels in kernel_sets() {
                let mut encoder = Choice { kernels, ..choice.clone() }.encoder(&config);
                let found = encoder.encode_pixels(&pixels).unwrap();
                let error = difference(&found.embeddings, &expected).frobenius;
                println!("{name}, {semantics}, {kernels:?}: {error:.2e}");
                assert!(error < 0.01, "{name}, {semantics}, {kernels:?}: {error:.2e}");
            }
        }
    }
}

#[test]
fn an_image_beyond_the_budget_of_tiles_finds_room() {
    let config = config();
    let pixels = noise(4 * config.tile_len(), 3);
    let shape = [1, 1, 4, 3, config.tile_size, config.tile_size];
    let run = |encoder: &mut Encoder| {
        encoder.encode_pixels(&Pixels { images: &pixels, shape, aspect_ratio: Some(&[[1, 2]]) }).unwrap().embeddings
    };
    let small = pictures(&config)[0].clone();
    for semantics in BOTH {
        let expected = run(&mut Choice::of(semantics).encoder(&config));
        let mut encoder = Choice { max_batch_tiles: 1, ..Choice::of(semantics) }.encoder(&config);
        let before = encode(&mut encoder, std::slice::from_ref(&small));
        assert_same_bits("beyond the budget", &[run(&mut encoder)], &[expected]);
        assert_same_bits("after it", &encode(&mut encoder, std::slice::from_ref(&small)), &before);
    }
}

/// Whole-context calls of one encoder would spoil what another one records.
#[test]
fn encoders_come_and_go_beside_one_that_records() {
    let pictures = pictures(&config());
    let choice = Choice::of(Semantics::Torchtune);
    let expected = alone(&mut choice.encoder(&config()), &pictures);
    let coming_and_going = std::thread::spawn({
        let choice = choice.clone();
        move || (0..4).for_each(|_| drop(choice.encoder(&config())))
    });
    while !coming_and_going.is_finished() {
        // A new encoder knows no shape, and records each.
        assert_same_bits("beside others", &alone(&mut choice.encoder(&config()), &pictures), &expected);
    }
    coming_and_going.join().unwrap();
}
