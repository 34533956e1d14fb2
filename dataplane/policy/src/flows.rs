//! What is remembered between packets: flows, buckets, and whose policy they were judged under.

use std::collections::BTreeMap;

use march_tables::{
    BackendId, Config, LimitId, PortId, Redirect, ServiceId, SourceNat, Timeouts, Treatment,
};

use crate::decision::Counter;
use crate::facts::Tuple;
use crate::limit::{Bucket, Share};
use crate::policy::Policy;
use crate::tcp::timeout_ms;

/// Which end a packet comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// The end that opened the flow.
    Forward,
    /// The other.
    Reverse,
}

impl Direction {
    /// 0 and 1, as counters have it.
    #[must_use]
    pub fn index(self) -> usize {
        match self {
            Self::Forward => 0,
            Self::Reverse => 1,
        }
    }
}

/// Where a flow is in its life; decides how long silence is forgiven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// The opener's SYN was sent on.
    SynSent,
    /// The other end agreed.
    SynReceived,
    /// The opener acknowledged.
    Established,
    /// One end has no more to send.
    Closing {
        /// Which.
        first: Direction,
    },
    /// Neither has; the last acknowledgement is awaited.
    LastAck {
        /// The end that closed first.
        first: Direction,
    },
    /// Over.
    Closed,
    /// Not TCP and not ICMP.
    Datagram,
    /// ICMP echo.
    Echo,
}

impl Life {
    /// A handshake that is not done.
    #[must_use]
    pub fn is_half_open(self) -> bool {
        matches!(self, Self::SynSent | Self::SynReceived)
    }
}

/// How a flow goes through the box.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// To a service's backend.
    Service {
        /// Which service.
        service: ServiceId,
        /// Which backend.
        backend: BackendId,
        /// The rule's redirect to that service, where one brought it there.
        redirected: bool,
    },
    /// Through.
    Transit {
        /// What a rule does with the destination.
        redirect: Option<Redirect>,
        /// What it does with the source.
        source_nat: SourceNat,
    },
}

/// The packet that opened a flow, as rules saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening {
    /// Addresses, protocol, ports.
    pub tuple: Tuple,
    /// Where it came in.
    pub ingress: PortId,
    /// VLAN identifier.
    pub vlan: Option<u16>,
    /// Code point.
    pub dscp: u8,
    /// TCP flags.
    pub tcp_flags: Option<u8>,
    /// ICMP type and code.
    pub icmp: Option<(u8, u8)>,
}

/// A remembered decision, both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// What packets from the opener carry when they come in.
    pub forward: Tuple,
    /// What packets from the other end carry when they come in.
    pub reverse: Tuple,
    /// Life.
    pub life: Life,
    /// When a packet was last sent on, milliseconds.
    pub last_seen_ms: u32,
    /// How it goes through.
    pub way: Way,
    /// How it is treated.
    pub treatment: Treatment,
    /// Its opening packet.
    pub opening: Opening,
    /// The policy that it was last judged under.
    pub judged_under: u64,
}

impl Flow {
    /// What packets of a direction carry when they come in.
    #[must_use]
    pub fn incoming(&self, direction: Direction) -> Tuple {
        match direction {
            Direction::Forward => self.forward,
            Direction::Reverse => self.reverse,
        }
    }

    /// What they carry when they leave.
    #[must_use]
    pub fn outgoing(&self, direction: Direction) -> Tuple {
        match direction {
            Direction::Forward => self.reverse.swapped(),
            Direction::Reverse => self.forward.swapped(),
        }
    }

    /// The service that it belongs to.
    #[must_use]
    pub fn service(&self) -> Option<ServiceId> {
        match self.way {
            Way::Service { service, .. } => Some(service),
            Way::Transit { .. } => None,
        }
    }

    /// The backend that it goes to.
    #[must_use]
    pub fn backend(&self) -> Option<BackendId> {
        match self.way {
            Way::Service { backend, .. } => Some(backend),
            Way::Transit { .. } => None,
        }
    }
}

/// Names a flow of one state.
pub(crate) type FlowId = u64;

