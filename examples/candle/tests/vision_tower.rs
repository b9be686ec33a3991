//! On candle's CPU tensors: the states are the encoder's own, to the bit, and those that transformers 4.53.3 computes of the
//! same checkpoint; what does not fit is refused.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Result, Tensor};
use tilesight::{Encoder, Pixels};
use tilesight_candle::VisionTower;

/// One image of 1x3 and one of 1x1 tiles, of four.
const RATIOS: [[i64; 2]; 2] = [[1, 3], [1, 1]];

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/hf_tiny").join(name)
}

fn encoder() -> Encoder {
    Encoder::builder().model(golden("")).device(tilesight::Device::Cpu).build().unwrap()
}

fn tower() -> VisionTower {
    VisionTower::new(encoder(), DType::F32)
}

/// What transformers was given and what it gave: 4.53.3's states, of the pixels that a later release's processor made.
fn expected() -> HashMap<String, Tensor> {
    let read = |name: &str| candle_core::safetensors::load(golden(name), &Device::Cpu).unwrap();
    let mut tensors = read("expected_v4.safetensors");
    tensors.extend(read("expected_v5.safetensors").into_iter().filter(|(name, _)| name == "pixel_values"));
    tensors
}

fn encoded(inputs: &HashMap<String, Tensor>) -> Result<Tensor> {
    tower().encode_image(&inputs["pixel_values"], &inputs["aspect_ratio_ids"], &inputs["aspect_ratio_mask"])
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn the_states_are_those_of_transformers() {
    let expected = expected();
    let states = encoded(&expected).unwrap();
    assert_eq!(states.dims(), [2, 4 * 5, 32]);
    let (found, expected) = (values(&states), values(&expected["cross_attention_states"]));
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0f32, |largest, value| largest.max(value.abs()));
    let error = found.iter().zip(&expected).fold(0f32, |error, (a, b)| error.max((a - b).abs())) / largest;
    // What tells right from wrong in f32: tests/golden/README.md.
    assert!(error < 3e-6, "{error}");
}

#[test]
fn the_states_are_the_encoders_own_bits_in_every_type_of_pixels() {
    let inputs = expected();
    let own = |pixels: &Tensor| {
        let images = values(&pixels.to_dtype(DType::F32).unwrap());
        let pixels = Pixels { images: &images, shape: [2, 1, 4, 3, 28, 28], aspect_ratio: Some(&RATIOS) };
        encoder().encode_pixels(&pixels).unwrap().embeddings
    };
    let mut seen = Vec::new();
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        let pixels = inputs["pixel_values"].to_dtype(dtype).unwrap();
        let given = [("pixel_values".to_string(), pixels.clone())];
        let states = values(&encoded(&inputs.clone().into_iter().chain(given).collect()).unwrap());
        assert!(states == own(&pixels), "{dtype:?}");
        seen.push(states);
    }
    assert!(seen[0] != seen[1] && seen[1] != seen[2]);
    // The states' own type is the engine's to choose.
    let tower = VisionTower::new(encoder(), DType::BF16);
    let states =
        tower.encode_image(&inputs["pixel_values"], &inputs["aspect_ratio_ids"], &inputs["aspect_ratio_mask"]).unwrap();
    assert_eq!(states.dtype(), DType::BF16);
    let rounded: Vec<f32> = seen[0].iter().map(|value| half::bf16::from_f32(*value).to_f32()).collect();
    assert!(values(&states.to_dtype(DType::F32).unwrap()) == rounded);
}

