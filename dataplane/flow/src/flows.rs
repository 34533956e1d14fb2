//! The flows of one family: the table that packets look in, and a small one for handshakes that are not done.
//!
//! Whoever sends SYNs from invented addresses fills the small table and nothing else: there the oldest make room, and no flow
//! of the large table ever does for a handshake. A flow moves over when its handshake is done ([`Flows::promote`]), under a new
//! index. The hot path looks in the large table alone ([`Flows::settled`]); all other calls here mean both.

use march_wire::ip;

use crate::address::{AddressPair, Key};
use crate::flow::{Direction, Flow, FlowState};
use crate::opening::Opening;
use crate::order::Order;
use crate::table::{FlowHandle, FlowTable, InsertError};

/// Handshakes under way for each 16 flows that fit, at least [`FEWEST`] and at most [`MOST`].
const SHARE: usize = 16;
const FEWEST: usize = 4_096;
const MOST: usize = 1 << 20;

/// Marks an index as one of the small table.
const EMBRYONIC: u32 = 1 << 30;

/// Both tables of a family. An index is valid until its flow is removed or promoted.
pub struct Flows<A: AddressPair> {
    settled: FlowTable<A>,
    embryonic: FlowTable<A>,
    /// The small table's flows, oldest first.
    order: Order,
    /// Where the next look for handshakes whose time is over begins.
    hand: u32,
}

impl<A: AddressPair> Flows<A> {
    /// Tables for up to `capacity` flows and their share of handshakes. Allocates everything now.
    ///
    /// # Errors
    /// The system has no such memory.
    pub fn new(capacity: usize, seed: (u64, u64)) -> std::io::Result<Self> {
        let embryonic = (capacity / SHARE).clamp(FEWEST, MOST);
        Self::with_embryonic(capacity, embryonic, seed)
    }

    /// The same with room for `embryonic` handshakes.
    ///
    /// # Errors
    /// The system has no such memory.
    pub fn with_embryonic(
        capacity: usize,
        embryonic: usize,
        seed: (u64, u64),
    ) -> std::io::Result<Self> {
        let embryonic = embryonic.min(EMBRYONIC as usize);
        // One seed for both: a key is hashed once.
        let embryonic = FlowTable::new(embryonic, seed)?;
        Ok(Self {
            settled: FlowTable::new(capacity.min(EMBRYONIC as usize), seed)?,
            order: Order::new(embryonic.capacity()),
            embryonic,
            hand: 0,
        })
    }

    /// The large table, which has every flow but handshakes.
    #[inline]
    pub fn settled(&self) -> &FlowTable<A> {
        &self.settled
    }

    /// The large table, to change flows or sweep it.
    #[inline]
    pub fn settled_mut(&mut self) -> &mut FlowTable<A> {
        &mut self.settled
    }

    /// The small table, which has handshakes.
    #[inline]
    pub fn embryonic(&self) -> &FlowTable<A> {
        &self.embryonic
    }

    /// Whether this is a flow of the small table.
    #[inline]
    #[must_use]
    pub const fn is_embryonic(index: u32) -> bool {
        index & EMBRYONIC != 0
    }

    /// Flows that exist.
    pub fn len(&self) -> usize {
        self.settled.len() + self.embryonic.len()
    }

    /// True where there is no flow.
    pub fn is_empty(&self) -> bool {
        self.settled.is_empty() && self.embryonic.is_empty()
    }

    /// Flows that fit, handshakes aside.
    pub fn capacity(&self) -> usize {
        self.settled.capacity()
    }

    /// Memory in use, in bytes.
    pub fn memory_bytes(&self) -> usize {
        self.settled.memory_bytes() + self.embryonic.memory_bytes() + self.order.memory_bytes()
    }

    /// Fetches what looking for `key` will read.
    #[inline]
    pub fn prefetch(&self, key: &Key<A>) {
        let hash = self.settled.hash(key);
        self.settled.prefetch(hash);
        if key.protocol == ip::TCP {
            self.embryonic.prefetch(hash);
        }
    }

    /// Fetches the bucket of the small table that looking for a key with this hash will read.
    #[inline]
    pub fn prefetch_embryonic(&self, hash: u64) {
        self.embryonic.prefetch(hash);
    }

    /// Once that is there: fetches the flow in it.
    #[inline]
    pub fn probe_embryonic(&self, hash: u64) {
        self.embryonic.probe(hash);
    }

    /// Fetches what moving a flow of the small table will touch, `ahead` others before it.
    #[inline]
    pub fn prefetch_promotion(&self, index: u32, ahead: usize) {
        let flow = self.flow(index);
        for direction in [Direction::Forward, Direction::Reverse] {
            self.prefetch(&flow.key(direction));
        }
        self.settled.prefetch_free(ahead);
    }

