//! A small site for the lcore's tests: clients behind a router on port 0, backends on the link of port 1, memory ports.

use std::net::IpAddr;
use std::sync::Arc;

use crossbeam_queue::ArrayQueue;
use march_lcore::{FrameReceiver, FrameSender, Lcore, LcoreCounters, Parts, frame_ring};
use march_pipeline::{Counters, Limits, Pipeline, PortCounters, ResolveRequest};
use march_port::mem::{MemConfig, MemPort};
use march_tables::{
    Action, Affinity, Algorithm, BackendState, Config, Generation, Limit, LimitScope, LimitUnit,
    Mirror, MirroredNeighbour, MirroredRoute, Mode, NatPool, PoolBackend, PoolConfig, PortTable,
    RouteTarget, Rule, Service, Timeouts, Treatment, build,
};
use march_wire::build::PacketBuilder;

pub const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 9, 9];
pub const WAN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub const LAN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

pub fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn port(name: &str, mac: [u8; 6], v4: &str, v6: &str) -> PortTable {
    let (IpAddr::V4(v4), IpAddr::V6(v6)) = (ip(v4), ip(v6)) else {
        panic!("one of each family");
    };
    PortTable {
        name: name.into(),
        mac,
        mtu: 1500,
        nat4: NatPool {
            addresses: [v4].into(),
            first_port: 20_000,
            last_port: 32_767,
        },
        nat6: NatPool {
            addresses: [v6].into(),
            first_port: 20_000,
            last_port: 32_767,
        },
        address4: Some(v4),
        address6: Some(v6),
        ..PortTable::default()
    }
}

fn service(name: &str, address: &str, protocol: u8, port: u16, pool: u16) -> Service {
    Service {
        name: name.into(),
        address: address.parse().expect("a prefix"),
        protocol,
        first_port: port,
        last_port: port,
        pool,
        mode: Mode::FullNat,
        affinity: Affinity::FiveTuple,
        timeouts: Timeouts {
            syn_ms: 300,
            udp_ms: 200,
            ..Timeouts::default()
        },
        ..Service::vacant()
    }
}

fn pool(name: &str, algorithm: Algorithm, first_slot: u16, addresses: &[&str]) -> PoolConfig {
    let backend = |(slot, address): (u16, &&str)| PoolBackend {
        slot,
        address: ip(address),
        port: 8080,
        weight: 1,
        state: BackendState::Active,
    };
    PoolConfig {
        name: name.into(),
        algorithm,
        backends: (first_slot..).zip(addresses).map(backend).collect(),
    }
}

fn rule(name: &str, source: &str, destination: &str, action: Action) -> Rule {
    Rule {
        name: name.into(),
        priority: 10,
        sources: vec![source.parse().expect("a prefix")],
        destinations: vec![destination.parse().expect("a prefix")],
        source_ports: Vec::new(),
        ports: Vec::new(),
        protocol: None,
        action,
        ..Rule::vacant()
    }
}

fn neighbour(port: u16, address: &str, mac: [u8; 6]) -> MirroredNeighbour {
    MirroredNeighbour {
        port,
        address: ip(address),
        mac,
    }
}

