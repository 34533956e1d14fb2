//! One address family's half of a pipeline: its flows, its stage of the burst, and what is counted when flows come and go.

use march_flow::{Flow, FlowHandle, FlowState, Flows, InsertError};
use march_tables::{Generation, MAX_EPOCH_AGE, ServiceId, Timeouts};

use crate::BURST;
use crate::ahead::Asked;
use crate::burst::Stage;
use crate::context::Now;
use crate::counters::Counters;
use crate::first::Ahead;
use crate::rewrite::IpVersion;

/// Flows of one family.
pub(crate) struct Side<F: IpVersion> {
    pub flows: Flows<F::Pair>,
    /// Handshakes are so many that they get less time.
    is_flooded: bool,
    pub stage: Stage<F::Pair>,
    /// By frame of the burst: decided, not yet carried out.
    pub ahead: Box<[Option<Ahead<F>>; BURST]>,
    /// Room for what rules are asked about.
    pub asked: Asked<F>,
}

impl<F: IpVersion> Side<F> {
    pub fn new(capacity: usize, seed: (u64, u64)) -> std::io::Result<Self> {
        Ok(Self {
            flows: Flows::new(capacity, seed)?,
            is_flooded: false,
            stage: Stage::new(),
            ahead: Box::new([const { None }; BURST]),
            asked: Asked::new(),
        })
    }

    /// Inserts a flow whose keys are not in use, making room if there is none. `None` if its buckets are crowded: other
    /// flows than those in them make no room there, and an almost empty table would be searched from end to end for one.
    pub fn insert(
        &mut self,
        flow: Flow<F::Pair>,
        counters: &Counters,
        now: Now,
    ) -> Option<FlowHandle> {
        // Once to see that the table is full, once more with room.
        for _ in 0..2 {
            match self.flows.insert(flow) {
                Ok(index) => {
                    counters.flows.live[F::INDEX].set(self.flows.len() as u64);
                    for traffic in traffic_of(&flow, counters) {
                        traffic.flows.add(1);
                    }
                    if flow.state.is_embryonic()
                        && let Some(service) = counters.services.get(usize::from(flow.service))
                    {
                        service.half_open.add(1);
                    }
                    return Some(FlowHandle {
                        index,
                        direction: march_flow::Direction::Forward,
                    });
                }
                Err(InsertError::Crowded) => return None,
                Err(InsertError::Full) => {
                    let evicted = self.flows.make_room(&flow, now.ms)?;
                    let counter = if flow.state.is_embryonic() {
                        &counters.flows.embryonic_evicted
                    } else {
                        &counters.flows.evicted
                    };
                    counter.add(1);
                    forget(&evicted, counters);
                }
            }
        }
        None
    }

    /// Counts a flow whose first packet is on its way.
    pub fn count_created(&self, index: u32, counters: &Counters) {
        counters.flows.created.add(1);
        for traffic in traffic_of(self.flows.flow(index), counters) {
            traffic.flows_created.add(1);
        }
    }

    /// A flow of the small table that is established now moves to the large one. If that has no place for it, it stays until its
    /// next packet.
    pub fn promote(&mut self, index: u32, counters: &Counters, now: Now) {
        // Once to see that the table is full, once more with room.
        for _ in 0..2 {
            match self.flows.promote(index) {
                Ok(_) | Err(InsertError::Crowded) => return,
                Err(InsertError::Full) => {
                    let Some(evicted) = self.flows.settled_mut().evict(now.ms) else {
                        return;
                    };
                    counters.flows.evicted.add(1);
                    forget(&evicted, counters);
                }
            }
        }
    }

    /// Removes a flow.
    pub fn remove(&mut self, index: u32, counters: &Counters) {
        let flow = self.flows.remove(index);
        forget(&flow, counters);
        counters.flows.live[F::INDEX].set(self.flows.len() as u64);
    }

    /// Looks at the next entries, `budget` of the large table and of the small one, and removes the flows whose time is over.
    /// Flows that remember an epoch of long ago forget it, before it could be taken for a new one: the number wraps.
    pub fn expire(
        &mut self,
        [settled, embryonic]: [usize; 2],
        generation: &Generation,
        counters: &Counters,
        now: Now,
    ) {
        if settled + embryonic == 0 || self.flows.is_empty() {
            return;
        }
        let handshake_ms = if self.is_flooded {
            FLOOD_SYN_MS
        } else {
            u32::MAX
        };
        let is_over = |flow: &mut Flow<F::Pair>| {
            if generation.age_of(flow.epoch) > MAX_EPOCH_AGE {
                flow.epoch = 0;
            }
            flow.idle_ms(now.ms) >= timeout_ms(flow, generation, handshake_ms)
        };
        let on_removed = |flow: &Flow<F::Pair>| {
            counters.flows.expired.add(1);
            forget(flow, counters);
        };
        self.flows.settled_mut().sweep(settled, is_over, on_removed);
        self.flows.sweep_embryonic(embryonic, is_over, on_removed);
        counters.flows.live[F::INDEX].set(self.flows.len() as u64);
    }

    /// Shows how full the table of handshakes is, and decides whether that is a flood: from half full on, until it is less than
    /// a quarter.
    pub fn watch(&mut self, counters: &Counters) {
        let table = self.flows.embryonic();
        let (count, capacity) = (table.len(), table.capacity());
        self.is_flooded = if self.is_flooded {
            count * 4 >= capacity
        } else {
            count * 2 >= capacity
        };
        counters.flows.embryonic[F::INDEX].set(count as u64);
        counters.flows.embryonic_capacity[F::INDEX].set(capacity as u64);
        counters.flows.flood_mode[F::INDEX].set(u64::from(self.is_flooded));
    }
}

/// How long a handshake may take while there is a flood of them, milliseconds: a SYN and one more after a second, and the same
/// again for the answer.
const FLOOD_SYN_MS: u32 = 3_000;

/// How long this flow may be silent; a handshake no longer than `handshake_ms`.
fn timeout_ms<A>(flow: &Flow<A>, generation: &Generation, handshake_ms: u32) -> u32 {
    let service = usize::from(flow.service);
    let timeouts = if service < generation.services.len() {
        generation.services.get(flow.service).timeouts
    } else {
        Timeouts::default()
    };
    match flow.state {
        FlowState::Free | FlowState::Closed => 0,
        FlowState::SynSent | FlowState::SynReceived => timeouts.syn_ms.min(handshake_ms),
        FlowState::Established => timeouts.established_ms,
        FlowState::ClosingForward
        | FlowState::ClosingReverse
        | FlowState::LastAckForward
        | FlowState::LastAckReverse => timeouts.closing_ms,
        FlowState::Datagram => timeouts.udp_ms,
        FlowState::Echo => timeouts.icmp_ms,
    }
}

/// The service's and the backend's counters, where the flow has them.
pub(crate) fn traffic_of<'a, A>(
    flow: &Flow<A>,
    counters: &'a Counters,
) -> impl Iterator<Item = &'a crate::counters::TrafficCounters> {
    let service = counters.services.get(usize::from(flow.service));
    let backend = counters.backends.get(usize::from(flow.backend));
    service.into_iter().chain(backend)
}

fn forget<A>(flow: &Flow<A>, counters: &Counters) {
    for traffic in traffic_of(flow, counters) {
        traffic.flows.subtract(1);
    }
    if flow.state.is_embryonic() {
        end_handshake(flow.service, counters);
    }
}

/// A handshake of the service is done or given up.
pub(crate) fn end_handshake(service: ServiceId, counters: &Counters) {
    if let Some(service) = counters.services.get(usize::from(service)) {
        service.half_open.subtract(1);
    }
}
