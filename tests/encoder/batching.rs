//! A result depends on its image alone: not on the batch it was in, its place there, the tile budget, the number of
//! threads, the run, or what else runs beside it, to the bit. Computing equal rows once changes it by roundings only.

use tilesight::checkpoint::{RandomWeights, demo_config};
use tilesight::error::InputError;
use tilesight::plan::Semantics;
use tilesight::{Dtype, Encoder, EncoderConfig, Error};

use crate::closeness::{F32_LIMIT, assert_close};
use crate::golden_cases::Case;
use crate::noise::noise;
use crate::on_cpu::on_cpu;
use crate::ragged_tiles::{alone, assert_same_bits, encode, pictures};

const BOTH: [Semantics; 2] = [Semantics::Torchtune, Semantics::Meta];

/// Rows enough that matrix products are blocked and shared between threads: 65 a tile.
fn config() -> EncoderConfig {
    EncoderConfig {
        clip_num_layers: 2,
        clip_hidden_states: vec![1, 2],
        num_layers_projection: 1,
        tile_size: 112,
        ..demo_config()
    }
}

/// Sequences of several blocks of keys: 1028 rows for four tiles.
fn long() -> EncoderConfig {
    EncoderConfig { tile_size: 224, ..config() }
}

/// The published width, whose weight matrices are widened in several slabs.
fn wide() -> EncoderConfig {
    EncoderConfig {
        num_heads: 16,
        clip_embed_dim: 1280,
        clip_num_layers: 1,
        clip_hidden_states: vec![0],
        tile_size: 56,
        ..config()
    }
}

#[derive(Clone, Copy)]
struct Choice {
    semantics: Semantics,
    dtype: Dtype,
    threads: usize,
    max_batch_tiles: usize,
    collapse: bool,
}

impl Choice {
    fn of(semantics: Semantics) -> Self {
        Self { semantics, dtype: Dtype::Bf16, threads: 2, max_batch_tiles: 64, collapse: true }
    }

    fn encoder(self, config: &EncoderConfig) -> Encoder {
        on_cpu()
            .checkpoint(RandomWeights::new(config, self.dtype, 5).unwrap().in_memory())
            .config(config.clone())
            .semantics(self.semantics)
            .threads(self.threads)
            .max_batch_tiles(self.max_batch_tiles)
            .collapse(self.collapse)
            .build()
            .unwrap()
    }
}

#[test]
fn alone_is_in_a_batch() {
    for semantics in BOTH {
        for dtype in [Dtype::Bf16, Dtype::F32] {
            let choice = Choice { dtype, ..Choice::of(semantics) };
            let pictures = pictures(&config());
            let expected = alone(&mut choice.encoder(&config()), &pictures);
            assert!(expected[0] != expected[3], "two pictures of one size are told apart");
            for max_batch_tiles in [0, 1, 5, 64] {
                let mut encoder = Choice { max_batch_tiles, ..choice }.encoder(&config());
                let what = format!("{semantics}, {dtype}, {max_batch_tiles} tiles together");
                assert_same_bits(&what, &encode(&mut encoder, &pictures), &expected);
            }
        }
    }
}

#[test]
fn the_order_does_not_matter() {
    let pictures = pictures(&config());
    for semantics in BOTH {
        let mut encoder = Choice::of(semantics).encoder(&config());
        let expected = alone(&mut encoder, &pictures);
        for order in [[5, 4, 3, 2, 1, 0], [1, 3, 5, 0, 2, 4], [2, 0, 4, 1, 5, 3]] {
            let ordered = order.map(|k| pictures[k].clone());
            let mut found = vec![Vec::new(); pictures.len()];
            for (embeddings, k) in encode(&mut encoder, &ordered).into_iter().zip(order) {
                found[k] = embeddings;
            }
            assert_same_bits(&format!("{semantics}, {order:?}"), &found, &expected);
        }
    }
}

#[test]
fn pixel_tensors_are_batched_the_same() {
    let config = config();
    let image_len = 4 * config.tile_len();
    let ratios = [[2, 2], [1, 2], [1, 1], [3, 1]];
    let mut images = noise(4 * image_len, 9);
    // Padding tiles of zeros, which are collapsed, and in the last image one that is not.
    images[image_len + 2 * config.tile_len()..2 * image_len].fill(0.0);
    images[2 * image_len + config.tile_len()..3 * image_len].fill(0.0);
    for semantics in BOTH {
        for max_batch_tiles in [1, 6, 64] {
            let mut encoder = Choice { max_batch_tiles, ..Choice::of(semantics) }.encoder(&config);
            let mut run = |images: &[f32], b: usize, i: usize, ratios: &[[i64; 2]]| {
                let case = Case::new(images.to_vec(), [b, i, 4, 3, 112, 112], Some(ratios.to_vec()));
                encoder.encode_pixels(&case.pixels()).unwrap().embeddings
            };
            let one = |k: usize| (&images[k * image_len..(k + 1) * image_len], &ratios[k..=k]);
            let alone: Vec<f32> = (0..4).flat_map(|k| run(one(k).0, 1, 1, one(k).1)).collect();
            for (b, i) in [(1, 4), (4, 1), (2, 2)] {
                let batch = run(&images, b, i, &ratios);
                let what = format!("{semantics}, {b} samples of {i}, {max_batch_tiles} tiles together");
                assert_same_bits(&what, &[batch], std::slice::from_ref(&alone));
            }
        }
    }
}

