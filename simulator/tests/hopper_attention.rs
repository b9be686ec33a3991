//! flash_attention of Hopper against float64, and its forms with the same bits against one another.

mod attention;
mod elements;

use attention::{Batch, Image, padded};
use elements::{DTYPES, Dtype, matrix, rows_of};
use tilesight_simulator::machine::testing::{Buffer, Kernel, Params, SEEDS};
use tilesight_simulator::machine::{Fault, Swizzle, TensorMap, TiledTensor, entry_of};

/// Rows of a warpgroup, and pieces that the keys of a group are cut into.
const TILE: usize = 64;
const PIECES: usize = 8;

const SHARED_BYTES: u32 = 227 << 10;

/// An entry point: what follows the element type in its name, and how it divides the work.
#[derive(Clone, Copy, Debug)]
struct Form {
    module: &'static str,
    suffix: &'static str,
    head_size: usize,
    rows: usize,
    keys: usize,
}

const fn form(suffix: &'static str, head_size: usize, rows: usize, keys: usize) -> Form {
    Form { module: "sm90/flash_attention", suffix, head_size, rows, keys }
}

const fn sweep(suffix: &'static str, rows: usize, keys: usize) -> Form {
    Form { module: "sm90/flash_attention_sweep", suffix, head_size: 80, rows, keys }
}

const FORMS: [Form; 9] = [
    form("16", 16, 192, 112),
    form("32", 32, 192, 112),
    form("48", 48, 192, 112),
    form("64", 64, 192, 112),
    form("80", 80, 192, 112),
    form("96", 96, 128, 176),
    form("112", 112, 128, 160),
    form("128", 128, 128, 160),
    form("80_mixed", 80, 192, 112),
];
const SMALL: Form = FORMS[0];
const PUBLISHED: Form = FORMS[4];
const MIXED: Form = FORMS[8];

const SWEEP: [Form; 3] =
    [sweep("80_128x176", 128, 176), sweep("80_128x176_mixed", 128, 176), sweep("80_always", 192, 112)];

/// Queries that see the same keys, as the kernel takes them: `AttentionGroup`.
fn groups(form: Form, batch: &Batch) -> (Vec<[u32; 8]>, usize) {
    let (mut groups, mut first) = (Vec::new(), 0);
    let (mut works, mut tickets) = (0, 0);
    for image in &batch.images {
        let first_multiple = image.multiples.first().map_or(image.len, |(rows, _)| rows.start);
        for (queries, num_keys) in [(0..image.all_seeing, image.len), (image.all_seeing..image.len, image.all_seeing)] {
            // A second item is cut, too, where there are many rows: a group of two.
            let rest = queries.len() % form.rows + if queries.len() > 1500 { form.rows } else { 0 };
            let full = queries.len() - rest;
            let pieces = (num_keys.div_ceil(form.keys) / 2).clamp(1, PIECES);
            let piece_keys = num_keys.div_ceil(form.keys).div_ceil(pieces) * form.keys;
            for (start, len, piece_keys) in [(queries.start, full, num_keys), (queries.start + full, rest, piece_keys)]
            {
                if len == 0 {
                    continue;
                }
                let num_pieces = num_keys.div_ceil(piece_keys);
                works += batch.heads * len.div_ceil(form.rows) * num_pieces;
                let numbers = [works, first + start, len, first, num_keys, first_multiple, piece_keys, tickets];
                groups.push(numbers.map(|number| number as u32));
                if num_pieces > 1 {
                    tickets += batch.heads * len.div_ceil(form.rows) * len.min(form.rows).div_ceil(TILE);
                }
            }
        }
        first += image.len;
    }
    (groups, tickets)
}

/// Columns of a chunk.
fn chunk_of(head_size: usize) -> usize {
    [64, 32, 16].into_iter().find(|chunk| head_size.is_multiple_of(*chunk)).unwrap()
}

fn swizzle_of(columns: usize) -> Swizzle {
    [Swizzle::Bytes32, Swizzle::Bytes64, Swizzle::Bytes128][columns.ilog2() as usize - 4]
}

/// A matrix as `[chunks, rows, columns]`, chunks `distance` columns apart.
fn chunks(
    address: u64,
    rows: usize,
    stride: usize,
    columns: usize,
    distance: usize,
    counts: [usize; 2],
    box_rows: usize,
) -> TensorMap {
    let tensor = TiledTensor {
        address,
        element_bytes: 2,
        extents: &[columns, rows, counts[0]].map(|extent| extent as u64),
        strides: &[2 * stride, 2 * distance].map(|stride| stride as u64),
        boxes: &[columns, box_rows, counts[1]].map(|elements| elements as u32),
        swizzle: swizzle_of(columns),
    };
    TensorMap::tiled(&tensor).unwrap()
}

