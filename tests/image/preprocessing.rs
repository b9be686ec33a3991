//! Pixel values are those of the references: torchtune's `CLIPImageTransform` in float32 and in bfloat16, and the
//! `MllamaImageProcessor` of transformers 4.

use tilesight::EncoderConfig;
use tilesight::error::{ConfigError, Error, ImageError};
use tilesight::image::{
    CLIP_MEAN, CLIP_STD, Image, Limits, Preprocess, Preprocessor, Tiles, resize_float32, resize_uint8,
};

use crate::golden_data::golden;
use crate::golden_images::{Golden, picture};

fn config(tile_size: usize) -> EncoderConfig {
    EncoderConfig { tile_size, ..EncoderConfig::preset("11b").unwrap() }
}

fn decode(path: &str) -> Image {
    Image::decode(&std::fs::read(golden(path)).unwrap(), &Limits::default()).unwrap()
}

/// How many values differ and by how much, if any do.
fn difference(expected: &[f32], found: &[f32]) -> Option<String> {
    assert_eq!(expected.len(), found.len());
    let pairs = || expected.iter().zip(found).enumerate().filter(|(_, (a, b))| a.to_bits() != b.to_bits());
    let (index, (a, b)) = pairs().next()?;
    let most = pairs().map(|(_, (a, b))| (a - b).abs()).fold(0.0, f32::max);
    Some(format!("{} of {} values, at most by {most:e}; {index} must be {a}, found {b}", pairs().count(), found.len()))
}

#[test]
fn resized_levels_are_pillows() {
    let golden = Golden::read("resize.safetensors");
    let (_, sizes) = golden.i32("size");
    let (_, crcs) = golden.i64("crc");
    assert!(crcs.len() >= 80);
    for (size, crc) in sizes.as_chunks::<4>().0.iter().zip(crcs) {
        let [height, width, new_height, new_width] = size.map(|side| side as usize);
        let resized = resize_uint8(&picture(height, width), [height, width], [new_height, new_width]).unwrap();
        assert_eq!(resized.len(), new_height * new_width * 3);
        assert_eq!(i64::from(crc32fast::hash(&resized)), crc, "{size:?}");
    }
}

#[test]
fn resized_values_are_torchvisions() {
    let golden = Golden::read("resize.safetensors");
    let (_, sizes) = golden.i32("size");
    let values: [f32; 256] = std::array::from_fn(|level| level as f32 * (1.0 / 255.0));
    let mut num_compared = 0;
    for (k, size) in sizes.as_chunks::<4>().0.iter().enumerate() {
        let [height, width, new_height, new_width] = size.map(|side| side as usize);
        if new_height * new_width > 3600 {
            continue;
        }
        let (shape, expected) = golden.f32(&format!("{k}.float"));
        assert_eq!(shape, [new_height, new_width, 3]);
        let found = resize_float32(&picture(height, width), &values, [height, width], [new_height, new_width]).unwrap();
        assert_eq!(difference(&expected, &found), None, "{size:?}");
        num_compared += 1;
    }
    assert!(num_compared > 40, "{num_compared}");
}

#[test]
fn tiny_pictures_are_torchtunes() {
    let golden = Golden::read_from(&golden("hf_tiny/expected_torchtune.safetensors"));
    for k in 0..2 {
        let image = decode(&format!("hf_tiny/image{k}.png"));
        let aspect_ratio = golden.i64(&format!("image{k}.aspect_ratio")).1;

        let float = Preprocessor::new(&config(28), Preprocess::Torchtune).unwrap().tiles(&image).unwrap();
        let (shape, expected) = golden.f32(&format!("image{k}.f32"));
        assert_eq!(aspect_ratio, float.aspect_ratio.map(|tiles| tiles as i64));
        assert_eq!(shape, [float.num_tiles(), 3, 28, 28]);
        assert_eq!(difference(&expected, &float.pixels), None, "picture {k}");

        let rounded = Preprocessor::new(&config(28), Preprocess::TorchtuneBf16).unwrap().tiles(&image).unwrap();
        let expected = golden.bf16(&format!("image{k}.bf16")).1;
        assert_eq!(aspect_ratio, rounded.aspect_ratio.map(|tiles| tiles as i64));
        assert_eq!(difference(&expected, &rounded.pixels), None, "picture {k}");
    }
}

#[test]
fn tiny_pictures_are_those_of_transformers_4() {
    let expected = Golden::read_from(&golden("hf_tiny/expected_v4.safetensors"));
    let (shape, values) = expected.f32("pixel_values");
    assert_eq!(shape, [2, 1, 4, 3, 28, 28]);
    let ids = expected.i64("aspect_ratio_ids").1;
    let preprocessor = Preprocessor::new(&config(28), Preprocess::Pil)
        .unwrap()
        .with_config_file(&golden("hf_tiny/preprocessor_config.json"))
        .unwrap();
    for (k, expected) in values.chunks_exact(4 * 3 * 28 * 28).enumerate() {
        let Tiles { aspect_ratio, pixels } = preprocessor.tiles(&decode(&format!("hf_tiny/image{k}.png"))).unwrap();
        let id = config(28).aspect_ratios().position(|grid| grid == aspect_ratio.into()).unwrap() + 1;
        assert_eq!(ids[k], id as i64);
        let (real, padding) = expected.split_at(pixels.len());
        assert_eq!(real, pixels, "picture {k}");
        assert!(padding.iter().all(|&value| value == 0.0));
    }
}

