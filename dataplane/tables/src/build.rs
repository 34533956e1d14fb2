//! From a configuration and the running generation to the next one.

use core::net::IpAddr;
use std::collections::HashMap;
use std::sync::Arc;

use crate::{
    Adjacency, AdjacencyState, Backend, BackendId, Config, Generation, LimitId, LocalAddresses,
    NONE, Neighbours, Pool, PortId, PortTable, Route, RouteTarget, Routes, Rules, Services, SetId,
};

/// Why a configuration cannot be compiled. The running generation is untouched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// More objects of a kind than ids.
    #[error("{count} {what} are more than the 65535 that have ids")]
    TooMany {
        /// Kind, plural.
        what: &'static str,
        /// How many there would be.
        count: usize,
    },
    /// Two services claim the same packets.
    #[error(
        "services {first:?} and {second:?} overlap: same address and protocol, ports in common"
    )]
    ServiceOverlap {
        /// One of them.
        first: Box<str>,
        /// The other.
        second: Box<str>,
    },
    /// A service with a port range that is backwards, or a protocol without ports.
    #[error("service {service:?}: protocol {protocol}, ports {first}-{last} cannot be served")]
    ServiceKey {
        /// Which.
        service: Box<str>,
        /// Its protocol number.
        protocol: u8,
        /// Its lowest port.
        first: u16,
        /// Its highest port.
        last: u16,
    },
    /// A service whose pool does not exist.
    #[error("service {service:?} names pool {pool}, which does not exist")]
    UnknownPool {
        /// Which.
        service: Box<str>,
        /// The id that it has.
        pool: u16,
    },
    /// A rule with a backwards port range.
    #[error("rule {rule:?}: port range {first}-{last} is backwards")]
    RulePorts {
        /// Which.
        rule: Box<str>,
        /// Given as lowest.
        first: u16,
        /// Given as highest.
        last: u16,
    },
    /// Too many rules that match the same packets: looking one up would take too long.
    #[error(
        "rule {rule:?}: {most} rules before it match where it does and nothing tells them apart: give it a prefix, ports or a protocol, or merge some of them"
    )]
    RulesMeet {
        /// The first one too many.
        rule: Box<str>,
        /// How many may.
        most: usize,
    },
    /// A NAT pool without ports.
    #[error("port {port:?}: NAT ports {first}-{last} are backwards or start at 0")]
    NatPorts {
        /// Which port (interface).
        port: Box<str>,
        /// Given as lowest.
        first: u16,
        /// Given as highest.
        last: u16,
    },
    /// A route or neighbour on a port that does not exist.
    #[error("{what} names port {port}, which does not exist")]
    UnknownPort {
        /// "route" or "neighbour".
        what: &'static str,
        /// The id that it has.
        port: PortId,
    },
    /// A guard with a set that does not exist.
    #[error("port {port:?}: its guard names address set {set}, which does not exist")]
    GuardSet {
        /// Which port.
        port: Box<str>,
        /// The id that the set has.
        set: SetId,
    },
    /// A guard with a limit that does not exist or does not count by source.
    #[error(
        "port {port:?}: its guard names limit {limit}, which does not exist or does not count by source"
    )]
    GuardLimit {
        /// Which port.
        port: Box<str>,
        /// The id that the limit has.
        limit: LimitId,
    },
    /// Two backends in one slot.
    #[error("pool {pool:?}: backend slot {slot} is taken already or reserved")]
    BackendSlot {
        /// Pool of the second one.
        pool: Box<str>,
        /// The slot.
        slot: BackendId,
    },
    /// One pool lists a backend twice.
    #[error("pool {pool:?} lists backend {address} port {port} twice")]
    DuplicateBackend {
        /// Which.
        pool: Box<str>,
        /// The backend's address.
        address: IpAddr,
        /// The backend's port.
        port: u16,
    },
}

/// Next hops that nothing needs any more are kept up to this many, so that a neighbour that comes and goes keeps its
/// id; beyond, all ids are given anew and the epoch moves.
const MAX_STALE_ADJACENCIES: usize = 8192;

