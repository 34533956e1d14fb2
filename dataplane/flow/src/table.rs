//! The table of one address family.

use crate::address::{AddressPair, HashSeed, Key};
use crate::bucket::{Bucket, WAYS};
use crate::flow::{Direction, Flow, FlowState};
use crate::memory::{HugeSlice, prefetch};
use crate::opening::Opening;

/// Multiplier that turns a tag into the distance to the other bucket. Odd, so that a bucket and its alternate differ
/// whenever the table has more than one bucket and the tag is not a multiple of the bucket count.
const ALTERNATE: usize = 0x5bd1_e995;

/// At most this share of the ways is used when every flow exists, in percent. Above about 85 % one displacement no
/// longer finds room; a power of two of buckets lands between half of this and this.
const MAX_LOAD_PERCENT: usize = 62;

/// What a probe found: a slot whose tag matches, or nothing. Not verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Candidate(u32);

impl Candidate {
    /// No tag matched: there is no such flow.
    pub const MISS: Self = Self(u32::MAX);

    /// True where no tag matched.
    #[inline]
    #[must_use]
    pub fn is_miss(self) -> bool {
        self == Self::MISS
    }
}

/// A verified hit: which flow, and which of its directions the packet belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowHandle {
    /// Index of the flow, valid until the flow is removed.
    pub index: u32,
    /// Direction of the packet.
    pub direction: Direction,
}

/// Why a flow could not be inserted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InsertError {
    /// Every flow entry is in use: call [`FlowTable::evict`] and try again.
    Full,
    /// No way left in the buckets of one of the two keys. Rare at the loads that [`FlowTable::new`] sizes for.
    Crowded,
}

/// Flows looked at when victims are chosen, and how many of them are.
const STRETCH: usize = 64;
const VICTIMS: usize = 8;
/// Flows that the sweep collects before it removes them.
const SWEPT_AT_ONCE: usize = 64;

/// A flow chosen to make room, unless it is seen again before its turn.
#[derive(Clone, Copy, Default)]
struct Victim {
    index: u32,
    last_seen_ms: u32,
}

/// A candidate for it.
#[derive(Clone, Copy, Default)]
struct Ranked {
    over: bool,
    idle_ms: u32,
    victim: Victim,
}

/// All flows of one address family on one lcore.
pub struct FlowTable<A: AddressPair> {
    buckets: HugeSlice<Bucket>,
    bucket_mask: usize,
    flows: HugeSlice<Flow<A>>,
    /// By flow.
    openings: HugeSlice<Opening>,
    free: Vec<u32>,
    hand: u32,
    /// Chosen to make room, worst last.
    victims: Vec<Victim>,
    /// Room for what one step of the sweep removes; empty between calls.
    over: Vec<u32>,
    seed: HashSeed,
}

impl<A: AddressPair> FlowTable<A> {
    /// Most flows that one table can index (a slot has 31 bits for the flow and one for the direction).
    pub const MAX_CAPACITY: usize = (u32::MAX >> 1) as usize - 1;

    /// A table for up to `capacity` flows (both directions of a flow are one), at least 1. Allocates everything now.
    pub fn new(capacity: usize, seed: (u64, u64)) -> std::io::Result<Self> {
        let capacity = capacity.clamp(1, Self::MAX_CAPACITY);
        let ways = (capacity * 2 * 100).div_ceil(MAX_LOAD_PERCENT);
        let bucket_count = ways.div_ceil(WAYS).next_power_of_two().max(2);
        let flows = HugeSlice::new(capacity)?;
        let last = u32::try_from(capacity - 1)
            .map_err(|_| std::io::Error::from(std::io::ErrorKind::OutOfMemory))?;
        Ok(Self {
            buckets: HugeSlice::new(bucket_count)?,
            bucket_mask: bucket_count - 1,
            flows,
            openings: HugeSlice::new(capacity)?,
            free: (0..=last).rev().collect(),
            hand: 0,
            victims: Vec::with_capacity(VICTIMS),
            over: Vec::with_capacity(SWEPT_AT_ONCE),
            seed: HashSeed(seed.0 | 1, seed.1 | 1),
        })
    }

    /// Flows that fit.
    pub fn capacity(&self) -> usize {
        self.flows.len()
    }

    /// Flows that exist.
    pub fn len(&self) -> usize {
        self.flows.len() - self.free.len()
    }