/// Services over both families and protocols; one of them has a backend that nobody has resolved.
pub fn config() -> Config {
    let via = |port, gateway| RouteTarget::Via {
        port,
        gateway: ip(gateway),
    };
    let route = |prefix: &str, target| MirroredRoute {
        prefix: prefix.parse().expect("a prefix"),
        target,
    };
    Config {
        revision: 1,
        ports: [
            port("wan0", WAN_MAC, "10.0.0.1", "fd00::1"),
            port("lan0", LAN_MAC, "10.0.1.1", "fd01::1"),
        ]
        .into(),
        services: [
            service("web", "192.0.2.10", 6, 80, 0),
            service("dns", "192.0.2.10", 17, 53, 1),
            service("web6", "2001:db8::10", 6, 80, 2),
            service("lost", "192.0.2.11", 17, 53, 3),
        ]
        .into(),
        pools: [
            pool("web", Algorithm::Maglev, 0, &["10.0.1.11", "10.0.1.12"]),
            pool("dns", Algorithm::RoundRobin, 2, &["10.0.1.11", "10.0.1.12"]),
            pool("web6", Algorithm::Maglev, 4, &["fd01::11"]),
            pool("lost", Algorithm::Maglev, 5, &["10.0.1.13"]),
        ]
        .into(),
        rules: [
            rule("bad", "198.51.100.0/24", "0.0.0.0/0", Action::Drop),
            Rule {
                treatment: Treatment {
                    mark: Some(46),
                    mirror: Some(Mirror {
                        port: 1,
                        per_second: 10_000,
                    }),
                    limit: Some(0),
                    ..Treatment::default()
                },
                ..rule("transit", "203.0.113.0/24", "10.0.1.0/24", Action::Allow)
            },
        ]
        .into(),
        limits: [Limit {
            name: "transit".into(),
            scope: LimitScope::Source { v4: 32, v6: 64 },
            unit: LimitUnit::Packets,
            per_second: 200,
            burst: 50,
        }]
        .into(),
        routes: [
            route("0.0.0.0/0", via(0, "10.0.0.254")),
            route("10.0.0.0/24", RouteTarget::Connected { port: 0 }),
            route("10.0.1.0/24", RouteTarget::Connected { port: 1 }),
            route("::/0", via(0, "fd00::fe")),
            route("fd01::/64", RouteTarget::Connected { port: 1 }),
        ]
        .into(),
        neighbours: [
            neighbour(0, "10.0.0.254", ROUTER_MAC),
            neighbour(0, "fd00::fe", ROUTER_MAC),
            neighbour(1, "10.0.1.11", [2, 0, 0, 0, 1, 11]),
            neighbour(1, "10.0.1.12", [2, 0, 0, 0, 1, 12]),
            neighbour(1, "fd01::11", [2, 0, 0, 0, 1, 11]),
        ]
        .into(),
        local: [ip("10.0.0.1"), ip("10.0.1.1"), ip("fd00::1"), ip("fd01::1")].into(),
        ..Config::default()
    }
}

/// [`config`] with the backend of the service "lost" resolved.
pub fn resolved() -> Config {
    let mut config = config();
    let mut neighbours = config.neighbours.to_vec();
    neighbours.push(neighbour(1, "10.0.1.13", [2, 0, 0, 0, 1, 13]));
    config.neighbours = neighbours.into();
    config
}

/// [`config`] with one more VIP, and one backend drained.
pub fn changed() -> Config {
    let mut config = config();
    let mut services = config.services.to_vec();
    services.push(service("late", "192.0.2.12", 6, 443, 0));
    config.services = services.into();
    let mut pools = config.pools.to_vec();
    pools[0].backends[0].state = BackendState::Draining;
    config.pools = pools.into();
    config
}

pub fn generation(config: &Config, previous: Option<&Generation>) -> Generation {
    build(config, previous).expect("a configuration that builds")
}

/// An lcore over memory ports, and the agent's ends of its rings.
pub struct World {
    pub lcore: Lcore<MemPort>,
    pub traffic: Arc<Counters>,
    pub counters: Arc<LcoreCounters>,
    pub punts: FrameReceiver,
    pub kernel: FrameSender,
    pub requests: Arc<ArrayQueue<ResolveRequest>>,
}

pub fn settings() -> march_pipeline::Settings {
    march_pipeline::Settings {
        flows4: 4096,
        flows6: 1024,
        sources: 1_024,
        seed: (0x5eed, 0xfeed),
    }
}

pub const HOLD_MS: u32 = 1_000;

impl World {
    pub fn new(memory: MemConfig, first: &Arc<Generation>) -> Self {
        let traffic = Arc::new(Counters::new(Limits::default()));
        let counters = Arc::new(LcoreCounters::default());
        let requests = Arc::new(ArrayQueue::new(8));
        let (punt_sender, punts) = frame_ring(24);
        let (kernel, kernel_receiver) = frame_ring(32);
        let parts = Parts {
            pipeline: Pipeline::new(settings(), Arc::clone(&traffic)).expect("memory for flows"),
            counters: Arc::clone(&counters),
            punts: punt_sender,
            kernel: kernel_receiver,
            requests: Arc::clone(&requests),
            hold_frames: 16,
            hold_ms: HOLD_MS,
        };
        let ports = MemPort::group(first.ports.len(), memory).into_ports();
        Self {
            lcore: Lcore::new(ports, parts, first),
            traffic,
            counters,
            punts,
            kernel,
            requests,
        }
    }

    pub fn port(&self, id: usize) -> &PortCounters {
        &self.traffic.ports[id]
    }

