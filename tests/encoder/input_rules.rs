//! What an encoder takes and what it refuses: every row of torchtune's input rules, in both semantics where they
//! differ. After a refusal the next call is right.

use tilesight::error::InputError;
use tilesight::image::Tiles;
use tilesight::plan::Semantics;
use tilesight::{Encoder, Error, Pixels};

use crate::closeness::{F32_LIMIT, assert_close};
use crate::golden_cases::Case;
use crate::golden_data::golden;
use crate::noise::noise;
use crate::on_cpu::on_cpu;

/// Tile side and channels of the golden set `tiny`.
const SIDE: usize = 28;

fn encoder(set: &str, semantics: Semantics) -> Encoder {
    on_cpu().model(golden(set)).semantics(semantics).threads(1).build().unwrap()
}

/// An encoder of `tiny`, and the golden case that it must still get right after whatever was asked of it.
struct Asked {
    encoder: Encoder,
    semantics: Semantics,
}

impl Asked {
    fn new(semantics: Semantics) -> Self {
        Self { encoder: encoder("tiny", semantics), semantics }
    }

    /// Encodes pixels of noise; `aspect_ratio` has one entry for each of `[b, i]`.
    fn pixels(&mut self, shape: [usize; 6], aspect_ratio: Option<&[[i64; 2]]>) -> Result<Vec<f32>, InputError> {
        let images = noise(shape.iter().product(), 1);
        self.call(|encoder| Ok(encoder.encode_pixels(&Pixels { images: &images, shape, aspect_ratio })?.embeddings))
    }

    /// One image of `t` tiles.
    fn image(&mut self, t: usize, aspect_ratio: [i64; 2]) -> Result<Vec<f32>, InputError> {
        self.pixels([1, 1, t, 3, SIDE, SIDE], Some(&[aspect_ratio]))
    }

    #[track_caller]
    fn call(&mut self, f: impl FnOnce(&mut Encoder) -> Result<Vec<f32>, Error>) -> Result<Vec<f32>, InputError> {
        match f(&mut self.encoder) {
            Ok(embeddings) => Ok(embeddings),
            Err(Error::Input(refusal)) => {
                let golden_case = match self.semantics {
                    Semantics::Torchtune => "tiny/case1.safetensors",
                    Semantics::Meta => "tiny/meta0.safetensors",
                };
                let case = Case::read(&golden(golden_case));
                let after = self.encoder.encode_pixels(&case.pixels()).unwrap();
                assert_close("after a refusal", &after.embeddings, &case.tensors["out_f64"].values, F32_LIMIT);
                Err(refusal)
            }
            Err(other) => panic!("{other:?}"),
        }
    }
}

#[test]
fn without_an_aspect_ratio_one_tile_is_one_by_one() {
    let mut asked = Asked::new(Semantics::Torchtune);
    let shape = [2, 1, 1, 3, SIDE, SIDE];
    let without = asked.pixels(shape, None).unwrap();
    assert!(without == asked.pixels(shape, Some(&[[1, 1], [1, 1]])).unwrap());
    assert!(without != asked.pixels(shape, Some(&[[0, 0], [1, 1]])).unwrap());
}

#[test]
fn without_an_aspect_ratio_several_tiles_are_refused() {
    let mut asked = Asked::new(Semantics::Torchtune);
    for num_tiles in [2, 4, 5] {
        let refusal = asked.pixels([1, 1, num_tiles, 3, SIDE, SIDE], None).unwrap_err();
        assert_eq!(refusal, InputError::NoAspectRatio { num_tiles });
    }
    let refusal = Asked::new(Semantics::Meta).pixels([1, 1, 4, 3, SIDE, SIDE], None).unwrap_err();
    assert_eq!(refusal, InputError::NoAspectRatio { num_tiles: 4 });
}

#[test]
fn an_aspect_ratio_of_more_tiles_than_given_is_refused() {
    let mut asked = Asked::new(Semantics::Torchtune);
    let too_few = |height, width, num_tiles| InputError::TooFewTiles { image: 0, height, width, num_tiles };
    assert_eq!(asked.image(1, [1, 2]).unwrap_err(), too_few(1, 2, 1));
    assert_eq!(asked.image(3, [2, 2]).unwrap_err(), too_few(2, 2, 3));
    // As many as the tables hold, but three by three are nine.
    assert_eq!(asked.image(4, [3, 3]).unwrap_err(), too_few(3, 3, 4));
    assert_eq!(Asked::new(Semantics::Meta).image(4, [3, 3]).unwrap_err(), too_few(3, 3, 4));
    // The image at fault is named.
    let refusal = asked.pixels([2, 2, 2, 3, SIDE, SIDE], Some(&[[1, 1], [1, 2], [2, 1], [1, 3]])).unwrap_err();
    assert_eq!(refusal, InputError::TooFewTiles { image: 3, height: 1, width: 3, num_tiles: 2 });
}

