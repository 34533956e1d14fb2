//! The rule classifier: allow or drop by the first rule that matches.
//!
//! One compact list per family, in order of (priority, name), searched from the front. Each entry carries a cover (one
//! prefix and one port range per side, one protocol) that refuses most packets by a few compares; only a rule that lists
//! several prefixes or ranges looks further. Established flows never come here.

use std::sync::Arc;

use march_wire::tuple::{Address, Family, FiveTuple, IpPrefix};

use crate::lpm::range;
use crate::{BuildError, NONE, PortId, PortRange, Rule, RuleId};

/// What a rule does with what it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Goes on, transit included.
    Allow,
    /// Dropped as `rule_drop`.
    Drop,
}

/// The rule that decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleMatch {
    /// Which rule: its position in the configuration.
    pub rule: RuleId,
    /// What it says.
    pub action: Action,
}

/// Every rule of one generation.
#[derive(Debug)]
pub struct Rules {
    v4: Box<[Entry<u32>]>,
    v6: Box<[Entry<u128>]>,
    has_allow: bool,
    source: Arc<[Rule]>,
}

/// The addresses of one family as numbers, most significant bit first.
trait Number: Copy + Ord {
    const FAMILY: Family;
    const MAX: Self;
    /// A number of this family, given in 128 bits. Bits above the family's width are ignored.
    fn narrow(number: u128) -> Self;
}

impl Number for u32 {
    const FAMILY: Family = Family::V4;
    const MAX: Self = u32::MAX;
    #[inline]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the upper bits are ignored, as documented"
    )]
    fn narrow(number: u128) -> Self {
        number as u32
    }
}

impl Number for u128 {
    const FAMILY: Family = Family::V6;
    const MAX: Self = u128::MAX;
    #[inline]
    fn narrow(number: u128) -> Self {
        number
    }
}

/// What a packet is compared by.
#[derive(Clone, Copy)]
struct Probe<N> {
    source: N,
    destination: N,
    source_port: u16,
    destination_port: u16,
    protocol: u8,
}

impl<N: Number> Probe<N> {
    #[inline]
    fn of<A: Address>(tuple: &FiveTuple<A>) -> Self {
        Self {
            source: N::narrow(tuple.src.to_number()),
            destination: N::narrow(tuple.dst.to_number()),
            source_port: tuple.src_port,
            destination_port: tuple.dst_port,
            protocol: tuple.protocol,
        }
    }
}

/// Numbers from `first` to `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Interval<N> {
    first: N,
    last: N,
}

impl<N: Copy + Ord> Interval<N> {
    #[inline]
    fn contains(&self, number: N) -> bool {
        self.first <= number && number <= self.last
    }

    /// The smallest interval around all of `parts`.
    fn cover(parts: &[Self]) -> Option<Self> {
        Some(Self {
            first: parts.iter().map(|part| part.first).min()?,
            last: parts.iter().map(|part| part.last).max()?,
        })
    }
}

/// One rule in one family.
#[derive(Debug)]
struct Entry<N> {
    source: Interval<N>,
    destination: Interval<N>,
    source_ports: Interval<u16>,
    destination_ports: Interval<u16>,
    protocol: Protocols,
    rule: RuleId,
    action: Action,
    /// Present when a cover is wider than what it covers.
    parts: Option<Box<Parts<N>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocols {
    Any,
    /// The rule names ports but no protocol.
    WithPorts,
    One(u8),
    /// The rule names ports and a protocol without any.
    Never,
}

impl Protocols {
    fn of(rule: &Rule) -> Self {
        let has_ports = !(rule.source_ports.is_empty() && rule.ports.is_empty());
        match (rule.protocol, has_ports) {
            (None, false) => Self::Any,
            (None, true) => Self::WithPorts,
            (Some(protocol), true) if !carries_ports(protocol) => Self::Never,
            (Some(protocol), _) => Self::One(protocol),
        }
    }

    #[inline]
    fn contains(self, protocol: u8) -> bool {
        match self {
            Self::One(one) => one == protocol,
            Self::Any => true,
            Self::WithPorts => carries_ports(protocol),
            Self::Never => false,
        }
    }
}

/// TCP and UDP. The tuple's port fields of other protocols hold something else.
#[inline]
fn carries_ports(protocol: u8) -> bool {
    matches!(protocol, 6 | 17)
}

/// The lists behind a cover.
#[derive(Debug)]
struct Parts<N> {
    sources: Box<[Interval<N>]>,
    destinations: Box<[Interval<N>]>,
    source_ports: Box<[Interval<u16>]>,
    destination_ports: Box<[Interval<u16>]>,
}

impl<N: Number> Parts<N> {
    #[inline]
    fn matches(&self, probe: &Probe<N>) -> bool {
        holds(&self.sources, probe.source)
            && holds(&self.destinations, probe.destination)
            && holds(&self.source_ports, probe.source_port)
            && holds(&self.destination_ports, probe.destination_port)
    }
}

fn holds<N: Copy + Ord>(parts: &[Interval<N>], number: N) -> bool {
    parts.iter().any(|part| part.contains(number))
}

impl<N: Number> Entry<N> {
    /// The rule in this family; `None` if it names addresses of the other family only.
    fn new(rule: &Rule, id: RuleId) -> Option<Self> {
        let parts = Parts {
            sources: addresses(&rule.sources),
            destinations: addresses(&rule.destinations),
            source_ports: ports(&rule.source_ports),
            destination_ports: ports(&rule.ports),
        };
        let is_simple = parts.sources.len() == 1
            && parts.destinations.len() == 1
            && parts.source_ports.len() == 1
            && parts.destination_ports.len() == 1;
        Some(Self {
            source: Interval::cover(&parts.sources)?,
            destination: Interval::cover(&parts.destinations)?,
            source_ports: Interval::cover(&parts.source_ports)?,
            destination_ports: Interval::cover(&parts.destination_ports)?,
            protocol: Protocols::of(rule),
            rule: id,
            action: rule.action,
            parts: (!is_simple).then(|| Box::new(parts)),
        })
    }

