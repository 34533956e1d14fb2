//! Flows after a change: judged again, or only routed again, or neither.

use march_tables::{Criteria, Redirect, TcpFlags, Treatment, Vlan};

use super::actions::{from_backend, masquerade, rule, rule_for_port, transit, with_rules};
use super::*;

fn rechecked(world: &World) -> u64 {
    world.pipeline.counters().flows.rechecked.get()
}

#[test]
fn a_flow_is_judged_as_its_opening_packet_whoever_speaks_next() {
    let opening = Criteria {
        tcp_flags: Some(TcpFlags {
            mask: SYN | ACK,
            value: SYN,
        }),
        dscp: 1 << 10,
        ingress: vec![0],
        vlans: vec![Vlan::Ids(100, 100)],
        ..Criteria::default()
    };
    let allow = Rule {
        criteria: opening,
        ..rule("opening", Action::Allow)
    };
    let other = rule_for_port("other", Action::Drop, 9);
    for ends in ENDS {
        let mut world = with_rules(core::slice::from_ref(&allow));
        let out = transit(ends).vlan(100).tos(10 << 2);
        world.forwarded(0, &out.clone().tcp(4_000, 80, SYN), 1);
        world.dropped(
            0,
            &out.clone().tos(0).tcp(4_001, 80, SYN),
            DropReason::NoService,
        );
        // The answer has other flags, no tag, no DSCP and comes in elsewhere.
        world.change(|config| config.rules = [allow.clone(), other.clone()].into());
        let back = from_backend(ends, ends.client).tcp(80, 4_000, SYN | ACK);
        world.forwarded(1, &back, 0);
        world.forwarded(0, &transit(ends).tcp(4_000, 80, ACK), 1);
        assert_eq!(rechecked(&world), 1);
    }
}

#[test]
fn an_echo_is_judged_as_the_request_that_it_was() {
    for ends in ENDS {
        let kind = if ends.client.contains(':') { 128 } else { 8 };
        let allow = Rule {
            criteria: Criteria {
                icmp: vec![march_tables::IcmpMessage {
                    kind,
                    code: Some(0),
                }],
                ..Criteria::default()
            },
            ..rule("ping", Action::Allow)
        };
        let mut world = with_rules(core::slice::from_ref(&allow));
        let packet = transit(ends).icmp(kind, 0, 0x0007_0001);
        world.forwarded(0, &packet, 1);
        let other = rule_for_port("other", Action::Drop, 9);
        world.change(|config| config.rules = [allow, other].into());
        world.forwarded(0, &packet, 1);
        assert_eq!(rechecked(&world), 1);
    }
}

#[test]
fn a_flow_that_would_go_elsewhere_ends_and_opens_anew() {
    for (number, ends) in (0..).zip(ENDS) {
        let to_address = |port| {
            let address = ip(ends.backend);
            rule("way", Action::Redirect(Redirect::Address { address, port }))
        };
        let to_service = |id: u16| rule("way", Action::Redirect(Redirect::Service(id + number)));
        let to_port = |port| rule("way", Action::Redirect(Redirect::Port(port)));
        let allow = rule("way", Action::Allow);
        let ways = [
            allow,
            masquerade(),
            to_address(9_000),
            to_address(9_001),
            to_service(2),
            to_port(1),
        ];
        for before in &ways {
            for after in &ways {
                let mut world = with_rules(core::slice::from_ref(before));
                let packet = transit(ends).udp(4_000, 53);
                let sent = world.forwarded(0, &packet, 1);
                // The same with one more rule that concerns nobody: judged again, and goes on as it went.
                let other = rule_for_port("a", Action::Drop, 9);
                world.change(|config| config.rules = [before.clone(), other.clone()].into());
                assert_eq!(world.forwarded(0, &packet, 1), sent);
                assert_eq!(rechecked(&world), 1);
                if before != after {
                    world.change(|config| config.rules = [after.clone(), other].into());
                    world.dropped(0, &packet, DropReason::PolicyChanged);
                    world.forwarded(0, &packet, 1);
                }
            }
        }
    }
}

#[test]
fn a_treatment_is_renewed_with_the_rule() {
    let marked = |dscp| Rule {
        treatment: Treatment {
            mark: Some(dscp),
            ..Treatment::default()
        },
        ..rule("all", Action::Allow)
    };
    for ends in ENDS {
        let mut world = with_rules(&[rule("all", Action::Allow)]);
        let packet = from_client(ends).udp(4_000, 53);
        let before = tuple_of(&world.forwarded(0, &packet, 1));
        for (rules, tos) in [
            (vec![marked(46)], 46 << 2),
            (vec![marked(10)], 10 << 2),
            (vec![], 0),
        ] {
            world.change(|config| config.rules = rules.into());
            for _ in 0..2 {
                let sent = world.forwarded(0, &packet, 1);
                assert_eq!(parsed(&sent).tos, tos);
                assert_eq!(tuple_of(&sent), before, "same backend, same port");
            }
        }
        assert_eq!(rechecked(&world), 3);
    }
}

