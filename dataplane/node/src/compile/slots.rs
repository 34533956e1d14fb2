//! Slots: small numbers that stay the same as long as what they stand for does, because flows and counters remember
//! them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use march_pipeline::{Counters, Limits, TrafficCounters};

use super::plane::Passed;
use super::rules::CompiledRules;

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
    pub limit: usize,
}

/// A slot's number: as wide as its owners are many.
pub trait Number: Copy + Ord + TryFrom<usize> {
    /// As an index.
    fn index(self) -> usize;
}

impl Number for u16 {
    fn index(self) -> usize {
        usize::from(self)
    }
}

impl Number for u32 {
    fn index(self) -> usize {
        usize::try_from(self).expect("an address has at least 32 bits")
    }
}

/// What a slot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    Free,
    Taken,
    Retired,
}

/// Who has which slot. A slot whose owner is gone is kept apart until nothing refers to it, and then given away last, so
/// that whoever reads counters by slot does not take one owner's for another's.
#[derive(Clone, Debug)]
pub struct Slots<K, N = u16> {
    by_key: BTreeMap<K, N>,
    /// As far as they were ever used.
    slots: Vec<Slot>,
    /// How many are retired.
    retired: usize,
    /// Where the search for a free slot begins.
    next: usize,
    limit: usize,
    version: u64,
}

impl<K: Ord + Clone, N: Number> Slots<K, N> {
    /// All free; slots are numbered from 0 to below `limit`, or as far as numbers go.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            by_key: BTreeMap::new(),
            slots: Vec::new(),
            retired: 0,
            next: 0,
            limit,
            version: 0,
        }
    }

    /// Gives every one of `keys` a slot and retires the slots of all others. Refused, with the key that got none, it
    /// changes nothing.
    pub fn assign(&mut self, keys: impl Iterator<Item = K>) -> Result<(), (K, NoSlot)> {
        let mut wanted: Vec<K> = keys.collect();
        wanted.sort_unstable();
        wanted.dedup();
        let is_new = |key: &&K| !self.by_key.contains_key(key);
        let mut new = wanted.iter().filter(is_new);
        // Retired slots are not free yet, and neither are those that this retires.
        let free = self.limit - self.by_key.len() - self.retired;
        if let Some(refused) = new.clone().nth(free) {
            return Err((refused.clone(), NoSlot { limit: self.limit }));
        }
        let given: Vec<(K, N)> = new
            .by_ref()
            .cloned()
            .scan(self.next, |next, key| {
                let at = (*next..self.limit)
                    .chain(0..*next)
                    .find(|at| self.slots.get(*at).is_none_or(|slot| *slot == Slot::Free))?;
                *next = if at + 1 < self.limit { at + 1 } else { 0 };
                Some((key, at))
            })
            .map(|(key, at)| Some((key, N::try_from(at).ok()?)))
            .collect::<Option<_>>()
            .expect("there are free slots, and the limit has a number");
        let (slots, retired) = (&mut self.slots, &mut self.retired);
        self.by_key.retain(|key, number| {
            let stays = wanted.binary_search(key).is_ok();
            if !stays {
                slots[number.index()] = Slot::Retired;
                *retired += 1;
            }
            stays
        });
        self.version += u64::from(!given.is_empty());
        for (key, number) in given {
            let at = number.index();
            if self.slots.len() <= at {
                self.slots.resize(at + 1, Slot::Free);
            }
            self.slots[at] = Slot::Taken;
            self.next = if at + 1 < self.limit { at + 1 } else { 0 };
            self.by_key.insert(key, number);
        }
        Ok(())
    }

    /// Puts what has a slot into a list by slot, with `vacant` where nobody is.
    pub fn by_position<T: Clone>(&self, vacant: &T, items: impl Iterator<Item = (K, T)>) -> Vec<T> {
        let mut list = Vec::new();
        for (key, item) in items {
            if let Some(slot) = self.of(&key) {
                let at = slot.index();
                if list.len() <= at {
                    list.resize(at + 1, vacant.clone());
                }
                list[at] = item;
            }
        }
        list
    }

    /// Frees the retired slots that nothing refers to any more.
    pub fn release(&mut self, is_unused: impl Fn(N) -> bool) {
        if self.retired == 0 {
            return;
        }
        for (at, slot) in self.slots.iter_mut().enumerate() {
            let is_unused = || N::try_from(at).is_ok_and(&is_unused);
            if *slot == Slot::Retired && is_unused() {
                *slot = Slot::Free;
                self.retired -= 1;
            }
        }
    }

    /// The slot of a key.
    #[must_use]
    pub fn of<Q: Ord + ?Sized>(&self, key: &Q) -> Option<N>
    where
        K: std::borrow::Borrow<Q>,
    {
        self.by_key.get(key).copied()
    }

    /// Moves whenever somebody gets a slot: while it stands, so do the slots of all who had one.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Every key.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.by_key.keys()
    }

    /// Keys by slot.
    #[must_use]
    pub fn by_slot(&self) -> BTreeMap<N, K> {
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
    /// By name, as [`march_model::EffectiveRule`] has it; counters remember rules.
    pub rules: Slots<String, u32>,
    /// By name. Nothing remembers a set's number, but rules that name it are other rules when it moves.
    pub sets: Slots<String>,
    /// By name; buckets remember limits.
    pub limits: Slots<String>,
    /// The rules that were compiled last, by their numbers.
    pub(super) compiled_rules: CompiledRules,
    pub(super) passed: Passed,
}

impl Ids {
    /// Nothing assigned yet; as many numbers as there are counters.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        let narrow = usize::from(u16::MAX);
        Self {
            backends: Slots::new(limits.backends.min(narrow)),
            services: Slots::new(limits.services.min(narrow)),
            rules: Slots::new(limits.rules),
            sets: Slots::new(narrow),
            limits: Slots::new(narrow),
            compiled_rules: CompiledRules::default(),
            passed: Passed::default(),
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
        self.limits.release(|_| true);
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
        let mut slots: Slots<_> = Slots::new(4);
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
        let mut slots: Slots<_> = Slots::new(8);
        slots.assign(["a", "b", "c"].into_iter()).expect("fits");
        slots.assign(["c", "d"].into_iter()).expect("fits");
        let list = slots.by_position(&"-", [("d", "D"), ("c", "C"), ("x", "X")].into_iter());
        assert_eq!(list, ["-", "-", "C", "D"]);
    }

    #[test]
    fn running_out_names_who_got_none_and_changes_nothing() {
        let mut slots: Slots<_> = Slots::new(1);
        slots.assign([key(1)].into_iter()).expect("fits");
        let (refused, error) = slots
            .assign([key(1), key(2)].into_iter())
            .expect_err("must not fit");
        assert_eq!((refused, error), (key(2), NoSlot { limit: 1 }));
        assert_eq!(slots.of(&key(1)), Some(0));
    }
}
