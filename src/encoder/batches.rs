//! How images are cut into batches.

use std::ops::Range;

use super::Encoder;
use crate::plan::{Batch, BatchShape, SequenceLayout};

/// A batch that is being filled: images come into it in their order while the budget of tiles has room for them, and the
/// first one whatever it needs. No other rule decides what is computed together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TileBudget {
    max_tiles: usize,
    tiles: usize,
    len: usize,
}

impl TileBudget {
    /// An empty batch of so many tiles at most.
    pub(crate) fn new(max_tiles: usize) -> Self {
        Self { max_tiles, tiles: 0, len: 0 }
    }

    /// Takes in what has so many tiles; false where it is for the next batch.
    pub(crate) fn try_add(&mut self, tiles: usize) -> bool {
        let sum = self.tiles.saturating_add(tiles);
        let fits = self.len == 0 || sum <= self.max_tiles;
        if fits {
            (self.tiles, self.len) = (sum, self.len + 1);
        }
        fits
    }

    /// How many have been taken in.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Whether no tile more can be taken in.
    pub(crate) fn is_full(&self) -> bool {
        self.tiles >= self.max_tiles
    }
}

impl Encoder {
    /// The batches that images are cut into, by their numbers. `computed_tiles` has the tiles that each image takes, as
    /// [`num_computed_tiles`](Self::num_computed_tiles) counts them.
    pub(crate) fn batch_ranges(&self, computed_tiles: impl IntoIterator<Item = usize>) -> Vec<Range<usize>> {
        let mut batches: Vec<Range<usize>> = Vec::new();
        let mut budget = TileBudget::new(self.max_batch_tiles);
        for (number, tiles) in computed_tiles.into_iter().enumerate() {
            match batches.last_mut() {
                Some(batch) if budget.try_add(tiles) => batch.end = number + 1,
                _ => {
                    budget = TileBudget::new(self.max_batch_tiles);
                    budget.try_add(tiles);
                    batches.push(number..number + 1);
                }
            }
        }
        batches
    }

    /// Cuts a row of images, each with its pixels, into batches.
    pub(super) fn batches<'a>(&self, images: Vec<(SequenceLayout, &'a [f32])>) -> Vec<Batch<'a>> {
        let ranges = self.batch_ranges(images.iter().map(|(image, _)| image.tiles.len()));
        let mut images = images.into_iter();
        let batch = |range: Range<usize>| {
            let (images, pixels) = images.by_ref().take(range.len()).unzip();
            Batch { shape: BatchShape { images }, pixels }
        };
        ranges.into_iter().map(batch).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoder::Device;

    #[test]
    fn a_batch_takes_what_fits_and_its_first_whatever_it_needs() {
        let encoder = Encoder::builder().demo().device(Device::Cpu).max_batch_tiles(8).build().unwrap();
        let cut = |tiles: &[usize]| encoder.batch_ranges(tiles.iter().copied());
        assert!(cut(&[]).is_empty());
        assert_eq!(cut(&[9, 1]), [0..1, 1..2]);
        assert_eq!(cut(&[4, 4, 4, 3, 1, 1]), [0..2, 2..5, 5..6]);
        assert_eq!(cut(&[1, 9, 1]), [0..1, 1..2, 2..3]);
    }
}