#[test]
fn a_route_change_asks_no_rule_and_drops_nothing() {
    for ends in ENDS {
        let mut world = with_rules(&[rule("all", Action::Allow)]);
        let target = if ends.client.contains(':') {
            "2001:db8:9::9"
        } else {
            "203.0.113.9"
        };
        let packet = PacketBuilder::between(ends.client, target)
            .macs(CLIENT_MAC, LAN_MAC)
            .udp(4_000, 53);
        let gateways = if ends.client.contains(':') {
            ["2001:db8:2::11", "2001:db8:2::12"]
        } else {
            ["10.0.1.11", "10.0.1.12"]
        };
        let second_mac = [2, 0, 0, 0, 0, 0xb2];
        let through = |gateway: &str| {
            let length = if gateway.contains(':') { "/48" } else { "/24" };
            let network = if gateway.contains(':') {
                "2001:db8:9::"
            } else {
                "203.0.113.0"
            };
            let mut routes = config().routes.to_vec();
            routes.push(MirroredRoute {
                prefix: format!("{network}{length}").parse().unwrap(),
                target: RouteTarget::Via {
                    port: 1,
                    gateway: ip(gateway),
                },
            });
            routes
        };
        world.change(|config| {
            let mut neighbours = config.neighbours.to_vec();
            neighbours.push(MirroredNeighbour {
                port: 1,
                address: ip(gateways[1]),
                mac: second_mac,
            });
            config.neighbours = neighbours.into();
            config.routes = through(gateways[0]).into();
        });
        let web = from_client(ends).udp(4_000, 53);
        let before = tuple_of(&world.forwarded(0, &web, 1));
        for mac in [BACKEND_MAC, BACKEND_MAC] {
            assert_eq!(world.forwarded(0, &packet, 1)[..6], mac);
        }
        let asked = world.pipeline.counters().rules[0].get();
        world.change(|config| config.routes = through(gateways[1]).into());
        for _ in 0..2 {
            assert_eq!(world.forwarded(0, &packet, 1)[..6], second_mac);
            assert_eq!(tuple_of(&world.forwarded(0, &web, 1)), before);
        }
        assert_eq!(rechecked(&world), 0);
        assert_eq!(world.pipeline.counters().rules[0].get(), asked);
        // The policy after the route: once more, for good reason.
        world.change(|config| config.rules = [].into());
        world.dropped(0, &packet, DropReason::PolicyChanged);
        assert_eq!(rechecked(&world), 1);
    }
}

#[test]
fn a_flow_that_a_rule_sent_out_of_a_port_stays_there_when_routes_change() {
    for ends in ENDS {
        let mut world = with_rules(&[rule("there", Action::Redirect(Redirect::Port(1)))]);
        let packet = transit(ends).udp(4_000, 53);
        world.forwarded(0, &packet, 1);
        world.change(|config| {
            let mut routes = config.routes.to_vec();
            routes.retain(
                |route| !matches!(route.target, RouteTarget::Connected { port } if port == 1),
            );
            config.routes = routes.into();
        });
        world.forwarded(0, &packet, 1);
        assert_eq!(rechecked(&world), 0);
    }
}

#[test]
fn pools_health_and_limits_recheck_nothing() {
    for ends in ENDS {
        let mut world = World::new();
        let packet = from_client(ends).udp(4_000, 53);
        world.forwarded(0, &packet, 1);
        set_state(&mut world, BackendState::Draining);
        world.change(|config| {
            let mut pools = config.pools.to_vec();
            pools[0].backends[0].weight = 7;
            config.pools = pools.into();
            config.limits = [march_tables::Limit::vacant()].into();
        });
        world.forwarded(0, &packet, 1);
        assert_eq!(rechecked(&world), 0);
    }
}

#[test]
fn an_epoch_of_long_ago_is_forgotten_before_it_could_look_new() {
    for ends in ENDS {
        let mut world = World::new();
        let packet = from_client(ends).udp(4_000, 53);
        world.forwarded(0, &packet, 1);
        let opened_at = world.generation.epoch;
        // So many route changes while the flow is silent; the sweep goes round within two seconds.
        world.generation.epoch = opened_at.wrapping_add(20_000);
        for _ in 0..30 {
            world.now.ms += 100;
            world.pipeline.expire(&world.generation, world.now);
        }
        // The number comes back, with another policy.
        world.generation.epoch = opened_at;
        world.generation.policy_epoch = opened_at;
        world.forwarded(0, &packet, 1);
        assert_eq!(rechecked(&world), 1);
    }
}
