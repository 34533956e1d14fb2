use std::net::IpAddr;

use march_tables::{
    Action, Algorithm, BackendState, Config, MirroredNeighbour, MirroredRoute, Mode, NatPool,
    PoolBackend, PoolConfig, PortRange, PortTable, RouteTarget, Rule, Service,
};
use march_wire::build::{Checksum, PacketBuilder};
use march_wire::tcp::{ACK, FIN, RST, SYN};

use super::*;
use crate::counters::Limits;

mod actions;
mod again;
mod guards;
mod treatments;

const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xc1];
const LAN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const WAN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const BACKEND_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xb1];

/// A frame for tests: bytes with room on both sides.
#[derive(Clone, Debug, PartialEq, Eq)]
struct TestFrame {
    memory: Vec<u8>,
    start: usize,
    end: usize,
}

impl TestFrame {
    fn new(bytes: &[u8]) -> Self {
        let mut memory = vec![0; 128 + 4_096];
        memory[128..128 + bytes.len()].copy_from_slice(bytes);
        Self {
            memory,
            start: 128,
            end: 128 + bytes.len(),
        }
    }
}

impl Buffer for TestFrame {
    fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.end]
    }
    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.end]
    }
    fn headroom(&self) -> usize {
        self.start
    }
    fn tailroom(&self) -> usize {
        self.memory.len() - self.end
    }
    fn prepend(&mut self, count: usize) -> bool {
        let fits = count <= self.start;
        self.start -= if fits { count } else { 0 };
        fits
    }
    fn resize(&mut self, len: usize) -> bool {
        let fits = self.start + len <= self.memory.len();
        self.end = if fits { self.start + len } else { self.end };
        fits
    }
}

/// Two ports: 0 towards clients, 1 towards backends. Services "web" (TCP 80, full NAT), "dns" (UDP 53, full NAT) and
/// "plain" (TCP 81, client address kept), each over one IPv4 and one IPv6 VIP.
struct World {
    config: Config,
    generation: Generation,
    pipeline: Pipeline,
    now: Now,
    copies: Copies,
}

/// Copies that were made, in order, and whether there are no more buffers.
#[derive(Default)]
struct Copies {
    made: Vec<(PortId, Vec<u8>)>,
    is_dry: bool,
}