    /// Fetches the entry that the insertion after `ahead` others of a flow in this state will fill.
    #[inline]
    pub fn prefetch_free(&self, ahead: usize, state: FlowState) {
        if state.is_embryonic() {
            self.embryonic.prefetch_free(ahead);
        } else {
            self.settled.prefetch_free(ahead);
        }
    }

    /// Finds a flow.
    #[inline]
    pub fn find(&self, key: &Key<A>) -> Option<FlowHandle> {
        let hash = self.settled.hash(key);
        let find = |table: &FlowTable<A>| table.verify(table.probe(hash), hash, key);
        find(&self.settled).or_else(|| {
            // Nothing else has handshakes.
            if key.protocol != ip::TCP {
                return None;
            }
            let handle = find(&self.embryonic)?;
            Some(FlowHandle {
                index: handle.index | EMBRYONIC,
                ..handle
            })
        })
    }

    /// The flow of an index.
    #[inline]
    pub fn flow(&self, index: u32) -> &Flow<A> {
        self.table(index).flow(index & !EMBRYONIC)
    }

    /// The flow of an index, to change all but its keys.
    #[inline]
    pub fn flow_mut(&mut self, index: u32) -> &mut Flow<A> {
        self.table_mut(index).flow_mut(index & !EMBRYONIC)
    }

    /// How the flow was opened.
    #[inline]
    pub fn opening(&self, index: u32) -> Opening {
        self.table(index).opening(index & !EMBRYONIC)
    }

    /// Remembers how the flow was opened.
    #[inline]
    pub fn set_opening(&mut self, index: u32, opening: Opening) {
        self.table_mut(index)
            .set_opening(index & !EMBRYONIC, opening);
    }

    /// Inserts a flow whose keys are in neither table: a handshake into the small one, any other into the large one.
    ///
    /// # Errors
    /// As [`FlowTable::insert`], of the table that it would go into.
    pub fn insert(&mut self, flow: Flow<A>) -> Result<u32, InsertError> {
        if flow.state.is_embryonic() {
            debug_assert_eq!(flow.protocol, ip::TCP);
            let index = self.embryonic.insert(flow)?;
            self.order.push(index);
            Ok(index | EMBRYONIC)
        } else {
            self.settled.insert(flow)
        }
    }

    /// Makes room where `flow` would go: removes and returns the flow that has to go, of handshakes the oldest. `None` only for an
    /// empty table.
    pub fn make_room(&mut self, flow: &Flow<A>, now_ms: u32) -> Option<Flow<A>> {
        if flow.state.is_embryonic() {
            let oldest = self.order.first()?;
            Some(self.remove(oldest | EMBRYONIC))
        } else {
            self.settled.evict(now_ms)
        }
    }

    /// Removes a flow and returns what it was.
    pub fn remove(&mut self, index: u32) -> Flow<A> {
        if Self::is_embryonic(index) {
            self.order.remove(index & !EMBRYONIC);
        }
        self.table_mut(index).remove(index & !EMBRYONIC)
    }

    /// Moves a flow of the small table, whose handshake is done, to the large one. Returns its new index; if it cannot move, it
    /// stays where it is.
    ///
    /// # Errors
    /// [`InsertError::Full`]: evict from [`Flows::settled_mut`] and try again. [`InsertError::Crowded`]: it stays.
    pub fn promote(&mut self, index: u32) -> Result<u32, InsertError> {
        debug_assert!(Self::is_embryonic(index));
        let from = index & !EMBRYONIC;
        let to = self.settled.insert(*self.embryonic.flow(from))?;
        self.settled.set_opening(to, self.embryonic.opening(from));
        self.remove(index);
        Ok(to)
    }

    /// Looks at the next `budget` entries of the small table, in a circle, and removes those for which `is_over` holds;
    /// `on_removed` hears of each.
    pub fn sweep_embryonic(
        &mut self,
        budget: usize,
        mut is_over: impl FnMut(&mut Flow<A>) -> bool,
        mut on_removed: impl FnMut(&Flow<A>),
    ) {
        for _ in 0..budget.min(self.embryonic.capacity()) {
            let at = self.hand;
            self.hand = if at as usize + 1 == self.embryonic.capacity() {
                0
            } else {
                at + 1
            };
            let flow = self.embryonic.flow_mut(at);
            if flow.state != FlowState::Free && is_over(flow) {
                on_removed(&self.remove(at | EMBRYONIC));
            }
        }
    }

    #[inline]
    fn table(&self, index: u32) -> &FlowTable<A> {
        if Self::is_embryonic(index) {
            &self.embryonic
        } else {
            &self.settled
        }
    }

