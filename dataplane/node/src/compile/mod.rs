//! From documents, kernel, health and admin states to what the lcores, the BPF maps and the socket tier run.
//!
//! Pure: [`compile`] reads its [`Inputs`] and returns a [`Compiled`]. Whoever calls it publishes, or reports the refusal
//! and leaves the running generation alone.

mod limits;
mod plane;
mod ports;
mod routes;
mod rules;
mod slots;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use march_model::{FieldError, Plane, Probe as ModelProbe, State, Timestamp};
use march_tables::{
    AddressSet, Affinity, Algorithm, BackendState, Config, Limit, Mode, PoolBackend, PoolConfig,
    PoolId, PortId, Service, Timeouts,
};
use march_wire::tuple::IpPrefix;

use crate::health::{Check, Probe, ProbeTarget};
use crate::kernel::{KernelState, Prefix};

pub use ports::{FastPort, PeerOffload};
use slots::Slots;
pub use slots::{BackendKey, Ids};

/// What an operator wants of a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Admin {
    /// Takes new flows while it is healthy.
    #[default]
    Enabled,
    /// No new flows.
    Drain,
    /// No flows.
    Offline,
}

impl Admin {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Admin::Enabled => "enabled",
            Admin::Drain => "drain",
            Admin::Offline => "offline",
        }
    }
}

/// Admin states by pool and address; port 0 stands for every backend of the pool with that address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AdminStates(BTreeMap<(String, IpAddr, u16), Admin>);

impl AdminStates {
    /// Sets the state of one backend.
    pub fn set(&mut self, pool: String, address: IpAddr, port: u16, admin: Admin) {
        self.0.insert((pool, address, port), admin);
    }

    /// The state of one backend.
    #[must_use]
    pub fn of(&self, key: &BackendKey) -> Admin {
        let exact = (key.pool.clone(), key.address, key.port);
        let any = (key.pool.clone(), key.address, 0);
        self.0
            .get(&exact)
            .or_else(|| self.0.get(&any))
            .copied()
            .unwrap_or_default()
    }
}

/// Everything that a compilation reads.
#[derive(Debug)]
pub struct Inputs<'a> {
    /// Revision of `state`.
    pub revision: u64,
    /// The documents.
    pub state: &'a State,
    /// What the address sets of `state` hold, by name.
    pub sets: &'a [AddressSet],
    /// Ports that the lcores drive, by port id.
    pub ports: &'a [FastPort],
    /// The kernel's view.
    pub kernel: &'a KernelState,
    /// Slots that health checks took out.
    pub unhealthy: &'a BTreeSet<u16>,
    /// What the operator wants of backends.
    pub admin: &'a AdminStates,
    /// The name of this node.
    pub node: &'a str,
    /// Where traffic is decided about here.
    pub plane: Plane,
    /// Rules and mappings that have ended by then are left out.
    pub now: Timestamp,
}

/// What a compilation makes.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// For `march_tables::build`.
    pub config: Config,
    /// For the prober.
    pub targets: Vec<ProbeTarget>,
    /// Next hops to keep resolved: interface and address.
    pub next_hops: BTreeSet<(u32, IpAddr)>,
    /// Prefixes that the data plane owns and the kernel must be silent about.
    pub owned: BTreeSet<Prefix>,
    /// Backends by slot.
    pub backends: BTreeMap<u16, BackendKey>,
    /// Pools that are health-checked.
    pub checked_pools: BTreeSet<String>,
    /// The next moment at which a rule or a mapping ends: time to compile again.
    pub next_end: Option<Timestamp>,
}

