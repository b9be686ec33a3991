//! A checkpoint whose tensors are not those of the configuration is refused by an error that names the tensor as the
//! checkpoint does, and nothing is guessed.

use safetensors::Dtype;
use tilesight::checkpoint::{Checkpoint, VisionWeights};
use tilesight::error::CheckpointError;
use tilesight::{EncoderConfig, Error};

use crate::checkpoints::{
    Stored, Weights, assert_matches, config, folder, refusal, refused_to_open, tiny, to_hugging_face, to_meta,
    to_ranks, with_names, write,
};
use crate::golden_cases::Case;
use crate::golden_data::golden;
use crate::on_cpu::on_cpu;

/// Why weights with these tensors do not load as `tiny`.
#[track_caller]
fn refused_to_load(weights: &Weights) -> CheckpointError {
    let folder = folder();
    let path = folder.path().join("model.safetensors");
    write(weights, &path);
    refusal(VisionWeights::load(&Checkpoint::open(&path).unwrap(), &config()))
}

#[test]
fn a_tensor_that_stands_twice() {
    let folder = folder();
    write(&tiny(), &folder.path().join("a.safetensors"));
    let again: Weights = tiny().into_iter().filter(|(name, _)| name == "clip.ln_pre.bias").collect();
    write(&again, &folder.path().join("b.safetensors"));
    let refusal = refused_to_open(folder.path());
    assert_matches!(&refusal, CheckpointError::Repeated { tensor, first, second }
        if tensor == "clip.ln_pre.bias" && first.contains("a.safetensors") && second.contains("b.safetensors"));
    // Twice in one file, under two prefixes.
    let mut weights = tiny();
    let prefixed = with_names(&again, |name| format!("encoder.{name}"));
    weights.extend(prefixed);
    let path = folder.path().join("a.safetensors");
    write(&weights, &path);
    let refusal = refused_to_open(&path);
    assert_matches!(&refusal, CheckpointError::Repeated { first, second, .. }
        if [first, second].iter().any(|place| place.contains("(encoder.clip.ln_pre.bias)")));
}

#[test]
fn two_name_families_at_once() {
    let folder = folder();
    let path = folder.path().join("model.safetensors");
    let families = [tiny(), to_meta(&tiny()), to_hugging_face(&tiny(), 4)];
    for first in 0..3 {
        for second in (0..3).filter(|second| *second != first) {
            let mut weights = families[first].clone();
            weights.extend(families[second].iter().take(1).map(|(name, stored)| (name.clone(), stored.clone())));
            write(&weights, &path);
            let found = refused_to_open(&path);
            assert_matches!(found, CheckpointError::MixedNames { first, second } if first != second);
        }
    }
}

#[test]
fn a_missing_tensor_goes_by_the_checkpoints_own_name() {
    let prefixed = |prefix: &'static str, weights: Weights| with_names(&weights, move |name| format!("{prefix}{name}"));
    let hugging_face = to_hugging_face(&tiny(), 4);
    let checkpoints = [
        ("clip.layers.1.mlp.w2.bias", tiny()),
        ("encoder.clip.layers.1.mlp.w2.bias", prefixed("encoder.", tiny())),
        ("vision_model.vision_encoder.transformer.resblocks.1.mlp.c_proj.bias", to_meta(&tiny())),
        ("vision_model.transformer.layers.1.mlp.fc2.bias", hugging_face.clone()),
        ("model.vision_model.transformer.layers.1.mlp.fc2.bias", prefixed("model.", hugging_face.clone())),
        ("multi_modal_projector.weight", hugging_face.clone()),
        ("model.multi_modal_projector.weight", prefixed("model.", hugging_face)),
        ("encoder.projection.output.bias", prefixed("encoder.", tiny())),
    ];
    for (name, mut weights) in checkpoints {
        assert!(weights.remove(name).is_some(), "{name} is not there");
        assert_matches!(refused_to_load(&weights), CheckpointError::Missing { tensor, num_missing: 1, num_expected: 79 }
            if tensor == name);
    }
    let mut weights = tiny();
    weights.retain(|name, _| !name.starts_with("projection.layers.1."));
    assert_matches!(refused_to_load(&weights), CheckpointError::Missing { tensor, num_missing: 14, num_expected: 79 }
        if tensor.starts_with("projection.layers.1."));
    assert_matches!(
        refused_to_load(&weights.into_iter().take(1).collect()),
        CheckpointError::Missing { num_missing: 78, num_expected: 79, .. }
    );
}

