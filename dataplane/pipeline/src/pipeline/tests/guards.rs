//! What stands before the flow table, and what services let clients open.

use march_tables::{
    AddressSet, Guard, Limit, LimitScope, LimitUnit, PrefixSet, ServiceLimits, SetId,
};
use march_wire::arp;

use super::*;

fn set(name: &str, prefixes: &[&str]) -> AddressSet {
    let prefixes: Vec<_> = prefixes.iter().map(|text| text.parse().unwrap()).collect();
    let mut content = [0; 32];
    content[..name.len()].copy_from_slice(name.as_bytes());
    AddressSet {
        name: name.into(),
        content,
        prefixes: Arc::new(PrefixSet::new(&prefixes)),
    }
}

/// A world whose port 0 has a guard over the sets "bad" (the clients' networks) and "good" (the clients).
fn guarded(block: &[SetId], allow: &[SetId], per_second: Option<u64>) -> World {
    let mut config = config();
    config.sets = [
        set("bad", &["198.51.100.0/24", "2001:db8:1::/64"]),
        set("good", &["198.51.100.7/32", "2001:db8:1::7/128"]),
    ]
    .into();
    config.limits = [Limit {
        name: "each".into(),
        scope: LimitScope::Source { v4: 32, v6: 128 },
        unit: LimitUnit::Packets,
        per_second: per_second.unwrap_or(1),
        burst: per_second.unwrap_or(1),
    }]
    .into();
    let mut ports = config.ports.to_vec();
    ports[0].guard = Guard {
        block: block.to_vec(),
        allow: allow.to_vec(),
        per_source: per_second.map(|_| 0),
    };
    config.ports = ports.into();
    World::with(config)
}

fn with_limits(limits: ServiceLimits) -> World {
    let mut config = config();
    config.services = config
        .services
        .iter()
        .map(|service| Service {
            limits,
            ..service.clone()
        })
        .collect();
    World::with(config)
}

#[test]
fn a_blocked_source_gets_nowhere_whatever_it_sends() {
    for ends in ENDS {
        let mut open = guarded(&[], &[0], None);
        open.forwarded(0, &from_client(ends).tcp(4_000, 80, SYN), 1);
        let mut world = guarded(&[0], &[], None);
        let to_port =
            |address| PacketBuilder::between(ends.client, address).macs(CLIENT_MAC, LAN_MAC);
        let (own, echo) = if ends.client.contains(':') {
            ("2001:db8:1::1", 128)
        } else {
            ("198.51.100.1", 8)
        };
        for packet in [
            from_client(ends).tcp(4_000, 80, SYN),
            from_client(ends).udp(4_000, 53),
            from_client(ends).tcp(4_000, 80, SYN).vlan(100),
            from_client(ends).icmp(echo, 0, 1),
            to_port(own).tcp(4_000, 22, SYN),
            to_port(own).udp(4_000, 9),
        ] {
            world.dropped(0, &packet, DropReason::Blocked);
        }
        // The other port has no guard.
        let (verdict, _) = world.send(1, &to_port(own).macs(CLIENT_MAC, WAN_MAC).udp(1, 9).build());
        assert_ne!(verdict, Verdict::Drop(DropReason::Blocked));
    }
}

#[test]
fn an_established_flow_of_a_source_blocked_since_stops() {
    for ends in ENDS {
        let mut world = guarded(&[], &[], None);
        world.forwarded(0, &from_client(ends).udp(4_000, 53), 1);
        world.forwarded(0, &from_client(ends).udp(4_000, 53), 1);
        world.change(|config| {
            let mut ports = config.ports.to_vec();
            ports[0].guard.block = vec![0];
            config.ports = ports.into();
        });
        world.dropped(0, &from_client(ends).udp(4_000, 53), DropReason::Blocked);
    }
}

