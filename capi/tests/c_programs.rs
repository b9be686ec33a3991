//! Programs in C, compiled against the header and run: what a caller gets is what the engine gives, and no misuse that can
//! be told ends the process. Each is linked with the shared library and with the static one, and run under
//! AddressSanitizer.

mod building;

use std::path::Path;
use std::process::Command;

use building::{Link, compile, golden, text};
use engine::image::{Image, Limits};
use engine::{Device, Encoder};

#[test]
fn the_example_writes_the_engines_embeddings() {
    let (model, picture) = (golden("hf_tiny"), golden("hf_tiny/image0.png"));
    // The example takes a GPU where there is one.
    let mut encoder = Encoder::builder().model(&model).device(Device::Auto).build().unwrap();
    let image = Image::decode(&std::fs::read(&picture).unwrap(), &Limits::default()).unwrap();
    let expected = encoder.encode(&[image]).unwrap().embeddings;
    for link in [Link::Shared, Link::Static] {
        let folder = tempfile::tempdir().unwrap();
        let program = compile("examples/encode.c", link, folder.path(), &[]);
        let out = folder.path().join("embeddings");
        let output = Command::new(&program).arg(&model).arg(&picture).arg(&out).output().unwrap();
        assert!(output.status.success(), "{link:?}: {}", text(&output));
        assert!(text(&output).contains("1 tiles down and 3 across, 15 embeddings of 32 values"), "{}", text(&output));
        let bytes = std::fs::read(&out).unwrap();
        let values: Vec<f32> = bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        assert!(values == expected, "{link:?}");
        let output = Command::new(&program).arg("/nowhere").arg(&picture).arg(&out).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output).starts_with("open: checkpoint: /nowhere"), "{}", text(&output));
    }
}

#[test]
fn misuse_is_refused_and_nothing_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let program = compile("tests/programs/misuse.c", Link::Shared, folder.path(), &[]);
    let output = Command::new(program).arg(golden("hf_tiny")).arg(golden("hf_tiny/image0.png")).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
}

#[test]
fn children_of_fork_are_refused_and_wait_for_nothing() {
    for link in [Link::Shared, Link::Static] {
        let folder = tempfile::tempdir().unwrap();
        let program = compile("tests/programs/fork.c", link, folder.path(), &[]);
        let output = Command::new(program).arg(golden("hf_tiny")).arg(golden("hf_tiny/image0.png")).output().unwrap();
        assert!(output.status.success(), "{link:?}: {}", text(&output));
    }
}

#[test]
fn a_model_that_is_rewritten_or_shortened_is_computed_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    copy_files(&golden("hf_tiny"), &model);
    let shards = (1..=3).map(|shard| model.join(format!("model-0000{shard}-of-00003.safetensors")));
    let program = compile("tests/programs/rewrite.c", Link::Shared, folder.path(), &[]);
    let output = Command::new(program).arg(&model).arg(golden("hf_tiny/image0.png")).args(shards).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
}

fn copy_files(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}
