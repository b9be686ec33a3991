//! What each fuzz target does with its bytes. `tests/fuzz_corpus.rs` does the same with every file of
//! `fuzz/corpus/TARGET`, so that what was once found is tried on every compiler.
#![allow(dead_code, reason = "each fuzz target uses one of them")]

use tilesight::EncoderConfig;
use tilesight::image::{Image, Limits, Preprocess, Preprocessor};

/// What a target does with its bytes; it panics where it finds a fault.
pub type Target = fn(&[u8]);

/// The targets, by the name of their folder and program.
pub const TARGETS: [(&str, Target); 2] = [("image_header", image_header), ("image_decode", image_decode)];

/// Small enough that a run stays in a few megabytes.
const LIMITS: Limits = Limits { max_side: 2048, max_pixels: 1 << 18 };

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
