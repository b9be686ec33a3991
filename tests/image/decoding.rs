//! Pictures of every kind decode to what Pillow 12 makes of them, bit for bit. `tests/golden/make_images.py` wrote
//! the pictures and the expected values.

use tilesight::image::{Image, Limits};

use crate::golden_images::{Golden, files_to_decode};

#[test]
fn every_format_and_variant_decodes_as_in_pillow() {
    let expected = Golden::read("decoded.safetensors");
    let mut wrong = Vec::new();
    let files = files_to_decode();
    assert!(files.len() > 200, "found only {} pictures", files.len());
    for (name, bytes) in files {
        let image = match Image::decode(&bytes, &Limits::default()) {
            Ok(image) => image,
            Err(e) => {
                wrong.push(format!("{name}: {e}"));
                continue;
            }
        };
        let (shape, rgb) = expected.u8(&format!("{name}.rgb"));
        assert_eq!(shape, [image.height(), image.width(), 3], "{name}");
        wrong.extend(difference(&rgb, image.rgb()).map(|text| format!("{name}: rgb: {text}")));
        let white = expected.has(&format!("{name}.white")).then(|| expected.u8(&format!("{name}.white")).1);
        let difference = difference(&white.unwrap_or(rgb), &image.over_white().unwrap());
        wrong.extend(difference.map(|text| format!("{name}: over white: {text}")));
    }
    assert!(wrong.is_empty(), "{} pictures differ:\n{}", wrong.len(), wrong.join("\n"));
}

fn difference(expected: &[u8], found: &[u8]) -> Option<String> {
    assert_eq!(expected.len(), found.len());
    let pairs = || expected.iter().zip(found).enumerate().filter(|(_, (a, b))| a != b);
    let (index, (a, b)) = pairs().next()?;
    let most = pairs().map(|(_, (a, b))| a.abs_diff(*b)).max()?;
    let count = pairs().count();
    Some(format!("{count} of {} values, at most by {most}; value {index} must be {a}, found {b}", found.len()))
}

#[test]
fn every_level_at_every_alpha_over_white_rounds_as_in_pillow() {
    let (shape, expected) = Golden::read("over_white.safetensors").u8("white");
    assert_eq!(shape, [256, 256]);
    let rgb = (0..256 * 256).flat_map(|k| [(k % 256) as u8; 3]).collect();
    let alpha = (0..256 * 256).map(|k| (k / 256) as u8).collect();
    let image = Image::from_rgb_and_alpha(256, 256, rgb, alpha).unwrap();
    let found: Vec<u8> = image.over_white().unwrap().as_chunks::<3>().0.iter().map(|pixel| pixel[0]).collect();
    assert_eq!(difference(&expected, &found), None);
}
