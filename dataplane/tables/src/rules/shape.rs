//! From a rule to the boxes that hold what it matches.

use core::net::IpAddr;

use march_wire::ip;
use march_wire::tuple::{Address, Family, IpPrefix};

use super::bounds::MOST_PIECES;
use super::space::{NO_MESSAGE, Piece, TAIL, full, protocol};
use super::verdict::{self, Flags};
use crate::{Criteria, IcmpMessage, PortRange, Rule, RuleId, SetId};

/// An interval of one word, or of a side's words together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Interval<N> {
    lowest: N,
    highest: N,
}

/// Intervals that together are what a rule says about one thing.
struct Choices<N> {
    intervals: Vec<Interval<N>>,
    /// What is in one of them may still not match.
    is_wider: bool,
}

impl<N: Copy + Ord> Choices<N> {
    fn one(lowest: N, highest: N) -> Self {
        Self {
            intervals: vec![Interval { lowest, highest }],
            is_wider: false,
        }
    }
}

/// What a rule's port words and protocol word may be: a message, a pair of port ranges, or anything.
#[derive(Clone, Copy)]
struct Upper {
    source_port: Interval<u32>,
    port: Interval<u32>,
    protocol: Interval<u32>,
}

/// Appends the boxes of a rule in the family of `W`: none if it can match no packet of that family.
pub(super) fn pieces<const W: usize>(rule: &Rule, id: RuleId, rank: u32, out: &mut Vec<Piece<W>>) {
    if rule.is_vacant() {
        return;
    }
    let criteria = &rule.criteria;
    let mut sources = side::<W>(&rule.sources, &criteria.source_sets);
    let mut destinations = side::<W>(&rule.destinations, &criteria.destination_sets);
    let (mut uppers, mut is_wider) = uppers::<W>(rule);
    // What would be too many boxes is covered by fewer, the least telling lists first.
    if uppers.len() * sources.intervals.len() * destinations.intervals.len() > MOST_PIECES {
        is_wider |= uppers.len() > 1;
        uppers = cover_uppers(&uppers);
    }
    for choices in [&mut sources, &mut destinations] {
        let others = uppers.len() * choices.intervals.len();
        if others > MOST_PIECES {
            cover_side::<W>(choices);
        }
    }
    if uppers.len() * sources.intervals.len() * destinations.intervals.len() > MOST_PIECES {
        cover_side::<W>(&mut sources);
    }
    let ingress = ingress(criteria);
    let flags = Flags {
        is_conditional: is_wider
            || sources.is_wider
            || destinations.is_wider
            || ingress.is_wider
            || is_conditional(criteria),
        is_treated: !rule.treatment.is_plain(),
    };
    let verdict = verdict::pack(rank, id, rule.action, flags);
    for destination in &destinations.intervals {
        for source in &sources.intervals {
            for upper in &uppers {
                for ingress in &ingress.intervals {
                    let mut piece = Piece {
                        lowest: [0; W],
                        highest: [0; W],
                        verdict,
                    };
                    put_side(*source, 0, &mut piece);
                    put_side(*destination, (W - TAIL) / 2, &mut piece);
                    let tail = [upper.source_port, upper.port, upper.protocol, *ingress];
                    for (at, interval) in tail.iter().enumerate() {
                        piece.lowest[W - TAIL + at] = interval.lowest;
                        piece.highest[W - TAIL + at] = interval.highest;
                    }
                    out.push(piece);
                }
            }
        }
    }
}

/// Whether a rule says anything that no box does.
fn is_conditional(criteria: &Criteria) -> bool {
    !criteria.source_sets.is_empty()
        || !criteria.destination_sets.is_empty()
        || !criteria.not_source_sets.is_empty()
        || !criteria.not_destination_sets.is_empty()
        || criteria.tcp_flags.is_some()
        || criteria.dscp != 0
        || !criteria.vlans.is_empty()
        || criteria.fragment.is_some()
}

const fn family<const W: usize>() -> Family {
    if W == super::space::WORDS4 {
        Family::V4
    } else {
        Family::V6
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_number(),
        IpAddr::V6(address) => address.to_number(),
    }
}

