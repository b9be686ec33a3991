//! flash_attention against float64 that repeats the keys that stand for several.

mod attention;
mod elements;

use attention::{Batch, Image, padded};
use elements::{DTYPES, matrix, rows_of};
use tilesight_simulator::machine::testing::{Buffer, Kernel, Params, SEEDS};

const HEAD_SIZES: [usize; 8] = [16, 32, 48, 64, 80, 96, 112, 128];
const QUERIES: usize = 128;
const THREADS: u32 = 128;

/// The kernel's output, bits of `[rows, width]`.
fn run(batch: &Batch, seed: u64) -> Vec<u16> {
    let (width, qkv_stride, output_stride) = (batch.width(), 3 * batch.width() + 8, batch.width() + 16);
    let (mut items, mut logarithms) = (Vec::new(), Vec::new());
    for image in &batch.images {
        let first = logarithms.len();
        let first_multiple = image.multiples.first().map_or(image.len, |(rows, _)| rows.start);
        for (queries, num_keys) in [(0..image.all_seeing, image.len), (image.all_seeing..image.len, image.all_seeing)] {
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
    let qkv = matrix(&batch.qkv, 3 * width, qkv_stride, 2, batch.dtype);
    let output = Buffer::poisoned::<u16>((batch.num_rows() + 2) * output_stride);
    let params = Params::new()
        .buffer(&num_items)
        .buffer(&items)
        .buffer(&logarithms)
        .buffer(&qkv)
        .buffer(&output)
        .f32(std::f32::consts::LOG2_E / (batch.head_size as f32).sqrt())
        .u32(batch.heads as u32)
        .u32(qkv_stride as u32)
        .u32(output_stride as u32);
    Kernel::named(&format!("flash_attention_{}_{}", batch.dtype.name(), batch.head_size))
        .grid([capacity, batch.heads as u32, 1])
        .block([THREADS, 1, 1])
        .shared_bytes(512 * (batch.head_size as u32 + 1))
        .seed(seed)
        .run(&params)
        .unwrap();
    rows_of(&output, batch.num_rows(), width, output_stride)
}

#[test]
fn every_head_size_attends() {
    for (dtype, head_size) in DTYPES.into_iter().flat_map(|dtype| HEAD_SIZES.map(|head_size| (dtype, head_size))) {
        let images = [Image::plain(131), padded(33, 28), Image::plain(1)];
        let batch = Batch::draw(&images, 2, head_size, dtype, head_size as u64);
        batch.check(&run(&batch, 0));
    }
}

#[test]
fn lengths_that_fill_no_tile() {
    for dtype in DTYPES {
        for (number, len) in
            [1, 2, 7, 8, 9, 31, 32, 33, 63, 64, 65, 127, 128, 129, 192, 193, 257].into_iter().enumerate()
        {
            let batch = Batch::draw(&[Image::plain(len)], 1, [80, 128, 16][number % 3], dtype, len as u64);
            batch.check(&run(&batch, len as u64));
        }
    }
}

#[test]
fn multiplicities_weigh_as_repeated_keys() {
    for (dtype, tokens) in DTYPES.into_iter().flat_map(|dtype| [1, 5, 32, 63, 64, 65, 96].map(|tokens| (dtype, tokens)))
    {
        for multiplicity in [1, 2, 300] {
            let batch = Batch::draw(&[padded(tokens, multiplicity)], 1, 80, dtype, tokens as u64);
            batch.check(&run(&batch, multiplicity as u64));
        }
    }
}

#[test]
fn bits_do_not_depend_on_the_batch_or_the_order_of_warps() {
    for dtype in DTYPES {
        for head_size in [80, 128] {
            let images = [Image::plain(70), padded(40, 300), Image::plain(3), Image::plain(129)];
            let batch = Batch::draw(&images, 2, head_size, dtype, 11);
            let together = run(&batch, 0);
            for seed in SEEDS {
                assert_eq!(run(&batch, seed), together, "seed {seed}");
            }
            let alone: Vec<u16> = (0..images.len()).flat_map(|number| run(&batch.only(number), 3)).collect();
            assert_eq!(alone, together);
        }
    }
}
