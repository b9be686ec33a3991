//! How attention on Hopper divides an image's rows: by their own numbers alone, so that no result depends on the batch.

use std::ops::Range;

use serde::Serialize;

use super::Rows;

/// Query rows of a warpgroup: what one ticket of a piece is for.
pub const ATTENTION_TILE: usize = 64;

/// Pieces that the keys of a group are cut into at most.
pub const ATTENTION_PIECES: usize = 8;

/// Multiprocessors that the division has in mind, those of an H100 and an H200. Results depend on the division, so it does
/// not ask what they are computed on.
const MULTIPROCESSORS: usize = 132;

/// Blocks of keys that a piece has at least: what it leaves to be merged is to be worth it.
const PIECE_BLOCKS: usize = 2;

/// Query rows that are taken together, and keys of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct AttentionTiling {
    /// A multiple of [`ATTENTION_TILE`].
    pub rows: usize,
    /// A multiple of 16.
    pub keys: usize,
}

/// Queries of one image that see the same keys. Either all of them come in whole items, each with all keys; or they are the
/// last of their kind, and the keys may be cut into pieces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryGroup {
    /// Rows of the image.
    pub queries: Range<usize>,
    /// They see so many of its first rows.
    pub num_keys: usize,
    /// Keys of a piece.
    pub piece_keys: usize,
    tiling: AttentionTiling,
}

impl AttentionTiling {
    /// The one for heads of so many columns. Results depend on it, so it is the model's, whatever the batch.
    pub const fn of(head_columns: usize) -> Self {
        match head_columns {
            0..=80 => Self { rows: 192, keys: 112 },
            81..=96 => Self { rows: 128, keys: 176 },
            _ => Self { rows: 128, keys: 160 },
        }
    }

    /// Whole items of `num_rows` rows that are not cut. The rows that are left are; and so are a few items more where they
    /// would begin another wave of works, with most multiprocessors idle.
    fn whole_items(self, num_rows: usize, num_heads: usize) -> usize {
        let items = num_rows / self.rows;
        let works = items.saturating_mul(num_heads);
        let beyond = works % MULTIPROCESSORS;
        if works < MULTIPROCESSORS || beyond > MULTIPROCESSORS / 2 { items } else { items - beyond.div_ceil(num_heads) }
    }

    /// Tickets of so many queries that see the same keys, at most: where the keys are cut.
    pub(super) fn max_tickets(self, num_rows: usize, num_heads: usize) -> usize {
        let rest = num_rows - self.whole_items(num_rows, num_heads) * self.rows;
        self.tickets(rest, num_heads)
    }

    /// Of so many queries whose keys are cut: of every item as many as of the first.
    fn tickets(self, num_queries: usize, num_heads: usize) -> usize {
        let tiles = num_queries.min(self.rows).div_ceil(ATTENTION_TILE);
        num_queries.div_ceil(self.rows).saturating_mul(tiles).saturating_mul(num_heads)
    }

    /// An image's queries.
    pub fn groups(self, rows: &Rows, num_heads: usize) -> impl Iterator<Item = QueryGroup> + use<> {
        let kinds = [(0..rows.all_seeing, rows.len), (rows.all_seeing..rows.len, rows.all_seeing)];
        kinds.into_iter().flat_map(move |(queries, num_keys)| {
            let rest = queries.start + self.whole_items(queries.len(), num_heads) * self.rows;
            let num_blocks = num_keys.div_ceil(self.keys);
            let pieces = (num_blocks / PIECE_BLOCKS).clamp(1, ATTENTION_PIECES);
            let cut = num_blocks.div_ceil(pieces) * self.keys;
            let group = move |queries, piece_keys| QueryGroup { queries, num_keys, piece_keys, tiling: self };
            let groups = [group(queries.start..rest, num_blocks * self.keys), group(rest..queries.end, cut)];
            groups.into_iter().filter(|group| !group.queries.is_empty())
        })
    }
}

impl QueryGroup {
    /// Pieces of the keys.
    pub fn num_pieces(&self) -> usize {
        self.num_keys.div_ceil(self.piece_keys)
    }

    /// Items of all heads.
    fn num_items(&self, num_heads: usize) -> usize {
        self.queries.len().div_ceil(self.tiling.rows) * num_heads
    }

    /// What blocks of a grid take: heads of items, or pieces of them.
    pub fn num_works(&self, num_heads: usize) -> usize {
        self.num_items(num_heads) * self.num_pieces()
    }

    /// Tickets that the pieces draw.
    pub fn num_tickets(&self, num_heads: usize) -> usize {
        if self.num_pieces() > 1 { self.tiling.tickets(self.queries.len(), num_heads) } else { 0 }
    }

    /// Blocks of keys of one work, of the longest where they differ.
    pub fn num_blocks(&self) -> usize {
        self.piece_keys.min(self.num_keys).div_ceil(self.tiling.keys)
    }
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;
    use std::collections::BinaryHeap;

