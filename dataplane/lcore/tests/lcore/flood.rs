//! What a flood does to those who are not part of it: nothing.

use march_pipeline::{Counter, Now};
use march_port::mem::MemConfig;
use march_tables::{
    AddressSet, Guard, Limit, LimitScope, LimitUnit, PrefixSet, Publisher, ServiceLimits,
};
use march_wire::build::PacketBuilder;
use march_wire::tcp::{ACK, SYN};
use march_wire::{DropReason, Packet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use crate::world::{self, Dice, LAN_MAC, World};

const CLIENT: &str = "10.8.0.1";
const VIP: &str = "192.0.2.10";

/// A site under way: an lcore, its generation, and time.
struct Site {
    world: World,
    publisher: Publisher,
    now_ms: u32,
}

impl Site {
    fn new(config: &march_tables::Config) -> Self {
        let publisher = Publisher::new(world::generation(config, None));
        let world = World::new(MemConfig::default(), &publisher.current());
        Self {
            world,
            publisher,
            // Close to the wrap of the clock.
            now_ms: u32::MAX - 1_000,
        }
    }

    fn arrive(&mut self, port: usize, frame: &[u8]) {
        let arrived = self.world.lcore.ports_mut()[port].inject(frame);
        arrived.expect("room");
    }

    fn turn(&mut self) {
        let ms = self.now_ms;
        self.world.lcore.turn(&self.publisher.current(), Now { ms });
    }

    fn collect(&mut self, port: usize) -> Vec<Vec<u8>> {
        core::iter::from_fn(|| self.world.lcore.ports_mut()[port].collect_bytes()).collect()
    }

    /// Frames sent out of a port that belong to connections of the real client, as their backends see or answer them.
    fn of_client(&mut self, port: usize, is_of_client: impl Fn(&End) -> bool) -> Vec<End> {
        let frames = self.collect(port);
        let ends = frames.iter().filter_map(|frame| End::of(frame));
        ends.filter(is_of_client).collect()
    }

    fn embryonic(&self) -> u64 {
        self.world.traffic.flows.embryonic[0].get()
    }
}

/// Addresses and ports of a TCP segment.
#[derive(Clone, Copy, PartialEq, Eq)]
struct End {
    src: Ipv4Addr,
    dst: Ipv4Addr,
    src_port: u16,
    dst_port: u16,
}

impl End {
    fn of(frame: &[u8]) -> Option<Self> {
        let Ok(Packet::Ip(packet)) = march_wire::parse(frame) else {
            return None;
        };
        let tuple = packet.tuple::<Ipv4Addr, _>(frame)?;
        Some(Self {
            src: tuple.src,
            dst: tuple.dst,
            src_port: tuple.src_port,
            dst_port: tuple.dst_port,
        })
    }

    /// What a backend sends back.
    fn answer(&self, flags: u8) -> Vec<u8> {
        let [.., last] = self.dst.octets();
        PacketBuilder::between(&self.dst.to_string(), &self.src.to_string())
            .macs([2, 0, 0, 0, 1, last], LAN_MAC)
            .tcp(self.dst_port, self.src_port, flags)
            .padded_to(60)
            .build()
    }
}

fn segment(port: u16, flags: u8) -> Vec<u8> {
    world::from_client(PacketBuilder::between(CLIENT, VIP).tcp(port, 80, flags))
}

fn spoofed(dice: &mut Dice) -> Vec<u8> {
    let [a, b, c] = [0; 3].map(|_: u8| dice.below(250) + 1);
    let from = format!("{}.{b}.{c}.9", 11 + a % 80);
    let port = u16::try_from(1_024 + dice.below(60_000)).expect("a port");
    world::from_client(PacketBuilder::between(&from, VIP).tcp(port, 80, SYN))
}

/// The real client's handshake, answered by the backend at once; what of it the backend sees of the client, if it got through.
fn connect(site: &mut Site, port: u16) -> Option<End> {
    site.collect(1);
    site.arrive(0, &segment(port, SYN));
    site.turn();
    let seen = site
        .of_client(1, |end| end.dst_port == 8080)
        .into_iter()
        .next()?;
    site.collect(0);
    site.arrive(1, &seen.answer(SYN | ACK));
    site.turn();
    site.of_client(0, |end| end.dst_port == port).first()?;
    site.arrive(0, &segment(port, ACK));
    site.turn();
    site.of_client(1, |end| *end == seen).first()?;
    Some(seen)
}

#[test]
fn connections_go_on_through_a_flood_of_syns_and_tables_stay_in_bounds() {
    let mut site = Site::new(&world::config());
    site.turn();
    let connections: Vec<(u16, End)> = (0..16)
        .map(|number| {
            (
                5_000 + number,
                connect(&mut site, 5_000 + number).expect("no flood yet"),
            )
        })
        .collect();
    let mut dice = Dice(0xf100d);
    let (mut was_flooded, mut opened) = (false, 0);
    for round in 0..1_000_u16 {
        for _ in 0..48 {
            site.arrive(0, &spoofed(&mut dice));
        }
        site.turn();
        site.collect(1);
        for (port, seen) in &connections {
            site.arrive(0, &segment(*port, ACK));
            site.arrive(1, &seen.answer(ACK));
        }
        site.turn();
        let out = site.of_client(1, |end| connections.iter().any(|(_, seen)| seen == end));
        let back = site.of_client(0, |end| end.dst == Ipv4Addr::new(10, 8, 0, 1));
        assert_eq!((out.len(), back.len()), (16, 16), "round {round}");
        if round % 100 == 99 {
            opened += usize::from(connect(&mut site, 6_000 + round).is_some());
        }
        assert!(site.embryonic() <= 4_096);
        was_flooded |= site.world.traffic.flows.flood_mode[0].get() == 1;
        site.now_ms = site.now_ms.wrapping_add(1);
        site.world.assert_balanced();
    }
    let flows = &site.world.traffic.flows;
    assert!(was_flooded, "the flood shows");
    assert!(flows.embryonic_evicted.get() > 10_000);
    assert_eq!(flows.evicted.get(), 0, "no established flow made room");
    assert_eq!(
        opened, 10,
        "a handshake that is quicker than the table turns over is done"
    );
    // Over: the timeout of the service, and a round of the sweep.
    for _ in 0..2_400 {
        site.now_ms = site.now_ms.wrapping_add(1);
        site.turn();
    }
    assert_eq!(site.embryonic(), 0);
    assert_eq!(site.world.traffic.flows.flood_mode[0].get(), 0);
    assert_eq!(site.world.traffic.services[0].half_open.get(), 0);
    assert_eq!(site.world.traffic.flows.live[0].get(), 26);
    assert!(connect(&mut site, 9_000).is_some());
    site.world.assert_balanced();
}

#[test]
fn limits_of_the_service_keep_the_flood_from_the_backends() {
    let mut config = world::config();
    let mut services = config.services.to_vec();
    services[0].limits = ServiceLimits {
        new_per_second: 1_000,
        half_open: 50,
    };
    config.services = services.into();
    let mut site = Site::new(&config);
    site.turn();
    let (port, seen) = (5_000, connect(&mut site, 5_000).expect("no flood yet"));
    let mut dice = Dice(7);
    for _ in 0..200 {
        for _ in 0..48 {
            site.arrive(0, &spoofed(&mut dice));
        }
        site.arrive(0, &segment(port, ACK));
        site.turn();
        assert_eq!(site.of_client(1, |end| *end == seen).len(), 1);
        site.now_ms = site.now_ms.wrapping_add(1);
    }
    assert_eq!(site.world.traffic.services[0].half_open.get(), 50);
    let drops = &site.world.port(0).drops;
    assert!(drops.of(DropReason::HalfOpenLimit).get() > 100);
    assert!(drops.of(DropReason::NewConnectionRate).get() > 7_000);
    site.world.assert_balanced();
}

/// The configuration with a guard on port 0. Set 0 has two of the clients, limit 1 is for each source.
pub fn guarded(mut config: march_tables::Config, guard: Guard) -> march_tables::Config {
    let mut limits = config.limits.to_vec();
    limits.push(Limit {
        name: "each".into(),
        scope: LimitScope::Source { v4: 32, v6: 64 },
        unit: LimitUnit::Packets,
        per_second: 10_000,
        burst: 1_000,
    });
    config.limits = limits.into();
    let prefixes = ["10.66.0.0/16", "10.9.0.5/32"].map(|text| text.parse().expect("a prefix"));
    config.sets = [AddressSet {
        name: "bad".into(),
        content: [6; 32],
        prefixes: Arc::new(PrefixSet::new(&prefixes)),
    }]
    .into();
    let mut ports = config.ports.to_vec();
    ports[0].guard = guard;
    config.ports = ports.into();
    config
}

fn datagram(from: &str) -> Vec<u8> {
    world::from_client(PacketBuilder::between(from, VIP).udp(4_000, 53))
}

/// 10 000 packets/s for each source: to the hundredth over ten seconds, and nothing of it on others.
#[test]
fn a_source_is_held_to_its_rate_and_others_are_not() {
    let mut site = Site::new(&guarded(
        world::config(),
        Guard {
            per_source: Some(1),
            ..Guard::default()
        },
    ));
    let (mut loud, mut calm) = (0, 0);
    let (loud_frame, calm_frame) = (datagram("10.9.0.1"), datagram("10.9.0.2"));
    for _ in 0..10_000 {
        for _ in 0..14 {
            site.arrive(0, &loud_frame);
        }
        site.arrive(0, &calm_frame);
        site.turn();
        site.now_ms = site.now_ms.wrapping_add(1);
        loud += 14;
        calm += 1;
        site.collect(1);
    }
    let port = site.world.port(0);
    let dropped = port.drops.of(DropReason::SourceRate).get();
    let passed = loud + calm - dropped - calm;
    assert!((99_000..=102_000).contains(&passed), "{passed}");
    assert_eq!(port.forwarded.get(), passed + calm);
    assert_eq!(site.world.traffic.sources.tracked.get(), 2);
    assert_eq!(site.world.traffic.sources.evicted.get(), 0);
    site.world.assert_balanced();
}

#[test]
fn strangers_leave_a_part_of_the_ring_to_the_kernel_for_those_with_a_right() {
    let mut site = Site::new(&guarded(
        world::config(),
        Guard {
            block: vec![0],
            ..Guard::default()
        },
    ));
    let to_box = |from: &str, port, flags| {
        world::from_client(PacketBuilder::between(from, "10.0.0.1").tcp(port, 22, flags))
    };
    // Nobody reads the ring of 24.
    for port in 0..40 {
        site.arrive(0, &to_box("10.9.0.1", 1_024 + port, SYN));
        site.arrive(0, &to_box("10.66.0.1", 1_024 + port, SYN));
    }
    for _ in 0..2 {
        site.turn();
    }
    let dropped = |site: &Site, reason| site.world.port(0).drops.of(reason).get();
    assert_eq!(site.world.punts.len(), 18);
    assert_eq!(dropped(&site, DropReason::PuntFull), 22);
    assert_eq!(dropped(&site, DropReason::Blocked), 40);
    // Anybody can send what looks like part of a connection.
    for port in 0..8 {
        site.arrive(0, &to_box("10.9.0.1", 1_024 + port, ACK));
    }
    site.turn();
    assert_eq!(site.world.punts.len(), 18);
    assert_eq!(dropped(&site, DropReason::PuntFull), 30);
    for port in 0..8 {
        let neighbour = PacketBuilder::between("10.9.0.1", "10.0.0.1").ttl(255);
        site.arrive(
            0,
            &world::from_client(neighbour.tcp(1_024 + port, 179, ACK)),
        );
    }
    site.turn();
    assert_eq!(site.world.punts.len(), 24);
    assert_eq!(dropped(&site, DropReason::PuntFull), 32);
    site.world.assert_balanced();
}

/// What stays of a counter that nobody touched.
#[test]
fn without_a_guard_no_source_is_followed() {
    let mut site = Site::new(&world::config());
    site.arrive(0, &datagram("10.9.0.1"));
    site.turn();
    let sources = &site.world.traffic.sources;
    assert_eq!(
        [&sources.tracked, &sources.evicted].map(Counter::get),
        [0, 0]
    );
}