/// One side's prefixes in this family, without those inside others. Everything where sets are asked.
fn side<const W: usize>(prefixes: &[IpPrefix], sets: &[SetId]) -> Choices<u128> {
    let all = u128::MAX >> (128 - u32::from(family::<W>().bits()));
    if prefixes.is_empty() || !sets.is_empty() {
        return Choices::one(0, all);
    }
    let mut intervals: Vec<Interval<u128>> = prefixes
        .iter()
        .filter(|prefix| prefix.family() == family::<W>())
        .map(|prefix| {
            let lowest = number(prefix.address());
            let hosts = all.checked_shr(prefix.length().into()).unwrap_or(0);
            Interval {
                lowest,
                highest: lowest | hosts,
            }
        })
        .collect();
    intervals.sort_by_key(|interval| (interval.lowest, core::cmp::Reverse(interval.highest)));
    let mut end = None;
    intervals.retain(|interval| {
        let is_new = end.is_none_or(|end| interval.highest > end);
        if is_new {
            end = Some(interval.highest);
        }
        is_new
    });
    Choices {
        intervals: halves_joined(intervals),
        is_wider: false,
    }
}

/// Prefixes in order, with two halves of one as that one.
fn halves_joined(intervals: Vec<Interval<u128>>) -> Vec<Interval<u128>> {
    let mut joined: Vec<Interval<u128>> = Vec::with_capacity(intervals.len());
    for mut interval in intervals {
        while let Some(before) = joined.last() {
            let span = before.highest - before.lowest;
            let is_same = interval.highest - interval.lowest == span;
            let is_next = before.highest.checked_add(1) == Some(interval.lowest);
            if !is_same || !is_next || before.lowest & (span + 1) != 0 {
                break;
            }
            interval.lowest = before.lowest;
            joined.pop();
        }
        joined.push(interval);
    }
    joined
}

/// One prefix instead of several.
fn cover_side<const W: usize>(choices: &mut Choices<u128>) {
    let all = u128::MAX >> (128 - u32::from(family::<W>().bits()));
    let (Some(first), Some(last)) = (choices.intervals.first(), choices.intervals.last()) else {
        return;
    };
    let differing = first.lowest ^ last.highest;
    let hosts = u128::MAX
        .checked_shr(differing.leading_zeros())
        .unwrap_or(0)
        & all;
    let lowest = first.lowest & !hosts;
    *choices = Choices {
        intervals: vec![Interval {
            lowest,
            highest: lowest | hosts,
        }],
        is_wider: true,
    };
}

#[expect(clippy::cast_possible_truncation, reason = "the words of a number")]
fn put_side<const W: usize>(interval: Interval<u128>, first: usize, piece: &mut Piece<W>) {
    let count = (W - TAIL) / 2;
    for at in 0..count {
        let shift = 32 * (count - 1 - at);
        piece.lowest[first + at] = (interval.lowest >> shift) as u32;
        piece.highest[first + at] = (interval.highest >> shift) as u32;
    }
}

