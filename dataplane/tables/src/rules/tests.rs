//! The classifier against the meaning of the words, rule by rule.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::collections::HashMap;

use march_wire::parse::Fragment;
use march_wire::tuple::{FiveTuple, IpPrefix};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::*;
use crate::{
    Criteria, IcmpMessage, LimitId, PortRange, PrefixSet, Redirect, SetId, TcpFlags, Vlan,
    Wholeness,
};

/// A packet of either family, as the tests think of it.
#[derive(Clone, Debug)]
struct Packet {
    source: IpAddr,
    destination: IpAddr,
    ports: (u16, u16),
    protocol: u8,
    ingress: u16,
    vlan: Option<u16>,
    dscp: u8,
    flags: u8,
    icmp: Option<(u8, u8)>,
    fragment: Fragment,
}

/// What a rule means, word for word. Written apart from what it checks.
fn matches(rule: &Rule, sets: &[Vec<IpPrefix>], packet: &Packet) -> bool {
    let criteria = &rule.criteria;
    let in_set = |set: &SetId, address: IpAddr| {
        sets[usize::from(*set)]
            .iter()
            .any(|prefix| prefix.contains(address))
    };
    let side = |prefixes: &[IpPrefix], some: &[SetId], not: &[SetId], address: IpAddr| {
        let is_any = prefixes.is_empty() && some.is_empty();
        let is_named = prefixes.iter().any(|prefix| prefix.contains(address))
            || some.iter().any(|set| in_set(set, address));
        (is_any || is_named) && !not.iter().any(|set| in_set(set, address))
    };
    let has_ports =
        (packet.protocol == 6 || packet.protocol == 17) && packet.fragment != Fragment::Later;
    let in_ports = |ranges: &[PortRange], port: u16| {
        ranges.is_empty()
            || has_ports
                && ranges
                    .iter()
                    .any(|range| range.first <= port && port <= range.last)
    };
    let icmp = if packet.source.is_ipv4() { 1 } else { 58 };
    side(
        &rule.sources,
        &criteria.source_sets,
        &criteria.not_source_sets,
        packet.source,
    ) && side(
        &rule.destinations,
        &criteria.destination_sets,
        &criteria.not_destination_sets,
        packet.destination,
    ) && in_ports(&rule.source_ports, packet.ports.0)
        && in_ports(&rule.ports, packet.ports.1)
        && (rule.protocol.is_none() || rule.protocol == Some(packet.protocol))
        && (criteria.icmp.is_empty()
            || packet.protocol == icmp
                && criteria.icmp.iter().any(|message| match packet.icmp {
                    Some((kind, code)) => {
                        message.kind == kind
                            && (message.code.is_none() || message.code == Some(code))
                    }
                    None => false,
                }))
        && match criteria.tcp_flags {
            Some(flags) => {
                packet.protocol == 6
                    && packet.fragment != Fragment::Later
                    && packet.flags & flags.mask == flags.value
            }
            None => true,
        }
        && (criteria.dscp == 0 || criteria.dscp & (1 << packet.dscp) != 0)
        && (criteria.ingress.is_empty() || criteria.ingress.contains(&packet.ingress))
        && (criteria.vlans.is_empty()
            || criteria.vlans.iter().any(|vlan| match (vlan, packet.vlan) {
                (Vlan::Untagged, tag) => tag.is_none(),
                (Vlan::Ids(first, last), Some(id)) => (*first..=*last).contains(&id),
                (Vlan::Ids(..), None) => false,
            }))
        && match criteria.fragment {
            None => true,
            Some(Wholeness::Whole) => packet.fragment == Fragment::None,
            Some(Wholeness::Fragment) => packet.fragment != Fragment::None,
            Some(Wholeness::First) => packet.fragment == Fragment::First,
            Some(Wholeness::Later) => packet.fragment == Fragment::Later,
        }
}

/// Which rule decides, by looking at all of them; its action and treatment.
fn naive(
    rules: &RuleList,
    sets: &[Vec<IpPrefix>],
    packet: &Packet,
) -> Option<(RuleId, Action, Treatment)> {
    (0..)
        .zip(rules.iter())
        .filter(|(_, rule)| !rule.is_vacant() && matches(rule, sets, packet))
        .min_by_key(|(id, rule)| (rule.priority, rule.name.clone(), *id))
        .map(|(id, rule)| (id, rule.action, rule.treatment))
}

