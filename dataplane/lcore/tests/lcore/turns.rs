//! What single turns do.

use std::net::IpAddr;

use march_pipeline::{Now, Originated};
use march_port::mem::MemConfig;
use march_tables::Publisher;
use march_wire::build::PacketBuilder;
use march_wire::{DropReason, Packet, arp, nd};

use crate::world::{self, HOLD_MS, World};

fn world() -> (World, Publisher) {
    let publisher = Publisher::new(world::generation(&world::config(), None));
    let world = World::new(MemConfig::default(), &publisher.current());
    (world, publisher)
}

fn turn(world: &mut World, publisher: &Publisher, ms: u32) {
    world.lcore.turn(&publisher.current(), Now { ms });
    world.assert_balanced();
}

fn publish(publisher: &mut Publisher, config: &march_tables::Config) {
    let next = world::generation(config, Some(&publisher.current()));
    publisher.publish(next);
}

fn sent(world: &mut World, port: usize) -> Vec<Vec<u8>> {
    core::iter::from_fn(|| world.lcore.ports_mut()[port].collect_bytes()).collect()
}

/// The addresses that a frame announces, if that is what it does.
fn announced(frame: &[u8]) -> Option<IpAddr> {
    match march_wire::parse(frame).expect("a good frame") {
        Packet::Arp(link) => {
            let message = arp::parse(frame, &link).expect("a good message");
            (message.sender == message.target).then_some(message.sender.into())
        }
        Packet::Ip(packet) if nd::is_neighbour(&packet) => {
            nd::target(frame, &packet).map(IpAddr::from)
        }
        _ => None,
    }
}

fn announcements(world: &mut World, port: usize) -> Vec<IpAddr> {
    let frames = sent(world, port);
    frames.iter().filter_map(|frame| announced(frame)).collect()
}

#[test]
fn addresses_are_announced_at_start_and_once_more() {
    let (mut world, publisher) = world();
    // The services' addresses; the NAT addresses are the kernel's own.
    let vips = ["192.0.2.10", "192.0.2.11", "2001:db8::10"].map(world::ip);
    turn(&mut world, &publisher, 5);
    for port in 0..2 {
        assert_eq!(announcements(&mut world, port), vips, "port {port}");
    }
    turn(&mut world, &publisher, 1_004);
    assert_eq!(
        announcements(&mut world, 0),
        [] as [IpAddr; 0],
        "not before a second has passed"
    );
    turn(&mut world, &publisher, 1_005);
    assert_eq!(announcements(&mut world, 0), vips);
    turn(&mut world, &publisher, 60_000);
    assert_eq!(announcements(&mut world, 0), [] as [IpAddr; 0]);
    let counted = world.port(0).originated[Originated::Gratuitous as usize].get();
    assert_eq!(counted, 2 * vips.len() as u64);
}

#[test]
fn only_a_new_address_is_announced_later() {
    let (mut world, mut publisher) = world();
    turn(&mut world, &publisher, 0);
    turn(&mut world, &publisher, 1_000);
    sent(&mut world, 0);
    // Neighbours change, addresses do not.
    publish(&mut publisher, &world::resolved());
    turn(&mut world, &publisher, 2_000);
    assert_eq!(announcements(&mut world, 0), [] as [IpAddr; 0]);
    publish(&mut publisher, &world::changed());
    turn(&mut world, &publisher, 3_000);
    assert_eq!(announcements(&mut world, 0), [world::ip("192.0.2.12")]);
    turn(&mut world, &publisher, 4_000);
    assert_eq!(announcements(&mut world, 0), [world::ip("192.0.2.12")]);
    assert_eq!(
        publisher.reclaim(),
        0,
        "no old generation is kept once all is told"
    );
}