/// Compiles. Numbers come from `ids`, which keeps them stable; a refusal leaves `ids` usable.
pub fn compile(inputs: &Inputs<'_>, ids: &mut Ids) -> Result<Compiled, Vec<FieldError>> {
    ids.passed
        .check(inputs.state, inputs.node, inputs.plane, inputs.now)?;
    let pool_ids: BTreeMap<&str, PoolId> = inputs
        .state
        .pools()
        .zip(0..)
        .map(|((metadata, _), id)| (metadata.name.as_str(), id))
        .collect();
    let services = services(inputs.state, &pool_ids)?;
    let refused = |document: String, path: &str, error: slots::NoSlot| {
        vec![FieldError::of_document(document, path, error.to_string())]
    };
    ids.backends
        .assign(backend_keys(inputs.state))
        .map_err(|(key, error)| refused(format!("Pool/{}", key.pool), "spec.backends", error))?;
    let names = services.iter().map(|service| service.name.to_string());
    ids.services
        .assign(names)
        .map_err(|(name, error)| refused(format!("Service/{name}"), "metadata.name", error))?;
    let names = inputs.sets.iter().map(|set| set.name.to_string());
    ids.sets
        .assign(names)
        .map_err(|(name, error)| refused(format!("AddressSet/{name}"), "metadata.name", error))?;
    let limits = limits::assign(inputs.state, ids)
        .map_err(|(name, error)| refused(format!("RateLimit/{name}"), "metadata.name", error))?;
    let (rules, next_end) = rules::compile(inputs.state, inputs.ports, inputs.now, ids)?;
    let slots = &ids.backends;
    let pools = pools(inputs, slots);
    let mut ports = ports::tables(inputs.ports, inputs.kernel);
    limits::ingress(inputs.state, ids, &mut ports)?;
    let owned = owned_prefixes(&services, inputs);
    let config = Config {
        revision: inputs.revision,
        services: named(&ids.services, &Service::vacant(), services, |service| {
            &service.name
        }),
        pools: pools.into(),
        rules,
        sets: sets(&ids.sets, inputs.sets),
        limits: named(&ids.limits, &Limit::vacant(), limits, |limit| &limit.name),
        routes: routes::mirrored(inputs.kernel, inputs.ports).into(),
        neighbours: routes::neighbours(inputs.kernel, inputs.ports).into(),
        local: routes::local(inputs.kernel).into(),
        ports: ports.into(),
    };
    Ok(Compiled {
        targets: targets(inputs.state, slots),
        next_hops: routes::next_hops(
            inputs.kernel,
            inputs.ports,
            slots.keys().map(|key| key.address),
        ),
        owned,
        backends: slots.by_slot(),
        checked_pools: inputs
            .state
            .pools()
            .filter(|(_, pool)| pool.health_check.is_some())
            .map(|(metadata, _)| metadata.name.as_str().to_owned())
            .collect(),
        next_end,
        config,
    })
}

/// The sets, each at its number.
fn sets(slots: &Slots<String>, sets: &[AddressSet]) -> Arc<[AddressSet]> {
    let vacant = AddressSet {
        name: Box::default(),
        content: [0; 32],
        prefixes: Arc::default(),
    };
    named(slots, &vacant, sets.to_vec(), |set| &set.name)
}

/// A list in which everything stands at its number.
fn named<T: Clone>(
    slots: &Slots<String>,
    vacant: &T,
    items: Vec<T>,
    name: impl Fn(&T) -> &str,
) -> Arc<[T]> {
    let keyed = items.into_iter().map(|item| (name(&item).to_owned(), item));
    slots.by_position(vacant, keyed).into()
}

fn backend_keys(state: &State) -> impl Iterator<Item = BackendKey> + '_ {
    state.pools().flat_map(|(metadata, pool)| {
        pool.backends.iter().map(|backend| BackendKey {
            pool: metadata.name.as_str().to_owned(),
            address: backend.address,
            port: backend.port.unwrap_or(0),
        })
    })
}

fn services(
    state: &State,
    pool_ids: &BTreeMap<&str, PoolId>,
) -> Result<Vec<Service>, Vec<FieldError>> {
    let mut errors = Vec::new();
    let services = state
        .services()
        .filter_map(|(metadata, service)| {
            let mut refuse = |path: &str, message: String| {
                errors.push(FieldError::of_document(
                    format!("Service/{}", metadata.name),
                    path,
                    message,
                ));
                None
            };
            let Some(pool) = pool_ids.get(service.pool.as_str()) else {
                return refuse("spec.pool", format!("there is no pool `{}`", service.pool));
            };
            let address = match wire_prefix(service.address) {
                Ok(address) => address,
                Err(message) => return refuse("spec.address", message),
            };
            Some(Service {
                name: metadata.name.as_str().into(),
                address,
                protocol: service.protocol.number(),
                first_port: service.port.first(),
                last_port: service.port.last(),
                pool: *pool,
                mode: match service.mode {
                    march_model::Mode::FullNat => Mode::FullNat,
                    march_model::Mode::Nat => Mode::Nat,
                },
                affinity: match service.affinity {
                    march_model::Affinity::FiveTuple => Affinity::FiveTuple,
                    march_model::Affinity::SourceIp => Affinity::SourceIp,
                },
                timeouts: Timeouts {
                    syn_ms: service.timeouts.syn.as_millis(),
                    established_ms: service.timeouts.established.as_millis(),
                    closing_ms: service.timeouts.closing.as_millis(),
                    udp_ms: service.timeouts.udp.as_millis(),
                    icmp_ms: service.timeouts.icmp.as_millis(),
                },
                limits: limits::of_service(service.limits),
            })
        })
        .collect();
    if errors.is_empty() {
        Ok(services)
    } else {
        Err(errors)
    }
}

