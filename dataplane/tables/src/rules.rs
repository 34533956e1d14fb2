//! The rule classifier: allow or drop by the first rule that matches.
//!
//! One list per family, in order of (priority, name), searched from the front. Each rule has a cover (one address range
//! and one port range per side, one protocol) that refuses most packets; the address covers of sixteen rules are compared
//! at once, and only a rule that lists several prefixes or ranges looks further than its cover. Established flows never
//! come here.

mod entry;
mod list;

use std::sync::Arc;

use march_wire::ip;
use march_wire::tuple::{Address, Family, IpPrefix};

use entry::{Entry, Probe};
use list::List;

use crate::{
    Action, AddressSet, BuildError, NONE, PortRange, Rule, RuleId, RuleList, SetId, Subject,
    Treatment, TreatmentId, Vlan,
};

/// The rule that decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleMatch {
    /// Which rule: its position in the configuration.
    pub rule: RuleId,
    /// What it says.
    pub action: Action,
    /// How what it lets through is treated; [`NONE`] for as it is.
    pub treatment: TreatmentId,
}

/// How many rules a generation takes at most.
pub const MAX_RULES: usize = 1 << 20;

/// Every rule of one generation.
#[derive(Debug)]
pub struct Rules {
    v4: List<u32>,
    v6: List<u128>,
    has_allow: bool,
    source: RuleList,
    sets: Arc<[AddressSet]>,
    treatments: Arc<[Treatment]>,
}

impl Rules {
    /// Compiles rules; the order given does not matter.
    pub(crate) fn new(source: &RuleList, sets: &Arc<[AddressSet]>) -> Result<Self, BuildError> {
        if source.len() > MAX_RULES {
            return Err(BuildError::TooMany {
                what: "rules",
                count: source.len(),
            });
        }
        if let Some((rule, range)) = source.iter().find_map(|rule| backwards(rule)) {
            return Err(BuildError::RulePorts {
                rule: rule.name.clone(),
                first: range.first,
                last: range.last,
            });
        }
        let mut order: Vec<(RuleId, &Rule)> = (0..)
            .zip(source.iter().map(|rule| &**rule))
            .filter(|(_, rule)| !rule.is_vacant())
            .collect();
        order.sort_by_key(|(id, rule)| (rule.priority, &rule.name, *id));
        let treatments = treatments(source)?;
        let of = |rule: &Rule| treatment_of(&treatments, rule);
        let of_order = || order.iter().copied();
        Ok(Self {
            v4: List::new(of_order().filter_map(|(id, rule)| Entry::new(rule, id, of(rule)))),
            v6: List::new(of_order().filter_map(|(id, rule)| Entry::new(rule, id, of(rule)))),
            has_allow: source.iter().any(|rule| rule.action.carries_transit()),
            source: source.clone(),
            sets: Arc::clone(sets),
            treatments: treatments.into(),
        })
    }

    /// The first rule, by priority and then name, that matches.
    #[inline]
    pub fn classify<A: Address>(&self, subject: &Subject<A>) -> Option<RuleMatch> {
        let accept = |rule: RuleId| {
            self.get(rule)
                .is_some_and(|rule| self.meets_criteria(rule, subject))
        };
        match A::FAMILY {
            Family::V4 => self.v4.first_match(&Probe::of(&subject.tuple), accept),
            Family::V6 => self.v6.first_match(&Probe::of(&subject.tuple), accept),
        }
    }

    fn meets_criteria<A: Address>(&self, rule: &Rule, subject: &Subject<A>) -> bool {
        let criteria = &rule.criteria;
        let protocol = subject.tuple.protocol;
        let in_sets = |sets: &[SetId], address: A| {
            sets.iter().any(|set| {
                let set = self.sets.get(usize::from(*set));
                set.is_some_and(|set| set.prefixes.longest(address).is_some())
            })
        };
        let side = |prefixes: &[IpPrefix], sets: &[SetId], not: &[SetId], address: A| {
            let ip = address.into();
            (sets.is_empty()
                || prefixes.iter().any(|prefix| prefix.contains(ip))
                || in_sets(sets, address))
                && !in_sets(not, address)
        };
        side(
            &rule.sources,
            &criteria.source_sets,
            &criteria.not_source_sets,
            subject.tuple.src,
        ) && side(
            &rule.destinations,
            &criteria.destination_sets,
            &criteria.not_destination_sets,
            subject.tuple.dst,
        ) && (criteria.icmp.is_empty()
            || subject.icmp.is_some_and(|(kind, code)| {
                let mut messages = criteria.icmp.iter();
                messages.any(|message| {
                    message.kind == kind && message.code.is_none_or(|wanted| wanted == code)
                })
            }))
            && criteria.tcp_flags.is_none_or(|flags| {
                protocol == ip::TCP && subject.tcp_flags & flags.mask == flags.value
            })
            && (criteria.dscp == 0 || criteria.dscp >> (subject.dscp & 63) & 1 == 1)
            && (criteria.ingress.is_empty() || criteria.ingress.contains(&subject.ingress))
            && (criteria.vlans.is_empty()
                || criteria
                    .vlans
                    .iter()
                    .any(|vlan| match (*vlan, subject.vlan) {
                        (Vlan::Untagged, None) => true,
                        (Vlan::Ids(first, last), Some(id)) => first <= id && id <= last,
                        _ => false,
                    }))
            && criteria
                .fragment
                .is_none_or(|wanted| wanted.matches(subject.fragment))
    }

