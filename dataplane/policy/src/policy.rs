//! A configuration, and the questions that decisions ask of it. Every list is searched from the front.

use core::net::IpAddr;
use std::sync::{Arc, OnceLock};

use march_tables::{
    Algorithm, BackendId, BackendState, Config, Maglev, Member, MirroredRoute, PoolBackend,
    PoolConfig, PoolId, PortId, PortTable, RouteTarget, Rule, RuleId, Service, ServiceId,
};

use crate::decision::AddressOwner;
use crate::sets::AddressSets;

/// One configuration, ready to be asked.
pub struct Policy {
    pub(crate) config: Config,
    pub(crate) sets: Arc<dyn AddressSets>,
    /// Rules in the order in which they are looked at.
    order: Vec<RuleId>,
    /// Balancing tables of the pools that were asked.
    tables: Vec<Arc<OnceLock<Option<Maglev>>>>,
}

impl Policy {
    /// The policy of a configuration whose address sets are `sets`.
    #[must_use]
    pub fn new(config: &Config, sets: Arc<dyn AddressSets>) -> Self {
        let mut order: Vec<(u32, &str, RuleId)> = (0..)
            .zip(config.rules.iter())
            .filter(|(_, rule)| !rule.is_vacant())
            .map(|(id, rule)| (rule.priority, &*rule.name, id))
            .collect();
        order.sort_unstable();
        Self {
            config: config.clone(),
            sets,
            order: order.into_iter().map(|(_, _, id)| id).collect(),
            tables: config.pools.iter().map(|_| Arc::default()).collect(),
        }
    }

    /// The same, with the balancing tables that `before` has for equal pools: they take long to make and are a function of the
    /// pool alone.
    #[must_use]
    pub fn after(before: &Self, config: &Config, sets: Arc<dyn AddressSets>) -> Self {
        let mut policy = Self::new(config, sets);
        for (table, pool) in policy.tables.iter_mut().zip(&*config.pools) {
            let mut known = before.config.pools.iter().zip(&before.tables);
            if let Some((_, known)) = known.find(|(other, _)| *other == pool) {
                *table = Arc::clone(known);
            }
        }
        policy
    }

    /// What this is the policy of.
    pub fn config(&self) -> &Config {
        &self.config
    }

    pub(crate) fn port(&self, id: PortId) -> Option<&PortTable> {
        self.config.ports.get(usize::from(id))
    }

    /// Name of a port, for reports.
    pub fn port_name(&self, id: PortId) -> &str {
        self.port(id).map_or("?", |port| &port.name)
    }

    /// Rules in the order in which they are looked at.
    pub(crate) fn rules(&self) -> impl Iterator<Item = (RuleId, &Rule)> {
        let rule = |id: &RuleId| Some((*id, &**self.config.rules.get(*id)?));
        self.order.iter().filter_map(rule)
    }

    /// Whose an address is: the kernel's before a service's, a service's before a NAT pool's.
    #[must_use]
    pub fn owner(&self, address: IpAddr) -> AddressOwner {
        let is_nat = self.config.ports.iter().any(|port| match address {
            IpAddr::V4(address) => port.nat4.addresses.contains(&address),
            IpAddr::V6(address) => port.nat6.addresses.contains(&address),
        });
        if self.config.local.contains(&address) {
            return if is_nat {
                AddressOwner::KernelAndNat
            } else {
                AddressOwner::Kernel
            };
        }
        let mut services = self.config.services.iter();
        if services.any(|service| !service.is_vacant() && service.address.contains(address)) {
            return AddressOwner::Service;
        }
        if is_nat {
            AddressOwner::Nat
        } else {
            AddressOwner::Nobody
        }
    }

    /// True where a NAT pool hands out this address with this port.
    pub(crate) fn is_translated(&self, address: IpAddr, port: u16) -> bool {
        self.config.ports.iter().any(|table| {
            let (first, last, has) = match address {
                IpAddr::V4(address) => {
                    let pool = &table.nat4;
                    (
                        pool.first_port,
                        pool.last_port,
                        pool.addresses.contains(&address),
                    )
                }
                IpAddr::V6(address) => {
                    let pool = &table.nat6;
                    (
                        pool.first_port,
                        pool.last_port,
                        pool.addresses.contains(&address),
                    )
                }
            };
            has && first <= port && port <= last
        })
    }