fn subject<A: Address>(packet: &Packet) -> Option<Subject<A>> {
    Some(Subject {
        tuple: FiveTuple {
            src: A::from_ip(packet.source)?,
            dst: A::from_ip(packet.destination)?,
            src_port: packet.ports.0,
            dst_port: packet.ports.1,
            protocol: packet.protocol,
        },
        ingress: packet.ingress,
        vlan: packet.vlan,
        dscp: packet.dscp,
        tcp_flags: packet.flags,
        icmp: packet.icmp,
        fragment: packet.fragment,
    })
}

fn told(rules: &Rules, found: Option<RuleMatch>) -> Option<(RuleId, Action, Treatment)> {
    found.map(|found| {
        let treatment = match found.treatment {
            NONE => Treatment::default(),
            id => rules.treatments()[usize::from(id)],
        };
        (found.rule, found.action, treatment)
    })
}

/// Asks about each packet alone and about all in bursts, and compares with all rules looked at.
fn check_family<A: Address>(
    rules: &Rules,
    list: &RuleList,
    sets: &[Vec<IpPrefix>],
    packets: &[Packet],
) {
    let of_family: Vec<(&Packet, Subject<A>)> = packets
        .iter()
        .filter_map(|packet| Some((packet, subject::<A>(packet)?)))
        .collect();
    let subjects: Vec<Subject<A>> = of_family.iter().map(|(_, subject)| *subject).collect();
    let mut together = vec![None; subjects.len()];
    rules.classify_burst(&subjects, &mut together);
    for ((packet, subject), together) in of_family.iter().zip(together) {
        let alone = rules.classify(subject);
        assert_eq!(alone, together, "alone and in a burst: {packet:?}");
        assert_eq!(told(rules, alone), naive(list, sets, packet), "{packet:?}");
    }
}

fn check_all(rules: &Rules, list: &RuleList, sets: &[Vec<IpPrefix>], packets: &[Packet]) {
    check_family::<Ipv4Addr>(rules, list, sets, packets);
    check_family::<Ipv6Addr>(rules, list, sets, packets);
}

fn compiled(sets: &[Vec<IpPrefix>]) -> Arc<[AddressSet]> {
    let mut number = 0_u8;
    let set = |prefixes: &Vec<IpPrefix>| {
        number += 1;
        let mut content = [number; 32];
        content[1] = u8::try_from(prefixes.len()).expect("few");
        AddressSet {
            name: format!("set{number}").into(),
            content,
            prefixes: Arc::new(PrefixSet::new(prefixes)),
        }
    };
    sets.iter().map(set).collect()
}

fn v4(bits: u32) -> IpAddr {
    Ipv4Addr::from(bits).into()
}

fn v6(bits: u128) -> IpAddr {
    Ipv6Addr::from(bits).into()
}

fn within(address: IpAddr, length: u8) -> IpPrefix {
    IpPrefix::containing(address, length).expect("a length of the family")
}

// Few distinct values, so that lists hit, nest and miss.
fn prefix() -> impl Strategy<Value = IpPrefix> {
    prop_oneof![
        (0_u32..16, 24_u8..=32).prop_map(|(bits, length)| within(v4(bits << 4), length)),
        (any::<u32>(), 0_u8..=32).prop_map(|(bits, length)| within(v4(bits), length)),
        (0_u128..16, 120_u8..=128).prop_map(|(bits, length)| within(v6(bits << 4), length)),
        (any::<u128>(), 0_u8..=128).prop_map(|(bits, length)| within(v6(bits), length)),
    ]
}

fn port_range() -> impl Strategy<Value = PortRange> {
    prop_oneof![
        (0_u16..40, 0_u16..10).prop_map(|(first, width)| (first, first + width)),
        (any::<u16>(), any::<u16>()).prop_map(|(a, b)| (a.min(b), a.max(b))),
        select(vec![
            (0, u16::MAX),
            (1024, u16::MAX),
            (0, 0),
            (u16::MAX, u16::MAX)
        ]),
    ]
    .prop_map(|(first, last)| PortRange { first, last })
}

fn few<T: core::fmt::Debug + 'static>(
    of: impl Strategy<Value = T> + 'static,
) -> impl Strategy<Value = Vec<T>> {
    prop_oneof![3 => Just(0), 2 => Just(1), 1 => Just(3)].prop_flat_map({
        let of = of.boxed();
        move |count: usize| prop::collection::vec(of.clone(), count)
    })
}

