//! What becomes of a checkpoint's files once it has been loaded: nothing of it reaches the encoder.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tilesight::checkpoint::{Checkpoint, PositionTables, VisionWeights};
use tilesight::error::CheckpointError;
use tilesight::{Encoder, Pixels};

use crate::checkpoints::{self, assert_matches, config, folder, refusal};
use crate::noise::noise;
use crate::on_cpu::on_cpu;

/// A model in a file of its own.
fn model() -> (TempDir, PathBuf) {
    let folder = folder();
    let path = folder.path().join("model.safetensors");
    checkpoints::write(&checkpoints::tiny(), &path);
    (folder, path)
}

/// Other values of the same tensors, in the same file.
fn rewrite(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let data_start = 8 + u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
    // The sign of every element.
    bytes[data_start..].as_chunks_mut::<4>().0.iter_mut().for_each(|element| element[3] ^= 0x80);
    let mut file = OpenOptions::new().write(true).open(path).unwrap();
    file.write_all(&bytes).unwrap();
}

fn truncate(path: &Path) {
    OpenOptions::new().write(true).open(path).unwrap().set_len(100).unwrap();
}

fn embeddings(encoder: &mut Encoder) -> Vec<f32> {
    let images = noise(encoder.config().tile_len(), 5);
    let side = encoder.config().tile_size;
    let pixels = Pixels { images: &images, shape: [1, 1, 1, 3, side, side], aspect_ratio: Some(&[[1, 1]]) };
    encoder.encode_pixels(&pixels).unwrap().embeddings
}

#[test]
fn a_file_that_changes_changes_no_result_and_no_identity() {
    let (_folder, path) = model();
    let build = || on_cpu().model(&path).config(config()).build().unwrap();
    let mut before = build();
    let (expected, identity) = (embeddings(&mut before), before.identity());
    // Nobody has asked these two for an identity or an embedding while the file was what it was.
    let [mut rewritten, mut truncated] = [build(), build()];
    rewrite(&path);
    assert!(embeddings(&mut rewritten) == expected && rewritten.identity() == identity);
    let mut other = build();
    assert!(embeddings(&mut other) != expected && other.identity() != identity, "the file is another");
    truncate(&path);
    assert!(embeddings(&mut truncated) == expected && truncated.identity() == identity);
    assert!(embeddings(&mut before) == expected && before.identity() == identity);
}

#[test]
fn a_file_that_is_shortened_before_it_is_read_is_refused() {
    let (_folder, path) = model();
    let checkpoint = Checkpoint::open(&path).unwrap();
    truncate(&path);
    // Neither needs more than the headers, which have been read.
    VisionWeights::check(&checkpoint, &config()).unwrap();
    assert_eq!(checkpoint.summary().len(), checkpoints::tiny().len());
    assert_matches!(
        refusal(VisionWeights::load(&checkpoint, &config())),
        CheckpointError::Damaged { reason, .. } if reason.contains("shortened")
    );
    assert_matches!(refusal(PositionTables::load(&checkpoint, &config())), CheckpointError::Damaged { .. });
}

#[test]
fn position_tables_alone_are_those_of_the_weights() {
    let (_folder, path) = model();
    let checkpoint = Checkpoint::open(&path).unwrap();
    let alone = PositionTables::load(&checkpoint, &config()).unwrap().unwrap();
    let all = VisionWeights::load(&Checkpoint::open(&path).unwrap(), &config()).unwrap().tables.unwrap();
    for (alone, all) in
        [(&alone.pre_tile, &all.pre_tile), (&alone.global, &all.global), (&alone.post_tile, &all.post_tile)]
    {
        assert!(alone.bytes() == all.bytes() && alone.shape() == all.shape());
    }
    assert!(alone.gates == all.gates && alone.blocks == all.blocks);
}

#[test]
fn encoders_of_one_checkpoint_have_its_weights_once() {
    let (_folder, path) = model();
    let checkpoint = Checkpoint::open(&path).unwrap();
    let load = || VisionWeights::load(&checkpoint.clone(), &config()).unwrap();
    let place = |weights: &VisionWeights| weights.transformer[0].fc1.weight.bytes().as_ptr();
    let first = load();
    rewrite(&path);
    // What is in memory is not read again, and so both have the same bytes.
    let second = load();
    assert!(place(&first) == place(&second) && first.digest() == second.digest());
    let elsewhere = VisionWeights::load(&Checkpoint::open(&path).unwrap(), &config()).unwrap();
    assert!(place(&first) != place(&elsewhere) && first.digest() != elsewhere.digest());
    // Nor is it kept for nobody.
    drop((first, second));
    assert_eq!(load().digest(), elsewhere.digest());
}