#[test]
fn a_frame_waits_for_its_next_hop_and_then_goes() {
    let (mut world, mut publisher) = world();
    let packet = PacketBuilder::between("10.9.0.1", "192.0.2.11").udp(4000, 53);
    let frame = world::from_client(packet);
    world.lcore.ports_mut()[0].inject(&frame).expect("room");
    turn(&mut world, &publisher, 100);
    assert_eq!(world.port(0).held.get(), 1);
    let request = world.requests.pop().expect("a request");
    assert_eq!((request.port, request.address), (1, world::ip("10.0.1.13")));
    turn(&mut world, &publisher, 200);
    sent(&mut world, 1);

    publish(&mut publisher, &world::resolved());
    turn(&mut world, &publisher, 300);
    let forwarded: Vec<Vec<u8>> = sent(&mut world, 1);
    assert_eq!(forwarded.len(), 1);
    assert_eq!(forwarded[0][..6], [2, 0, 0, 0, 1, 13]);
    assert_eq!(
        (world.port(0).held.get(), world.port(0).forwarded.get()),
        (0, 1)
    );
    assert_eq!(world.lcore.held(), 0);
}

#[test]
fn a_frame_does_not_wait_for_ever() {
    let (mut world, mut publisher) = world();
    let packet = PacketBuilder::between("10.9.0.1", "192.0.2.11").udp(4000, 53);
    world.lcore.ports_mut()[0]
        .inject(&world::from_client(packet))
        .expect("room");
    turn(&mut world, &publisher, 0);
    // A generation that does not help leaves the deadline where it was.
    publish(&mut publisher, &world::changed());
    turn(&mut world, &publisher, HOLD_MS - 1);
    assert_eq!(world.port(0).held.get(), 1);
    turn(&mut world, &publisher, HOLD_MS);
    assert_eq!(world.port(0).held.get(), 0);
    assert_eq!(
        world
            .port(0)
            .drops
            .of(DropReason::NeighbourUnresolved)
            .get(),
        1
    );
}

#[test]
fn what_waits_is_bounded() {
    let (mut world, publisher) = world();
    for port in 0..40 {
        let packet = PacketBuilder::between("10.9.0.1", "192.0.2.11").udp(4000 + port, 53);
        world.lcore.ports_mut()[0]
            .inject(&world::from_client(packet))
            .expect("room");
    }
    turn(&mut world, &publisher, 0);
    assert_eq!(world.port(0).held.get(), 16);
    assert_eq!(
        world
            .port(0)
            .drops
            .of(DropReason::NeighbourUnresolved)
            .get(),
        24
    );
}

#[test]
fn punted_frames_reach_the_agent_unchanged_and_the_kernels_leave() {
    let (mut world, publisher) = world();
    let to_kernel =
        world::from_client(PacketBuilder::between("10.9.0.1", "10.0.0.1").tcp(4000, 22, 2));
    world.lcore.ports_mut()[0].inject(&to_kernel).expect("room");
    assert!(
        world
            .kernel
            .send(1, b"a frame that the kernel made, of some length")
    );
    assert!(world.kernel.send(7, b"for a port that is not there"));
    turn(&mut world, &publisher, 0);
    let punted = world.punts.receive(|port, bytes| (port, bytes.to_vec()));
    assert_eq!(punted, Some((0, to_kernel)));
    assert_eq!(world.port(0).punted.get(), 1);
    let frames = sent(&mut world, 1);
    assert!(frames.contains(&b"a frame that the kernel made, of some length".to_vec()));
    assert_eq!(
        world.port(1).originated[Originated::Kernel as usize].get(),
        1
    );
}

#[test]
fn what_the_ring_refuses_is_dropped_where_it_came_in() {
    let publisher = Publisher::new(world::generation(&world::config(), None));
    let memory = MemConfig {
        tx_ring: 4,
        ..MemConfig::default()
    };
    let mut world = World::new(memory, &publisher.current());
    for port in 0..10 {
        let packet = PacketBuilder::between("10.9.0.1", "192.0.2.10").udp(4000 + port, 53);
        world.lcore.ports_mut()[0]
            .inject(&world::from_client(packet))
            .expect("room");
    }
    turn(&mut world, &publisher, 0);
    // Forwarded frames were queued before the announcements.
    assert_eq!(world.port(0).forwarded.get(), 4);
    assert_eq!(world.port(1).forwarded_in.get(), 4);
    assert_eq!(world.port(0).drops.of(DropReason::TxFull).get(), 6);
    assert_eq!(
        world.port(1).originated_lost.get(),
        3,
        "announcements found no room either"
    );
    let sent_bytes: usize = sent(&mut world, 1).iter().map(Vec::len).sum();
    assert_eq!(world.port(1).tx_bytes.get(), sent_bytes as u64);
    assert_eq!(
        world.lcore.ports_mut()[0].census().frames,
        world_tx_frames(&mut world)
    );
}