/// Ports, messages and protocols that a rule can match; and whether what is in one of them may still not match.
fn uppers<const W: usize>(rule: &Rule) -> (Vec<Upper>, bool) {
    let any = Interval {
        lowest: 0,
        highest: full::<W>(W - 3),
    };
    let ports = !(rule.source_ports.is_empty() && rule.ports.is_empty());
    let tcp_only = rule.criteria.tcp_flags.is_some();
    let icmp = &rule.criteria.icmp;
    let messages = match family::<W>() {
        Family::V4 => ip::ICMP,
        Family::V6 => ip::ICMPV6,
    };
    let protocols = match (rule.protocol, ports, tcp_only, !icmp.is_empty()) {
        (_, true, _, true) | (_, _, true, true) => None,
        (None, false, false, false) => Some((0, protocol::HIGHEST)),
        (None, true, false, false) => Some((protocol::TCP, protocol::UDP)),
        (None | Some(ip::TCP), true, true, _) => Some((protocol::TCP, protocol::TCP)),
        (None | Some(ip::TCP), false, true, _) => Some((protocol::TCP_LATER, protocol::TCP)),
        (Some(_), _, true, _) => None,
        (Some(ip::TCP), true, false, _) => Some((protocol::TCP, protocol::TCP)),
        (Some(ip::UDP), true, false, _) => Some((protocol::UDP, protocol::UDP)),
        (Some(_), true, ..) => None,
        (Some(ip::TCP), _, _, false) => Some((protocol::TCP_LATER, protocol::TCP)),
        (Some(ip::UDP), _, _, false) => Some((protocol::UDP, protocol::UDP_LATER)),
        (Some(number), _, _, has_messages) if has_messages && number != messages => None,
        (Some(number), ..) => {
            let code = protocol::OTHER + u32::from(number);
            Some((code, code))
        }
        (None, false, false, true) => {
            let code = protocol::OTHER + u32::from(messages);
            Some((code, code))
        }
    };
    let Some((lowest, highest)) = protocols else {
        return (Vec::new(), false);
    };
    let protocol = Interval { lowest, highest };
    if !icmp.is_empty() {
        let uppers = icmp.iter().map(|message| message_upper(*message, protocol));
        return (uppers.collect(), false);
    }
    let (source_ports, ports) = (merged(&rule.source_ports, any), merged(&rule.ports, any));
    let mut uppers = Vec::with_capacity(source_ports.len() * ports.len());
    let mut is_wider = false;
    for source_port in &source_ports {
        for port in &ports {
            uppers.push(Upper {
                source_port: *source_port,
                port: *port,
                protocol,
            });
        }
    }
    if uppers.len() > MOST_PIECES {
        uppers = cover_uppers(&uppers);
        is_wider = true;
    }
    (uppers, is_wider)
}

fn message_upper(message: IcmpMessage, protocol: Interval<u32>) -> Upper {
    let kind = Interval {
        lowest: u32::from(message.kind),
        highest: u32::from(message.kind),
    };
    let code = match message.code {
        Some(code) => Interval {
            lowest: u32::from(code),
            highest: u32::from(code),
        },
        None => Interval {
            lowest: 0,
            highest: NO_MESSAGE - 1,
        },
    };
    Upper {
        source_port: kind,
        port: code,
        protocol,
    }
}

/// Port ranges without overlaps and gaps of nothing.
fn merged(ranges: &[PortRange], any: Interval<u32>) -> Vec<Interval<u32>> {
    if ranges.is_empty() {
        return vec![any];
    }
    let mut intervals: Vec<Interval<u32>> = ranges
        .iter()
        .map(|range| Interval {
            lowest: range.first.into(),
            highest: range.last.into(),
        })
        .collect();
    intervals.sort_unstable();
    let mut out: Vec<Interval<u32>> = Vec::with_capacity(intervals.len());
    for interval in intervals {
        match out.last_mut() {
            Some(last) if interval.lowest <= last.highest + 1 => {
                last.highest = last.highest.max(interval.highest);
            }
            _ => out.push(interval),
        }
    }
    out
}

fn cover_uppers(uppers: &[Upper]) -> Vec<Upper> {
    let cover = |of: fn(&Upper) -> Interval<u32>| {
        let lowest = uppers.iter().map(|upper| of(upper).lowest).min();
        let highest = uppers.iter().map(|upper| of(upper).highest).max();
        lowest
            .zip(highest)
            .map(|(lowest, highest)| Interval { lowest, highest })
    };
    let source_port = cover(|upper| upper.source_port);
    let port = cover(|upper| upper.port);
    let protocol = cover(|upper| upper.protocol);
    match (source_port, port, protocol) {
        (Some(source_port), Some(port), Some(protocol)) => vec![Upper {
            source_port,
            port,
            protocol,
        }],
        _ => Vec::new(),
    }
}

/// Ingress ports: one interval of their numbers, wider than the list if that has gaps.
fn ingress(criteria: &Criteria) -> Choices<u32> {
    let mut ports: Vec<u32> = criteria.ingress.iter().map(|port| (*port).into()).collect();
    ports.sort_unstable();
    ports.dedup();
    match (ports.first(), ports.last()) {
        (Some(first), Some(last)) => Choices {
            is_wider: (last - first) as usize + 1 != ports.len(),
            intervals: vec![Interval {
                lowest: *first,
                highest: *last,
            }],
        },
        _ => Choices::one(0, u16::MAX.into()),
    }
}
