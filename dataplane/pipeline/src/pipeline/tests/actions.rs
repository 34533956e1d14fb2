//! What each action of a rule does with a packet that opens something.

use march_tables::{Redirect, SourceNat, Stance, Treatment};
use march_wire::parse::L4;

use super::*;

/// A rule for everything, with this action.
pub(super) fn rule(name: &str, action: Action) -> Rule {
    Rule {
        name: name.into(),
        priority: 10,
        action,
        ..Rule::vacant()
    }
}

/// The same, for TCP or UDP packets to one port.
pub(super) fn rule_for_port(name: &str, action: Action, port: u16) -> Rule {
    Rule {
        ports: vec![PortRange {
            first: port,
            last: port,
        }],
        ..rule(name, action)
    }
}

pub(super) fn with_rules(rules: &[Rule]) -> World {
    let mut world = World::new();
    world.change(|config| config.rules = rules.to_vec().into());
    world
}

/// A packet from the client straight to the backend.
pub(super) fn transit(ends: Ends) -> PacketBuilder {
    PacketBuilder::between(ends.client, ends.backend)
        .macs(CLIENT_MAC, LAN_MAC)
        .payload(b"hello, world")
}

pub(super) fn from_backend(ends: Ends, to: &str) -> PacketBuilder {
    PacketBuilder::between(ends.backend, to)
        .macs(BACKEND_MAC, WAN_MAC)
        .payload(b"and hello to you")
}

pub(super) fn masquerade() -> Rule {
    Rule {
        treatment: Treatment {
            source_nat: SourceNat::Masquerade,
            ..Treatment::default()
        },
        ..rule("out", Action::Allow)
    }
}

fn echo(ends: Ends, packet: PacketBuilder, is_request: bool, id: u16) -> PacketBuilder {
    let kind = match (ends.client.contains(':'), is_request) {
        (false, true) => 8,
        (false, false) => 0,
        (true, true) => 128,
        (true, false) => 129,
    };
    packet.icmp(kind, 0, u32::from(id) << 16 | 1)
}

/// The identifier of an echo message.
fn echo_id(bytes: &[u8]) -> u16 {
    match parsed(bytes).l4 {
        L4::Icmp { id, .. } => id,
        other => panic!("{other:?}"),
    }
}

#[test]
fn reject_answers_and_beyond_the_rate_drops() {
    for ends in ENDS {
        let mut world = with_rules(&[rule("no", Action::Reject)]);
        for packet in [from_client(ends), transit(ends)] {
            let (verdict, bytes) = world.send(0, &packet.clone().tcp(4_000, 80, SYN).build());
            assert_eq!(verdict, Verdict::Answer { port: 0 });
            let L4::Tcp { flags, .. } = parsed(&bytes).l4 else {
                panic!("a segment");
            };
            assert_eq!(flags, RST | ACK);

            let (verdict, bytes) = world.send(0, &packet.clone().udp(4_000, 53).build());
            assert_eq!(verdict, Verdict::Answer { port: 0 });
            let L4::Icmp { kind, code, .. } = parsed(&bytes).l4 else {
                panic!("an error");
            };
            let expected = if ends.client.contains(':') {
                (1, 1)
            } else {
                (3, 13)
            };
            assert_eq!((kind, code), expected, "administratively prohibited");
            world.dropped(0, &packet.tcp(4_000, 80, RST), DropReason::RuleDrop);
        }
        let counters = world.pipeline.counters();
        assert_eq!(counters.rules[0].get(), 6);
        assert_eq!(counters.flows.created.get(), 0);

        let udp = from_client(ends).udp(4_000, 53);
        let answered = (0..1_100)
            .filter(|_| world.send(0, &udp.build()).0 == Verdict::Answer { port: 0 })
            .count();
        assert_eq!(answered, 998, "two of a thousand are gone");
        world.dropped(0, &udp, DropReason::RuleDrop);
    }
}

#[test]
fn punt_gives_to_the_kernel_what_is_not_addressed_to_it() {
    for ends in ENDS {
        let mut world = with_rules(&[rule("kernel", Action::Punt)]);
        for packet in [from_client(ends), transit(ends)] {
            let before = packet.udp(4_000, 53).build();
            assert_eq!(world.send(0, &before), (Verdict::Punt, before));
        }
        assert_eq!(world.pipeline.counters().flows.created.get(), 0);
    }
}

