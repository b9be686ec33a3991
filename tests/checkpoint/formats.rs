//! The same weights are the same encoder, bit for bit, in every name family, layout, set of files and element type.

use std::path::Path;

use safetensors::Dtype;
use tilesight::checkpoint::{Checkpoint, NameFormat};
use tilesight::plan::Semantics;

use crate::checkpoints;
use crate::checkpoints::{
    Stored, Weights, config, folder, tiny, to_hugging_face, to_meta, to_ranks, with_names, write, write_shards,
};
use crate::closeness::{F32_LIMIT, assert_close};
use crate::golden_cases::Case;
use crate::golden_data::golden;
use crate::on_cpu::on_cpu;

/// The embeddings of a golden case of `tiny` from the weights at `path`.
fn embeddings(path: &Path, semantics: Semantics) -> Vec<f32> {
    let file = match semantics {
        Semantics::Torchtune => "tiny/case1.safetensors",
        Semantics::Meta => "tiny/meta0.safetensors",
    };
    let encoder = on_cpu().model(path).config(config()).semantics(semantics).threads(1);
    let case = Case::read(&golden(file));
    encoder.build().unwrap().encode_pixels(&case.pixels()).unwrap().embeddings
}

/// Fails unless the checkpoint at `path` is `tiny` to the bit, in both semantics.
#[track_caller]
fn assert_is_tiny(what: &str, path: &Path, format: NameFormat) -> Checkpoint {
    let checkpoint = Checkpoint::open(path).unwrap_or_else(|e| panic!("{what}: {e}"));
    assert_eq!(checkpoint.format(), format, "{what}");
    for semantics in [Semantics::Torchtune, Semantics::Meta] {
        let expected = embeddings(&golden("tiny"), semantics);
        assert!(embeddings(path, semantics) == expected, "{what}: other embeddings in {semantics} semantics");
    }
    checkpoint
}

#[test]
fn the_embeddings_compared_are_golden() {
    for (semantics, file) in
        [(Semantics::Torchtune, "tiny/case1.safetensors"), (Semantics::Meta, "tiny/meta0.safetensors")]
    {
        let reference = &Case::read(&golden(file)).tensors["out_f64"];
        assert_close(file, &embeddings(&golden("tiny"), semantics), &reference.values, F32_LIMIT);
    }
}

#[test]
fn torchtunes_names() {
    let folder = folder();
    let path = folder.path().join("model.safetensors");
    assert_is_tiny("as it is", &golden("tiny/model.safetensors"), NameFormat::Torchtune);
    write(&with_names(&tiny(), |name| format!("encoder.{name}")), &path);
    let checkpoint = assert_is_tiny("in the full model", &path, NameFormat::Torchtune);
    let summary = checkpoint.summary();
    assert_eq!(summary.len(), tiny().len());
    assert!(summary.iter().all(|tensor| tensor.name == format!("encoder.{}", tensor.torchtune)));
}

#[test]
fn metas_names() {
    let folder = folder();
    let path = folder.path().join("vision.safetensors");
    let meta = to_meta(&tiny());
    assert_eq!(meta["vision_model.vision_encoder.conv1._linear.weight"].shape, [160, 588]);
    write(&meta, &path);
    assert_is_tiny("Meta's names", &path, NameFormat::Meta);
}

#[test]
fn hugging_faces_names() {
    let folder = folder();
    let path = folder.path().join("model.safetensors");
    let hugging_face = to_hugging_face(&tiny(), 4);
    assert_eq!(hugging_face["vision_model.pre_tile_positional_embedding.embedding.weight"].shape, [9, 640]);
    write(&hugging_face, &path);
    assert_is_tiny("on disk", &path, NameFormat::HuggingFace);
    write(&with_names(&hugging_face, |name| format!("model.{name}")), &path);
    assert_is_tiny("in memory", &path, NameFormat::HuggingFace);
    // `MllamaVisionModel.save_pretrained` writes no prefix; the projector then stands under its own name.
    let bare = |name: &str| name.strip_prefix("vision_model.").unwrap_or(name).to_string();
    write(&with_names(&hugging_face, bare), &path);
    assert_is_tiny("the vision model alone", &path, NameFormat::HuggingFace);
}

#[test]
fn semantics_follow_the_names() {
    let folder = folder();
    let path = folder.path().join("model.safetensors");
    let semantics = |weights: &Weights| {
        write(weights, &path);
        on_cpu().model(&path).config(config()).threads(1).build().unwrap().semantics()
    };
    assert_eq!(semantics(&tiny()), Semantics::Torchtune);
    assert_eq!(semantics(&to_meta(&tiny())), Semantics::Meta);
    assert_eq!(semantics(&to_hugging_face(&tiny(), 4)), Semantics::Meta);
}

