//! Whatever is wrong with a checkpoint's files has an error of its own that names the file, and nothing panics.

use std::collections::BTreeMap;

use serde_json::json;
use tilesight::checkpoint::Checkpoint;
use tilesight::error::CheckpointError;

use crate::checkpoints::{
    Stored, Weights, assert_matches, folder, raw, read_weights, refusal, refused_to_open, tiny, write, write_index,
    write_raw, write_shards,
};
use crate::golden_data::golden;
use crate::on_cpu::on_cpu;

const BIAS: &str = "clip.ln_pre.bias";
const WEIGHT: &str = "clip.ln_pre.weight";

#[test]
fn nothing_there() {
    let folder = folder();
    for path in [folder.path().to_path_buf(), folder.path().join("absent"), folder.path().join("absent.pth")] {
        assert_matches!(refused_to_open(&path), CheckpointError::NotFound { path: named } if named == path);
    }
    std::fs::write(folder.path().join("config.json"), "{}").unwrap();
    assert_matches!(refused_to_open(folder.path()), CheckpointError::NotFound { .. });
}

#[test]
fn pickles_are_never_read() {
    let folder = folder();
    for name in ["consolidated.00.pth", "pytorch_model.bin", "weights.pt"] {
        let path = folder.path().join(name);
        std::fs::write(&path, "any bytes").unwrap();
        for asked in [path.as_path(), folder.path()] {
            let refusal = refused_to_open(asked);
            assert_matches!(&refusal, CheckpointError::Pickle { path: named } if *named == path);
            let message = refusal.to_string();
            for part in ["python -c", "weights_only=True", "save_file", path.to_str().unwrap()] {
                assert!(message.contains(part), "{part} is not in: {message}");
            }
        }
        std::fs::remove_file(&path).unwrap();
    }
}

#[test]
fn weights_without_a_configuration() {
    let folder = folder();
    let path = folder.path().join("model.safetensors");
    write(&tiny(), &path);
    for asked in [path.as_path(), folder.path()] {
        let refusal = refusal(on_cpu().model(asked).build().map(|_| ()));
        assert_matches!(refusal, CheckpointError::NoConfig { path: named } if named == folder.path());
    }
}

/// A header of f32 tensors: name, shape, start and end.
fn header(tensors: &[(&str, &[u64], u64, u64)]) -> String {
    let line = |&(name, shape, start, end): &(&str, &[u64], u64, u64)| {
        (name.to_string(), json!({ "dtype": "F32", "shape": shape, "data_offsets": [start, end] }))
    };
    serde_json::Value::Object(tensors.iter().map(line).collect()).to_string()
}