fn wire_prefix(prefix: march_model::Prefix) -> Result<IpPrefix, String> {
    IpPrefix::new(prefix.address(), prefix.length()).map_err(|error| format!("`{prefix}`: {error}"))
}

fn pools(inputs: &Inputs<'_>, slots: &Slots<BackendKey>) -> Vec<PoolConfig> {
    let backend = |pool: &str, backend: &march_model::Backend| {
        let key = BackendKey {
            pool: pool.to_owned(),
            address: backend.address,
            port: backend.port.unwrap_or(0),
        };
        let slot = slots.of(&key)?;
        let state = match inputs.admin.of(&key) {
            Admin::Offline => BackendState::Offline,
            Admin::Drain => BackendState::Draining,
            Admin::Enabled if inputs.unhealthy.contains(&slot) => BackendState::Down,
            Admin::Enabled => BackendState::Active,
        };
        let weight = u32::from(backend.weight);
        Some(PoolBackend {
            slot,
            address: key.address,
            port: key.port,
            weight,
            state,
        })
    };
    inputs
        .state
        .pools()
        .map(|(metadata, pool)| PoolConfig {
            name: metadata.name.as_str().into(),
            algorithm: match pool.algorithm {
                march_model::Algorithm::Maglev => Algorithm::Maglev,
                march_model::Algorithm::RoundRobin => Algorithm::RoundRobin,
            },
            backends: pool
                .backends
                .iter()
                .filter_map(|one| backend(metadata.name.as_str(), one))
                .collect(),
        })
        .collect()
}

fn targets(state: &State, slots: &Slots<BackendKey>) -> Vec<ProbeTarget> {
    let mut targets = Vec::new();
    for (metadata, pool) in state.pools() {
        let Some(check) = &pool.health_check else {
            continue;
        };
        let service_port = state
            .services()
            .find(|(_, service)| service.pool == metadata.name)
            .map_or(0, |(_, service)| service.port.first());
        for backend in &pool.backends {
            let key = BackendKey {
                pool: metadata.name.as_str().to_owned(),
                address: backend.address,
                port: backend.port.unwrap_or(0),
            };
            let port = check.port.or(backend.port).unwrap_or(service_port);
            let (Some(slot), true) = (slots.of(&key), port != 0) else {
                continue;
            };
            targets.push(ProbeTarget {
                pool: metadata.name.as_str().into(),
                slot,
                address: backend.address,
                port,
                check: Check {
                    probe: match &check.probe {
                        ModelProbe::Tcp => Probe::Tcp,
                        ModelProbe::Http { path, host } => Probe::Http {
                            path: path.as_str().into(),
                            host: host.as_deref().map(Into::into),
                        },
                    },
                    interval: check.interval.as_duration(),
                    timeout: check.timeout.as_duration(),
                    rise: u32::from(check.rise),
                    fall: u32::from(check.fall),
                },
            });
        }
    }
    targets
}

/// VIPs and dedicated NAT addresses.
fn owned_prefixes(services: &[Service], inputs: &Inputs<'_>) -> BTreeSet<Prefix> {
    let vips = services.iter().map(|service| Prefix {
        address: service.address.address(),
        len: service.address.length(),
    });
    let nat = inputs
        .ports
        .iter()
        .flat_map(|port| port.nat_addresses.iter().copied())
        .filter(|address| !inputs.kernel.is_local(*address))
        .map(Prefix::host);
    vips.chain(nat).collect()
}

/// The id of a port by its name.
#[must_use]
pub fn port_id(ports: &[FastPort], name: &str) -> Option<PortId> {
    let index = ports.iter().position(|port| port.name == name)?;
    PortId::try_from(index).ok()
}

/// An empty configuration of the given revision, for a node that has nothing yet.
#[must_use]
pub fn empty(revision: u64) -> Config {
    Config {
        revision,
        ports: Arc::from([]),
        ..Config::default()
    }
}

#[cfg(test)]
mod tests;