/// Everything remembered between packets.
#[derive(Clone, Debug, Default)]
pub struct State {
    flows: BTreeMap<FlowId, Flow>,
    keys: BTreeMap<Tuple, (FlowId, Direction)>,
    next_id: FlowId,
    pub(crate) limits: BTreeMap<(LimitId, Share), Bucket>,
    pub(crate) new_connections: BTreeMap<ServiceId, Bucket>,
    pub(crate) mirrors: BTreeMap<Treatment, Bucket>,
    pub(crate) strangers: Bucket,
    pub(crate) answers: crate::answer::Answers,
    /// Counts policies that judge otherwise than the one before.
    pub(crate) policy: u64,
    /// Where all counters stand.
    counters: BTreeMap<Counter, i64>,
}

impl State {
    /// Nothing remembered.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The configuration changes. Flows that were judged under one that could have decided otherwise are judged again.
    pub fn on_change(&mut self, before: &Config, after: &Config) {
        if Policy::changes_judgement(before, after) {
            self.policy += 1;
            // How many copies are made begins anew with the policy that asks for them.
            self.mirrors.clear();
        }
    }

    /// Removes flows that were silent for too long.
    pub fn on_time(&mut self, policy: &Policy, now_ms: u32) {
        let timeouts = |flow: &Flow| {
            let service = flow.service().and_then(|id| policy.service(id));
            service.map_or_else(Timeouts::default, |service| service.timeouts)
        };
        let is_over = |flow: &Flow| {
            now_ms.wrapping_sub(flow.last_seen_ms) >= timeout_ms(flow.life, &timeouts(flow))
        };
        let over: Vec<FlowId> = self
            .flows
            .iter()
            .filter(|(_, flow)| is_over(flow))
            .map(|(id, _)| *id)
            .collect();
        for id in over {
            self.count(Counter::FlowsExpired, 1);
            for (counter, by) in self.remove(id) {
                self.count(counter, by);
            }
        }
    }

    /// The flow whose packets carry this when they come in (for ICMP the identifier in place of both ports).
    #[must_use]
    pub fn flow_of(&self, incoming: Tuple) -> Option<(Flow, Direction)> {
        let (id, direction) = self.find(incoming)?;
        Some((*self.flow(id), direction))
    }

    /// Every flow.
    pub fn flows(&self) -> impl Iterator<Item = &Flow> {
        self.flows.values()
    }

    /// Where a counter stands.
    #[must_use]
    pub fn counter(&self, counter: Counter) -> i64 {
        self.counters.get(&counter).copied().unwrap_or(0)
    }

    /// Every counter that ever moved.
    pub fn counters(&self) -> impl Iterator<Item = (Counter, i64)> {
        self.counters
            .iter()
            .map(|(counter, value)| (*counter, *value))
    }

    pub(crate) fn count(&mut self, counter: Counter, by: i64) {
        *self.counters.entry(counter).or_default() += by;
    }

    pub(crate) fn find(&self, key: Tuple) -> Option<(FlowId, Direction)> {
        self.keys.get(&key).copied()
    }

    pub(crate) fn flow(&self, id: FlowId) -> &Flow {
        self.flows.get(&id).expect("a flow that was found is there")
    }

    pub(crate) fn flow_mut(&mut self, id: FlowId) -> &mut Flow {
        self.flows
            .get_mut(&id)
            .expect("a flow that was found is there")
    }

    /// Enters a flow under both its keys.
    pub(crate) fn insert(&mut self, flow: Flow) -> FlowId {
        let id = self.next_id;
        self.next_id += 1;
        let before = [
            self.keys.insert(flow.forward, (id, Direction::Forward)),
            self.keys.insert(flow.reverse, (id, Direction::Reverse)),
        ];
        assert_eq!(before, [None, None], "no two flows have a key in common");
        self.flows.insert(id, flow);
        id
    }

    /// Takes a flow out; returns the gauges that move.
    pub(crate) fn remove(&mut self, id: FlowId) -> Vec<(Counter, i64)> {
        let Some(flow) = self.flows.remove(&id) else {
            return Vec::new();
        };
        self.keys.remove(&flow.forward);
        self.keys.remove(&flow.reverse);
        match flow.way {
            Way::Service {
                service, backend, ..
            } => {
                vec![
                    (Counter::ServiceFlows(service), -1),
                    (Counter::BackendFlows(backend), -1),
                ]
            }
            Way::Transit { .. } => Vec::new(),
        }
    }

    /// TCP handshakes of a service that are under way.
    pub(crate) fn half_open(&self, service: ServiceId) -> u32 {
        let is_one = |flow: &&Flow| flow.service() == Some(service) && flow.life.is_half_open();
        u32::try_from(self.flows.values().filter(is_one).count()).unwrap_or(u32::MAX)
    }
}