#[test]
fn tensors_beyond_the_configuration() {
    let one = || Stored::of_f32(&[1.0], &[1]);
    let extra = |name: &str| {
        let mut weights = tiny();
        weights.insert(name.to_string(), one());
        refused_to_load(&weights)
    };
    for (name, rule) in [
        ("clip.layers.3.mlp.w2.bias", "clip_num_layers = 3"),
        ("clip.layers.1000000.mlp.w2.bias", "clip_num_layers = 3"),
        ("projection.layers.2.sa_scale.scale", "num_layers_projection = 2"),
        ("clip.layers.1.sa_scale.scale", "no gates in these layers"),
        ("clip.token_pos_embedding.positional_embedding", "max_num_tiles = 4"),
    ] {
        assert_matches!(extra(name), CheckpointError::Unexpected { tensor, expected }
            if tensor == name && expected == rule);
    }
    let mut weights = to_hugging_face(&tiny(), 4);
    weights.insert("vision_model.transformer.layers.7.mlp.fc2.bias".to_string(), one());
    assert_matches!(refused_to_load(&weights), CheckpointError::Unexpected { tensor, .. }
        if tensor == "vision_model.transformer.layers.7.mlp.fc2.bias");
}

#[test]
fn every_tensor_of_another_shape() {
    for weights in [tiny(), to_meta(&tiny()), to_hugging_face(&tiny(), 4)] {
        for (name, stored) in &weights {
            let mut shapes = vec![vec![0], vec![], vec![2, 3, 1, 1, 1]];
            for dimension in 0..stored.shape.len() {
                let mut shape = stored.shape.clone();
                shape[dimension] += 1;
                shapes.push(shape.clone());
                shape[dimension] = 0;
                shapes.push(shape);
            }
            for shape in shapes {
                let mut changed = weights.clone();
                let len = shape.iter().product();
                changed.insert(name.clone(), Stored::of_f32(&vec![1.0; len], &shape));
                match refused_to_load(&changed) {
                    CheckpointError::Shape { tensor, expected, found } => {
                        assert_eq!((&tensor, &found), (name, &shape));
                        assert_eq!(expected, format!("{:?}", stored.shape));
                    }
                    // A position table that is none is told from one of another size.
                    CheckpointError::Resize { tensor, .. } => {
                        assert_eq!(&tensor, name);
                        assert!(stored.shape.len() == 4 || name.ends_with("positional_embedding"), "{name} {shape:?}");
                    }
                    other => panic!("{name} {shape:?}: {other:?}"),
                }
            }
        }
    }
}

#[test]
fn element_types_that_are_not_read() {
    for (dtype, size) in [(Dtype::I64, 8), (Dtype::F64, 8), (Dtype::I8, 1), (Dtype::BOOL, 1), (Dtype::F8_E4M3, 1)] {
        let mut weights = tiny();
        let stored = Stored { dtype, shape: vec![160], bytes: vec![0; 160 * size] };
        weights.insert("clip.ln_post.bias".to_string(), stored);
        let refusal = refused_to_load(&weights);
        assert_matches!(&refusal, CheckpointError::Dtype { tensor, found }
            if tensor == "clip.ln_post.bias" && *found == format!("{dtype:?}"));
    }
    // In a tensor of the text model any type may stand.
    let mut weights = tiny();
    weights.insert("decoder.tok.scales".into(), Stored { dtype: Dtype::F64, shape: vec![1], bytes: vec![0; 8] });
    let folder = folder();
    let path = folder.path().join("model.safetensors");
    write(&weights, &path);
    assert!(VisionWeights::load(&Checkpoint::open(&path).unwrap(), &config()).is_ok());
}