#[test]
fn what_no_rule_decides_goes_as_the_port_says() {
    for ends in ENDS {
        for rules in [&[][..], &[rule("seen", Action::Count)]] {
            let mut world = with_rules(rules);
            world.forwarded(0, &from_client(ends).udp(4_000, 53), 1);
            world.dropped(0, &transit(ends).udp(4_000, 53), DropReason::NoService);
            world.change(|config| {
                let mut ports = config.ports.to_vec();
                ports[0].unmatched.services = Stance::Deny;
                ports[0].unmatched.transit = Stance::Allow;
                config.ports = ports.into();
            });
            world.dropped(
                0,
                &from_client(ends).udp(4_001, 53),
                DropReason::DefaultDeny,
            );
            world.forwarded(0, &transit(ends).udp(4_001, 53), 1);
            // The other port has its own default.
            world.dropped(
                1,
                &from_backend(ends, ends.client).udp(9, 9),
                DropReason::NoService,
            );
            // The flow of before is judged by what its port says now.
            world.dropped(
                0,
                &from_client(ends).udp(4_000, 53),
                DropReason::PolicyChanged,
            );
            let counted: u64 = world.pipeline.counters().rules[0].get();
            assert_eq!(counted, if rules.is_empty() { 0 } else { 6 });
        }
    }
}

#[test]
fn redirect_to_a_service_is_as_if_sent_to_it() {
    for (number, ends) in (0..).zip(ENDS) {
        // Services 2 and 3 are "dns", UDP port 53.
        let to_dns = Action::Redirect(Redirect::Service(2 + number));
        let mut world = with_rules(&[rule("dns", to_dns)]);
        for (number, packet) in (4_000..).zip([from_client(ends), transit(ends)]) {
            let sent = world.forwarded(0, &packet.clone().udp(number, 9_999), 1);
            let (src, dst, nat_port, dst_port) = tuple_of(&sent);
            assert_eq!(
                (src, dst, dst_port),
                (ip(ends.nat), ip(ends.backend), 8_080)
            );
            let back = from_backend(ends, ends.nat).udp(8_080, nat_port);
            let reply = world.forwarded(1, &back, 0);
            let asked = parsed(&packet.clone().udp(1, 1).build());
            let (_, asked) = asked
                .ip_addresses(packet.udp(1, 1).build().as_slice())
                .unwrap();
            assert_eq!(
                tuple_of(&reply),
                (asked, ip(ends.client), 9_999, number),
                "from whom the client asked"
            );
        }
        let counters = world.pipeline.counters();
        let service = &counters.services[usize::from(2 + number)];
        assert_eq!(service.flows.get(), 2);
        world.dropped(
            0,
            &transit(ends).tcp(4_000, 53, SYN),
            DropReason::UnsupportedProtocol,
        );
        let other_family = Action::Redirect(Redirect::Service(3 - number));
        world.change(|config| config.rules = [rule("dns", other_family)].into());
        world.dropped(
            0,
            &transit(ends).udp(4_009, 53),
            DropReason::UnsupportedProtocol,
        );
        let nobody = Action::Redirect(Redirect::Service(999));
        world.change(|config| config.rules = [rule("dns", nobody)].into());
        world.dropped(0, &transit(ends).udp(4_010, 53), DropReason::NoService);
    }
}

#[test]
fn redirect_to_an_address_rewrites_the_destination_alone() {
    for ends in ENDS {
        let redirect = Redirect::Address {
            address: ip(ends.backend),
            port: 9_000,
        };
        let mut world = with_rules(&[rule("there", Action::Redirect(redirect))]);
        let packet = from_client(ends).tcp(4_000, 80, SYN);
        let sent = world.forwarded(0, &packet, 1);
        assert_eq!(
            tuple_of(&sent),
            (ip(ends.client), ip(ends.backend), 4_000, 9_000)
        );
        let back = from_backend(ends, ends.client).tcp(9_000, 4_000, SYN | ACK);
        let reply = world.forwarded(1, &back, 0);
        assert_eq!(tuple_of(&reply), (ip(ends.vip), ip(ends.client), 80, 4_000));
        // Another port of the same address is another flow with the same answers.
        world.dropped(
            0,
            &from_client(ends).tcp(4_000, 81, SYN),
            DropReason::NatExhausted,
        );
        world.dropped(
            0,
            &from_client(ends).tcp(4_001, 80, ACK),
            DropReason::NoFlow,
        );

        let kept = Redirect::Address {
            address: ip(ends.backend),
            port: 0,
        };
        world.change(|config| config.rules = [rule("there", Action::Redirect(kept))].into());
        let sent = world.forwarded(0, &from_client(ends).udp(4_002, 53), 1);
        assert_eq!(
            tuple_of(&sent),
            (ip(ends.client), ip(ends.backend), 4_002, 53)
        );

        let (other, _) = ENDS
            .iter()
            .partition::<Vec<Ends>, _>(|other| other.vip != ends.vip);
        let foreign = Redirect::Address {
            address: ip(other[0].backend),
            port: 0,
        };
        world.change(|config| config.rules = [rule("there", Action::Redirect(foreign))].into());
        world.dropped(
            0,
            &from_client(ends).udp(4_003, 53),
            DropReason::UnsupportedProtocol,
        );
    }
}

