//! Backend slots: small numbers that stay the same as long as the backend does, because flows remember them.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Who a backend is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendKey {
    /// Pool name.
    pub pool: String,
    /// Its address.
    pub address: IpAddr,
    /// Its port; 0 keeps the service's.
    pub port: u16,
}

/// No slot is left.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "pool {pool}: all {limit} backend slots are taken or still have flows of removed backends; remove backends or wait for those flows to end"
)]
pub struct NoSlot {
    /// Pool of the backend that got none.
    pub pool: String,
    /// How many there are.
    pub limit: u16,
}

/// Who has which slot. A slot whose backend is gone is kept apart until nothing refers to it.
#[derive(Clone, Debug)]
pub struct Slots {
    by_key: BTreeMap<BackendKey, u16>,
    retired: BTreeSet<u16>,
    limit: u16,
}

impl Slots {
    /// All free; slots are numbered from 0 to below `limit`.
    #[must_use]
    pub fn new(limit: u16) -> Self {
        Self {
            by_key: BTreeMap::new(),
            retired: BTreeSet::new(),
            limit,
        }
    }

    /// Gives every backend of `keys` a slot and retires the slots of all others.
    pub fn assign(&mut self, keys: impl Iterator<Item = BackendKey>) -> Result<(), NoSlot> {
        let wanted: BTreeSet<BackendKey> = keys.collect();
        let gone: Vec<BackendKey> = self
            .by_key
            .keys()
            .filter(|key| !wanted.contains(key))
            .cloned()
            .collect();
        let mut next = self.clone();
        for key in gone {
            next.retired.extend(next.by_key.remove(&key));
        }
        let taken: BTreeSet<u16> = next.by_key.values().chain(&next.retired).copied().collect();
        let mut free = (0..self.limit).filter(|slot| !taken.contains(slot));
        for key in wanted {
            if let Entry::Vacant(place) = next.by_key.entry(key) {
                let slot = free.next().ok_or_else(|| NoSlot {
                    pool: place.key().pool.clone(),
                    limit: self.limit,
                })?;
                place.insert(slot);
            }
        }
        drop(free);
        *self = next;
        Ok(())
    }

    /// Frees the retired slots that nothing refers to any more.
    pub fn release(&mut self, is_unused: impl Fn(u16) -> bool) {
        self.retired.retain(|slot| !is_unused(*slot));
    }

    /// The slot of a backend.
    #[must_use]
    pub fn of(&self, key: &BackendKey) -> Option<u16> {
        self.by_key.get(key).copied()
    }

    /// Every backend.
    pub fn keys(&self) -> impl Iterator<Item = &BackendKey> {
        self.by_key.keys()
    }

    /// Backends by slot.
    #[must_use]
    pub fn by_slot(&self) -> BTreeMap<u16, BackendKey> {
        self.by_key
            .iter()
            .map(|(key, slot)| (*slot, key.clone()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(last: u8) -> BackendKey {
        BackendKey {
            pool: "web".into(),
            address: IpAddr::from([10, 0, 0, last]),
            port: 80,
        }
    }

    #[test]
    fn a_slot_stays_and_is_reused_only_once_it_is_unused() {
        let mut slots = Slots::new(4);
        slots.assign([key(1), key(2)].into_iter()).expect("fits");
        let (first, second) = (slots.of(&key(1)), slots.of(&key(2)));
        slots.assign([key(2), key(3)].into_iter()).expect("fits");
        assert_eq!(slots.of(&key(2)), second);
        assert_eq!(slots.of(&key(1)), None);
        assert_ne!(slots.of(&key(3)), first, "its flows may still be there");
        slots.release(|_| true);
        slots
            .assign([key(2), key(3), key(4)].into_iter())
            .expect("fits");
        assert_eq!(slots.of(&key(4)), first);
    }

    #[test]
    fn running_out_names_the_pool_and_changes_nothing() {
        let mut slots = Slots::new(1);
        slots.assign([key(1)].into_iter()).expect("fits");
        let error = slots
            .assign([key(1), key(2)].into_iter())
            .expect_err("must not fit");
        assert!(error.to_string().contains("pool web"), "{error}");
        assert_eq!(slots.of(&key(1)), Some(0));
    }
}
