//! The connections that a listener may have at once. When all slots are taken, the connection that has been without a
//! request for the longest gives way to a new one, so that idle clients keep nobody out.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::requests::{Ending, Requests};

/// How often it is looked whether one has become idle, while all have requests.
const LOOK: Duration = Duration::from_millis(50);

/// A listener's slots.
#[derive(Clone)]
pub(super) struct Slots {
    free: Arc<Semaphore>,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Default)]
struct Taken {
    connections: BTreeMap<u64, Arc<Requests>>,
    next: u64,
}

/// A connection's slot, until it is dropped.
pub(super) struct Slot {
    id: u64,
    pub(super) requests: Arc<Requests>,
    slots: Slots,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Slots {
    pub(super) fn new(max: usize) -> Self {
        let free = Arc::new(Semaphore::new(max.clamp(1, Semaphore::MAX_PERMITS)));
        Self { free, taken: Arc::default() }
    }

    /// Waits for a slot, and has an idle connection give way to it.
    pub(super) async fn take(&self) -> Slot {
        if let Ok(permit) = self.free.clone().try_acquire_owned() {
            return self.slot(Some(permit));
        }
        loop {
            self.close_idlest();
            if let Ok(permit) = timeout(LOOK, self.free.clone().acquire_owned()).await {
                return self.slot(permit.ok());
            }
        }
    }

    /// Has the connection that has been without a request for the longest give way, unless one does already. Whether there
    /// is one.
    pub(super) fn close_idlest(&self) -> bool {
        let taken = self.taken();
        let endings = || taken.connections.values().map(|requests| (requests.ending(), requests));
        if endings().any(|(ending, _)| ending == Some(Ending::GivesWay)) {
            return true;
        }
        let staying = endings().filter(|(ending, _)| ending.is_none());
        let idle = staying.filter_map(|(_, requests)| Some((requests.idle_since()?, requests)));
        let idlest = idle.min_by_key(|(since, _)| *since);
        idlest.inspect(|(_, requests)| requests.end(Ending::GivesWay)).is_some()
    }

    fn slot(&self, permit: Option<OwnedSemaphorePermit>) -> Slot {
        let requests = Arc::new(Requests::new());
        let mut taken = self.taken();
        let id = taken.next;
        taken.next += 1;
        taken.connections.insert(id, requests.clone());
        Slot { id, requests, slots: self.clone(), _permit: permit }
    }

    /// The map is whole between its changes, so a panic elsewhere leaves it sound.
    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.taken().connections.remove(&self.id);
    }
}
