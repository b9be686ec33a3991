//! The batch descriptor: which rows there are, for kernels whose grids know only the capacity.
//!
//! One piece of memory: the head (`abi::Batch`), then a table of every kind, each with room for the capacity's counts.

use std::mem::{offset_of, size_of};
use std::ops::Range;

use bytemuck::Pod;

use super::abi;
use super::attention_groups::AttentionGroups;
use super::ops::{Array, DeviceBatch, stored};
use crate::config::EncoderConfig;
use crate::cuda::driver::DeviceMemory;
use crate::dtype::Dtype;
use crate::plan::{
    ATTENTION_QUERIES, BatchShape, Capacity, Form, HOPPER_PROJECTION_STATES, PROJECTION_ROWS, Plan, Rows,
    SequenceLayout, Stack, Target,
};

// The plan counts groups by numbers that the kernels count by, too.
const _: () = assert!(ATTENTION_QUERIES == abi::ATTENTION_QUERIES as usize);
const _: () = assert!(PROJECTION_ROWS == abi::HOPPER_GEMM_ROWS as usize);
const _: () = assert!(HOPPER_PROJECTION_STATES == abi::HOPPER_PROJECTION_STATES as usize);
const _: () = assert!(Plan::MOMENTS_COLUMNS == abi::MOMENTS_COLUMNS as usize);

/// Tables start at multiples of this many bytes.
const ALIGNMENT: usize = 256;

/// Where a batch' pixels and embeddings are on the GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Places {
    pub(crate) pixels: u64,
    pub(crate) pixels_dtype: Dtype,
    /// Tiles between the first tiles of two images; none where images lie one after another with the tiles that are read.
    pub(crate) image_tiles: Option<usize>,
    pub(crate) embeddings: u64,
}

impl Places {
    /// Writes the places into a descriptor.
    pub(super) fn write(&self, bytes: &mut [u8]) {
        let mut head = |offset: usize, value: &[u8]| bytes[offset..offset + value.len()].copy_from_slice(value);
        head(offset_of!(abi::Batch, pixels), &self.pixels.to_le_bytes());
        head(offset_of!(abi::Batch, pixels_type), &stored(self.pixels_dtype).to_le_bytes());
        head(offset_of!(abi::Batch, embeddings), &self.embeddings.to_le_bytes());
    }
}

/// Where a capacity's tables lie.
#[derive(Debug, Clone)]
pub(super) struct BatchTables {
    capacity: Capacity,
    target: Target,
    tiles: usize,
    token_rows: usize,
    global_rows: usize,
    projected_rows: usize,
    projection_items: usize,
    attention_items: [usize; 2],
    attention_groups: [usize; 2],
    attention_counters: usize,
    log2_multiplicity: [usize; 2],
    /// Bytes of the whole descriptor.
    pub(super) bytes: usize,
}

impl BatchTables {
    /// The tables of a plan for `target` with this capacity.
    pub(super) fn new(capacity: Capacity, target: Target) -> Self {
        let [items, groups] = by_form(&capacity, target);
        let mut end = size_of::<abi::Batch>();
        let mut table = |len: usize, size: usize| {
            let start = end.next_multiple_of(ALIGNMENT);
            end = start + len * size;
            start
        };
        Self {
            capacity,
            target,
            tiles: table(capacity.tiles, size_of::<abi::TileSource>()),
            token_rows: table(capacity.rows[0], size_of::<abi::TokenRow>()),
            global_rows: table(capacity.rows[1], size_of::<abi::GlobalRow>()),
            projected_rows: table(capacity.projected_rows, size_of::<abi::ProjectedRow>()),
            projection_items: table(capacity.projection_items, size_of::<abi::ProjectionItem>()),
            attention_items: items.map(|len| table(len, size_of::<abi::AttentionItem>())),
            attention_groups: groups.map(|len| table(len, size_of::<abi::AttentionGroup>())),
            attention_counters: table(num_counters(&capacity), size_of::<u32>()),
            log2_multiplicity: capacity.rows.map(|len| table(len, size_of::<f32>())),
            bytes: end,
        }
    }

