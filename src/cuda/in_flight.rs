//! Batches that were submitted and not yet asked for: whose they are, and which slot each is in.

use std::sync::{Arc, Weak};

use super::backend::CudaBackend;
use super::driver::Event;
use super::replica::SLOTS;
use super::slot::GpuTimes;
use crate::error::{Error, InputError};
use crate::plan::Batch;

/// A batch on its way, for whoever will ask for its results. Dropping it gives them up.
#[derive(Debug)]
pub(crate) struct Flight {
    ticket: Arc<()>,
    computed: Arc<Event>,
}

/// What can be waited for on any thread until a batch is computed.
#[derive(Debug, Clone)]
pub(crate) struct Computed(Arc<Event>);

impl Computed {
    /// Waits. What went wrong is told to whoever asks for the results.
    pub(crate) fn wait(&self) {
        let _ = self.0.synchronize();
    }
}

impl Flight {
    pub(crate) fn computed(&self) -> Computed {
        Computed(self.computed.clone())
    }
}

type Landed = Result<(Vec<f32>, GpuTimes), Error>;

/// The other side of a [`Flight`].
#[derive(Debug)]
struct Pending {
    owner: Weak<()>,
    replica: usize,
    /// What the results will be written to, until they are.
    place: Place,
}

#[derive(Debug)]
enum Place {
    Slot { slot: usize, embeddings: Vec<f32> },
    Landed(Landed),
}

/// All batches under way, in the order they were submitted.
#[derive(Debug, Default)]
pub(super) struct Flights(Vec<Pending>);

impl Flights {
    /// The oldest flight in a slot of this replica, and the slot.
    fn oldest_in(&self, replica: usize) -> Option<usize> {
        self.0.iter().position(|flight| flight.replica == replica && matches!(flight.place, Place::Slot { .. }))
    }

    fn is_taken(&self, replica: usize, slot: usize) -> bool {
        let takes = |flight: &Pending| {
            flight.replica == replica && matches!(flight.place, Place::Slot { slot: taken, .. } if taken == slot)
        };
        self.0.iter().any(takes)
    }
}

impl CudaBackend {
    /// Starts a batch on GPU number `device` of this backend's, whose results will be written to `embeddings`. Waits where
    /// the GPU has as many as it has slots, or needs more memory than the batches under way leave it.
    ///
    /// # Errors
    /// [`CudaError`](crate::error::CudaError); batches under way are not affected, unless the GPU is lost.
    pub(crate) fn submit(&mut self, device: usize, batch: &Batch, embeddings: Vec<f32>) -> Result<Flight, Error> {
        if !self.replicas[device].has_room_for(&batch.shape) {
            self.land(device);
        }
        let slot = loop {
            match (0..SLOTS).find(|&slot| !self.flights.is_taken(device, slot)) {
                Some(free) => break free,
                None => self.land_oldest(device),
            }
        };
        self.replicas[device].submit(slot, batch, true)?;
        let flight = Flight { ticket: Arc::new(()), computed: self.replicas[device].computed(slot).clone() };
        let owner = Arc::downgrade(&flight.ticket);
        self.flights.0.push(Pending { owner, replica: device, place: Place::Slot { slot, embeddings } });
        Ok(flight)
    }

    /// Waits for a batch; its results, and where its time went.
    ///
    /// # Errors
    /// [`CudaError`](crate::error::CudaError); [`InputError::Unavailable`] for a batch of another backend.
    pub(crate) fn finish(&mut self, flight: &Flight) -> Landed {
        let owner = Arc::downgrade(&flight.ticket);
        let known = self.flights.0.iter().position(|pending| pending.owner.ptr_eq(&owner));
        let known = known.ok_or_else(another_encoder)?;
        let pending = self.flights.0.remove(known);
        match pending.place {
            Place::Landed(landed) => landed,
            Place::Slot { slot, mut embeddings } => {
                let times = self.replicas[pending.replica].finish(slot, &mut embeddings)?;
                Ok((embeddings, times))
            }
        }
    }

    /// Frees all slots: waits for what is in them, and keeps the results for those who will ask.
    pub(super) fn land_all(&mut self) {
        (0..self.replicas.len()).for_each(|replica| self.land(replica));
    }

    /// The slots of a replica that no flight is in; where there are none, the oldest one's, which lands.
    pub(super) fn free_slots(&mut self, replica: usize) -> Vec<usize> {
        if (0..SLOTS).all(|slot| self.flights.is_taken(replica, slot)) {
            self.land_oldest(replica);
        }
        (0..SLOTS).filter(|&slot| !self.flights.is_taken(replica, slot)).collect()
    }

    pub(super) fn land(&mut self, replica: usize) {
        while self.flights.oldest_in(replica).is_some() {
            self.land_oldest(replica);
        }
    }

    fn land_oldest(&mut self, replica: usize) {
        let Some(oldest) = self.flights.oldest_in(replica) else { return };
        let mut pending = self.flights.0.remove(oldest);
        let Place::Slot { slot, mut embeddings } = pending.place else { return };
        if pending.owner.strong_count() == 0 {
            // Nobody will ask; what went wrong concerns the next batch, which is told.
            let _ = self.replicas[replica].discard(slot);
            return;
        }
        let landed = self.replicas[replica].finish(slot, &mut embeddings);
        pending.place = Place::Landed(landed.map(|times| (embeddings, times)));
        self.flights.0.push(pending);
        self.flights
            .0
            .retain(|pending| pending.owner.strong_count() > 0 || matches!(pending.place, Place::Slot { .. }));
    }
}

/// The refusal of a submission that was made elsewhere.
pub(crate) fn another_encoder() -> Error {
    let reason = "it was submitted to another encoder";
    InputError::Unavailable { option: "submission", found: "given".to_string(), reason }.into()
}