#[test]
fn real_pictures_are_the_references() {
    let golden = Golden::read("tiles.safetensors");
    for name in ["chelsea.png", "rocket.jpg", "hubble_deep_field.jpg"] {
        let image = decode(&format!("images/{name}"));
        for (tile_size, preprocess) in [560, 200].into_iter().flat_map(|side| Preprocess::ALL.map(|p| (side, p))) {
            let key = format!("{name}.{tile_size}.{preprocess}");
            let preprocessor = Preprocessor::new(&config(tile_size), preprocess).unwrap();
            let tiles = preprocessor.tiles(&image).unwrap();
            let aspect_ratio = golden.i64(&format!("{key}.aspect_ratio")).1;
            assert_eq!(aspect_ratio, tiles.aspect_ratio.map(|tiles| tiles as i64), "{key}");
            assert_eq!(preprocessor.num_tiles(image.width(), image.height()).unwrap(), tiles.num_tiles());
            let samples: Vec<f32> = tiles.pixels.iter().copied().step_by(4999).collect();
            assert_eq!(difference(&golden.f32(&format!("{key}.samples")).1, &samples), None, "{key}");
            let crc = crc32fast::hash(bytemuck::cast_slice(&tiles.pixels));
            assert_eq!(golden.i64(&format!("{key}.crc")).1, [i64::from(crc)], "{key}: values between the samples");
        }
    }
}

#[test]
fn transparency_is_dropped_by_torchtune_and_white_for_hugging_face() {
    let red = |alpha| Image::from_rgb_and_alpha(28, 28, [200, 0, 0].repeat(28 * 28), vec![alpha; 28 * 28]).unwrap();
    let first = |preprocess, alpha| {
        let tiles = Preprocessor::new(&config(28), preprocess).unwrap().tiles(&red(alpha)).unwrap();
        (tiles.pixels[0] * CLIP_STD[0] + CLIP_MEAN[0]) * 255.0
    };
    assert!((first(Preprocess::Torchtune, 0) - 200.0).abs() < 1e-3);
    assert!((first(Preprocess::Pil, 0) - 255.0).abs() < 1e-3);
    assert!((first(Preprocess::Pil, 255) - 200.0).abs() < 1e-3);
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let image = Image::from_rgb(700, 900, picture(900, 700)).unwrap();
    for preprocess in Preprocess::ALL {
        let preprocessor = Preprocessor::new(&config(448), preprocess).unwrap();
        let on = |num_threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(num_threads).build().unwrap();
            pool.install(|| preprocessor.tiles(&image).unwrap())
        };
        assert_eq!(on(1), on(7));
    }
}

#[test]
fn a_too_narrow_picture_is_refused_where_torchtune_fails() {
    let image = Image::from_rgb(1, 3000, picture(3000, 1)).unwrap();
    let refused = Preprocessor::new(&config(560), Preprocess::Torchtune).unwrap().tiles(&image);
    assert!(matches!(refused, Err(Error::Image(ImageError::TooNarrow { .. }))), "{refused:?}");
    let tiles = Preprocessor::new(&config(560), Preprocess::Pil).unwrap().tiles(&image).unwrap();
    assert_eq!(tiles.aspect_ratio, [4, 1]);
}

#[test]
fn names_are_read_as_they_are_written() {
    for preprocess in Preprocess::ALL {
        assert_eq!(preprocess.to_string().parse::<Preprocess>().unwrap(), preprocess);
    }
    let refused = "bicubic".parse::<Preprocess>().unwrap_err().to_string();
    assert!(refused.contains("bicubic") && refused.contains("pil"), "{refused}");
}

#[test]
fn an_encoder_of_other_channels_takes_no_pictures() {
    let config = EncoderConfig { in_channels: 1, ..config(28) };
    let refused = Preprocessor::new(&config, Preprocess::Pil);
    assert!(matches!(refused, Err(Error::Image(ImageError::Channels { expected: 1 }))), "{refused:?}");
}

#[test]
fn a_processor_file_that_asks_for_something_else_is_refused() {
    let text = std::fs::read_to_string(golden("hf_tiny/preprocessor_config.json")).unwrap();
    let read = |text: &str| {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Preprocessor::new(&config(28), Preprocess::Pil).unwrap().with_config_file(file.path())
    };
    let preprocessor = read(&text).unwrap();
    assert_eq!((preprocessor.mean(), preprocessor.std()), (CLIP_MEAN, CLIP_STD));
    let same = r#"{"size": {"height": 28, "width": 28}, "image_std": 0.25}"#;
    let preprocessor = read(same).unwrap();
    assert_eq!((preprocessor.mean(), preprocessor.std()), ([0.5; 3], [0.25; 3]));

    for (field, from, to) in [
        ("resample", r#""resample": 2"#, r#""resample": 3"#),
        ("rescale_factor", "0.00392156862745098", "0.0078125"),
        ("size", r#""height": 28"#, r#""height": 56"#),
        ("max_image_tiles", r#""max_image_tiles": 4"#, r#""max_image_tiles": 6"#),
        ("do_normalize", r#""do_normalize": true"#, r#""do_normalize": false"#),
        ("do_pad", r#""do_pad": true"#, r#""do_pad": false"#),
        ("image_processor_type", "MllamaImageProcessor", "CLIPImageProcessor"),
        ("image_std", "0.26862954", "0.0"),
        ("image_mean", "0.48145466", "1e300"),
    ] {
        assert!(text.contains(from), "{from}");
        let refused = read(&text.replace(from, to));
        let Err(Error::Config(ConfigError::Unsupported { field: found, .. })) = refused else {
            panic!("{field}: {refused:?}");
        };
        assert_eq!(found, field);
    }
    assert!(matches!(read("{"), Err(Error::Config(ConfigError::Json { .. }))));
    assert!(matches!(read(r#"{"image_mean": [1, 2]}"#), Err(Error::Config(ConfigError::Json { .. }))));
}