/// Compiles `config` into the generation after `previous`, sharing every part that did not change.
///
/// What flows remember is dated by the epoch, one number that moves (wrapping, skipping 0) for two kinds of reasons:
///
/// - the policy changed: rules, sets that rules use, services, local or NAT addresses, what ports do with the unmatched. Then
///   [`Generation::policy_epoch`] moves along with it, and flows are judged again;
/// - routes changed, or the numbers of next hops. Then [`Generation::policy_epoch`] stays, and flows only look for their next
///   hops again.
///
/// It stays when only backends, pools, health, guards, limits, a neighbour, a MAC address or an MTU changed: those a flow reads
/// through ids. A backend's own next hop is one of those, and the caller must treat a remembered [`NONE`] as a question to
/// ask again.
///
/// The numbers wrap. Whoever remembers epochs must forget those older than [`MAX_EPOCH_AGE`] moves before they could be taken
/// for new ones; the sweep of the flow table does, once in a few seconds. `policy_epoch` is never older than that either: it
/// is dragged along, and what was judged even longer ago is judged once more.
///
/// # Errors
/// The first thing found that cannot be compiled; see [`BuildError`].
pub fn build(config: &Config, previous: Option<&Generation>) -> Result<Generation, BuildError> {
    check_ports(config)?;
    check_services(config)?;
    let services = match previous.map(|old| &old.services) {
        Some(old) if same(old.source(), &config.services) => Arc::clone(old),
        _ => Arc::new(Services::new(&config.services)?),
    };
    let rules = match previous.map(|old| &old.rules) {
        Some(old) => Rules::update(old, &config.rules, &config.sets)?,
        None => Arc::new(Rules::new(&config.rules, &config.sets)?),
    };
    let ports = share(previous.map(|old| &old.ports), &config.ports);
    let mut next_hops = NextHops::new(config, previous)?;
    let routes = match previous.map(|old| &old.routes) {
        Some(old) if !next_hops.is_renumbered && same(old.source(), &config.routes) => {
            Arc::clone(old)
        }
        _ => Arc::new(Routes::new(&config.routes, &next_hops.neighbours)),
    };
    let backends = backends(config, previous, &routes, &mut next_hops)?;
    let pools = pools(config, previous);
    let adjacencies = next_hops.adjacencies(config);
    let local = local(config, previous, &services, &ports);
    let mut next = Generation {
        id: previous.map_or(1, |old| old.id + 1),
        revision: config.revision,
        epoch: 1,
        policy_epoch: 1,
        services,
        pools,
        backends: share(previous.map(|old| &old.backends), &backends.into()),
        treatments: Arc::clone(rules.treatments()),
        limits: share(previous.map(|old| &old.limits), &config.limits),
        sets: share(previous.map(|old| &old.sets), &config.sets),
        guards: crate::guard::compile(config, previous.map(|old| &old.guards))?,
        rules,
        routes,
        adjacencies: share(previous.map(|old| &old.adjacencies), &adjacencies.into()),
        neighbours: next_hops.neighbours,
        local,
        ports,
        config: config.clone(),
    };
    next.share_config();
    if let Some(old) = previous {
        let is_judged_anew = is_new_policy(old, &next);
        let is_routed_anew = next_hops.is_renumbered || !Arc::ptr_eq(&old.routes, &next.routes);
        next.date_after(old, is_judged_anew, is_routed_anew);
    }
    Ok(next)
}

/// Local addresses; the previous ones if nothing that they are made of changed.
fn local(
    config: &Config,
    previous: Option<&Generation>,
    services: &Arc<Services>,
    ports: &Arc<[PortTable]>,
) -> Arc<LocalAddresses> {
    match previous {
        Some(old)
            if Arc::ptr_eq(&old.services, services)
                && Arc::ptr_eq(&old.ports, ports)
                && same(old.routes.source(), &config.routes)
                && same(old.local.source(), &config.local) =>
        {
            Arc::clone(&old.local)
        }
        _ => Arc::new(LocalAddresses::new(config)),
    }
}

/// Whether two lists are the same, by pointer or by content.
fn same<T: PartialEq>(a: &Arc<[T]>, b: &Arc<[T]>) -> bool {
    Arc::ptr_eq(a, b) || a == b
}