fn rarely<T: core::fmt::Debug + Clone + Default>(
    of: impl Strategy<Value = T>,
) -> impl Strategy<Value = T> {
    prop_oneof![5 => Just(T::default()), 1 => of]
}

const SETS: usize = 4;

fn set_ids() -> impl Strategy<Value = Vec<SetId>> {
    rarely(subsequence((0..4).collect::<Vec<SetId>>(), 1..=2))
}

fn criteria() -> impl Strategy<Value = Criteria> {
    let message =
        (0_u8..3, prop::option::of(0_u8..3)).prop_map(|(kind, code)| IcmpMessage { kind, code });
    let flags = (any::<u8>(), any::<u8>()).prop_map(|(mask, value)| TcpFlags {
        mask: mask & 0x13,
        value: value & mask & 0x13,
    });
    let vlan = prop_oneof![
        Just(Vlan::Untagged),
        (0_u16..6, 0_u16..3).prop_map(|(first, width)| Vlan::Ids(first, first + width)),
    ];
    let wholeness = select(vec![
        Wholeness::Whole,
        Wholeness::Fragment,
        Wholeness::First,
        Wholeness::Later,
    ]);
    (
        (set_ids(), set_ids(), set_ids(), set_ids()),
        rarely(prop::collection::vec(message, 1..3)),
        rarely(flags.prop_map(Some)),
        rarely(1_u64..16),
        rarely(subsequence(vec![0_u16, 1, 2, 3], 1..=3)),
        rarely(prop::collection::vec(vlan, 1..3)),
        rarely(wholeness.prop_map(Some)),
    )
        .prop_map(
            |(sets, icmp, tcp_flags, dscp, ingress, vlans, fragment)| Criteria {
                source_sets: sets.0,
                destination_sets: sets.1,
                not_source_sets: sets.2,
                not_destination_sets: sets.3,
                icmp,
                tcp_flags,
                dscp,
                ingress,
                vlans,
                fragment,
            },
        )
}

fn action() -> impl Strategy<Value = (Action, Treatment)> {
    let action = select(vec![
        Action::Allow,
        Action::Drop,
        Action::Reject,
        Action::Count,
        Action::Punt,
        Action::Redirect(Redirect::Service(3)),
        Action::Redirect(Redirect::Port(2)),
    ]);
    let limit = rarely((0..3_u16).prop_map(|limit: LimitId| Some(limit)));
    (action, limit).prop_map(|(action, limit)| {
        let treatment = Treatment {
            limit,
            ..Treatment::default()
        };
        (action, treatment)
    })
}

fn rule() -> impl Strategy<Value = Rule> {
    (
        (few(prefix()), few(prefix())),
        (few(port_range()), few(port_range())),
        prop::option::of(select(vec![1_u8, 6, 6, 17, 58, 47])),
        prop_oneof![2 => Just(Criteria::default()), 1 => criteria()],
        action(),
        (0_u32..4, "[a-c]{1,2}"),
    )
        .prop_map(
            |(sides, ports, protocol, criteria, (action, treatment), (priority, name))| Rule {
                name: name.into(),
                priority,
                mapping: None,
                sources: sides.0,
                destinations: sides.1,
                source_ports: ports.0,
                ports: ports.1,
                protocol,
                criteria,
                action,
                treatment,
            },
        )
}

fn packet() -> impl Strategy<Value = Packet> {
    let pair = prop_oneof![
        (0_u32..300, 0_u32..300).prop_map(|(a, b)| (v4(a), v4(b))),
        (any::<u32>(), any::<u32>()).prop_map(|(a, b)| (v4(a), v4(b))),
        (0_u128..300, 0_u128..300).prop_map(|(a, b)| (v6(a), v6(b))),
        (any::<u128>(), any::<u128>()).prop_map(|(a, b)| (v6(a), v6(b))),
    ];
    let port = || prop_oneof![0_u16..50, any::<u16>()];
    (
        pair,
        (port(), port()),
        select(vec![1_u8, 6, 17, 58, 47]),
        (0_u16..4, prop::option::of(0_u16..8), 0_u8..6),
        (any::<u8>(), (0_u8..3, 0_u8..3)),
        select(vec![
            Fragment::None,
            Fragment::None,
            Fragment::First,
            Fragment::Later,
        ]),
    )
        .prop_map(
            |(pair, ports, protocol, (ingress, vlan, dscp), (flags, icmp), fragment)| {
                let is_later = fragment == Fragment::Later;
                let is_tcp = protocol == 6 && !is_later;
                let is_icmp = protocol == if pair.0.is_ipv4() { 1 } else { 58 };
                Packet {
                    source: pair.0,
                    destination: pair.1,
                    ports: if is_later { (0, 0) } else { ports },
                    protocol,
                    ingress,
                    vlan,
                    dscp,
                    flags: if is_tcp { flags } else { 0 },
                    icmp: (is_icmp && !is_later).then_some(icmp),
                    fragment,
                }
            },
        )
}