#[test]
fn redirect_to_a_port_goes_to_the_neighbour_on_that_link() {
    for ends in ENDS {
        // Routes lead the client's addresses out of port 0; the neighbour on port 1 has one of them too.
        let redirect = Redirect::Port(1);
        let mut world = with_rules(&[rule("there", Action::Redirect(redirect))]);
        let target = if ends.client.contains(':') {
            "2001:db8:1::99"
        } else {
            "198.51.100.99"
        };
        let packet = PacketBuilder::between(ends.client, target)
            .macs(CLIENT_MAC, LAN_MAC)
            .udp(4_000, 53);
        let before = packet.build();
        assert_eq!(world.send(0, &before), (Verdict::Hold, before));
        let asked: Vec<ResolveRequest> = world.pipeline.take_requests().collect();
        let address = ip(target);
        assert_eq!(asked, [ResolveRequest { port: 1, address }]);
        assert_eq!(world.pipeline.flows(), [0, 0]);

        world.change(|config| {
            let mut neighbours = config.neighbours.to_vec();
            neighbours.push(MirroredNeighbour {
                port: 1,
                address,
                mac: BACKEND_MAC,
            });
            config.neighbours = neighbours.into();
        });
        for _ in 0..3 {
            let sent = world.forwarded(0, &packet, 1);
            assert_eq!(tuple_of(&sent), (ip(ends.client), address, 4_000, 53));
            assert_eq!(sent[..12], [BACKEND_MAC, WAN_MAC].concat());
        }
        let back = PacketBuilder::between(target, ends.client)
            .macs(BACKEND_MAC, WAN_MAC)
            .udp(53, 4_000);
        world.forwarded(1, &back, 0);

        let nowhere = Action::Redirect(Redirect::Port(9));
        world.change(|config| config.rules = [rule("there", nowhere)].into());
        world.dropped(0, &transit(ends).udp(4_001, 53), DropReason::NoRoute);
    }
}

#[test]
fn masquerade_translates_the_source_and_restores_answers() {
    for ends in ENDS {
        let mut world = with_rules(&[masquerade()]);
        let sent = world.forwarded(0, &transit(ends).tcp(4_000, 80, SYN), 1);
        let (src, dst, nat_port, dst_port) = tuple_of(&sent);
        assert_eq!((src, dst, dst_port), (ip(ends.nat), ip(ends.backend), 80));
        assert!((20_000..=20_063).contains(&nat_port));
        let back = from_backend(ends, ends.nat).tcp(80, nat_port, SYN | ACK);
        let reply = world.forwarded(1, &back, 0);
        assert_eq!(
            tuple_of(&reply),
            (ip(ends.backend), ip(ends.client), 80, 4_000)
        );

        // An error about the translated packet goes to its sender, as if about the packet that it sent.
        let about = PacketBuilder::between(ends.nat, ends.backend).tcp(nat_port, 80, ACK);
        let kind = if ends.client.contains(':') { 1 } else { 3 };
        let error = PacketBuilder::between(ends.backend, ends.nat)
            .macs(BACKEND_MAC, WAN_MAC)
            .icmp(kind, 1, 0)
            .payload(&about.build_ip());
        let error = world.forwarded(1, &error, 0);
        let packet = parsed(&error);
        let quote = march_wire::quote::parse(error.as_slice(), &packet).unwrap();
        assert_eq!(quote.ports(), (4_000, 80));

        // Services have their own way of translating.
        let web = world.forwarded(0, &from_client(ends).tcp(4_000, 81, SYN), 1);
        assert_eq!(tuple_of(&web).0, ip(ends.client), "client address kept");
    }
}