#[test]
fn an_aspect_ratio_beyond_the_tables_is_refused() {
    let mut asked = Asked::new(Semantics::Torchtune);
    let beyond = |height, width| InputError::AspectRatio { image: 0, max_num_tiles: 4, height, width };
    for (t, [height, width]) in [
        (5, [1, 5]),
        (5, [5, 1]),
        (4, [5, 0]),
        (4, [0, 5]),
        (4, [-1, 1]),
        (4, [1, -1]),
        (4, [-2, -2]),
        (4, [i64::MIN, i64::MIN]),
        (4, [i64::MAX, i64::MAX]),
        (4, [1 << 32, 1 << 32]),
    ] {
        assert_eq!(asked.image(t, [height, width]).unwrap_err(), beyond(height, width));
    }
    let mut asked = Asked::new(Semantics::Meta);
    assert_eq!(asked.image(4, [1, 5]).unwrap_err(), beyond(1, 5));
    assert_eq!(asked.image(4, [-1, 1]).unwrap_err(), beyond(-1, 1));
}

/// Golden cases of what looks forbidden and is not: grids of more tiles than T, more tiles than T, a missing image.
#[test]
fn what_torchtune_takes_is_taken() {
    let cases: [(&str, &str, usize, &[[i64; 2]]); 3] = [
        ("bare", "case0.safetensors", 9, &[[3, 3]]),
        ("bare", "case1.safetensors", 5, &[[2, 2], [1, 3]]),
        ("wide", "case0.safetensors", 6, &[[5, 1], [1, 5], [2, 2], [0, 0]]),
    ];
    for (set, file, num_tiles, aspect_ratios) in cases {
        let case = Case::read(&golden(set).join(file));
        let pixels = case.pixels();
        assert_eq!((pixels.shape[2], pixels.aspect_ratio.unwrap()), (num_tiles, aspect_ratios));
        let mut encoder = encoder(set, Semantics::Torchtune);
        assert!(num_tiles > encoder.config().max_num_tiles);
        let found = encoder.encode_pixels(&pixels).unwrap();
        assert_close(file, &found.embeddings, &case.tensors["out_f64"].values, F32_LIMIT);
    }
}

#[test]
fn a_side_of_zero_adds_nothing() {
    let mut asked = Asked::new(Semantics::Torchtune);
    let missing = asked.image(2, [0, 0]).unwrap();
    assert!(missing == asked.image(2, [0, 3]).unwrap());
    assert!(missing == asked.image(2, [4, 0]).unwrap());
    assert!(missing != asked.image(2, [1, 1]).unwrap());
}

#[test]
fn meta_takes_exactly_the_tiles_of_its_tables() {
    let mut asked = Asked::new(Semantics::Meta);
    for found in [1, 2, 3, 5, 9] {
        assert_eq!(asked.image(found, [1, 1]).unwrap_err(), InputError::MetaTiles { expected: 4, found });
    }
    assert_eq!(
        asked.pixels([1, 1, 1, 3, SIDE, SIDE], None).unwrap_err(),
        InputError::MetaTiles { expected: 4, found: 1 }
    );
    assert!(asked.image(4, [1, 1]).is_ok());
    assert!(asked.image(4, [0, 0]).is_ok(), "a missing image");
}

/// Hugging Face's tables have a row for each grid of at most T tiles, and for a missing image.
#[test]
fn grids_without_a_row_in_the_tables_are_refused() {
    let mut asked = encoder("hf_tiny", Semantics::Torchtune);
    let mut ask = |t: usize, [height, width]: [i64; 2]| {
        let shape = [1, 1, t, 3, SIDE, SIDE];
        let images = noise(shape.iter().product(), 2);
        asked.encode_pixels(&Pixels { images: &images, shape, aspect_ratio: Some(&[[height, width]]) })
    };
    for (t, [height, width]) in [(9, [3usize, 3]), (6, [2, 3]), (6, [3, 2]), (8, [2, 4]), (4, [0, 1])] {
        let Err(Error::Input(refusal)) = ask(t, [height as i64, width as i64]) else { panic!("{height}x{width}") };
        assert!(
            matches!(refusal, InputError::NoPositionTable { image: 0, height: h, width: w, max_num_tiles: 4, .. }
                if (h, w) == (height, width)),
            "{refusal:?}"
        );
    }
    for (t, aspect_ratio) in [(4, [2, 2]), (6, [2, 2]), (1, [0, 0]), (4, [4, 1])] {
        assert!(ask(t, aspect_ratio).is_ok(), "{aspect_ratio:?}");
    }
    let Err(Error::Input(refusal)) = ask(5, [5, 1]) else { panic!("taken") };
    assert_eq!(refusal, InputError::AspectRatio { image: 0, max_num_tiles: 4, height: 5, width: 1 });
}

