//! Generated configurations: one small world, and small changes to it.

use core::net::IpAddr;
use std::sync::Arc;

use march_tables::{
    AddressSet, Affinity, Algorithm, BackendState, Config, Guard, Limit, LimitScope, LimitUnit,
    MirroredNeighbour, MirroredRoute, Mode, NatPool, PartialChecksums, PoolBackend, PoolConfig,
    PortTable, PrefixSet, RouteTarget, Service, ServiceLimits, Stance, Timeouts, Unmatched,
};
use march_wire::tuple::IpPrefix;

use crate::dice::Dice;
use crate::pending::{Feature, is_there};
use crate::rules;
use crate::universe::{
    self, TRANSLATED, Version, clients, dedicated, gateway, hosts, own, vips, wide_vip,
};

/// Ports of the box: towards clients, and towards two networks of hosts.
pub const PORTS: u16 = 3;
/// Address sets.
pub const SETS: u16 = 5;
/// Limits: see [`limits`].
pub const LIMITS: u16 = 7;
/// The limits that a guard may have: those of sources.
pub const SOURCE_LIMITS: [u16; 3] = [3, 4, 5];

/// A configuration, and its sets as the reference reads them.
#[derive(Clone, Debug)]
pub struct World {
    /// What both sides get.
    pub config: Config,
    /// Prefixes by set.
    pub lists: Vec<Vec<IpPrefix>>,
}

impl World {
    /// A new world.
    pub fn new(dice: &mut Dice) -> Self {
        let mut world = Self {
            config: Config::default(),
            lists: Vec::new(),
        };
        // Some worlds have none: in those, packets may come in together.
        if dice.percent(60) {
            world.config.limits = limits(dice);
        }
        world.config.ports = (0..PORTS)
            .map(|port| port_table(dice, port, &world.config.limits))
            .collect();
        world.roll_sets(dice);
        world.config.pools = pools(dice);
        world.config.services = services(dice);
        world.config.rules = rules::rules(dice, &world.config);
        world.config.routes = routes(dice);
        world.config.neighbours = neighbours(dice);
        world.config.local = local(dice);
        world.config.revision = 1;
        world
    }

    /// Changes one thing. Sharing what stays is what a node does too.
    pub fn change(&mut self, dice: &mut Dice) {
        let config = &mut self.config;
        match dice.below(20) {
            0..6 => config.rules = rules::rules(dice, config),
            6..8 => rules::change_one(dice, config),
            8 => {
                config.services = services(dice);
                // Nothing names a service that is not there.
                config.rules = rules::rules(dice, config);
            }
            9..11 => config.pools = changed_pools(dice, &config.pools),
            11 => self.roll_sets(dice),
            12 => config.routes = routes(dice),
            13 => config.neighbours = neighbours(dice),
            14 => config.local = local(dice),
            15 if !config.limits.is_empty() => config.limits = limits(dice),
            16 => {
                config.ports = (0..PORTS)
                    .map(|port| port_table(dice, port, &config.limits))
                    .collect();
            }
            _ => {
                let mut ports = config.ports.to_vec();
                let port = dice.below(ports.len());
                ports[port].unmatched = unmatched(dice);
                ports[port].guard = guard(dice, &config.limits);
                config.ports = ports.into();
            }
        }
        self.config.revision += 1;
    }

    fn roll_sets(&mut self, dice: &mut Dice) {
        self.lists = (0..SETS).map(|_| prefixes(dice)).collect();
        self.config.sets = (0..)
            .zip(&self.lists)
            .map(|(id, list)| address_set(id, list))
            .collect();
    }
}

/// The set that compiled rules look into.
#[must_use]
pub fn address_set(id: u16, prefixes: &[IpPrefix]) -> AddressSet {
    let text = format!("{prefixes:?}");
    let mut content = [0_u8; 32];
    for (index, byte) in text.bytes().enumerate() {
        let mixed = u64::from(byte)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(u32::from(byte) + 7);
        let place = &mut content[index % 32];
        *place = place
            .wrapping_mul(31)
            .wrapping_add(mixed.to_le_bytes()[index % 8]);
    }
    AddressSet {
        name: format!("set{id}").into(),
        content,
        prefixes: Arc::new(PrefixSet::new(prefixes)),
    }
}

fn prefixes(dice: &mut Dice) -> Vec<IpPrefix> {
    let mut list: Vec<IpPrefix> = (0..dice.below(6))
        .map(|_| {
            let version = universe::version(dice);
            match dice.below(3) {
                0 => IpPrefix::host(dice.pick(&clients(version))),
                _ => universe::prefix(dice, version),
            }
        })
        .collect();
    list.sort_unstable();
    list.dedup();
    list
}

