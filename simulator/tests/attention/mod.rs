//! What tests of the forms of flash_attention share: images and their rows, and attention in float64 that repeats the keys
//! that stand for several.
#![allow(dead_code, reason = "each test uses its part")]

use std::ops::Range;

use super::elements::{Draw, Dtype, relative_error};

/// The rows of one image.
#[derive(Clone, Debug)]
pub struct Image {
    pub len: usize,
    /// The first rows see all, the others only these.
    pub all_seeing: usize,
    /// Rows that stand for several.
    pub multiples: Vec<(Range<usize>, usize)>,
}

impl Image {
    pub fn plain(len: usize) -> Self {
        Self { len, all_seeing: len, multiples: Vec::new() }
    }

    pub fn multiplicity(&self, row: usize) -> usize {
        self.multiples.iter().find(|(rows, _)| rows.contains(&row)).map_or(1, |(_, multiplicity)| *multiplicity)
    }

    /// Keys that a query sees.
    pub fn num_keys(&self, query: usize) -> usize {
        if query < self.all_seeing { self.len } else { self.all_seeing }
    }
}

/// Images and their queries, keys and values, each `[rows, heads * head_size]`, one image after another.
pub struct Batch {
    pub images: Vec<Image>,
    pub heads: usize,
    pub head_size: usize,
    pub dtype: Dtype,
    /// `[rows, 3 * heads * head_size]`.
    pub qkv: Vec<f32>,
}

impl Batch {
    pub fn draw(images: &[Image], heads: usize, head_size: usize, dtype: Dtype, seed: u64) -> Self {
        let width = heads * head_size;
        let mut draw = Draw(seed);
        let num_rows: usize = images.iter().map(|image| image.len).sum();
        let mut qkv = Vec::new();
        for row in 0..num_rows {
            // Queries and keys whose scores reach far, and rows of values a hundred times the others.
            let scales = [2.0, if row % 7 == 3 { 4.0 } else { 1.0 }, if row % 5 == 4 { 100.0 } else { 1.0 }];
            scales.iter().for_each(|scale| qkv.extend(draw.elements(width, *scale, dtype)));
        }
        Self { images: images.to_vec(), heads, head_size, dtype, qkv }
    }

    pub fn width(&self) -> usize {
        self.heads * self.head_size
    }

    pub fn num_rows(&self) -> usize {
        self.images.iter().map(|image| image.len).sum()
    }

    /// One image by itself.
    pub fn only(&self, number: usize) -> Self {
        let first: usize = self.images[..number].iter().map(|image| image.len).sum();
        let len = 3 * self.width();
        let image = self.images[number].clone();
        let qkv = self.qkv[first * len..(first + image.len) * len].to_vec();
        Self { images: vec![image], qkv, ..*self }
    }

    /// Calls `row(scores, values of the keys)` for every row and head, the keys repeated as often as they count.
    fn for_each_row(&self, mut row: impl FnMut(&[f32], &[&[f32]], usize, usize)) {
        let (width, size) = (self.width(), self.head_size);
        let part = |row: usize, which: usize, head: usize| &self.qkv[(3 * row + which) * width + head * size..][..size];
        let mut first = 0;
        for image in &self.images {
            for query in 0..image.len {
                let repeat = |key: usize| std::iter::repeat_n(first + key, image.multiplicity(key));
                let keys: Vec<usize> = (0..image.num_keys(query)).flat_map(repeat).collect();
                for head in 0..self.heads {
                    let q = part(first + query, 0, head);
                    let dot = |key: &usize| -> f64 {
                        let k = part(*key, 1, head);
                        q.iter().zip(k).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum()
                    };
                    let scores: Vec<f32> = keys.iter().map(|key| (dot(key) / (size as f64).sqrt()) as f32).collect();
                    let values: Vec<&[f32]> = keys.iter().map(|key| part(*key, 2, head)).collect();
                    row(&scores, &values, first + query, head);
                }
            }
            first += image.len;
        }
    }

    /// Attention in float64, and as it comes out where weights are rounded to the element type and sums are f32.
    pub fn references(&self) -> (Vec<f64>, Vec<f32>) {
        let (width, size) = (self.width(), self.head_size);
        let mut exact = vec![0.0f64; self.num_rows() * width];
        let mut naive = vec![0.0f32; self.num_rows() * width];
        self.for_each_row(|scores, values, row, head| {
            let highest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let weights: Vec<f64> = scores.iter().map(|score| (f64::from(*score) - f64::from(highest)).exp()).collect();
            let total: f64 = weights.iter().sum();
            let single: Vec<f32> = scores.iter().map(|score| (score - highest).exp()).collect();
            let single_total: f32 = single.iter().sum();
            let place = row * width + head * size..row * width + (head + 1) * size;
            for (column, (exact, naive)) in exact[place.clone()].iter_mut().zip(&mut naive[place]).enumerate() {
                *exact = weights.iter().zip(values).map(|(p, v)| p * f64::from(v[column])).sum::<f64>() / total;
                let sum: f32 = single.iter().zip(values).map(|(p, v)| self.dtype.round(*p) * v[column]).sum();
                *naive = self.dtype.round(sum / single_total);
            }
        });
        (exact, naive)
    }

    /// Holds a result against both.
    pub fn check(&self, bits: &[u16]) {
        let found: Vec<f32> = bits.iter().map(|bits| self.dtype.value(*bits)).collect();
        let (exact, naive) = self.references();
        let (error, naive_error) = (relative_error(&found, &exact), relative_error(&naive, &exact));
        let limit = 1.1 * naive_error + 2e-5;
        let Self { images, head_size, dtype, .. } = self;
        println!("{} {head_size}: {error:.3e}, naive {naive_error:.3e}", dtype.name());
        assert!(error <= limit, "{dtype:?}, head size {head_size}, {images:?}: {error:.3e}, limit {limit:.3e}");
    }
}

/// One real tile, a padding tile that stands for three, and an alignment row that stands for many.
pub fn padded(tokens: usize, multiplicity: usize) -> Image {
    let multiples = vec![(tokens..2 * tokens, 3), (2 * tokens..2 * tokens + 1, multiplicity)];
    Image { len: 2 * tokens + 1, all_seeing: tokens, multiples }
}
