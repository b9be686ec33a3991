//! Whatever the bytes, decoding gives a picture or a typed error; and limits are kept before memory is taken.

use tilesight::error::{Error, ImageError};
use tilesight::image::{Image, Limits};

use crate::golden_data::golden;
use crate::golden_images::{Golden, files_to_decode, seeded_numbers};

/// Decodes, and holds the header against the picture.
fn decode(name: &str, bytes: &[u8]) -> Result<Image, ImageError> {
    let limits = Limits { max_side: 4096, max_pixels: 1 << 20, ..Limits::default() };
    let image = match Image::decode(bytes, &limits) {
        Ok(image) => image,
        Err(Error::Image(e)) => return Err(e),
        Err(e) => panic!("{name}: {e:?}"),
    };
    let size = (image.width(), image.height());
    assert_eq!(Image::dimensions(bytes, &limits).unwrap(), size, "{name}");
    assert_eq!(image.rgb().len(), size.0 * size.1 * 3, "{name}");
    Ok(image)
}

#[test]
fn the_header_tells_what_decoding_gives() {
    for (name, bytes) in files_to_decode() {
        decode(&name, &bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
}

#[test]
fn limits_are_inclusive() {
    let bytes = std::fs::read(golden("images/rocket.jpg")).unwrap();
    let limits = |max_side, max_pixels| Limits { max_side, max_pixels, ..Limits::default() };
    let read = |max_side, max_pixels| Image::dimensions(&bytes, &limits(max_side, max_pixels));
    assert_eq!(read(640, 640 * 427).unwrap(), (640, 427));
    for (max_side, max_pixels) in [(639, usize::MAX), (usize::MAX, 640 * 427 - 1)] {
        let refused = read(max_side, max_pixels);
        assert!(
            matches!(refused, Err(Error::Image(ImageError::TooLarge { width: 640, height: 427, .. }))),
            "{refused:?}"
        );
        let decoded = Image::decode(&bytes, &limits(max_side, max_pixels));
        assert!(matches!(decoded, Err(Error::Image(ImageError::TooLarge { .. }))));
    }
}

#[test]
fn a_header_that_claims_a_huge_picture_takes_no_memory() {
    let files: std::collections::BTreeMap<_, _> = files_to_decode().into_iter().collect();
    let mut png = files["rgb8.png"].clone();
    png[16..24].copy_from_slice(&[0, 1, 0x86, 0xa0, 0, 1, 0x86, 0xa0]);
    let crc = crc32fast::hash(&png[12..29]);
    png[29..33].copy_from_slice(&crc.to_be_bytes());

    let mut jpeg = files["420_37x23.jpg"].clone();
    let frame = jpeg.windows(2).position(|marker| marker == [0xff, 0xc0]).unwrap();
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0xff, 0xdc, 0xff, 0xdc]);

    let mut webp = files["exif_rotated.webp"].clone();
    webp[24..30].copy_from_slice(&[0xfe, 0xff, 0, 0xfe, 0xff, 0]);
    let mut animation = files["animated_lossy.webp"].clone();
    animation[24..30].copy_from_slice(&[0xfe, 0xff, 0, 0xfe, 0xff, 0]);

    let before = peak_memory_bytes();
    for (claimed, bytes) in [(100_000, png), (65_500, jpeg), (65_535, webp), (65_535, animation)] {
        for refused in [
            Image::decode(&bytes, &Limits::default()).map(|_| ()),
            Image::dimensions(&bytes, &Limits::default()).map(|_| ()),
        ] {
            let Err(Error::Image(ImageError::TooLarge { width, height, .. })) = refused else {
                panic!("{claimed}: {refused:?}");
            };
            assert_eq!((width, height), (claimed, claimed));
        }
    }
    // The crate's other tests run meanwhile in this process, and take less than 1 GB; the least of the claims is 12 GB.
    assert!(peak_memory_bytes() - before < 1 << 30);
}

/// The most memory this process has had; 0 where the system does not tell.
fn peak_memory_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0 kB");
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

#[test]
fn bytes_of_no_known_format_are_refused() {
    for bytes in [&b""[..], b"\xff\xd8", b"GIF89a....", b"RIFF\x04\0\0\0WAVE", b"\x89PNG\r\n\x1a", b"<svg/>"] {
        let refused = Image::decode(bytes, &Limits::default());
        let Err(Error::Image(ImageError::UnknownFormat { found })) = refused else {
            panic!("{refused:?}");
        };
        assert!(bytes.starts_with(&found) && found.len() == bytes.len().min(8));
    }
}

