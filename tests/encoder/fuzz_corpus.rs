//! Every file that a fuzz target was given to start from, or once failed on, passes.

#[path = "../../fuzz/targets.rs"]
mod targets;

use std::path::Path;

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
