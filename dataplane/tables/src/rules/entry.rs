//! One rule in one address family, and what a packet is compared by.

use march_wire::tuple::{Address, FiveTuple, IpPrefix};

use crate::number::Number;
use crate::{Action, Criteria, PortRange, Rule, RuleId, SetId, TreatmentId};

/// What a packet is compared by.
#[derive(Clone, Copy)]
pub(super) struct Probe<N> {
    pub source: N,
    pub destination: N,
    source_port: u16,
    destination_port: u16,
    protocol: u8,
}

impl<N: Number> Probe<N> {
    #[inline]
    pub fn of<A: Address>(tuple: &FiveTuple<A>) -> Self {
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
pub(super) struct Interval<N> {
    pub first: N,
    pub last: N,
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
pub(super) struct Entry<N> {
    pub source: Interval<N>,
    pub destination: Interval<N>,
    source_ports: Interval<u16>,
    destination_ports: Interval<u16>,
    protocol: Protocols,
    pub rule: RuleId,
    pub action: Action,
    pub treatment: TreatmentId,
    /// Whether nothing but the cover and the parts has to match.
    pub is_complete: bool,
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
    pub fn new(rule: &Rule, id: RuleId, treatment: TreatmentId) -> Option<Self> {
        let side = |prefixes: &[IpPrefix], sets: &[SetId]| {
            addresses(if sets.is_empty() { prefixes } else { &[] })
        };
        let parts = Parts {
            sources: side(&rule.sources, &rule.criteria.source_sets),
            destinations: side(&rule.destinations, &rule.criteria.destination_sets),
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
            treatment,
            is_complete: rule.criteria == Criteria::default(),
            parts: (!is_simple).then(|| Box::new(parts)),
        })
    }

    #[inline]
    pub fn matches(&self, probe: &Probe<N>) -> bool {
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
            first: N::ZERO,
            last: N::MAX,
        }]);
    }
    let of_family = prefixes.iter().filter_map(|prefix| N::range(*prefix));
    of_family
        .map(|(first, last)| Interval { first, last })
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
