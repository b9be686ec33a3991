//! Every file that a fuzz target was given to start from, or once failed on, passes; and so do files that are nearly such a
//! file. `TILESIGHT_MUTANTS` says how many of those each target tries.

#[path = "../../fuzz/targets.rs"]
mod targets;

use std::path::Path;

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{RngCore, SeedableRng};

#[test]
fn every_file_of_every_corpus_passes() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (name, target) in targets::TARGETS {
        let mut num_files = 0;
        for entry in std::fs::read_dir(corpus.join(name)).unwrap() {
            let path = entry.unwrap().path();
            println!("{}", path.display());
            target(&std::fs::read(&path).unwrap());
            num_files += 1;
        }
        assert!(num_files > 0, "no files for {name}");
    }
}

#[test]
fn every_fuzz_program_has_its_corpus_replayed() {
    let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/fuzz_targets");
    let mut programs: Vec<String> = std::fs::read_dir(programs)
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    programs.sort();
    // What needs a feature is replayed where that is.
    programs.retain(|name| cfg!(feature = "serve") || !name.starts_with("infer_"));
    let mut replayed: Vec<String> = targets::TARGETS.iter().map(|(name, _)| name.to_string()).collect();
    replayed.sort();
    assert_eq!(programs, replayed);
}

#[test]
fn every_mutant_of_a_corpus_passes() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let count = std::env::var("TILESIGHT_MUTANTS").map_or(2000, |count| count.parse().unwrap());
    for (name, target) in targets::TARGETS {
        let mut paths: Vec<_> =
            std::fs::read_dir(corpus.join(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        let files: Vec<Vec<u8>> = paths.iter().map(|path| std::fs::read(path).unwrap()).collect();
        for seed in 0..count {
            let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
            let bytes = mutant(&files, &mut random);
            // A failure prints the seed alone: with it the mutant is made again.
            let passed = std::panic::catch_unwind(|| target(&bytes)).is_ok();
            assert!(passed, "target {name}, mutant {seed}");
        }
    }
}

/// A file with a few of its bytes changed, cut out, doubled, or replaced by another file's.
fn mutant(files: &[Vec<u8>], random: &mut Xoshiro256PlusPlus) -> Vec<u8> {
    let mut draw = |below: usize| (random.next_u64() % below.max(1) as u64) as usize;
    let mut bytes = files[draw(files.len())].clone();
    for _ in 0..=draw(6) {
        let (start, len) = (draw(bytes.len() + 1), draw(16));
        let end = (start + len).min(bytes.len());
        match draw(6) {
            0 if start < bytes.len() => bytes[start] ^= 1 << draw(8),
            1 => bytes[start..end].fill([0, 0x7f, 0x80, 0xff][draw(4)]),
            2 => drop(bytes.drain(start..end)),
            3 => {
                let piece = bytes[start..end].to_vec();
                bytes.splice(start..start, piece);
            }
            4 => {
                let other = &files[draw(files.len())];
                let from = draw(other.len());
                let piece = other[from..(from + len).min(other.len())].to_vec();
                bytes.splice(start..end, piece);
            }
            _ => bytes.truncate(start),
        }
    }
    bytes
}
