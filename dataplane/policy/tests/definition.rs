//! What the definition says, in its own words: the sentences of the manual as tests.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use march_policy::{
    Arrival, Chance, Decision, FlowUse, Guarded, Policy, PrefixLists, RuleUse, State,
};
use march_tables::{
    Action, BackendState, Config, Criteria, Guard, MirroredNeighbour, MirroredRoute, Mode, NatPool,
    PoolBackend, PoolConfig, PortTable, Redirect, RouteTarget, Rule, Service, Stance, Unmatched,
};
use march_wire::build::PacketBuilder;
use march_wire::{DropReason, Verdict};

const WAN: [u8; 6] = [2, 0, 0, 0, 0, 0x10];
const CLIENT: &str = "198.51.100.1";
const VIP: &str = "192.0.2.10";
const SYN: u8 = 2;
const ACK: u8 = 16;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn rule(name: &str, priority: u32, action: Action) -> Rule {
    Rule {
        name: name.into(),
        priority,
        action,
        ..Rule::vacant()
    }
}

fn config(rules: Vec<Rule>) -> Config {
    let port = |name: &str, mac, pool: &[Ipv4Addr]| PortTable {
        name: name.into(),
        mac,
        mtu: 1500,
        nat4: NatPool {
            addresses: pool.into(),
            first_port: 20_000,
            last_port: 20_001,
        },
        ..PortTable::default()
    };
    let backend = PoolBackend {
        slot: 0,
        address: ip("10.0.1.11"),
        port: 8080,
        weight: 1,
        state: BackendState::Active,
    };
    let pool = PoolConfig {
        name: "web".into(),
        backends: vec![backend],
        ..PoolConfig::default()
    };
    let service = Service {
        name: "web".into(),
        address: "192.0.2.10/32".parse().expect("a prefix"),
        protocol: 6,
        first_port: 80,
        last_port: 80,
        pool: 0,
        mode: Mode::FullNat,
        ..Service::vacant()
    };
    let route = |prefix: &str, port| MirroredRoute {
        prefix: prefix.parse().expect("a prefix"),
        target: RouteTarget::Connected { port },
    };
    let neighbour = |port, address| MirroredNeighbour {
        port,
        address: ip(address),
        mac: [2, 0, 0, 0, 1, 0],
    };
    Config {
        ports: [
            port("wan", WAN, &[]),
            port(
                "lan",
                [2, 0, 0, 0, 0, 0x11],
                &[Ipv4Addr::new(10, 0, 1, 254)],
            ),
        ]
        .into(),
        services: [service].into(),
        pools: [pool].into(),
        rules: rules.into(),
        routes: [route("198.51.100.0/24", 0), route("10.0.1.0/24", 1)].into(),
        neighbours: [neighbour(0, CLIENT), neighbour(1, "10.0.1.11")].into(),
        ..Config::default()
    }
}

fn policy(config: &Config) -> Policy {
    let lists = [
        vec!["198.51.100.0/24"],
        vec!["198.51.100.0/24"],
        vec!["198.51.100.0/30"],
    ];
    let lists = lists.map(|list| {
        list.iter()
            .map(|text| text.parse().expect("a prefix"))
            .collect()
    });
    Policy::new(config, Arc::new(PrefixLists(lists.into())))
}

fn decide(config: &Config, state: &mut State, packet: &PacketBuilder) -> Decision {
    let frame = packet.clone().macs([2, 9, 9, 9, 9, 9], WAN).build();
    let arrival = Arrival {
        now_ms: 1_000,
        ingress: 0,
        frame: &frame,
    };
    policy(config).decide(state, arrival, Chance::default())
}

fn to_vip(flags: u8) -> PacketBuilder {
    PacketBuilder::between(CLIENT, VIP).tcp(40_000, 80, flags)
}

fn name(decision: &Decision) -> &str {
    match &decision.rule {
        Some(RuleUse::Matched { name, .. }) => name,
        _ => "",
    }
}

#[test]
fn the_lowest_priority_decides_and_ties_go_by_name() {
    let rules = vec![
        rule("z", 10, Action::Drop),
        rule("b", 5, Action::Allow),
        rule("a", 5, Action::Drop),
    ];
    let decision = decide(&config(rules), &mut State::new(), &to_vip(SYN));
    assert_eq!(name(&decision), "a");
    assert_eq!(decision.verdict, Verdict::Drop(DropReason::RuleDrop));
}

#[test]
fn count_counts_and_leaves_it_to_the_default() {
    let mut config = config(vec![rule("seen", 1, Action::Count)]);
    let decision = decide(&config, &mut State::new(), &to_vip(SYN));
    assert_eq!(decision.verdict, Verdict::Forward { port: 1 });
    let mut ports = config.ports.to_vec();
    ports[0].unmatched = Unmatched {
        services: Stance::Deny,
        ..Unmatched::default()
    };
    config.ports = ports.into();
    let decision = decide(&config, &mut State::new(), &to_vip(SYN));
    assert_eq!(decision.verdict, Verdict::Drop(DropReason::DefaultDeny));
    assert_eq!(
        (name(&decision), decision.default_after_count),
        ("seen", Some(Stance::Deny))
    );
}