#[test]
fn threads_are_bounded() {
    for threads in [1025, 100_000, usize::MAX] {
        let refused = on_cpu().demo().threads(threads).build().err().unwrap();
        assert!(matches!(refused, Error::Input(InputError::Unavailable { option: "threads", .. })), "{refused}");
    }
}

#[test]
fn threads_do_not_matter() {
    for config in [long(), wide()] {
        let pictures = &pictures(&config)[..3];
        for semantics in BOTH {
            let run = |threads| encode(&mut Choice { threads, ..Choice::of(semantics) }.encoder(&config), pictures);
            let expected = run(1);
            for threads in [2, 3] {
                let what = format!("width {}, {semantics}, {threads} threads", config.clip_embed_dim);
                assert_same_bits(&what, &run(threads), &expected);
            }
        }
    }
}

#[test]
fn long_sequences_and_the_published_width_are_batched_the_same() {
    for config in [long(), wide()] {
        let pictures = &pictures(&config)[..3];
        for semantics in BOTH {
            let mut encoder = Choice::of(semantics).encoder(&config);
            let expected = alone(&mut encoder, pictures);
            assert_same_bits(semantics.name(), &encode(&mut encoder, pictures), &expected);
        }
    }
}

#[test]
fn every_run_is_the_last() {
    let pictures = pictures(&config());
    let mut encoder = Choice::of(Semantics::Meta).encoder(&config());
    let expected = encode(&mut encoder, &pictures);
    for _ in 0..3 {
        // Another batch in between leaves other values in the arena.
        encode(&mut encoder, &pictures[1..3]);
        assert_same_bits("again", &encode(&mut encoder, &pictures), &expected);
    }
    assert_same_bits(
        "a new encoder",
        &encode(&mut Choice::of(Semantics::Meta).encoder(&config()), &pictures),
        &expected,
    );
}

#[test]
fn equal_rows_may_be_computed_once() {
    for config in [long(), wide()] {
        let pictures = &pictures(&config)[..3];
        for semantics in BOTH {
            let choice = Choice::of(semantics);
            let collapsed = encode(&mut choice.encoder(&config), pictures);
            let whole = encode(&mut Choice { collapse: false, ..choice }.encoder(&config), pictures);
            for (image, (collapsed, whole)) in collapsed.iter().zip(&whole).enumerate() {
                let reference: Vec<f64> = whole.iter().map(|x| f64::from(*x)).collect();
                assert_close(&format!("{semantics}, image {image}"), collapsed, &reference, F32_LIMIT);
            }
        }
    }
}

/// The same of pixel tensors, whose padding tiles come out too.
#[test]
fn equal_padding_tiles_come_out_equal() {
    let config = config();
    let tile_len = config.tile_len();
    let mut images = noise(4 * tile_len, 3);
    images[tile_len..].fill(0.25);
    let case = Case::new(images, [1, 1, 4, 3, 112, 112], Some(vec![[1, 1]]));
    for semantics in BOTH {
        let run = |collapse| {
            let mut encoder = Choice { collapse, ..Choice::of(semantics) }.encoder(&config);
            encoder.encode_pixels(&case.pixels()).unwrap().embeddings
        };
        let (collapsed, whole) = (run(true), run(false));
        let reference: Vec<f64> = whole.iter().map(|x| f64::from(*x)).collect();
        assert_close(semantics.name(), &collapsed, &reference, F32_LIMIT);
        let tiles: Vec<&[f32]> = collapsed.chunks_exact(collapsed.len() / 4).collect();
        assert!(tiles[1] == tiles[2] && tiles[2] == tiles[3] && tiles[0] != tiles[1]);
    }
}

#[test]
fn encoders_move_between_threads_and_run_side_by_side() {
    const fn is_send<T: Send>() {}
    const { is_send::<Encoder>() };
    let pictures = pictures(&config());
    let mut first = Choice::of(Semantics::Torchtune).encoder(&config());
    let mut second = Choice { threads: 1, ..Choice::of(Semantics::Meta) }.encoder(&config());
    let expected = [encode(&mut first, &pictures), encode(&mut second, &pictures)];
    let found = std::thread::scope(|scope| {
        let run = |mut encoder: Encoder| {
            let pictures = &pictures;
            scope.spawn(move || encode(&mut encoder, pictures))
        };
        [run(first), run(second)].map(|thread| thread.join().unwrap())
    });
    for (found, expected) in found.iter().zip(&expected) {
        assert_same_bits("side by side", found, expected);
    }
}
