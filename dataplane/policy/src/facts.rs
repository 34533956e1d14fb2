//! What is known of an IP packet before anything is decided about it.

use core::fmt;
use core::net::{IpAddr, SocketAddr};

use march_wire::parse::{Fragment, IpPacket, L4};

/// Protocol numbers and flags by name.
pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMPV6: u8 = 58;
pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const ACK: u8 = 16;

/// What a packet says of its ends. For ICMP both ports are the identifier where flows are meant, and 0 where rules are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tuple {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// Protocol number.
    pub protocol: u8,
}

impl Tuple {
    /// What a packet the other way says.
    #[must_use]
    pub fn swapped(self) -> Self {
        Self {
            src: self.dst,
            dst: self.src,
            src_port: self.dst_port,
            dst_port: self.src_port,
            protocol: self.protocol,
        }
    }
}

impl fmt::Display for Tuple {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} -> {}",
            SocketAddr::new(self.src, self.src_port),
            SocketAddr::new(self.dst, self.dst_port)
        )
    }
}

/// A parsed IP packet in the reference's terms.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    pub packet: IpPacket,
    /// What rules and services look at: ports of TCP and UDP, otherwise 0.
    pub tuple: Tuple,
    /// What flows are found by: the identifier twice for ICMP.
    pub key: Tuple,
    pub tcp_flags: Option<u8>,
    pub icmp: Option<(u8, u8)>,
    pub vlan: Option<u16>,
    pub dscp: u8,
}

impl Facts {
    pub fn of(packet: &IpPacket, frame: &[u8]) -> Option<Self> {
        let (src, dst) = packet.ip_addresses(frame)?;
        let ports = |(src_port, dst_port)| Tuple {
            src,
            dst,
            src_port,
            dst_port,
            protocol: packet.protocol,
        };
        let tuple = match packet.l4 {
            L4::Tcp {
                src_port, dst_port, ..
            }
            | L4::Udp { src_port, dst_port } => ports((src_port, dst_port)),
            L4::Icmp { .. } | L4::Other => ports((0, 0)),
        };
        let key = match packet.l4 {
            L4::Icmp { id, .. } => ports((id, id)),
            _ => tuple,
        };
        let (tcp_flags, icmp) = match packet.l4 {
            L4::Tcp { flags, .. } => (Some(flags), None),
            L4::Icmp { kind, code, .. } => (None, Some((kind, code))),
            _ => (None, None),
        };
        Some(Self {
            packet: *packet,
            tuple,
            key,
            tcp_flags,
            icmp,
            vlan: packet.vlan.map(|tag| tag & 0x0fff),
            dscp: packet.tos >> 2,
        })
    }

    pub fn is_ipv4(&self) -> bool {
        self.tuple.src.is_ipv4()
    }

    pub fn is_fragment(&self) -> bool {
        self.packet.fragment != Fragment::None
    }

    pub fn has_ports(&self) -> bool {
        matches!(self.packet.l4, L4::Tcp { .. } | L4::Udp { .. })
    }

    /// An ICMP message that quotes the packet it is about.
    pub fn is_icmp_error(&self) -> bool {
        match self.icmp {
            Some((kind, _)) if self.is_ipv4() => matches!(kind, 3 | 4 | 5 | 11 | 12),
            Some((kind, _)) => kind < 128,
            None => false,
        }
    }

    /// A whole echo request.
    pub fn is_echo_request(&self) -> bool {
        let request = if self.is_ipv4() { (8, 0) } else { (128, 0) };
        !self.is_fragment() && self.icmp == Some(request)
    }

    /// A neighbour solicitation or advertisement.
    pub fn is_neighbour(&self) -> bool {
        !self.is_ipv4() && matches!(self.icmp, Some((135 | 136, _)))
    }
}

/// An address that can be a packet's source.
pub(crate) fn is_possible_source(address: IpAddr) -> bool {
    match address {
        // 0/8, 127/8, multicast and what is above it.
        IpAddr::V4(address) => !matches!(address.octets()[0], 0 | 127 | 224..=255),
        IpAddr::V6(address) => {
            !(address.is_unspecified()
                || address.is_loopback()
                || address.is_multicast()
                || address.to_ipv4_mapped().is_some())
        }
    }
}

/// A unicast address that can be on a wire.
pub(crate) fn is_possible_destination(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !matches!(address.octets()[0], 0 | 127 | 240..=255),
        IpAddr::V6(address) => {
            !(address.is_unspecified()
                || address.is_loopback()
                || address.to_ipv4_mapped().is_some())
        }
    }
}

/// Multicast, and IPv4's limited broadcast.
pub(crate) fn is_group(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_multicast() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_multicast(),
    }
}

/// An address that means something on one link only.
pub(crate) fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}