#[test]
fn what_links_need_is_never_held_up() {
    let mut world = guarded(&[0], &[], None);
    let mut request = vec![0; 60];
    arp::request(
        &mut request,
        CLIENT_MAC,
        "198.51.100.7".parse().unwrap(),
        "198.51.100.1".parse().unwrap(),
    );
    let (verdict, _) = world.send(0, &request);
    assert_eq!(verdict, Verdict::Punt);
    let probe = PacketBuilder::between("2001:db8:1::7", "2001:db8:1::1").macs(CLIENT_MAC, LAN_MAC);
    let mut target = [0; 16];
    target.copy_from_slice(
        &"2001:db8:1::1"
            .parse::<core::net::Ipv6Addr>()
            .unwrap()
            .octets(),
    );
    let probe = probe.ttl(255).payload(&target).icmp(135, 0, 0);
    assert_eq!(world.send(0, &probe.build()).0, Verdict::Punt);
    let forged = probe.ttl(254);
    assert_eq!(
        world.send(0, &forged.build()).0,
        Verdict::Drop(DropReason::Blocked)
    );
}

#[test]
fn the_longer_prefix_decides() {
    for ends in ENDS {
        let mut world = guarded(&[0], &[1], Some(1));
        for port in 4_000..4_010 {
            // Allowed sources have no rate either.
            world.forwarded(0, &from_client(ends).udp(port, 53), 1);
        }
    }
}

#[test]
fn each_source_has_its_rate_over_all_it_sends() {
    for ends in ENDS {
        let mut world = guarded(&[], &[], Some(10));
        let mut passed = 0;
        for number in 0..20 {
            // One flow, its own packets by the fast path, others, and the kernel's.
            let packet = match number % 3 {
                0 | 1 => from_client(ends).udp(4_000, 53),
                _ => from_client(ends).tcp(4_000, 80, RST),
            };
            let (verdict, _) = world.send(0, &packet.build());
            passed += u32::from(verdict != Verdict::Drop(DropReason::SourceRate));
        }
        assert_eq!(passed, 10);
        let other = if ends.client.contains(':') {
            "2001:db8:1::8"
        } else {
            "198.51.100.8"
        };
        let packet = PacketBuilder::between(other, ends.vip).macs(CLIENT_MAC, LAN_MAC);
        world.forwarded(0, &packet.udp(4_000, 53), 1);
        world.now.ms += 100;
        world.forwarded(0, &from_client(ends).udp(4_000, 53), 1);
        world.dropped(0, &from_client(ends).udp(4_000, 53), DropReason::SourceRate);
    }
}

/// A whole burst, mixed: what is dropped leaves the rest as it was.
#[test]
fn a_burst_is_screened_frame_by_frame() {
    let mut world = guarded(&[0], &[1], None);
    let strangers = ["198.51.100.8", "203.0.113.1", "198.51.100.7"];
    let mut frames: Vec<TestFrame> = (0..64_u16)
        .map(|number| {
            let from = strangers[usize::from(number) % 3];
            let packet = PacketBuilder::between(from, "192.0.2.10").macs(CLIENT_MAC, LAN_MAC);
            let packet = packet.udp(5_000 + number, 53);
            TestFrame::new(
                &if number % 2 == 0 {
                    packet
                } else {
                    packet.vlan(7)
                }
                .build(),
            )
        })
        .collect();
    let mut verdicts = vec![Verdict::Hold; 64];
    let (generation, now) = (&world.generation, world.now);
    world.pipeline.process(
        generation,
        now,
        0,
        &mut frames,
        &mut verdicts,
        &mut world.copies,
    );
    for (number, verdict) in verdicts.iter().enumerate() {
        let expected = match number % 3 {
            0 => Verdict::Drop(DropReason::Blocked),
            _ => Verdict::Forward { port: 1 },
        };
        let is_exhausted = *verdict == Verdict::Drop(DropReason::NatExhausted);
        assert!(
            *verdict == expected || number % 3 != 0 && is_exhausted,
            "{number}: {verdict:?}"
        );
    }
}

