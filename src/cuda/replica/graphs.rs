//! The graphs that a GPU has recorded.

use crate::cuda::batch::BatchTables;
use crate::cuda::driver::Graph;
use crate::plan::Capacity;

/// Graphs that are kept; the one that was not used for the longest time makes room.
const MAX_GRAPHS: usize = 64;

/// A graph that takes any batch its capacity covers.
#[derive(Debug)]
pub(super) struct Recorded {
    pub(super) graph: Graph,
    pub(super) tables: BatchTables,
    last_use: u64,
}

/// All of them, by number. A number is good until the next graph is kept.
#[derive(Debug, Default)]
pub(super) struct Graphs {
    recorded: Vec<Recorded>,
    num_uses: u64,
}

impl Graphs {
    /// The number of the graph for `capacity`; none where it was not recorded.
    pub(super) fn find(&mut self, capacity: &Capacity) -> Option<usize> {
        self.num_uses += 1;
        let known = self.recorded.iter().position(|recorded| recorded.tables.capacity() == capacity)?;
        self.recorded[known].last_use = self.num_uses;
        Some(known)
    }

    /// Keeps a graph that was recorded because it was not found; returns its number.
    pub(super) fn keep(&mut self, graph: Graph, tables: BatchTables) -> usize {
        if self.recorded.len() == MAX_GRAPHS {
            let oldest = self.recorded.iter().enumerate().min_by_key(|(_, recorded)| recorded.last_use);
            let oldest = oldest.map_or(0, |(index, _)| index);
            self.recorded.swap_remove(oldest);
        }
        self.recorded.push(Recorded { graph, tables, last_use: self.num_uses });
        self.recorded.len() - 1
    }

    /// The graph of a number.
    pub(super) fn get(&self, number: usize) -> &Recorded {
        &self.recorded[number]
    }

    /// Forgets all of them.
    pub(super) fn clear(&mut self) {
        self.recorded.clear();
    }
}
