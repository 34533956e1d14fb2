//! Marks, copies and limits: on the first packet and on those that follow.

use march_tables::{Limit, LimitScope, LimitUnit, Mirror, Treatment};

use super::actions::{from_backend, rule, transit, with_rules};
use super::*;

/// Everything goes, treated like this.
fn treated(treatment: Treatment) -> World {
    with_rules(&[Rule {
        treatment,
        ..rule("all", Action::Allow)
    }])
}

fn limited(scope: LimitScope, unit: LimitUnit, per_second: u64, burst: u64) -> World {
    let mut world = treated(Treatment {
        limit: Some(1),
        ..Treatment::default()
    });
    let limit = Limit {
        name: "limit".into(),
        scope,
        unit,
        per_second,
        burst,
    };
    world.change(|config| config.limits = [Limit::vacant(), limit].into());
    world
}

fn sent_of(world: &mut World, packet: &PacketBuilder, tries: usize) -> usize {
    (0..tries)
        .filter(|_| match world.send(0, &packet.build()).0 {
            Verdict::Forward { .. } => true,
            Verdict::Drop(DropReason::RateLimited) => false,
            other => panic!("{other:?}"),
        })
        .count()
}

#[test]
fn a_mark_is_written_into_the_openers_packets_and_ecn_stays() {
    let mark = Treatment {
        mark: Some(46),
        ..Treatment::default()
    };
    for ends in ENDS {
        let mut world = treated(mark);
        for packet in [from_client(ends), transit(ends)] {
            // The first takes the slow path, the rest the fast one.
            for ecn in 0..4 {
                let packet = packet.clone().udp(4_000, 53).tos(10 << 2 | ecn);
                let sent = world.forwarded(0, &packet, 1);
                assert_eq!(parsed(&sent).tos, 46 << 2 | ecn);
                tuple_of(&sent);
            }
        }
        let back = from_backend(ends, ends.client).udp(53, 4_000).tos(0x29);
        for _ in 0..2 {
            let reply = world.forwarded(1, &back, 0);
            assert_eq!(parsed(&reply).tos, 0x29, "answers keep theirs");
        }
        // The flow label of IPv6 and every other bit stay.
        let plain = with_rules(&[rule("all", Action::Allow)]).forwarded(
            0,
            &transit(ends).udp(4_000, 53).tos(46 << 2),
            1,
        );
        let marked = treated(mark).forwarded(0, &transit(ends).udp(4_000, 53), 1);
        assert_eq!(plain, marked);
    }
}

#[test]
fn copies_are_made_of_both_directions_as_they_came_in() {
    let mirror = Mirror {
        port: 1,
        per_second: 4,
    };
    for ends in ENDS {
        let mut world = treated(Treatment {
            mirror: Some(mirror),
            ..Treatment::default()
        });
        let out = from_client(ends).udp(4_000, 53);
        let sent = world.forwarded(0, &out, 1);
        let (_, _, nat_port, _) = tuple_of(&sent);
        let back = from_backend(ends, ends.nat).udp(8_080, nat_port);
        world.forwarded(1, &back, 0);
        world.forwarded(0, &out, 1);
        let expected: Vec<_> = [&out, &back, &out].map(|packet| (1, packet.build())).into();
        assert_eq!(world.copies.made, expected);

        // What is dropped or answered is not copied.
        world.send(0, &out.clone().ttl(1).build());
        assert_eq!(world.copies.made.len(), 3);
        for _ in 0..10 {
            world.forwarded(0, &out, 1);
        }
        assert_eq!(world.copies.made.len(), 4, "four a second");
        let lost = |world: &World| world.pipeline.counters().ports[1].mirror_lost.get();
        assert_eq!(lost(&world), 9);
        world.now.ms += 250;
        world.copies.is_dry = true;
        world.forwarded(0, &out, 1);
        assert_eq!((world.copies.made.len(), lost(&world)), (4, 10));
    }
}

#[test]
fn a_limit_holds_both_directions_and_lets_nothing_open_beyond_it() {
    for ends in ENDS {
        let mut world = limited(LimitScope::Shared, LimitUnit::Packets, 10, 5);
        let out = transit(ends).udp(4_000, 53);
        world.forwarded(0, &out, 1);
        let back = from_backend(ends, ends.client).udp(53, 4_000);
        world.forwarded(1, &back, 0);
        assert_eq!(sent_of(&mut world, &out, 10), 3);
        world.dropped(1, &back, DropReason::RateLimited);
        world.dropped(0, &transit(ends).udp(4_001, 53), DropReason::RateLimited);
        let flows: usize = world.pipeline.flows().iter().sum();
        assert_eq!(flows, 1, "what is beyond the limit leaves no flow");
        world.now.ms += 300;
        assert_eq!(sent_of(&mut world, &out, 10), 3);
        // Another rate does not forget what was used up.
        world.change(|config| {
            let mut limits = config.limits.to_vec();
            limits[1].burst = 6;
            config.limits = limits.into();
        });
        assert_eq!(sent_of(&mut world, &out, 10), 1);
        assert_eq!(world.pipeline.counters().flows.rechecked.get(), 0);
    }
}

#[test]
fn limits_are_shared_by_whom_they_say() {
    for ends in ENDS {
        let (v4, v6) = (32, 128);
        for (scope, expected) in [
            (LimitScope::Shared, [4, 0, 0]),
            (LimitScope::Source { v4, v6 }, [4, 0, 4]),
            (LimitScope::Service, [4, 4, 0]),
        ] {
            let mut world = limited(scope, LimitUnit::Packets, 1, 4);
            let other = if ends.client.contains(':') {
                "2001:db8:1::8"
            } else {
                "198.51.100.8"
            };
            let other = PacketBuilder::between(other, ends.vip).macs(CLIENT_MAC, LAN_MAC);
            let sent = [
                sent_of(&mut world, &from_client(ends).udp(4_000, 53), 9),
                sent_of(&mut world, &transit(ends).udp(4_000, 53), 9),
                sent_of(&mut world, &other.udp(4_000, 53), 9),
            ];
            assert_eq!(sent, expected, "{scope:?}");
        }
    }
}

#[test]
fn bits_are_those_of_the_frame_as_it_came_in() {
    for ends in ENDS {
        let packet = transit(ends).udp(4_000, 53).payload(&[0; 958]);
        let bits = packet.build().len() as u64 * 8;
        let mut world = limited(LimitScope::Shared, LimitUnit::Bits, bits, bits * 3);
        assert_eq!(sent_of(&mut world, &packet, 9), 3);
        world.now.ms += 1_000;
        assert_eq!(sent_of(&mut world, &packet, 9), 1);
    }
}

#[test]
fn a_frame_that_waits_is_neither_charged_nor_copied() {
    for ends in ENDS {
        let mut world = limited(LimitScope::Shared, LimitUnit::Packets, 1, 1);
        world.change(|config| config.neighbours = [].into());
        let packet = transit(ends).udp(4_000, 53);
        assert_eq!(world.send(0, &packet.build()).0, Verdict::Hold);
        world.change(|config| config.neighbours = super::config().neighbours);
        world.forwarded(0, &packet, 1);
    }
}