#[test]
fn a_service_takes_so_many_new_flows_a_second() {
    for ends in ENDS {
        let mut world = with_limits(ServiceLimits {
            new_per_second: 5,
            half_open: 0,
        });
        for port in 4_000..4_005 {
            world.forwarded(0, &from_client(ends).tcp(port, 80, SYN), 1);
        }
        let late = from_client(ends).tcp(4_005, 80, SYN);
        world.dropped(0, &late, DropReason::NewConnectionRate);
        // A flow that exists is not new, and another service has its own.
        world.forwarded(0, &from_client(ends).tcp(4_000, 80, SYN), 1);
        world.forwarded(0, &from_client(ends).udp(4_000, 53), 1);
        world.now.ms += 200;
        world.forwarded(0, &late, 1);
        world.dropped(
            0,
            &from_client(ends).tcp(4_006, 80, SYN),
            DropReason::NewConnectionRate,
        );
    }
}

#[test]
fn a_burst_of_first_packets_is_held_to_the_limit_too() {
    let mut world = with_limits(ServiceLimits {
        new_per_second: 100,
        half_open: 7,
    });
    let mut frames: Vec<TestFrame> = (0..30)
        .map(|port| TestFrame::new(&from_client(ENDS[0]).tcp(4_000 + port, 80, SYN).build()))
        .collect();
    let mut verdicts = vec![Verdict::Hold; 30];
    let (generation, now) = (&world.generation, world.now);
    world.pipeline.process(
        generation,
        now,
        0,
        &mut frames,
        &mut verdicts,
        &mut world.copies,
    );
    let refused = Verdict::Drop(DropReason::HalfOpenLimit);
    assert!(
        verdicts[..7]
            .iter()
            .all(|verdict| *verdict == Verdict::Forward { port: 1 })
    );
    assert!(verdicts[7..].iter().all(|verdict| *verdict == refused));
}

#[test]
fn handshakes_under_way_are_bounded_and_counted() {
    for (ends, service) in ENDS.into_iter().zip([0, 1]) {
        let mut world = with_limits(ServiceLimits {
            new_per_second: 0,
            half_open: 2,
        });
        let half_open = |world: &World| world.pipeline.counters().services[service].half_open.get();
        let first = world.forwarded(0, &from_client(ends).tcp(4_000, 80, SYN), 1);
        world.forwarded(0, &from_client(ends).tcp(4_001, 80, SYN), 1);
        assert_eq!(half_open(&world), 2);
        let third = from_client(ends).tcp(4_002, 80, SYN);
        world.dropped(0, &third, DropReason::HalfOpenLimit);
        // Datagrams have no handshake.
        world.forwarded(0, &from_client(ends).udp(4_000, 53), 1);
        let (_, _, nat_port, _) = tuple_of(&first);
        world.forwarded(1, &answer_from_backend(ends, nat_port), 0);
        assert_eq!(half_open(&world), 2);
        world.forwarded(0, &from_client(ends).tcp(4_000, 80, ACK), 1);
        assert_eq!(half_open(&world), 1);
        world.forwarded(0, &third, 1);
        world.dropped(
            0,
            &from_client(ends).tcp(4_003, 80, SYN),
            DropReason::HalfOpenLimit,
        );
        // One is given up by its client, the other by time.
        world.forwarded(0, &from_client(ends).tcp(4_001, 80, RST), 1);
        assert_eq!(half_open(&world), 1);
        for _ in 0..64 {
            world.now.ms += 1_000;
            world.pipeline.expire(&world.generation, world.now);
            world.forwarded(0, &from_client(ends).tcp(4_000, 80, ACK), 1);
        }
        assert_eq!(half_open(&world), 0);
    }
}