impl MirrorSink for Copies {
    fn copy(&mut self, port: PortId, frame: &[u8]) -> bool {
        if !self.is_dry {
            self.made.push((port, frame.to_vec()));
        }
        !self.is_dry
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn config() -> Config {
    let port = |name: &str, mac, v4: &str, v6: &str| PortTable {
        name: name.into(),
        mac,
        mtu: 1_500,
        nat4: NatPool {
            addresses: [v4.parse().unwrap()].into(),
            first_port: 20_000,
            last_port: 20_063,
        },
        nat6: NatPool {
            addresses: [v6.parse().unwrap()].into(),
            first_port: 20_000,
            last_port: 20_063,
        },
        address4: v4.parse().ok(),
        address6: v6.parse().ok(),
        partial_checksums: PartialChecksums::Never,
        ..PortTable::default()
    };
    let service = |name: &str, vip: &str, protocol, port, mode, pool| Service {
        name: name.into(),
        address: vip.parse().unwrap(),
        protocol,
        first_port: port,
        last_port: port,
        pool,
        mode,
        affinity: march_tables::Affinity::FiveTuple,
        timeouts: march_tables::Timeouts::default(),
        ..Service::vacant()
    };
    let pool = |name: &str, slot, address: &str| PoolConfig {
        name: name.into(),
        algorithm: Algorithm::Maglev,
        backends: vec![PoolBackend {
            slot,
            address: ip(address),
            port: 8_080,
            weight: 1,
            state: BackendState::Active,
        }],
    };
    let connected = |prefix: &str, port| MirroredRoute {
        prefix: prefix.parse().unwrap(),
        target: RouteTarget::Connected { port },
    };
    let neighbour = |port, address: &str, mac| MirroredNeighbour {
        port,
        address: ip(address),
        mac,
    };
    Config {
        revision: 1,
        ports: [
            port("lan", LAN_MAC, "198.51.100.1", "2001:db8:1::1"),
            port("wan", WAN_MAC, "10.0.1.1", "2001:db8:2::1"),
        ]
        .into(),
        services: [
            service("web4", "192.0.2.10/32", 6, 80, Mode::FullNat, 0),
            service("web6", "2001:db8::10/128", 6, 80, Mode::FullNat, 1),
            service("dns4", "192.0.2.10/32", 17, 53, Mode::FullNat, 0),
            service("dns6", "2001:db8::10/128", 17, 53, Mode::FullNat, 1),
            service("plain4", "192.0.2.10/32", 6, 81, Mode::Nat, 0),
            service("plain6", "2001:db8::10/128", 6, 81, Mode::Nat, 1),
        ]
        .into(),
        pools: [pool("p4", 0, "10.0.1.11"), pool("p6", 1, "2001:db8:2::11")].into(),
        rules: [].into(),
        routes: [
            connected("198.51.100.0/24", 0),
            connected("2001:db8:1::/64", 0),
            connected("10.0.1.0/24", 1),
            connected("2001:db8:2::/64", 1),
        ]
        .into(),
        neighbours: [
            neighbour(0, "198.51.100.7", CLIENT_MAC),
            neighbour(0, "2001:db8:1::7", CLIENT_MAC),
            neighbour(1, "10.0.1.11", BACKEND_MAC),
            neighbour(1, "2001:db8:2::11", BACKEND_MAC),
        ]
        .into(),
        local: [
            ip("198.51.100.1"),
            ip("2001:db8:1::1"),
            ip("10.0.1.1"),
            ip("2001:db8:2::1"),
        ]
        .into(),
        ..Config::default()
    }
}

impl World {
    fn new() -> Self {
        Self::with(config())
    }

    fn with(config: Config) -> Self {
        let generation = march_tables::build(&config, None).unwrap();
        let settings = Settings {
            flows4: 1_000,
            flows6: 1_000,
            sources: 1_024,
            seed: (7, 9),
        };
        let pipeline = Pipeline::new(settings, Arc::new(Counters::new(Limits::default()))).unwrap();
        Self {
            config,
            generation,
            pipeline,
            now: Now { ms: 1_000 },
            copies: Copies::default(),
        }
    }

    fn change(&mut self, change: impl FnOnce(&mut Config)) {
        change(&mut self.config);
        self.generation = march_tables::build(&self.config, Some(&self.generation)).unwrap();
    }

    fn send(&mut self, ingress: PortId, bytes: &[u8]) -> (Verdict, Vec<u8>) {
        let mut frames = [TestFrame::new(bytes)];
        let mut verdicts = [Verdict::Hold];
        self.pipeline.process(
            &self.generation,
            self.now,
            ingress,
            &mut frames,
            &mut verdicts,
            &mut self.copies,
        );
        (verdicts[0], frames[0].bytes().to_vec())
    }

    fn forwarded(&mut self, ingress: PortId, packet: &PacketBuilder, egress: PortId) -> Vec<u8> {
        let (verdict, bytes) = self.send(ingress, &packet.build());
        assert_eq!(verdict, Verdict::Forward { port: egress });
        bytes
    }

    fn dropped(&mut self, ingress: PortId, packet: &PacketBuilder, reason: DropReason) {
        let before = packet.build();
        let (verdict, bytes) = self.send(ingress, &before);
        assert_eq!(verdict, Verdict::Drop(reason));
        assert_eq!(bytes, before, "a dropped frame is not changed");
    }
}

/// The two ends of a test of either family.
#[derive(Clone, Copy)]
struct Ends {
    client: &'static str,
    vip: &'static str,
    nat: &'static str,
    backend: &'static str,
}

const ENDS: [Ends; 2] = [
    Ends {
        client: "198.51.100.7",
        vip: "192.0.2.10",
        nat: "10.0.1.1",
        backend: "10.0.1.11",
    },
    Ends {
        client: "2001:db8:1::7",
        vip: "2001:db8::10",
        nat: "2001:db8:2::1",
        backend: "2001:db8:2::11",
    },
];

fn from_client(ends: Ends) -> PacketBuilder {
    PacketBuilder::between(ends.client, ends.vip)
        .macs(CLIENT_MAC, LAN_MAC)
        .payload(b"hello, world")
}

fn parsed(bytes: &[u8]) -> IpPacket {
    match march_wire::parse(bytes).unwrap() {
        Packet::Ip(packet) => packet,
        other => panic!("not IP: {other:?}"),
    }
}

/// Addresses and ports of a frame, after checking that its checksums are right.
fn tuple_of(bytes: &[u8]) -> (IpAddr, IpAddr, u16, u16) {
    let packet = parsed(bytes);
    assert_eq!(
        march_wire::checksum::l4_state(bytes, &packet),
        march_wire::checksum::L4Checksum::Valid
    );
    let (src, dst) = packet.ip_addresses(bytes).unwrap();
    let (src_port, dst_port) = packet.ports();
    (src, dst, src_port, dst_port)
}

fn answer_from_backend(ends: Ends, nat_port: u16) -> PacketBuilder {
    PacketBuilder::between(ends.backend, ends.nat)
        .macs(BACKEND_MAC, WAN_MAC)
        .payload(b"and hello to you")
        .tcp(8_080, nat_port, SYN | ACK)
}

#[test]
fn full_nat_there_and_back_over_both_families() {
    for ends in ENDS {
        let mut world = World::new();
        let syn = world.forwarded(0, &from_client(ends).tcp(4_000, 80, SYN), 1);
        let (src, dst, nat_port, dst_port) = tuple_of(&syn);
        assert_eq!(
            (src, dst, dst_port),
            (ip(ends.nat), ip(ends.backend), 8_080)
        );
        assert!((20_000..=20_063).contains(&nat_port));
        assert_eq!(syn[..12], [BACKEND_MAC, WAN_MAC].concat());
        assert_eq!(parsed(&syn).ttl, 63);

        let reply = world.forwarded(1, &answer_from_backend(ends, nat_port), 0);
        assert_eq!(tuple_of(&reply), (ip(ends.vip), ip(ends.client), 80, 4_000));
        assert_eq!(reply[..12], [CLIENT_MAC, LAN_MAC].concat());
        assert!(reply.ends_with(b"and hello to you"));

        // The third packet and all that follow take the fast path and mean the same.
        for flags in [ACK, ACK, ACK] {
            let data = world.forwarded(0, &from_client(ends).tcp(4_000, 80, flags), 1);
            assert_eq!(
                tuple_of(&data),
                (ip(ends.nat), ip(ends.backend), nat_port, 8_080)
            );
        }
        let counters = world.pipeline.counters();
        assert_eq!(counters.flows.created.get(), 1);
        let backend = &counters.backends[usize::from(u8::from(ends.vip.contains(':')))];
        assert_eq!([backend.packets[0].get(), backend.packets[1].get()], [4, 1]);
        assert_eq!(backend.flows.get(), 1);
    }
}

#[test]
fn nat_keeps_the_client_address() {
    for ends in ENDS {
        let mut world = World::new();
        let syn = world.forwarded(0, &from_client(ends).tcp(4_000, 81, SYN), 1);
        assert_eq!(
            tuple_of(&syn),
            (ip(ends.client), ip(ends.backend), 4_000, 8_080)
        );
        let back = PacketBuilder::between(ends.backend, ends.client)
            .macs(BACKEND_MAC, WAN_MAC)
            .tcp(8_080, 4_000, SYN | ACK);
        let reply = world.forwarded(1, &back, 0);
        assert_eq!(tuple_of(&reply), (ip(ends.vip), ip(ends.client), 81, 4_000));
    }
}

#[test]
fn the_fast_path_means_what_the_slow_path_means() {
    for ends in ENDS {
        for udp in [false, true] {
            for tag in [None, Some(100)] {
                let mut world = World::new();
                let packet = |flags| {
                    let packet = from_client(ends);
                    let packet = if udp {
                        packet.udp(4_000, 53)
                    } else {
                        packet.tcp(4_000, 80, flags)
                    };
                    if let Some(tci) = tag {
                        packet.vlan(tci)
                    } else {
                        packet
                    }
                };
                let first = world.forwarded(0, &packet(SYN), 1);
                let (_, _, nat_port, _) = tuple_of(&first);
                if !udp {
                    world.forwarded(1, &answer_from_backend(ends, nat_port), 0);
                    world.forwarded(0, &packet(ACK), 1);
                }
                // Tagged frames never take the fast path, untagged ones do now.
                let second = world.forwarded(0, &packet(ACK), 1);
                assert_eq!(
                    tuple_of(&second),
                    (ip(ends.nat), ip(ends.backend), nat_port, 8_080)
                );
                assert_eq!(parsed(&second).vlan, tag);
                assert_eq!(parsed(&second).ttl, 63);
            }
        }
    }
}

#[test]
fn udp_without_a_checksum_keeps_none() {
    let mut world = World::new();
    let packet = from_client(ENDS[0])
        .udp(4_000, 53)
        .l4_checksum(Checksum::Zero);
    for _ in 0..2 {
        let out = world.forwarded(0, &packet, 1);
        assert_eq!(out[40..42], [0, 0]);
    }
}

#[test]
fn a_wrong_l4_checksum_stays_wrong_by_the_same() {
    let mut world = World::new();
    let packet = from_client(ENDS[0])
        .udp(4_000, 53)
        .l4_checksum(Checksum::Wrong);
    for _ in 0..2 {
        let out = world.forwarded(0, &packet, 1);
        assert_eq!(
            march_wire::checksum::l4_state(&out, &parsed(&out)),
            march_wire::checksum::L4Checksum::Wrong
        );
    }
}

#[test]
fn partial_checksums_are_completed_where_they_can_occur() {
    for ends in ENDS {
        let mut world = World::new();
        world.change(|config| {
            let mut ports = config.ports.to_vec();
            ports[0].partial_checksums = PartialChecksums::Possible;
            config.ports = ports.into();
        });
        let packet = from_client(ends)
            .udp(4_000, 53)
            .l4_checksum(Checksum::Partial);
        for completed in 1..=2 {
            let out = world.forwarded(0, &packet, 1);
            tuple_of(&out);
            assert_eq!(
                world.pipeline.counters().ports[0].checksums_completed.get(),
                completed
            );
        }
        // A checksum that is whole is left alone.
        world.forwarded(0, &from_client(ends).udp(4_001, 53), 1);
        assert_eq!(
            world.pipeline.counters().ports[0].checksums_completed.get(),
            2
        );
    }
}

#[test]
fn a_segment_without_a_flow_is_answered_with_a_reset() {
    for ends in ENDS {
        let mut world = World::new();
        let (verdict, reply) = world.send(0, &from_client(ends).tcp(4_000, 80, ACK).build());
        assert_eq!(verdict, Verdict::Answer { port: 0 });
        assert_eq!(tuple_of(&reply), (ip(ends.vip), ip(ends.client), 80, 4_000));
        let packet = parsed(&reply);
        assert!(matches!(packet.l4, march_wire::L4::Tcp { flags, .. } if flags & RST != 0));
        world.dropped(
            0,
            &from_client(ends).tcp(4_000, 80, RST),
            DropReason::NoFlow,
        );
        // The same towards a NAT address; its other ports are the kernel's.
        let (verdict, _) = world.send(1, &answer_from_backend(ends, 20_001).build());
        assert_eq!(verdict, Verdict::Answer { port: 1 });
        let (verdict, _) = world.send(1, &answer_from_backend(ends, 22).build());
        assert_eq!(verdict, Verdict::Punt);
    }
}

#[test]
fn rules_deny_services_and_allow_transit() {
    for ends in ENDS {
        let mut world = World::new();
        let transit = PacketBuilder::between(ends.client, ends.backend)
            .macs(CLIENT_MAC, LAN_MAC)
            .tcp(4_000, 22, SYN);
        world.dropped(0, &transit, DropReason::NoService);
        let rule = |name: &str, action, port| Rule {
            name: name.into(),
            priority: 1,
            sources: vec![
                format!(
                    "{}/{}",
                    ends.client,
                    if ends.client.contains(':') { 128 } else { 32 }
                )
                .parse()
                .unwrap(),
            ],
            destinations: vec![],
            source_ports: vec![],
            ports: vec![PortRange {
                first: port,
                last: port,
            }],
            protocol: Some(6),
            action,
            ..Rule::vacant()
        };
        world.change(|config| {
            config.rules = [
                rule("ssh", Action::Allow, 22),
                rule("no-web", Action::Drop, 80),
            ]
            .into();
        });
        let out = world.forwarded(0, &transit, 1);
        assert_eq!(
            tuple_of(&out),
            (ip(ends.client), ip(ends.backend), 4_000, 22)
        );
        let back = PacketBuilder::between(ends.backend, ends.client)
            .macs(BACKEND_MAC, WAN_MAC)
            .tcp(22, 4_000, SYN | ACK);
        let reply = world.forwarded(1, &back, 0);
        assert_eq!(
            tuple_of(&reply),
            (ip(ends.backend), ip(ends.client), 22, 4_000)
        );
        world.dropped(
            0,
            &from_client(ends).tcp(4_000, 80, SYN),
            DropReason::RuleDrop,
        );
        assert_eq!(world.pipeline.counters().rules[0].get(), 1);
        assert_eq!(world.pipeline.counters().rules[1].get(), 1);
    }
}

#[test]
fn a_new_rule_ends_a_flow_at_its_next_packet_and_an_unrelated_one_does_not() {
    for ends in ENDS {
        let mut world = World::new();
        world.forwarded(0, &from_client(ends).udp(4_000, 53), 1);
        world.forwarded(0, &from_client(ends).udp(4_001, 53), 1);
        let before = tuple_of(&world.forwarded(0, &from_client(ends).udp(4_001, 53), 1));
        world.change(|config| {
            config.rules = [Rule {
                name: "deny".into(),
                priority: 1,
                sources: vec![],
                destinations: vec![],
                source_ports: vec![PortRange {
                    first: 4_000,
                    last: 4_000,
                }],
                ports: vec![],
                protocol: None,
                action: Action::Drop,
                ..Rule::vacant()
            }]
            .into();
        });
        world.dropped(
            0,
            &from_client(ends).udp(4_000, 53),
            DropReason::PolicyChanged,
        );
        world.dropped(0, &from_client(ends).udp(4_000, 53), DropReason::RuleDrop);
        assert_eq!(
            tuple_of(&world.forwarded(0, &from_client(ends).udp(4_001, 53), 1)),
            before,
            "same backend, same port"
        );
        assert_eq!(world.pipeline.counters().flows.rechecked.get(), 2);
    }
}

fn set_state(world: &mut World, state: BackendState) {
    world.change(|config| {
        let mut pools = config.pools.to_vec();
        for pool in &mut pools {
            pool.backends[0].state = state;
        }
        config.pools = pools.into();
    });
}

#[test]
fn a_drained_backend_keeps_its_flows_and_takes_no_new_ones() {
    for ends in ENDS {
        for state in [BackendState::Draining, BackendState::Down] {
            let mut world = World::new();
            world.forwarded(0, &from_client(ends).udp(4_000, 53), 1);
            set_state(&mut world, state);
            world.forwarded(0, &from_client(ends).udp(4_000, 53), 1);
            world.dropped(0, &from_client(ends).udp(4_001, 53), DropReason::NoBackend);
        }
    }
}

#[test]
fn an_offline_backend_resets_whoever_speaks_next() {
    for ends in ENDS {
        for from_backend in [false, true] {
            let mut world = World::new();
            let syn = world.forwarded(0, &from_client(ends).tcp(4_000, 80, SYN), 1);
            let (_, _, nat_port, _) = tuple_of(&syn);
            world.forwarded(1, &answer_from_backend(ends, nat_port), 0);
            world.forwarded(0, &from_client(ends).tcp(4_000, 80, ACK), 1);
            set_state(&mut world, BackendState::Offline);
            let (ingress, packet) = if from_backend {
                (
                    1,
                    answer_from_backend(ends, nat_port).tcp(8_080, nat_port, ACK),
                )
            } else {
                (0, from_client(ends).tcp(4_000, 80, ACK))
            };
            let (verdict, _) = world.send(ingress, &packet.build());
            assert_eq!(verdict, Verdict::Answer { port: ingress });
            assert_eq!(world.pipeline.flows(), [0, 0]);
        }
        let mut world = World::new();
        world.forwarded(0, &from_client(ends).udp(4_000, 53), 1);
        set_state(&mut world, BackendState::Offline);
        world.dropped(
            0,
            &from_client(ends).udp(4_000, 53),
            DropReason::BackendGone,
        );
    }
}

#[test]
fn an_unresolved_next_hop_holds_the_frame_and_leaves_no_trace() {
    for ends in ENDS {
        let mut world = World::new();
        let neighbours = Arc::clone(&world.config.neighbours);
        world.change(|config| config.neighbours = [].into());
        let packet = from_client(ends).tcp(4_000, 80, SYN).build();
        let (verdict, bytes) = world.send(0, &packet);
        assert_eq!(verdict, Verdict::Hold);
        assert_eq!(bytes, packet, "a held frame is not changed");
        assert_eq!(world.pipeline.flows(), [0, 0]);
        let requests: Vec<_> = world.pipeline.take_requests().collect();
        assert_eq!(
            requests,
            [ResolveRequest {
                port: 1,
                address: ip(ends.backend)
            }]
        );
        world.change(|config| config.neighbours = neighbours);
        assert_eq!(world.send(0, &packet).0, Verdict::Forward { port: 1 });
    }
}

#[test]
fn echo_to_a_vip_is_answered_and_to_the_port_punted() {
    for (ends, kind) in ENDS.into_iter().zip([8, 128]) {
        let mut world = World::new();
        let echo = |to| {
            PacketBuilder::between(ends.client, to)
                .macs(CLIENT_MAC, LAN_MAC)
                .icmp(kind, 0, 0x1234_0001)
                .payload(b"ping")
        };
        let (verdict, reply) = world.send(0, &echo(ends.vip).build());
        assert_eq!(verdict, Verdict::Answer { port: 0 });
        let packet = parsed(&reply);
        assert_eq!(
            packet.ip_addresses(&reply[..]).unwrap(),
            (ip(ends.vip), ip(ends.client))
        );
        assert_eq!(world.send(0, &echo(ends.nat).build()).0, Verdict::Punt);
    }
}

#[test]
fn the_last_hop_answers_time_exceeded_from_the_port() {
    for ends in ENDS {
        let mut world = World::new();
        let (verdict, reply) = world.send(0, &from_client(ends).udp(4_000, 53).ttl(1).build());
        assert_eq!(verdict, Verdict::Answer { port: 0 });
        let (src, dst) = parsed(&reply).ip_addresses(&reply[..]).unwrap();
        let own = if ends.client.contains(':') {
            "2001:db8:1::1"
        } else {
            "198.51.100.1"
        };
        assert_eq!((src, dst), (ip(own), ip(ends.client)));
        assert_eq!(
            world.pipeline.flows(),
            [0, 0],
            "an expired packet opens nothing"
        );
    }
}

#[test]
fn too_big_for_the_way_out_is_answered() {
    for ends in ENDS {
        let mut world = World::new();
        world.change(|config| {
            let mut ports = config.ports.to_vec();
            ports[1].mtu = 1_280;
            config.ports = ports.into();
        });
        let big = from_client(ends).udp(4_000, 53).payload(&[0; 1_300]);
        let (verdict, reply) = world.send(0, &big.build());
        assert_eq!(verdict, Verdict::Answer { port: 0 });
        assert!(matches!(
            parsed(&reply).l4,
            march_wire::L4::Icmp {
                kind: 3,
                code: 4,
                ..
            } | march_wire::L4::Icmp { kind: 2, .. }
        ));
        world.forwarded(0, &from_client(ends).udp(4_000, 53).payload(&[0; 1_200]), 1);
    }
}

#[test]
fn an_icmp_error_follows_the_flow_that_it_quotes() {
    for (ends, unreachable) in ENDS.into_iter().zip([(3, 3), (1, 4)]) {
        let mut world = World::new();
        let out = world.forwarded(0, &from_client(ends).udp(4_000, 53), 1);
        let router = if ends.client.contains(':') {
            "2001:db8:2::fe"
        } else {
            "10.0.1.254"
        };
        for sender in [ends.backend, router] {
            let error = PacketBuilder::between(sender, ends.nat)
                .macs(BACKEND_MAC, WAN_MAC)
                .icmp(unreachable.0, unreachable.1, 0)
                .payload(&out[14..]);
            let reply = world.forwarded(1, &error, 0);
            let packet = parsed(&reply);
            let expected_source = if sender == ends.backend {
                ends.vip
            } else {
                sender
            };
            assert_eq!(
                packet.ip_addresses(&reply[..]).unwrap(),
                (ip(expected_source), ip(ends.client))
            );
            assert_eq!(
                march_wire::checksum::l4_state(&reply, &packet),
                march_wire::checksum::L4Checksum::Valid
            );
            let quote = march_wire::quote::parse(&reply[..], &packet).unwrap();
            assert_eq!(quote.ports(), (4_000, 53));
            let vip_in_quote =
                reply[quote.l3_offset..]
                    .windows(4)
                    .any(|window| match ip(ends.vip) {
                        IpAddr::V4(vip) => *window == vip.octets(),
                        IpAddr::V6(vip) => *window == vip.octets()[12..],
                    });
            assert!(vip_in_quote);
        }
        let stranger = PacketBuilder::between(router, ends.vip)
            .macs(CLIENT_MAC, LAN_MAC)
            .icmp(unreachable.0, unreachable.1, 0)
            .payload(&out[14..]);
        world.dropped(
            0,
            &stranger
                .macs(CLIENT_MAC, LAN_MAC)
                .payload(&from_client(ends).udp(9, 9).build_ip()),
            DropReason::IcmpNoFlow,
        );
    }
}

#[test]
fn impossible_sources_open_nothing() {
    let mut world = World::new();
    for (src, reason) in [
        ("127.0.0.1", DropReason::MartianSource),
        ("224.0.0.1", DropReason::MartianSource),
        ("0.0.0.0", DropReason::MartianSource),
        ("10.0.1.1", DropReason::MartianSource),
        ("192.0.2.10", DropReason::Land),
    ] {
        world.dropped(
            0,
            &PacketBuilder::between(src, "192.0.2.10")
                .macs(CLIENT_MAC, LAN_MAC)
                .udp(4_000, 53),
            reason,
        );
    }
    world.dropped(
        0,
        &from_client(ENDS[0])
            .macs(CLIENT_MAC, WAN_MAC)
            .udp(4_000, 53),
        DropReason::WrongMac,
    );
    world.dropped(
        0,
        &from_client(ENDS[0]).udp(4_000, 53).fragment(0, true),
        DropReason::Fragment,
    );
}

#[test]
fn impossible_sources_get_no_echo_and_no_error_through() {
    let mut world = World::new();
    let out = world.forwarded(0, &from_client(ENDS[0]).udp(4_000, 53), 1);
    for src in ["127.0.0.1", "224.0.0.1", "255.255.255.255", "10.0.1.1"] {
        let echo = PacketBuilder::between(src, "192.0.2.10")
            .macs(CLIENT_MAC, LAN_MAC)
            .icmp(8, 0, 7);
        world.dropped(0, &echo, DropReason::MartianSource);
        let error = PacketBuilder::between(src, "192.0.2.10")
            .macs(BACKEND_MAC, WAN_MAC)
            .icmp(3, 3, 0)
            .payload(&out[14..]);
        world.dropped(1, &error, DropReason::MartianSource);
    }
}

#[test]
fn a_redirect_does_not_cross_a_translation() {
    let mut world = World::new();
    let out = world.forwarded(0, &from_client(ENDS[0]).udp(4_000, 53), 1);
    let redirect = PacketBuilder::between("10.0.1.254", "10.0.1.1")
        .macs(BACKEND_MAC, WAN_MAC)
        .icmp(5, 1, 0)
        .payload(&out[14..]);
    world.dropped(1, &redirect, DropReason::UnsupportedProtocol);
}

#[test]
fn an_icmp_error_larger_than_the_way_out_goes_nowhere() {
    let mut world = World::new();
    let out = world.forwarded(0, &from_client(ENDS[0]).udp(4_000, 53), 1);
    let mut quote = out[14..].to_vec();
    quote.resize(600, 0);
    let error = PacketBuilder::between("10.0.1.254", "10.0.1.1")
        .macs(BACKEND_MAC, WAN_MAC)
        .icmp(3, 3, 0)
        .payload(&quote);
    world.forwarded(1, &error, 0);
    world.change(|config| {
        config.ports = config
            .ports
            .iter()
            .cloned()
            .map(|port| PortTable { mtu: 576, ..port })
            .collect();
    });
    world.dropped(1, &error, DropReason::TooBig);
}

#[test]
fn what_is_never_answered_takes_nothing_from_what_is() {
    let mut world = World::new();
    for port in 0..20_000 {
        world.dropped(
            0,
            &from_client(ENDS[0]).tcp(port, 80, RST),
            DropReason::NoFlow,
        );
    }
    let (verdict, _) = world.send(0, &from_client(ENDS[0]).tcp(4_000, 80, ACK).build());
    assert_eq!(verdict, Verdict::Answer { port: 0 });
}

/// Keys of one pair of buckets, more than the two hold: a sender who knew the seed could choose them.
#[test]
fn crowded_buckets_cost_no_other_flow() {
    let config = config();
    let generation = march_tables::build(&config, None).unwrap();
    let settings = Settings {
        flows4: 31,
        flows6: 1,
        sources: 1_024,
        seed: (7, 9),
    };
    let pipeline = Pipeline::new(settings, Arc::new(Counters::new(Limits::default()))).unwrap();
    let mut world = World {
        config,
        generation,
        pipeline,
        now: Now { ms: 1_000 },
        copies: Copies::default(),
    };
    let pair = |port: u16| {
        let [a, b, c, d] = [198, 51, 100, 7];
        let [e, f, g, h] = [192, 0, 2, 10];
        let key = Key {
            addresses: march_flow::Ipv4Pair(u64::from_ne_bytes([a, b, c, d, e, f, g, h])),
            ports: crate::slow::raw_ports(port, 53),
            protocol: 17,
        };
        let hash = key.hash(march_flow::HashSeed(7, 9));
        (hash & 15, hash >> 48 & 15 | 1)
    };
    let ports: Vec<u16> = (1_024..60_000)
        .filter(|port| pair(*port) == pair(1_024))
        .take(30)
        .collect();
    assert_eq!(ports.len(), 30);
    for port in ports {
        let datagram = from_client(ENDS[0]).udp(port, 53);
        let (verdict, _) = world.send(0, &datagram.build());
        if !matches!(verdict, Verdict::Forward { .. }) {
            assert_eq!(verdict, Verdict::Drop(DropReason::TableFull));
        }
    }
    let counters = world.pipeline.counters();
    assert!((8..30).contains(&counters.flows.created.get()));
    assert_eq!(counters.flows.evicted.get(), 0);
}

#[test]
fn a_pool_of_nat_ports_runs_out_by_name_and_comes_back() {
    for ends in ENDS {
        let mut world = World::new();
        let mut seen = std::collections::HashSet::new();
        let mut exhausted = 0;
        for port in 0..64 {
            let (verdict, bytes) = world.send(0, &from_client(ends).udp(4_000 + port, 53).build());
            match verdict {
                Verdict::Forward { .. } => {
                    assert!(seen.insert(tuple_of(&bytes).2), "a port is used once");
                }
                Verdict::Drop(DropReason::NatExhausted) => exhausted += 1,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(
            seen.len(),
            64,
            "{exhausted} exhausted: the walk visits every port"
        );
        world.dropped(
            0,
            &from_client(ends).udp(5_000, 53),
            DropReason::NatExhausted,
        );
        // Another backend is another set of tuples; the same one is free again when the flows are over.
        for _ in 0..40 {
            world.now.ms += 2_000;
            for _ in 0..10 {
                world.pipeline.expire(&world.generation, world.now);
            }
        }
        assert_eq!(world.pipeline.flows(), [0, 0]);
        world.forwarded(0, &from_client(ends).udp(5_000, 53), 1);
    }
}

/// A backend that closed a connection remembers it: the next ones come from every other port before this one is used again.
#[test]
fn a_nat_port_rests_until_all_others_had_their_turn() {
    for ends in ENDS {
        let mut world = World::new();
        let mut seen = std::collections::HashSet::new();
        for port in 0..64 {
            let syn = world.forwarded(0, &from_client(ends).tcp(4_000 + port, 80, SYN), 1);
            seen.insert(tuple_of(&syn).2);
            world.forwarded(0, &from_client(ends).tcp(4_000 + port, 80, RST), 1);
            world.now.ms += 2_000;
            for _ in 0..40 {
                world.pipeline.expire(&world.generation, world.now);
            }
            assert_eq!(world.pipeline.flows(), [0, 0]);
        }
        assert_eq!(seen.len(), 64);
    }
}

#[test]
fn half_open_connections_make_room_in_a_pool_of_nat_ports() {
    for ends in ENDS {
        let mut world = World::new();
        // One connection that is established, and 63 of which only a SYN was ever seen.
        let syn = world.forwarded(0, &from_client(ends).tcp(3_999, 80, SYN), 1);
        let (_, _, nat_port, _) = tuple_of(&syn);
        world.forwarded(1, &answer_from_backend(ends, nat_port), 0);
        world.forwarded(0, &from_client(ends).tcp(3_999, 80, ACK), 1);
        for port in 0..200 {
            world.forwarded(0, &from_client(ends).tcp(4_000 + port, 80, SYN), 1);
        }
        assert_eq!(world.pipeline.flows().iter().sum::<usize>(), 64);
        assert_eq!(world.pipeline.counters().flows.evicted.get(), 200 - 63);
        let data = world.forwarded(0, &from_client(ends).tcp(3_999, 80, ACK), 1);
        assert_eq!(tuple_of(&data).2, nat_port, "what is established stays");
    }
}

#[test]
fn closed_connections_go_at_once_and_idle_ones_when_their_time_is_over() {
    for ends in ENDS {
        let mut world = World::new();
        let connect = |world: &mut World, port| {
            let syn = world.forwarded(0, &from_client(ends).tcp(port, 80, SYN), 1);
            let (_, _, nat_port, _) = tuple_of(&syn);
            world.forwarded(1, &answer_from_backend(ends, nat_port), 0);
            world.forwarded(0, &from_client(ends).tcp(port, 80, ACK), 1);
        };
        connect(&mut world, 4_000);
        connect(&mut world, 4_001);
        world.forwarded(0, &from_client(ends).tcp(4_000, 80, RST), 1);
        world.forwarded(0, &from_client(ends).tcp(4_001, 80, FIN | ACK), 1);
        connect(&mut world, 4_002);
        let live = |world: &mut World, elapsed_ms: u32| {
            for _ in 0..elapsed_ms / 500 {
                world.now.ms += 500;
                for _ in 0..4 {
                    world.pipeline.expire(&world.generation, world.now);
                }
            }
            world.pipeline.flows().iter().sum::<usize>()
        };
        assert_eq!(live(&mut world, 4_000), 2, "the reset one is gone");
        assert_eq!(live(&mut world, 60_000), 1, "the half-closed one is gone");
        assert_eq!(live(&mut world, 3_600_000), 0);
        assert_eq!(world.pipeline.counters().flows.expired.get(), 3);
    }
}

#[test]
fn a_new_syn_on_a_closing_connection_opens_a_new_flow() {
    for ends in ENDS {
        let mut world = World::new();
        world.forwarded(0, &from_client(ends).tcp(4_000, 80, SYN), 1);
        world.forwarded(0, &from_client(ends).tcp(4_000, 80, FIN | ACK), 1);
        world.forwarded(0, &from_client(ends).tcp(4_000, 80, SYN), 1);
        assert_eq!(world.pipeline.counters().flows.created.get(), 2);
        assert_eq!(world.pipeline.flows().iter().sum::<usize>(), 1);
    }
}

#[test]
fn a_full_table_makes_room() {
    let mut world = World::with(config());
    let settings = Settings {
        flows4: 8,
        flows6: 8,
        sources: 1_024,
        seed: (1, 2),
    };
    world.pipeline = Pipeline::new(settings, Arc::new(Counters::new(Limits::default()))).unwrap();
    for port in 0..40 {
        world.forwarded(0, &from_client(ENDS[0]).udp(4_000 + port, 53), 1);
    }
    assert_eq!(world.pipeline.flows()[0], 8);
    assert_eq!(world.pipeline.counters().flows.evicted.get(), 32);
    assert_eq!(world.pipeline.counters().backends[0].flows.get(), 8);
}

#[test]
fn a_burst_of_both_families_keeps_each_verdict_with_its_frame() {
    let mut world = World::new();
    let mut frames = Vec::new();
    for index in 0..64u16 {
        let ends = ENDS[usize::from(index % 2)];
        let packet = match index % 4 {
            0 | 1 => from_client(ends).udp(4_000 + index, 53).build(),
            2 => from_client(ends).tcp(4_000 + index, 80, SYN).build(),
            _ => from_client(ends).udp(4_000 + index, 99).build(),
        };
        frames.push(TestFrame::new(&packet));
    }
    let mut verdicts = vec![Verdict::Hold; 64];
    world.pipeline.process(
        &world.generation,
        world.now,
        0,
        &mut frames,
        &mut verdicts,
        &mut world.copies,
    );
    for (index, (verdict, frame)) in verdicts.iter().zip(&frames).enumerate() {
        if index % 4 == 3 {
            assert_eq!(*verdict, Verdict::Drop(DropReason::NoService));
        } else {
            assert_eq!(*verdict, Verdict::Forward { port: 1 }, "{index}");
            assert_eq!(tuple_of(frame.bytes()).1, ip(ENDS[index % 2].backend));
        }
    }
}

#[test]
fn explain_tells_what_process_does() {
    for ends in ENDS {
        let mut world = World::new();
        let packets = [
            (0, from_client(ends).tcp(4_000, 80, SYN)),
            (0, from_client(ends).tcp(4_000, 82, SYN)),
            (0, from_client(ends).udp(4_000, 53).ttl(1)),
            (
                0,
                PacketBuilder::between(ends.client, ends.backend)
                    .macs(CLIENT_MAC, LAN_MAC)
                    .udp(1, 2),
            ),
            (1, answer_from_backend(ends, 22)),
        ];
        for (ingress, packet) in packets {
            let explanation = crate::explain(&world.generation, ingress, &packet.build()).unwrap();
            let (verdict, _) = world.send(ingress, &packet.build());
            assert_eq!(explanation.verdict, verdict, "{:?}", explanation.stations);
            assert_eq!(explanation.stations.last().unwrap().stage, "verdict");
        }
        let story = crate::explain(
            &world.generation,
            0,
            &from_client(ends).tcp(4_000, 80, SYN).build(),
        )
        .unwrap();
        let said: Vec<&str> = story
            .stations
            .iter()
            .map(|station| station.said.as_str())
            .collect();
        let text = said.join("\n");
        for word in [
            "no rule matches",
            "full_nat",
            ends.backend,
            "out of wan",
            "02:00:00:00:00:b1",
        ] {
            assert!(text.contains(word), "{word} in\n{text}");
        }
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(256))]

    /// Valid frames with a few bytes changed and cut anywhere: no panic, and what is dropped, held or punted is unchanged.
    #[test]
    fn broken_frames_get_a_verdict_and_nothing_else(
        changes in proptest::collection::vec((0usize..6, 0usize..120, proptest::prelude::any::<u8>(), 0usize..140), 1..64),
    ) {
        let mut world = World::new();
        let out = [0, 1].map(|at: usize| world.forwarded(0, &from_client(ENDS[at]).udp(4_000, 53), 1));
        let frames: Vec<Vec<u8>> = changes
            .iter()
            .map(|&(kind, at, value, len)| {
                let ends = ENDS[kind % 2];
                let packet = match kind / 2 {
                    0 => from_client(ends).udp(4_000, 53),
                    1 => from_client(ends).tcp(4_000, 80, SYN).vlan(7),
                    _ => PacketBuilder::between(ends.backend, ends.nat)
                        .macs(BACKEND_MAC, WAN_MAC)
                        .icmp(if kind % 2 == 0 { 3 } else { 1 }, 3, 0)
                        .payload(&out[kind % 2][14..]),
                };
                let mut bytes = packet.build();
                let at = at % bytes.len();
                bytes[at] = value;
                bytes.truncate(len.max(1));
                bytes
            })
            .collect();
        for ingress in [0, 1] {
            let mut burst: Vec<TestFrame> = frames.iter().map(|bytes| TestFrame::new(bytes)).collect();
            let mut verdicts = vec![Verdict::Hold; burst.len()];
            world.pipeline.process(&world.generation, world.now, ingress, &mut burst, &mut verdicts, &mut world.copies);
            for ((verdict, after), before) in verdicts.iter().zip(&burst).zip(&frames) {
                if !matches!(verdict, Verdict::Forward { .. } | Verdict::Answer { .. }) {
                    proptest::prop_assert_eq!(after.bytes(), &before[..]);
                }
            }
        }
    }
}