/// Loads `tiny` from two of Meta's ranks, the second one changed.
fn refused_ranks(change: impl FnOnce(&mut Weights)) -> CheckpointError {
    let folder = folder();
    let mut ranks = to_ranks(&to_meta(&tiny()), 2);
    change(&mut ranks[1]);
    for (rank, weights) in ranks.iter().enumerate() {
        write(weights, &folder.path().join(format!("consolidated.{rank:02}.safetensors")));
    }
    refusal(Checkpoint::open(folder.path()).and_then(|checkpoint| VisionWeights::load(&checkpoint, &config())))
}

#[test]
fn model_parallel_ranks_that_do_not_fit_together() {
    const QUERIES: &str = "vision_model.vision_encoder.transformer.resblocks.0.attn.wq.weight";
    let change = |change: fn(&Stored) -> Stored| {
        refused_ranks(|rank| {
            let changed = change(&rank[QUERIES]);
            rank.insert(QUERIES.to_string(), changed);
        })
    };
    assert_matches!(change(|queries| queries.clone().reshaped(&[160, 80])), CheckpointError::Shape { tensor, .. }
        if tensor == QUERIES);
    assert_matches!(change(|queries| queries.clone().reshaped(&[80 * 160])), CheckpointError::Shape { tensor, .. }
        if tensor == QUERIES);
    assert_matches!(change(|queries| queries.slice(0, 0, 2)), CheckpointError::Shape { tensor, found, .. }
        if tensor == QUERIES && found == [120, 160]);
    assert_matches!(change(|queries| queries.cast(Dtype::F32)), CheckpointError::Dtype { tensor, found }
        if tensor == QUERIES && found == "BF16 and F32");
    assert_matches!(
        change(|queries| Stored { dtype: Dtype::I64, shape: vec![80, 160], bytes: vec![0; 8 * queries.f32().len()] }),
        CheckpointError::Dtype { tensor, found } if tensor == QUERIES && found == "BF16 and I64"
    );
    let absent = refused_ranks(|rank| drop(rank.remove(QUERIES)));
    assert_matches!(absent, CheckpointError::Shape { tensor, found, .. } if tensor == QUERIES && found == [80, 160]);
    // One rank of two alone.
    let folder = folder();
    write(&to_ranks(&to_meta(&tiny()), 2)[0], &folder.path().join("consolidated.00.safetensors"));
    let alone = VisionWeights::load(&Checkpoint::open(folder.path()).unwrap(), &config());
    assert_matches!(refusal(alone), CheckpointError::Shape { .. });
}

#[test]
fn a_configuration_that_no_memory_can_hold() {
    // The weights of `tiny` fit every layer of this encoder; only its position tables would be a hundred terabytes.
    let config = EncoderConfig { tile_size: 14 << 20, ..config() };
    let checkpoint = Checkpoint::open(&golden("tiny")).unwrap();
    let refusal = refusal(VisionWeights::load(&checkpoint, &config));
    assert_matches!(&refusal, CheckpointError::Resize { reason, .. } if reason.contains("bytes of memory"));
}

#[test]
fn weights_that_are_not_finite_are_noticed() {
    let folder = folder();
    let path = folder.path().join("model.safetensors");
    let case = Case::read(&golden("tiny/case0.safetensors"));
    for value in [f32::NAN, f32::INFINITY] {
        let mut weights = tiny();
        let bias = weights.get_mut("projection.output.bias").unwrap();
        let mut values = bias.f32();
        values[17] = value;
        *bias = Stored::of_f32(&values, &[96]);
        write(&weights, &path);
        let mut encoder = on_cpu().model(&path).config(config()).threads(1).build().unwrap();
        assert_matches!(encoder.encode_pixels(&case.pixels()), Err(Error::NotFinite { index: 17 }));
    }
}