    /// The counts there is room for.
    pub(super) fn capacity(&self) -> &Capacity {
        &self.capacity
    }

    /// The descriptor as kernels' arguments, where it lies at the start of `memory`.
    pub(super) fn views<'m>(&self, memory: &'m DeviceMemory) -> BatchViews<'m> {
        let capacity = &self.capacity;
        let [items, groups] = by_form(capacity, self.target);
        BatchViews {
            batch: DeviceBatch::new(memory, 0),
            tiles: Array::new(memory, self.tiles, capacity.tiles),
            token_rows: Array::new(memory, self.token_rows, capacity.rows[0]),
            global_rows: Array::new(memory, self.global_rows, capacity.rows[1]),
            projected_rows: Array::new(memory, self.projected_rows, capacity.projected_rows),
            projection_items: Array::new(memory, self.projection_items, capacity.projection_items),
            attention_items: [0, 1].map(|k| Array::new(memory, self.attention_items[k], items[k])),
            attention_groups: [0, 1].map(|k| Array::new(memory, self.attention_groups[k], groups[k])),
            attention_counters: Array::new(memory, self.attention_counters, num_counters(capacity)),
            log2_multiplicity: [0, 1].map(|k| Array::new(memory, self.log2_multiplicity[k], capacity.rows[k])),
        }
    }

    /// Writes the descriptor of `batch`, whose pixels and embeddings lie at these places.
    pub(super) fn write(&self, config: &EncoderConfig, batch: &BatchShape, places: &Places, bytes: &mut [u8]) {
        let lists = Lists::of(config, batch, places.image_tiles, self.target);
        let counts = Capacity::of(config, batch, self.target);
        assert!(self.capacity.covers(&counts), "a batch beyond the capacity of its plan");
        let bytes = &mut bytes[..self.bytes];
        places.write(bytes);
        let mut head = |offset: usize, value: &[u8]| bytes[offset..offset + value.len()].copy_from_slice(value);
        let number = |count: usize| (count as u32).to_le_bytes();
        head(offset_of!(abi::Batch, num_tiles), &number(lists.tiles.len()));
        head(offset_of!(abi::Batch, num_patches), &number(lists.tiles.len() * config.num_patches()));
        for stack in 0..2 {
            let step = stack * size_of::<u32>();
            head(offset_of!(abi::Batch, num_rows) + step, &number(counts.rows[stack]));
            let items = lists.attention_items[stack].len() + lists.attention_groups[stack].len();
            head(offset_of!(abi::Batch, num_attention_items) + step, &number(items));
        }
        head(offset_of!(abi::Batch, num_projected_rows), &number(lists.projected_rows.len()));
        let items = projection_items(&lists.projected_rows);
        head(offset_of!(abi::Batch, num_projection_items), &number(items.len()));
        put(bytes, self.projection_items, &items);
        put(bytes, self.tiles, &lists.tiles);
        put(bytes, self.token_rows, &lists.token_rows);
        put(bytes, self.global_rows, &lists.global_rows);
        put(bytes, self.projected_rows, &lists.projected_rows);
        // One table serves all layers: each launch leaves it as it found it.
        put(bytes, self.attention_counters, &vec![0u32; num_counters(&self.capacity)]);
        for stack in 0..2 {
            put(bytes, self.attention_items[stack], &lists.attention_items[stack]);
            put(bytes, self.attention_groups[stack], &lists.attention_groups[stack]);
            put(bytes, self.log2_multiplicity[stack], &lists.log2_multiplicity[stack]);
        }
    }
}

