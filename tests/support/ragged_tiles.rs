//! Pictures of every size, and their embeddings held against one another to the bit.

use tilesight::image::Tiles;
use tilesight::{Encoder, EncoderConfig};

use crate::noise::noise;

/// Pictures of every size, no two alike.
pub fn pictures(config: &EncoderConfig) -> Vec<Tiles> {
    let picture = |(number, aspect_ratio): (u64, [usize; 2])| {
        let num_tiles = aspect_ratio[0] * aspect_ratio[1];
        Tiles { aspect_ratio, pixels: noise(num_tiles * config.tile_len(), number) }
    };
    (0..).zip([[1, 1], [2, 2], [1, 3], [1, 1], [4, 1], [2, 1]]).map(picture).collect()
}

/// The embeddings of each picture.
pub fn encode(encoder: &mut Encoder, pictures: &[Tiles]) -> Vec<Vec<f32>> {
    let encodings = encoder.encode_tiles(pictures).unwrap();
    (0..pictures.len()).map(|index| encodings.image(index).unwrap().to_vec()).collect()
}

/// Each picture in a call of its own.
pub fn alone(encoder: &mut Encoder, pictures: &[Tiles]) -> Vec<Vec<f32>> {
    pictures.iter().flat_map(|picture| encode(encoder, std::slice::from_ref(picture))).collect()
}

#[track_caller]
pub fn assert_same_bits(what: &str, found: &[Vec<f32>], expected: &[Vec<f32>]) {
    assert_eq!(found.len(), expected.len());
    for (image, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert_eq!(found.len(), expected.len());
        let differs = |(a, b): (&f32, &f32)| a.to_bits() != b.to_bits();
        let num_different = found.iter().zip(expected).filter(|&pair| differs(pair)).count();
        let first = found.iter().zip(expected).position(differs);
        assert_eq!(num_different, 0, "{what}: image {image} differs, first at {first:?} of {}", found.len());
    }
}