#[test]
fn a_later_fragment_meets_no_criterion_of_a_header_that_it_lacks() {
    let ports = Rule {
        ports: vec![march_tables::PortRange::ALL],
        ..rule("ports", 1, Action::Drop)
    };
    let flags = Rule {
        criteria: Criteria {
            tcp_flags: Some(march_tables::TcpFlags {
                mask: SYN,
                value: 0,
            }),
            ..Criteria::default()
        },
        ..rule("flags", 2, Action::Drop)
    };
    let config = config(vec![ports, flags]);
    let later = to_vip(SYN).payload(&[0; 32]).fragment(16, false);
    let decision = decide(&config, &mut State::new(), &later);
    assert_eq!(decision.verdict, Verdict::Drop(DropReason::Fragment));
}

#[test]
fn between_equally_long_prefixes_allow_wins_and_a_longer_block_does_not_lose() {
    let mut config = config(Vec::new());
    let mut guarded = |block: &[u16], allow: &[u16]| {
        let mut ports = config.ports.to_vec();
        ports[0].guard = Guard {
            block: block.to_vec(),
            allow: allow.to_vec(),
            per_source: None,
        };
        config.ports = ports.into();
        let decision = decide(&config, &mut State::new(), &to_vip(SYN));
        (decision.guard, decision.verdict)
    };
    let allowed = Some(Guarded::Allowed { set: 1, length: 24 });
    assert_eq!(guarded(&[0], &[1]), (allowed, Verdict::Forward { port: 1 }));
    let blocked = Some(Guarded::Blocked { set: 2, length: 30 });
    assert_eq!(
        guarded(&[2], &[1]),
        (blocked, Verdict::Drop(DropReason::Blocked))
    );
}

#[test]
fn a_flow_that_the_rules_deny_now_ends_and_one_that_they_allow_keeps_its_backend() {
    let before = config(Vec::new());
    let mut state = State::new();
    assert_eq!(
        decide(&before, &mut state, &to_vip(SYN)).verdict,
        Verdict::Forward { port: 1 }
    );

    let allows = config(vec![rule("all", 1, Action::Allow)]);
    state.on_change(&before, &allows);
    let decision = decide(&allows, &mut state, &to_vip(ACK));
    assert!(
        matches!(decision.flow, FlowUse::Rechecked(_)),
        "{:?}",
        decision.flow
    );
    assert_eq!(decision.verdict, Verdict::Forward { port: 1 });

    let elsewhere = Redirect::Address {
        address: ip("10.0.1.11"),
        port: 0,
    };
    let redirects = config(vec![rule("all", 1, Action::Redirect(elsewhere))]);
    state.on_change(&allows, &redirects);
    let decision = decide(&redirects, &mut state, &to_vip(ACK));
    assert_eq!(decision.verdict, Verdict::Drop(DropReason::PolicyChanged));
    assert_eq!((decision.flow, state.flows().count()), (FlowUse::Ended, 0));
}

#[test]
fn pools_health_and_routes_have_nothing_judged_again() {
    let before = config(Vec::new());
    let mut pools = before.pools.to_vec();
    pools[0].backends[0].state = BackendState::Draining;
    let after = Config {
        pools: pools.into(),
        routes: Arc::default(),
        ..before.clone()
    };
    assert!(!Policy::changes_judgement(&before, &after));
    assert!(Policy::changes_judgement(
        &before,
        &config(vec![rule("new", 1, Action::Allow)])
    ));
}

#[test]
fn a_held_packet_leaves_nothing_behind() {
    let mut config = config(Vec::new());
    config.neighbours = Arc::default();
    let mut state = State::new();
    let decision = decide(&config, &mut state, &to_vip(SYN));
    assert_eq!(
        (decision.verdict, state.flows().count()),
        (Verdict::Hold, 0)
    );
    let frame = to_vip(SYN).macs([2, 9, 9, 9, 9, 9], WAN).build();
    assert_eq!(decision.frame, frame);
}

#[test]
fn a_full_pool_of_sources_gives_those_of_unfinished_handshakes_and_only_to_a_packet_that_goes() {
    let config = config(Vec::new());
    let mut state = State::new();
    let syn = |port| PacketBuilder::between(CLIENT, VIP).tcp(port, 80, SYN);
    for port in [1, 2] {
        assert_eq!(
            decide(&config, &mut state, &syn(port)).verdict,
            Verdict::Forward { port: 1 }
        );
    }
    let too_big = syn(3).payload(&[0; 1_600]);
    assert_eq!(
        decide(&config, &mut state, &too_big).verdict,
        Verdict::Drop(DropReason::TooBig)
    );
    assert_eq!(state.flows().count(), 2);
    assert_eq!(
        decide(&config, &mut state, &syn(4)).verdict,
        Verdict::Forward { port: 1 }
    );
    assert_eq!(state.counter(march_policy::Counter::FlowsEvicted), 1);
}