fn sets() -> impl Strategy<Value = Vec<Vec<IpPrefix>>> {
    prop::collection::vec(prop::collection::vec(prefix(), 0..4), SETS)
}

fn build(list: &RuleList, sets: &Arc<[AddressSet]>) -> Arc<Rules> {
    Arc::new(Rules::new(list, sets).expect("rules that compile"))
}

/// Packets at the corners of rules, where a bound that is off by one shows.
fn corners(rules: &RuleList) -> Vec<Packet> {
    let side = |prefixes: &[IpPrefix], is_first: bool| match prefixes.first() {
        None => v4(if is_first { 0 } else { u32::MAX }),
        Some(prefix) => match (prefix.address(), is_first) {
            (address, true) => address,
            (IpAddr::V4(address), false) => {
                let hosts = u32::MAX.checked_shr(prefix.length().into()).unwrap_or(0);
                v4(u32::from(address) | hosts)
            }
            (IpAddr::V6(address), false) => {
                let hosts = u128::MAX.checked_shr(prefix.length().into()).unwrap_or(0);
                v6(u128::from(address) | hosts)
            }
        },
    };
    let mut packets = Vec::new();
    for rule in rules.iter() {
        for at in 0..16_u8 {
            let port = |ranges: &[PortRange], is_first: bool, is_outside: bool| {
                let range = ranges.first().copied().unwrap_or(PortRange::ALL);
                match (is_first, is_outside) {
                    (true, false) => range.first,
                    (false, false) => range.last,
                    (true, true) => range.first.wrapping_sub(1),
                    (false, true) => range.last.wrapping_add(1),
                }
            };
            packets.push(Packet {
                source: side(&rule.sources, at & 1 == 0),
                destination: side(&rule.destinations, at & 2 == 0),
                ports: (
                    port(&rule.source_ports, at & 1 == 0, at & 8 != 0 && at & 4 != 0),
                    port(&rule.ports, at & 2 == 0, at & 8 != 0 && at & 4 == 0),
                ),
                protocol: rule.protocol.unwrap_or(if at & 4 == 0 { 6 } else { 17 }),
                ingress: 0,
                vlan: None,
                dscp: 0,
                flags: 0,
                icmp: None,
                fragment: Fragment::None,
            });
        }
    }
    packets
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn agrees_with_the_meaning_of_the_words(
        list in prop::collection::vec(rule(), 0..40),
        sets in sets(),
        packets in prop::collection::vec(packet(), 150),
    ) {
        let list = RuleList::from(list);
        let rules = build(&list, &compiled(&sets));
        check_all(&rules, &list, &sets, &packets);
        check_all(&rules, &list, &sets, &corners(&list));
    }

    #[test]
    fn an_update_is_as_if_built_anew(
        list in prop::collection::vec(rule(), 1..30),
        sets in sets(),
        edits in prop::collection::vec(
            (0_u32..40, prop_oneof![1 => Just(None), 3 => rule().prop_map(Some)]),
            1..25,
        ),
        packets in prop::collection::vec(packet(), 60),
    ) {
        let compiled = compiled(&sets);
        let mut list = RuleList::from(list);
        let mut rules = build(&list, &compiled);
        for (id, edit) in edits {
            let rule = edit.unwrap_or_else(Rule::vacant);
            list.set(id, Arc::new(rule));
            rules = Rules::update(&rules, &list, &compiled).expect("rules that compile");
            check_all(&rules, &list, &sets, &packets);
            check_all(&rules, &list, &sets, &corners(&RuleList::from([list[id as usize].clone()])));
            let anew = build(&list, &compiled);
            prop_assert_eq!(rules.has_allow(), anew.has_allow());
            prop_assert_eq!(rules.order.ids(), anew.order.ids());
        }
    }
}