#[test]
fn a_tensor_is_read_where_it_lies() {
    let inputs = expected();
    let whole = values(&encoded(&inputs).unwrap());
    let (pixels, ids, mask) = (&inputs["pixel_values"], &inputs["aspect_ratio_ids"], &inputs["aspect_ratio_mask"]);
    // The second sample alone, which begins within its storage.
    let second = |tensor: &Tensor| tensor.narrow(0, 1, 1).unwrap();
    let states = tower().encode_image(&second(pixels), &second(ids), &second(mask)).unwrap();
    assert!(values(&states) == whole[whole.len() / 2..]);
    // The same pixels with rows and columns swapped in memory.
    let swapped = pixels.transpose(4, 5).unwrap().contiguous().unwrap().transpose(4, 5).unwrap();
    assert!(!swapped.is_contiguous());
    assert!(values(&tower().encode_image(&swapped, ids, mask).unwrap()) == whole);
    // Both images in one sample.
    let images = |tensor: &Tensor| tensor.transpose(0, 1).unwrap();
    let states = tower().encode_image(&images(pixels), &images(ids), &images(mask)).unwrap();
    assert_eq!(states.dims(), [1, 2 * 4 * 5, 32]);
    assert!(values(&states) == whole);
}

#[test]
fn ids_are_the_supported_aspect_ratios_in_their_order() {
    let tiles = Tensor::rand(-1f32, 1f32, (1, 1, 4, 3, 28, 28), &Device::Cpu).unwrap();
    // Of the model's config.json, and before them the missing image, whose first tile the mask has as a real one.
    let supported = [[0, 0], [1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1]];
    for (id, [down, across]) in supported.into_iter().enumerate() {
        let num_real = (down * across).max(1) as usize;
        let mask: Vec<f32> = (0..4).map(|tile| f32::from(u8::from(tile < num_real))).collect();
        let mask = Tensor::from_vec(mask, (1, 1, 4), &Device::Cpu).unwrap();
        // Padding tiles are zeros.
        let pixels = tiles.broadcast_mul(&mask.reshape((1, 1, 4, 1, 1, 1)).unwrap()).unwrap();
        let id = Tensor::new(&[[id as u32]], &Device::Cpu).unwrap();
        let images = values(&pixels);
        let shape = [1, 1, 4, 3, 28, 28];
        let own = Pixels { images: &images, shape, aspect_ratio: Some(&[[down, across]]) };
        let states = tower().encode_image(&pixels, &id, &mask).unwrap();
        assert!(values(&states) == encoder().encode_pixels(&own).unwrap().embeddings, "{down}x{across}");
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let inputs = expected();
    let (pixels, ids, mask) = (&inputs["pixel_values"], &inputs["aspect_ratio_ids"], &inputs["aspect_ratio_mask"]);
    let tensor = |values: &[i64], dims: &[usize]| Tensor::from_slice(values, dims, &Device::Cpu).unwrap();
    let tower = tower();
    for (says, pixels, ids, mask) in [
        ("pixel_values must be [b,", &pixels.squeeze(1).unwrap(), ids, mask),
        ("found U8", &pixels.to_dtype(DType::U8).unwrap(), ids, mask),
        ("aspect_ratio_ids must be [2, 1]", pixels, &ids.t().unwrap(), mask),
        ("from 0 to 8, found 9", pixels, &tensor(&[3, 9], &[2, 1]), mask),
        ("from 0 to 8, found -1", pixels, &tensor(&[-1, 1], &[2, 1]), mask),
        ("aspect_ratio_mask must be [2, 1, 4]", pixels, ids, &mask.squeeze(1).unwrap()),
        // The mask is of other aspect ratios than the ids.
        ("image 0 must have 2 ones", pixels, &tensor(&[2, 1], &[2, 1]), mask),
        ("exactly max_num_tiles = 4 tiles", &pixels.narrow(2, 0, 3).unwrap(), ids, &mask.narrow(2, 0, 3).unwrap()),
        ("finite", &(pixels * f64::INFINITY).unwrap(), ids, mask),
    ] {
        let refusal = tower.encode_image(pixels, ids, mask).unwrap_err().to_string();
        assert!(refusal.contains(says), "{says}: {refusal}");
    }
    assert!(tower.encode_image(pixels, ids, mask).is_ok());
}