fn limits(dice: &mut Dice) -> Arc<[Limit]> {
    let scopes = [
        LimitScope::Shared,
        LimitScope::Shared,
        LimitScope::Service,
        LimitScope::Source { v4: 32, v6: 128 },
        LimitScope::Source { v4: 24, v6: 56 },
        LimitScope::Source { v4: 31, v6: 64 },
        LimitScope::Shared,
    ];
    (0..LIMITS)
        .zip(scopes)
        .map(|(id, scope)| Limit {
            name: format!("limit{id}").into(),
            scope,
            unit: dice.pick(&[LimitUnit::Packets, LimitUnit::Packets, LimitUnit::Bits]),
            per_second: dice.pick(&[1, 3, 100, 1_000, 8_000, 1_000_000]),
            burst: dice.pick(&[1, 5, 20, 2_000, 100_000]),
        })
        .collect()
}

fn port_table(dice: &mut Dice, port: u16, limits: &[Limit]) -> PortTable {
    fn pool<A: Clone>(dice: &mut Dice, addresses: &[A]) -> NatPool<A> {
        let count = dice.pick(&[0, 1, 1, 1, 1, 2]);
        NatPool {
            addresses: addresses.iter().take(count).cloned().collect(),
            first_port: TRANSLATED.0,
            last_port: dice.pick(&[
                TRANSLATED.0,
                TRANSLATED.1,
                TRANSLATED.1,
                TRANSLATED.1 + 4000,
            ]),
        }
    }
    let mut v4 = Vec::new();
    let mut v6 = Vec::new();
    for version in [Version::V4, Version::V6] {
        for address in [own(version, port), dedicated(version)] {
            match address {
                IpAddr::V4(address) => v4.push(address),
                IpAddr::V6(address) => v6.push(address),
            }
        }
    }
    if dice.percent(20) {
        v4.reverse();
        v6.reverse();
    }
    let answers = dice.percent(90);
    PortTable {
        name: format!("port{port}").into(),
        mac: universe::mac(port),
        mtu: [1500, 1400, 1280][usize::from(port)],
        nat4: pool(dice, &v4),
        nat6: pool(dice, &v6),
        address4: v4.first().copied().filter(|_| answers),
        address6: v6.first().copied().filter(|_| answers),
        partial_checksums: dice.pick(&[PartialChecksums::Never, PartialChecksums::Possible]),
        unmatched: unmatched(dice),
        guard: guard(dice, limits),
    }
}

fn unmatched(dice: &mut Dice) -> Unmatched {
    if !is_there(Feature::Unmatched) || dice.percent(60) {
        return Unmatched::default();
    }
    Unmatched {
        services: dice.pick(&[Stance::Allow, Stance::Deny]),
        transit: dice.pick(&[Stance::Allow, Stance::Deny]),
    }
}

fn guard(dice: &mut Dice, limits: &[Limit]) -> Guard {
    if !is_there(Feature::Guard) || dice.percent(60) {
        return Guard::default();
    }
    let sets: Vec<u16> = (0..SETS).collect();
    let mut some = |percent| {
        let wanted = dice.percent(percent);
        if wanted {
            dice.some(&sets, 2)
        } else {
            Vec::new()
        }
    };
    let (block, allow) = (some(50), some(40));
    Guard {
        block,
        allow,
        per_source: (!limits.is_empty() && dice.percent(50)).then(|| dice.pick(&SOURCE_LIMITS)),
    }
}

fn pools(dice: &mut Dice) -> Arc<[PoolConfig]> {
    (0..4).map(|id| pool(dice, id)).collect()
}

/// Pools 0 and 1 are IPv4, 2 and 3 are IPv6.
fn pool(dice: &mut Dice, id: u16) -> PoolConfig {
    let version = if id < 2 { Version::V4 } else { Version::V6 };
    let mut backends: Vec<PoolBackend> = Vec::new();
    for index in 0..u16::try_from(dice.below(5)).unwrap_or(0) {
        let address = dice.pick(&hosts(version));
        let port = dice.pick(&[0, 0, 8080, 8081]);
        if backends
            .iter()
            .any(|other| (other.address, other.port) == (address, port))
        {
            continue;
        }
        backends.push(PoolBackend {
            slot: id * 8 + index,
            address,
            port,
            weight: dice.pick(&[0, 1, 1, 1, 3]),
            state: state(dice),
        });
    }
    PoolConfig {
        name: format!("pool{id}").into(),
        algorithm: dice.pick(&[Algorithm::Maglev, Algorithm::Maglev, Algorithm::RoundRobin]),
        backends,
    }
}

fn state(dice: &mut Dice) -> BackendState {
    use BackendState::{Active, Down, Draining, Offline};
    dice.pick(&[Active, Active, Active, Active, Draining, Down, Offline])
}

