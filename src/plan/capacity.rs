//! How much a plan has room for. A plan for one batch has exactly that; one that is kept for many has more.

use serde::Serialize;

use super::{ATTENTION_QUERIES, AttentionTiling, BatchShape, PROJECTION_ROWS, Semantics, Stack, Target};
use crate::config::EncoderConfig;

/// Counts that decide how large a plan's buffers are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize)]
pub struct Capacity {
    /// Tiles of pixels that are read.
    pub input_tiles: usize,
    /// Tiles that are computed.
    pub tiles: usize,
    /// Rows in the transformer and in the gated layers.
    pub rows: [usize; 2],
    /// Groups of queries that attention takes together, likewise; on Hopper, that see the same keys.
    pub attention_items: [usize; 2],
    /// On Hopper, tickets of attention's pieces, of the stack that has more.
    pub attention_tickets: usize,
    /// Rows of the output matrix that are computed.
    pub projected_rows: usize,
    /// Stretches that those rows are cut into at most: each lies together wherever it is read and written.
    pub projection_items: usize,
    /// Rows of the embeddings.
    pub output_rows: usize,
}

impl Capacity {
    /// Exactly what `batch` needs on `target`; `usize::MAX` where a count cannot be expressed.
    pub fn of(config: &EncoderConfig, batch: &BatchShape, target: Target) -> Self {
        let tokens = config.num_tokens();
        let mut sum = Self::default();
        let mut tickets = [0; 2];
        let add = |total: &mut usize, more: usize| *total = total.saturating_add(more);
        for image in &batch.images {
            add(
                &mut sum.input_tiles,
                image.tiles.iter().filter_map(|tile| tile.source).max().map_or(0, |last| last + 1),
            );
            add(&mut sum.tiles, image.tiles.len());
            for stack in [Stack::Transformer, Stack::GlobalTransformer] {
                let (rows, index) = (image.rows(stack), stack.index());
                add(&mut sum.rows[index], rows.len);
                if let Some(tiling) = target.attention_tiling(config) {
                    for group in tiling.groups(rows, config.num_heads) {
                        add(&mut sum.attention_items[index], 1);
                        add(&mut tickets[index], group.num_tickets(config.num_heads));
                    }
                } else {
                    let items = |rows: usize| rows.div_ceil(ATTENTION_QUERIES);
                    add(&mut sum.attention_items[index], items(rows.all_seeing) + items(rows.len - rows.all_seeing));
                }
            }
            add(
                &mut sum.projection_items,
                image.projected_tiles().count().saturating_mul(tokens.div_ceil(PROJECTION_ROWS)),
            );
            add(&mut sum.projected_rows, image.projected_tiles().count().saturating_mul(tokens));
            add(&mut sum.output_rows, image.num_output_tiles().saturating_mul(tokens));
        }
        sum.attention_tickets = tickets[0].max(tickets[1]);
        sum
    }

    /// What covers every batch of at most `num_tiles` computed tiles on `target`, however many images they are, but for
    /// embeddings of padding tiles beyond that number.
    pub fn of_tiles(
        config: &EncoderConfig,
        semantics: Semantics,
        collapse: bool,
        num_tiles: usize,
        target: Target,
    ) -> Self {
        let alignment = match semantics {
            Semantics::Torchtune => 0,
            Semantics::Meta if collapse => 1,
            Semantics::Meta => config.num_alignment_rows(),
        };
        let rows = num_tiles.saturating_mul(config.num_tokens() + alignment);
        // Queries of an image are of two kinds at most; on Hopper, those of a kind are whole items and a rest.
        let kinds = num_tiles.saturating_mul(2);
        let (items, tickets) = match target.attention_tiling(config) {
            Some(tiling) => {
                let per_tile = tickets_per_tile(config, tiling, alignment);
                (kinds.saturating_mul(2), num_tiles.saturating_mul(per_tile))
            }
            None => (rows.div_ceil(ATTENTION_QUERIES).saturating_add(kinds), 0),
        };
        let output_rows = num_tiles.saturating_mul(config.num_tokens());
        let all = Self {
            input_tiles: num_tiles,
            tiles: num_tiles,
            rows: [rows; 2],
            attention_items: [items; 2],
            attention_tickets: tickets,
            projected_rows: output_rows,
            projection_items: num_tiles.saturating_mul(config.num_tokens().div_ceil(PROJECTION_ROWS)),
            output_rows,
        };
        all.rounded_up()
    }

    /// The least capacity of a coarse grid that covers this one: every count is rounded up to its three highest bits,
    /// so that batches of all kinds share few plans at the cost of at most a quarter of memory, and of no time, for
    /// what lies beyond a batch's own counts is not computed.
    pub fn rounded_up(&self) -> Self {
        self.map(|count| {
            let step = 1usize << count.checked_ilog2().unwrap_or(0).saturating_sub(2);
            count.checked_next_multiple_of(step).unwrap_or(usize::MAX)
        })
    }

    /// The least capacity that covers both.
    pub fn union(&self, other: &Self) -> Self {
        Self {
            input_tiles: self.input_tiles.max(other.input_tiles),
            tiles: self.tiles.max(other.tiles),
            rows: [0, 1].map(|k| self.rows[k].max(other.rows[k])),
            attention_items: [0, 1].map(|k| self.attention_items[k].max(other.attention_items[k])),
            attention_tickets: self.attention_tickets.max(other.attention_tickets),
            projected_rows: self.projected_rows.max(other.projected_rows),
            projection_items: self.projection_items.max(other.projection_items),
            output_rows: self.output_rows.max(other.output_rows),
        }
    }

    /// Whether a batch of `other`'s counts fits.
    pub fn covers(&self, other: &Self) -> bool {
        self.union(other) == *self
    }

    fn map(&self, change: impl Fn(usize) -> usize) -> Self {
        Self {
            input_tiles: change(self.input_tiles),
            tiles: change(self.tiles),
            rows: self.rows.map(&change),
            attention_items: self.attention_items.map(&change),
            attention_tickets: change(self.attention_tickets),
            projected_rows: change(self.projected_rows),
            projection_items: change(self.projection_items),
            output_rows: change(self.output_rows),
        }
    }
}

/// Tickets of attention's pieces for each computed tile, at most, whatever the images: of every number of real tiles and of
/// padding tiles, with up to `alignment` alignment rows for each.
fn tickets_per_tile(config: &EncoderConfig, tiling: AttentionTiling, alignment: usize) -> usize {
    let (tokens, most) = (config.num_tokens(), config.max_num_tiles);
    let tickets = |rows: usize| tiling.max_tickets(rows, config.num_heads);
    let of = |real: usize, padding: usize| {
        let tiles = real + padding;
        let others = (0..=alignment * tiles).map(|rows| tickets(padding * tokens + rows)).max().unwrap_or(0);
        (tickets(real * tokens) + others).div_ceil(tiles)
    };
    let pairs = (1..=most).flat_map(|real| (0..=most - real).map(move |padding| (real, padding)));
    pairs.map(|(real, padding)| of(real, padding)).max().unwrap_or(0)
}
