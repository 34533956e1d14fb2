//! What a rule says, as plain data: a match, an action and how what it lets through is treated.
//!
//! Rules are looked at by priority, lower first, then by name (bytewise). The first that matches decides and ends the
//! search, whatever its action. A field that is not given matches anything.

use core::net::IpAddr;
use std::sync::Arc;

use march_wire::parse::{Fragment, IpPacket, L4};
use march_wire::tuple::{Address, FiveTuple, IpPrefix};

use crate::{LimitId, PortId, PrefixSet, ServiceId, SetId};

/// Ports from `first` to `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortRange {
    /// Lowest port.
    pub first: u16,
    /// Highest port.
    pub last: u16,
}

impl PortRange {
    /// Every port.
    pub const ALL: Self = Self {
        first: 0,
        last: u16::MAX,
    };

    /// Whether `port` is in it.
    #[inline]
    pub fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }
}

/// A rule. An empty list matches anything; a port list matches only TCP and UDP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Name, unique; breaks ties of priority.
    pub name: Box<str>,
    /// Lower is looked at first.
    pub priority: u32,
    /// The mapping that this was made from, for reports.
    pub mapping: Option<Box<str>>,
    /// Source prefixes; what is in one of these or in one of `criteria.source_sets` matches.
    pub sources: Vec<IpPrefix>,
    /// Destination prefixes; what is in one of these or in one of `criteria.destination_sets` matches.
    pub destinations: Vec<IpPrefix>,
    /// Source ports.
    pub source_ports: Vec<PortRange>,
    /// Destination ports.
    pub ports: Vec<PortRange>,
    /// IP protocol number (next header for IPv6); `None` is any.
    pub protocol: Option<u8>,
    /// What else a packet must be.
    pub criteria: Criteria,
    /// What to do with what matches.
    pub action: Action,
    /// How what it lets through is treated.
    pub treatment: Treatment,
}

impl Rule {
    /// A place without a rule: it keeps the ids of those behind it, which counters remember.
    #[must_use]
    pub fn vacant() -> Self {
        Self {
            name: Box::default(),
            priority: 0,
            mapping: None,
            sources: Vec::new(),
            destinations: Vec::new(),
            source_ports: Vec::new(),
            ports: Vec::new(),
            protocol: None,
            criteria: Criteria::default(),
            action: Action::Drop,
            treatment: Treatment::default(),
        }
    }

    /// True for a place without a rule: it has no name.
    pub fn is_vacant(&self) -> bool {
        self.name.is_empty()
    }
}

/// The rarer conditions of a rule. The default is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Criteria {
    /// Address sets that the source may be in.
    pub source_sets: Vec<SetId>,
    /// Address sets that the destination may be in.
    pub destination_sets: Vec<SetId>,
    /// Address sets that the source must not be in.
    pub not_source_sets: Vec<SetId>,
    /// Address sets that the destination must not be in.
    pub not_destination_sets: Vec<SetId>,
    /// ICMP or `ICMPv6` messages, by the packet's family; matches only those protocols.
    pub icmp: Vec<IcmpMessage>,
    /// TCP flags; matches only TCP.
    pub tcp_flags: Option<TcpFlags>,
    /// Differentiated services code points, a bit for each of the 64; 0 is any.
    pub dscp: u64,
    /// Ports on which the packet may have come in.
    pub ingress: Vec<PortId>,
    /// VLANs that the packet may be tagged with.
    pub vlans: Vec<Vlan>,
    /// Whether the packet must be whole or a fragment.
    pub fragment: Option<Wholeness>,
}

impl Criteria {
    /// Every set that the rule asks.
    pub(crate) fn sets(&self) -> impl Iterator<Item = &SetId> {
        let source = self.source_sets.iter().chain(&self.not_source_sets);
        let destination = self
            .destination_sets
            .iter()
            .chain(&self.not_destination_sets);
        source.chain(destination)
    }
}

/// ICMP messages of one type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IcmpMessage {
    /// Type.
    pub kind: u8,
    /// Code; `None` is any.
    pub code: Option<u8>,
}

/// TCP flags: those in `mask` must be as in `value`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TcpFlags {
    /// Which flags are looked at, bits as in the header.
    pub mask: u8,
    /// What they must be; no bit outside `mask`.
    pub value: u8,
}

/// What a frame's 802.1Q tag may say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Vlan {
    /// No tag.
    Untagged,
    /// A tag with a VLAN identifier from the first to the last, both included.
    Ids(u16, u16),
}

/// Whether a packet is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wholeness {
    /// Not a fragment.
    Whole,
    /// Any fragment.
    Fragment,
    /// The first of several, with the L4 header.
    First,
    /// A later one, without it: its ports are not known and match no port list.
    Later,
}

impl Wholeness {
    /// Whether a packet is this.
    #[inline]
    pub fn matches(self, fragment: Fragment) -> bool {
        match self {
            Self::Whole => fragment == Fragment::None,
            Self::Fragment => fragment != Fragment::None,
            Self::First => fragment == Fragment::First,
            Self::Later => fragment == Fragment::Later,
        }
    }
}

/// What a rule does with what it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Goes on: to its service, or through the box as transit.
    Allow,
    /// Dropped as `rule_drop`.
    Drop,
    /// Refused: TCP is answered with RST, all else with "administratively prohibited"; beyond the rate of answers
    /// dropped as `rule_drop`.
    Reject,
    /// Counted, and then as if no rule had matched: to its service, or as the port treats transit by default.
    Count,
    /// Given to the kernel.
    Punt,
    /// Sent elsewhere.
    Redirect(Redirect),
}

impl Action {
    /// Whether a packet in transit may go on through the box because of this.
    #[must_use]
    pub fn carries_transit(self) -> bool {
        matches!(self, Self::Allow | Self::Redirect(_))
    }
}

