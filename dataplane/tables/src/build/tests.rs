use core::net::Ipv4Addr;

use super::*;
use crate::{
    Action, AddressKind, AddressSet, Affinity, Algorithm, Announcement, BackendState, Balancer,
    Criteria, Limit, MAX_EPOCH_AGE, MirroredNeighbour, MirroredRoute, Mode, NatPool, PoolBackend,
    PoolConfig, Rule, Service, Stance, Timeouts,
};

fn v4(text: &str) -> Ipv4Addr {
    text.parse().expect("an address")
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn port(name: &str, last: u8, nat: &str) -> PortTable {
    PortTable {
        name: name.into(),
        mac: [2, 0, 0, 0, 0, last],
        mtu: 1500,
        nat4: NatPool {
            addresses: Box::new([v4(nat)]),
            first_port: 20_000,
            last_port: 32_767,
        },
        address4: Some(Ipv4Addr::new(10, 0, last, 1)),
        ..PortTable::default()
    }
}

fn backend(slot: u16, address: &str) -> PoolBackend {
    PoolBackend {
        slot,
        address: ip(address),
        port: 8080,
        weight: 1,
        state: BackendState::Active,
    }
}

fn pool(name: &str, algorithm: Algorithm, backends: &[PoolBackend]) -> PoolConfig {
    PoolConfig {
        name: name.into(),
        algorithm,
        backends: backends.to_vec(),
    }
}

fn route(prefix: &str, target: RouteTarget) -> MirroredRoute {
    MirroredRoute {
        prefix: prefix.parse().expect("a prefix"),
        target,
    }
}

fn neighbour(port: u16, address: &str, last: u8) -> MirroredNeighbour {
    MirroredNeighbour {
        port,
        address: ip(address),
        mac: [6, 0, 0, 0, 0, last],
    }
}

/// Clients behind a router on port 0, two pools of backends on the link of port 1.
fn config() -> Config {
    let gateway = ip("10.0.0.254");
    Config {
        revision: 7,
        ports: [port("wan0", 0, "10.0.0.1"), port("lan0", 1, "10.0.1.100")].into(),
        services: [Service {
            name: "web".into(),
            address: "192.0.2.10".parse().expect("a prefix"),
            protocol: 6,
            first_port: 80,
            last_port: 80,
            pool: 0,
            mode: Mode::FullNat,
            affinity: Affinity::FiveTuple,
            timeouts: Timeouts::default(),
            ..Service::vacant()
        }]
        .into(),
        pools: [
            pool(
                "web",
                Algorithm::Maglev,
                &[backend(0, "10.0.1.11"), backend(1, "10.0.1.12")],
            ),
            pool("dns", Algorithm::RoundRobin, &[backend(2, "10.0.1.13")]),
        ]
        .into(),
        rules: [Rule {
            name: "all".into(),
            priority: 1,
            criteria: Criteria {
                not_source_sets: vec![0],
                ..Criteria::default()
            },
            action: Action::Allow,
            ..Rule::vacant()
        }]
        .into(),
        sets: [set("of-rules", 1), set("of-guards", 2)].into(),
        limits: [Limit {
            name: "each".into(),
            ..Limit::vacant()
        }]
        .into(),
        routes: [
            route("0.0.0.0/0", RouteTarget::Via { port: 0, gateway }),
            route("10.0.0.0/24", RouteTarget::Connected { port: 0 }),
            route("10.0.1.0/24", RouteTarget::Connected { port: 1 }),
            route("192.0.2.10/32", RouteTarget::Blackhole),
        ]
        .into(),
        neighbours: [neighbour(0, "10.0.0.254", 9), neighbour(1, "10.0.1.11", 11)].into(),
        local: [ip("10.0.0.1"), ip("10.0.1.1")].into(),
    }
}

fn set(name: &str, content: u8) -> AddressSet {
    AddressSet {
        name: name.into(),
        content: [content; 32],
        prefixes: Arc::new(crate::PrefixSet::new(&[])),
    }
}

fn edit<T: Clone>(list: &mut Arc<[T]>, change: impl FnOnce(&mut Vec<T>)) {
    let mut items = list.to_vec();
    change(&mut items);
    *list = items.into();
}

/// Builds the configuration, then builds it changed on top.
fn rebuild(change: impl FnOnce(&mut Config)) -> (Generation, Generation) {
    let mut config = config();
    let first = build(&config, None).expect("the first generation");
    change(&mut config);
    let second = build(&config, Some(&first)).expect("the second generation");
    assert_eq!(second.id, first.id + 1);
    (first, second)
}

fn maglev(generation: &Generation, at: usize) -> &Arc<crate::Maglev> {
    match &generation.pools[at].balancer {
        Balancer::Maglev(table) => table,
        other => panic!("{other:?}"),
    }
}

#[test]
fn everything_is_found_where_it_belongs() {
    let generation = build(&config(), None).expect("a generation");
    assert_eq!(
        (generation.id, generation.revision, generation.epoch),
        (1, 7, 1)
    );
    assert_eq!(generation.services.lookup(v4("192.0.2.10"), 6, 80), Some(0));
    assert_eq!(
        generation.routes.lookup(v4("10.0.1.11")),
        Route::Connected(1)
    );
    assert_eq!(generation.routes.lookup(v4("192.0.2.10")), Route::Blackhole);

    let Route::Via(gateway) = generation.routes.lookup(v4("8.8.8.8")) else {
        panic!("the default route leads to the gateway");
    };
    let hop = generation.adjacency(gateway).expect("in bounds");
    assert_eq!(hop.rewrite, [6, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 0]);
    assert_eq!(
        (hop.port, hop.mtu, hop.state),
        (0, 1500, AdjacencyState::Resolved)
    );

    let resolved = generation.backend(0).expect("in bounds").adjacency;
    assert_eq!(
        generation.neighbours.get(1, v4("10.0.1.11")),
        Some(resolved)
    );
    let waiting = generation.backend(1).expect("in bounds").adjacency;
    let hop = generation
        .adjacency(waiting)
        .expect("a backend on a link has a next hop");
    assert_eq!(hop.state, AdjacencyState::Incomplete);
    assert_eq!(
        generation.neighbours.key(waiting),
        Some((1, ip("10.0.1.12")))
    );
}

#[test]
fn local_addresses_say_whose_they_are() {
    let generation = build(&config(), None).expect("a generation");
    let kind = |text| generation.local.kind(v4(text));
    assert_eq!(kind("192.0.2.10"), AddressKind::Vip);
    assert_eq!(kind("10.0.0.1"), AddressKind::KernelNat);
    assert_eq!(kind("10.0.1.1"), AddressKind::Kernel);
    assert_eq!(kind("10.0.1.100"), AddressKind::Nat);
    assert_eq!(kind("10.0.1.11"), AddressKind::NotLocal);
    let announce = |port, address| Announcement {
        port,
        address: ip(address),
    };
    // The VIP's network is on no link: every port. The kernel announces its own address.
    let expected = [
        announce(0, "192.0.2.10"),
        announce(1, "10.0.1.100"),
        announce(1, "192.0.2.10"),
    ];
    assert_eq!(generation.local.announcements(), expected);
}

#[test]
fn an_address_of_a_prefix_service_is_a_vip_even_in_a_nat_pool() {
    let (_, second) = rebuild(|config| {
        edit(&mut config.services, |services| {
            services[0].address = "10.0.1.96/28".parse().expect("a prefix");
        });
    });
    assert_eq!(second.local.kind(v4("10.0.1.99")), AddressKind::Vip);
    assert_eq!(second.local.kind(v4("10.0.1.100")), AddressKind::Vip);
    assert_eq!(second.local.kind(v4("10.0.1.112")), AddressKind::NotLocal);
}

#[test]
fn a_service_at_the_ports_own_address_takes_nothing_from_its_nat_pool() {
    for address in ["10.0.0.1/32", "10.0.0.0/24"] {
        let (_, second) = rebuild(|config| {
            edit(&mut config.services, |services| {
                services[0].address = address.parse().expect("a prefix");
            });
        });
        let kind = second.local.kind(v4("10.0.0.1"));
        assert_eq!(kind, AddressKind::KernelNat, "{address}");
    }
}

#[test]
fn a_vip_is_announced_on_its_own_link() {
    let (_, second) = rebuild(|config| {
        edit(&mut config.routes, |routes| {
            routes.push(route("192.0.2.0/24", RouteTarget::Connected { port: 0 }));
        });
    });
    let vip: Vec<u16> = second
        .local
        .announcements()
        .iter()
        .filter(|announcement| announcement.address == ip("192.0.2.10"))
        .map(|announcement| announcement.port)
        .collect();
    assert_eq!(vip, [0]);
}

#[test]
fn the_same_again_shares_everything() {
    let mut again = config();
    again.revision = 8;
    // Other allocations, equal content.
    let first = build(&config(), None).expect("the first generation");
    let second = build(&again, Some(&first)).expect("the second generation");
    assert_eq!((second.revision, second.epoch), (8, first.epoch));
    assert!(Arc::ptr_eq(&first.ports, &second.ports));
    assert!(Arc::ptr_eq(&first.services, &second.services));
    assert!(Arc::ptr_eq(&first.pools, &second.pools));
    assert!(Arc::ptr_eq(&first.backends, &second.backends));
    assert!(Arc::ptr_eq(&first.rules, &second.rules));
    assert!(Arc::ptr_eq(&first.routes, &second.routes));
    assert!(Arc::ptr_eq(&first.adjacencies, &second.adjacencies));
    assert!(Arc::ptr_eq(&first.neighbours, &second.neighbours));
    assert!(Arc::ptr_eq(&first.local, &second.local));
}

#[test]
fn health_rebuilds_its_pool_and_nothing_else() {
    let (first, second) = rebuild(|config| {
        edit(&mut config.pools, |pools| {
            pools[1].backends[0].state = BackendState::Down;
        });
    });
    assert_eq!(
        second.epoch, first.epoch,
        "health is not remembered by flows"
    );
    assert!(Arc::ptr_eq(maglev(&first, 0), maglev(&second, 0)));
    assert_eq!(second.pools[1].choose(1, &mut 0), None);
    assert_eq!(second.backends[2].state, BackendState::Down);
    assert!(Arc::ptr_eq(&first.rules, &second.rules));
    assert!(Arc::ptr_eq(&first.routes, &second.routes));
    assert!(Arc::ptr_eq(&first.services, &second.services));
    assert!(Arc::ptr_eq(&first.adjacencies, &second.adjacencies));
    assert!(Arc::ptr_eq(&first.local, &second.local));
}

#[test]
fn draining_takes_a_backend_out_of_the_balancer_but_not_out_of_the_table() {
    let (_, second) = rebuild(|config| {
        edit(&mut config.pools, |pools| {
            pools[0].backends[1].state = BackendState::Draining;
        });
    });
    assert!(maglev(&second, 0).table().iter().all(|slot| *slot == 0));
    assert!(second.backends[1].state.keeps_flows());
    assert_eq!(second.backends[1].address, ip("10.0.1.12"));
}

#[test]
fn a_mac_change_rewrites_one_adjacency() {
    let (first, second) = rebuild(|config| {
        edit(&mut config.neighbours, |list| list[1].mac[5] = 99);
    });
    assert_eq!(second.epoch, first.epoch);
    let id = usize::from(first.backends[0].adjacency);
    assert_eq!(second.adjacencies[id].rewrite[5], 99);
    assert!(Arc::ptr_eq(&first.pools, &second.pools));
    assert!(Arc::ptr_eq(&first.backends, &second.backends));
    assert!(Arc::ptr_eq(&first.routes, &second.routes));
    assert!(Arc::ptr_eq(&first.neighbours, &second.neighbours));
    assert!(Arc::ptr_eq(&first.rules, &second.rules));
}

#[test]
fn a_neighbour_that_comes_and_goes_keeps_its_id_and_the_epoch() {
    let (first, second) = rebuild(|config| {
        edit(&mut config.neighbours, |list| {
            list.pop();
        });
    });
    let id = first.backends[0].adjacency;
    assert_eq!(second.backends[0].adjacency, id);
    assert_eq!(
        second.adjacency(id).map(|hop| hop.state),
        Some(AdjacencyState::Incomplete)
    );
    assert_eq!(second.epoch, first.epoch);
    let third = build(&config(), Some(&second)).expect("the third generation");
    assert_eq!(third.adjacency(id), first.adjacency(id));
    assert_eq!(third.epoch, first.epoch);
}

#[test]
fn a_neighbour_nobody_knew_is_no_news_to_flows() {
    let (first, second) = rebuild(|config| {
        edit(&mut config.neighbours, |list| {
            list.push(neighbour(1, "10.0.1.77", 77));
        });
    });
    assert!(second.neighbours.get(1, v4("10.0.1.77")).is_some());
    assert_eq!(second.epoch, first.epoch);
    let before = first.neighbours.keys();
    assert_eq!(&second.neighbours.keys()[..before.len()], before);
}

#[test]
fn adding_and_removing_a_backend_moves_no_epoch_and_cuts_no_slot() {
    let (first, second) = rebuild(|config| {
        edit(&mut config.pools, |pools| {
            pools[0].backends.push(backend(3, "10.0.1.14"));
        });
    });
    assert_eq!(second.epoch, first.epoch);
    assert!(maglev(&second, 0).table().contains(&3));
    let third = build(&config(), Some(&second)).expect("the third generation");
    assert_eq!(third.epoch, first.epoch);
    assert_eq!(third.backends.len(), 4);
    assert_eq!(third.backends[3], Backend::GONE);
}

#[test]
fn whatever_flows_are_judged_by_moves_both_epochs() {
    type Change = fn(&mut Config);
    let changes: [(&str, Change); 8] = [
        ("a rule's action", |config| {
            let mut rule = config.rules[0].clone();
            rule.action = Action::Drop;
            config.rules.set(0, Arc::new(rule));
        }),
        ("a service's address", |config| {
            edit(&mut config.services, |services| {
                services[0].address = "192.0.2.11".parse().expect("a prefix");
            });
        }),
        ("a service's mode", |config| {
            edit(&mut config.services, |services| {
                services[0].mode = Mode::Nat;
            });
        }),
        ("a local address", |config| {
            edit(&mut config.local, |local| local.push(ip("10.0.0.2")));
        }),
        ("a NAT address", |config| {
            edit(&mut config.ports, |ports| {
                ports[1].nat4.addresses[0] = v4("10.0.1.101");
            });
        }),
        ("a NAT port range", |config| {
            edit(&mut config.ports, |ports| ports[1].nat4.last_port = 40_000);
        }),
        ("what a port does with the unmatched", |config| {
            edit(&mut config.ports, |ports| {
                ports[0].unmatched.services = Stance::Deny;
            });
        }),
        ("a set that a rule uses", |config| {
            edit(&mut config.sets, |sets| sets[0].content = [9; 32]);
        }),
    ];
    for (what, change) in changes {
        let (first, second) = rebuild(change);
        assert_eq!(second.epoch, first.epoch + 1, "{what}");
        assert_eq!(second.policy_epoch, second.epoch, "{what}");
        assert!(!second.is_judged(first.epoch), "{what}");
    }
}

#[test]
fn a_route_moves_the_epoch_and_not_the_policy() {
    let (first, second) = rebuild(|config| {
        edit(&mut config.routes, |routes| {
            routes.remove(0);
        });
    });
    assert_eq!(second.epoch, first.epoch + 1);
    assert_eq!(second.policy_epoch, first.policy_epoch);
    assert!(second.is_judged(first.epoch));
    assert!(!second.is_judged(0), "0 is no epoch");
}

#[test]
fn what_only_guards_and_buckets_use_moves_no_epoch() {
    type Change = fn(&mut Config);
    let changes: [(&str, Change); 3] = [
        ("a set that no rule uses", |config| {
            edit(&mut config.sets, |sets| sets[1].content = [9; 32]);
        }),
        ("a guard", |config| {
            edit(&mut config.ports, |ports| ports[0].guard.block.push(1));
        }),
        ("a limit's rate", |config| {
            edit(&mut config.limits, |limits| limits[0].per_second = 7);
        }),
    ];
    for (what, change) in changes {
        let (first, second) = rebuild(change);
        assert_eq!(
            (second.epoch, second.policy_epoch),
            (first.epoch, first.policy_epoch),
            "{what}"
        );
    }
}

#[test]
fn epochs_of_any_age_are_told_apart_while_the_sweep_keeps_up() {
    let mut old = build(&config(), None).expect("the first generation");
    old.epoch = u16::MAX - 5;
    old.policy_epoch = old.epoch;
    let judged_at = old.epoch;
    // Routes alone, over the wrap and until what was judged first is forgotten.
    for moves in 1..=u32::from(MAX_EPOCH_AGE) + 100 {
        let mut next = old.clone();
        next.date_after(&old, false, true);
        assert_ne!(next.epoch, 0);
        let is_young = next.age_of(judged_at) <= MAX_EPOCH_AGE;
        assert_eq!(next.is_judged(judged_at), is_young, "{moves} moves");
        old = next;
    }
    // The policy: nothing before it is judged, whatever its age.
    let mut next = old.clone();
    next.date_after(&old, true, false);
    for epoch in (0..=u16::MAX).filter(|epoch| *epoch != next.epoch) {
        assert!(!next.is_judged(epoch), "{epoch}");
    }
    assert!(next.is_judged(next.epoch));
}

#[test]
fn the_epoch_wraps_past_zero() {
    let mut config = config();
    let mut first = build(&config, None).expect("the first generation");
    first.epoch = u16::MAX;
    config.rules = crate::RuleList::default();
    let second = build(&config, Some(&first)).expect("the second generation");
    assert_eq!(second.epoch, 1);
}

#[test]
fn stale_next_hops_are_bounded() {
    let mut config = config();
    let mut generation = build(&config, None).expect("the first generation");
    let mut highest = 0;
    for round in 0_u32..12 {
        config.neighbours = (0..1000)
            .map(|host| MirroredNeighbour {
                port: 1,
                address: Ipv4Addr::from(0x0a01_0000 + round * 1000 + host).into(),
                mac: [6; 6],
            })
            .collect();
        let next = build(&config, Some(&generation)).expect("another generation");
        let before = generation.neighbours.keys();
        assert_eq!(next.policy_epoch, generation.policy_epoch);
        assert_eq!(
            next.epoch == generation.epoch,
            next.neighbours.keys().starts_with(before),
            "new numbers move the epoch, new neighbours do not"
        );
        highest = highest.max(next.adjacencies.len());
        generation = next;
    }
    assert!(highest < MAX_STALE_ADJACENCIES + 3000, "{highest}");
    assert!(
        generation.adjacencies.len() < 8000,
        "numbered anew at least once"
    );
    assert_eq!(generation.routes.lookup(v4("8.8.8.8")), {
        let id = generation.neighbours.get(0, v4("10.0.0.254"));
        Route::Via(id.expect("the gateway has a number still"))
    });
}

#[test]
fn what_cannot_be_compiled_is_refused_with_its_name() {
    type Change = fn(&mut Config);
    let changes: [(&str, Change); 7] = [
        ("names pool 9", |config| {
            edit(&mut config.services, |services| services[0].pool = 9);
        }),
        ("protocol 1", |config| {
            edit(&mut config.services, |services| services[0].protocol = 1);
        }),
        ("ports 0-80", |config| {
            edit(&mut config.services, |services| services[0].first_port = 0);
        }),
        ("\"lan0\": NAT ports", |config| {
            edit(&mut config.ports, |ports| ports[1].nat4.first_port = 0);
        }),
        ("neighbour names port 5", |config| {
            edit(&mut config.neighbours, |list| list[0].port = 5);
        }),
        ("slot 0 is taken", |config| {
            edit(&mut config.pools, |pools| pools[1].backends[0].slot = 0);
        }),
        ("10.0.1.11 port 8080 twice", |config| {
            edit(&mut config.pools, |pools| {
                pools[0].backends[1].address = ip("10.0.1.11");
            });
        }),
    ];
    for (what, change) in changes {
        let mut config = config();
        change(&mut config);
        let error = build(&config, None).expect_err(what);
        assert!(error.to_string().contains(what), "{error}");
    }
}