/// A batch in a form, on so many blocks; run `launches` times, for a launch leaves its counters as they were.
struct Run<'a> {
    form: Form,
    batch: &'a Batch,
    blocks: u32,
    launches: usize,
    seed: u64,
}

impl Run<'_> {
    /// Bits of `[rows, width]`.
    fn bits(&self) -> Result<Vec<u16>, Fault> {
        let Self { form, batch, .. } = *self;
        let (width, rows) = (batch.width(), batch.num_rows());
        let (qkv_stride, output_stride) = (3 * width + 8, width + 16);
        let (groups, num_tickets) = groups(form, batch);
        let mut logarithms = Vec::new();
        for image in &batch.images {
            let first_multiple = image.multiples.first().map_or(image.len, |(rows, _)| rows.start);
            // Before the first row that stands for several is nothing that counts.
            logarithms.extend((0..image.len).map(|row| match row < first_multiple {
                true => f32::NAN,
                false => (image.multiplicity(row) as f32).log2(),
            }));
        }
        logarithms.resize((rows + 2).next_multiple_of(4), f32::NAN);
        let num_groups = Buffer::of(&[groups.len() as u32]);
        let groups = Buffer::of(&groups);
        let counters = Buffer::of(&vec![0u32; 2 + num_tickets]);
        let logarithms = Buffer::of(&logarithms);
        let qkv = matrix(&batch.qkv, 3 * width, qkv_stride, 2, batch.dtype);
        let output = Buffer::poisoned::<u16>((rows + 2) * output_stride);
        let partials = Buffer::poisoned::<f32>(num_tickets * PIECES * 128 * (form.head_size / 2 + 4));

        let chunk = chunk_of(form.head_size);
        let per_head = form.head_size / chunk;
        let of_qkv = |box_rows: usize| {
            let counts = [3 * batch.heads * per_head, per_head];
            chunks(qkv.address(), rows + 2, qkv_stride, chunk, chunk, counts, box_rows)
        };
        let heads = |first: usize, columns: usize| {
            let address = qkv.address() + 2 * first as u64;
            chunks(address, rows + 2, qkv_stride, columns, form.head_size, [3 * batch.heads, 1], form.keys)
        };
        let is_mixed = form.suffix.ends_with("_mixed");
        let keys = if is_mixed { heads(0, 64) } else { of_qkv(form.keys) };
        let key_tails = if is_mixed { heads(64, 16) } else { keys };
        let counts = [batch.heads * per_head, per_head];
        let output_tiles = chunks(output.address(), rows + 2, output_stride, chunk, chunk, counts, TILE);
        let biases = TiledTensor {
            address: logarithms.address(),
            element_bytes: 4,
            extents: &[rows as u64 + 2, 1],
            strides: &[4 * (rows as u64 + 2).next_multiple_of(4)],
            boxes: &[form.keys as u32, 1],
            swizzle: Swizzle::None,
        };
        let params = Params::new()
            .tensor_map(&of_qkv(TILE))
            .tensor_map(&keys)
            .tensor_map(&key_tails)
            .tensor_map(&of_qkv(form.keys))
            .tensor_map(&TensorMap::tiled(&biases).unwrap())
            .tensor_map(&output_tiles)
            .buffer(&num_groups)
            .buffer(&groups)
            .buffer(&counters)
            .buffer(&partials)
            .buffer(&output)
            .f32(std::f32::consts::LOG2_E / (form.head_size as f32).sqrt())
            .u32(batch.heads as u32)
            .u32(output_stride as u32);
        let name = format!("flash_attention_{}_{}", batch.dtype.name(), form.suffix);
        let entry = entry_of(form.module, &name).unwrap();
        let kernel = Kernel::of(entry).grid([self.blocks, 1, 1]).shared_bytes(SHARED_BYTES).programmatic();
        for launch in 0..self.launches {
            kernel.clone().seed(self.seed + launch as u64).run(&params)?;
        }
        assert!(counters.read::<u32>().iter().all(|counter| *counter == 0), "counters stay zero between launches");
        Ok(rows_of(&output, rows, width, output_stride))
    }
}

fn run(form: Form, batch: &Batch, blocks: u32, seed: u64) -> Vec<u16> {
    Run { form, batch, blocks, launches: 1, seed }.bits().unwrap()
}

