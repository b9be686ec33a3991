//! Programs in C on the simulated device, with a context, streams and memory of their own: `tilesight_enqueue_*` gives the
//! bits of the calls for the host, in the order of the streams, and refuses what cannot be used. Needs the simulated device:
//! `scripts/on-simulator --devices 2 cargo test -p tilesight-capi --features cuda --test cuda_programs`.

mod building;

use std::path::{Path, PathBuf};
use std::process::Command;

use building::{Link, compile, golden, text};
use engine::image::{Image, Limits};
use engine::{Device, Encoder};

/// The folder of the driver that these tests run on.
fn driver() -> PathBuf {
    let path = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let mut folders = std::env::split_paths(&path);
    folders.find(|folder| folder.join("libcuda.so").exists()).expect("the simulated device: scripts/on-simulator")
}

/// What a program that calls the driver is compiled with; `cuda.h` is the toolchain's.
fn with_driver() -> Vec<String> {
    let headers = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/toolchain/nvidia/cu13/include");
    vec![format!("-I{}", headers.display()), format!("-L{}", driver().display()), "-lcuda".to_string()]
}

#[test]
fn a_programs_own_stream_and_memory_are_handed_over() {
    let folder = tempfile::tempdir().unwrap();
    let program = compile("tests/programs/enqueue.c", Link::Shared, folder.path(), &with_driver());
    // The device's choices of order follow from a seed; a wait that is missing shows under some.
    for seed in ["0", "1", "2"] {
        let mut command = Command::new(&program);
        command.arg(golden("hf_tiny")).arg(golden("hf_tiny/image0.png"));
        let output = command.env("TILESIGHT_SIMULATOR_SEED", seed).output().unwrap();
        assert!(output.status.success(), "seed {seed}: {}", text(&output));
    }
}

#[test]
fn the_example_writes_what_the_engine_gives_on_a_gpu() {
    let (model, picture) = (golden("hf_tiny"), golden("hf_tiny/image0.png"));
    let mut encoder = Encoder::builder().model(&model).device(Device::Cuda(vec![0])).build().unwrap();
    let image = Image::decode(&std::fs::read(&picture).unwrap(), &Limits::default()).unwrap();
    let expected = encoder.precision().activations.narrowed(&encoder.encode(&[image]).unwrap().embeddings);
    let folder = tempfile::tempdir().unwrap();
    let program = compile("examples/enqueue.c", Link::Shared, folder.path(), &with_driver());
    let out = folder.path().join("embeddings");
    let output = Command::new(&program).arg(&model).arg(&picture).arg(&out).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("1 tiles down and 3 across, 15 embeddings of 32 values"), "{}", text(&output));
    assert!(std::fs::read(&out).unwrap() == expected);
    let output = Command::new(&program).arg("/nowhere").arg(&picture).arg(&out).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("open: checkpoint: /nowhere"), "{}", text(&output));
}
