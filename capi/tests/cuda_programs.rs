//! A program in C on the simulated device, with a context, streams and memory of its own: `tilesight_enqueue_*` gives the
//! bits of the calls for the host, in the order of the streams, and refuses what cannot be used. Needs the simulated device:
//! `scripts/on-simulator --devices 2 cargo test -p tilesight-capi --features cuda --test cuda_programs`.

mod building;

use std::path::{Path, PathBuf};
use std::process::Command;

use building::{Link, compile, golden, text};

/// The folder of the driver that this test runs on.
fn driver() -> PathBuf {
    let path = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let mut folders = std::env::split_paths(&path);
    folders.find(|folder| folder.join("libcuda.so").exists()).expect("the simulated device: scripts/on-simulator")
}

/// Where `cuda.h` is.
fn headers() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/toolchain/nvidia/cu13/include")
}

#[test]
fn a_programs_own_stream_and_memory_are_handed_over() {
    let folder = tempfile::tempdir().unwrap();
    let with_driver = [format!("-I{}", headers().display()), format!("-L{}", driver().display()), "-lcuda".to_string()];
    let program = compile("tests/programs/enqueue.c", Link::Shared, folder.path(), &with_driver);
    // The device's choices of order follow from a seed; a wait that is missing shows under some.
    for seed in ["0", "1", "2"] {
        let mut command = Command::new(&program);
        command.arg(golden("hf_tiny")).arg(golden("hf_tiny/image0.png"));
        let output = command.env("TILESIGHT_SIMULATOR_SEED", seed).output().unwrap();
        assert!(output.status.success(), "seed {seed}: {}", text(&output));
    }
}