    /// True where there is no flow.
    pub fn is_empty(&self) -> bool {
        self.free.len() == self.flows.len()
    }

    /// Memory in use, in bytes: flows, openings, index and free list.
    pub fn memory_bytes(&self) -> usize {
        size_of_val(&*self.flows)
            + size_of_val(&*self.openings)
            + size_of_val(&*self.buckets)
            + self.free.capacity() * size_of::<u32>()
    }

    /// The hash that the other calls want.
    #[inline]
    pub fn hash(&self, key: &Key<A>) -> u64 {
        key.hash(self.seed)
    }

    /// First stage: fetches the bucket.
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        prefetch(&self.buckets[self.home(hash)]);
    }

    /// Fetches the entry that the insertion after `ahead` others will fill.
    #[inline]
    pub fn prefetch_free(&self, ahead: usize) {
        let entry = self
            .free
            .len()
            .checked_sub(ahead + 1)
            .and_then(|at| self.free.get(at));
        if let Some(index) = entry {
            prefetch(&self.flows[*index as usize]);
            prefetch(&self.openings[*index as usize]);
        }
    }

    /// Second stage: the first slot with a matching tag; fetches its flow.
    #[inline]
    pub fn probe(&self, hash: u64) -> Candidate {
        let tag = tag_of(hash);
        let index = self.home(hash);
        let bucket = &self.buckets[index];
        let mut mask = bucket.matches(tag);
        let mut found = bucket;
        if mask == 0 {
            if bucket.overflow == 0 {
                return Candidate::MISS;
            }
            found = &self.buckets[self.alternate(index, tag)];
            mask = found.matches(tag);
            if mask == 0 {
                return Candidate::MISS;
            }
        }
        let slot = found.slots[(mask.trailing_zeros() as usize) & (WAYS - 1)];
        let flow = &self.flows[(slot >> 1) as usize];
        prefetch(flow);
        if size_of::<Flow<A>>() > 64 {
            prefetch(&flow.last_seen_ms);
        }
        Candidate(slot)
    }

    /// Third stage: compares the whole key. On a tag collision looks on; `None` is a true miss.
    #[inline]
    pub fn verify(&self, candidate: Candidate, hash: u64, key: &Key<A>) -> Option<FlowHandle> {
        if candidate.is_miss() {
            return None;
        }
        if self.slot_has(candidate.0, key) {
            return Some(handle_of(candidate.0));
        }
        self.find_colliding(hash, key)
    }

    /// All three stages at once.
    pub fn find(&self, key: &Key<A>) -> Option<FlowHandle> {
        let hash = self.hash(key);
        self.verify(self.probe(hash), hash, key)
    }

    #[inline]
    fn slot_has(&self, slot: u32, key: &Key<A>) -> bool {
        let flow = &self.flows[(slot >> 1) as usize];
        let side = (slot & 1) as usize;
        flow.addresses[side] == key.addresses
            && flow.ports[side] == key.ports
            && flow.protocol == key.protocol
    }

    #[cold]
    #[inline(never)]
    fn find_colliding(&self, hash: u64, key: &Key<A>) -> Option<FlowHandle> {
        let tag = tag_of(hash);
        let first = self.home(hash);
        for index in [first, self.alternate(first, tag)] {
            let bucket = &self.buckets[index];
            for way in 0..WAYS {
                if bucket.tags[way] == tag && self.slot_has(bucket.slots[way], key) {
                    return Some(handle_of(bucket.slots[way]));
                }
            }
        }
        None
    }

    /// The flow of a handle.
    #[inline]
    pub fn flow(&self, index: u32) -> &Flow<A> {
        &self.flows[index as usize]
    }

    /// The flow of a handle, to change its counters, state or remembered ids. Its keys must stay as they are.
    #[inline]
    pub fn flow_mut(&mut self, index: u32) -> &mut Flow<A> {
        &mut self.flows[index as usize]
    }

    /// How a flow was opened. Whatever an earlier flow left there, until it is set.
    pub fn opening(&self, index: u32) -> Opening {
        self.openings[index as usize]
    }

    /// Remembers how a flow was opened.
    pub fn set_opening(&mut self, index: u32, opening: Opening) {
        self.openings[index as usize] = opening;
    }

    /// Inserts a flow under both its keys, or under neither. The caller has looked: neither key is in use, and the two
    /// differ.
    pub fn insert(&mut self, flow: Flow<A>) -> Result<u32, InsertError> {
        let keys = [flow.key(Direction::Forward), flow.key(Direction::Reverse)];
        debug_assert_ne!(flow.state, FlowState::Free);
        debug_assert_ne!(keys[0], keys[1]);
        debug_assert!(
            keys.iter().all(|key| self.find(key).is_none()),
            "a key is in use"
        );
        let index = *self.free.last().ok_or(InsertError::Full)?;
        self.flows[index as usize] = flow;
        let hashes = keys.map(|key| self.hash(&key));
        if !self.place(hashes[0], index << 1) {
            self.flows[index as usize].state = FlowState::Free;
            return Err(InsertError::Crowded);
        }
        if !self.place(hashes[1], index << 1 | 1) {
            self.unplace(hashes[0], index << 1);
            self.flows[index as usize].state = FlowState::Free;
            return Err(InsertError::Crowded);
        }
        self.free.pop();
        Ok(index)
    }

    /// Removes a flow, both halves, and returns what it was.
    pub fn remove(&mut self, index: u32) -> Flow<A> {
        let flow = self.flows[index as usize];
        assert_ne!(flow.state, FlowState::Free, "flow {index} removed twice");
        for direction in [Direction::Forward, Direction::Reverse] {
            let hash = self.hash(&flow.key(direction));
            self.unplace(hash, index << 1 | direction as u32);
        }
        self.flows[index as usize].state = FlowState::Free;
        self.free.push(index);
        flow
    }

    /// Looks at the next `budget` entries, in a circle, and removes those for which `is_over` holds; `on_removed`
    /// hears of each. `is_over` may change what a flow remembers, but not its keys. The circle needs no links in the flow and reads memory in order. What is over is first collected, its
    /// buckets fetched, and then removed, so that the misses overlap.
    pub fn sweep(
        &mut self,
        budget: usize,
        mut is_over: impl FnMut(&mut Flow<A>) -> bool,
        mut on_removed: impl FnMut(&Flow<A>),
    ) {
        let mut left = budget.min(self.flows.len());
        while left > 0 {
            let mut over = core::mem::take(&mut self.over);
            while left > 0 && over.len() < SWEPT_AT_ONCE {
                left -= 1;
                let index = self.advance_hand();
                let flow = &mut self.flows[index as usize];
                if flow.state != FlowState::Free && is_over(flow) {
                    self.prefetch_buckets(index);
                    over.push(index);
                }
            }
            for index in over.drain(..) {
                on_removed(&self.remove(index));
            }
            self.over = over;
        }
    }

    /// Makes room: removes one flow whose connection is over or whose handshake is not done or, failing that, one that has
    /// been idle for long. Returns `None` only for an empty table.
    ///
    /// Victims are chosen some at a time from a stretch of the circle, so that one eviction costs few entries read, and
    /// their buckets are fetched ahead.
    pub fn evict(&mut self, now_ms: u32) -> Option<Flow<A>> {
        loop {
            if let Some(victim) = self.victims.pop() {
                if let Some(next) = self.victims.last() {
                    self.prefetch_buckets(next.index);
                }
                // It may be gone since, or have been seen again.
                let flow = &self.flows[victim.index as usize];
                if flow.state != FlowState::Free && flow.last_seen_ms == victim.last_seen_ms {
                    return Some(self.remove(victim.index));
                }
            } else if !self.choose_victims(now_ms) {
                return None;
            }
        }
    }

    /// Refills the victims from the next stretch of the circle, worst last. False for an empty table.
    fn choose_victims(&mut self, now_ms: u32) -> bool {
        let mut seen = [Ranked::default(); STRETCH];
        let mut count = 0;
        for _ in 0..self.flows.len() {
            let index = self.advance_hand();
            let flow = &self.flows[index as usize];
            if flow.state != FlowState::Free {
                let over = flow.state == FlowState::Closed || flow.state.is_embryonic();
                let victim = Victim {
                    index,
                    last_seen_ms: flow.last_seen_ms,
                };
                seen[count] = Ranked {
                    over,
                    idle_ms: flow.idle_ms(now_ms),
                    victim,
                };
                count += 1;
                if count == STRETCH {
                    break;
                }
            }
        }
        let seen = &mut seen[..count];
        seen.sort_unstable_by_key(|ranked| (ranked.over, ranked.idle_ms));
        let worst = &seen[count.saturating_sub(VICTIMS)..];
        self.victims
            .extend(worst.iter().map(|ranked| ranked.victim));
        count > 0
    }

    /// The next entry of the circle; fetches the one some steps ahead.
    #[inline]
    fn advance_hand(&mut self) -> u32 {
        let index = self.hand;
        self.hand = if index as usize + 1 == self.flows.len() {
            0
        } else {
            index + 1
        };
        if let Some(ahead) = self.flows.get(index as usize + 8) {
            prefetch(ahead);
        }
        index
    }

    /// Fetches both buckets in which a flow is entered, or most likely is.
    #[inline]
    fn prefetch_buckets(&self, index: u32) {
        let flow = &self.flows[index as usize];
        for direction in [Direction::Forward, Direction::Reverse] {
            self.prefetch(self.hash(&flow.key(direction)));
        }
    }

    /// Every flow that exists, in memory order.
    pub fn iter(&self) -> impl Iterator<Item = &Flow<A>> {
        self.flows
            .iter()
            .filter(|flow| flow.state != FlowState::Free)
    }

    /// The first bucket of a hash.
    #[inline]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the mask keeps fewer bits than either type has"
    )]
    fn home(&self, hash: u64) -> usize {
        hash as usize & self.bucket_mask
    }

    #[inline]
    fn alternate(&self, index: usize, tag: u16) -> usize {
        index ^ (usize::from(tag).wrapping_mul(ALTERNATE) & self.bucket_mask)
    }

    /// Puts a slot into one of its two buckets, displacing one resident to its other bucket if both are full.
    fn place(&mut self, hash: u64, slot: u32) -> bool {
        let tag = tag_of(hash);
        let first = self.home(hash);
        let second = self.alternate(first, tag);
        if let Some(way) = self.buckets[first].free_way() {
            self.write(first, way, tag, slot);
            return true;
        }
        if second != first
            && let Some(way) = self.buckets[second].free_way()
        {
            self.write(second, way, tag, slot);
            self.buckets[first].overflow += 1;
            return true;
        }
        for index in [first, second] {
            if let Some(way) = self.displace(index) {
                self.write(index, way, tag, slot);
                if index != first {
                    self.buckets[first].overflow += 1;
                }
                return true;
            }
        }
        false
    }

    /// Moves one resident of a full bucket to its other bucket and returns the way that became free.
    fn displace(&mut self, index: usize) -> Option<usize> {
        for way in 0..WAYS {
            let (tag, slot) = {
                let bucket = &self.buckets[index];
                (bucket.tags[way], bucket.slots[way])
            };
            let other = self.alternate(index, tag);
            if other == index {
                continue;
            }
            let Some(free) = self.buckets[other].free_way() else {
                continue;
            };
            let resident = &self.flows[(slot >> 1) as usize];
            let home = self.home(self.hash(&resident.key(Direction::of_bit(slot))));
            self.write(other, free, tag, slot);
            self.buckets[index].tags[way] = 0;
            if home == index {
                self.buckets[index].overflow += 1;
            } else {
                self.buckets[other].overflow -= 1;
            }
            return Some(way);
        }
        None
    }

    #[inline]
    fn write(&mut self, index: usize, way: usize, tag: u16, slot: u32) {
        let bucket = &mut self.buckets[index];
        bucket.tags[way] = tag;
        bucket.slots[way] = slot;
    }

    fn unplace(&mut self, hash: u64, slot: u32) {
        let tag = tag_of(hash);
        let first = self.home(hash);
        if let Some(way) = self.buckets[first].way_of(tag, slot) {
            self.buckets[first].tags[way] = 0;
            return;
        }
        let second = self.alternate(first, tag);
        let way = self.buckets[second]
            .way_of(tag, slot)
            .expect("a flow is in one of its two buckets");
        self.buckets[second].tags[way] = 0;
        self.buckets[first].overflow -= 1;
    }
}

#[inline]
const fn tag_of(hash: u64) -> u16 {
    (hash >> 48) as u16 | 1
}

#[inline]
const fn handle_of(slot: u32) -> FlowHandle {
    FlowHandle {
        index: slot >> 1,
        direction: Direction::of_bit(slot),
    }
}

#[cfg(test)]
mod tests;