    /// The treatments that rules name, by [`TreatmentId`].
    pub(crate) fn treatments(&self) -> &Arc<[Treatment]> {
        &self.treatments
    }

    /// The address sets that rules name, by [`SetId`].
    pub(crate) fn sets(&self) -> &Arc<[AddressSet]> {
        &self.sets
    }

    /// Whether any rule allows: without one, nothing is transit.
    pub fn has_allow(&self) -> bool {
        self.has_allow
    }

    /// The rule as configured, if the id is in bounds.
    pub fn get(&self, id: RuleId) -> Option<&Rule> {
        self.source.get(id).map(|rule| &**rule)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.source.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.source.is_empty()
    }

    pub(crate) fn source(&self) -> &RuleList {
        &self.source
    }
}

/// The distinct treatments of rules, the plain one aside.
fn treatments(rules: &RuleList) -> Result<Vec<Treatment>, BuildError> {
    let mut seen = std::collections::BTreeSet::new();
    let distinct: Vec<Treatment> = rules
        .iter()
        .map(|rule| rule.treatment)
        .filter(|treatment| !treatment.is_plain() && seen.insert(*treatment))
        .collect();
    if distinct.len() >= usize::from(NONE) {
        return Err(BuildError::TooMany {
            what: "treatments",
            count: distinct.len(),
        });
    }
    Ok(distinct)
}

fn treatment_of(treatments: &[Treatment], rule: &Rule) -> TreatmentId {
    let position = treatments
        .iter()
        .position(|treatment| *treatment == rule.treatment);
    position
        .and_then(|position| TreatmentId::try_from(position).ok())
        .unwrap_or(NONE)
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
    use march_wire::tuple::FiveTuple;
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
                        ..Rule::vacant()
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
                treatment: NONE,
            })
    }

    fn tuple<A: Address>(src: A, dst: A, ports: (u16, u16), protocol: u8) -> Subject<A> {
        let tuple = FiveTuple {
            src,
            dst,
            src_port: ports.0,
            dst_port: ports.1,
            protocol,
        };
        Subject::of_tuple(tuple, 0)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn agrees_with_the_meaning_of_the_words(
            list in prop::collection::vec(rule(), 0..40),
            probes in prop::collection::vec(
                (0_u32..300, 0_u32..300, (0_u16..50, 0_u16..50), select(vec![1_u8, 6, 17, 58])),
                40,
            ),
        ) {
            let rules = Rules::new(&list.clone().into(), &Arc::from([])).expect("rules that compile");
            for (source, destination, ports, protocol) in probes {
                let (src, dst) = (Ipv4Addr::from(source), Ipv4Addr::from(destination));
                prop_assert_eq!(
                    rules.classify(&tuple(src, dst, ports, protocol)),
                    naive(&list, src.into(), dst.into(), ports, protocol)
                );
                let (src, dst) = (Ipv6Addr::from(u128::from(source)), Ipv6Addr::from(u128::from(destination)));
                prop_assert_eq!(
                    rules.classify(&tuple(src, dst, ports, protocol)),
                    naive(&list, src.into(), dst.into(), ports, protocol)
                );
            }
        }
    }

    #[test]
    fn no_rules_no_match_and_no_transit() {
        let rules = Rules::new(&RuleList::default(), &Arc::from([])).expect("nothing to refuse");
        let any = tuple(Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST, (1, 2), 6);
        assert_eq!(rules.classify(&any), None);
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
            ..Rule::vacant()
        };
        let error = Rules::new(&RuleList::from([rule]), &Arc::from([])).expect_err("refused");
        assert_eq!(
            error.to_string(),
            "rule \"odd\": port range 9-8 is backwards"
        );
    }
}