    /// The service of a destination: of those that claim it, the one with the longest prefix.
    #[must_use]
    pub fn service_at(&self, dst: IpAddr, protocol: u8, port: u16) -> Option<ServiceId> {
        let claims = |service: &Service| {
            !service.is_vacant()
                && service.address.contains(dst)
                && service.protocol == protocol
                && service.first_port <= port
                && port <= service.last_port
        };
        let services = (0..).zip(&*self.config.services);
        let claiming = services.filter(|(_, service)| claims(service));
        claiming
            .max_by_key(|(_, service)| service.address.length())
            .map(|(id, _)| id)
    }

    pub(crate) fn service(&self, id: ServiceId) -> Option<&Service> {
        self.config
            .services
            .get(usize::from(id))
            .filter(|service| !service.is_vacant())
    }

    pub(crate) fn pool(&self, id: PoolId) -> Option<&PoolConfig> {
        self.config.pools.get(usize::from(id))
    }

    /// The backend in a slot; `None` where there is none any more.
    pub(crate) fn backend(&self, slot: BackendId) -> Option<&PoolBackend> {
        let mut all = self.config.pools.iter().flat_map(|pool| &pool.backends);
        all.find(|backend| backend.slot == slot)
    }

    /// Backends of a pool that take new flows.
    pub(crate) fn takers(pool: &PoolConfig) -> impl Iterator<Item = &PoolBackend> {
        let takes =
            |backend: &&PoolBackend| backend.state == BackendState::Active && backend.weight > 0;
        pool.backends.iter().filter(takes)
    }

    /// Where the pool's hash sends a new flow; `None` for a pool that takes turns or has nobody.
    pub(crate) fn by_hash(&self, id: PoolId, hash: u64) -> Option<BackendId> {
        let pool = self
            .pool(id)
            .filter(|pool| pool.algorithm == Algorithm::Maglev)?;
        let table = self.tables.get(usize::from(id))?.get_or_init(|| {
            let member = |backend: &PoolBackend| Member {
                slot: backend.slot,
                address: backend.address,
                port: backend.port,
                weight: backend.weight,
            };
            Maglev::new(&Self::takers(pool).map(member).collect::<Vec<_>>())
        });
        Some(table.as_ref()?.get(hash))
    }

    /// The route to a destination: the longest prefix, of equal ones the first.
    pub(crate) fn route(&self, destination: IpAddr) -> Option<&MirroredRoute> {
        let mut best: Option<&MirroredRoute> = None;
        for route in &*self.config.routes {
            let is_longer = best.is_none_or(|best| route.prefix.length() > best.prefix.length());
            if route.prefix.contains(destination) && is_longer {
                best = Some(route);
            }
        }
        best
    }

    /// The neighbour that a packet to `destination` goes to next: its port and address. `None`: no way leads there.
    pub(crate) fn next_hop(&self, destination: IpAddr) -> Option<(PortId, IpAddr)> {
        match self.route(destination)?.target {
            RouteTarget::Via { port, gateway } => Some((port, gateway)),
            RouteTarget::Connected { port } => Some((port, destination)),
            RouteTarget::Blackhole => None,
        }
    }

    /// The MAC address of a neighbour, if the kernel resolved it.
    pub(crate) fn mac_of(&self, port: PortId, address: IpAddr) -> Option<[u8; 6]> {
        let mut all = self.config.neighbours.iter().rev();
        all.find(|hop| hop.port == port && hop.address == address)
            .map(|hop| hop.mac)
    }

    /// Whether flows that were judged under `before` have to be judged again: anything changed that could have decided
    /// otherwise. Pools, health, guards, rates, routes and neighbours are not of that kind.
    #[must_use]
    pub fn changes_judgement(before: &Config, after: &Config) -> bool {
        let port = |port: &PortTable| (port.nat4.clone(), port.nat6.clone(), port.unmatched);
        let ports = |config: &Config| config.ports.iter().map(port).collect::<Vec<_>>();
        before.rules != after.rules
            || before.services != after.services
            || before.local != after.local
            || ports(before) != ports(after)
            || used_sets(before) != used_sets(after)
    }
}

/// The sets that rules use, by id.
fn used_sets(config: &Config) -> Vec<(u16, Option<[u8; 32]>)> {
    let mut ids: Vec<u16> = config
        .rules
        .iter()
        .flat_map(|rule| {
            let criteria = &rule.criteria;
            [
                &criteria.source_sets,
                &criteria.destination_sets,
                &criteria.not_source_sets,
                &criteria.not_destination_sets,
            ]
        })
        .flatten()
        .copied()
        .collect();
    ids.sort_unstable();
    ids.dedup();
    let content = |id: u16| config.sets.get(usize::from(id)).map(|set| set.content);
    ids.into_iter().map(|id| (id, content(id))).collect()
}