/// Files whose header cannot be had.
fn without_a_header() -> Vec<(&'static str, Vec<u8>)> {
    let with_length = |len: u64, rest: &[u8]| [&len.to_le_bytes(), rest].concat();
    vec![
        ("nothing", vec![]),
        ("less than a length", vec![0; 7]),
        ("a length alone", with_length(8, b"")),
        ("a length of zero", vec![0; 64]),
        ("a header longer than the file", with_length(1000, b"{}")),
        ("a header of 2^64 - 1 bytes", with_length(u64::MAX, b"{}")),
        ("a header beyond the limit", with_length(100_000_001, &[b' '; 64])),
        ("a text file", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n".to_vec()),
        ("a header that is no JSON", raw("{\"clip.ln_pre.bias\"", &[0; 8])),
        ("a header that is no object", raw("[1, 2]", &[])),
        ("a header that is not UTF-8", with_length(4, b"{\"\xff\"}")),
        ("a header nested deep", raw(&"[".repeat(100_000), &[])),
        ("a negative dimension", raw(&header(&[(BIAS, &[2], 0, 8)]).replace("[2]", "[-2]"), &[0; 8])),
        ("an unknown element type", raw(&header(&[(BIAS, &[2], 0, 8)]).replace("F32", "F31"), &[0; 8])),
        ("a missing field", raw(&header(&[(BIAS, &[2], 0, 8)]).replace("shape", "form"), &[0; 8])),
    ]
}

/// Files whose header and data disagree.
fn with_wrong_offsets() -> Vec<(&'static str, Vec<u8>)> {
    // Eight of them end 8 bytes short of 2^64, to which the header's own length is added.
    let eighth = (1 << 61) - 1;
    let names: Vec<String> = (0..8).map(|k| format!("t{k}")).collect();
    let shape = [eighth];
    let all: Vec<_> =
        names.iter().zip(0..).map(|(name, k)| (&**name, &shape[..], k * eighth, (k + 1) * eighth)).collect();
    let file = |tensors: &[(&str, &[u64], u64, u64)], len: usize| raw(&header(tensors), &vec![0; len]);
    vec![
        ("data cut short", file(&[(BIAS, &[2], 0, 8)], 7)),
        ("no data", file(&[(BIAS, &[2], 0, 8)], 0)),
        ("data too long", file(&[(BIAS, &[2], 0, 8)], 9)),
        ("overlapping tensors", file(&[(BIAS, &[2], 0, 8), (WEIGHT, &[2], 4, 12)], 12)),
        ("a hole between tensors", file(&[(BIAS, &[2], 0, 8), (WEIGHT, &[2], 12, 20)], 20)),
        ("a hole before the first", file(&[(BIAS, &[2], 4, 12)], 12)),
        ("offsets beyond the file", file(&[(BIAS, &[200], 0, 800)], 8)),
        ("offsets in reverse", file(&[(BIAS, &[2], 8, 0)], 8)),
        ("offsets that do not fit the shape", file(&[(BIAS, &[3], 0, 8)], 8)),
        ("a shape beyond 2^64", file(&[(BIAS, &[1 << 40, 1 << 40], 0, 8)], 8)),
        ("tensors of 2^64 bytes in all", raw(&header(&all).replace("F32", "U8"), &[0; 8])),
    ]
}

#[test]
fn files_that_are_no_safetensors() {
    let folder = folder();
    let path = folder.path().join("model.safetensors");
    std::fs::write(&path, raw(&header(&[(BIAS, &[2], 0, 8)]), &[0; 8])).unwrap();
    assert!(Checkpoint::open(&path).is_ok(), "the sound one opens");
    for (what, bytes) in without_a_header().into_iter().chain(with_wrong_offsets()) {
        std::fs::write(&path, bytes).unwrap();
        let refusal = refused_to_open(&path);
        println!("{what}: {refusal}");
        assert_matches!(refusal, CheckpointError::Damaged { path: named, .. } if named == path);
    }
}

/// Every length a broken download could have.
#[test]
fn a_file_cut_anywhere() {
    let folder = folder();
    let path = folder.path().join("model.safetensors");
    let whole = std::fs::read(golden("one_head/model.safetensors")).unwrap();
    for len in (0..200).chain((200..whole.len()).step_by(509)) {
        std::fs::write(&path, &whole[..len]).unwrap();
        assert_matches!(refused_to_open(&path), CheckpointError::Damaged { .. });
    }
}

#[test]
fn tensors_of_another_model() {
    let folder = folder();
    let path = folder.path().join("model.safetensors");
    let text: Weights = ["language_model.lm_head.weight", "model.layers.0.input_layernorm.weight", "weight"]
        .map(|name| (name.to_string(), Stored::of_f32(&[1.0], &[1])))
        .into();
    write(&text, &path);
    assert_matches!(refused_to_open(&path), CheckpointError::NotAnEncoder { num_tensors: 3, .. });
    write_raw("{}", &[], &path);
    assert_matches!(refused_to_open(&path), CheckpointError::NotAnEncoder { num_tensors: 0, .. });
    std::fs::remove_file(&path).unwrap();
    write_shards(&text, 2, |number| number % 2, folder.path());
    assert_matches!(refused_to_open(folder.path()), CheckpointError::NotAnEncoder { num_tensors: 3, .. });
}

#[test]
fn a_broken_index() {
    let folder = folder();
    let index = folder.path().join("model.safetensors.index.json");
    for text in ["", "{", "[]", "{}", "{\"weight_map\": []}", "{\"weight_map\": {\"clip.ln_pre.bias\": 3}}"] {
        std::fs::write(&index, text).unwrap();
        assert_matches!(refused_to_open(folder.path()), CheckpointError::Index { path, .. } if path == index);
    }
}

#[test]
fn an_index_that_names_files_elsewhere() {
    let outer = folder();
    let folder = outer.path().join("checkpoint");
    std::fs::create_dir(&folder).unwrap();
    write(&tiny(), &outer.path().join("model.safetensors"));
    let absolute = outer.path().join("model.safetensors").display().to_string();
    for name in ["../model.safetensors", &absolute, "sub/model.safetensors", "./model.safetensors", "..", ".", "", "/"]
    {
        let map: BTreeMap<String, &str> = tiny().into_keys().map(|tensor| (tensor, name)).collect();
        write_index(&map, &folder);
        let refusal = refused_to_open(&folder);
        assert_matches!(&refusal, CheckpointError::Index { reason, .. } if reason.contains("not a file name"));
        assert!(refusal.to_string().contains(name), "{refusal}");
    }
}

#[test]
fn an_index_and_its_shards_disagree() {
    let folder = folder();
    let shard = |k: usize| folder.path().join(format!("model-{k:05}-of-00002.safetensors"));
    write_shards(&tiny(), 2, |number| number % 2, folder.path());
    let mut second = read_weights(&shard(2));
    let (name, _) = second.pop_first().unwrap();
    write(&second, &shard(2));
    let refusal = refused_to_open(folder.path());
    assert_matches!(&refusal, CheckpointError::Index { reason, .. } if reason.contains(&name));
    std::fs::remove_file(shard(2)).unwrap();
    let refusal = refused_to_open(folder.path());
    assert_matches!(&refusal, CheckpointError::Index { reason, .. } if reason.contains("model-00002-of-00002"));
    std::fs::create_dir(shard(2)).unwrap();
    assert_matches!(refused_to_open(folder.path()), CheckpointError::Index { .. });
}
