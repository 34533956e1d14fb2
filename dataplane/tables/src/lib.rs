//! One compiled generation: everything a lcore looks up to decide about a packet, immutable once published.
//!
//! What it is: ports with their NAT pools, the service map, pools with Maglev tables and schedules, backends, the
//! rule classifier, the mirrored routes, neighbours and local addresses. What it is not: flow state, counters, or
//! anything that knows documents or netlink; [`Config`] is plain data that the node agent fills in.
//!
//! Entry point: [`build`] turns a [`Config`] and the running [`Generation`] into the next one, and [`Publisher`] hands
//! it to the lcores. Invariants:
//!
//! - Unchanged parts keep the same `Arc`: a health flap or a MAC change rebuilds no rules, routes or Maglev tables of
//!   other pools.
//! - An id that was valid in a generation is in bounds in every later one built on it for backends and adjacencies;
//!   readers still bounds-check every id that a flow remembers.
//! - [`Generation::epoch`] moves exactly when something changed that a flow remembers, [`Generation::policy_epoch`] with it when
//!   that is what flows are judged by ([`build`] says what).
//! - Building allocates and may take milliseconds: it runs off the lcores. Lookups neither allocate nor panic, and
//!   the free of a retired generation happens in [`Publisher::reclaim`], never on a lcore.
#![forbid(unsafe_code)]

mod affinity;
mod build;
mod config;
mod generation;
mod guard;
mod keyed;
mod local;
mod lpm;
mod maglev;
mod neighbours;
mod number;
mod pool;
mod port;
mod prefix_set;
mod publish;
mod routes;
mod rule;
mod rule_list;
mod rules;
mod schedule;
mod services;

pub use build::{BuildError, build};
pub use config::{
    Algorithm, Config, MirroredNeighbour, MirroredRoute, PoolBackend, PoolConfig, RouteTarget,
};
pub use generation::{Generation, MAX_EPOCH_AGE};
pub use guard::{PortGuard, Standing};
pub use local::{AddressKind, Announcement, LocalAddresses};
pub use maglev::{Maglev, Member};
pub use neighbours::{Adjacency, AdjacencyState, Neighbours};
pub use pool::{Backend, BackendState, Balancer, Pool};
pub use port::{Guard, NatPool, PartialChecksums, PortTable, Stance, Unmatched};
pub use prefix_set::PrefixSet;
pub use publish::{Publisher, Reader};
pub use routes::{Route, Routes};
pub use rule::{
    Action, AddressSet, Criteria, IcmpMessage, Limit, LimitScope, LimitUnit, Mirror, PortRange,
    Redirect, Rule, SourceNat, Subject, TcpFlags, Treatment, Vlan, Wholeness,
};
pub use rule_list::RuleList;
pub use rules::{RuleMatch, Rules, WorstPath};
pub use schedule::Schedule;
pub use services::{Affinity, Mode, Service, ServiceLimits, Services, Timeouts};

/// Index of a port in [`Generation::ports`].
pub type PortId = u16;
/// Index of a service in the configuration and in [`Services`].
pub type ServiceId = u16;
/// Index of a pool in [`Generation::pools`].
pub type PoolId = u16;
/// Slot of a backend in [`Generation::backends`], stable across generations.
pub type BackendId = u16;
/// Index of a next hop in [`Generation::adjacencies`], stable across generations of one epoch.
pub type AdjacencyId = u16;
/// Index of a rule in the configuration. Wider than the others: rules are the one kind that comes by the 100 000.
pub type RuleId = u32;
/// Index of an address set in the configuration.
pub type SetId = u16;
/// Index of a limit in the configuration, stable across generations.
pub type LimitId = u16;
/// Index of a treatment in [`Generation::treatments`]. A flow that remembers one of another policy epoch is re-checked first.
pub type TreatmentId = u16;

/// "None" for every 16-bit id.
pub const NONE: u16 = u16::MAX;
