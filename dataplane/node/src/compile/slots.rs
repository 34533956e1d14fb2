//! Slots: small numbers that stay the same as long as what they stand for does, because flows and counters remember
//! them.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use march_pipeline::{Counters, Limits, TrafficCounters};

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "all {limit} places are taken, or still have flows of what was removed; remove some or wait for those flows to end"
)]
pub struct NoSlot {
    /// How many there are.
    pub limit: u16,
}

/// Who has which slot. A slot whose owner is gone is kept apart until nothing refers to it, and then given away last, so
/// that whoever reads counters by slot does not take one owner's for another's.
#[derive(Clone, Debug)]
pub struct Slots<K> {
    by_key: BTreeMap<K, u16>,
    retired: BTreeSet<u16>,
    /// Where the search for a free slot begins.
    next: u16,
    limit: u16,
}

impl<K: Ord + Clone> Slots<K> {
    /// All free; slots are numbered from 0 to below `limit`.
    #[must_use]
    pub fn new(limit: u16) -> Self {
        Self {
            by_key: BTreeMap::new(),
            retired: BTreeSet::new(),
            next: 0,
            limit,
        }
    }

    /// Gives every one of `keys` a slot and retires the slots of all others. Refused, with the key that got none, it
    /// changes nothing.
    pub fn assign(&mut self, keys: impl Iterator<Item = K>) -> Result<(), (K, NoSlot)> {
        let wanted: BTreeSet<K> = keys.collect();
        let mut next = self.clone();
        next.by_key.retain(|key, slot| {
            let stays = wanted.contains(key);
            if !stays {
                next.retired.insert(*slot);
            }
            stays
        });
        let taken: BTreeSet<u16> = next.by_key.values().chain(&next.retired).copied().collect();
        let mut free = (self.next..self.limit)
            .chain(0..self.next)
            .filter(|slot| !taken.contains(slot));
        for key in wanted {
            if let Entry::Vacant(place) = next.by_key.entry(key) {
                let Some(slot) = free.next() else {
                    return Err((place.key().clone(), NoSlot { limit: self.limit }));
                };
                next.next = if slot + 1 < self.limit { slot + 1 } else { 0 };
                place.insert(slot);
            }
        }
        drop(free);
        *self = next;
        Ok(())
    }

    /// Puts what has a slot into a list by slot, with `vacant` where nobody is.
    pub fn by_position<T: Clone>(&self, vacant: &T, items: impl Iterator<Item = (K, T)>) -> Vec<T> {
        let mut list = Vec::new();
        for (key, item) in items {
            if let Some(slot) = self.of(&key) {
                let at = usize::from(slot);
                if list.len() <= at {
                    list.resize(at + 1, vacant.clone());
                }
                list[at] = item;
            }
        }
        list
    }

    /// Frees the retired slots that nothing refers to any more.
    pub fn release(&mut self, is_unused: impl Fn(u16) -> bool) {
        self.retired.retain(|slot| !is_unused(*slot));
    }

    /// The slot of a key.
    #[must_use]
    pub fn of(&self, key: &K) -> Option<u16> {
        self.by_key.get(key).copied()
    }

    /// Every key.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.by_key.keys()
    }

    /// Keys by slot.
    #[must_use]
    pub fn by_slot(&self) -> BTreeMap<u16, K> {
        self.by_key
            .iter()
            .map(|(key, slot)| (*slot, key.clone()))
            .collect()
    }
}

/// Everything that has a number which outlives a generation.
#[derive(Clone, Debug)]
pub struct Ids {
    /// Flows and counters remember backends.
    pub backends: Slots<BackendKey>,
    /// By name; flows and counters remember services.
    pub services: Slots<String>,
    /// By name; counters remember rules.
    pub rules: Slots<String>,
    /// By name. Nothing remembers a set's number, but rules that name it are other rules when it moves.
    pub sets: Slots<String>,
}

impl Ids {
    /// Nothing assigned yet; as many numbers as there are counters.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        let slots = |count: usize| u16::try_from(count).unwrap_or(u16::MAX);
        Self {
            backends: Slots::new(slots(limits.backends)),
            services: Slots::new(slots(limits.services)),
            rules: Slots::new(slots(limits.rules)),
            sets: Slots::new(u16::MAX),
        }
    }

    /// Frees what is gone and unused: backends and services without flows, and rules.
    pub fn release(&mut self, traffic: &Counters) {
        let idle = |counters: &[TrafficCounters], slot: u16| {
            counters
                .get(usize::from(slot))
                .is_none_or(|counters| counters.flows.get() == 0)
        };
        self.backends.release(|slot| idle(&traffic.backends, slot));
        self.services.release(|slot| idle(&traffic.services, slot));
        self.rules.release(|_| true);
        self.sets.release(|_| true);
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
        assert_ne!(slots.of(&key(4)), first, "the longest unused is given last");
        slots
            .assign([key(2), key(3), key(4), key(5)].into_iter())
            .expect("fits");
        assert_eq!(slots.of(&key(5)), first);
    }

    #[test]
    fn positions_follow_slots() {
        let mut slots = Slots::new(8);
        slots.assign(["a", "b", "c"].into_iter()).expect("fits");
        slots.assign(["c", "d"].into_iter()).expect("fits");
        let list = slots.by_position(&"-", [("d", "D"), ("c", "C"), ("x", "X")].into_iter());
        assert_eq!(list, ["-", "-", "C", "D"]);
    }

    #[test]
    fn running_out_names_who_got_none_and_changes_nothing() {
        let mut slots = Slots::new(1);
        slots.assign([key(1)].into_iter()).expect("fits");
        let (refused, error) = slots
            .assign([key(1), key(2)].into_iter())
            .expect_err("must not fit");
        assert_eq!((refused, error), (key(2), NoSlot { limit: 1 }));
        assert_eq!(slots.of(&key(1)), Some(0));
    }
}
