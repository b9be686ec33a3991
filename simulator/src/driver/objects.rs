//! What handles stand for.

use std::collections::BTreeMap;

use super::status::{Result, Status};

/// Objects of one kind. A handle is never used twice, so that one that outlives its object names nothing.
pub(super) struct Table<T> {
    kind: usize,
    created: usize,
    objects: BTreeMap<usize, T>,
}

impl<T> Table<T> {
    /// An empty table; handles of different kinds differ, and none looks like an address.
    pub(super) fn new(kind: u8) -> Self {
        Self { kind: usize::from(kind) << 40, created: 0, objects: BTreeMap::new() }
    }

    pub(super) fn add(&mut self, object: T) -> usize {
        self.created += 1;
        let handle = self.kind | self.created;
        self.objects.insert(handle, object);
        handle
    }

    pub(super) fn get(&self, handle: usize) -> Result<&T> {
        self.objects.get(&handle).ok_or(Status::ERROR_INVALID_HANDLE)
    }

    pub(super) fn get_mut(&mut self, handle: usize) -> Result<&mut T> {
        self.objects.get_mut(&handle).ok_or(Status::ERROR_INVALID_HANDLE)
    }

    pub(super) fn remove(&mut self, handle: usize) -> Result<T> {
        self.objects.remove(&handle).ok_or(Status::ERROR_INVALID_HANDLE)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        self.objects.iter().map(|(&handle, object)| (handle, object))
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.objects.values_mut()
    }

    pub(super) fn retain(&mut self, keep: impl Fn(&T) -> bool) {
        self.objects.retain(|_, object| keep(object));
    }
}