#[test]
fn shards_with_an_index() {
    let folder = folder();
    write_shards(&to_hugging_face(&tiny(), 4), 3, |number| number % 3, folder.path());
    let checkpoint = assert_is_tiny("the folder", folder.path(), NameFormat::HuggingFace);
    assert_eq!(checkpoint.files().len(), 3);
    let index = folder.path().join("model.safetensors.index.json");
    assert_is_tiny("the index", &index, NameFormat::HuggingFace);
    // Without the index, all files of the folder are taken.
    std::fs::remove_file(index).unwrap();
    assert_is_tiny("the shards alone", folder.path(), NameFormat::HuggingFace);
}

#[test]
fn shards_of_the_text_model_are_not_opened() {
    let folder = folder();
    let mut weights = to_hugging_face(&tiny(), 4);
    let num_vision = weights.len();
    for name in ["language_model.lm_head.weight", "language_model.model.layers.0.mlp.up_proj.weight"] {
        weights.insert(name.into(), Stored::of_f32(&[1.0; 6], &[2, 3]));
    }
    // The text model's tensors come first by name: number 0 and 1 go to a shard of their own, and one into another.
    write_shards(&weights, 3, |number| if number < 1 { 2 } else { number % 2 }, folder.path());
    let text = folder.path().join("model-00003-of-00003.safetensors");
    let checkpoint = assert_is_tiny("with the text model", folder.path(), NameFormat::HuggingFace);
    assert_eq!(checkpoint.num_other_tensors(), 2);
    assert_eq!(checkpoint.summary().len(), num_vision);
    assert!(!checkpoint.files().contains(&text), "{:?}", checkpoint.files());
    std::fs::write(&text, "not a safetensors file at all").unwrap();
    assert_is_tiny("with a damaged text shard", folder.path(), NameFormat::HuggingFace);
    std::fs::remove_file(&text).unwrap();
    assert_is_tiny("without the text shard", folder.path(), NameFormat::HuggingFace);
}

#[test]
fn metas_model_parallel_ranks() {
    for parts in [2, 4] {
        let folder = folder();
        for (rank, weights) in to_ranks(&to_meta(&tiny()), parts).iter().enumerate() {
            write(weights, &folder.path().join(format!("consolidated.{rank:02}.safetensors")));
        }
        let checkpoint = assert_is_tiny(&format!("{parts} ranks"), folder.path(), NameFormat::Meta);
        assert_eq!(checkpoint.files().len(), parts);
    }
    let folder = folder();
    write(&to_meta(&tiny()), &folder.path().join("consolidated.00.safetensors"));
    assert_is_tiny("a single rank", folder.path(), NameFormat::Meta);
}

#[test]
fn element_types_hold_the_same_weights() {
    // bf16 values below f16's normal range are rare and would be rounded there; they become zero for this test.
    let smallest = half::f16::MIN_POSITIVE.to_f32();
    let exact = |stored: &Stored| {
        let values: Vec<f32> = stored.f32().iter().map(|x| if x.abs() < smallest { 0.0 } else { *x }).collect();
        Stored::of_f32(&values, &stored.shape)
    };
    let exact: Weights = tiny().iter().map(|(name, stored)| (name.clone(), exact(stored))).collect();
    let folder = folder();
    let path = folder.path().join("model.safetensors");
    let run = |weights: &Weights| {
        write(weights, &path);
        [Semantics::Torchtune, Semantics::Meta].map(|semantics| embeddings(&path, semantics))
    };
    let expected = run(&exact);
    for dtype in [Dtype::BF16, Dtype::F16] {
        let cast: Weights = exact.iter().map(|(name, stored)| (name.clone(), stored.cast(dtype))).collect();
        assert!(cast.iter().all(|(name, stored)| stored.f32() == exact[name].f32()), "{dtype:?} rounds");
        assert!(run(&cast) == expected, "{dtype:?}");
    }
    let dtypes = [Dtype::F32, Dtype::BF16, Dtype::F16].into_iter().cycle();
    let mixed: Weights = exact.iter().zip(dtypes).map(|((name, s), dtype)| (name.clone(), s.cast(dtype))).collect();
    assert!(run(&mixed) == expected, "all three in one file");
}

#[test]
fn tensors_may_lie_at_odd_addresses() {
    let weights: Weights = tiny().iter().map(|(name, stored)| (name.clone(), stored.cast(Dtype::F32))).collect();
    let folder = folder();
    let path = folder.path().join("model.safetensors");
    write(&weights, &path);
    let aligned = std::fs::read(&path).unwrap();
    let len = u64::from_le_bytes(*aligned.first_chunk().unwrap()) as usize;
    let (header, data) = aligned[8..].split_at(len);
    let expected = embeddings(&path, Semantics::Torchtune);
    for spaces in 1..4 {
        let header = format!("{}{}", std::str::from_utf8(header).unwrap(), " ".repeat(spaces));
        let path = folder.path().join(format!("{spaces}.safetensors"));
        checkpoints::write_raw(&header, data, &path);
        assert!(embeddings(&path, Semantics::Torchtune) == expected, "{spaces} bytes off");
    }
}