    #[inline]
    fn matches(&self, probe: &Probe<N>) -> bool {
        // Destinations first: they tell rules apart best. A rule without ports covers all of them, and one with ports
        // refuses protocols without any, so what the port fields hold for those does not matter.
        self.destination.contains(probe.destination)
            && self.destination_ports.contains(probe.destination_port)
            && self.source.contains(probe.source)
            && self.protocol.contains(probe.protocol)
            && self.source_ports.contains(probe.source_port)
            && self.parts.as_ref().is_none_or(|parts| parts.matches(probe))
    }
}

/// A rule's prefixes of one family as intervals; one that holds everything for an empty list.
fn addresses<N: Number>(prefixes: &[IpPrefix]) -> Box<[Interval<N>]> {
    if prefixes.is_empty() {
        return Box::new([Interval {
            first: N::narrow(0),
            last: N::MAX,
        }]);
    }
    let of_family = prefixes
        .iter()
        .filter(|prefix| prefix.family() == N::FAMILY);
    of_family
        .map(|prefix| {
            let (first, last) = range(*prefix);
            Interval {
                first: N::narrow(first),
                last: N::narrow(last),
            }
        })
        .collect()
}

fn ports(ranges: &[PortRange]) -> Box<[Interval<u16>]> {
    let interval = |range: &PortRange| Interval {
        first: range.first,
        last: range.last,
    };
    if ranges.is_empty() {
        Box::new([interval(&PortRange::ALL)])
    } else {
        ranges.iter().map(interval).collect()
    }
}

fn first_match<N: Number>(entries: &[Entry<N>], probe: &Probe<N>) -> Option<RuleMatch> {
    let entry = entries.iter().find(|entry| entry.matches(probe))?;
    Some(RuleMatch {
        rule: entry.rule,
        action: entry.action,
    })
}

impl Rules {
    /// Compiles rules; the order given does not matter.
    pub(crate) fn new(source: &Arc<[Rule]>) -> Result<Self, BuildError> {
        if source.len() >= usize::from(NONE) {
            return Err(BuildError::TooMany {
                what: "rules",
                count: source.len(),
            });
        }
        if let Some((rule, range)) = source.iter().find_map(backwards) {
            return Err(BuildError::RulePorts {
                rule: rule.name.clone(),
                first: range.first,
                last: range.last,
            });
        }
        let mut order: Vec<(RuleId, &Rule)> = (0..)
            .zip(&**source)
            .filter(|(_, rule)| !rule.is_vacant())
            .collect();
        order.sort_by_key(|(id, rule)| (rule.priority, &rule.name, *id));
        Ok(Self {
            v4: order
                .iter()
                .filter_map(|(id, rule)| Entry::new(rule, *id))
                .collect(),
            v6: order
                .iter()
                .filter_map(|(id, rule)| Entry::new(rule, *id))
                .collect(),
            has_allow: source.iter().any(|rule| rule.action == Action::Allow),
            source: Arc::clone(source),
        })
    }

    /// The first rule, by priority and then name, that matches. `ingress` is for rules that name a port; none do yet.
    #[inline]
    pub fn classify<A: Address>(
        &self,
        tuple: &FiveTuple<A>,
        _ingress: PortId,
    ) -> Option<RuleMatch> {
        match A::FAMILY {
            Family::V4 => first_match(&self.v4, &Probe::of(tuple)),
            Family::V6 => first_match(&self.v6, &Probe::of(tuple)),
        }
    }

    /// Whether any rule allows: without one, nothing is transit.
    pub fn has_allow(&self) -> bool {
        self.has_allow
    }

    /// The rule as configured, if the id is in bounds.
    pub fn get(&self, id: RuleId) -> Option<&Rule> {
        self.source.get(usize::from(id))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.source.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.source.is_empty()
    }

