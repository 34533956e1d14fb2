//! Pools and backends.

use core::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use crate::{AdjacencyId, Algorithm, BackendId, Maglev, Member, NONE, PoolConfig, Schedule};

/// What may be done with a backend. Admin state and health together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum BackendState {
    /// Takes new flows.
    Active,
    /// No new flows; the present ones go on (an operator drained it).
    Draining,
    /// No new flows; the present ones go on (its health check fails).
    Down,
    /// Flows end now (an operator took it offline).
    Offline,
    /// Flows end now (no such backend any more).
    #[default]
    Gone,
}

impl BackendState {
    /// Whether flows that it has may go on.
    #[inline]
    pub fn keeps_flows(self) -> bool {
        matches!(self, Self::Active | Self::Draining | Self::Down)
    }
}

/// One backend, by slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Where it is.
    pub address: IpAddr,
    /// Its port; 0 keeps the service's.
    pub port: u16,
    /// Next hop towards it; [`NONE`] when no route leads there.
    pub adjacency: AdjacencyId,
    /// Whether it takes flows.
    pub state: BackendState,
}

impl Backend {
    /// An unused slot.
    pub const GONE: Self = Self {
        address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        port: 0,
        adjacency: NONE,
        state: BackendState::Gone,
    };
}

/// How a pool picks. Only backends that take new flows are in it.
#[derive(Clone, Debug)]
pub enum Balancer {
    /// By hash.
    Maglev(Arc<Maglev>),
    /// By turns.
    RoundRobin(Arc<Schedule>),
    /// Nobody takes new flows.
    Empty,
}

/// One pool.
#[derive(Clone, Debug)]
pub struct Pool {
    /// Name, for reports.
    pub name: Box<str>,
    /// How it picks.
    pub balancer: Balancer,
    /// What the balancer was built from, to see whether the next generation can share it.
    members: Arc<[Member]>,
    algorithm: Algorithm,
}

impl Pool {
    /// Compiles a pool. Shares the balancer of `previous`, the pool of the same name in the generation before, when the
    /// backends that take new flows are the same.
    pub(crate) fn new(config: &PoolConfig, previous: Option<&Self>) -> Self {
        let takes_flows = config
            .backends
            .iter()
            .filter(|backend| backend.state == BackendState::Active && backend.weight > 0);
        let mut members: Vec<Member> = takes_flows
            .map(|backend| Member {
                slot: backend.slot,
                address: backend.address,
                port: backend.port,
                weight: backend.weight,
            })
            .collect();
        members.sort_by(Member::order);
        let same = |old: &&Self| old.algorithm == config.algorithm && *old.members == *members;
        if let Some(old) = previous.filter(same) {
            return old.clone();
        }
        let balancer = match config.algorithm {
            Algorithm::Maglev => Maglev::new(&members).map(|table| Balancer::Maglev(table.into())),
            Algorithm::RoundRobin => {
                Schedule::new(&members).map(|schedule| Balancer::RoundRobin(schedule.into()))
            }
        };
        Self {
            name: config.name.clone(),
            balancer: balancer.unwrap_or(Balancer::Empty),
            members: members.into(),
            algorithm: config.algorithm,
        }
    }

    /// Whether this is a clone of `other`: nothing of it was rebuilt.
    pub(crate) fn is_shared_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.members, &other.members)
    }

    /// The backend for a new flow. `hash` is of what the service's affinity says; `cursor` is the caller's, one for
    /// each lcore and pool, and may hold any value.
    #[inline]
    pub fn choose(&self, hash: u64, cursor: &mut u32) -> Option<BackendId> {
        match &self.balancer {
            Balancer::Maglev(table) => Some(table.get(hash)),
            Balancer::RoundRobin(schedule) => Some(schedule.next(cursor)),
            Balancer::Empty => None,
        }
    }
}