    /// Both conservation equations of every port.
    pub fn assert_balanced(&self) {
        for (id, port) in self.traffic.ports.iter().enumerate() {
            let originated: u64 = port
                .originated
                .iter()
                .map(march_pipeline::Counter::get)
                .sum();
            let left = [
                port.forwarded.get(),
                port.answered.get(),
                port.punted.get(),
                port.held.get(),
                port.dropped(),
            ];
            let sent = [port.forwarded_in.get(), port.tx_answered.get(), originated];
            assert_eq!(
                port.rx_frames.get(),
                left.iter().sum(),
                "ingress of port {id}: {left:?}"
            );
            assert_eq!(
                port.tx_frames.get(),
                sent.iter().sum(),
                "egress of port {id}: {sent:?}"
            );
        }
    }
}

/// A frame from the router to port 0.
pub fn from_client(packet: PacketBuilder) -> Vec<u8> {
    packet.macs(ROUTER_MAC, WAN_MAC).padded_to(60).build()
}

/// What the far end of a link answers: the same packet with everything turned around. Sums of swapped words are the
/// same, so the checksums stay right. `None` for what is no TCP or UDP over plain IP.
pub fn turned_around(frame: &[u8]) -> Option<Vec<u8>> {
    let (addresses, len, protocol, ports) = match (frame.get(12..14)?, frame.get(14)?) {
        ([0x08, 0x00], 0x45) => (26, 4, *frame.get(23)?, 34),
        ([0x86, 0xdd], _) => (22, 16, *frame.get(20)?, 54),
        _ => return None,
    };
    if !matches!(protocol, 6 | 17) || frame.len() < ports + 4 {
        return None;
    }
    let mut turned = frame.to_vec();
    let mut swap = |at: usize, len: usize| {
        turned[at..at + len].copy_from_slice(&frame[at + len..at + 2 * len]);
        turned[at + len..at + 2 * len].copy_from_slice(&frame[at..at + len]);
    };
    swap(0, 6);
    swap(addresses, len);
    swap(ports, 2);
    Some(turned)
}

/// A sequence of numbers that is the same for the same seed.
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, bound: usize) -> usize {
        // xorshift64*: plenty for choosing packets.
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(number).expect("31 bits") % bound
    }
}

/// One of many kinds of frames that may arrive at port 0, well formed or not.
pub fn mixed(dice: &mut Dice) -> Vec<u8> {
    let port = 1024 + u16::try_from(dice.below(300)).expect("small");
    let client = format!("10.9.0.{}", 1 + dice.below(5));
    let flags = [0x02, 0x10, 0x18, 0x11, 0x04, 0x00][dice.below(6)];
    let to = |destination: &str| PacketBuilder::between(&client, destination);
    let frame = match dice.below(18) {
        0..=4 => to("192.0.2.10").tcp(port, 80, flags).payload(b"GET /"),
        5..=6 => to("192.0.2.10").udp(port, 53).payload(b"who"),
        7 => to("192.0.2.11").udp(port, 53).payload(b"nobody resolved"),
        8..=9 => PacketBuilder::between("2001:db8:9::1", "2001:db8::10").tcp(port, 80, flags),
        10 => to("192.0.2.10").icmp(8, 0, 0x0001_0001).payload(b"ping"),
        11 => to("10.0.0.1").tcp(port, 22, 0x02),
        12 => PacketBuilder::between("198.51.100.7", "192.0.2.10").udp(port, 53),
        13 => PacketBuilder::between("203.0.113.5", "10.0.1.11").udp(port, 9),
        14 => PacketBuilder::between("203.0.113.5", "10.0.1.99").udp(port, 9),
        15 => to("192.0.2.77").udp(port, 1),
        16 => to("192.0.2.10").tcp(port, 80, 0x02).ttl(1),
        _ => {
            let mut arp = vec![0; 60];
            march_wire::arp::request(
                &mut arp,
                ROUTER_MAC,
                "10.0.0.254".parse().expect("an address"),
                "192.0.2.10".parse().expect("an address"),
            )
            .expect("room");
            return arp;
        }
    };
    let mut frame = from_client(frame);
    match dice.below(12) {
        // Cut short, one bit wrong, or for somebody else.
        0 => frame.truncate(dice.below(frame.len()).max(1)),
        1 => {
            let bit = dice.below(frame.len() * 8);
            frame[bit / 8] ^= 1 << (bit % 8);
        }
        2 => frame[5] ^= 0x40,
        _ => {}
    }
    frame
}
