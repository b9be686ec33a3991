//! The content hash: what changes the bits of a result changes it, and nothing else does.

use tilesight::image::{Image, Limits, Preprocess};
use tilesight::plan::Semantics;
use tilesight::{Digest, Encoder, Pixels};

use crate::checkpoints;
use crate::golden_data::golden;
use crate::on_cpu::on_cpu;
use crate::tiny_config::tiny_config;

/// A picture with a gradient, in three tiles of the tiny model.
fn picture() -> Image {
    let (width, height) = (60, 28);
    let rgb = (0..width * height * 3).map(|i| (i * 7 % 256) as u8).collect();
    Image::from_rgb(width, height, rgb).unwrap()
}

fn content_hash(encoder: &Encoder, image: &Image) -> Digest {
    encoder.identity().content_hash(&image.digest(), Some(encoder.preprocessor().unwrap()))
}

#[test]
fn one_model_has_one_identity_whatever_it_is_stored_in_and_computed_on() {
    let weights = checkpoints::tiny();
    let folder = tempfile::tempdir().unwrap();
    let (tune, meta) = (folder.path().join("tune.safetensors"), folder.path().join("meta.safetensors"));
    checkpoints::write(&weights, &tune);
    checkpoints::write(&checkpoints::to_meta(&weights), &meta);
    let encoder = |path| on_cpu().model(path).config(tiny_config()).semantics(Semantics::Torchtune);
    let of_tune = encoder(&tune).build().unwrap().identity();
    assert_eq!(encoder(&tune).threads(1).max_batch_tiles(1).build().unwrap().identity(), of_tune);
    assert_eq!(encoder(&meta).build().unwrap().identity(), of_tune);
}

#[test]
fn what_changes_the_bits_changes_the_identity() {
    let weights = checkpoints::tiny();
    let folder = tempfile::tempdir().unwrap();
    let build = |name: &str, weights: &checkpoints::Weights| {
        let path = folder.path().join(name);
        checkpoints::write(weights, &path);
        on_cpu().model(path).config(tiny_config())
    };
    let mut identities = vec![build("a", &weights).build().unwrap().identity()];
    // One bit of each tensor, for no tensor may be left out.
    for name in weights.keys() {
        let mut changed = weights.clone();
        let tensor = &changed[name];
        let mut values = tensor.f32();
        values[0] = f32::from_bits(values[0].to_bits() ^ 1);
        changed.insert(name.clone(), checkpoints::Stored::of_f32(&values, &tensor.shape));
        identities.push(build("b", &changed).build().unwrap().identity());
    }
    identities.push(build("c", &weights).semantics(Semantics::Meta).build().unwrap().identity());
    identities.push(build("d", &weights).collapse(false).build().unwrap().identity());
    let mut config = tiny_config();
    config.clip_hidden_states = vec![0, 1];
    identities.push(build("e", &weights).config(config).build().unwrap().identity());
    for (n, a) in identities.iter().enumerate() {
        assert!(!identities[n + 1..].contains(a), "number {n} of {}", weights.keys().len() + 4);
    }
}

#[test]
fn a_picture_is_its_pixels_whatever_file_they_came_in() {
    let golden = golden("hf_tiny");
    let bytes = std::fs::read(golden.join("image0.png")).unwrap();
    let image = Image::decode(&bytes, &Limits::default()).unwrap();
    let mut encoded = Vec::new();
    let (width, height) = (image.width() as u32, image.height() as u32);
    let mut encoder = png::Encoder::new(&mut encoded, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_compression(png::Compression::Fastest);
    encoder.write_header().unwrap().write_image_data(image.rgb()).unwrap();
    assert_ne!(encoded, bytes);
    assert_eq!(Image::decode(&encoded, &Limits::default()).unwrap().digest(), image.digest());
}

#[test]
fn pixels_size_alpha_and_the_way_they_are_cut_count() {
    let image = picture();
    let encoder = on_cpu().demo().build().unwrap();
    let same = content_hash(&encoder, &image);
    assert_eq!(content_hash(&encoder, &picture()), same);
    let (width, height) = (image.width(), image.height());
    let mut rgb = image.rgb().to_vec();
    let turned = Image::from_rgb(height, width, rgb.clone()).unwrap();
    let opaque = Image::from_rgb_and_alpha(width, height, rgb.clone(), vec![255; width * height]).unwrap();
    *rgb.last_mut().unwrap() ^= 1;
    let changed = Image::from_rgb(width, height, rgb).unwrap();
    let mut hashes = vec![same];
    hashes.extend([turned, opaque, changed].map(|image| content_hash(&encoder, &image)));
    for preprocess in [Preprocess::TorchtuneBf16, Preprocess::Pil] {
        let encoder = on_cpu().demo().preprocess(preprocess).build().unwrap();
        hashes.push(content_hash(&encoder, &image));
    }
    let values = vec![0.5; encoder.config().tile_len()];
    let side = encoder.config().tile_size;
    let mut other = values.clone();
    other[7] = -0.5;
    for (values, aspect_ratio) in [(&values, None), (&values, Some(&[[1, 1]][..])), (&other, None)] {
        let pixels = Pixels { images: values, shape: [1, 1, 1, 3, side, side], aspect_ratio };
        hashes.push(encoder.identity().content_hash(&pixels.digest(), None));
    }
    let count = hashes.len();
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), count);
    assert_eq!(Digest::of_all(&hashes[..1]), hashes[0]);
    assert_ne!(Digest::of_all(&hashes[..2]), Digest::of_all(&[hashes[1], hashes[0]]));
}
