//! What a generation is built from: plain data, independent of documents and netlink.
//!
//! Lists are `Arc` slices so that the agent can keep the parts that did not change and pass them again: [`crate::build`]
//! then sees by pointer that there is nothing to rebuild. An equal list at another address is recognised too, at the
//! price of a comparison.

use core::net::IpAddr;
use std::sync::Arc;

use march_wire::tuple::IpPrefix;

use crate::{
    AddressSet, BackendId, BackendState, Limit, PortId, PortTable, RuleList, Service, ServiceId,
};

/// Everything that one node's lcores need to know. Positions in `ports`, `services`, `pools`, `rules`, `sets` and `limits` are
/// the ids.
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
    pub rules: RuleList,
    /// Address sets, by [`crate::SetId`].
    pub sets: Arc<[AddressSet]>,
    /// Limits, by [`crate::LimitId`]; the numbers stay from one configuration to the next, since buckets go by them.
    pub limits: Arc<[Limit]>,
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
