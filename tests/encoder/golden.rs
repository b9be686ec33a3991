//! Every stage and every output of every golden encoder, in both semantics, within float32's reach of float64.

use tilesight::Encoder;
use tilesight::plan::{Plan, Semantics, SequenceLayout, Stack};

use crate::closeness::{F32_LIMIT, assert_close};
use crate::difference::difference;
use crate::golden_cases::Case;
use crate::golden_data::golden;
use crate::golden_tensors::read;
use crate::on_cpu::on_cpu;
use crate::trace::{Trace, trace};

fn encoder(set: &str, semantics: Semantics, collapse: bool) -> Encoder {
    on_cpu().model(golden(set)).semantics(semantics).collapse(collapse).max_batch_tiles(64).threads(2).build().unwrap()
}

/// Where a golden stage is found: which step writes it, and in which rows.
fn stage(name: &str, plan: &Plan) -> Option<(String, Option<Stack>)> {
    let config = &plan.config;
    let after = |layer: usize| match layer {
        0 => "tile_position".to_string(),
        _ => format!("transformer.{}.fc2", layer - 1),
    };
    Some(match name.strip_prefix("mid.")? {
        "patch_embed" => ("patch_embedding".into(), None),
        "ln_pre" => ("tile_position".into(), Some(Stack::Transformer)),
        "post_tile" => ("tile_norm".into(), Some(Stack::GlobalTransformer)),
        "head" => {
            (format!("global_transformer.{}.fc2", config.num_layers_projection - 1), Some(Stack::GlobalTransformer))
        }
        hidden => {
            let state: usize = hidden.strip_prefix("hidden.")?.parse().ok()?;
            (after(config.clip_hidden_states[state] as usize), Some(Stack::Transformer))
        }
    })
}

/// The computed row that holds row `row` of tile `tile` of the reference, which keeps all of them.
fn computed_row(image: &SequenceLayout, stack: Option<Stack>, tokens: usize, tile: usize, row: usize) -> usize {
    let computed = image.output[tile];
    let Some(stack) = stack else { return computed * tokens + row };
    if row < tokens {
        return computed * tokens + row;
    }
    let alignment = image.tiles.len() * tokens;
    match stack {
        Stack::Transformer => alignment,
        Stack::GlobalTransformer => alignment + image.alignment[..computed].iter().map(|rows| rows.rows).sum::<usize>(),
    }
}

fn check_stages(set: &str, case: &Case, trace: &Trace) -> usize {
    let plan = trace.plan.as_ref().unwrap();
    let tokens = plan.config.num_tokens();
    let mut num_stages = 0;
    for (name, reference) in &case.tensors {
        let Some((step, stack)) = stage(name, plan) else { continue };
        let [images, tiles, rows, width] = reference.shape[..] else { panic!("{name}") };
        assert_eq!(images, plan.batch.images.len());
        let found = &trace.steps[&step];
        let mut result = Vec::new();
        let mut start = 0;
        for image in &plan.batch.images {
            for tile in 0..tiles {
                for row in 0..rows {
                    let per_tile = if stack.is_none() { plan.config.num_patches() } else { tokens };
                    let at = start + computed_row(image, stack, per_tile, tile, row);
                    result.extend_from_slice(&found[at * width..(at + 1) * width]);
                }
            }
            start += match stack {
                Some(stack) => image.rows(stack).len,
                None => image.tiles.len() * plan.config.num_patches(),
            };
        }
        assert_close(&format!("{set} {name}"), &result, &reference.values, F32_LIMIT);
        num_stages += 1;
    }
    num_stages
}

fn check(set: &str, file: &str, semantics: Semantics) -> usize {
    let case = Case::read(&golden(set).join(file));
    let mut num_stages = 0;
    for collapse in [true, false] {
        let mut encoder = encoder(set, semantics, collapse);
        let trace = trace(&mut encoder);
        let found = encoder.encode_pixels(&case.pixels()).unwrap();
        num_stages += check_stages(set, &case, &trace.lock().unwrap());
        let reference = &case.tensors["out_f64"];
        assert_eq!(found.shape.as_slice(), reference.shape);
        assert_close(&format!("{set}/{file}, collapse {collapse}"), &found.embeddings, &reference.values, F32_LIMIT);
    }
    num_stages
}

