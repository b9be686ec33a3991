//! The command line as a contract: forms, files, exit codes, and what a person is told.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tilesight::Pixels;
use tilesight::image::{Image, Limits};

use crate::closeness::{F32_LIMIT, assert_close};
use crate::golden_data::golden;
use crate::golden_tensors::read;
use crate::on_cpu::on_cpu;

fn tilesight(arguments: &[&dyn AsRef<std::ffi::OsStr>]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tilesight"));
    let arguments: Vec<&std::ffi::OsStr> = arguments.iter().map(|argument| argument.as_ref()).collect();
    command.args(&arguments);
    // The values compared are the CPU's, also where there is a GPU.
    if arguments.first().is_some_and(|command| *command == "encode") && !arguments.iter().any(|a| *a == "--device") {
        command.args(["--device", "cpu"]);
    }
    command.output().unwrap()
}

#[track_caller]
fn succeeds(arguments: &[&dyn AsRef<std::ffi::OsStr>]) -> (String, String) {
    let output = tilesight(arguments);
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{stdout}{stderr}");
    (stdout, stderr)
}

#[track_caller]
fn fails(code: i32, says: &str, arguments: &[&dyn AsRef<std::ffi::OsStr>]) {
    let output = tilesight(arguments);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(stderr.contains(says), "{stderr:?} does not say {says:?}");
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// The metadata and dtypes of a safetensors file.
fn header(path: &Path) -> (std::collections::HashMap<String, String>, serde_json::Value) {
    let bytes = std::fs::read(path).unwrap();
    let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    (metadata.metadata().clone().unwrap(), serde_json::from_slice(&bytes[8..8 + len]).unwrap())
}

fn pictures() -> [PathBuf; 2] {
    ["image0.png", "image1.png"].map(|name| golden("hf_tiny").join(name))
}

#[test]
fn pictures_to_safetensors() {
    let folder = folder();
    let out = folder.path().join("out.safetensors");
    let [a, b] = pictures();
    let (stdout, stderr) = succeeds(&[&"encode", &"--model", &golden("hf_tiny"), &a, &b, &"--output", &out]);
    assert!(stderr.contains("semantics: meta"), "{stderr}");
    assert!(stdout.contains("image0.png") && stdout.contains("3x1"), "{stdout}");
    let tensors = read(&out);
    assert_eq!(tensors["num_tiles"].i64(), [3, 1]);
    assert_eq!(tensors["aspect_ratio"].i64(), [1, 3, 1, 1]);
    assert_eq!(tensors["embeddings"].shape, [4 * 5, 32]);
    let encoder = on_cpu().model(golden("hf_tiny")).build().unwrap();
    let content_hash = |picture: &PathBuf| {
        let image = Image::decode(&std::fs::read(picture).unwrap(), &Limits::default()).unwrap();
        *encoder.identity().content_hash(&image.digest(), Some(encoder.preprocessor().unwrap())).as_bytes()
    };
    let file = std::fs::read(&out).unwrap();
    assert!(file.ends_with(&[content_hash(&a), content_hash(&b)].concat()));
    let (metadata, header) = header(&out);
    assert_eq!(metadata["semantics"], "meta");
    assert_eq!(header["content_hash"]["shape"], serde_json::json!([2, 32]));
    for (name, dtype) in [("embeddings", "F32"), ("num_tiles", "I64"), ("aspect_ratio", "I64")] {
        assert_eq!(header[name]["dtype"], dtype);
    }
    // transformers 4 made its own pixels of the same files, with Pillow; the rows are those of the real tiles.
    let v4 = read(&golden("hf_tiny/expected_v4.safetensors"));
    let values = v4["pixel_values"].f32();
    let pixels = Pixels { images: &values, shape: [2, 1, 4, 3, 28, 28], aspect_ratio: Some(&[[1, 3], [1, 1]]) };
    let mut encoder = on_cpu().model(golden("hf_tiny")).build().unwrap();
    let all = encoder.encode_pixels(&pixels).unwrap().embeddings;
    let tile = 5 * 32;
    let real: Vec<f64> = [&all[..3 * tile], &all[4 * tile..5 * tile]].concat().iter().map(|x| f64::from(*x)).collect();
    assert_close("embeddings", &tensors["embeddings"].f32(), &real, 1e-7);
}

#[test]
fn npy_holds_the_same_embeddings() {
    let folder = folder();
    let (npy, tensors) = (folder.path().join("out.npy"), folder.path().join("out.safetensors"));
    let [a, b] = pictures();
    succeeds(&[&"encode", &"--model", &golden("hf_tiny"), &a, &b, &"-o", &npy]);
    succeeds(&[&"encode", &"--model", &golden("hf_tiny"), &a, &b, &"-o", &tensors]);
    let bytes = std::fs::read(&npy).unwrap();
    assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
    let len = usize::from(u16::from_le_bytes(bytes[8..10].try_into().unwrap()));
    assert_eq!((10 + len) % 64, 0, "values start on 64 bytes");
    let header = text(&bytes[10..10 + len]);
    assert_eq!(header.trim_end(), "{'descr': '<f4', 'fortran_order': False, 'shape': (20, 32,), }");
    let values: Vec<f32> = bytes[10 + len..].as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    assert_eq!(values, read(&tensors)["embeddings"].f32());
}

#[test]
fn pixels_as_torchtunes_forward_takes_them() {
    let folder = folder();
    let out = folder.path().join("out.safetensors");
    for (file, semantics) in [("case1", "torchtune"), ("meta0", "meta")] {
        let case = golden("tiny").join(format!("{file}.safetensors"));
        succeeds(&[
            &"encode",
            &"--model",
            &golden("tiny"),
            &"--semantics",
            &semantics,
            &"--pixels",
            &case,
            &"--output",
            &out,
        ]);
        let (found, expected) = (read(&out)["embeddings"].clone(), read(&case)["out_f64"].clone());
        assert_eq!(found.shape, expected.shape);
        assert_close(file, &found.f32(), &expected.values, F32_LIMIT);
        assert_eq!(header(&out).0["semantics"], semantics);
    }
}

#[test]
fn tiles_are_the_references() {
    let folder = folder();
    let out = folder.path().join("tiles.safetensors");
    let [a, b] = pictures();
    succeeds(&[&"tiles", &"--model", &golden("hf_tiny"), &"--preprocess", &"torchtune", &a, &b, &"--output", &out]);
    let (found, expected) = (read(&out), read(&golden("hf_tiny/expected_torchtune.safetensors")));
    for image in ["image0", "image1"] {
        assert_eq!(found[&format!("{image}.pixels")].shape, expected[&format!("{image}.f32")].shape);
        assert_eq!(found[&format!("{image}.pixels")].values, expected[&format!("{image}.f32")].values);
        assert_eq!(found[&format!("{image}.aspect_ratio")].values, expected[&format!("{image}.aspect_ratio")].values);
    }
    assert_eq!(header(&out).1["image0.aspect_ratio"]["dtype"], "I64");
    succeeds(&[&"tiles", &"--model", &golden("hf_tiny"), &"--preprocess", &"pil", &a, &b, &"--output", &out]);
    let (found, expected) = (read(&out), read(&golden("hf_tiny/expected_v4.safetensors")));
    let image0 = &found["image0.pixels"].values;
    assert_eq!(image0[..], expected["pixel_values"].values[..image0.len()]);
}

#[test]
fn without_a_model_the_demo_runs_and_says_so() {
    let [a, _] = pictures();
    let (stdout, stderr) = succeeds(&[&"encode", &a]);
    assert!(stderr.contains("random weights"), "{stderr}");
    assert!(stdout.contains("[257, 512]"), "{stdout}");
}

#[test]
fn random_checkpoints_load_in_both_layouts() {
    let folder = folder();
    let mut outputs = Vec::new();
    for layout in ["torchtune", "huggingface"] {
        let model = folder.path().join(layout);
        let (stdout, _) = succeeds(&[
            &"random",
            &"--config",
            &golden("tiny/config.json"),
            &"--layout",
            &layout,
            &"--seed",
            &"5",
            &"--output",
            &model,
        ]);
        assert!(stdout.contains("random weights"), "{stdout}");
        let (stdout, _) = succeeds(&[&"inspect", &"--model", &model, &"--json"]);
        let json: serde_json::Value = serde_json::from_str(&stdout).unwrap();
        assert_eq!(json["loads"], true);
        assert_eq!(json["config"]["clip_embed_dim"], 160);
        let out = folder.path().join(format!("{layout}.safetensors"));
        let case = golden("tiny/case1.safetensors");
        succeeds(&[&"encode", &"--model", &model, &"--semantics", &"torchtune", &"--pixels", &case, &"--output", &out]);
        outputs.push(read(&out)["embeddings"].values.clone());
    }
    assert_eq!(outputs[0], outputs[1], "a seed gives the same encoder in every layout");
}

#[test]
fn plan_and_inspect_print_tables_and_json() {
    let (stdout, _) = succeeds(&[&"plan", &"--preset", &"11b", &"--tiles", &"2x2"]);
    assert!(stdout.contains("205 steps, 18.884 TFLOP"), "{stdout}");
    let (stdout, _) = succeeds(&[&"plan", &"--preset", &"11b", &"--semantics", &"meta", &"--json"]);
    let plan: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(plan["steps"].as_array().unwrap().len(), 205);
    assert_eq!(plan["batch"]["images"][0]["transformer"]["len"], 3203);
    let (stdout, _) = succeeds(&[&"plan", &"--preset", &"11b", &"--tile-size", &"448", &"--tiles", &"2x2"]);
    assert!(stdout.contains("10.156 TFLOP"), "{stdout}");
    let (stdout, _) = succeeds(&[&"inspect", &"--model", &golden("hf_tiny"), &"--tensors"]);
    assert!(stdout.contains("Hugging Face") && stdout.contains("vision_model.class_embedding"), "{stdout}");
}

#[test]
fn repeats_are_reported_as_json() {
    let folder = folder();
    let report = folder.path().join("report.json");
    let case = golden("tiny/case0.safetensors");
    succeeds(&[&"encode", &"--model", &golden("tiny"), &"--pixels", &case, &"--repeat", &"3", &"--json", &report]);
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
    assert_eq!(report["seconds"].as_array().unwrap().len(), 3);
    assert!(!cfg!(target_os = "linux") || report["peak_rss_bytes"].as_u64().unwrap() > 1 << 20);
}

/// A pipe can be read only once, and is asked for its picture's size, for the picture, and with `--repeat` for both again.
#[cfg(unix)]
#[test]
fn pictures_come_through_pipes() {
    let folder = folder();
    let [picture, _] = pictures();
    let (expected, found) = (folder.path().join("expected.npy"), folder.path().join("found.npy"));
    succeeds(&[&"encode", &"--model", &golden("hf_tiny"), &picture, &"--output", &expected]);
    for script in [
        r#"cat "$1" | "$0" encode --device cpu --model "$2" /dev/stdin --repeat 2 --output "$3""#,
        r#""$0" encode --device cpu --model "$2" <(cat "$1") --repeat 2 --output "$3""#,
    ] {
        let mut bash = Command::new("bash");
        bash.args(["-c", script, env!("CARGO_BIN_EXE_tilesight")]).arg(&picture).arg(golden("hf_tiny")).arg(&found);
        let output = bash.output().unwrap();
        assert!(output.status.success(), "{script}: {}", text(&output.stderr));
        assert!(std::fs::read(&found).unwrap() == std::fs::read(&expected).unwrap(), "{script}");
        std::fs::remove_file(&found).unwrap();
    }
}

/// Notes before a JPEG's size can be longer than what is read of a file at first.
#[test]
fn a_size_may_stand_far_into_a_file() {
    let folder = folder();
    let rocket = golden("images").join("rocket.jpg");
    let with_notes = folder.path().join("with_notes.jpg");
    let (expected, found) = (folder.path().join("expected.safetensors"), folder.path().join("found.safetensors"));
    let bytes = std::fs::read(&rocket).unwrap();
    let (start, rest) = bytes.split_at(2);
    let note = [&[0xff, 0xe1, 0xea, 0x60][..], &[b' '; 0xea60 - 2]].concat();
    std::fs::write(&with_notes, [start, &note.repeat(4), rest].concat()).unwrap();
    succeeds(&[&"tiles", &rocket, &"--output", &expected]);
    succeeds(&[&"tiles", &with_notes, &"--output", &found]);
    assert!(std::fs::read(&found).unwrap() == std::fs::read(&expected).unwrap());
}

#[test]
fn usage_errors_are_2() {
    let [a, _] = pictures();
    fails(2, "Usage", &[]);
    fails(2, "unexpected argument", &[&"encode", &a, &"--no-such-option"]);
    fails(2, "required", &[&"encode"]);
    fails(2, ".safetensors or .npy", &[&"encode", &a, &"--output", &"out.txt"]);
    fails(2, "cannot be used with", &[&"encode", &a, &"--pixels", &"case.safetensors"]);
    fails(2, "cpu", &[&"encode", &a, &"--device", &"abacus"]);
    fails(2, "invalid value", &[&"encode", &a, &"--semantics", &"mine"]);
    fails(2, "across x down", &[&"plan", &"--preset", &"11b", &"--tiles", &"four"]);
}

#[test]
fn bad_data_is_1_and_is_named() {
    let folder = folder();
    let [a, _] = pictures();
    let broken = folder.path().join("broken.png");
    std::fs::write(&broken, &std::fs::read(&a).unwrap()[..200]).unwrap();
    fails(1, "broken.png", &[&"encode", &"--model", &golden("hf_tiny"), &a, &broken]);
    fails(1, "nowhere.jpg", &[&"encode", &"nowhere.jpg"]);
    fails(1, "no safetensors checkpoint", &[&"encode", &"--model", &folder.path(), &a]);
    fails(1, "nowhere.safetensors", &[&"encode", &"--pixels", &"nowhere.safetensors"]);
    fails(1, "model hub: owner/name", &[&"encode", &"--model", &"owner/name", &a]);
    fails(1, "no preset", &[&"random", &"--preset", &"12b", &"--output", &folder.path()]);
    fails(1, "f32", &[&"encode", &a, &"--dtype", &"bf16"]);
    fails(1, "bf16 or fp16", &[&"plan", &"--preset", &"11b", &"--device", &"cuda", &"--dtype", &"f32"]);
    fails(1, "computes in f32", &[&"check", &"--device", &"cpu", &"--dtype", &"bf16"]);
    fails(1, "only GPUs", &[&"check", &"--device", &"cpu", &"--only", &"kernels"]);
    fails(1, "aspect ratio", &[&"plan", &"--preset", &"11b", &"--tiles", &"5x1"]);
    let model = golden("tiny/model.safetensors");
    fails(1, "no tensor called images", &[&"encode", &"--model", &golden("tiny"), &"--pixels", &model]);
}

/// An output place that cannot be written is found before any work: the missing model is not even looked for.
#[test]
fn the_output_is_opened_first() {
    let folder = folder();
    let [a, _] = pictures();
    let nowhere = folder.path().join("no/such/folder/out.safetensors");
    fails(1, "no/such/folder", &[&"encode", &"--model", &"no-such-model", &a, &"--output", &nowhere]);
    let directory = folder.path().join("out.safetensors");
    std::fs::create_dir(&directory).unwrap();
    fails(1, "directory", &[&"encode", &"--model", &"no-such-model", &a, &"--output", &directory]);
}

/// A run that fails leaves what stood under the output's name, and nothing else.
#[test]
fn a_failed_run_loses_nothing() {
    let folder = folder();
    let [a, _] = pictures();
    let out = folder.path().join("out.safetensors");
    std::fs::write(&out, b"precious").unwrap();
    // The header is sound, so the damage shows only when the work has begun.
    let damaged = folder.path().join("damaged.png");
    let mut bytes = std::fs::read(&a).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    std::fs::write(&damaged, bytes).unwrap();
    fails(1, "damaged.png", &[&"encode", &"--model", &golden("hf_tiny"), &a, &damaged, &"--output", &out]);
    assert_eq!(std::fs::read(&out).unwrap(), b"precious");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "a partial file was left behind");
}

