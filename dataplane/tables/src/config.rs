//! What a generation is built from: plain data, independent of documents and netlink.
//!
//! Lists are `Arc` slices so that the agent can keep the parts that did not change and pass them again: [`crate::build`]
//! then sees by pointer that there is nothing to rebuild. An equal list at another address is recognised too, at the
//! price of a comparison.

use core::net::IpAddr;
use std::sync::Arc;

use march_wire::tuple::IpPrefix;

use crate::{Action, BackendId, BackendState, PortId, PortTable, Service, ServiceId};

/// Everything that one node's lcores need to know. Positions in `ports`, `services`, `pools` and `rules` are the ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Revision number of the desired state, carried through for reports.
    pub revision: u64,
    /// Ports, by [`PortId`].
    pub ports: Arc<[PortTable]>,
    /// Services, by [`ServiceId`].
    pub services: Arc<[Service]>,
    /// Pools, by [`crate::PoolId`].
    pub pools: Arc<[PoolConfig]>,
    /// Rules, by [`crate::RuleId`]; order of evaluation is by priority, then name.
    pub rules: Arc<[Rule]>,
    /// Unicast routes of the kernel, one next hop each (the agent picks one of a multipath route).
    pub routes: Arc<[MirroredRoute]>,
    /// Neighbours that the kernel has resolved.
    pub neighbours: Arc<[MirroredNeighbour]>,
    /// Addresses that the kernel owns on any interface of this node, broadcast addresses included.
    pub local: Arc<[IpAddr]>,
}

impl Config {
    /// The services, without the vacant places between them.
    pub fn live_services(&self) -> impl Iterator<Item = (ServiceId, &Service)> {
        (0..)
            .zip(&*self.services)
            .filter(|(_, service)| !service.is_vacant())
    }
}

/// How a pool picks among its backends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// Consistent hashing, the same on every node.
    #[default]
    Maglev,
    /// Weighted round robin, per lcore.
    RoundRobin,
}

/// A pool and its backends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolConfig {
    /// Name, for reports.
    pub name: Box<str>,
    /// How it balances.
    pub algorithm: Algorithm,
    /// Its backends, in any order.
    pub backends: Vec<PoolBackend>,
}

/// One backend of one pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolBackend {
    /// Stable slot that the agent gave it; no two backends share one, and it is reused only once no flow refers to it.
    pub slot: BackendId,
    /// Where it is.
    pub address: IpAddr,
    /// Its port; 0 keeps the service's.
    pub port: u16,
    /// Share of new flows relative to the others of the pool; 0 takes none.
    pub weight: u32,
    /// Admin state and health together.
    pub state: BackendState,
}

/// Ports from `first` to `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortRange {
    /// Lowest port.
    pub first: u16,
    /// Highest port.
    pub last: u16,
}

impl PortRange {
    /// Every port.
    pub const ALL: Self = Self {
        first: 0,
        last: u16::MAX,
    };

    /// Whether `port` is in it.
    #[inline]
    pub fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }
}

/// A rule: match and action. An empty list matches anything; a port list matches only TCP and UDP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Name, unique; breaks ties of priority.
    pub name: Box<str>,
    /// Lower is looked at first.
    pub priority: u32,
    /// Source prefixes.
    pub sources: Vec<IpPrefix>,
    /// Destination prefixes.
    pub destinations: Vec<IpPrefix>,
    /// Source ports.
    pub source_ports: Vec<PortRange>,
    /// Destination ports.
    pub ports: Vec<PortRange>,
    /// IP protocol number (next header for IPv6); `None` is any.
    pub protocol: Option<u8>,
    /// What to do with what matches.
    pub action: Action,
}

impl Rule {
    /// A place without a rule: it keeps the ids of those behind it, which counters remember.
    #[must_use]
    pub fn vacant() -> Self {
        Self {
            name: Box::default(),
            priority: 0,
            sources: Vec::new(),
            destinations: Vec::new(),
            source_ports: Vec::new(),
            ports: Vec::new(),
            protocol: None,
            action: Action::Drop,
        }
    }

    /// True for a place without a rule: it has no name.
    pub fn is_vacant(&self) -> bool {
        self.name.is_empty()
    }
}

/// Where a route of the kernel points.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RouteTarget {
    /// Through a router on this port's link.
    Via {
        /// Egress port.
        port: PortId,
        /// The router's address; may be of the other family.
        gateway: IpAddr,
    },
    /// On this port's link.
    Connected {
        /// Egress port.
        port: PortId,
    },
    /// Dropped, prohibited, unreachable, or out of an interface that is not a port of ours.
    Blackhole,
}

/// One route of the kernel's main table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MirroredRoute {
    /// Destination.
    pub prefix: IpPrefix,
    /// Where to.
    pub target: RouteTarget,
}

/// One resolved neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MirroredNeighbour {
    /// The port whose link it is on.
    pub port: PortId,
    /// Its address.
    pub address: IpAddr,
    /// Its MAC address.
    pub mac: [u8; 6],
}
