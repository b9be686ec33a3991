//! The canvas and the resized picture's size are those of torchtune and of Hugging Face, for two thousand sizes.

use tilesight::config::aspect_ratios;
use tilesight::error::{Error, ImageError};
use tilesight::image::{Canvas, Preprocess, choose_canvas};

use crate::golden_images::{Golden, seeded_numbers};

#[test]
fn canvas_and_size_are_the_references() {
    let golden = Golden::read("canvas.safetensors");
    let (_, cases) = golden.u16("case");
    for (reference, preprocess) in [("torchtune", Preprocess::Torchtune), ("hf", Preprocess::Pil)] {
        let (_, expected) = golden.u16(reference);
        assert_eq!(expected.len(), cases.len());
        assert!(cases.len() > 4 * 2000);
        for (case, expected) in cases.as_chunks::<4>().0.iter().zip(expected.as_chunks::<4>().0) {
            let [width, height, tile_size, max_num_tiles] = case.map(usize::from);
            let [down, across, resized_height, resized_width] = expected.map(usize::from);
            let found = choose_canvas(width, height, tile_size, max_num_tiles, preprocess);
            if resized_height == 0 {
                let Err(Error::Image(ImageError::TooNarrow { canvas_width, canvas_height, .. })) = found else {
                    panic!("{case:?}: torchtune fails here, found {found:?}");
                };
                assert_eq!([canvas_height, canvas_width], [down * tile_size, across * tile_size], "{case:?}");
                continue;
            }
            let expected = Canvas { aspect_ratio: [down, across], resized: [resized_height, resized_width] };
            assert_eq!(found.unwrap(), expected, "{reference} {case:?}");
        }
    }
}

#[test]
fn enumerating_every_canvas_gives_the_same() {
    let mut numbers = seeded_numbers(3);
    let mut side = |most: u64| (numbers.next().unwrap() % most + 1) as usize;
    for _ in 0..4000 {
        let (tile_size, max_num_tiles) = (side(40), side(60));
        let (width, height) = (side(3000), side(3000));
        for preprocess in Preprocess::ALL {
            let Ok(found) = choose_canvas(width, height, tile_size, max_num_tiles, preprocess) else {
                continue;
            };
            let expected = best_of_all(width, height, tile_size, max_num_tiles, preprocess);
            assert_eq!(found.aspect_ratio, expected, "{width}x{height}, {tile_size}, {max_num_tiles}, {preprocess}");
        }
    }
}

/// The references' rule, word by word.
fn best_of_all(
    width: usize,
    height: usize,
    tile_size: usize,
    max_num_tiles: usize,
    preprocess: Preprocess,
) -> [usize; 2] {
    let divide = |tiles: usize, side: usize| match preprocess {
        Preprocess::Pil => (tiles * tile_size) as f64 / side as f64,
        _ => f64::from((tiles * tile_size) as f32 / side as f32),
    };
    let canvases: Vec<(f64, [usize; 2])> = aspect_ratios(max_num_tiles)
        .map(|(down, across)| (divide(down, height).min(divide(across, width)), [down, across]))
        .collect();
    let scales = || canvases.iter().map(|(scale, _)| *scale);
    let scale = match scales().filter(|scale| *scale >= 1.0).reduce(f64::min) {
        Some(scale) => scale,
        None => scales().fold(0.0, f64::max),
    };
    let chosen = canvases.iter().filter(|canvas| canvas.0 == scale);
    chosen.map(|(_, canvas)| *canvas).min_by_key(|[down, across]| down * across).unwrap()
}

#[test]
fn the_largest_configuration_is_chosen_at_once() {
    const MOST: usize = 1 << 24;
    let start = std::time::Instant::now();
    for _ in 0..1000 {
        let huge = choose_canvas(MOST, MOST - 1, 560, MOST, Preprocess::Pil).unwrap();
        assert!(huge.num_tiles() <= MOST);
        let flat = choose_canvas(usize::MAX >> 11, 1, MOST, MOST, Preprocess::Pil).unwrap();
        assert_eq!(flat.resized, [1, MOST * MOST]);
    }
    // Milliseconds on any machine; a search through all canvases of so many tiles would take hours.
    assert!(start.elapsed().as_secs() < 60, "took {:?}", start.elapsed());
}

#[test]
fn no_pixels_are_refused() {
    for (width, height) in [(0, 5), (5, 0), (0, 0)] {
        let found = choose_canvas(width, height, 560, 4, Preprocess::Pil);
        assert!(matches!(found, Err(Error::Image(ImageError::Empty { .. }))), "{found:?}");
    }
}