/// Where a redirected packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Redirect {
    /// To a service, as if it had been sent to that service's address: the service's protocol must be the packet's
    /// (otherwise `unsupported_protocol`), and a service with several ports keeps the packet's port if it is one of them,
    /// else takes its first. It is balanced by the hash of the packet as it came.
    Service(ServiceId),
    /// To an address, and to a port if that is not 0: the destination is rewritten, the source kept, replies restored.
    Address {
        /// New destination, of the packet's family (otherwise `unsupported_protocol`).
        address: IpAddr,
        /// New destination port; 0 keeps it. Only TCP and UDP have ports.
        port: u16,
    },
    /// Unchanged, out of a port, to the neighbour that has the destination address on that port's link.
    Port(PortId),
}

/// How the packets of flows that a rule let through are treated. The default is: as they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Treatment {
    /// DSCP written into packets of the direction that the rule matched; ECN bits stay.
    pub mark: Option<u8>,
    /// Copies of the flow's packets, both directions, as they came in.
    pub mirror: Option<Mirror>,
    /// A limit on the flow's packets that would leave, both directions; beyond it they are dropped as `rate_limited`, and what is
    /// dropped is not copied.
    pub limit: Option<LimitId>,
    /// Whether the source of transit is translated to an address of the egress port.
    pub source_nat: SourceNat,
}

impl Treatment {
    /// Whether there is nothing to do.
    pub fn is_plain(&self) -> bool {
        *self == Self::default()
    }
}

/// What happens to the source address of transit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SourceNat {
    /// Kept.
    #[default]
    Keep,
    /// Translated to the egress port's NAT pool.
    Masquerade,
}

/// Where copies go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mirror {
    /// Egress port of the copies.
    pub port: PortId,
    /// Copies per second and lcore at most, with as many at once; the rest is counted as lost. Rules with equal treatments share
    /// one bound.
    pub per_second: u32,
}

/// What a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LimitUnit {
    /// Packets.
    Packets,
    /// Bits of the frame, Ethernet header included, FCS not.
    Bits,
}

/// Who shares one bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LimitScope {
    /// All that the limit is put on.
    Shared,
    /// Each source prefix of these lengths (32 and 128: each address). The flow's opener is the source.
    Source {
        /// IPv4 prefix length.
        v4: u8,
        /// IPv6 prefix length.
        v6: u8,
    },
    /// Each service; transit shares one.
    Service,
}

/// A rate with a burst.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Name, for reports.
    pub name: Box<str>,
    /// Who shares one bucket.
    pub scope: LimitScope,
    /// What is counted.
    pub unit: LimitUnit,
    /// Units per second, at least 1, over all lcores of the node.
    pub per_second: u64,
    /// Units that may come at once, at least 1.
    pub burst: u64,
}

impl Limit {
    /// A place without a limit: it keeps the ids of those behind it.
    #[must_use]
    pub fn vacant() -> Self {
        Self {
            name: Box::default(),
            scope: LimitScope::Shared,
            unit: LimitUnit::Packets,
            per_second: 1,
            burst: 1,
        }
    }
}

/// A named set of prefixes.
#[derive(Clone, Debug)]
pub struct AddressSet {
    /// Name, for reports.
    pub name: Box<str>,
    /// SHA-256 of what it holds: two sets with equal content are equal.
    pub content: [u8; 32],
    /// What it holds.
    pub prefixes: Arc<PrefixSet>,
}

impl PartialEq for AddressSet {
    fn eq(&self, other: &Self) -> bool {
        (&self.name, self.content) == (&other.name, other.content)
    }
}

impl Eq for AddressSet {}

/// What rules look at in a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject<A: Address> {
    /// Addresses, ports, protocol; ports are 0 where there are none.
    pub tuple: FiveTuple<A>,
    /// Where it came in.
    pub ingress: PortId,
    /// VLAN identifier of the tag, if it has one.
    pub vlan: Option<u16>,
    /// Differentiated services code point, 0 to 63.
    pub dscp: u8,
    /// TCP flags; 0 for anything else.
    pub tcp_flags: u8,
    /// ICMP type and code.
    pub icmp: Option<(u8, u8)>,
    /// Whether it is whole.
    pub fragment: Fragment,
}

impl<A: Address> Subject<A> {
    /// What rules see of a parsed packet; `None` for the other family.
    #[inline]
    #[must_use]
    pub fn of_packet(packet: &IpPacket, frame: &[u8], ingress: PortId) -> Option<Self> {
        let tuple = packet.tuple::<A, _>(frame)?;
        Some(Self::of_parts(packet, tuple, ingress))
    }

    /// The same where the tuple was read already.
    #[inline]
    #[must_use]
    pub fn of_parts(packet: &IpPacket, tuple: FiveTuple<A>, ingress: PortId) -> Self {
        Self {
            tuple,
            ingress,
            vlan: packet.vlan.map(|tag| tag & 0xfff),
            dscp: packet.tos >> 2,
            tcp_flags: match packet.l4 {
                L4::Tcp { flags, .. } => flags,
                _ => 0,
            },
            icmp: match packet.l4 {
                L4::Icmp { kind, code, .. } => Some((kind, code)),
                _ => None,
            },
            fragment: packet.fragment,
        }
    }

    /// A whole, untagged packet without flags, marks or message: what is known of a connection where no packet is seen.
    #[must_use]
    pub fn of_tuple(tuple: FiveTuple<A>, ingress: PortId) -> Self {
        Self {
            tuple,
            ingress,
            vlan: None,
            dscp: 0,
            tcp_flags: 0,
            icmp: None,
            fragment: Fragment::None,
        }
    }
}
