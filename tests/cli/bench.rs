//! `tilesight bench` and `tilesight profile` as their users meet them. Times are looked at for sense, not for speed.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use sha2::{Digest, Sha256};
use tilesight::image::{Image, Limits};
use tilesight::{Device, Encoder};

use crate::golden_data::golden;

fn tilesight(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tilesight")).args(arguments).output().unwrap()
}

#[track_caller]
fn succeeds(arguments: &[&str]) -> String {
    let output = tilesight(arguments);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

#[track_caller]
fn fails(code: i32, says: &str, arguments: &[&str]) {
    let output = tilesight(arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(stderr.contains(says), "{stderr:?} does not say {says:?}");
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn model() -> String {
    path(&golden("hf_tiny")).to_string()
}

fn pictures() -> [String; 2] {
    ["image0.png", "image1.png"].map(|name| path(&golden("hf_tiny").join(name)).to_string())
}

/// The report of a run on the golden model and pictures.
fn bench(folder: &Path, more: &[&str]) -> Value {
    let (model, pictures, report) = (model(), pictures(), folder.join("report.json"));
    let first = ["bench", "--model", &model, "--device", "cpu", &pictures[0], &pictures[1], "--json", path(&report)];
    succeeds(&[&first[..], more].concat());
    json(&report)
}

/// SHA-256 over the pieces' of 256 KiB, then over what several pictures have.
fn checksum_of(pictures: &[String]) -> String {
    let mut encoder = Encoder::builder().model(model()).device(Device::Cpu).build().unwrap();
    let digests: Vec<[u8; 32]> = pictures
        .iter()
        .map(|picture| {
            let image = Image::decode(&std::fs::read(picture).unwrap(), &Limits::default()).unwrap();
            let embeddings = encoder.encode(&[image]).unwrap().embeddings;
            let bytes: Vec<u8> = embeddings.iter().flat_map(|x| x.to_le_bytes()).collect();
            let pieces: Vec<u8> = bytes.chunks(1 << 18).flat_map(Sha256::digest).collect();
            Sha256::digest(pieces).into()
        })
        .collect();
    let mut all = Sha256::new();
    for field in std::iter::once("several".as_bytes()).chain(digests.iter().map(|digest| &digest[..])) {
        all.update((field.len() as u64).to_le_bytes());
        all.update(field);
    }
    all.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn every_scenario_says_how_fast_it_was_and_encodes_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let expected = checksum_of(&pictures());
    for (scenario, more) in [
        ("single", &[][..]),
        ("multi", &["--images-per-query", "3"]),
        ("offline", &[]),
        ("server", &["--rate", "20", "--max-delay", "5"]),
    ] {
        let report = bench(folder.path(), &[&["--scenario", scenario, "--duration", "0.5"], more].concat());
        let number = |key: &str| report[key].as_f64().unwrap_or_else(|| panic!("{scenario}: no {key}"));
        assert_eq!(report["scenario"], scenario);
        assert_eq!(report["checksum"], *expected, "{scenario}");
        assert_eq!(report["checksum_is_the_same_after"], true);
        let (images, tiles, seconds) = (number("images"), number("tiles"), number("seconds"));
        assert!(images > 0.0 && tiles >= images && seconds > 0.0, "{report:#}");
        assert!((number("images_per_second") - images / seconds).abs() < 1e-6 * images, "{report:#}");
        assert!((number("tiles_per_second") - tiles / seconds).abs() < 1e-6 * tiles, "{report:#}");
        assert!(0.0 < number("p50") && number("p50") <= number("p90") && number("p90") <= number("p99"));
        assert!(number("flops_per_second") > 0.0 && number("percent_of_peak") > 0.0);
        // Every image was in one batch.
        let batches = report["batches"].as_array().unwrap();
        let in_batches: u64 =
            batches.iter().map(|kind| kind["images"].as_u64().unwrap() * kind["count"].as_u64().unwrap()).sum();
        assert_eq!(in_batches as f64, images, "{scenario}");
        // Stages of a query are parts of its time; those of the CPU do not overlap.
        let stages = report["stages"].as_object().unwrap();
        let known: f64 = stages.values().map(|stage| stage["mean"].as_f64().unwrap()).sum();
        let prepared: f64 = ["decode", "preprocess"].map(|name| stages[name]["mean"].as_f64().unwrap()).iter().sum();
        let allowed = report["latency"]["mean"].as_f64().unwrap() + if scenario == "offline" { prepared } else { 0.0 };
        assert!(known <= allowed * 1.001, "{scenario}: {known} of {allowed}");
        assert!(stages["compute"]["mean"].as_f64().unwrap() > 0.0);
        assert_eq!(stages.contains_key("queue"), scenario == "server");
        assert_eq!(report["samples"].as_array().unwrap().len() as u64, report["queries"].as_u64().unwrap());
        let steps = report["steps"].as_array().unwrap();
        assert!(steps.iter().any(|step| step["step"] == "transformer.attention" && step["seconds"]["median"].is_f64()));
        assert!(report["environment"]["cores"].as_u64().unwrap() > 0);
    }
}

#[test]
fn arrivals_by_chance_keep_their_rate_and_wait_where_they_are_too_many() {
    let folder = tempfile::tempdir().unwrap();
    let report = bench(folder.path(), &["--scenario", "server", "--rate", "40", "--duration", "2", "--seed", "3"]);
    // 80 are expected, with a deviation of 9.
    let came = report["queries"].as_u64().unwrap() + report["refused"].as_u64().unwrap();
    assert!((50..110).contains(&came), "{came}");
    let again = bench(folder.path(), &["--scenario", "server", "--rate", "40", "--duration", "2", "--seed", "3"]);
    let came_again = again["queries"].as_u64().unwrap() + again["refused"].as_u64().unwrap();
    assert_eq!(came, came_again, "the same seed has the same moments");
    // More than anybody can do: what has no room is counted, and waiting shows.
    let report = bench(folder.path(), &["--scenario", "server", "--rate", "20000", "--duration", "0.2"]);
    assert!(report["refused"].as_u64().unwrap() > 0);
    assert!(report["stages"]["queue"]["p99"].as_f64().unwrap() > report["stages"]["compute"]["p50"].as_f64().unwrap());
}

#[test]
fn the_highest_rate_within_a_bound_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let report = bench(folder.path(), &["--scenario", "server", "--bound", "60000", "--duration", "0.3"]);
    assert!(report["rate"].as_f64().unwrap() > 0.0);
    assert!(report["p99"].as_f64().unwrap() <= 60.0);
}

#[test]
fn a_page_and_a_comparison_are_whole() {
    let folder = tempfile::tempdir().unwrap();
    let [page, report] = ["page.html", "report.json"].map(|name| folder.path().join(name));
    bench(folder.path(), &["--duration", "0.5"]);
    let (model, pictures) = (model(), pictures());
    let text = succeeds(&[
        "bench",
        "--model",
        &model,
        "--device",
        "cpu",
        &pictures[0],
        &pictures[1],
        "--duration",
        "0.5",
        "--compare",
        path(&report),
        "--report",
        path(&page),
    ]);
    for words in ["beside", "images_per_second", "now / earlier", "the embeddings are the same"] {
        assert!(text.contains(words), "{text} does not say {words:?}");
    }
    let page = std::fs::read_to_string(page).unwrap();
    for name in ["Latency", "Where the time goes", "Timeline", "Roofline", "Batches"] {
        assert!(page.contains(&format!("<h2>{name}</h2>")), "{name}");
    }
    assert_eq!((page.matches("<svg").count(), page.matches("</svg>").count()), (5, 5));
    assert!(
        !page.contains("http") && !page.contains("NaN") && !page.contains("inf\""),
        "the page needs nothing beside it"
    );
    assert!(page.contains("transformer.attention"));
}

#[test]
fn a_dry_run_times_nothing() {
    let folder = tempfile::tempdir().unwrap();
    for scenario in ["single", "multi", "offline", "server"] {
        let report = bench(folder.path(), &["--scenario", scenario, "--dry-run"]);
        assert_eq!(report["timed"], false);
        for key in ["seconds", "images_per_second", "p50", "p99", "latency", "samples", "peak", "steps"] {
            assert!(report[key].is_null(), "{scenario}: {key}");
        }
        assert_eq!(report["checksum"], *checksum_of(&pictures()));
    }
}

#[test]
fn noise_takes_turns_of_the_grids() {
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report.json");
    let model = model();
    succeeds(&[
        "bench",
        "--model",
        &model,
        "--device",
        "cpu",
        "--tiles",
        "1x1,2x2",
        "--duration",
        "0.2",
        "--json",
        path(&report),
    ]);
    let report = json(&report);
    let inputs = report["inputs"].as_array().unwrap();
    let ratios: Vec<&Value> = inputs.iter().map(|input| &input["aspect_ratio"]).collect();
    assert_eq!(ratios.len(), 6);
    assert!(ratios.iter().step_by(2).all(|ratio| **ratio == serde_json::json!([1, 1])));
    assert!(report["stages"].get("decode").is_none(), "tiles that are there are not decoded");
}

#[test]
fn a_profile_accounts_for_every_step() {
    let folder = tempfile::tempdir().unwrap();
    let [report, trace] = ["profile.json", "trace.json"].map(|name| folder.path().join(name));
    let (model, pictures) = (model(), pictures());
    let text = succeeds(&[
        "profile",
        "--model",
        &model,
        "--device",
        "cpu",
        &pictures[0],
        &pictures[1],
        "--rounds",
        "3",
        "--json",
        path(&report),
        "--trace",
        path(&trace),
    ]);
    assert!(text.contains("transformer.attention") && text.contains("% of roofline"), "{text}");
    let (report, trace) = (json(&report), json(&trace));
    let steps = report["steps"].as_array().unwrap();
    let num_steps: u64 = steps.iter().map(|step| step["times"].as_u64().unwrap()).sum();
    let rounds = report["rounds"].as_array().unwrap();
    assert_eq!(rounds.len(), 3);
    for round in rounds {
        let spans = round.as_array().unwrap();
        assert_eq!(spans.len() as u64, num_steps);
        let ends = spans.iter().map(|span| span["start"].as_f64().unwrap() + span["seconds"].as_f64().unwrap());
        assert!(ends.collect::<Vec<_>>().is_sorted(), "steps follow one another");
    }
    let medians: Vec<f64> = steps.iter().map(|step| step["seconds"]["median"].as_f64().unwrap()).collect();
    assert!(medians.is_sorted_by(|a, b| a >= b), "the longest first");
    let events = trace["traceEvents"].as_array().unwrap();
    assert_eq!(events.iter().filter(|event| event["ph"] == "X").count() as u64, 3 * num_steps);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (model, no_report) = (model(), folder.path().join("no.json"));
    std::fs::write(&no_report, "{\"a\": 1}").unwrap();
    fails(2, "above 0", &["bench", "--duration", "0"]);
    fails(2, "above 0", &["bench", "--scenario", "server", "--rate", "NaN"]);
    fails(2, "cannot be used with", &["bench", "--dry-run", "--report", "x.html"]);
    fails(2, "cannot be used with", &["bench", "--rate", "1", "--bound", "2"]);
    fails(2, "across x down", &["bench", "--tiles", "2"]);
    fails(1, "No such file", &["bench", "--device", "cpu", "absent.png"]);
    fails(1, "no report", &["bench", "--compare", path(&no_report)]);
    fails(1, "aspect ratio", &["bench", "--model", &model, "--device", "cpu", "--tiles", "9x9"]);
    fails(1, "No such file", &["bench", "--json", "/absent/report.json"]);
}