#[test]
fn a_flow_moves_to_the_large_table_once_it_is_established() {
    for ends in ENDS {
        let mut world = World::new();
        let tables = |world: &World| {
            let flows = [
                (
                    world.pipeline.v4.flows.settled().len(),
                    world.pipeline.v4.flows.embryonic().len(),
                ),
                (
                    world.pipeline.v6.flows.settled().len(),
                    world.pipeline.v6.flows.embryonic().len(),
                ),
            ];
            flows[usize::from(ends.client.contains(':'))]
        };
        let syn = world.forwarded(0, &from_client(ends).tcp(4_000, 80, SYN), 1);
        let (_, _, nat_port, _) = tuple_of(&syn);
        world.forwarded(1, &answer_from_backend(ends, nat_port), 0);
        assert_eq!(tables(&world), (0, 1));
        world.forwarded(0, &from_client(ends).tcp(4_000, 80, ACK), 1);
        assert_eq!(tables(&world), (1, 0));
        // One that ends before it began does not.
        world.forwarded(0, &from_client(ends).tcp(4_001, 80, SYN), 1);
        world.forwarded(0, &from_client(ends).tcp(4_001, 80, FIN | ACK), 1);
        assert_eq!(tables(&world), (1, 1));
        assert_eq!(world.pipeline.flows().iter().sum::<usize>(), 2);
        for _ in 0..70 {
            world.now.ms += 1_000;
            world.pipeline.expire(&world.generation, world.now);
        }
        assert_eq!(tables(&world), (1, 0));
    }
}

#[test]
fn handshakes_have_less_time_while_there_is_a_flood_of_them() {
    let mut world = World::new();
    let flows = |world: &World, of: fn(&crate::FlowCounters) -> &[crate::Counter; 2]| {
        of(&world.pipeline.counters().flows)[0].get()
    };
    let pass = |world: &mut World, ms: u32| {
        for _ in 0..ms / 10 {
            world.now.ms += 10;
            world.pipeline.expire(&world.generation, world.now);
        }
    };
    for port in 0..2_047 {
        world.forwarded(0, &from_client(ENDS[0]).tcp(1_024 + port, 81, SYN), 1);
    }
    pass(&mut world, 10);
    assert_eq!(flows(&world, |flows| &flows.flood_mode), 0);
    world.forwarded(0, &from_client(ENDS[0]).tcp(9_000, 81, SYN), 1);
    pass(&mut world, 10);
    assert_eq!(flows(&world, |flows| &flows.flood_mode), 1, "half of 4096");
    pass(&mut world, 2_900);
    assert_eq!(flows(&world, |flows| &flows.embryonic), 2_048);
    pass(&mut world, 2_500);
    let left = flows(&world, |flows| &flows.embryonic);
    assert!(left <= 1_024, "{left}");
    assert_eq!(
        flows(&world, |flows| &flows.flood_mode),
        0,
        "less than a quarter"
    );
    // The rest has the service's own time.
    pass(&mut world, 10_000);
    assert!(flows(&world, |flows| &flows.embryonic) > 0);
    pass(&mut world, 20_000);
    assert_eq!(flows(&world, |flows| &flows.embryonic), 0);
}

#[test]
fn strangers_share_of_the_kernel_is_bounded() {
    let mut world = guarded(&[], &[1], None);
    let to_box = |from| PacketBuilder::between(from, "198.51.100.1").macs(CLIENT_MAC, LAN_MAC);
    let mut punted = 0;
    for port in 0..4_000 {
        let (verdict, _) = world.send(0, &to_box("203.0.113.5").tcp(port + 1_000, 22, SYN).build());
        match verdict {
            Verdict::Punt => punted += 1,
            verdict => assert_eq!(verdict, Verdict::Drop(DropReason::PuntRate)),
        }
    }
    assert_eq!(punted, 2_000);
    for (packet, passes, has_right) in [
        (to_box("203.0.113.5").tcp(1_000, 22, ACK), true, false),
        (to_box("198.51.100.7").tcp(1_000, 22, SYN), true, true),
        (to_box("198.51.100.8").udp(1_000, 161), false, false),
        (
            to_box("198.51.100.8").udp(1_000, 3_784).ttl(255),
            true,
            true,
        ),
    ] {
        let (verdict, _) = world.send(0, &packet.build());
        assert_eq!(verdict == Verdict::Punt, passes);
        assert_eq!(world.pipeline.has_right_to_pass(0), has_right);
    }
    world.now.ms += 1;
    let passed = (0..100).filter(|port| {
        let packet = to_box("203.0.113.5").udp(1_000 + port, 9);
        world.send(0, &packet.build()).0 == Verdict::Punt
    });
    assert_eq!(passed.count(), 20);
}
