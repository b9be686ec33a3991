//! Work that was given and is not done: what must come before what, and nothing else. Streams, events and graphs are
//! only ways to say that.

use std::collections::{BTreeMap, BTreeSet};

use super::work::Work;
use crate::machine::Random;

/// A piece of work, by its number.
pub(super) type Operation = u64;

/// The last operations of a stream, an event or a graph: what comes after all of them comes after all of it.
pub(super) type Frontier = Vec<Operation>;

/// An operation that waits.
pub(super) struct Pending {
    pub(super) device: usize,
    pub(super) after: Frontier,
    pub(super) work: Work,
}

/// Which of the operations that may be next is next.
#[derive(Clone, Copy)]
enum Order {
    /// Only those that the host waits for: all else is late.
    Needed,
    /// Any.
    Any,
    /// Those that the host does not wait for, as long as there are some.
    Unneeded,
}

/// A wait of the host: what it is for, and how it is answered.
pub(super) struct Wait {
    pub(super) target: Frontier,
    needed: BTreeSet<Operation>,
    order: Order,
}

/// What is pending.
#[derive(Default)]
pub(super) struct Schedule {
    given: Operation,
    pending: BTreeMap<Operation, Pending>,
    /// An operation that does not end.
    pub(super) hung: Option<Operation>,
    /// The one that did not, and may now.
    pub(super) released: Option<Operation>,
}

impl Schedule {
    /// Takes work that comes after `after`.
    pub(super) fn give(&mut self, device: usize, after: Frontier, work: Work) -> Operation {
        self.given += 1;
        self.pending.insert(self.given, Pending { device, after, work });
        self.given
    }

    /// Whether all of it is done.
    pub(super) fn is_done(&self, frontier: &[Operation]) -> bool {
        frontier.iter().all(|operation| !self.pending.contains_key(operation))
    }

    /// What of a frontier is not done.
    pub(super) fn undone(&self, frontier: &mut Frontier) {
        frontier.retain(|operation| self.pending.contains_key(operation));
        frontier.sort_unstable();
        frontier.dedup();
    }

    /// A wait for `target`, answered in an order by the seed.
    pub(super) fn wait(&self, target: Frontier, random: &mut Random) -> Wait {
        let mut needed = BTreeSet::new();
        let mut open = target.clone();
        while let Some(operation) = open.pop() {
            if let Some(pending) = self.pending.get(&operation).filter(|_| needed.insert(operation)) {
                open.extend(&pending.after);
            }
        }
        let order = [Order::Needed, Order::Any, Order::Unneeded][random.below(3)];
        Wait { target, needed, order }
    }

    /// An operation that nothing holds up; none if there is none that the wait would take.
    pub(super) fn choose(&self, wait: &Wait, random: &mut Random) -> Option<Operation> {
        let is_ready = |pending: &Pending| self.is_done(&pending.after);
        let ready =
            self.pending.iter().filter(|(operation, pending)| Some(**operation) != self.hung && is_ready(pending));
        let (needed, unneeded): (Vec<_>, Vec<_>) =
            ready.map(|(&operation, _)| operation).partition(|operation| wait.needed.contains(operation));
        let choices = match wait.order {
            Order::Needed => needed,
            Order::Any => [needed, unneeded].concat(),
            Order::Unneeded if unneeded.is_empty() => needed,
            Order::Unneeded => unneeded,
        };
        (!choices.is_empty()).then(|| choices[random.below(choices.len())])
    }

    /// What waits under this number.
    pub(super) fn get(&self, operation: Operation) -> Option<&Pending> {
        self.pending.get(&operation)
    }

    /// Strikes an operation off.
    pub(super) fn take(&mut self, operation: Operation) -> Option<Pending> {
        self.pending.remove(&operation)
    }

    /// All that a device has to do.
    pub(super) fn of(&self, device: usize) -> impl Iterator<Item = (Operation, &Work)> {
        let of_device = self.pending.iter().filter(move |(_, pending)| pending.device == device);
        of_device.map(|(&operation, pending)| (operation, &pending.work))
    }

    /// Forgets all that a device has to do.
    pub(super) fn abandon(&mut self, device: usize) {
        self.pending.retain(|_, pending| pending.device != device);
        self.hung = self.hung.filter(|operation| self.pending.contains_key(operation));
    }
}