/// A descriptor's tables, as kernels take them.
#[derive(Debug, Clone, Copy)]
pub(super) struct BatchViews<'m> {
    pub(super) batch: DeviceBatch<'m>,
    pub(super) tiles: Array<'m, abi::TileSource>,
    pub(super) token_rows: Array<'m, abi::TokenRow>,
    pub(super) global_rows: Array<'m, abi::GlobalRow>,
    pub(super) projected_rows: Array<'m, abi::ProjectedRow>,
    pub(super) projection_items: Array<'m, abi::ProjectionItem>,
    pub(super) attention_items: [Array<'m, abi::AttentionItem>; 2],
    pub(super) attention_groups: [Array<'m, abi::AttentionGroup>; 2],
    pub(super) attention_counters: Array<'m, u32>,
    pub(super) log2_multiplicity: [Array<'m, f32>; 2],
}

/// Items of the two stacks, and groups: a form has either.
fn by_form(capacity: &Capacity, target: Target) -> [[usize; 2]; 2] {
    if target.form == Form::Hopper { [[0; 2], capacity.attention_items] } else { [capacity.attention_items, [0; 2]] }
}

/// Of attention's schedule on Hopper, and of its tickets.
fn num_counters(capacity: &Capacity) -> usize {
    abi::ATTENTION_COUNTERS as usize + capacity.attention_tickets
}

/// Rows of the projection in stretches that lie together wherever they are read and written.
pub(super) fn projection_items(rows: &[abi::ProjectedRow]) -> Vec<abi::ProjectionItem> {
    let mut items: Vec<abi::ProjectionItem> = Vec::new();
    for row in rows {
        let continued = items.last_mut().filter(|item| {
            let next = [item.head_row, item.hidden_row, item.output_row].map(|first| first + item.num_rows);
            next == [row.head, row.hidden, row.output]
                && item.copies == row.copies
                && item.num_rows < abi::HOPPER_GEMM_ROWS
        });
        match continued {
            Some(item) => item.num_rows += 1,
            None => items.push(abi::ProjectionItem {
                head_row: row.head,
                hidden_row: row.hidden,
                output_row: row.output,
                num_rows: 1,
                copies: row.copies,
            }),
        }
    }
    items
}

fn put<T: Pod>(bytes: &mut [u8], offset: usize, values: &[T]) {
    let values: &[u8] = bytemuck::cast_slice(values);
    bytes[offset..offset + values.len()].copy_from_slice(values);
}

/// A batch' tables.
#[derive(Debug, Default)]
struct Lists {
    tiles: Vec<abi::TileSource>,
    token_rows: Vec<abi::TokenRow>,
    global_rows: Vec<abi::GlobalRow>,
    projected_rows: Vec<abi::ProjectedRow>,
    attention_items: [Vec<abi::AttentionItem>; 2],
    attention_groups: [Vec<abi::AttentionGroup>; 2],
    log2_multiplicity: [Vec<f32>; 2],
}

impl Lists {
    fn of(config: &EncoderConfig, batch: &BatchShape, image_tiles: Option<usize>, target: Target) -> Self {
        let mut lists = Self::default();
        let tiling = target.attention_tiling(config);
        let mut groups: [AttentionGroups; 2] = Default::default();
        let (mut first_pixels, mut first_output) = (0, 0);
        for image in &batch.images {
            let first = [lists.token_rows.len(), lists.global_rows.len()];
            lists.project(config, image, first, first_output);
            lists.embed(config, image, first_pixels);
            for stack in [Stack::Transformer, Stack::GlobalTransformer] {
                let (rows, first_row) = (image.rows(stack), first[stack.index()]);
                match tiling {
                    Some(tiling) => groups[stack.index()].push(tiling, rows, config.num_heads, first_row),
                    None => lists.attend(stack, rows, first_row),
                }
                lists.weigh(stack, rows, first_row);
            }
            first_pixels += image_tiles.unwrap_or_else(|| image.num_input_tiles());
            first_output += image.num_output_tiles() * config.num_tokens();
        }
        lists.attention_groups = groups.map(|groups| groups.table(config.num_heads).0);
        for items in &mut lists.attention_items {
            // The longest first: what starts last should end soon. Equal ones stay in the batch's order.
            items.sort_by_key(|item| std::cmp::Reverse(item.num_keys));
        }
        lists
    }

    /// The rows of an image's output.
    fn project(&mut self, config: &EncoderConfig, image: &SequenceLayout, first: [usize; 2], first_output: usize) {
        let tokens = config.num_tokens();
        let mut tile = 0;
        for run in image.projected_tiles() {
            let (computed, copies) = (run[0] * tokens, run.len() as u32);
            self.projected_rows.extend((0..tokens).map(|token| abi::ProjectedRow {
                head: (first[1] + computed + token) as u32,
                hidden: (first[0] + computed + token) as u32,
                output: (first_output + tile * tokens + token) as u32,
                copies,
            }));
            tile += run.len();
        }
    }

    /// An image's tiles and the rows of its two sequences.
    fn embed(&mut self, config: &EncoderConfig, image: &SequenceLayout, first_pixels: usize) {
        let tokens = config.num_tokens();
        let index = |place: Option<usize>| place.map_or(-1, |place| place as i32);
        let first_tile = self.tiles.len();
        let first_row = self.token_rows.len();
        for (number, tile) in image.tiles.iter().enumerate() {
            let pixels = index(tile.source.map(|source| first_pixels + source));
            self.tiles.push(abi::TileSource { pixels, block: index(tile.block) });
            for token in 0..tokens {
                let row = abi::TokenRow { tile: (first_tile + number) as i32, token: token as u32 };
                self.token_rows.push(row);
                let source = (first_row + number * tokens + token) as u32;
                self.global_rows.push(abi::GlobalRow { source, block: index(tile.block) });
            }
        }
        let first_alignment = self.token_rows.len();
        let num_alignment = image.transformer.len - image.tiles.len() * tokens;
        self.token_rows.extend(std::iter::repeat_n(abi::TokenRow { tile: -1, token: 0 }, num_alignment));
        let blocks = image.alignment.iter().flat_map(|rows| std::iter::repeat_n(rows.block, rows.rows));
        // The transformer keeps either as many alignment rows or a single one for all.
        self.global_rows.extend(blocks.enumerate().map(|(number, block)| abi::GlobalRow {
            source: (first_alignment + number.min(num_alignment - 1)) as u32,
            block: index(block),
        }));
    }

    /// An image's queries, in groups that see the same keys.
    fn attend(&mut self, stack: Stack, rows: &Rows, first_row: usize) {
        let first_multiple = rows.multiples.first().map_or(rows.len, |multiple| multiple.rows.start);
        let items = &mut self.attention_items[stack.index()];
        let mut group = |queries: Range<usize>, num_keys: usize| {
            for start in queries.clone().step_by(ATTENTION_QUERIES) {
                items.push(abi::AttentionItem {
                    query_row: (first_row + start) as u32,
                    num_queries: ATTENTION_QUERIES.min(queries.end - start) as u32,
                    key_row: first_row as u32,
                    num_keys: num_keys as u32,
                    first_multiple: first_multiple.min(num_keys) as u32,
                });
            }
        };
        group(0..rows.all_seeing, rows.len);
        group(rows.all_seeing..rows.len, rows.all_seeing);
    }

    /// How many rows each of an image's keys stands for.
    fn weigh(&mut self, stack: Stack, rows: &Rows, first_row: usize) {
        let logarithms = &mut self.log2_multiplicity[stack.index()];
        logarithms.resize(first_row + rows.len, 0.0);
        for multiple in &rows.multiples {
            let logarithm = (multiple.multiplicity as f64).log2() as f32;
            logarithms[first_row + multiple.rows.start..first_row + multiple.rows.end].fill(logarithm);
        }
    }
}
