//! Work on a picture ends soon after nobody waits for it: whenever that is, in every format, with an error that says so.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tilesight::config::EncoderConfig;
use tilesight::error::{Error, ImageError};
use tilesight::image::{Image, Interrupt, Limits, Preprocess, Preprocessor};

use crate::golden_images::{files_to_decode, picture};
use crate::large;

/// Runs `work` until its look of number `last`, and counts all looks.
fn looks<T>(last: usize, work: impl FnOnce(Interrupt) -> T) -> (T, usize) {
    let looks = AtomicUsize::new(0);
    let condition = || looks.fetch_add(1, Ordering::Relaxed) >= last;
    let result = work(Interrupt::when(&condition));
    (result, looks.into_inner())
}

/// The longest that `work` goes on without a look: of several runs the least, for other programs take their time too.
fn longest_without_look<T>(work: impl Fn(Interrupt) -> T) -> Duration {
    let run = || {
        let seen = Mutex::new((Instant::now(), Duration::ZERO));
        let look = || {
            let mut seen = seen.lock().unwrap();
            *seen = (Instant::now(), seen.1.max(seen.0.elapsed()));
            false
        };
        work(Interrupt::when(&look));
        look();
        seen.into_inner().unwrap().1
    };
    (0..3).map(|_| run()).min().unwrap()
}

#[test]
fn a_picture_is_given_up_at_whichever_look() {
    let limits = Limits::default();
    for (name, bytes) in files_to_decode() {
        let decode = |interrupt: Interrupt| Image::decode_until(&bytes, &limits, interrupt);
        let (whole, all) = looks(usize::MAX, decode);
        assert_eq!(whole.unwrap(), Image::decode(&bytes, &limits).unwrap(), "{name}");
        assert!(all > 0, "{name}");
        for last in (0..all).step_by((all / 50).max(1)) {
            let (given_up, needed) = looks(last, decode);
            assert!(matches!(given_up, Err(Error::Image(ImageError::Interrupted))), "{name}, {last}: {given_up:?}");
            // The decoder's own error is taken for what it is by one look more, in an animation's frame and around it.
            assert!(needed <= last + 3, "{name}: {needed} looks for {last}");
        }
    }
}

#[test]
fn tiles_and_digests_are_given_up_at_whichever_look() {
    let config = EncoderConfig { tile_size: 56, ..EncoderConfig::preset("11b").unwrap() };
    let alpha = (0..300 * 200).map(|k| k as u8).collect();
    let image = Image::from_rgb_and_alpha(200, 300, picture(300, 200), alpha).unwrap();
    let given_up = |last, result: Option<Error>| {
        assert!(matches!(result, Some(Error::Image(ImageError::Interrupted))), "{last}: {result:?}");
    };
    for preprocess in Preprocess::ALL {
        let preprocessor = Preprocessor::new(&config, preprocess).unwrap();
        let (whole, all) = looks(usize::MAX, |interrupt| preprocessor.tiles_until(&image, interrupt));
        assert_eq!(whole.unwrap(), preprocessor.tiles(&image).unwrap(), "{preprocess}");
        for last in (0..all).step_by((all / 50).max(1)) {
            given_up(last, looks(last, |interrupt| preprocessor.tiles_until(&image, interrupt)).0.err());
        }
    }
    let (digest, all) = looks(usize::MAX, |interrupt| image.digest_until(interrupt));
    assert_eq!(digest.unwrap(), image.digest());
    for last in 0..all {
        given_up(last, looks(last, |interrupt| image.digest_until(interrupt)).0.err());
    }
}

#[test]
fn a_large_picture_is_looked_at_often_enough() {
    let decode = |bytes: &[u8]| {
        longest_without_look(|interrupt| Image::decode_until(bytes, &Limits::default(), interrupt).unwrap())
    };
    // Milliseconds for a megapixel. The bounds are there for work that does not look at all, and far above what was measured
    // on two cores under other work: 0.2, 0.8 (2.3 in a scan that holds nothing), 0.3, 0.8 and 11.
    for (name, bytes, bound) in [
        ("baseline JPEG", large::jpeg(false), 50),
        ("progressive JPEG", large::with_most_scans(&large::jpeg(true)), 50),
        ("PNG of one bit", large::png(png::ColorType::Grayscale, png::BitDepth::One), 50),
        ("PNG of 64 bits", large::png(png::ColorType::Rgba, png::BitDepth::Sixteen), 50),
        ("lossless WebP", large::lossless_webp(), 500),
    ] {
        let longest = decode(&bytes);
        println!("{name}, {} bytes: at most {longest:?} without a look", bytes.len());
        assert!(longest < Duration::from_millis(bound * large::MEGAPIXELS), "{name}: {longest:?} without a look");
    }
    // A lossy WebP is decoded without a look: 20 to 60 milliseconds for a megapixel were measured.
    for (name, bytes) in files_to_decode().into_iter().filter(|(name, _)| name == "lossy_rgb_99x64.webp") {
        let longest = (0..20).map(|_| decode(&bytes)).min().unwrap();
        println!("{name}: at most {longest:?} without a look");
        assert!(longest < Duration::from_millis(1000) * 99 * 64 / 1_000_000, "{name}: {longest:?} without a look");
    }
}