/// torchtune's model for one tile asks for the aspect ratio and does not look at it.
#[test]
fn the_model_of_one_tile_ignores_what_it_asks_for() {
    let mut encoder = encoder("one_tile", Semantics::Torchtune);
    let shape = [1, 1, 2, 3, 42, 42];
    let images = noise(shape.iter().product(), 3);
    let mut ask = |aspect_ratio: Option<&[_]>| encoder.encode_pixels(&Pixels { images: &images, shape, aspect_ratio });
    assert!(matches!(ask(None), Err(Error::Input(InputError::NoAspectRatio { num_tiles: 2 }))));
    let expected = ask(Some(&[[1, 2]])).unwrap();
    for ignored in [[1, 1], [0, 0], [7, 3], [-1, 5], [i64::MIN, i64::MAX]] {
        assert!(ask(Some(&[ignored])).unwrap() == expected, "{ignored:?}");
    }
    let refusal = ask(Some(&[[1, 1], [1, 1]]));
    assert!(matches!(refusal, Err(Error::Input(InputError::Shape { tensor: "aspect_ratio", .. }))), "{refusal:?}");
}

#[test]
fn pixels_of_another_shape_are_refused() {
    let mut asked = Asked::new(Semantics::Torchtune);
    let ratio: &[[i64; 2]] = &[[1, 1]];
    // torchtune takes the first two, for their patches are as many.
    for (channels, height, width) in [(3, 28, 41), (3, 14, 56), (3, 29, 29), (1, 28, 28), (4, 28, 28), (3, 28, 0)] {
        let shape = [1, 1, 1, channels, height, width];
        let refusal = asked.pixels(shape, Some(ratio)).unwrap_err();
        let expected = "[1, 1, 1, 3, 28, 28]".to_string();
        assert_eq!(refusal, InputError::Shape { tensor: "images", expected, found: shape.to_vec() });
    }
    // The shape fits the model, but not the values.
    for len in [0, 3 * 28 * 28 - 1, 3 * 28 * 28 + 1, 2 * 3 * 28 * 28] {
        let images = noise(len, 1);
        let pixels = Pixels { images: &images, shape: [1, 1, 1, 3, SIDE, SIDE], aspect_ratio: Some(ratio) };
        let refusal = asked.call(|encoder| Ok(encoder.encode_pixels(&pixels)?.embeddings)).unwrap_err();
        assert!(matches!(refusal, InputError::Shape { tensor: "images", .. }), "{refusal:?}");
    }
    // More values than there are numbers for.
    for shape in [[usize::MAX, 2, 1, 3, SIDE, SIDE], [1 << 62, 1 << 62, 1, 3, SIDE, SIDE]] {
        let pixels = Pixels { images: &[], shape, aspect_ratio: None };
        let refusal = asked.call(|encoder| Ok(encoder.encode_pixels(&pixels)?.embeddings)).unwrap_err();
        assert!(matches!(refusal, InputError::Shape { tensor: "images", .. }), "{refusal:?}");
    }
    for ratios in [&[][..], &[[1, 1], [1, 1]]] {
        let refusal = asked.pixels([1, 1, 1, 3, SIDE, SIDE], Some(ratios)).unwrap_err();
        let (expected, found) = ("[1, 1, 2]".to_string(), vec![ratios.len(), 2]);
        assert_eq!(refusal, InputError::Shape { tensor: "aspect_ratio", expected, found });
    }
}

#[test]
fn nothing_to_encode_is_refused() {
    for semantics in [Semantics::Torchtune, Semantics::Meta] {
        let mut asked = Asked::new(semantics);
        for (shape, name) in [
            ([0, 1, 4, 3, SIDE, SIDE], "samples"),
            ([1, 0, 4, 3, SIDE, SIDE], "images"),
            ([1, 1, 0, 3, SIDE, SIDE], "tiles"),
        ] {
            for aspect_ratio in [None, Some(&[][..]), Some(&[[1, 1]][..])] {
                assert_eq!(asked.pixels(shape, aspect_ratio).unwrap_err(), InputError::Empty { name });
            }
        }
    }
}

