//! Streams that record what they are given, and the graphs that come of it.

use std::collections::BTreeSet;
use std::thread::ThreadId;

use super::schedule::Frontier;
use super::work::Work;

/// A piece of work in a graph.
#[derive(Clone)]
pub(super) struct Node {
    /// The nodes that come before it, by their place in the graph.
    pub(super) after: Vec<usize>,
    pub(super) work: Work,
}

/// Recorded work: nodes come after those they depend on.
#[derive(Clone)]
pub(super) struct Graph {
    pub(super) device: usize,
    pub(super) nodes: Vec<Node>,
}

impl Graph {
    /// The nodes that none comes after.
    pub(super) fn leaves(&self) -> impl Iterator<Item = usize> {
        let inner: BTreeSet<usize> = self.nodes.iter().flat_map(|node| node.after.iter().copied()).collect();
        (0..self.nodes.len()).filter(move |node| !inner.contains(node))
    }

    /// Whether `nodes` all come before, or are among, `frontier`.
    fn are_before(&self, nodes: &[usize], frontier: &[usize]) -> bool {
        let mut before = BTreeSet::new();
        let mut open = frontier.to_vec();
        while let Some(node) = open.pop() {
            if before.insert(node) {
                open.extend(&self.nodes[node].after);
            }
        }
        nodes.iter().all(|node| before.contains(node))
    }
}

/// A graph that can be launched.
pub(super) struct Executable {
    pub(super) graph: Graph,
    /// The end of its last launch: two launches of one never overlap.
    pub(super) last: Frontier,
}

/// `CUstreamCaptureMode`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Global,
    ThreadLocal,
    Relaxed,
}

/// A recording under way.
pub(super) struct Capture {
    /// The stream that it was begun on.
    pub(super) origin: usize,
    pub(super) mode: Mode,
    /// The thread that began it.
    pub(super) thread: ThreadId,
    pub(super) is_valid: bool,
    pub(super) graph: Graph,
}

impl Capture {
    /// Whether a call that no capture can see, an allocation for one, is forbidden to `thread` meanwhile.
    pub(super) fn forbids(&self, thread: ThreadId) -> bool {
        match self.mode {
            Mode::Global => true,
            Mode::ThreadLocal => self.thread == thread,
            Mode::Relaxed => false,
        }
    }

    /// Whether every one of these frontiers was joined to the origin's.
    pub(super) fn is_joined<'a>(&self, origin: &[usize], mut others: impl Iterator<Item = &'a Vec<usize>>) -> bool {
        others.all(|frontier| self.graph.are_before(frontier, origin))
    }
}

/// A stream's part in a capture.
#[derive(Clone)]
pub(super) struct Recording {
    pub(super) capture: usize,
    pub(super) frontier: Vec<usize>,
}
