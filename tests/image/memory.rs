//! A lack of memory is an error that says so, in every format, and ends nothing else: each picture is decoded by a process that
//! has little to spare.

use std::process::{Command, Output};

use tilesight::error::ErrorKind;
use tilesight::image::{Image, Limits};

use crate::golden_images::files_to_decode;
use crate::large;

/// What a process of this test is to decode.
const PICTURE: &str = "TILESIGHT_TEST_PICTURE";

/// The picture of this name: the largest of each format, and a lossy WebP, which is small.
fn file(name: &str) -> Vec<u8> {
    match name {
        "baseline JPEG" => large::jpeg(false),
        "progressive JPEG" => large::jpeg(true),
        "PNG" => large::png(png::ColorType::Rgba, png::BitDepth::Sixteen),
        "lossless WebP" => large::lossless_webp(),
        _ => files_to_decode().into_iter().find(|(file, _)| file == name).unwrap().1,
    }
}

#[test]
fn a_lack_of_memory_is_told_as_such() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["baseline JPEG", "progressive JPEG", "PNG", "lossless WebP", "lossy_rgba_17x33.webp"] {
        let path = folder.path().join("picture");
        std::fs::write(&path, file(name)).unwrap();
        let decode = |limit: &str| {
            let test = ["--exact", "memory::decoding_in_a_process_of_its_own", "--test-threads=1", "--nocapture"];
            let script = format!("ulimit -v {limit} && exec \"$0\" \"$@\"");
            let program = std::env::current_exe().unwrap();
            let mut command = Command::new("sh");
            // Without room for each thread's own allocations, which is taken where it is to be had.
            command.args(["-c", &script]).arg(program).args(test).env(PICTURE, &path).env("MALLOC_ARENA_MAX", "1");
            command.output().unwrap()
        };
        let found = said(&decode("unlimited"), "kilobytes");
        let kilobytes: u64 = found.parse().unwrap_or_else(|_| panic!("{name}: {found}"));
        let outcomes: Vec<String> =
            (4..100).step_by(8).map(|more| said(&decode(&(kilobytes + more * 1024).to_string()), "outcome")).collect();
        println!("{name}: {outcomes:?}");
        let enough = outcomes.iter().position(|outcome| outcome == "decoded").expect("memory is enough at last");
        assert!(outcomes[..enough].iter().all(|outcome| outcome == "out of memory"), "{name}: {outcomes:?}");
        assert!(outcomes[enough..].iter().all(|outcome| outcome == "decoded"), "{name}: {outcomes:?}");
        assert!(enough > 0 || name.starts_with("lossy"), "{name}: {outcomes:?}");
    }
}

/// What a process said of something, or all it said.
fn said(output: &Output, of: &str) -> String {
    let said = String::from_utf8_lossy(&output.stdout);
    let line = said.lines().find_map(|line| line.split_once(&format!("{of}: ")));
    line.map_or_else(|| format!("{output:?}"), |(_, what)| what.to_string())
}

/// Does nothing where it is run beside the others.
#[test]
fn decoding_in_a_process_of_its_own() {
    let Some(path) = std::env::var_os(PICTURE) else { return };
    let bytes = std::fs::read(path).unwrap();
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let kilobytes = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap();
    println!("kilobytes: {}", kilobytes.trim().trim_end_matches(" kB"));
    match Image::decode(&bytes, &Limits::default()) {
        Ok(_) => println!("outcome: decoded"),
        Err(e) if e.kind() == ErrorKind::OutOfMemory => println!("outcome: out of memory"),
        Err(e) => println!("outcome: {e}"),
    }
}
