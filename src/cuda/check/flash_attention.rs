//! `flash_attention` against float64 in which keys that stand for several are repeated.

use super::linear::{batch_of, stride, wide};
use super::{Bench, Case, Draw, Finding, relative_error, rounded};
use crate::cuda::abi::{ATTENTION_COUNTERS, ATTENTION_PARTIAL_EXTRA, ATTENTION_QUERIES, AttentionGroup, AttentionItem};
use crate::cuda::attention_groups::AttentionGroups;
use crate::cuda::ops::{
    ALIKE_ATTENTION, Array, AttentionVariant, DeviceBatch, FlashAttention, GroupedQueries, OTHER_ATTENTION, Queries,
};
use crate::dtype::Dtype;
use crate::error::CudaError;
use crate::plan::{ATTENTION_PIECES, ATTENTION_TILE, AttentionTiling, Form, MultipleRows, Rows, Stack};

/// How much more than the error of a plain computation in the same element types.
const FACTOR: f64 = 1.1;

/// What summing in f32 in another order adds.
const NOISE: f64 = 2e-5;

const NUM_HEADS: usize = 2;

/// An image's rows: so many that see all rows, then those that see only these and stand for so many each.
type Image = (usize, &'static [usize]);

/// One row; no multiple of any tile; padding whose rows stand for 3 and for 300; several blocks of keys, cut or not, and rows
/// that stand for several across their borders.
const BATCHES: [&[Image]; 6] = [
    &[(1, &[])],
    &[(131, &[]), (3, &[]), (65, &[])],
    &[(40, &[3, 3, 3, 300]), (130, &[28])],
    &[(64, &[2; 64]), (129, &[])],
    &[(710, &[])],
    &[(190, &[3; 200]), (250, &[28; 30])],
];

/// At the borders of what Hopper's kernels with this tiling cut rows into: a warpgroup's tile, an item and a block of keys,
/// each just filled and with one more, and a block with one less; and rows left over whose keys are cut into pieces: one,
/// those of a tile, one more.
fn hopper_edges(AttentionTiling { rows, keys }: AttentionTiling) -> [Vec<Image>; 3] {
    // The fewest items whose images have the four blocks of keys that are cut.
    let whole = (3 * keys).div_ceil(rows) * rows;
    let tile = ATTENTION_TILE;
    let image = |rows: usize| -> Image { (rows, &[]) };
    [
        [tile, tile + 1, rows, rows + 1, keys - 1, keys, keys + 1].map(image).to_vec(),
        vec![image(whole + 1)],
        vec![image(whole + tile), image(whole + tile + 1)],
    ]
}

/// As many pieces as there can be, of the published model's heads.
const MANY_PIECES: [Image; 1] = [(9 * 192 + 64, &[])];

fn batches(tiling: AttentionTiling, form: Form) -> Vec<Vec<Image>> {
    let shared = BATCHES.iter().map(|images| images.to_vec());
    let edges = (form == Form::Hopper).then(|| hopper_edges(tiling));
    shared.chain(edges.into_iter().flatten()).collect()
}

pub(super) fn cases(dtype: Dtype, form: Form) -> Vec<Case> {
    // Head sizes of the model, and the columns they take.
    let heads = [[4, 16], [32, 32], [48, 48], [64, 64], [80, 80], [88, 96], [112, 112], [128, 128]];
    let case = |[head_dim, columns]: [usize; 2], images: Vec<Image>| {
        let rows: Vec<usize> = images.iter().map(|(real, padding)| real + padding.len()).collect();
        Case {
            kernel: "flash_attention",
            shape: format!("heads of {head_dim}, images of {rows:?} rows"),
            run: Box::new(move |bench| Attention::draw(&images, head_dim, columns, dtype).run(bench)),
        }
    };
    let in_use = heads
        .into_iter()
        .flat_map(|head| batches(AttentionTiling::of(head[1]), form).into_iter().map(move |images| case(head, images)));
    let hopper = (form == Form::Hopper).then(|| {
        let mut cases = hopper_cases(dtype);
        cases.push(case([80, 80], MANY_PIECES.to_vec()));
        cases
    });
    in_use.chain(hopper.into_iter().flatten()).collect()
}

/// Those of Hopper's other kernels: against float64, and with those that compute the same to the bit.
fn hopper_cases(dtype: Dtype) -> Vec<Case> {
    let cases = |variant: &'static AttentionVariant, shape: &'static str, run: Variant| {
        batches(variant.tiling, Form::Hopper).into_iter().map(move |images| Case {
            kernel: "flash_attention",
            shape: format!(
                "{}, {shape} of {:?}",
                variant.name,
                images.iter().map(|(real, _)| real).collect::<Vec<_>>()
            ),
            run: Box::new(move |bench| {
                run(&Attention::draw(&images, variant.columns, variant.columns, dtype), bench, variant)
            }),
        })
    };
    let against_float64: Variant = |attention, bench, variant| attention.run_variant(bench, variant);
    let others = OTHER_ATTENTION.iter().flat_map(|variant| cases(variant, "rows", against_float64));
    let as_in_use: Variant = |attention, bench, variant| attention.compare(bench, [None, Some(variant)]);
    let alike = ALIKE_ATTENTION.iter().flat_map(|variant| cases(variant, "the same bits", as_in_use));
    let [first, second] = &OTHER_ATTENTION;
    let as_first: Variant =
        |attention, bench, variant| attention.compare(bench, [Some(&OTHER_ATTENTION[0]), Some(variant)]);
    assert_eq!(first.tiling, second.tiling, "kernels with the same bits");
    others.chain(alike).chain(cases(second, "the same bits", as_first)).collect()
}

/// What is done with one of Hopper's kernels.
type Variant = fn(&Attention, &Bench, &'static AttentionVariant) -> Result<Finding, CudaError>;

/// The rows of a batch.
struct Attention {
    images: Vec<Image>,
    head_dim: usize,
    /// That a head takes; zeros beyond head_dim.
    columns: usize,
    dtype: Dtype,
    /// `[rows, 3·H·columns]`.
    qkv: Vec<f32>,
}

impl Attention {
    fn draw(images: &[Image], head_dim: usize, columns: usize, dtype: Dtype) -> Self {
        // Keys beside a border of what is seen: who sees one too many, or too few, is to notice.
        let borders = images.iter().flat_map(|(real, padding)| {
            let len = real + padding.len();
            (0..len).map(move |row| [0, real - 1, *real, len - 1].contains(&row))
        });
        let borders: Vec<bool> = borders.collect();
        let mut draw = Draw::new((borders.len() * head_dim) as u64);
        let mut qkv = Vec::new();
        for (row, is_border) in borders.into_iter().enumerate() {
            // Scores that reach far, and rows of values a hundred times the others.
            let key = if is_border || row % 7 == 3 { 4.0 } else { 1.0 };
            for scale in [2.0, key, if row % 5 == 4 { 100.0 } else { 1.0 }] {
                for _ in 0..NUM_HEADS {
                    qkv.extend(draw.normal(head_dim, scale, dtype));
                    qkv.resize(qkv.len() + columns - head_dim, 0.0);
                }
            }
        }
        Self { images: images.to_vec(), head_dim, columns, dtype, qkv }
    }

    fn run(&self, bench: &Bench) -> Result<Finding, CudaError> {
        self.hold_against_float64(&self.output(bench, None)?)
    }

    fn run_variant(&self, bench: &Bench, variant: &AttentionVariant) -> Result<Finding, CudaError> {
        self.hold_against_float64(&self.output(bench, Some(variant))?)
    }

    /// Holds two kernels' results against one another: there is no difference.
    fn compare(&self, bench: &Bench, variants: [Option<&AttentionVariant>; 2]) -> Result<Finding, CudaError> {
        let [first, second] = [self.output(bench, variants[0])?, self.output(bench, variants[1])?];
        Ok(Finding { error: relative_error(&second, &wide(&first)), limit: 0.0 })
    }

    fn hold_against_float64(&self, found: &[f32]) -> Result<Finding, CudaError> {
        let (expected, plain) = self.references(found.len() / (NUM_HEADS * self.columns));
        let error = relative_error(found, &expected);
        Ok(Finding { error, limit: FACTOR * relative_error(&plain, &expected) + NOISE })
    }

    /// What the form's kernel makes of it, or another kernel of Hopper.
    fn output(&self, bench: &Bench, variant: Option<&AttentionVariant>) -> Result<Vec<f32>, CudaError> {
        let width = NUM_HEADS * self.columns;
        let (items, mut logarithms) = self.items();
        let rows = logarithms.len();
        let qkv = bench.matrix(&self.qkv, 3 * width, stride(3 * width), self.dtype)?;
        let output = bench.output(rows, width, stride(width), self.dtype)?;
        // As many as the output's view has rows.
        logarithms.resize(output.view().rows, f32::NAN);
        let len = logarithms.len();
        let logarithms = bench.upload(&logarithms)?;
        let is_grouped = bench.launcher().form() == Form::Hopper;
        let tiling = variant.map_or(AttentionTiling::of(self.columns), |variant| variant.tiling);
        let (groups, num_tickets) = self.groups(tiling);
        let num_items = if is_grouped { groups.len() } else { items.len() };
        let (items, groups) = (bench.upload(&items)?, bench.upload(&groups)?);
        let num_counters = ATTENTION_COUNTERS as usize + num_tickets;
        let counters = bench.upload(&vec![0u32; num_counters])?;
        let partial = 128 * (self.columns / 2 + ATTENTION_PARTIAL_EXTRA as usize);
        let partials = bench.output(num_tickets * ATTENTION_PIECES, partial, partial, Dtype::F32)?;
        let batch = batch_of(bench, num_items, 0)?;
        let op = FlashAttention {
            num_items: DeviceBatch::new(&batch, 0).num_attention_items(Stack::Transformer, num_items),
            queries: match is_grouped {
                true => Queries::Groups(GroupedQueries {
                    tiling,
                    groups: Array::new(&groups, 0, num_items),
                    counters: Array::new(&counters, 0, num_counters),
                    partials: Some(partials.values()),
                }),
                false => Queries::Items(Array::new(&items, 0, num_items)),
            },
            log2_multiplicity: Array::new(&logarithms, 0, len),
            qkv: qkv.view(),
            output: output.view(),
            num_heads: NUM_HEADS,
            head_dim: self.head_dim,
        };
        match variant {
            Some(variant) => op.launch_variant(variant, &bench.launcher())?,
            None => op.launch(&bench.launcher())?,
        }
        let mut found = bench.result(&output, rows)?;
        // The next launch is to find them as this one did.
        if bench.download::<u32>(&counters)?.iter().any(|counter| *counter != 0) {
            found.fill(f32::NAN);
        }
        Ok(found)
    }

    /// The queries as Hopper's kernels take them, and how many tickets their pieces draw.
    fn groups(&self, tiling: AttentionTiling) -> (Vec<AttentionGroup>, usize) {
        let (mut groups, mut first) = (AttentionGroups::default(), 0);
        for (real, padding) in &self.images {
            let multiple = |(row, multiplicity): (usize, &usize)| MultipleRows {
                rows: real + row..real + row + 1,
                multiplicity: *multiplicity,
            };
            let multiples = padding.iter().enumerate().map(multiple).collect();
            let rows = Rows { len: real + padding.len(), all_seeing: *real, multiples };
            groups.push(tiling, &rows, NUM_HEADS, first);
            first += rows.len;
        }
        groups.table(NUM_HEADS)
    }

    /// Who sees whom, and log2 of each row's multiplicity; NaN where it must not be read.
    fn items(&self) -> (Vec<AttentionItem>, Vec<f32>) {
        let (mut items, mut logarithms) = (Vec::new(), Vec::new());
        for (real, padding) in &self.images {
            let (key_row, len) = (logarithms.len() as u32, real + padding.len());
            for (queries, num_keys) in [(0..*real, len), (*real..len, *real)] {
                for start in queries.clone().step_by(ATTENTION_QUERIES as usize) {
                    items.push(AttentionItem {
                        query_row: key_row + start as u32,
                        num_queries: ATTENTION_QUERIES.min((queries.end - start) as u32),
                        key_row,
                        num_keys: num_keys as u32,
                        first_multiple: *real as u32,
                    });
                }
            }
            logarithms.extend(std::iter::repeat_n(f32::NAN, *real));
            logarithms.extend(padding.iter().map(|multiplicity| (*multiplicity as f32).log2()));
        }
        (items, logarithms)
    }

    /// Attention in float64, and as it comes out where weights are rounded to the element type and sums are f32.
    fn references(&self, rows: usize) -> (Vec<f64>, Vec<f32>) {
        let width = NUM_HEADS * self.columns;
        let (mut exact, mut plain) = (Vec::with_capacity(rows * width), Vec::with_capacity(rows * width));
        let mut first = 0;
        for (real, padding) in &self.images {
            let len = real + padding.len();
            for query in 0..len {
                let seen = if query < *real { len } else { *real };
                let copies = |key: usize| key.checked_sub(*real).map_or(1, |key| padding[key]);
                let keys: Vec<usize> =
                    (0..seen).flat_map(|key| std::iter::repeat_n(first + key, copies(key))).collect();
                for head in 0..NUM_HEADS {
                    let (row, plain_row) = self.attend(first + query, &keys, head);
                    exact.extend(row);
                    plain.extend(plain_row);
                }
            }
            first += len;
        }
        (exact, plain)
    }

    /// One query of one head.
    fn attend(&self, query: usize, keys: &[usize], head: usize) -> (Vec<f64>, Vec<f32>) {
        let part = |row: usize, which: usize| {
            &self.qkv[((3 * row + which) * NUM_HEADS + head) * self.columns..][..self.columns]
        };
        let q = wide(part(query, 0));
        let score = |key: &usize| -> f64 {
            let dot: f64 = q.iter().zip(part(*key, 1)).map(|(q, k)| q * f64::from(*k)).sum();
            dot / (self.head_dim as f64).sqrt()
        };
        let scores: Vec<f64> = keys.iter().map(score).collect();
        let highest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|score| (score - highest).exp()).collect();
        let total: f64 = weights.iter().sum();
        let single: Vec<f32> = weights.iter().map(|weight| *weight as f32).collect();
        let single_total: f32 = single.iter().sum();
        let single = rounded(&single, self.dtype);
        let (mut exact, mut plain) = (vec![0.0f64; self.columns], vec![0.0f32; self.columns]);
        for (key, (weight, single)) in keys.iter().zip(weights.iter().zip(&single)) {
            for (value, (exact, plain)) in part(*key, 2).iter().zip(exact.iter_mut().zip(&mut plain)) {
                *exact += weight / total * f64::from(*value);
                *plain += single * value;
            }
        }
        let plain: Vec<f32> = plain.iter().map(|sum| sum / single_total).collect();
        (exact, rounded(&plain, self.dtype))
    }
}
