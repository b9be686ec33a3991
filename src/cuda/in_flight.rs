//! Batches that were submitted and not yet asked for: whose they are, and which slot each is in.

use std::sync::{Arc, Weak};

use super::driver::Event;
use super::slot::SLOTS;
use crate::error::Error;
use crate::plan::Timing;

/// A batch on its way, for whoever will ask for its results. Dropping it gives them up.
#[derive(Debug)]
pub(crate) struct InFlightBatch {
    ticket: Arc<()>,
    computed: Arc<Event>,
}

/// What can be waited for on any thread until a device has computed a submission.
#[derive(Debug, Clone)]
pub struct Computed(Arc<Event>);

impl Computed {
    /// Waits. Failures are told by [`Encoder::finish`](crate::Encoder::finish).
    pub fn wait(&self) {
        let _ = self.0.synchronize();
    }
}

impl InFlightBatch {
    pub(crate) fn computed(&self) -> Computed {
        Computed(self.computed.clone())
    }
}

/// A batch's embeddings, and where its time went.
pub(super) type Outcome = Result<(Vec<f32>, Timing), Error>;

/// The other side of an [`InFlightBatch`].
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) owner: Weak<()>,
    pub(super) replica: usize,
    pub(super) state: FlightState,
}

#[derive(Debug)]
pub(super) enum FlightState {
    /// The batch is in a slot; `embeddings` is what its results will be written to.
    Slot { slot: usize, embeddings: Vec<f32> },
    /// Its slot was needed before its owner came for the results.
    Finished(Outcome),
}

/// All batches under way, in the order they were submitted.
#[derive(Debug, Default)]
pub(super) struct InFlight(Vec<Pending>);

impl InFlight {
    /// Adds a batch that was given to a slot, which tells with `computed` when it is done.
    pub(super) fn add(
        &mut self,
        replica: usize,
        slot: usize,
        embeddings: Vec<f32>,
        computed: &Arc<Event>,
    ) -> InFlightBatch {
        let batch = InFlightBatch { ticket: Arc::new(()), computed: computed.clone() };
        let (owner, state) = (Arc::downgrade(&batch.ticket), FlightState::Slot { slot, embeddings });
        self.0.push(Pending { owner, replica, state });
        batch
    }

    /// Takes a batch out; none where it is not one of these.
    pub(super) fn take(&mut self, batch: &InFlightBatch) -> Option<Pending> {
        let owner = Arc::downgrade(&batch.ticket);
        let known = self.0.iter().position(|pending| pending.owner.ptr_eq(&owner))?;
        Some(self.0.remove(known))
    }

    /// Takes the oldest batch out that is in a slot of this replica.
    pub(super) fn take_oldest(&mut self, replica: usize) -> Option<Pending> {
        let is_there =
            |pending: &Pending| pending.replica == replica && matches!(pending.state, FlightState::Slot { .. });
        let oldest = self.0.iter().position(is_there)?;
        Some(self.0.remove(oldest))
    }

    /// Puts a batch back whose slot was freed, and forgets the others like it that were given up.
    pub(super) fn put_back(&mut self, owner: Weak<()>, replica: usize, outcome: Outcome) {
        self.0.push(Pending { owner, replica, state: FlightState::Finished(outcome) });
        self.0.retain(|pending| pending.owner.strong_count() > 0 || matches!(pending.state, FlightState::Slot { .. }));
    }

    /// The slots of a replica that no batch is in.
    pub(super) fn free_slots(&self, replica: usize) -> Vec<usize> {
        let is_taken = |slot: usize| {
            self.0.iter().any(|pending| {
                pending.replica == replica
                    && matches!(pending.state, FlightState::Slot { slot: taken, .. } if taken == slot)
            })
        };
        (0..SLOTS).filter(|&slot| !is_taken(slot)).collect()
    }
}