/// The old list if the new one equals it, so that readers keep warm memory and comparisons stay cheap.
fn share<T: PartialEq>(old: Option<&Arc<[T]>>, new: &Arc<[T]>) -> Arc<[T]> {
    match old {
        Some(old) if same(old, new) => Arc::clone(old),
        _ => Arc::clone(new),
    }
}

/// Whether anything changed by which flows were judged. Equal parts are shared by now.
fn is_new_policy(old: &Generation, new: &Generation) -> bool {
    let same_ports = old.ports.len() == new.ports.len()
        && old
            .ports
            .iter()
            .zip(&*new.ports)
            .all(|(old, new)| old.is_same_for_flows(new));
    !(same_ports
        && Arc::ptr_eq(&old.rules, &new.rules)
        && Arc::ptr_eq(&old.services, &new.services)
        && same(old.local.source(), new.local.source()))
}

fn check_ports(config: &Config) -> Result<(), BuildError> {
    too_many("ports", config.ports.len())?;
    for port in &*config.ports {
        let PortTable { nat4, nat6, .. } = port;
        let v4 = (nat4.addresses.is_empty(), nat4.first_port, nat4.last_port);
        let v6 = (nat6.addresses.is_empty(), nat6.first_port, nat6.last_port);
        for (is_empty, first, last) in [v4, v6] {
            if !is_empty && (first == 0 || first > last) {
                return Err(BuildError::NatPorts {
                    port: port.name.clone(),
                    first,
                    last,
                });
            }
        }
    }
    let known = |what, port: PortId| {
        if usize::from(port) < config.ports.len() {
            Ok(())
        } else {
            Err(BuildError::UnknownPort { what, port })
        }
    };
    for route in &*config.routes {
        match route.target {
            RouteTarget::Via { port, .. } | RouteTarget::Connected { port } => {
                known("route", port)?;
            }
            RouteTarget::Blackhole => {}
        }
    }
    for neighbour in &*config.neighbours {
        known("neighbour", neighbour.port)?;
    }
    Ok(())
}

fn check_services(config: &Config) -> Result<(), BuildError> {
    too_many("pools", config.pools.len())?;
    for service in config
        .services
        .iter()
        .filter(|service| !service.is_vacant())
    {
        if usize::from(service.pool) >= config.pools.len() {
            return Err(BuildError::UnknownPool {
                service: service.name.clone(),
                pool: service.pool,
            });
        }
        let (first, last) = (service.first_port, service.last_port);
        if first == 0 || first > last || !matches!(service.protocol, 6 | 17) {
            return Err(BuildError::ServiceKey {
                service: service.name.clone(),
                protocol: service.protocol,
                first,
                last,
            });
        }
    }
    Ok(())
}

fn too_many(what: &'static str, count: usize) -> Result<(), BuildError> {
    if count > usize::from(NONE) {
        return Err(BuildError::TooMany { what, count });
    }
    Ok(())
}

/// Next hops of the generation being built: the previous ones first, so that ids stay.
struct NextHops {
    neighbours: Arc<Neighbours>,
    /// Ids of the previous generation mean nothing here.
    is_renumbered: bool,
}

impl NextHops {
    fn new(config: &Config, previous: Option<&Generation>) -> Result<Self, BuildError> {
        let gateways = config.routes.iter().filter_map(|route| match route.target {
            RouteTarget::Via { port, gateway } => Some((port, gateway)),
            RouteTarget::Connected { .. } | RouteTarget::Blackhole => None,
        });
        let mirrored = config.neighbours.iter();
        let needed = || {
            let mirrored = mirrored.clone().map(|hop| (hop.port, hop.address));
            gateways.clone().chain(mirrored)
        };
        let backends: usize = config.pools.iter().map(|pool| pool.backends.len()).sum();
        let limit = needed().count() + backends + MAX_STALE_ADJACENCIES;
        let kept = previous
            .map(|old| &old.neighbours)
            .filter(|old| old.keys().len() <= limit);
        let mut hops = Self {
            neighbours: kept.map(Arc::clone).unwrap_or_default(),
            is_renumbered: kept.is_none(),
        };
        for (port, address) in needed() {
            hops.intern(port, address)?;
        }
        Ok(hops)
    }

