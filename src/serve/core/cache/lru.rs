//! Which answers are kept: those used last, as far as a budget of bytes goes. No lock and no clock are here.

use std::collections::{BTreeMap, HashMap};

use crate::digest::Digest;

/// Bytes that an entry takes beside its value: its key twice, what is noted of it, and its share of tables that double.
pub(crate) const OVERHEAD: u64 = 256;

/// Values by their digests.
#[derive(Debug)]
pub(crate) struct Lru<V> {
    budget: u64,
    bytes: u64,
    entries: HashMap<Digest, Entry<V>>,
    /// Counts uses; an entry's last one orders it.
    uses: u64,
    by_use: BTreeMap<u64, Digest>,
}

#[derive(Debug)]
struct Entry<V> {
    value: V,
    bytes: u64,
    used: u64,
}

impl<V: Clone> Lru<V> {
    pub(crate) fn new(budget: u64) -> Self {
        Self { budget, bytes: 0, entries: HashMap::new(), uses: 0, by_use: BTreeMap::new() }
    }

    /// Bytes of all entries, their overhead included: never more than the budget.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The values of these digests, each of them used now. None, and none of them used, where one is missing.
    pub(crate) fn get_all(&mut self, keys: &[Digest]) -> Option<Vec<V>> {
        if !keys.iter().all(|key| self.entries.contains_key(key)) {
            return None;
        }
        keys.iter().map(|key| self.touch(key)).collect()
    }

    /// Keeps a value of so many bytes, which counts as used now; what has not been used for longest makes room, and is
    /// handed back. A value that never has room makes none.
    pub(crate) fn insert(&mut self, key: Digest, value: V, bytes: u64) -> Vec<V> {
        let mut evicted = Vec::new();
        let bytes = bytes.saturating_add(OVERHEAD);
        if self.touch(&key).is_some() || bytes > self.budget {
            return evicted;
        }
        while self.bytes > self.budget - bytes {
            let Some((_, oldest)) = self.by_use.pop_first() else { break };
            if let Some(entry) = self.entries.remove(&oldest) {
                self.bytes -= entry.bytes;
                evicted.push(entry.value);
            }
        }
        self.bytes += bytes;
        self.uses += 1;
        self.by_use.insert(self.uses, key);
        self.entries.insert(key, Entry { value, bytes, used: self.uses });
        evicted
    }

    /// Uses an entry now.
    fn touch(&mut self, key: &Digest) -> Option<V> {
        let entry = self.entries.get_mut(key)?;
        self.by_use.remove(&entry.used);
        self.uses += 1;
        entry.used = self.uses;
        self.by_use.insert(self.uses, *key);
        Some(entry.value.clone())
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const BUDGET: u64 = 10 * OVERHEAD;

    #[derive(Debug, Clone)]
    enum Step {
        Get(Vec<u8>),
        Insert(u8, u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let key = || 0..12u8;
        let size = prop_oneof![Just(0), 0..3 * OVERHEAD, BUDGET - 2 * OVERHEAD..BUDGET + 2, Just(u64::MAX)];
        let step = prop_oneof![
            vec(key(), 0..4).prop_map(Step::Get),
            (key(), size).prop_map(|(key, size)| Step::Insert(key, size))
        ];
        vec(step, 0..200)
    }

    fn digest(key: u8) -> Digest {
        Digest::of_bytes(&[key])
    }

    proptest! {
        /// Against a list of keys and sizes, the one used longest ago first.
        #[test]
        fn what_was_used_last_is_kept_within_the_budget(steps in steps()) {
            let mut lru = Lru::new(BUDGET);
            let mut list: Vec<(u8, u64)> = Vec::new();
            for step in steps {
                match step {
                    Step::Get(keys) => {
                        let is_there = keys.iter().all(|key| list.iter().any(|(known, _)| known == key));
                        let found = lru.get_all(&keys.iter().map(|key| digest(*key)).collect::<Vec<_>>());
                        prop_assert_eq!(found, is_there.then(|| keys.clone()));
                        for key in keys.into_iter().filter(|_| is_there) {
                            let place = list.iter().position(|(known, _)| *known == key).unwrap();
                            let entry = list.remove(place);
                            list.push(entry);
                        }
                    }
                    Step::Insert(key, bytes) => {
                        let evicted = lru.insert(digest(key), key, bytes);
                        let mut expected = Vec::new();
                        if let Some(place) = list.iter().position(|(known, _)| *known == key) {
                            let entry = list.remove(place);
                            list.push(entry);
                        } else if bytes.saturating_add(OVERHEAD) <= BUDGET {
                            while list.iter().map(|(_, bytes)| bytes).sum::<u64>() + bytes + OVERHEAD > BUDGET {
                                expected.push(list.remove(0).0);
                            }
                            list.push((key, bytes + OVERHEAD));
                        }
                        prop_assert_eq!(evicted, expected);
                    }
                }
                prop_assert!(lru.bytes() <= BUDGET);
                prop_assert_eq!(lru.bytes(), list.iter().map(|(_, bytes)| bytes).sum::<u64>());
                let order: Vec<Digest> = lru.by_use.values().copied().collect();
                prop_assert_eq!(order, list.iter().map(|(key, _)| digest(*key)).collect::<Vec<_>>());
                prop_assert_eq!(lru.entries.len(), list.len());
            }
        }
    }
}