/// As other programs end whose reader has left: quietly, and with the status of SIGPIPE.
#[test]
fn a_reader_that_leaves_ends_a_command_quietly() {
    let rocket = pictures()[0].display().to_string();
    let folder = folder();
    let output = folder.path().join("out.safetensors").display().to_string();
    for arguments in [
        &["plan", "--preset", "11b", "--steps"][..],
        &["inspect", "--model", &golden("hf_tiny").display().to_string()],
        &["encode", "--device", "cpu", &rocket, "--output", &output],
        &["tiles", &rocket],
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tilesight"));
        let mut child = command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let ended = child.wait_with_output().unwrap();
        assert_eq!(ended.status.code(), Some(141), "{arguments:?}: {}", text(&ended.stderr));
        assert!(!text(&ended.stderr).contains("panick"), "{}", text(&ended.stderr));
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "a file is left");
}

#[test]
fn a_full_disk_under_standard_output_is_an_error() {
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let model = golden("hf_tiny");
    let ended = Command::new(env!("CARGO_BIN_EXE_tilesight"))
        .args(["inspect".as_ref(), "--model".as_ref(), model.as_os_str()])
        .stdout(full)
        .output()
        .unwrap();
    assert_eq!(ended.status.code(), Some(1));
    assert!(text(&ended.stderr).starts_with("error: standard output: "), "{}", text(&ended.stderr));
}

#[test]
fn a_signal_leaves_no_file() {
    let rocket = pictures()[0].display().to_string();
    for signal in ["INT", "TERM", "HUP", "QUIT", "KILL"] {
        let folder = folder();
        let [output, json] = ["out.safetensors", "out.json"].map(|name| folder.path().join(name).display().to_string());
        let mut child = Command::new(env!("CARGO_BIN_EXE_tilesight"))
            .args(["encode", "--device", "cpu", "--repeat", "1000000", "--output", &output, "--json", &json, &rocket])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // It encodes by now, with both files open.
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        lines.next().unwrap().unwrap();
        assert!(Command::new("kill").args(["-s", signal, &child.id().to_string()]).status().unwrap().success());
        assert!(!child.wait().unwrap().success());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "SIG{signal} leaves a file");
    }
}

#[test]
fn help_teaches() {
    let (stdout, _) = succeeds(&[&"encode", &"--help"]);
    for word in ["--pixels", "--semantics", "Examples", "meta"] {
        assert!(stdout.contains(word), "{stdout}");
    }
}