    use super::{ATTENTION_PIECES, AttentionTiling, MULTIPROCESSORS, QueryGroup};
    use crate::plan::{MultipleRows, Rows};

    /// The published model's.
    const TOKENS: usize = 1601;
    const HEADS: usize = 16;
    const HEAD_COLUMNS: usize = 80;

    /// What a work costs beside its blocks of keys, in blocks: its queries, its first scores and its output overlap
    /// nothing of their own warpgroup.
    const OVERHEAD: usize = 1;

    fn torchtune(tiles: usize) -> Rows {
        Rows { len: tiles * TOKENS, all_seeing: tiles * TOKENS, multiples: vec![] }
    }

    fn meta(tiles: usize) -> Rows {
        let real = tiles * TOKENS;
        let padding = if tiles < 4 { TOKENS } else { 0 };
        let multiples = vec![MultipleRows { rows: real..real + padding, multiplicity: 4 - tiles }];
        Rows { len: real + padding + 1, all_seeing: real, multiples }
    }

    /// Blocks of keys until the last multiprocessor is done, with works in the kernel's order, each taken by who is free
    /// first; and what each would have if all were done at once.
    fn makespan(images: &[Rows]) -> (usize, f64) {
        let tiling = AttentionTiling::of(HEAD_COLUMNS);
        let mut groups: Vec<QueryGroup> = images.iter().flat_map(|rows| tiling.groups(rows, HEADS)).collect();
        groups.sort_by_key(|group| Reverse(group.num_blocks()));
        let mut free: BinaryHeap<Reverse<usize>> = (0..MULTIPROCESSORS).map(|_| Reverse(0)).collect();
        let (mut end, mut sum) = (0, 0);
        for group in &groups {
            let pieces = group.num_pieces();
            let num_blocks = group.num_keys.div_ceil(tiling.keys);
            for work in 0..group.num_works(HEADS) {
                let before = work % pieces * (group.piece_keys / tiling.keys);
                let cost = OVERHEAD + (num_blocks - before).min(group.num_blocks());
                let Reverse(start) = free.pop().unwrap();
                free.push(Reverse(start + cost));
                end = end.max(start + cost);
                sum += cost;
            }
        }
        (end, sum as f64 / MULTIPROCESSORS as f64)
    }

    #[test]
    fn multiprocessors_end_together() {
        for tiles in 1..=4 {
            for rows in [torchtune(tiles), meta(tiles)] {
                let (one, one_ideal) = makespan(std::slice::from_ref(&rows));
                let (eight, eight_ideal) = makespan(&vec![rows.clone(); 8]);
                let ratios = [one as f64 / one_ideal, eight as f64 / eight_ideal];
                println!("{tiles} tiles, {} rows: {one} blocks, {ratios:.3?} of the ideal", rows.len);
                // One tile is less than a wave of whole items and a piece each: 20 blocks in place of 18. Eight images leave
                // next to nothing over.
                assert!(ratios[0] <= 1.12 && ratios[1] <= 1.02, "{tiles} tiles: {ratios:.3?}");
            }
        }
    }

    #[test]
    fn four_tiles_are_four_waves_and_short_pieces() {
        let groups: Vec<QueryGroup> = AttentionTiling::of(HEAD_COLUMNS).groups(&torchtune(4), HEADS).collect();
        let works: Vec<[usize; 3]> =
            groups.iter().map(|group| [group.num_works(HEADS), group.num_pieces(), group.num_blocks()]).collect();
        assert_eq!(works, [[4 * MULTIPROCESSORS, 1, 58], [HEADS * ATTENTION_PIECES, ATTENTION_PIECES, 8]]);
    }

    #[test]
    fn groups_cover_all_rows_once() {
        for tiling in [80, 96, 128].map(AttentionTiling::of) {
            for (len, all_seeing) in
                [(1, 1), (191, 191), (192, 100), (400, 192), (1000, 500), (3203, 1601), (4803, 4803)]
            {
                let rows = Rows { len, all_seeing, multiples: vec![] };
                let groups: Vec<QueryGroup> = tiling.groups(&rows, HEADS).collect();
                let mut next = 0;
                for group in &groups {
                    assert_eq!(group.queries.start, next);
                    next = group.queries.end;
                    let is_last = [all_seeing, len].contains(&next);
                    assert!(group.num_pieces() == 1 || is_last);
                    assert!(group.queries.len().is_multiple_of(tiling.rows) || is_last);
                    let kind = if group.queries.start < all_seeing { all_seeing } else { len - all_seeing };
                    assert!(group.num_tickets(HEADS) <= tiling.max_tickets(kind, HEADS));
                    assert!(group.piece_keys.is_multiple_of(tiling.keys) && group.num_pieces() <= ATTENTION_PIECES);
                    assert_eq!(group.num_keys, if group.queries.start < all_seeing { len } else { all_seeing });
                }
                assert_eq!(next, len);
            }
        }
    }
}
