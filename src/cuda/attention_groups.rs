//! The work of attention on Hopper, in the order in which blocks take it.

use std::cmp::Reverse;

use super::abi;
use crate::plan::{ATTENTION_PIECES, ATTENTION_TILE, AttentionTiling, Plan, QueryGroup, Rows};

// The plan divides rows by numbers that the kernels divide them by, too.
const _: () = assert!(ATTENTION_PIECES == abi::ATTENTION_PIECES as usize);
const _: () = assert!(ATTENTION_TILE == abi::ATTENTION_TILE as usize);
const _: () = assert!(Plan::PARTIAL_EXTRA == abi::ATTENTION_PARTIAL_EXTRA as usize);

/// The queries of a batch' images, gathered one image after another.
#[derive(Debug, Default)]
pub(crate) struct AttentionGroups {
    /// With the image's first row, and its first key that stands for several.
    groups: Vec<(QueryGroup, [usize; 2])>,
}

impl AttentionGroups {
    /// Adds an image whose rows start at `first_row`.
    pub(crate) fn push(&mut self, tiling: AttentionTiling, rows: &Rows, num_heads: usize, first_row: usize) {
        let first_multiple = rows.multiples.first().map_or(rows.len, |multiple| multiple.rows.start);
        self.groups.extend(tiling.groups(rows, num_heads).map(|group| (group, [first_row, first_multiple])));
    }

    /// The table of the groups, works and tickets counted through for so many heads; and how many tickets there are.
    ///
    /// The longest works come first: what starts last should end soon. Equal ones stay in the batch's order, and those of
    /// a group go head by head, so that blocks that run together read the keys and values of few heads.
    pub(crate) fn table(mut self, num_heads: usize) -> (Vec<abi::AttentionGroup>, usize) {
        self.groups.sort_by_key(|(group, _)| Reverse(group.num_blocks()));
        let (mut works, mut tickets) = (0, 0);
        let entry = |(group, [first_row, first_multiple]): &(QueryGroup, [usize; 2])| {
            works += group.num_works(num_heads);
            let first_ticket = tickets;
            tickets += group.num_tickets(num_heads);
            abi::AttentionGroup {
                end_work: works as u32,
                query_row: (first_row + group.queries.start) as u32,
                num_queries: group.queries.len() as u32,
                key_row: *first_row as u32,
                num_keys: group.num_keys as u32,
                first_multiple: (*first_multiple).min(group.num_keys) as u32,
                piece_keys: group.piece_keys as u32,
                first_ticket: first_ticket as u32,
            }
        };
        let table = self.groups.iter().map(entry).collect();
        (table, tickets)
    }
}