#[test]
fn sixteen_bits_of_grey_are_not_supported() {
    let files: std::collections::BTreeMap<_, _> = files_to_decode().into_iter().collect();
    let mut png = files["gray_alpha16.png"].clone();
    png[25] = 0;
    let crc = crc32fast::hash(&png[12..29]);
    png[29..33].copy_from_slice(&crc.to_be_bytes());
    assert!(matches!(decode("gray16", &png), Err(ImageError::Unsupported { format: "PNG", .. })));
}

#[test]
fn a_jpeg_of_endless_scans_is_refused() {
    let files: std::collections::BTreeMap<_, _> = files_to_decode().into_iter().collect();
    let whole = &files["420_progressive_37x23.jpg"];
    let starts: Vec<usize> = (0..whole.len()).filter(|&at| whole[at..].starts_with(b"\xff\xda")).collect();
    // The last scan again: it refines the same bits.
    let of_scans = |num: usize| {
        let mut jpeg = whole[..whole.len() - 2].to_vec();
        for _ in starts.len()..num {
            jpeg.extend_from_slice(&whole[starts[starts.len() - 1]..whole.len() - 2]);
        }
        jpeg.extend_from_slice(b"\xff\xd9");
        jpeg
    };
    let max_scans = Limits::default().max_scans;
    assert!(starts.len() < max_scans / 2, "an encoder writes {} scans", starts.len());
    decode("most", &of_scans(max_scans)).unwrap();
    for found in [max_scans + 1, 2000] {
        let refused = decode("scans", &of_scans(found));
        assert_eq!(refused, Err(ImageError::TooManyScans { found, max_scans }));
    }
}

#[test]
fn a_truncated_file_is_refused_at_every_length() {
    for (name, bytes) in files_to_decode() {
        let whole = decode(&name, &bytes).unwrap();
        let step = (bytes.len() / 200).max(1);
        for len in (0..bytes.len()).rev().step_by(step).chain(bytes.len().saturating_sub(40)..bytes.len()) {
            match decode(&name, &bytes[..len]) {
                // What follows the pixels may be absent: an end marker, metadata, an animation's other frames.
                Ok(image) => assert_eq!(image, whole, "{name} cut to {len}"),
                Err(ImageError::Damaged { .. } | ImageError::UnknownFormat { .. }) => {}
                Err(e) => panic!("{name} cut to {len}: {e}"),
            }
        }
    }
}

#[test]
fn a_jpeg_that_ends_early_is_refused_where_pillow_does() {
    let golden = Golden::read("decoded.safetensors");
    for (name, bytes) in files_to_decode() {
        if name.ends_with(".jpg") {
            let (_, accepted) = golden.i64(&format!("{name}.accepted_cuts"));
            let found = (1..=60).filter(|&cut| decode(&name, &bytes[..bytes.len() - cut as usize]).is_ok());
            assert_eq!(found.collect::<Vec<i64>>(), accepted, "{name}");
        }
    }
}

#[test]
fn damaged_bytes_give_a_picture_or_a_typed_error() {
    let mut numbers = seeded_numbers(11);
    let mut below = |limit: usize| (numbers.next().unwrap() % limit as u64) as usize;
    let before = peak_memory_bytes();
    let files = files_to_decode();
    let mut mutants = std::collections::BTreeMap::<&str, usize>::new();
    for (name, whole) in &files {
        for _ in 0..60 {
            let mut bytes = whole.clone();
            for _ in 0..=below(4) {
                let at = below(bytes.len());
                match below(4) {
                    0 => bytes[at] = [0, 255][below(2)],
                    _ => bytes[at] ^= 1 << below(8),
                }
            }
            let (from, to) = (below(bytes.len()), below(bytes.len()));
            let range = from.min(to)..from.max(to);
            match below(8) {
                0 | 1 => drop(bytes.drain(range)),
                // A part comes twice, or from another file.
                2 => drop(bytes.splice(range.end..range.end, whole[range].to_vec())),
                3 => {
                    let other = &files[below(files.len())].1;
                    bytes.splice(range.clone(), other.iter().skip(range.start).take(range.len()).copied());
                }
                _ => {}
            }
            let _ = decode(name, &bytes);
            *mutants.entry(name.rsplit('.').next().unwrap()).or_default() += 1;
        }
    }
    assert!(mutants.len() == 3 && mutants.values().all(|&num| num > 2000), "{mutants:?}");
    // A megapixel takes 16 MB at most. The crate's other tests run meanwhile in this process, and take less than 1 GB.
    assert!(peak_memory_bytes() - before < 1 << 30);
}