    pub(crate) fn source(&self) -> &Arc<[Rule]> {
        &self.source
    }
}

fn backwards(rule: &Rule) -> Option<(&Rule, PortRange)> {
    let mut ranges = rule.source_ports.iter().chain(&rule.ports);
    ranges
        .find(|range| range.first > range.last)
        .map(|range| (rule, *range))
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
    use proptest::prelude::*;
    use proptest::sample::select;

    fn prefix() -> impl Strategy<Value = IpPrefix> {
        // Few distinct addresses, so that lists hit, nest and miss.
        prop_oneof![
            (0_u32..16, 24_u8..=32).prop_map(|(bits, length)| {
                IpPrefix::containing(Ipv4Addr::from(bits << 4).into(), length).expect("a length")
            }),
            (0_u128..16, 120_u8..=128).prop_map(|(bits, length)| {
                IpPrefix::containing(Ipv6Addr::from(bits << 4).into(), length).expect("a length")
            }),
        ]
    }

    fn port_range() -> impl Strategy<Value = PortRange> {
        (0_u16..40, 0_u16..10).prop_map(|(first, width)| PortRange {
            first,
            last: first + width,
        })
    }

    fn rule() -> impl Strategy<Value = Rule> {
        (
            prop::collection::vec(prefix(), 0..4),
            prop::collection::vec(prefix(), 0..4),
            prop::collection::vec(port_range(), 0..3),
            prop::collection::vec(port_range(), 0..3),
            prop::option::of(select(vec![1_u8, 6, 17, 58])),
            (
                0_u32..3,
                select(vec!["a", "aa", "b", "ba", "c"]),
                any::<bool>(),
            ),
        )
            .prop_map(
                |(
                    sources,
                    destinations,
                    source_ports,
                    ports,
                    protocol,
                    (priority, name, allow),
                )| {
                    Rule {
                        name: name.into(),
                        priority,
                        sources,
                        destinations,
                        source_ports,
                        ports,
                        protocol,
                        action: if allow { Action::Allow } else { Action::Drop },
                    }
                },
            )
    }

    /// What a rule means, word for word.
    fn matches(
        rule: &Rule,
        source: IpAddr,
        destination: IpAddr,
        ports: (u16, u16),
        protocol: u8,
    ) -> bool {
        let in_prefixes = |list: &[IpPrefix], address: IpAddr| {
            list.is_empty() || list.iter().any(|prefix| prefix.contains(address))
        };
        let in_ports = |list: &[PortRange], port: u16| {
            let has_ports = protocol == 6 || protocol == 17;
            list.is_empty() || has_ports && list.iter().any(|range| range.contains(port))
        };
        in_prefixes(&rule.sources, source)
            && in_prefixes(&rule.destinations, destination)
            && in_ports(&rule.source_ports, ports.0)
            && in_ports(&rule.ports, ports.1)
            && rule.protocol.is_none_or(|wanted| wanted == protocol)
    }

    fn naive(
        rules: &[Rule],
        source: IpAddr,
        destination: IpAddr,
        ports: (u16, u16),
        protocol: u8,
    ) -> Option<RuleMatch> {
        (0..)
            .zip(rules)
            .filter(|(_, rule)| matches(rule, source, destination, ports, protocol))
            .min_by_key(|(id, rule)| (rule.priority, rule.name.clone(), *id))
            .map(|(rule, found)| RuleMatch {
                rule,
                action: found.action,
            })
    }

    fn tuple<A: Address>(src: A, dst: A, ports: (u16, u16), protocol: u8) -> FiveTuple<A> {
        FiveTuple {
            src,
            dst,
            src_port: ports.0,
            dst_port: ports.1,
            protocol,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn agrees_with_the_meaning_of_the_words(
            list in prop::collection::vec(rule(), 0..16),
            probes in prop::collection::vec(
                (0_u32..300, 0_u32..300, (0_u16..50, 0_u16..50), select(vec![1_u8, 6, 17, 58])),
                40,
            ),
        ) {
            let rules = Rules::new(&list.clone().into()).expect("rules that compile");
            for (source, destination, ports, protocol) in probes {
                let (src, dst) = (Ipv4Addr::from(source), Ipv4Addr::from(destination));
                prop_assert_eq!(
                    rules.classify(&tuple(src, dst, ports, protocol), 0),
                    naive(&list, src.into(), dst.into(), ports, protocol)
                );
                let (src, dst) = (Ipv6Addr::from(u128::from(source)), Ipv6Addr::from(u128::from(destination)));
                prop_assert_eq!(
                    rules.classify(&tuple(src, dst, ports, protocol), 0),
                    naive(&list, src.into(), dst.into(), ports, protocol)
                );
            }
        }
    }

    #[test]
    fn no_rules_no_match_and_no_transit() {
        let rules = Rules::new(&Arc::from([])).expect("nothing to refuse");
        let any = tuple(Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST, (1, 2), 6);
        assert_eq!(rules.classify(&any, 0), None);
        assert!(!rules.has_allow());
    }

    #[test]
    fn a_backwards_range_is_refused_by_name() {
        let rule = Rule {
            name: "odd".into(),
            priority: 1,
            sources: Vec::new(),
            destinations: Vec::new(),
            source_ports: Vec::new(),
            ports: vec![PortRange { first: 9, last: 8 }],
            protocol: None,
            action: Action::Drop,
        };
        let error = Rules::new(&Arc::from([rule])).expect_err("refused");
        assert_eq!(
            error.to_string(),
            "rule \"odd\": port range 9-8 is backwards"
        );
    }
}
