//! Large pictures of one colour: the most work for the fewest bytes.

use tilesight::image::Limits;

const SIDE: usize = 2000;

/// Megapixels of each.
pub const MEGAPIXELS: u64 = (SIDE * SIDE / 1_000_000) as u64;

pub fn jpeg(progressive: bool) -> Vec<u8> {
    let mut encoder = mozjpeg::Compress::new(mozjpeg::ColorSpace::JCS_RGB);
    encoder.set_size(SIDE, SIDE);
    if progressive {
        encoder.set_progressive_mode();
    }
    let mut encoder = encoder.start_compress(Vec::new()).unwrap();
    encoder.write_scanlines(&vec![90; SIDE * SIDE * 3]).unwrap();
    encoder.finish().unwrap()
}

/// The last scan of a JPEG again, up to the most that are decoded.
pub fn with_most_scans(jpeg: &[u8]) -> Vec<u8> {
    let starts: Vec<usize> = (0..jpeg.len()).filter(|&at| jpeg[at..].starts_with(b"\xff\xda")).collect();
    let (whole, end) = jpeg.split_at(jpeg.len() - 2);
    let last = &whole[starts[starts.len() - 1]..];
    [whole, &last.repeat(Limits::default().max_scans - starts.len()), end].concat()
}

pub fn png(color: png::ColorType, depth: png::BitDepth) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, SIDE as u32, SIDE as u32);
    encoder.set_color(color);
    encoder.set_depth(depth);
    let len = SIDE * SIDE * color.samples() * depth as usize / 8;
    encoder.write_header().unwrap().write_image_data(&vec![90; len]).unwrap();
    bytes
}

pub fn lossless_webp() -> Vec<u8> {
    let mut bytes = Vec::new();
    let pixels = vec![90; SIDE * SIDE * 4];
    let encoder = image_webp::WebPEncoder::new(&mut bytes);
    encoder.encode(&pixels, SIDE as u32, SIDE as u32, image_webp::ColorType::Rgba8).unwrap();
    bytes
}
