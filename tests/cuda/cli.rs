//! What the command line makes of a GPU: which kernels it plans, and that a benchmark launches what it names. Needs the
//! simulated device: `scripts/on-simulator cargo test --features cuda`.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};

use crate::golden_data::golden;

/// The program on a simulated device of this compute capability.
fn on_device(capability: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tilesight"));
    command.args(arguments).env("TILESIGHT_SIMULATOR_COMPUTE_CAPABILITY", capability);
    command
}

/// Standard output and error of a run that succeeds.
fn said(command: &mut Command) -> [String; 2] {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let said = [stdout, stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(status.success(), "{said:?}");
    said
}

#[test]
fn a_plan_has_the_kernels_that_an_encoder_would_take_and_says_why() {
    let plan = ["plan", "--preset", "11b", "--device", "cuda"];
    let planned = |command: &mut Command| {
        let json: serde_json::Value = serde_json::from_str(&said(command.arg("--json"))[0]).unwrap();
        json["target"]["form"].as_str().unwrap().to_string()
    };
    for (capability, form, reason) in [
        ("8.0", "portable", "portable kernels: cuda:0 is no Hopper"),
        ("9.0", "hopper", "hopper kernels: cuda:0 is a Hopper"),
    ] {
        let [stdout, _] = said(&mut on_device(capability, &plan));
        assert!(stdout.contains(reason), "{stdout}");
        assert!(stdout.contains(&format!("{form} 128x")), "{stdout}");
        assert_eq!(planned(&mut on_device(capability, &plan)), form);
        // Who names the kernels is told no reason.
        let [stdout, _] = said(on_device(capability, &plan).args(["--kernels", "portable"]));
        assert!(stdout.contains("portable 128x") && !stdout.contains("portable kernels:"), "{stdout}");
    }
    let without_driver = || {
        let mut command = on_device("9.0", &plan);
        command.env_remove("LD_LIBRARY_PATH");
        command
    };
    // A machine with a GPU has a driver beside the simulated one.
    if !Path::new("/proc/driver/nvidia/version").exists() {
        let [stdout, _] = said(&mut without_driver());
        assert!(stdout.contains("portable kernels: there is no driver here"), "{stdout}");
        assert_eq!(planned(&mut without_driver()), "portable");
    }
}

#[test]
fn a_benchmark_launches_every_tiling_it_names() {
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("kernels.json");
    let config = golden("small/config.json");
    let mut command = on_device("9.0", &["bench", "kernels", "--dry-run", "--kernels", "hopper", "--tiles", "4"]);
    command.args(["--batch", "2", "--config"]).arg(config).arg("--json").arg(&report);
    let [stdout, stderr] = said(command.env("TILESIGHT_SIMULATOR_REPORT", "1"));

    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
    let mut named: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for row in report["kernels"].as_array().unwrap() {
        if let Some(tiling) = row["tiling"].as_str() {
            named.entry(row["step"].as_str().unwrap()).or_default().push(tiling);
            assert!(stdout.contains(tiling), "{stdout}");
        }
        assert!(row["seconds"].is_null(), "a time from a simulated device: {row}");
    }
    let attention = ["192x112", "192x112 mixed", "192x112 always", "128x176", "128x176 mixed"];
    for stack in ["transformer", "global_transformer"] {
        assert_eq!(named[&*format!("{stack}.attention")], attention);
        for product in ["qkv", "out", "fc1", "fc2"] {
            assert_eq!(named[&*format!("{stack}.{product}")], ["128x256", "128x128"]);
        }
    }
    // Every layer, once in each variant: two of the transformer, one gated.
    let variants = ["80", "80_mixed", "80_always", "80_128x176", "80_128x176_mixed"];
    for kernel in variants.map(|variant| format!(" 3 of flash_attention_bf16_{variant}\n")) {
        assert!(stderr.contains(&kernel), "{kernel:?}: {stderr}");
    }
}

#[test]
fn every_scenario_and_a_profile_run_dry_on_gpus() {
    let folder = tempfile::tempdir().unwrap();
    let (model, report) = (golden("hf_tiny"), folder.path().join("report.json"));
    let pictures = ["image0.png", "image1.png"].map(|name| golden("hf_tiny").join(name));
    let command = |capability: &str, words: &[&str], devices: &str| {
        let mut command = on_device(capability, words);
        command.arg("--model").arg(&model).args(["--device", devices]).args(&pictures).arg("--json").arg(&report);
        command
    };
    let json = || -> serde_json::Value { serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap() };
    for capability in ["8.0", "9.0"] {
        let mut checksums = Vec::new();
        for scenario in ["single", "multi", "offline", "server"] {
            let devices = if scenario == "single" { "cuda:0" } else { "cuda:0,1" };
            let words = ["bench", "--dry-run", "--images-per-query", "5", "--scenario", scenario];
            said(&mut command(capability, &words, devices));
            let report = json();
            assert!(report["images"].as_u64().unwrap() >= 2 && report["p50"].is_null(), "{report:#}");
            assert!(report["device_bytes"][0].as_u64().unwrap() > 1 << 16, "{report:#}");
            assert_eq!(report["checksum_is_the_same_after"], true);
            checksums.push(report["checksum"].as_str().unwrap().to_string());
        }
        checksums.dedup();
        assert_eq!(checksums.len(), 1, "{capability}: whatever the scenario, the bits are the same");
        let [stdout, _] = said(&mut command(capability, &["profile", "--dry-run"], "cuda:0"));
        assert!(stdout.contains("transformer.attention") && !stdout.contains("TFLOP/s"), "{stdout}");
        assert_eq!(json()["timed"], false);
        // No time of a simulated device is given to anybody.
        for words in [&["bench"][..], &["profile"], &["bench", "--scenario", "server"]] {
            let output = command(capability, words, "cuda:0").output().unwrap();
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.code() == Some(1) && stderr.contains("no time of a simulated device"), "{stderr}");
        }
    }
}