#[test]
fn torchtune_stage_by_stage() {
    let mut num_stages = 0;
    for set in ["tiny", "small", "one_tile", "bare", "wide", "deep_zero", "one_head"] {
        for file in ["case0.safetensors", "case1.safetensors"] {
            if golden(set).join(file).is_file() {
                num_stages += check(set, file, Semantics::Torchtune);
            }
        }
    }
    assert!(num_stages >= 40, "only {num_stages} stages were found to compare");
}

#[test]
fn meta_stage_by_stage() {
    let mut num_stages = 0;
    for set in ["tiny", "small", "wide", "bare", "deep_zero", "one_head"] {
        let files = (0..).map(|k| format!("meta{k}.safetensors")).take_while(|file| golden(set).join(file).is_file());
        let files: Vec<_> = files.collect();
        assert!(!files.is_empty(), "{set} has no case in Meta's semantics");
        for file in files {
            num_stages += check(set, &file, Semantics::Meta);
        }
    }
    assert!(num_stages >= 34, "only {num_stages} stages were found to compare");
}

#[test]
fn hugging_face_checkpoint_with_metas_rule() {
    let pixels = read(&golden("hf_tiny/expected_v5.safetensors"))["pixel_values"].clone();
    let expected = read(&golden("hf_tiny/expected_v4.safetensors"))["cross_attention_states"].clone();
    let exact = read(&golden("hf_tiny/expected_meta_f64.safetensors"));
    let shape = pixels.shape.clone().try_into().unwrap();
    let case = Case::new(pixels.f32(), shape, Some(vec![[1, 3], [1, 1]]));
    let mut encoder = on_cpu().model(golden("hf_tiny")).threads(2).build().unwrap();
    assert_eq!(encoder.semantics(), Semantics::Meta, "Hugging Face's names mean Meta's semantics");
    let found = encoder.encode_pixels(&case.pixels()).unwrap();
    assert_close("transformers 4.53.3", &found.embeddings, &expected.values, F32_LIMIT);
    let reference = exact.values().find(|t| t.values.len() == found.embeddings.len()).unwrap();
    assert_close("float64", &found.embeddings, &reference.values, F32_LIMIT);
}

#[test]
fn fine_tuned_tables_keep_what_they_say_of_padding() {
    assert!(check("hf_finetuned", "case.safetensors", Semantics::Meta) > 0);
}

/// The late rule of newer transformers is another function; it must not pass for ours.
#[test]
fn the_late_hidden_states_are_told_apart() {
    let pixels = read(&golden("hf_tiny/expected_v5.safetensors"))["pixel_values"].clone();
    let late = read(&golden("hf_tiny/expected_v5.safetensors"))["cross_attention_states"].clone();
    let shape = pixels.shape.clone().try_into().unwrap();
    let case = Case::new(pixels.f32(), shape, Some(vec![[1, 3], [1, 1]]));
    let mut encoder = on_cpu().model(golden("hf_tiny")).threads(2).build().unwrap();
    let found = encoder.encode_pixels(&case.pixels()).unwrap();
    assert!(difference(&found.embeddings, &late.values).max > 0.1);
    // Raised by one, our indices give the late rule's states.
    let mut config = encoder.config().clone();
    config.clip_hidden_states.iter_mut().for_each(|index| *index += 1);
    let mut encoder = on_cpu().model(golden("hf_tiny")).config(config).threads(2).build().unwrap();
    let found = encoder.encode_pixels(&case.pixels()).unwrap();
    assert_close("transformers 5.23.0", &found.embeddings, &late.values, F32_LIMIT);
}