proptest! {
    // Each case has a thousand rules, looked at one by one for each packet.
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn agrees_on_large_sets_of_simple_rules(
        seed in any::<u64>(),
        kind in 0_u8..3,
        count in 100_usize..1500,
    ) {
        let mut random = Random(seed);
        let list: RuleList = (0..count).map(|number| random.rule(kind, number)).collect();
        let rules = build(&list, &Arc::from([]));
        let packets: Vec<Packet> = (0..300).map(|_| random.packet(&list)).collect();
        check_all(&rules, &list, &[], &packets);
        let some: RuleList = list.iter().take(20).cloned().collect();
        check_all(&rules, &list, &[], &corners(&some));
    }

    #[test]
    fn updates_of_large_sets_are_as_if_built_anew(seed in any::<u64>(), kind in 0_u8..3) {
        let mut random = Random(seed);
        let mut list: RuleList = (0..800).map(|number| random.rule(kind, number)).collect();
        let mut rules = build(&list, &Arc::from([]));
        for round in 0..20 {
            let mut touched = Vec::new();
            for _ in 0..=round % 4 {
                let id = random.below(820);
                let rule = match random.below(3) {
                    0 => Rule::vacant(),
                    _ => {
                        let number = random.below(800) as usize;
                        random.rule(kind, number)
                    }
                };
                touched.push(rule.clone());
                list.set(id, Arc::new(rule));
            }
            rules = Rules::update(&rules, &list, &Arc::from([])).expect("rules that compile");
            let mut packets: Vec<Packet> = (0..40).map(|_| random.packet(&list)).collect();
            packets.extend(corners(&RuleList::from(touched)));
            check_all(&rules, &list, &[], &packets);
        }
    }
}

/// Numbers for large sets: proptest's own strategies are too slow for a thousand rules a case.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u32) -> u32 {
        u32::try_from(self.next() % u64::from(limit)).expect("below a u32")
    }

    fn address(&mut self, is_v6: bool, is_clustered: bool) -> IpAddr {
        let site = if is_clustered {
            u64::from(self.below(8)) * 0x0123_4567_89ab
        } else {
            self.next()
        };
        let host = self.next() & 0xfff;
        if is_v6 {
            v6(u128::from(site) << 64 | u128::from(host) << 52 | u128::from(self.next() & 3))
        } else {
            v4(u32::try_from((site << 12 | host) & 0xffff_ffff).expect("32 bits"))
        }
    }

    /// 0: long prefixes and exact ports, 1: any length and any two ranges, 2: half of all anything.
    fn rule(&mut self, kind: u8, number: usize) -> Rule {
        let is_v6 = self.below(4) == 0;
        let side = |random: &mut Self| {
            let bits: u32 = if is_v6 { 128 } else { 32 };
            let length = match kind {
                0 => bits - random.below(bits / 3),
                _ => random.below(bits + 1),
            };
            if kind == 2 && random.below(2) == 0 {
                return Vec::new();
            }
            let address = random.address(is_v6, kind == 0);
            vec![within(address, u8::try_from(length).expect("a length"))]
        };
        let sources = side(self);
        let mut destinations = side(self);
        if sources.is_empty() && destinations.is_empty() && is_v6 {
            destinations.push(within(v6(0), 0));
        }
        let range = |random: &mut Self| {
            let first = u16::try_from(random.below(65_536)).expect("a port");
            let width = match kind {
                0 => 0,
                _ => random.below(65_536 - u32::from(first)),
            };
            let last = first + u16::try_from(width).expect("a port");
            vec![PortRange { first, last }]
        };
        let source_ports = if self.below(2) == 0 {
            Vec::new()
        } else {
            range(self)
        };
        Rule {
            name: format!("r{number:05}").into(),
            priority: self.below(100),
            sources,
            destinations,
            source_ports,
            ports: range(self),
            protocol: Some(if self.below(2) == 0 { 6 } else { 17 }),
            action: Action::Allow,
            ..Rule::vacant()
        }
    }

    /// A packet that a rule matches, as often as not with something changed.
    fn packet(&mut self, rules: &RuleList) -> Packet {
        let count = u32::try_from(rules.len()).expect("few");
        let rule = &rules[self.below(count) as usize];
        let is_v6 = rule
            .sources
            .iter()
            .chain(&rule.destinations)
            .any(|prefix| prefix.address().is_ipv6());
        let side = |random: &mut Self, prefixes: &[IpPrefix]| {
            let any = random.address(is_v6, false);
            prefixes
                .first()
                .map_or(any, |prefix| match (prefix.address(), any) {
                    (IpAddr::V4(first), IpAddr::V4(any)) => {
                        let hosts = u32::MAX.checked_shr(prefix.length().into()).unwrap_or(0);
                        v4(u32::from(first) | u32::from(any) & hosts)
                    }
                    (IpAddr::V6(first), IpAddr::V6(any)) => {
                        let hosts = u128::MAX.checked_shr(prefix.length().into()).unwrap_or(0);
                        v6(u128::from(first) | u128::from(any) & hosts)
                    }
                    _ => any,
                })
        };
        let port = |random: &mut Self, ranges: &[PortRange]| {
            let range = ranges.first().copied().unwrap_or(PortRange::ALL);
            let width = u32::from(range.last - range.first) + 1;
            range.first + u16::try_from(random.below(width)).expect("a port")
        };
        let mut packet = Packet {
            source: side(self, &rule.sources),
            destination: side(self, &rule.destinations),
            ports: (port(self, &rule.source_ports), port(self, &rule.ports)),
            protocol: rule.protocol.unwrap_or(6),
            ingress: 0,
            vlan: None,
            dscp: 0,
            flags: 0,
            icmp: None,
            fragment: Fragment::None,
        };
        match self.below(6) {
            0 => packet.ports.0 = packet.ports.0.wrapping_add(1),
            1 => packet.ports.1 = packet.ports.1.wrapping_sub(1),
            2 => packet.source = self.address(is_v6, false),
            _ => {}
        }
        packet
    }
}

