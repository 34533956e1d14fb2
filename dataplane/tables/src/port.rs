//! Ports as the pipeline sees them.

use core::net::{Ipv4Addr, Ipv6Addr};

use crate::{LimitId, SetId};

/// Whether frames from this port may carry a checksum that only covers the pseudo-header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PartialChecksums {
    /// A local peer with checksum offload may leave them unfinished (veth, TAP).
    Possible,
    /// What arrives came over a wire: a wrong checksum is the sender's fault.
    #[default]
    Never,
}

/// Source addresses and ports for full NAT out of one port. Empty addresses: no NAT of this family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatPool<A> {
    /// Addresses to translate to.
    pub addresses: Box<[A]>,
    /// Lowest source port used.
    pub first_port: u16,
    /// Highest source port used, included.
    pub last_port: u16,
}

impl<A> Default for NatPool<A> {
    fn default() -> Self {
        Self {
            addresses: Box::default(),
            first_port: 1,
            last_port: u16::MAX,
        }
    }
}

/// Whether something may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stance {
    /// It may.
    Allow,
    /// It is dropped.
    Deny,
}

/// What happens to packets that no rule decides about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Unmatched {
    /// Packets for a service; denied: dropped as `default_deny`. [`Stance::Allow`] by default.
    pub services: Stance,
    /// Packets in transit; denied: dropped as `no_service`. [`Stance::Deny`] by default.
    pub transit: Stance,
}

impl Default for Unmatched {
    fn default() -> Self {
        Self {
            services: Stance::Allow,
            transit: Stance::Deny,
        }
    }
}

/// What is looked at before the flow table. Of the sets that hold a source, the one with the longest matching prefix
/// decides; between equals `allow` does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guard {
    /// Sources dropped as `blocked`.
    pub block: Vec<SetId>,
    /// Sources that neither a shorter block nor `per_source` holds up.
    pub allow: Vec<SetId>,
    /// A limit of [`crate::LimitScope::Source`] on everything that comes in here; beyond it `source_rate`.
    pub per_source: Option<LimitId>,
}

/// One port: what rewriting and answering need to know of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortTable {
    /// Name of the port, for reports.
    pub name: Box<str>,
    /// Its MAC address: source of everything sent from it.
    pub mac: [u8; 6],
    /// Largest IP packet that fits, bytes.
    pub mtu: u16,
    /// IPv4 source NAT pool.
    pub nat4: NatPool<Ipv4Addr>,
    /// IPv6 source NAT pool.
    pub nat6: NatPool<Ipv6Addr>,
    /// Source of ICMP errors sent from here.
    pub address4: Option<Ipv4Addr>,
    /// Source of `ICMPv6` errors sent from here.
    pub address6: Option<Ipv6Addr>,
    /// Whether received checksums may be partial.
    pub partial_checksums: PartialChecksums,
    /// What happens to what comes in here and no rule decides about.
    pub unmatched: Unmatched,
    /// What is looked at before the flow table.
    pub guard: Guard,
}

impl PortTable {
    /// Whether a flow that was judged by `self` may go on under `other`: the rest is looked up for each packet.
    pub(crate) fn is_same_for_flows(&self, other: &Self) -> bool {
        self.nat4 == other.nat4 && self.nat6 == other.nat6 && self.unmatched == other.unmatched
    }
}
