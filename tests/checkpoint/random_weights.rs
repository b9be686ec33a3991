//! Random weights: one seed is one encoder in every layout, nothing in it is hidden behind a zero, and what is written
//! is read back as it was asked for.

use std::path::Path;
use std::sync::Mutex;

use safetensors::Dtype as StoredDtype;
use tempfile::TempDir;
use tilesight::checkpoint::{Checkpoint, NameFormat, RandomWeights, demo_config, expected_tensors};
use tilesight::plan::Semantics;
use tilesight::{Dtype, EncoderConfig};

use crate::checkpoints::{Family, Weights, read_weights, renamed, to_hugging_face, to_meta};
use crate::golden_cases::Case;
use crate::noise::noise;
use crate::on_cpu::on_cpu;

const FORMATS: [NameFormat; 3] = [NameFormat::Torchtune, NameFormat::Meta, NameFormat::HuggingFace];

/// A small encoder with every kind of tensor; T = 5 has grids that no other grid of T tiles covers.
fn config() -> EncoderConfig {
    EncoderConfig {
        patch_size: 4,
        num_heads: 3,
        clip_embed_dim: 48,
        clip_num_layers: 2,
        clip_hidden_states: vec![0, 2],
        num_layers_projection: 2,
        decoder_embed_dim: 40,
        tile_size: 18,
        max_num_tiles: 5,
        in_channels: 3,
    }
}

fn written(config: &EncoderConfig, dtype: Dtype, seed: u64, format: NameFormat) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    RandomWeights::new(config, dtype, seed).unwrap().write(folder.path(), format, &|_, _| {}).unwrap();
    folder
}

/// Three images of five tiles, in grids that share no cell but the first.
fn pixels() -> Case {
    let shape = [1, 3, 5, 3, 18, 18];
    Case::new(noise(shape.iter().product(), 0), shape, Some(vec![[2, 2], [1, 5], [5, 1]]))
}

fn embeddings(checkpoint: Checkpoint, semantics: Semantics) -> Vec<f32> {
    let encoder = on_cpu().checkpoint(checkpoint).config(config()).semantics(semantics).threads(1);
    encoder.build().unwrap().encode_pixels(&pixels().pixels()).unwrap().embeddings
}

#[test]
fn one_seed_is_one_encoder_in_every_layout() {
    for semantics in [Semantics::Torchtune, Semantics::Meta] {
        for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F16] {
            let recipe = RandomWeights::new(&config(), dtype, 7).unwrap();
            let expected = embeddings(recipe.in_memory(), semantics);
            for format in FORMATS {
                let folder = written(&config(), dtype, 7, format);
                let checkpoint = Checkpoint::open(folder.path()).unwrap();
                assert_eq!(checkpoint.format(), format);
                assert!(embeddings(checkpoint, semantics) == expected, "{format}, {dtype}, {semantics}");
            }
        }
    }
}

/// The layouts against the second writing-down of the names, tensor by tensor.
#[test]
fn the_layouts_hold_the_same_tensors() {
    let read = |format| read_weights(&written(&config(), Dtype::Bf16, 7, format).path().join("model.safetensors"));
    let torchtune = read(NameFormat::Torchtune);
    assert!(read(NameFormat::Meta) == to_meta(&torchtune));
    assert!(read(NameFormat::HuggingFace) == to_hugging_face(&torchtune, 5));
}

#[test]
fn seeds_differ_and_repeat() {
    let run =
        |seed| embeddings(RandomWeights::new(&config(), Dtype::Bf16, seed).unwrap().in_memory(), Semantics::Torchtune);
    let runs = [0, 1, 2, u64::MAX].map(run);
    for (a, first) in runs.iter().enumerate() {
        for second in &runs[a + 1..] {
            let equal = first.iter().zip(second).filter(|(a, b)| a == b).count();
            assert!(equal < first.len() / 100, "{equal} of {} embeddings are equal", first.len());
        }
    }
    assert!(run(1) == runs[1]);
}