    /// The id of a next hop, new if it has none. The previous generation's map is copied at the first new one.
    fn intern(&mut self, port: PortId, address: IpAddr) -> Result<u16, BuildError> {
        if let Some(id) = self.neighbours.find(port, address) {
            return Ok(id);
        }
        let count = self.neighbours.keys().len() + 1;
        Arc::make_mut(&mut self.neighbours)
            .intern(port, address)
            .ok_or(BuildError::TooMany {
                what: "next hops",
                count,
            })
    }

    /// The table of next hops; those that the kernel has not resolved are incomplete.
    fn adjacencies(&self, config: &Config) -> Vec<Adjacency> {
        let mut table: Vec<Adjacency> = self
            .neighbours
            .keys()
            .iter()
            .map(|(port, _)| Adjacency {
                rewrite: [0; 12],
                port: *port,
                mtu: config
                    .ports
                    .get(usize::from(*port))
                    .map_or(0, |port| port.mtu),
                state: AdjacencyState::Incomplete,
            })
            .collect();
        for neighbour in &*config.neighbours {
            let id = self.neighbours.find(neighbour.port, neighbour.address);
            let entry = id.and_then(|id| table.get_mut(usize::from(id)));
            let port = config.ports.get(usize::from(neighbour.port));
            if let (Some(entry), Some(port)) = (entry, port) {
                entry.rewrite[..6].copy_from_slice(&neighbour.mac);
                entry.rewrite[6..].copy_from_slice(&port.mac);
                entry.state = AdjacencyState::Resolved;
            }
        }
        table
    }
}

/// Backends by slot. Slots are never cut off: a flow may still hold one.
fn backends(
    config: &Config,
    previous: Option<&Generation>,
    routes: &Routes,
    next_hops: &mut NextHops,
) -> Result<Vec<Backend>, BuildError> {
    let all = || config.pools.iter().flat_map(|pool| &pool.backends);
    let highest = all().map(|backend| usize::from(backend.slot) + 1).max();
    let kept = previous.map_or(0, |old| old.backends.len());
    let mut table = vec![Backend::GONE; highest.unwrap_or(0).max(kept)];
    let mut is_taken = vec![false; table.len()];
    for pool in &*config.pools {
        let mut seen = std::collections::HashSet::new();
        for backend in &pool.backends {
            let at = usize::from(backend.slot);
            if backend.slot == NONE || is_taken[at] {
                return Err(BuildError::BackendSlot {
                    pool: pool.name.clone(),
                    slot: backend.slot,
                });
            }
            if !seen.insert((backend.address, backend.port)) {
                return Err(BuildError::DuplicateBackend {
                    pool: pool.name.clone(),
                    address: backend.address,
                    port: backend.port,
                });
            }
            is_taken[at] = true;
            table[at] = Backend {
                address: backend.address,
                port: backend.port,
                adjacency: match routes.find(backend.address) {
                    Route::Via(id) => id,
                    Route::Connected(port) => next_hops.intern(port, backend.address)?,
                    Route::Blackhole | Route::Missing => NONE,
                },
                state: backend.state,
            };
        }
    }
    Ok(table)
}

/// Pools; the previous list as a whole if none of them was rebuilt, renamed or moved.
fn pools(config: &Config, previous: Option<&Generation>) -> Arc<[Pool]> {
    let old: HashMap<&str, &Pool> = previous
        .iter()
        .flat_map(|old| old.pools.iter())
        .map(|pool| (&*pool.name, pool))
        .collect();
    let pools: Arc<[Pool]> = config
        .pools
        .iter()
        .map(|pool| Pool::new(pool, old.get(&*pool.name).copied()))
        .collect();
    let is_kept = |old: &&Generation| {
        old.pools.len() == pools.len()
            && old
                .pools
                .iter()
                .zip(&*pools)
                .all(|(old, new)| old.is_shared_with(new))
    };
    match previous.filter(is_kept) {
        Some(old) => Arc::clone(&old.pools),
        None => pools,
    }
}

#[cfg(test)]
mod tests;
