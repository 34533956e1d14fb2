//! One rule of a generated set in numbers, and a packet to ask about: what every side is built from and fed with.

use std::net::IpAddr;

use march_tables::{Action, PortId, PortRange, Rule, RuleId, Subject};
use march_wire::ip::{ICMP, ICMPV6, TCP, UDP};
use march_wire::tuple::{Address, Family, FiveTuple, IpPrefix};

use crate::clock::Random;

/// The port that all packets come in on.
const INGRESS: PortId = 0;

/// An address block; addresses are in the low bits of the number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Block {
    /// Lowest address.
    pub first: u128,
    /// Bits that are fixed.
    pub length: u8,
    mask: u128,
}

impl Block {
    /// The block of `length` bits around `address`.
    pub fn around(address: u128, length: u8, family: Family) -> Self {
        let bits = family.bits();
        let all = u128::MAX >> (128 - u32::from(bits));
        let mask = match length {
            0 => 0,
            length => all & (all << (bits - length)),
        };
        Self {
            first: address & mask,
            length,
            mask,
        }
    }

    fn contains(self, address: u128) -> bool {
        address & self.mask == self.first
    }

    /// An address in it, picked evenly.
    fn pick(self, family: Family, random: &mut Random) -> u128 {
        let any = u128::from(random.next()) << 64 | u128::from(random.next());
        let all = u128::MAX >> (128 - u32::from(family.bits()));
        self.first | (any & all & !self.mask)
    }

    #[cfg(test)]
    fn covers(self, other: Self) -> bool {
        self.length <= other.length && self.contains(other.first)
    }

    fn prefix(self, family: Family) -> Option<IpPrefix> {
        let address: IpAddr = match family {
            Family::V4 => std::net::Ipv4Addr::from_number(self.first).into(),
            Family::V6 => std::net::Ipv6Addr::from_number(self.first).into(),
        };
        (self.length > 0).then(|| IpPrefix::new(address, self.length).expect("host bits are clear"))
    }
}

/// Five dimensions. Ports are only given together with TCP or UDP, so that a classifier that knows nothing of protocols
/// without ports means the same by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Filter {
    /// Source addresses.
    pub source: Block,
    /// Destination addresses.
    pub destination: Block,
    /// Source ports.
    pub source_ports: PortRange,
    /// Destination ports.
    pub ports: PortRange,
    /// IP protocol; `None` is any.
    pub protocol: Option<u8>,
}

/// What a packet's headers say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Source address.
    pub source: u128,
    /// Destination address.
    pub destination: u128,
    /// Source port; 0 without TCP or UDP.
    pub source_port: u16,
    /// Destination port; 0 without TCP or UDP.
    pub port: u16,
    /// IP protocol.
    pub protocol: u8,
}

impl Filter {
    /// What it means, word for word.
    pub fn matches(&self, packet: &Packet) -> bool {
        self.source.contains(packet.source)
            && self.destination.contains(packet.destination)
            && self.source_ports.contains(packet.source_port)
            && self.ports.contains(packet.port)
            && self.protocol.is_none_or(|wanted| wanted == packet.protocol)
    }

    /// Whether everything that `other` matches matches this too.
    #[cfg(test)]
    pub fn covers(&self, other: &Self) -> bool {
        let wider = |wide: PortRange, range: PortRange| {
            wide.first <= range.first && range.last <= wide.last
        };
        self.source.covers(other.source)
            && self.destination.covers(other.destination)
            && wider(self.source_ports, other.source_ports)
            && wider(self.ports, other.ports)
            && (self.protocol.is_none() || self.protocol == other.protocol)
    }

    /// How much it matches: the binary logarithm of the number of packets, in units of 2^-20. What covers another has more.
    pub fn scope(&self, family: Family) -> u64 {
        let width = |range: PortRange| f64::from(range.last - range.first) + 1.0;
        let ports = width(self.source_ports).log2() + width(self.ports).log2();
        let protocol = if self.protocol.is_none() { 8 } else { 0 };
        let lengths = u64::from(self.source.length) + u64::from(self.destination.length);
        let addresses = 2 * u64::from(family.bits()) - lengths;
        #[expect(clippy::cast_sign_loss, reason = "a logarithm of at least 1")]
        let ports = (ports * f64::from(1 << 20)) as u64;
        ((addresses + protocol) << 20) + ports
    }

    /// A packet that it matches, picked evenly from all of them (TCP or UDP where it leaves the protocol open).
    pub fn packet(&self, family: Family, random: &mut Random) -> Packet {
        let protocol = match self.protocol {
            Some(protocol) => protocol,
            None if random.below(2) == 0 => TCP,
            None => UDP,
        };
        let mut port = |range: PortRange| {
            let width = u64::from(range.last - range.first) + 1;
            range.first + random.below(width) as u16
        };
        let (source_port, port) = match protocol {
            TCP | UDP => (port(self.source_ports), port(self.ports)),
            _ => (0, 0),
        };
        Packet {
            source: self.source.pick(family, random),
            destination: self.destination.pick(family, random),
            source_port,
            port,
            protocol,
        }
    }

    /// The same as a rule of the product. `number` is part of its name.
    pub fn rule(&self, family: Family, number: RuleId, priority: u32) -> Rule {
        let ports = |range: PortRange| match range {
            PortRange::ALL => Vec::new(),
            range => vec![range],
        };
        Rule {
            name: format!("rule-{number:06}").into(),
            priority,
            sources: self.source.prefix(family).into_iter().collect(),
            destinations: self.destination.prefix(family).into_iter().collect(),
            source_ports: ports(self.source_ports),
            ports: ports(self.ports),
            protocol: self.protocol,
            action: if number.is_multiple_of(2) {
                Action::Allow
            } else {
                Action::Drop
            },
            ..Rule::vacant()
        }
    }
}

impl Packet {
    /// What the product's classifier is asked.
    pub fn subject<A: Address>(&self) -> Subject<A> {
        let tuple = FiveTuple {
            src: A::from_number(self.source),
            dst: A::from_number(self.destination),
            src_port: self.source_port,
            dst_port: self.port,
            protocol: self.protocol,
        };
        let is_icmp = matches!(self.protocol, ICMP | ICMPV6);
        Subject {
            icmp: is_icmp.then_some((8, 0)),
            tcp_flags: if self.protocol == TCP { 2 } else { 0 },
            ..Subject::of_tuple(tuple, INGRESS)
        }
    }
}

/// A packet for each of `count` filters picked evenly, and the index of that filter.
pub fn trace(
    filters: &[Filter],
    family: Family,
    count: usize,
    random: &mut Random,
) -> Vec<(usize, Packet)> {
    (0..count)
        .map(|_| {
            let index = random.below(filters.len() as u64) as usize;
            (index, filters[index].packet(family, random))
        })
        .collect()
}