#[test]
fn pixels_that_are_not_finite_are_refused() {
    let tile_len = 3 * SIDE * SIDE;
    for (semantics, value) in
        [(Semantics::Torchtune, f32::NAN), (Semantics::Meta, f32::INFINITY), (Semantics::Torchtune, f32::NEG_INFINITY)]
    {
        let mut asked = Asked::new(semantics);
        // In a real tile, at the very end, and in a padding tile, which is computed too.
        for index in [0, tile_len - 1, 4 * tile_len, 8 * tile_len - 1] {
            let mut images = noise(8 * tile_len, 4);
            images[index] = value;
            images[8 * tile_len - 1] = value;
            let shape = [1, 2, 4, 3, SIDE, SIDE];
            let pixels = Pixels { images: &images, shape, aspect_ratio: Some(&[[1, 1], [2, 1]]) };
            let refusal = asked.call(|encoder| Ok(encoder.encode_pixels(&pixels)?.embeddings)).unwrap_err();
            assert_eq!(refusal, InputError::NotFinite { tensor: "images", index }, "the first of two");
        }
        let mut tiles = Tiles { aspect_ratio: [1, 2], pixels: noise(2 * tile_len, 5) };
        tiles.pixels[tile_len + 7] = value;
        let refusal = asked.call(|encoder| Ok(encoder.encode_tiles(&[tiles])?.embeddings)).unwrap_err();
        assert_eq!(refusal, InputError::NotFinite { tensor: "images", index: tile_len + 7 });
    }
}

#[test]
fn tiles_that_do_not_fit_are_refused() {
    let tile_len = 3 * SIDE * SIDE;
    for semantics in [Semantics::Torchtune, Semantics::Meta] {
        let mut asked = Asked::new(semantics);
        let mut ask = |aspect_ratio: [usize; 2], len: usize| {
            let tiles = [
                Tiles { aspect_ratio: [1, 1], pixels: noise(tile_len, 6) },
                Tiles { aspect_ratio, pixels: noise(len, 7) },
            ];
            asked.call(|encoder| Ok(encoder.encode_tiles(&tiles)?.embeddings))
        };
        assert_eq!(ask([0, 0], 0).unwrap_err(), InputError::Empty { name: "tiles of an image" });
        assert_eq!(ask([0, 2], tile_len).unwrap_err(), InputError::Empty { name: "tiles of an image" });
        let beyond = InputError::AspectRatio { image: 1, max_num_tiles: 4, height: 5, width: 1 };
        assert_eq!(ask([5, 1], 5 * tile_len).unwrap_err(), beyond);
        for (aspect_ratio, len) in
            [([1, 1], tile_len - 1), ([1, 2], tile_len), ([1, 1], 0), ([usize::MAX; 2], tile_len), ([1 << 62, 4], 0)]
        {
            let refusal = ask(aspect_ratio, len).unwrap_err();
            assert!(matches!(refusal, InputError::Shape { tensor: "pixels", .. }), "{aspect_ratio:?}: {refusal:?}");
        }
        let nine = ask([3, 3], 9 * tile_len);
        match semantics {
            Semantics::Torchtune => assert!(nine.is_ok()),
            Semantics::Meta => assert_eq!(nine.unwrap_err(), InputError::MetaTiles { expected: 4, found: 9 }),
        }
    }
}

#[test]
fn the_callers_memory_must_fit() {
    let mut asked = Asked::new(Semantics::Torchtune);
    let tiles = [Tiles { aspect_ratio: [1, 2], pixels: noise(2 * 3 * SIDE * SIDE, 8) }];
    let len = 2 * 5 * 96;
    let mut embeddings = vec![f32::NAN; len + 1];
    for wrong in [0, len - 1, len + 1] {
        let into = &mut embeddings[..wrong];
        let refusal = asked.call(|encoder| encoder.encode_tiles_into(&tiles, into).map(|()| vec![])).unwrap_err();
        assert!(matches!(refusal, InputError::Shape { tensor: "embeddings", .. }), "{refusal:?}");
    }
    let expected = asked.encoder.encode_tiles(&tiles).unwrap();
    asked.encoder.encode_tiles_into(&tiles, &mut embeddings[..len]).unwrap();
    assert!(embeddings[..len] == expected.embeddings);
    assert!(asked.encoder.encode_tiles(&[]).unwrap().embeddings.is_empty(), "no pictures are no error");
}

#[test]
fn plans_of_absurd_pictures_are_refused() {
    let tiny = encoder("tiny", Semantics::Torchtune);
    for aspect_ratio in [[1 << 40, 1 << 40], [usize::MAX, 2], [5, 1]] {
        let refusal = tiny.plan(&[[1, 1], aspect_ratio]);
        assert!(matches!(refusal, Err(Error::Input(InputError::AspectRatio { image: 1, .. }))), "{refusal:?}");
    }
    // A model of one tile has no tables that would bound an image.
    let one_tile = encoder("one_tile", Semantics::Torchtune);
    for aspect_ratio in [[1 << 40, 1 << 40], [usize::MAX, 1]] {
        let refusal = one_tile.plan(&[aspect_ratio]);
        assert!(matches!(refusal, Err(Error::Input(InputError::OutOfMemory { .. }))), "{refusal:?}");
    }
}
