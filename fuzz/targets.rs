//! What each fuzz target does with its bytes. `tests/encoder/fuzz_corpus.rs` does the same with every file of
//! `fuzz/corpus/TARGET`, so that what was once found is tried on every compiler.
#![allow(dead_code, reason = "each fuzz target uses one of them")]

use std::path::Path;

use tilesight::checkpoint::Checkpoint;
use tilesight::image::{Image, Limits, Preprocess, Preprocessor};
use tilesight::plan::Semantics;
use tilesight::{Encoder, EncoderConfig, Error, Pixels};

/// What a target does with its bytes; it panics where it finds a fault.
pub type Target = fn(&[u8]);

/// The targets, by the name of their folder and program. The server's are there with the feature `serve`.
pub const TARGETS: &[(&str, Target)] = &[
    ("image_header", image_header),
    ("image_decode", image_decode),
    ("config", config),
    ("safetensors", safetensors),
    #[cfg(feature = "serve")]
    ("infer_http", infer_http),
    #[cfg(feature = "serve")]
    ("infer_grpc", infer_grpc),
];

/// Small enough that a run stays in a few megabytes.
const LIMITS: Limits = Limits { max_side: 2048, max_pixels: 1 << 18, max_scans: 100 };

/// A header is read or refused.
pub fn image_header(bytes: &[u8]) {
    if let Ok((width, height)) = Image::dimensions(bytes, &LIMITS) {
        assert!(width > 0 && height > 0);
        assert!(width <= LIMITS.max_side && height <= LIMITS.max_side && width * height <= LIMITS.max_pixels);
    }
}

/// A picture is decoded or refused; if decoded, its header says its size, and it has tiles.
pub fn image_decode(bytes: &[u8]) {
    let Ok(image) = Image::decode(bytes, &LIMITS) else {
        return;
    };
    let (width, height) = (image.width(), image.height());
    assert_eq!(Image::dimensions(bytes, &LIMITS).ok(), Some((width, height)));
    let config = EncoderConfig::preset("11b").map(|config| EncoderConfig { tile_size: 28, ..config });
    for preprocess in Preprocess::ALL {
        let preprocessor = config.as_ref().ok().and_then(|config| Preprocessor::new(config, preprocess).ok());
        let preprocessor = preprocessor.expect("the preset takes pictures");
        if let Ok(tiles) = preprocessor.tiles(&image) {
            assert_eq!(tiles.pixels.len(), tiles.num_tiles() * 3 * 28 * 28);
            assert!(tiles.pixels.iter().all(|value| value.abs() < 4.0));
        }
    }
}

/// A configuration is read or refused; what was read keeps its own rules, and its sizes can be computed.
pub fn config(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let Ok(config) = EncoderConfig::from_json(&text, Path::new("config.json")) else {
        return;
    };
    assert_eq!(config.clone().validated().ok().as_ref(), Some(&config));
    for size in [config.num_tokens(), config.patch_len(), config.tile_len(), config.mlp_dim(), config.projection_dim()]
    {
        assert!(size > 0);
    }
    assert!(config.aspect_ratios().take(1000).all(|(height, width)| height * width <= config.max_num_tiles));
}

/// The encoder of the corpus' sound checkpoints.
fn smallest_encoder() -> EncoderConfig {
    EncoderConfig {
        patch_size: 1,
        num_heads: 1,
        clip_embed_dim: 2,
        clip_num_layers: 1,
        clip_hidden_states: vec![0],
        num_layers_projection: 1,
        decoder_embed_dim: 1,
        tile_size: 2,
        max_num_tiles: 2,
        in_channels: 1,
    }
}

/// A checkpoint is opened or refused; if its tensors make an encoder, it encodes or says that its weights are damaged.
pub fn safetensors(bytes: &[u8]) {
    let path = std::env::temp_dir().join(format!("tilesight-fuzz-{}.safetensors", std::process::id()));
    std::fs::write(&path, bytes).expect("the temporary folder can be written");
    if let Ok(checkpoint) = Checkpoint::open(&path) {
        assert!(!checkpoint.summary().is_empty());
        encode(checkpoint);
    }
    // Nothing maps it any more.
    std::fs::remove_file(&path).expect("the file was written");
}

fn encode(checkpoint: Checkpoint) {
    let builder =
        Encoder::builder().device(tilesight::Device::Cpu).checkpoint(checkpoint).config(smallest_encoder()).threads(1);
    let Ok(mut encoder) = builder.semantics(Semantics::Meta).build() else {
        return;
    };
    let pixels = Pixels {
        images: &[0.5, -0.5, 0.25, 1.0, 0.0, 0.0, 0.0, 0.0],
        shape: [1, 1, 2, 1, 2, 2],
        aspect_ratio: Some(&[[1, 1]]),
    };
    match encoder.encode_pixels(&pixels) {
        Ok(encodings) => assert!(encodings.embeddings.iter().all(|value| value.is_finite())),
        Err(refusal) => assert!(matches!(refusal, Error::NotFinite { .. }), "{refusal}"),
    }
}

/// The body of a request over HTTP is read or refused. A first line is the header that says how long its JSON is; the line
/// `-` leaves it out.
#[cfg(feature = "serve")]
pub fn infer_http(bytes: &[u8]) {
    let line = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let (json_len, body) = bytes.split_at(line);
    let json_len = Some(json_len).filter(|len| *len != b"-");
    require_told(tilesight::serve::fuzzing::http(json_len, body.get(1..).unwrap_or_default()), bytes.len());
}

/// A message over gRPC is read or refused.
#[cfg(feature = "serve")]
pub fn infer_grpc(bytes: &[u8]) {
    require_told(tilesight::serve::fuzzing::grpc(bytes), bytes.len());
}

/// Nothing has more parts than bytes, and a refusal is the client's fault, in a few words.
#[cfg(feature = "serve")]
fn require_told(asked: Result<usize, (u16, String)>, len: usize) {
    match asked {
        Ok(parts) => assert!(parts <= len),
        Err((status, reason)) => {
            assert!([400, 404].contains(&status), "{status}: {reason}");
            assert!(!reason.is_empty() && reason.chars().count() <= 1001);
        }
    }
}
