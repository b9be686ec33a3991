//! Encoders by number. A number is never used twice, so one that is stale, or made up, is told from one that is good.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use engine::error::ImageError;
use engine::image::Preprocessor;

use crate::status::{Refusal, Status};
use crate::structs::Description;

/// An encoder. Zero is none.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Encoder {
    /// Its number.
    pub id: u64,
}

/// An encoder that calls take in turn, and what can be told of it without waiting for its turn.
pub(crate) struct Entry {
    encoder: Mutex<engine::Encoder>,
    pub(crate) description: Description,
    /// None where the model's pixels have not three channels.
    pub(crate) preprocessor: Option<Preprocessor>,
}

pub(crate) type Held = Arc<Entry>;

impl Entry {
    /// The encoder, when its turn has come.
    pub(crate) fn lock(&self) -> Result<MutexGuard<'_, engine::Encoder>, Refusal> {
        let lost = "an earlier call on this encoder failed within the library";
        self.encoder.lock().map_err(|_| Refusal::new(Status::Lost, lost))
    }

    /// What cuts pictures for it.
    pub(crate) fn require_preprocessor(&self) -> Result<&Preprocessor, Refusal> {
        let expected = self.description.in_channels as usize;
        let refuse = || engine::Error::from(ImageError::Channels { expected });
        Ok(self.preprocessor.as_ref().ok_or_else(refuse)?)
    }
}

struct Table {
    next: u64,
    encoders: HashMap<u64, Held>,
}

static TABLE: LazyLock<Mutex<Table>> = LazyLock::new(|| Mutex::new(Table { next: 1, encoders: HashMap::new() }));

/// The table is sound between its changes, whatever panicked elsewhere.
fn table() -> MutexGuard<'static, Table> {
    TABLE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Gives an encoder a number.
pub(crate) fn insert(encoder: engine::Encoder, description: Description) -> Encoder {
    let preprocessor = encoder.preprocessor().ok().cloned();
    let entry = Entry { encoder: Mutex::new(encoder), description, preprocessor };
    let mut table = table();
    let id = table.next;
    table.next += 1;
    table.encoders.insert(id, Arc::new(entry));
    Encoder { id }
}

/// Takes the number away. Calls that are under way end as they would.
pub(crate) fn remove(handle: Encoder) -> Result<Held, Refusal> {
    table().encoders.remove(&handle.id).ok_or_else(|| stale(handle))
}

/// The encoder of this number.
pub(crate) fn find(handle: Encoder) -> Result<Held, Refusal> {
    table().encoders.get(&handle.id).cloned().ok_or_else(|| stale(handle))
}

fn stale(handle: Encoder) -> Refusal {
    Refusal::new(Status::InvalidHandle, format!("there is no encoder {}", handle.id))
}