fn named(name: &str) -> Rule {
    Rule {
        name: name.into(),
        action: Action::Allow,
        ..Rule::vacant()
    }
}

fn plain_packet() -> Packet {
    Packet {
        source: v4(1),
        destination: v4(2),
        ports: (1, 2),
        protocol: 6,
        ingress: 0,
        vlan: None,
        dscp: 0,
        flags: 0,
        icmp: None,
        fragment: Fragment::None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn what_is_shadowed_never_decides(
        list in prop::collection::vec(rule(), 2..60),
        sets in sets(),
        packets in prop::collection::vec(packet(), 200),
    ) {
        let list = RuleList::from(list);
        let rules = build(&list, &compiled(&sets));
        let shadowed = rules.shadowed();
        let packets = packets.into_iter().chain(corners(&list));
        for packet in packets {
            if packet.source.is_ipv4() != packet.destination.is_ipv4() {
                continue;
            }
            for (hidden, by) in &shadowed {
                let [hidden, by] = [hidden, by].map(|id| &list[*id as usize]);
                prop_assert!((by.priority, &by.name) <= (hidden.priority, &hidden.name));
                let is_wrong = matches(hidden, &sets, &packet) && !matches(by, &sets, &packet);
                prop_assert!(!is_wrong, "{hidden:?} by {by:?}: {packet:?}");
            }
        }
    }

    #[test]
    fn of_simple_rules_every_shadowed_one_is_found(seed in any::<u64>()) {
        let mut random = Random(seed);
        let list: RuleList = (0..120).map(|number| Rule {
            sources: match random.below(3) {
                0 => Vec::new(),
                length => vec![within(v4(0x0a00_0000), u8::try_from(8 * length).expect("a length"))],
            },
            destinations: vec![within(v4(random.below(4) << 20), u8::try_from(random.below(14)).expect("a length"))],
            ..random.rule(1, number)
        }).collect();
        let rules = build(&list, &Arc::from([]));
        let order = |rule: &Rule| (rule.priority, rule.name.clone());
        let is_in = |ranges: &[PortRange], others: &[PortRange]| match (ranges.first(), others.first()) {
            (_, None) => true,
            (None, Some(_)) => false,
            (Some(range), Some(other)) => other.first <= range.first && range.last <= other.last,
        };
        let covers = |by: &Rule, rule: &Rule| {
            (by.sources.is_empty() || !rule.sources.is_empty() && by.sources[0].covers(rule.sources[0]))
                && by.destinations[0].covers(rule.destinations[0])
                && is_in(&rule.ports, &by.ports)
                && is_in(&rule.source_ports, &by.source_ports)
                && by.protocol == rule.protocol
        };
        let expected: Vec<RuleId> = (0..)
            .zip(list.iter())
            .filter(|(_, rule)| list.iter().any(|by| order(by) < order(rule) && covers(by, rule)))
            .map(|(id, _)| id)
            .collect();
        let found: Vec<RuleId> = rules.shadowed().into_iter().map(|(hidden, _)| hidden).collect();
        prop_assert_eq!(found, expected);
    }
}

#[test]
fn no_rules_no_match_and_no_transit() {
    let rules = Rules::new(&RuleList::default(), &Arc::from([])).expect("nothing to refuse");
    check_all(&rules, &RuleList::default(), &[], &[plain_packet()]);
    assert!(!rules.has_allow());
}

#[test]
fn a_backwards_range_is_refused_by_name() {
    let backwards = Rule {
        ports: vec![PortRange { first: 9, last: 8 }],
        ..named("odd")
    };
    let said = "rule \"odd\": port range 9-8 is backwards";
    let list = RuleList::from([backwards]);
    let error = Rules::new(&list, &Arc::from([])).expect_err("refused");
    assert_eq!(error.to_string(), said);
    let before = build(&RuleList::from([named("even")]), &Arc::from([]));
    let error = Rules::update(&before, &list, &Arc::from([])).expect_err("refused");
    assert_eq!(error.to_string(), said);
}

#[test]
fn nothing_new_is_the_same_object_and_an_unused_set_is_nothing_new() {
    let by_set = Rule {
        criteria: Criteria {
            source_sets: vec![1],
            ..Criteria::default()
        },
        ..named("by set")
    };
    let list: RuleList = [by_set, named("b")].into();
    let contents = |prefixes: [&str; 2]| {
        let parse = |text: &str| vec![text.parse::<IpPrefix>().expect("a prefix"); text.len() % 5];
        compiled(&prefixes.map(parse))
    };
    let sets = contents(["10.0.0.0/24", "10.0.0.0/25"]);
    let rules = build(&list, &sets);
    let same: RuleList = list.iter().map(|rule| Rule::clone(rule)).collect();
    let update = |sets: &Arc<[AddressSet]>| Rules::update(&rules, &same, sets).expect("compiles");
    assert!(Arc::ptr_eq(&rules, &update(&sets)));
    let (mut unused, mut used) = (sets.to_vec(), sets.to_vec());
    unused[0].content = [9; 32];
    used[1].content = [9; 32];
    assert!(Arc::ptr_eq(&rules, &update(&unused.into())));
    let next = update(&used.into());
    assert!(!Arc::ptr_eq(&rules, &next));
    assert!(
        Arc::ptr_eq(&rules.v4, &next.v4),
        "trees do not depend on what sets hold"
    );
}

#[test]
fn a_set_that_changes_changes_what_its_rules_match() {
    let by_set = Rule {
        criteria: Criteria {
            source_sets: vec![0],
            ..Criteria::default()
        },
        ..named("by set")
    };
    let list: RuleList = [by_set].into();
    let holds = |text: &str| vec![vec![text.parse::<IpPrefix>().expect("a prefix")]];
    let (before, after) = (holds("0.0.0.0/30"), holds("10.0.0.0/8"));
    let rules = build(&list, &compiled(&before));
    let mut sets = compiled(&after).to_vec();
    sets[0].content = [7; 32];
    let next = Rules::update(&rules, &list, &sets.into()).expect("compiles");
    check_all(&rules, &list, &before, &[plain_packet()]);
    check_all(&next, &list, &after, &[plain_packet()]);
    assert_ne!(
        naive(&list, &before, &plain_packet()),
        naive(&list, &after, &plain_packet()),
    );
}

#[test]
fn a_changed_rule_leaves_most_pages_shared() {
    let mut random = Random(1);
    let mut list: RuleList = (0..5000).map(|number| random.rule(0, number)).collect();
    let rules = build(&list, &Arc::from([]));
    let mut rule = list[17].clone();
    rule.action = Action::Drop;
    list.set(17, Arc::new(rule));
    let next = Rules::update(&rules, &list, &Arc::from([])).expect("compiles");
    let pages = |rules: &Rules| -> Vec<_> {
        let v4 = rules.v4.pages().map(|page| Arc::as_ptr(&page.lines).addr());
        v4.chain(rules.v6.pages().map(|page| Arc::as_ptr(&page.lines).addr()))
            .collect()
    };
    let (before, after) = (pages(&rules), pages(&next));
    assert!(before.len() > 50, "{} pages", before.len());
    let new = before.iter().zip(&after).filter(|(a, b)| a != b).count();
    assert!(
        (1..=4).contains(&new),
        "{new} of {} pages are new",
        before.len()
    );
}

#[test]
fn a_rule_with_more_lists_than_boxes_is_looked_at_again() {
    let list_of = |shift: u32, count: u32| -> Vec<IpPrefix> {
        (0..count)
            .map(|number| within(v4(number << shift), 32))
            .collect()
    };
    let wide = Rule {
        sources: list_of(3, 70),
        destinations: list_of(2, 70),
        ports: (0..20)
            .map(|port| PortRange {
                first: port * 3,
                last: port * 3 + 1,
            })
            .collect(),
        ..named("wide")
    };
    let list: RuleList = [wide].into();
    let rules = build(&list, &Arc::from([]));
    let packets: Vec<Packet> = (0..400)
        .map(|number| Packet {
            source: v4(number % 64),
            destination: v4(number / 2),
            ports: (7, u16::try_from(number % 70).expect("a port")),
            ..plain_packet()
        })
        .collect();
    check_all(&rules, &list, &[], &packets);
}

#[test]
fn rules_that_nothing_tells_apart_are_refused_by_name() {
    let conditional = |number: u32| Rule {
        priority: number,
        criteria: Criteria {
            dscp: 1 << (number % 60),
            ..Criteria::default()
        },
        ..named(&format!("r{number:04}"))
    };
    let most = u32::try_from(bounds::MOST_IN_LEAF).expect("a small bound");
    let list: RuleList = (0..most).map(conditional).collect();
    let rules = build(&list, &Arc::from([]));
    let mut longer = list.clone();
    longer.set(most, Arc::new(conditional(most)));
    let said = format!("rule \"r{most:04}\": {most} rules before it match where it does");
    for error in [
        Rules::new(&longer, &Arc::from([])).expect_err("refused"),
        Rules::update(&rules, &longer, &Arc::from([])).expect_err("refused"),
    ] {
        assert!(error.to_string().starts_with(&said), "{error}");
    }
}

#[test]
fn one_rule_more_than_there_are_ids_is_refused_by_an_update_too() {
    let mut list = RuleList::default();
    let last = RuleId::try_from(MAX_RULES - 1).expect("an id");
    list.set(last, Arc::new(named("last")));
    let rules = build(&list, &Arc::from([]));
    assert_eq!(list.len(), MAX_RULES);
    list.set(last + 1, Arc::new(named("one more")));
    let error = Rules::update(&rules, &list, &Arc::from([])).expect_err("refused");
    let count = MAX_RULES + 1;
    let what = "rules";
    assert_eq!(error, BuildError::TooMany { what, count });
}

#[test]
fn every_treatment_has_its_number() {
    let list: RuleList = (0..300_u32)
        .map(|number| Rule {
            treatment: Treatment {
                limit: Some(u16::try_from(number).expect("few") / 2),
                ..Treatment::default()
            },
            destinations: vec![within(v4(number), 32)],
            ..named(&format!("r{number}"))
        })
        .collect();
    let rules = build(&list, &Arc::from([]));
    assert_eq!(rules.treatments().len(), 150);
    let packets: Vec<Packet> = (0..300)
        .map(|number| Packet {
            destination: v4(number),
            ..plain_packet()
        })
        .collect();
    check_all(&rules, &list, &[], &packets);
    let by_name: HashMap<_, _> = list
        .iter()
        .map(|rule| (rule.name.clone(), rule.treatment))
        .collect();
    assert_eq!(by_name.len(), 300);
}

/// Rules of two parts, those by destination looked at first, and one more by source that comes before all of them.
#[test]
fn a_rule_that_comes_before_all_others_is_found_after_an_update() {
    let by_destination = |number: u32| Rule {
        priority: 10,
        destinations: vec![within(v4(number), 32)],
        ..named(&format!("d{number}"))
    };
    let by_source = |number: u32| Rule {
        priority: 20,
        sources: vec![within(v4(number), 32)],
        action: Action::Drop,
        ..named(&format!("s{number}"))
    };
    let mut list: RuleList = (0..100)
        .map(by_destination)
        .chain((0..100).map(by_source))
        .collect();
    let rules = build(&list, &Arc::from([]));
    let first = Rule {
        priority: 1,
        ..by_source(1)
    };
    list.set(200, Arc::new(first));
    let next = Rules::update(&rules, &list, &Arc::from([])).expect("compiles");
    check_all(&next, &list, &[], &[plain_packet()]);
    let found = next.classify(&subject::<Ipv4Addr>(&plain_packet()).expect("IPv4"));
    assert_eq!(found.map(|found| found.rule), Some(200));
}
