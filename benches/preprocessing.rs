//! What a picture from a camera costs on the CPU before its tiles are encoded: decoding, resizing, and the whole way
//! to normalised tiles. The picture is 4000 by 3000 pixels, generated, JPEG 4:2:0 at quality 90.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tilesight::EncoderConfig;
use tilesight::image::{Image, Limits, Preprocess, Preprocessor, resize_float32, resize_uint8};

const WIDTH: usize = 4000;
const HEIGHT: usize = 3000;
/// What the picture is resized to for 4 tiles of 560 pixels: height, width.
const RESIZED: [usize; 2] = [840, 1120];

/// Smooth slopes, edges and some noise, so that it takes about the 3 MB of a photograph.
fn photograph() -> Vec<u8> {
    let mut noise = 1u32;
    let pixel = |k: usize| {
        let (x, y) = (k % WIDTH, k / WIDTH);
        noise = noise.wrapping_mul(1664525).wrapping_add(1013904223);
        let grain = (noise >> 27) as usize;
        let shade = if (x / 97 + y / 61) % 5 == 0 { 70 } else { 0 };
        [x * 150 / WIDTH + shade + grain, y * 180 / HEIGHT + grain, (x + y) * 120 / (WIDTH + HEIGHT) + shade + grain]
            .map(|level| level as u8)
    };
    (0..WIDTH * HEIGHT).flat_map(pixel).collect()
}

fn jpeg_of(rgb: &[u8]) -> Vec<u8> {
    let mut encoder = mozjpeg::Compress::new(mozjpeg::ColorSpace::JCS_RGB);
    encoder.set_size(WIDTH, HEIGHT);
    encoder.set_quality(90.0);
    encoder.set_fastest_defaults();
    encoder.set_chroma_sampling_pixel_sizes((2, 2), (2, 2));
    let mut encoder = encoder.start_compress(Vec::new()).expect("memory for the JPEG");
    encoder.write_scanlines(rgb).expect("memory for the JPEG");
    encoder.finish().expect("memory for the JPEG")
}

fn preprocessing(criterion: &mut Criterion) {
    let rgb = photograph();
    let jpeg = jpeg_of(&rgb);
    println!(
        "{WIDTH}x{HEIGHT} pixels, {:.1} MB JPEG, {} threads",
        jpeg.len() as f64 / 1e6,
        rayon::current_num_threads()
    );
    let values: [f32; 256] = std::array::from_fn(|level| level as f32 / 255.0);
    let image = Image::from_rgb(WIDTH, HEIGHT, rgb.clone()).expect("a picture of that size");
    let config = EncoderConfig::preset("11b").expect("a preset");

    let mut group = criterion.benchmark_group("preprocessing");
    group.throughput(Throughput::Elements((WIDTH * HEIGHT) as u64)).sample_size(20);
    group.bench_function("decode", |b| b.iter(|| Image::decode(black_box(&jpeg), &Limits::default())));
    group.bench_function("dimensions", |b| b.iter(|| Image::dimensions(black_box(&jpeg), &Limits::default())));
    let size = [HEIGHT, WIDTH];
    group.bench_function("resize/pil", |b| b.iter(|| resize_uint8(black_box(&rgb), size, RESIZED)));
    group.bench_function("resize/torchtune", |b| b.iter(|| resize_float32(black_box(&rgb), &values, size, RESIZED)));
    for preprocess in Preprocess::ALL {
        let preprocessor = Preprocessor::new(&config, preprocess).expect("the preset takes pictures");
        group.bench_function(format!("tiles/{preprocess}"), |b| b.iter(|| preprocessor.tiles(black_box(&image))));
    }
    group.finish();
}

criterion_group!(benches, preprocessing);
criterion_main!(benches);
