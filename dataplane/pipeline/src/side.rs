//! One address family's half of a pipeline: its flows, its stage of the burst, and what is counted when flows come and go.

use march_flow::{Flow, FlowHandle, FlowState, FlowTable, InsertError};
use march_tables::{Generation, MAX_EPOCH_AGE, Timeouts};

use crate::BURST;
use crate::burst::Stage;
use crate::context::Now;
use crate::counters::Counters;
use crate::first::Ahead;
use crate::rewrite::IpVersion;

/// Flows of one family.
pub(crate) struct Side<F: IpVersion> {
    pub flows: FlowTable<F::Pair>,
    pub stage: Stage<F::Pair>,
    /// By frame of the burst: decided, not yet carried out.
    pub ahead: Box<[Option<Ahead<F>>; BURST]>,
}

impl<F: IpVersion> Side<F> {
    pub fn new(capacity: usize, seed: (u64, u64)) -> std::io::Result<Self> {
        Ok(Self {
            flows: FlowTable::new(capacity, seed)?,
            stage: Stage::new(),
            ahead: Box::new([const { None }; BURST]),
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
                    return Some(FlowHandle {
                        index,
                        direction: march_flow::Direction::Forward,
                    });
                }
                Err(InsertError::Crowded) => return None,
                Err(InsertError::Full) => {
                    let evicted = self.flows.evict(now.ms)?;
                    counters.flows.evicted.add(1);
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

    /// Removes a flow.
    pub fn remove(&mut self, index: u32, counters: &Counters) {
        let flow = self.flows.remove(index);
        forget(&flow, counters);
        counters.flows.live[F::INDEX].set(self.flows.len() as u64);
    }

    /// Looks at the next `budget` entries and removes the flows whose time is over. Flows that remember an epoch of long ago
    /// forget it, before it could be taken for a new one: the number wraps.
    pub fn expire(
        &mut self,
        budget: usize,
        generation: &Generation,
        counters: &Counters,
        now: Now,
    ) {
        if self.flows.is_empty() {
            return;
        }
        let is_over = |flow: &mut Flow<F::Pair>| {
            if generation.age_of(flow.epoch) > MAX_EPOCH_AGE {
                flow.epoch = 0;
            }
            flow.idle_ms(now.ms) >= timeout_ms(flow, generation)
        };
        self.flows.sweep(budget, is_over, |flow| {
            counters.flows.expired.add(1);
            forget(flow, counters);
        });
        counters.flows.live[F::INDEX].set(self.flows.len() as u64);
    }
}

/// How long this flow may be silent.
fn timeout_ms<A>(flow: &Flow<A>, generation: &Generation) -> u32 {
    let service = usize::from(flow.service);
    let timeouts = if service < generation.services.len() {
        generation.services.get(flow.service).timeouts
    } else {
        Timeouts::default()
    };
    match flow.state {
        FlowState::Free | FlowState::Closed => 0,
        FlowState::SynSent | FlowState::SynReceived => timeouts.syn_ms,
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
}
