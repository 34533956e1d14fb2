//! A whole rule against a packet: for the boxes that hold more than their rule.

use march_wire::ip;
use march_wire::parse::Fragment;
use march_wire::tuple::{Address, Family, IpPrefix};

use crate::{AddressSet, Criteria, PortRange, Rule, SetId, Subject, Vlan};

/// Answers of sets that are remembered for one packet. A leaf may have more rules with sets than this; those are asked again.
const REMEMBERED: usize = 16;

/// What sets said about one packet's addresses.
pub(super) struct Memory<'a> {
    sets: &'a [AddressSet],
    answers: [(SetId, Side, bool); REMEMBERED],
    count: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Source,
    Destination,
}

impl<'a> Memory<'a> {
    /// Nothing asked yet.
    #[inline]
    pub fn new(sets: &'a [AddressSet]) -> Self {
        Self {
            sets,
            answers: [(0, Side::Source, false); REMEMBERED],
            count: 0,
        }
    }

    /// For another packet.
    #[inline]
    pub fn forget(&mut self) {
        self.count = 0;
    }

    fn is_in<A: Address>(&mut self, set: SetId, side: Side, address: A) -> bool {
        let known = self.answers[..self.count]
            .iter()
            .find(|(other, of, _)| (*other, *of) == (set, side));
        if let Some((_, _, answer)) = known {
            return *answer;
        }
        let answer = self
            .sets
            .get(usize::from(set))
            .is_some_and(|set| set.prefixes.longest(address).is_some());
        if let Some(place) = self.answers.get_mut(self.count) {
            *place = (set, side, answer);
            self.count += 1;
        }
        answer
    }

    fn is_in_any<A: Address>(&mut self, sets: &[SetId], side: Side, address: A) -> bool {
        sets.iter().any(|set| self.is_in(*set, side, address))
    }
}

/// Whether a packet is what a rule says.
pub(super) fn applies<A: Address>(
    rule: &Rule,
    subject: &Subject<A>,
    memory: &mut Memory<'_>,
) -> bool {
    let criteria = &rule.criteria;
    let tuple = &subject.tuple;
    has_upper(rule, subject)
        && has_frame(criteria, subject)
        && is_among(
            (
                &rule.sources,
                &criteria.source_sets,
                &criteria.not_source_sets,
            ),
            (Side::Source, tuple.src),
            memory,
        )
        && is_among(
            (
                &rule.destinations,
                &criteria.destination_sets,
                &criteria.not_destination_sets,
            ),
            (Side::Destination, tuple.dst),
            memory,
        )
}

/// One side: in a prefix or in a set, or neither is given; and in no set that is excluded.
fn is_among<A: Address>(
    (prefixes, sets, not): (&[IpPrefix], &[SetId], &[SetId]),
    (side, address): (Side, A),
    memory: &mut Memory<'_>,
) -> bool {
    let is_open = prefixes.is_empty() && sets.is_empty();
    (is_open
        || prefixes.iter().any(|prefix| prefix.contains(address))
        || memory.is_in_any(sets, side, address))
        && !memory.is_in_any(not, side, address)
}

/// Protocol, ports, message and flags.
fn has_upper<A: Address>(rule: &Rule, subject: &Subject<A>) -> bool {
    let tuple = &subject.tuple;
    let has_ports =
        matches!(tuple.protocol, ip::TCP | ip::UDP) && subject.fragment != Fragment::Later;
    let in_ports = |ranges: &[PortRange], port: u16| {
        ranges.is_empty() || has_ports && ranges.iter().any(|range| range.contains(port))
    };
    let messages = match A::FAMILY {
        Family::V4 => ip::ICMP,
        Family::V6 => ip::ICMPV6,
    };
    let icmp = &rule.criteria.icmp;
    let is_message = |(kind, code): (u8, u8)| {
        let mut wanted = icmp.iter();
        wanted.any(|wanted| wanted.kind == kind && wanted.code.is_none_or(|wanted| wanted == code))
    };
    rule.protocol.is_none_or(|wanted| wanted == tuple.protocol)
        && in_ports(&rule.source_ports, tuple.src_port)
        && in_ports(&rule.ports, tuple.dst_port)
        && (icmp.is_empty() || tuple.protocol == messages && subject.icmp.is_some_and(is_message))
        && rule.criteria.tcp_flags.is_none_or(|flags| {
            // A later fragment has no header to read them from.
            tuple.protocol == ip::TCP
                && subject.fragment != Fragment::Later
                && subject.tcp_flags & flags.mask == flags.value
        })
}

/// What is not about addresses, ports or messages.
fn has_frame<A: Address>(criteria: &Criteria, subject: &Subject<A>) -> bool {
    let is_vlan = |vlan: &Vlan| match (*vlan, subject.vlan) {
        (Vlan::Untagged, None) => true,
        (Vlan::Ids(first, last), Some(id)) => first <= id && id <= last,
        _ => false,
    };
    (criteria.dscp == 0 || criteria.dscp >> (subject.dscp & 63) & 1 == 1)
        && (criteria.ingress.is_empty() || criteria.ingress.contains(&subject.ingress))
        && (criteria.vlans.is_empty() || criteria.vlans.iter().any(is_vlan))
        && criteria
            .fragment
            .is_none_or(|wanted| wanted.matches(subject.fragment))
}