#[test]
fn masqueraded_echo_gets_an_identifier_of_its_own() {
    for ends in ENDS {
        let mut world = with_rules(&[masquerade()]);
        let mut ids = Vec::new();
        let clients = if ends.client.contains(':') {
            ["2001:db8:1::7", "2001:db8:1::8"]
        } else {
            ["198.51.100.7", "198.51.100.8"]
        };
        world.change(|config| {
            let mut neighbours = config.neighbours.to_vec();
            neighbours.push(MirroredNeighbour {
                port: 0,
                address: ip(clients[1]),
                mac: CLIENT_MAC,
            });
            config.neighbours = neighbours.into();
        });
        for client in clients {
            let packet = PacketBuilder::between(client, ends.backend).macs(CLIENT_MAC, LAN_MAC);
            let sent = world.forwarded(0, &echo(ends, packet, true, 1), 1);
            assert_eq!(tuple_of(&sent).0, ip(ends.nat));
            ids.push(echo_id(&sent));
        }
        assert_ne!(ids[0], ids[1], "both clients used 1");
        for (client, id) in clients.iter().zip(&ids) {
            let back = echo(ends, from_backend(ends, ends.nat), false, *id);
            let reply = world.forwarded(1, &back, 0);
            assert_eq!(tuple_of(&reply).1, ip(client));
            assert_eq!(echo_id(&reply), 1);
        }
        // An error that quotes a translated request.
        let about = echo(
            ends,
            PacketBuilder::between(ends.nat, ends.backend),
            true,
            ids[1],
        );
        let kind = if ends.client.contains(':') { 1 } else { 3 };
        let error = from_backend(ends, ends.nat)
            .icmp(kind, 1, 0)
            .payload(&about.build_ip());
        let error = world.forwarded(1, &error, 0);
        assert_eq!(tuple_of(&error).1, ip(clients[1]));
        let packet = parsed(&error);
        let quote = march_wire::quote::parse(error.as_slice(), &packet).unwrap();
        assert!(
            matches!(quote.l4, march_wire::quote::QuotedL4::Icmp { id: 1, .. }),
            "{quote:?}"
        );
    }
}

#[test]
fn masquerade_of_other_protocols_has_addresses_alone() {
    for ends in ENDS {
        let mut world = with_rules(&[masquerade()]);
        let packet = transit(ends).protocol(50);
        let sent = world.forwarded(0, &packet, 1);
        let (src, _) = parsed(&sent).ip_addresses(sent.as_slice()).unwrap();
        assert_eq!(src, ip(ends.nat));
        let reply = world.forwarded(1, &from_backend(ends, ends.nat).protocol(50), 0);
        let (_, dst) = parsed(&reply).ip_addresses(reply.as_slice()).unwrap();
        assert_eq!(dst, ip(ends.client));

        world.change(|config| {
            let mut ports = config.ports.to_vec();
            ports[1].nat4 = NatPool::default();
            ports[1].nat6 = NatPool::default();
            config.ports = ports.into();
        });
        world.dropped(0, &transit(ends).udp(4_000, 1), DropReason::NatExhausted);
    }
}

#[test]
fn rules_are_asked_about_fragments_and_none_gets_through() {
    for ends in ENDS {
        for (action, expected) in [
            (Action::Allow, Verdict::Drop(DropReason::Fragment)),
            (Action::Drop, Verdict::Drop(DropReason::RuleDrop)),
            (Action::Punt, Verdict::Punt),
            (
                Action::Redirect(Redirect::Port(1)),
                Verdict::Drop(DropReason::Fragment),
            ),
        ] {
            let mut world = with_rules(&[rule("fragments", action)]);
            for packet in [from_client(ends), transit(ends)] {
                for (offset, more) in [(0, true), (100, false)] {
                    let fragment = packet.clone().udp(4_000, 53).fragment(offset, more);
                    let before = fragment.build();
                    assert_eq!(world.send(0, &before), (expected, before), "{action:?}");
                }
            }
            assert_eq!(world.pipeline.counters().rules[0].get(), 4);
        }
        // Only a first fragment tells enough for an answer, and only TCP that is whole for a RST.
        let mut world = with_rules(&[rule("fragments", Action::Reject)]);
        let first = transit(ends).udp(4_000, 53).fragment(0, true).build();
        assert_eq!(world.send(0, &first).0, Verdict::Answer { port: 0 });
        let later = transit(ends).udp(4_000, 53).fragment(100, false);
        world.dropped(0, &later, DropReason::RuleDrop);
        let tcp = transit(ends).tcp(4_000, 53, SYN).fragment(0, true);
        world.dropped(0, &tcp, DropReason::RuleDrop);
    }
}

#[test]
fn a_burst_counts_each_rule_once_for_each_packet_that_it_decides() {
    for ends in ENDS {
        let mut world = with_rules(&[rule_for_port("web", Action::Allow, 53)]);
        let bytes = from_client(ends).udp(4_000, 53).build();
        let mut frames: Vec<TestFrame> = (0..4).map(|_| TestFrame::new(&bytes)).collect();
        let mut verdicts = [Verdict::Punt; 4];
        world.pipeline.process(
            &world.generation,
            world.now,
            0,
            &mut frames,
            &mut verdicts,
            &mut world.copies,
        );
        assert_eq!(verdicts, [Verdict::Forward { port: 1 }; 4]);
        let counters = world.pipeline.counters();
        assert_eq!(counters.rules[0].get(), 1, "three of them found the flow");
    }
}
