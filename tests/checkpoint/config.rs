//! The encoder's parameters: the published geometries have the published sizes, and every rule that is broken has an
//! error of its own.

use tilesight::checkpoint::{NameFormat, expected_tensors};
use tilesight::error::ConfigError;
use tilesight::{EncoderConfig, Error};

use crate::tiny_config::tiny_config as tiny;

/// What is wrong with a configuration, where something is.
#[track_caller]
pub fn refusal<T: std::fmt::Debug>(result: Result<T, Error>) -> ConfigError {
    match result {
        Err(Error::Config(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

/// `tiny` with one change.
#[track_caller]
fn refused(change: impl FnOnce(&mut EncoderConfig)) -> ConfigError {
    let mut config = tiny();
    change(&mut config);
    refusal(config.validated())
}

#[test]
fn published_geometries_have_the_published_sizes() {
    let sizes = [
        ("11b", 560, 853_991_955),
        ("11b", 448, 841_458_195),
        ("90b", 560, 885_453_331),
        ("90b", 448, 872_919_571usize),
    ];
    for (name, tile_size, num_parameters) in sizes {
        let config = EncoderConfig { tile_size, ..EncoderConfig::preset(name).unwrap() }.validated().unwrap();
        let tensors = expected_tensors(&config, NameFormat::Torchtune);
        let sum: usize = tensors.iter().map(|t| t.shape.iter().product::<usize>()).sum();
        assert_eq!(sum, num_parameters, "{name} at {tile_size}");
        for format in [NameFormat::Torchtune, NameFormat::Meta, NameFormat::HuggingFace] {
            assert_eq!(expected_tensors(&config, format).len(), 511, "{name} in {format} names");
        }
    }
}

#[test]
fn published_geometries_are_those_of_the_builders() {
    let config = EncoderConfig::preset("11b").unwrap();
    let expected = EncoderConfig {
        patch_size: 14,
        num_heads: 16,
        clip_embed_dim: 1280,
        clip_num_layers: 32,
        clip_hidden_states: vec![3, 7, 15, 23, 30],
        num_layers_projection: 8,
        decoder_embed_dim: 4096,
        tile_size: 560,
        max_num_tiles: 4,
        in_channels: 3,
    };
    assert_eq!(config, expected);
    assert_eq!(config.clone().validated().unwrap(), config);
    assert_eq!(EncoderConfig::preset("90b").unwrap(), EncoderConfig { decoder_embed_dim: 8192, ..expected });
    assert_eq!(
        [config.num_patches(), config.num_tokens(), config.head_dim(), config.mlp_dim()],
        [1600, 1601, 80, 5120]
    );
    assert_eq!((config.num_alignment_rows(), config.projection_dim()), (7, 7680));
    let base = EncoderConfig { tile_size: 448, ..config };
    assert_eq!((base.num_tokens(), base.num_alignment_rows()), (1025, 7));
    let ids: Vec<_> = base.aspect_ratios().collect();
    assert_eq!(ids, [(1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (2, 2), (3, 1), (4, 1)]);
}

#[test]
fn an_unknown_preset_is_refused_by_name() {
    for name in ["", "11B", "3b", "../11b"] {
        let refusal = refusal(EncoderConfig::preset(name));
        assert!(matches!(&refusal, ConfigError::UnknownPreset { found, .. } if found == name), "{refusal:?}");
        assert!(refusal.to_string().contains("11b and 90b"));
    }
}

#[test]
fn what_must_not_be_zero_is_named() {
    type Field = fn(&mut EncoderConfig) -> &mut usize;
    let fields: [(&str, Field); 7] = [
        ("patch_size", |c| &mut c.patch_size),
        ("num_heads", |c| &mut c.num_heads),
        ("clip_embed_dim", |c| &mut c.clip_embed_dim),
        ("decoder_embed_dim", |c| &mut c.decoder_embed_dim),
        ("tile_size", |c| &mut c.tile_size),
        ("max_num_tiles", |c| &mut c.max_num_tiles),
        ("in_channels", |c| &mut c.in_channels),
    ];
    for (field, value) in fields {
        assert_eq!(refused(|c| *value(c) = 0), ConfigError::Zero { name: field });
    }
}

#[test]
fn stacks_without_layers_are_allowed() {
    let config = EncoderConfig {
        clip_num_layers: 0,
        clip_hidden_states: vec![],
        num_layers_projection: 0,
        max_num_tiles: 1,
        ..tiny()
    };
    assert!(config.validated().is_ok());
}

#[test]
fn every_other_rule_has_its_own_error() {
    assert_eq!(refused(|c| c.num_heads = 3), ConfigError::HeadsDoNotDivide { embed_dim: 160, num_heads: 3 });
    assert_eq!(refused(|c| c.num_heads = 161), ConfigError::HeadsDoNotDivide { embed_dim: 160, num_heads: 161 });
    assert_eq!(refused(|c| c.patch_size = 29), ConfigError::PatchLargerThanTile { patch_size: 29, tile_size: 28 });
    let out_of_range = |index| ConfigError::HiddenStateOutOfRange { num_layers: 3, index };
    for index in [4, -1, i64::MAX, i64::MIN] {
        assert_eq!(refused(|c| c.clip_hidden_states = vec![0, index]), out_of_range(index));
    }
    assert_eq!(refused(|c| c.clip_hidden_states = vec![2, 0, 2]), ConfigError::HiddenStateRepeated { index: 2 });
    assert_eq!(
        refused(|c| c.clip_hidden_states = vec![3, 1, 0, 2]),
        ConfigError::TooManyHiddenStates { num_layers: 3, found: 4 }
    );
    let without_layers = refused(|c| {
        c.clip_num_layers = 0;
        c.clip_hidden_states = vec![0];
    });
    assert_eq!(without_layers, ConfigError::TooManyHiddenStates { num_layers: 0, found: 1 });
}

#[test]
fn hidden_states_are_sorted_and_may_hold_the_last_layers_output() {
    let config = EncoderConfig { clip_hidden_states: vec![3, 0, 2], ..tiny() }.validated().unwrap();
    assert_eq!(config.clip_hidden_states, [0, 2, 3]);
    assert_eq!(config.projection_dim(), 4 * 160);
}

#[test]
fn what_could_never_be_addressed_is_too_large() {
    type Change = fn(&mut EncoderConfig);
    let changes: [(&str, Change); 10] = [
        ("patch_size", |c| c.patch_size = usize::MAX),
        ("num_heads", |c| c.num_heads = usize::MAX),
        ("clip_embed_dim", |c| c.clip_embed_dim = usize::MAX),
        ("clip_num_layers", |c| c.clip_num_layers = 1 << 24),
        ("num_layers_projection", |c| c.num_layers_projection = 1 << 24),
        ("decoder_embed_dim", |c| c.decoder_embed_dim = usize::MAX),
        ("tile_size", |c| c.tile_size = usize::MAX),
        ("max_num_tiles", |c| c.max_num_tiles = usize::MAX),
        ("in_channels", |c| c.in_channels = usize::MAX),
        // Each parameter for itself is small enough.
        ("max_num_tiles", |c| (c.max_num_tiles, c.tile_size) = (1 << 20, 1 << 20)),
    ];
    for (field, change) in changes {
        let refusal = refused(change);
        assert!(matches!(refusal, ConfigError::TooLarge { name, .. } if name == field), "{field}: {refusal:?}");
    }
    let patches = refused(|c| {
        (c.patch_size, c.tile_size, c.clip_embed_dim, c.max_num_tiles) = (1 << 20, 1 << 20, 1 << 20, 1);
    });
    assert_eq!(patches, ConfigError::TooLarge { name: "patch_size", found: 1 << 20 });
}
