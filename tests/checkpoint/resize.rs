//! Position tables saved for other tiles are resized as torchtune's loader does it, and tables that have no grid are
//! refused.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::Dtype;
use serde_json::Value;
use tilesight::checkpoint::{Checkpoint, TokenPositions, VisionWeights};
use tilesight::error::CheckpointError;
use tilesight::{EncoderConfig, Error};

use crate::checkpoints;
use crate::checkpoints::{Stored, Weights, read_weights, renamed, write};
use crate::closeness::{F32_LIMIT, assert_close};
use crate::difference::difference;
use crate::golden_cases::Case;
use crate::golden_data::golden;
use crate::golden_tensors::{Tensor, read};
use crate::on_cpu::on_cpu;

const LOCAL: &str = "clip.token_pos_embedding.local_token_positional_embedding";
const GLOBAL: &str = "clip.token_pos_embedding.global_token_positional_embedding";
const PRE_TILE: &str = "clip.pre_tile_pos_embed.embedding";
const POST_TILE: &str = "clip.post_tile_pos_embed.embedding";

/// An encoder that is little more than its tables: what the golden ones were resized in.
fn config(tables: &Value, width: usize) -> EncoderConfig {
    let size = |name: &str| tables[name].as_u64().unwrap() as usize;
    EncoderConfig {
        patch_size: 14,
        num_heads: 1,
        clip_embed_dim: width,
        clip_num_layers: 0,
        clip_hidden_states: vec![],
        num_layers_projection: 0,
        decoder_embed_dim: 1,
        tile_size: size("tile_size"),
        max_num_tiles: size("max_num_tiles"),
        in_channels: 1,
    }
}

/// `tables` and, of ones, whatever else an encoder of this width has.
fn encoder_with(tables: &Weights, width: usize) -> Weights {
    let one = |name: &str, shape: &[usize]| {
        (name.to_string(), Stored::of_f32(&vec![1.0; shape.iter().product()], shape).cast(Dtype::BF16))
    };
    let mut weights: Weights = [
        one("clip.conv.weight", &[width, 1, 14, 14]),
        one("clip.cls_token_embedding.weight", &[width]),
        one("clip.token_pos_embedding.gate", &[1]),
        one("clip.pre_tile_pos_embed.gate", &[1]),
        one("clip.post_tile_pos_embed.gate", &[1]),
        one("clip.ln_pre.weight", &[width]),
        one("clip.ln_pre.bias", &[width]),
        one("clip.ln_post.weight", &[width]),
        one("clip.ln_post.bias", &[width]),
        one("projection.output.weight", &[1, width]),
        one("projection.output.bias", &[1]),
    ]
    .into();
    weights.extend(tables.clone());
    weights
}

fn load(weights: &Weights, config: &EncoderConfig) -> tilesight::Result<VisionWeights> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    write(weights, &path);
    VisionWeights::load(&Checkpoint::open(&path)?, config)
}

/// The four tables as they were loaded.
fn loaded_tables(weights: &VisionWeights) -> BTreeMap<&'static str, Vec<f32>> {
    let TokenPositions::Gated { local } = &weights.token_positions else { panic!("no tables") };
    let tables = weights.tables.as_ref().unwrap();
    let [pre_tile, global, post_tile] = [&tables.pre_tile, &tables.global, &tables.post_tile].map(|t| t.to_f32());
    [(LOCAL, local.clone()), (GLOBAL, global), (PRE_TILE, pre_tile), (POST_TILE, post_tile)].into()
}

/// The resized tables of every golden pair, the file they came from, and what torchtune's own loading is off by.
fn golden_pairs(check: impl Fn(&Value, &BTreeMap<String, Tensor>, &Weights, &EncoderConfig)) -> usize {
    let folder = golden("resize");
    let report: Value = serde_json::from_str(&std::fs::read_to_string(folder.join("tables.json")).unwrap()).unwrap();
    let pairs = report["pairs"].as_array().unwrap();
    for pair in pairs {
        let file = folder.join(format!("{}.safetensors", pair["file"].as_str().unwrap()));
        let stored = read_weights(&file);
        let tables = stored.iter().filter_map(|(n, s)| Some((n.strip_prefix("in.")?.to_string(), s.clone()))).collect();
        let config = config(&pair["to"], pair["clip_embed_dim"].as_u64().unwrap() as usize);
        check(pair, &read(&file), &tables, &config);
    }
    pairs.len()
}

#[test]
fn tables_are_torchtunes() {
    let num_pairs = golden_pairs(|pair, expected, tables, config| {
        // Stored as f32, so that nothing is rounded after the interpolation.
        let wide: Weights = tables.iter().map(|(name, stored)| (name.clone(), stored.cast(Dtype::F32))).collect();
        let weights = load(&encoder_with(&wide, config.clip_embed_dim), config).unwrap();
        // torch computes source coordinates in f32, as we do; where that costs more than our limit it costs both.
        let own_error = pair["f32_vs_f64"].as_f64().unwrap();
        for (name, found) in loaded_tables(&weights) {
            let what = format!("{} {name}", pair["file"]);
            assert_close(&what, &found, &expected[&format!("out_f64.{name}")].values, F32_LIMIT.max(1.01 * own_error));
            assert_close(&what, &found, &expected[&format!("out.{name}")].values, F32_LIMIT);
        }
    });
    assert_eq!(num_pairs, 10);
}