/// Frames that still lie in transmit rings: port 0's announcements.
fn world_tx_frames(world: &mut World) -> usize {
    usize::try_from(world.port(0).tx_frames.get()).expect("few")
}

#[test]
fn bursts_and_bytes_are_counted() {
    let (mut world, publisher) = world();
    let frame = world::from_client(PacketBuilder::between("10.9.0.1", "192.0.2.10").udp(4000, 53));
    for _ in 0..100 {
        world.lcore.ports_mut()[0].inject(&frame).expect("room");
    }
    turn(&mut world, &publisher, 0);
    turn(&mut world, &publisher, 0);
    assert_eq!(world.port(0).rx_frames.get(), 100);
    assert_eq!(world.port(0).rx_bytes.get(), 100 * frame.len() as u64);
    let bursts: Vec<u64> = world
        .counters
        .bursts
        .iter()
        .map(march_pipeline::Counter::get)
        .collect();
    assert_eq!(bursts, [0, 0, 0, 0, 0, 1, 1], "one of 64, one of 36");
    assert_eq!(world.counters.empty_polls.get(), 2, "port 1, twice");
}

#[test]
fn more_than_one_queue_holds_leaves_in_several_bursts() {
    let mut config = world::config();
    let mut ports = config.ports.to_vec();
    ports.extend(vec![ports[0].clone(); 9]);
    config.ports = ports.into();
    let publisher = Publisher::new(world::generation(&config, None));
    let mut world = World::new(MemConfig::default(), &publisher.current());
    let ingress: Vec<usize> = (0..11).filter(|port| *port != 1).collect();
    for port in &ingress {
        for number in 0..64 {
            let source = 1000 + 64 * u16::try_from(*port).expect("small") + number;
            let packet = PacketBuilder::between("10.9.0.1", "192.0.2.10").udp(source, 53);
            let frame = world::from_client(packet);
            world.lcore.ports_mut()[*port].inject(&frame).expect("room");
        }
    }
    turn(&mut world, &publisher, 0);
    assert_eq!(world.port(1).forwarded_in.get(), 640);
    assert!(
        ingress
            .iter()
            .all(|port| world.port(*port).forwarded.get() == 64)
    );
}

#[test]
fn a_port_that_is_not_here_gets_nothing() {
    let publisher = Publisher::new(world::generation(&world::config(), None));
    let mut world = World::new(MemConfig::default(), &publisher.current());
    let mut config = world::config();
    let mut ports = config.ports.to_vec();
    ports.push(ports[1].clone());
    config.ports = ports.into();
    let mut routes = config.routes.to_vec();
    routes[2].target = march_tables::RouteTarget::Connected { port: 2 };
    config.routes = routes.into();
    let mut neighbours = config.neighbours.to_vec();
    neighbours
        .iter_mut()
        .filter(|hop| hop.port == 1)
        .for_each(|hop| hop.port = 2);
    config.neighbours = neighbours.into();
    let next = std::sync::Arc::new(world::generation(&config, Some(&publisher.current())));
    let packet = PacketBuilder::between("10.9.0.1", "192.0.2.10").udp(4000, 53);
    world.lcore.ports_mut()[0]
        .inject(&world::from_client(packet))
        .expect("room");
    world.lcore.turn(&next, Now { ms: 0 });
    world.assert_balanced();
    assert_eq!(world.port(0).drops.of(DropReason::NoRoute).get(), 1);
}