    #[inline]
    fn table_mut(&mut self, index: u32) -> &mut FlowTable<A> {
        if Self::is_embryonic(index) {
            &mut self.embryonic
        } else {
            &mut self.settled
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Ipv4Pair;

    fn key(number: u64) -> Key<Ipv4Pair> {
        Key {
            addresses: Ipv4Pair(number << 32 | 7),
            ports: 0x1234_5678,
            protocol: 6,
        }
    }

    fn flow(number: u64, state: FlowState, now_ms: u32) -> Flow<Ipv4Pair> {
        Flow::new(key(number), key(number).swapped(), state, now_ms)
    }

    fn flows(capacity: usize, embryonic: usize) -> Flows<Ipv4Pair> {
        Flows::with_embryonic(capacity, embryonic, (3, 5)).expect("memory")
    }

    #[test]
    fn a_handshake_moves_over_with_all_that_is_known_of_it() {
        let mut flows = flows(64, 64);
        let index = flows.insert(flow(1, FlowState::SynSent, 0)).expect("room");
        let opening = Opening::new(3, Some(100), 46, 2);
        flows.set_opening(index, opening);
        assert!(Flows::<Ipv4Pair>::is_embryonic(index));
        assert!(flows.settled().find(&key(1)).is_none());
        let handle = flows.find(&key(1).swapped()).expect("found");
        assert_eq!(
            (handle.index, handle.direction),
            (index, Direction::Reverse)
        );
        flows.flow_mut(index).state = FlowState::Established;
        let to = flows.promote(index).expect("room");
        assert!(!Flows::<Ipv4Pair>::is_embryonic(to));
        assert_eq!(flows.opening(to), opening);
        assert_eq!(flows.find(&key(1)).expect("found").index, to);
        assert_eq!((flows.settled().len(), flows.embryonic().len()), (1, 0));
        assert_eq!(flows.remove(to).state, FlowState::Established);
        assert!(flows.is_empty());
    }

    #[test]
    fn handshakes_make_room_for_handshakes_only_and_the_oldest_go() {
        let mut flows = flows(8, 1_024);
        for number in 0..8 {
            flows
                .insert(flow(number, FlowState::Established, 0))
                .expect("room");
        }
        let mut gone = Vec::new();
        for number in 100..100 + 10_240 {
            let now_ms = u32::try_from(number).expect("small");
            let new = flow(number, FlowState::SynSent, now_ms);
            if flows.insert(new) == Err(InsertError::Full) {
                let evicted = flows.make_room(&new, now_ms).expect("there are some");
                gone.push(evicted.idle_ms(now_ms));
                flows.insert(new).expect("room was made");
            }
        }
        assert_eq!(gone.len(), 10_240 - 1_024);
        // One comes each millisecond: an evicted one has been there for as long as the table has places.
        assert!(gone.iter().all(|age_ms| *age_ms == 1_024));
        assert!((0..8).all(|number| flows.settled().find(&key(number)).is_some()));
        assert_eq!(flows.embryonic().len(), 1_024);
    }

    #[test]
    fn a_full_table_says_so_before_a_handshake_moves() {
        let mut flows = flows(2, 8);
        for number in 0..2 {
            flows
                .insert(flow(number, FlowState::Established, 0))
                .expect("room");
        }
        let index = flows
            .insert(flow(9, FlowState::SynReceived, 5))
            .expect("room");
        assert_eq!(flows.promote(index), Err(InsertError::Full));
        assert!(flows.find(&key(9)).is_some(), "it stays");
        assert!(flows.settled_mut().evict(9).is_some());
        assert!(flows.promote(index).is_ok());
        assert_eq!(flows.len(), 2);
    }

    #[test]
    fn handshakes_whose_time_is_over_are_found_in_one_round() {
        let mut flows = flows(8, 64);
        for number in 0..64 {
            let now_ms = u32::try_from(number).expect("small");
            flows
                .insert(flow(number, FlowState::SynSent, now_ms))
                .expect("room");
        }
        let mut removed = 0;
        for _ in 0..8 {
            flows.sweep_embryonic(8, |flow| flow.idle_ms(100) > 68, |_| removed += 1);
        }
        assert_eq!(removed, 32);
        assert!(flows.find(&key(31)).is_none() && flows.find(&key(32)).is_some());
        let new = flow(200, FlowState::SynSent, 100);
        assert_eq!(
            flows.make_room(&new, 100).expect("some").last_seen_ms,
            32,
            "the oldest that is left"
        );
    }

    #[test]
    fn the_small_table_is_in_proportion() {
        let embryonic = |capacity| {
            Flows::<Ipv4Pair>::new(capacity, (3, 5))
                .expect("memory")
                .embryonic()
                .capacity()
        };
        assert_eq!(embryonic(1), 4_096);
        assert_eq!(embryonic(1 << 20), 1 << 16);
    }
}