/// Where torch interpolates in float32 and rounds once, ours are its bits; in the largest table it rounds on the way, and
/// ours are nearer to float64.
#[test]
fn bfloat16_tables_are_rounded_once() {
    let num_compared = std::cell::Cell::new(0);
    golden_pairs(|pair, expected, tables, config| {
        let Some(own_error) = pair.get("bf16_vs_f64").and_then(Value::as_f64) else { return };
        let weights = load(&encoder_with(tables, config.clip_embed_dim), config).unwrap();
        for (name, found) in loaded_tables(&weights) {
            let torch = expected[&format!("out_bf16.{name}")].f32();
            if pair["bf16_equal_to_rounded_f32"] == true {
                assert!(found == torch, "{} {name}", pair["file"]);
            }
            let exact = &expected[&format!("out_f64.{name}")].values;
            assert!(difference(&found, exact).max <= own_error, "{} {name}", pair["file"]);
            for (found, exact) in found.iter().zip(exact) {
                // Half a unit in the last of eight bits, and what float32 coordinates cost.
                let rounding = exact.abs() * f64::powi(2.0, -8) + 3e-5;
                assert!((f64::from(*found) - exact).abs() <= rounding, "{} {name}: {found} for {exact}", pair["file"]);
            }
            num_compared.set(num_compared.get() + 1);
        }
    });
    assert_eq!(num_compared.get(), 4 * 4);
}

#[test]
fn tables_that_fit_are_not_touched() {
    golden_pairs(|pair, _, tables, config| {
        if pair["from"] != pair["to"] {
            return;
        }
        let weights = load(&encoder_with(tables, config.clip_embed_dim), config).unwrap();
        for (name, found) in loaded_tables(&weights) {
            assert!(found == tables[name].f32(), "{name} was changed");
        }
    });
}

#[test]
fn the_whole_encoder_with_other_tiles() {
    let case = Case::read(&golden("resize/tiny/case0.safetensors"));
    let config = EncoderConfig::from_file(&golden("resize/tiny/config.json")).unwrap();
    let reference = &case.tensors["out_f64"].values;
    let run = |path: &Path| {
        let encoder = on_cpu().model(path).config(config.clone()).threads(1);
        encoder.semantics(tilesight::plan::Semantics::Torchtune).build().unwrap().encode_pixels(&case.pixels())
    };
    // The reference resized in float64; tables in the file's bf16 would be rounded once more.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let tiny = read_weights(&golden("tiny/model.safetensors"));
    let wide: Weights = tiny.iter().map(|(name, stored)| (name.clone(), stored.cast(Dtype::F32))).collect();
    write(&wide, &path);
    let expected = run(&path).unwrap().embeddings;
    assert_close("f32 tables", &expected, reference, F32_LIMIT);
    // Meta's tables have the same form.
    write(&checkpoints::to_meta(&wide), &path);
    assert!(run(&path).unwrap().embeddings == expected, "Meta's names");
    // As they are stored, in bf16, the resized tables are rounded to 2^-9 of their size, and the embeddings show it.
    let rounded = run(&golden("tiny")).unwrap().embeddings;
    let found = difference(&rounded, reference);
    assert!(found.max < 1e-2, "{found}");
}

#[test]
fn tables_without_a_grid_are_refused() {
    let tiny = read_weights(&golden("tiny/model.safetensors"));
    let config = EncoderConfig::from_file(&golden("tiny/config.json")).unwrap();
    let zeros = |shape: &[usize]| Stored::of_f32(&vec![0.0; shape.iter().product()], shape);
    let cases: [(&str, &[usize]); 8] = [
        (PRE_TILE, &[4, 3, 1, 160]),
        (POST_TILE, &[2, 4, 1, 160]),
        (GLOBAL, &[4, 3, 5, 160]),
        (PRE_TILE, &[0, 0, 1, 160]),
        (LOCAL, &[4, 160]),
        (LOCAL, &[1, 160]),
        (LOCAL, &[0, 160]),
        (GLOBAL, &[4, 4, 7, 160]),
    ];
    for (name, shape) in cases {
        let mut weights = tiny.clone();
        weights.insert(name.to_string(), zeros(shape));
        match load(&weights, &config) {
            Err(Error::Checkpoint(CheckpointError::Resize { tensor, reason })) => {
                assert_eq!(tensor, name);
                assert!(reason.contains("square"), "{reason}");
            }
            other => panic!("{name} {shape:?}: {other:?}"),
        }
    }
    // Under Meta's names the error speaks Meta's.
    let mut weights = checkpoints::to_meta(&tiny);
    let name = renamed(GLOBAL, checkpoints::Family::Meta);
    weights.insert(name.clone(), zeros(&[4, 4, 7, 160]));
    let refusal = load(&weights, &config);
    assert!(matches!(&refusal, Err(Error::Checkpoint(CheckpointError::Resize { tensor, .. })) if *tensor == name));
}

/// torchtune's hooks know neither Hugging Face's tables nor the model of one tile.
#[test]
fn what_torchtune_does_not_resize_must_fit() {
    let config = EncoderConfig::from_file(&golden("hf_tiny/config.json")).unwrap();
    for config in [EncoderConfig { tile_size: 42, ..config.clone() }, EncoderConfig { max_num_tiles: 3, ..config }] {
        let refusal = VisionWeights::load(&Checkpoint::open(&golden("hf_tiny")).unwrap(), &config);
        assert!(matches!(&refusal, Err(Error::Checkpoint(CheckpointError::Shape { .. }))), "{refusal:?}");
    }
    let config = EncoderConfig::from_file(&golden("one_tile/config.json")).unwrap();
    let config = EncoderConfig { tile_size: 28, ..config };
    let refusal = VisionWeights::load(&Checkpoint::open(&golden("one_tile")).unwrap(), &config);
    let Err(Error::Checkpoint(CheckpointError::Shape { tensor, .. })) = &refusal else { panic!("{refusal:?}") };
    assert_eq!(tensor, "clip.token_pos_embedding.positional_embedding");
}