fn draw(form: Form, images: &[Image], heads: usize, dtype: Dtype) -> Batch {
    let rows: usize = images.iter().map(|image| image.len).sum();
    Batch::draw(images, heads, form.head_size, dtype, (rows + form.head_size) as u64)
}

#[test]
fn every_form_attends() {
    for (dtype, form) in
        DTYPES.into_iter().flat_map(|dtype| FORMS.into_iter().chain(SWEEP).map(move |form| (dtype, form)))
    {
        let images = [Image::plain(259), padded(33, 28), Image::plain(1)];
        let batch = draw(form, &images, 2, dtype);
        batch.check(&run(form, &batch, 3, 0));
    }
}

#[test]
fn lengths_that_fill_no_tile() {
    let lengths = [1, 2, 63, 64, 65, 111, 112, 113, 127, 128, 129, 191, 192, 193, 224, 225, 385];
    for (number, len) in lengths.into_iter().enumerate() {
        let (form, dtype) = ([SMALL, PUBLISHED, FORMS[5]][number % 3], DTYPES[number % 2]);
        let batch = draw(form, &[Image::plain(len)], 1, dtype);
        batch.check(&run(form, &batch, 2, len as u64));
    }
}

#[test]
fn multiplicities_weigh_as_repeated_keys() {
    for (number, tokens) in [1, 5, 55, 56, 57, 111, 112, 113, 150].into_iter().enumerate() {
        for multiplicity in [1, 2, 300] {
            let form = if number % 3 == 0 { PUBLISHED } else { SMALL };
            let batch = draw(form, &[padded(tokens, multiplicity)], 1, DTYPES[number % 2]);
            batch.check(&run(form, &batch, 2, multiplicity as u64));
        }
    }
}

#[test]
fn keys_are_cut_into_pieces() {
    // Up to eight pieces of several blocks each, of an item of one, two and three tiles.
    for (len, form) in [(1000, SMALL), (1100, SMALL), (1930, SMALL), (480, PUBLISHED), (700, FORMS[7])] {
        let batch = draw(form, &[Image::plain(len)], 2, Dtype::Bf16);
        let (groups, tickets) = groups(form, &batch);
        assert!(tickets > 0, "{groups:?}");
        let together = run(form, &batch, 7, 0);
        batch.check(&together);
        // Each work on a block of its own, in any order; and all on one.
        assert_eq!(run(form, &batch, groups.last().unwrap()[0], 1), together);
        assert_eq!(run(form, &batch, 1, 2), together);
    }
}

#[test]
fn launches_share_their_counters() {
    let batch = draw(SMALL, &[Image::plain(500), padded(130, 9)], 2, Dtype::Fp16);
    let once = run(SMALL, &batch, 4, 5);
    let thrice = Run { form: SMALL, batch: &batch, blocks: 4, launches: 3, seed: 6 };
    assert_eq!(thrice.bits().unwrap(), once);
}

#[test]
fn forms_of_a_class_have_the_same_bits() {
    for dtype in DTYPES {
        let batch = draw(PUBLISHED, &[Image::plain(420), padded(130, 300)], 1, dtype);
        let expected = run(PUBLISHED, &batch, 3, 0);
        assert_eq!(run(MIXED, &batch, 3, 1), expected);
        assert_eq!(run(SWEEP[2], &batch, 3, 2), expected);
        assert_eq!(run(SWEEP[0], &batch, 3, 3), run(SWEEP[1], &batch, 3, 4));
    }
}

#[test]
fn bits_do_not_depend_on_the_batch_or_the_order_of_warps() {
    for form in [SMALL, PUBLISHED, MIXED, FORMS[7]] {
        let images = [Image::plain(70), padded(120, 300), Image::plain(3), Image::plain(260)];
        let batch = draw(form, &images, 2, Dtype::Bf16);
        let together = run(form, &batch, 5, 0);
        for seed in SEEDS {
            assert_eq!(run(form, &batch, 1 + seed as u32, seed), together, "seed {seed}");
        }
        let alone: Vec<u16> = (0..images.len()).flat_map(|number| run(form, &batch.only(number), 4, 3)).collect();
        assert_eq!(alone, together);
    }
}

#[test]
fn works_of_one_two_and_three_warpgroups_follow_one_another() {
    for form in [SMALL, SWEEP[0]] {
        let images = [131, 3, 65, 200, 64, 1, 190].map(Image::plain);
        let batch = draw(form, &images, 1, Dtype::Bf16);
        let expected = run(form, &batch, 1, 0);
        batch.check(&expected);
        for seed in SEEDS {
            assert_eq!(run(form, &batch, 1 + seed as u32 % 3, seed), expected, "seed {seed}");
        }
    }
}