/// Health and admin states change more often than members do. A slot is not given to another backend: flows may hold it.
fn changed_pools(dice: &mut Dice, pools: &[PoolConfig]) -> Arc<[PoolConfig]> {
    let mut pools = pools.to_vec();
    let at = dice.below(pools.len());
    let pool = &mut pools[at];
    match dice.below(4) {
        0 => {
            pool.backends.pop();
        }
        1 => pool.algorithm = dice.pick(&[Algorithm::Maglev, Algorithm::RoundRobin]),
        _ => {
            let count = pool.backends.len();
            if let Some(backend) = pool.backends.get_mut(dice.below(count)) {
                backend.state = state(dice);
            }
        }
    }
    pools.into()
}

fn services(dice: &mut Dice) -> Arc<[Service]> {
    (0..7).map(|id| service(dice, id)).collect()
}

/// Each place has an address, protocol and ports of its own, so that none overlap; some are vacant.
fn service(dice: &mut Dice, id: u16) -> Service {
    if dice.percent(15) {
        return Service::vacant();
    }
    let (version, vip, protocol, ports, pool) = match id {
        0 => (Version::V4, 0, 6, (80, 80), 0),
        1 => (Version::V4, 0, 17, (53, 53), 1),
        2 => (Version::V4, 1, 6, (8000, 8003), 0),
        3 => (Version::V4, 2, 6, (80, 443), 1),
        4 => (Version::V6, 0, 6, (80, 80), 2),
        5 => (Version::V6, 1, 17, (50, 8003), 3),
        _ => (Version::V6, 2, 6, (443, 443), 3),
    };
    let is_wide = matches!(id, 3 | 6);
    let full_nat_mostly = [Mode::FullNat, Mode::FullNat, Mode::Nat];
    Service {
        name: format!("service{id}").into(),
        address: if is_wide {
            wide_vip(version)
        } else {
            IpPrefix::host(vips(version)[vip])
        },
        protocol,
        first_port: ports.0,
        last_port: ports.1,
        pool,
        mode: dice.pick(&full_nat_mostly),
        affinity: dice.pick(&[Affinity::FiveTuple, Affinity::SourceIp]),
        timeouts: Timeouts::default(),
        limits: if is_there(Feature::ServiceLimits) && dice.percent(30) {
            ServiceLimits {
                new_per_second: dice.pick(&[0, 1, 10, 1_000]),
                half_open: dice.pick(&[0, 1, 3, 100]),
            }
        } else {
            ServiceLimits::default()
        },
    }
}

fn routes(dice: &mut Dice) -> Arc<[MirroredRoute]> {
    let mut routes = Vec::new();
    for version in [Version::V4, Version::V6] {
        let around = |address: IpAddr, v4: u8, v6: u8| {
            let length = if address.is_ipv4() { v4 } else { v6 };
            IpPrefix::containing(address, length).expect("a length of the family")
        };
        for port in 0..PORTS {
            let prefix = around(own(version, port), 24, 48);
            routes.push(MirroredRoute {
                prefix,
                target: RouteTarget::Connected { port },
            });
        }
        let via = RouteTarget::Via {
            port: 0,
            gateway: gateway(version),
        };
        if dice.percent(85) {
            routes.push(MirroredRoute {
                prefix: around(gateway(version), 0, 0),
                target: via,
            });
        }
        let hole = match version {
            Version::V4 => hosts(version)[5],
            Version::V6 => hosts(version)[5],
        };
        routes.push(MirroredRoute {
            prefix: around(hole, 16, 48),
            target: RouteTarget::Blackhole,
        });
        if dice.percent(30) {
            // A host of one network that is reached through the other.
            let moved = hosts(version)[dice.below(4)];
            let port = dice.from_to(0, 2);
            let target = RouteTarget::Via {
                port,
                gateway: gateway(version),
            };
            routes.push(MirroredRoute {
                prefix: IpPrefix::host(moved),
                target,
            });
        }
    }
    routes.into()
}

fn neighbours(dice: &mut Dice) -> Arc<[MirroredNeighbour]> {
    let mut list = Vec::new();
    for version in [Version::V4, Version::V6] {
        let everybody = [clients(version), hosts(version), vec![gateway(version)]].concat();
        for address in everybody {
            for port in 0..PORTS {
                if dice.percent(92) {
                    let mac = [2, 1, 0, 0, dice.byte(), dice.byte()];
                    list.push(MirroredNeighbour { port, address, mac });
                }
            }
        }
    }
    list.sort_by_key(|hop| (hop.port, hop.address));
    list.dedup_by_key(|hop| (hop.port, hop.address));
    list.into()
}

fn local(dice: &mut Dice) -> Arc<[IpAddr]> {
    let mut list = Vec::new();
    for version in [Version::V4, Version::V6] {
        for port in 0..PORTS {
            if dice.percent(85) {
                list.push(own(version, port));
            }
        }
        if dice.percent(3) {
            list.push(dice.pick(&vips(version)));
        }
        if dice.percent(3) {
            list.push(dedicated(version));
        }
    }
    list.into()
}