/// torchtune's initial gates are zero, which would leave the tables and the head unseen.
#[test]
fn nothing_is_hidden_behind_a_zero() {
    let weights =
        read_weights(&written(&demo_config(), Dtype::F32, 0, NameFormat::Torchtune).path().join("model.safetensors"));
    for (name, stored) in &weights {
        let values = stored.f32();
        assert!(values.iter().all(|x| x.is_finite()), "{name}");
        let num_zero = values.iter().filter(|x| **x == 0.0).count();
        assert!(num_zero * 100 <= values.len(), "{num_zero} zeros in {name}");
        if stored.shape == [1] {
            assert!((0.3..=1.2).contains(&values[0].abs()), "gate {name} is {}", values[0]);
        }
    }
    let gates: Vec<f32> = weights.values().filter(|s| s.shape == [1]).map(|s| s.f32()[0]).collect();
    assert_eq!(gates.len(), 3 + 2 * 2);
    // Two tensors of one shape are not the same numbers.
    let [first, second] = [0, 1].map(|layer| &weights[&format!("clip.layers.{layer}.mlp.w1.weight")]);
    assert!(first != second);
}

#[test]
fn names_shapes_and_element_types_are_those_asked_for() {
    for (format, family) in FORMATS.into_iter().zip([None, Some(Family::Meta), Some(Family::HuggingFace)]) {
        let name = |tune: &str| family.map_or(tune.to_string(), |family| renamed(tune, family));
        for (dtype, stored_as) in
            [(Dtype::F32, StoredDtype::F32), (Dtype::Bf16, StoredDtype::BF16), (Dtype::F16, StoredDtype::F16)]
        {
            let weights: Weights = read_weights(&written(&config(), dtype, 3, format).path().join("model.safetensors"));
            let expected = expected_tensors(&config(), format);
            assert_eq!(weights.len(), expected.len());
            for tensor in expected {
                let found = &weights[&name(&tensor.name)];
                assert_eq!((&found.shape, found.dtype), (&tensor.shape, stored_as), "{}", tensor.name);
            }
        }
    }
}

#[test]
fn the_configuration_comes_back() {
    let one_tile = EncoderConfig { max_num_tiles: 1, clip_hidden_states: vec![], ..config() };
    for config in [config(), one_tile, demo_config(), EncoderConfig { clip_hidden_states: vec![2, 0], ..config() }] {
        for format in FORMATS {
            let folder = written(&config, Dtype::Bf16, 0, format);
            let read = EncoderConfig::from_file(&folder.path().join("config.json")).unwrap();
            assert_eq!(read, config.clone().validated().unwrap(), "{format}");
            let encoder = on_cpu().model(folder.path()).threads(1).build().unwrap();
            assert_eq!(*encoder.config(), read);
        }
    }
}

#[test]
fn progress_ends_at_the_whole() {
    let folder = tempfile::tempdir().unwrap();
    let seen = Mutex::new(Vec::new());
    let recipe = RandomWeights::new(&config(), Dtype::Bf16, 0).unwrap();
    let note = |written, all| seen.lock().unwrap().push((written, all));
    recipe.write(&folder.path().join("new/folder"), NameFormat::Torchtune, &note).unwrap();
    let seen = seen.into_inner().unwrap();
    let num_bytes: usize = expected_tensors(&config(), NameFormat::Torchtune)
        .iter()
        .map(|tensor| 2 * tensor.shape.iter().product::<usize>())
        .sum();
    assert_eq!(seen.last(), Some(&(num_bytes as u64, num_bytes as u64)));
    assert!(seen.is_sorted());
}

#[test]
fn whoever_may_read_the_configuration_may_read_the_weights() {
    let folder = written(&config(), Dtype::Bf16, 0, NameFormat::HuggingFace);
    let rights = |name: &str| std::fs::metadata(folder.path().join(name)).unwrap().permissions();
    assert_eq!(rights("model.safetensors"), rights("config.json"));
}

#[test]
fn a_place_that_cannot_be_written_is_an_io_error() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let recipe = RandomWeights::new(&config(), Dtype::Bf16, 0).unwrap();
    for place in [file.as_path(), &file.join("below"), Path::new("/proc/nowhere")] {
        let result = recipe.write(place, NameFormat::Torchtune, &|_, _| {});
        assert!(matches!(result, Err(tilesight::Error::Io { .. })), "{result:?}");
    }
}
