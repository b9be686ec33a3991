//! flash_attention against float64 that repeats the keys that stand for several.

mod elements;

use std::ops::Range;

use elements::{DTYPES, Draw, Dtype, matrix, relative_error, rows_of};
use tilesight_simulator::machine::testing::{Buffer, Kernel, Params, SEEDS};

const HEAD_SIZES: [usize; 8] = [16, 32, 48, 64, 80, 96, 112, 128];
const QUERIES: usize = 128;
const THREADS: u32 = 128;

/// The rows of one image.
#[derive(Clone, Debug)]
struct Image {
    len: usize,
    /// The first rows see all, the others only these.
    all_seeing: usize,
    /// Rows that stand for several.
    multiples: Vec<(Range<usize>, usize)>,
}

impl Image {
    fn plain(len: usize) -> Self {
        Self { len, all_seeing: len, multiples: Vec::new() }
    }

    fn multiplicity(&self, row: usize) -> usize {
        self.multiples.iter().find(|(rows, _)| rows.contains(&row)).map_or(1, |(_, multiplicity)| *multiplicity)
    }

    /// Keys that a query sees.
    fn num_keys(&self, query: usize) -> usize {
        if query < self.all_seeing { self.len } else { self.all_seeing }
    }
}

/// Images and their queries, keys and values, each `[rows, heads * head_size]`, one image after another.
struct Batch {
    images: Vec<Image>,
    heads: usize,
    head_size: usize,
    dtype: Dtype,
    /// `[rows, 3 * heads * head_size]`.
    qkv: Vec<f32>,
}

impl Batch {
    fn draw(images: &[Image], heads: usize, head_size: usize, dtype: Dtype, seed: u64) -> Self {
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

    fn width(&self) -> usize {
        self.heads * self.head_size
    }

    fn num_rows(&self) -> usize {
        self.images.iter().map(|image| image.len).sum()
    }

    /// One image by itself.
    fn only(&self, number: usize) -> Self {
        let first: usize = self.images[..number].iter().map(|image| image.len).sum();
        let len = 3 * self.width();
        let image = self.images[number].clone();
        let qkv = self.qkv[first * len..(first + image.len) * len].to_vec();
        Self { images: vec![image], qkv, ..*self }
    }

    /// The kernel's output, bits of `[rows, width]`.
    fn run(&self, seed: u64) -> Vec<u16> {
        let (width, qkv_stride, output_stride) = (self.width(), 3 * self.width() + 8, self.width() + 16);
        let (mut items, mut logarithms) = (Vec::new(), Vec::new());
        for image in &self.images {
            let first = logarithms.len();
            let first_multiple = image.multiples.first().map_or(image.len, |(rows, _)| rows.start);
            for (queries, num_keys) in
                [(0..image.all_seeing, image.len), (image.all_seeing..image.len, image.all_seeing)]
            {
                for start in queries.clone().step_by(QUERIES) {
                    let num_queries = QUERIES.min(queries.end - start);
                    let item = [first + start, num_queries, first, num_keys, first_multiple.min(num_keys)];
                    items.push(item.map(|number| number as u32));
                }
            }
            // Before the first row that stands for several nothing may be read.
            logarithms.extend((0..image.len).map(|row| match row < first_multiple {
                true => f32::NAN,
                false => (image.multiplicity(row) as f32).log2(),
            }));
        }
        let num_items = Buffer::of(&[items.len() as u32]);
        let capacity = items.len() as u32 + 2;
        let (items, logarithms) = (Buffer::of(&items), Buffer::of(&logarithms));
        let qkv = matrix(&self.qkv, 3 * width, qkv_stride, 2, self.dtype);
        let output = Buffer::poisoned::<u16>((self.num_rows() + 2) * output_stride);
        let params = Params::new()
            .buffer(&num_items)
            .buffer(&items)
            .buffer(&logarithms)
            .buffer(&qkv)
            .buffer(&output)
            .f32(std::f32::consts::LOG2_E / (self.head_size as f32).sqrt())
            .u32(self.heads as u32)
            .u32(qkv_stride as u32)
            .u32(output_stride as u32);
        Kernel::named(&format!("flash_attention_{}_{}", self.dtype.name(), self.head_size))
            .grid([capacity, self.heads as u32, 1])
            .block([THREADS, 1, 1])
            .shared_bytes(512 * (self.head_size as u32 + 1))
            .seed(seed)
            .run(&params)
            .unwrap();
        rows_of(&output, self.num_rows(), width, output_stride)
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
    fn references(&self) -> (Vec<f64>, Vec<f32>) {
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

    fn check(&self, bits: &[u16]) {
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
fn padded(tokens: usize, multiplicity: usize) -> Image {
    let multiples = vec![(tokens..2 * tokens, 3), (2 * tokens..2 * tokens + 1, multiplicity)];
    Image { len: 2 * tokens + 1, all_seeing: tokens, multiples }
}

#[test]
fn every_head_size_attends() {
    for (dtype, head_size) in DTYPES.into_iter().flat_map(|dtype| HEAD_SIZES.map(|head_size| (dtype, head_size))) {
        let images = [Image::plain(131), padded(33, 28), Image::plain(1)];
        let batch = Batch::draw(&images, 2, head_size, dtype, head_size as u64);
        batch.check(&batch.run(0));
    }
}

#[test]
fn lengths_that_fill_no_tile() {
    for dtype in DTYPES {
        for (number, len) in
            [1, 2, 7, 8, 9, 31, 32, 33, 63, 64, 65, 127, 128, 129, 192, 193, 257].into_iter().enumerate()
        {
            let batch = Batch::draw(&[Image::plain(len)], 1, [80, 128, 16][number % 3], dtype, len as u64);
            batch.check(&batch.run(len as u64));
        }
    }
}

#[test]
fn multiplicities_weigh_as_repeated_keys() {
    for (dtype, tokens) in DTYPES.into_iter().flat_map(|dtype| [1, 5, 32, 63, 64, 65, 96].map(|tokens| (dtype, tokens)))
    {
        for multiplicity in [1, 2, 300] {
            let batch = Batch::draw(&[padded(tokens, multiplicity)], 1, 80, dtype, tokens as u64);
            batch.check(&batch.run(multiplicity as u64));
        }
    }
}

#[test]
fn bits_do_not_depend_on_the_batch_or_the_order_of_warps() {
    for dtype in DTYPES {
        for head_size in [80, 128] {
            let images = [Image::plain(70), padded(40, 300), Image::plain(3), Image::plain(129)];
            let batch = Batch::draw(&images, 2, head_size, dtype, 11);
            let together = batch.run(0);
            for seed in SEEDS {
                assert_eq!(batch.run(seed), together, "seed {seed}");
            }
            let alone: Vec<u16> = (0..images.len()).flat_map(|number| batch.only(number).run(3)).collect();
            assert_eq!(alone, together);
        }
    }
}
