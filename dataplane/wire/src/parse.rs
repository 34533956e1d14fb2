//! The general parser: every frame, every check, in one documented order.
//!
//! Order of the checks; the first that fails names the drop:
//! 1. Ethernet header and tag complete (`runt`), one tag at most (`qinq`);
//! 2. fixed IP header complete (`runt`), version (`bad_ip_version`);
//! 3. IPv4 header length (`bad_ihl`); IP length against the headers (`bad_ip_length`), against the frame (`truncated`);
//! 4. IPv4 header checksum (`bad_ip_checksum`), options (`bad_ip_options`, `source_route`);
//! 5. IPv6 extension headers (`extension_headers`, `source_route` for routing type 0);
//! 6. same source and destination (`land`);
//! 7. TCP data offset (`bad_tcp_header`), flags (`tcp_null`, `tcp_xmas`, `tcp_syn_fin`), UDP length
//!    (`bad_udp_length`), ICMP length (`bad_icmp`).
//!
//! L4 checksums are not looked at: they cost a pass over the payload and belong to the end hosts. TTL is not judged
//! either, and fragments are classified, not dropped. A first fragment whose L4 header is cut is dropped under the L4
//! header's reason (RFC 1858, RFC 7112).
//!
//! Bytes behind the IP length are Ethernet padding and in no range that [`IpPacket`] gives.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::cursor::Cursor;
use crate::ethernet::{self, Link};
use crate::ip;
use crate::tcp;
use crate::tuple::{Address, Family, FiveTuple};
use crate::verdict::DropReason;

/// A frame that passed every check of [`parse`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packet {
    /// ARP; [`crate::arp::parse`] reads the message.
    Arp(Link),
    /// IPv4 or IPv6.
    Ip(IpPacket),
    /// Anything else: link protocols, for the kernel.
    Other(Link),
}

/// Whether a packet is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    /// Whole, or an IPv6 atomic fragment (RFC 6946).
    None,
    /// The first of several: has the L4 header.
    First,
    /// A later one: has no L4 header.
    Later,
}

/// The L4 header of a packet, as far as forwarding looks at it. Ports are numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum L4 {
    /// TCP.
    Tcp {
        /// Source port.
        src_port: u16,
        /// Destination port.
        dst_port: u16,
        /// Flags, see [`crate::tcp`].
        flags: u8,
        /// Bytes of the TCP header, 20 to 60.
        header_len: usize,
    },
    /// UDP.
    Udp {
        /// Source port.
        src_port: u16,
        /// Destination port.
        dst_port: u16,
    },
    /// ICMP in IPv4, ICMPv6 in IPv6.
    Icmp {
        /// Message type.
        kind: u8,
        /// Code.
        code: u8,
        /// Bytes 4 and 5: the identifier of an echo message.
        id: u16,
    },
    /// Another protocol, or a later fragment.
    Other,
}

/// Where everything is in an IP packet. Offsets count from the Ethernet header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpPacket {
    /// IPv4 or IPv6.
    pub family: Family,
    /// Start of the IP header.
    pub l3_offset: usize,
    /// Start of what `protocol` names; the IP payload of a later fragment.
    pub l4_offset: usize,
    /// One past the last byte of the IP packet; Ethernet padding is beyond.
    pub end: usize,
    /// Tag control information of the 802.1Q tag.
    pub vlan: Option<u16>,
    /// IP protocol number of the last header.
    pub protocol: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// IPv4 TOS or IPv6 traffic class: DSCP (6 bits) and ECN (2 bits).
    pub tos: u8,
    /// Whether it is whole.
    pub fragment: Fragment,
    /// The L4 header.
    pub l4: L4,
}

impl IpPacket {
    /// Source and destination address, read from the frame that was parsed; `None` for the other family.
    #[inline]
    pub fn addresses<A: Address, C: Cursor>(&self, frame: C) -> Option<(A, A)> {
        if A::FAMILY != self.family {
            return None;
        }
        let src = self.l3_offset + A::SRC_OFFSET;
        Some((A::read(frame, src)?, A::read(frame, src + A::LEN)?))
    }

    /// Source and destination address of either family.
    pub fn ip_addresses<C: Cursor>(&self, frame: C) -> Option<(IpAddr, IpAddr)> {
        match self.family {
            Family::V4 => self
                .addresses::<Ipv4Addr, C>(frame)
                .map(|(src, dst)| (IpAddr::V4(src), IpAddr::V4(dst))),
            Family::V6 => self
                .addresses::<Ipv6Addr, C>(frame)
                .map(|(src, dst)| (IpAddr::V6(src), IpAddr::V6(dst))),
        }
    }

    /// Source and destination port; 0 and 0 for anything but TCP and UDP.
    #[inline]
    pub const fn ports(&self) -> (u16, u16) {
        match self.l4 {
            L4::Tcp {
                src_port, dst_port, ..
            }
            | L4::Udp { src_port, dst_port } => (src_port, dst_port),
            L4::Icmp { .. } | L4::Other => (0, 0),
        }
    }

    /// The five-tuple, read from the frame that was parsed; `None` for the other family.
    #[inline]
    pub fn tuple<A: Address, C: Cursor>(&self, frame: C) -> Option<FiveTuple<A>> {
        let (src, dst) = self.addresses(frame)?;
        let (src_port, dst_port) = self.ports();
        Some(FiveTuple {
            src,
            dst,
            src_port,
            dst_port,
            protocol: self.protocol,
        })
    }

    /// Bytes from the IP header to the end of the packet: what an MTU is compared with.
    #[inline]
    pub const fn ip_len(&self) -> usize {
        self.end - self.l3_offset
    }
}

/// Parses a frame and makes every check of the module's list.
#[inline]
pub fn parse<C: Cursor>(frame: C) -> Result<Packet, DropReason> {
    let link = ethernet::link(frame)?;
    match link.ethertype {
        ethernet::IPV4 => ipv4(frame, link).map(Packet::Ip),
        ethernet::IPV6 => ipv6(frame, link).map(Packet::Ip),
        ethernet::ARP => Ok(Packet::Arp(link)),
        _ => Ok(Packet::Other(link)),
    }
}

/// Parses IPv4 behind a decoded link header.
#[inline]
pub fn ipv4<C: Cursor>(frame: C, link: Link) -> Result<IpPacket, DropReason> {
    let at = link.l3_offset;
    let (header, header_len) = ipv4_lengths(frame, at)?;
    if ip::header_sum(frame, at, header_len) != 0xffff {
        return Err(DropReason::BadIpChecksum);
    }
    ip::check_options(frame, at + 20, header_len - 20)?;
    ipv4_rest(frame, link, header, header_len)
}

/// As [`ipv4`] for a header without options; `None` for one with. For an XDP program, whose verifier follows every path
/// that options can take.
#[inline]
pub fn ipv4_plain<C: Cursor>(frame: C, link: Link) -> Result<Option<IpPacket>, DropReason> {
    let at = link.l3_offset;
    let (header, header_len) = ipv4_lengths(frame, at)?;
    if header_len != 20 {
        return Ok(None);
    }
    if ip::header_sum(frame, at, 20) != 0xffff {
        return Err(DropReason::BadIpChecksum);
    }
    ipv4_rest(frame, link, header, 20).map(Some)
}

/// The first twelve bytes of the header and its length, after the checks on version and lengths.
#[inline]
fn ipv4_lengths<C: Cursor>(frame: C, at: usize) -> Result<([u8; 12], usize), DropReason> {
    let header = frame.read::<12>(at).ok_or(DropReason::Runt)?;
    if frame.len() < at + 20 {
        return Err(DropReason::Runt);
    }
    if header[0] >> 4 != 4 {
        return Err(DropReason::BadIpVersion);
    }
    let available = frame.len() - at;
    let header_len = usize::from(header[0] & 0x0f) * 4;
    if header_len < 20 || header_len > available {
        return Err(DropReason::BadIhl);
    }
    let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if total < header_len {
        return Err(DropReason::BadIpLength);
    }
    if total > available {
        return Err(DropReason::Truncated);
    }
    Ok((header, header_len))
}

/// What is left once the header itself is known to be good.
#[inline]
fn ipv4_rest<C: Cursor>(
    frame: C,
    link: Link,
    header: [u8; 12],
    header_len: usize,
) -> Result<IpPacket, DropReason> {
    let at = link.l3_offset;
    let src: [u8; 4] = frame.read(at + 12).ok_or(DropReason::Runt)?;
    let dst: [u8; 4] = frame.read(at + 16).ok_or(DropReason::Runt)?;
    let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if u32::from_ne_bytes(src) == u32::from_ne_bytes(dst) {
        return Err(DropReason::Land);
    }
    let (l4_offset, end, protocol) = (at + header_len, at + total, header[9]);
    let fragment = ip::fragment(u16::from_be_bytes([header[6], header[7]]));
    let packet = IpPacket {
        family: Family::V4,
        l3_offset: at,
        l4_offset,
        end,
        vlan: link.vlan,
        protocol,
        ttl: header[8],
        tos: header[1],
        fragment,
        l4: L4::Other,
    };
    let l4 = l4(frame, &packet)?;
    Ok(IpPacket { l4, ..packet })
}

/// Parses IPv6 behind a decoded link header.
#[inline]
pub fn ipv6<C: Cursor>(frame: C, link: Link) -> Result<IpPacket, DropReason> {
    let at = link.l3_offset;
    let (header, end) = ipv6_lengths(frame, at)?;
    let chain = ip::extension_headers(frame, header[6], at + 40, end)?;
    ipv6_rest(frame, link, header, end, chain)
}

/// As [`ipv6`] for a packet without extension headers; `None` for one with. For an XDP program, whose verifier follows
/// every path that a chain of them can take.
#[inline]
pub fn ipv6_plain<C: Cursor>(frame: C, link: Link) -> Result<Option<IpPacket>, DropReason> {
    let at = link.l3_offset;
    let (header, end) = ipv6_lengths(frame, at)?;
    let protocol = header[6];
    if ip::is_extension_header(protocol) {
        return Ok(None);
    }
    let chain = ip::Chain {
        protocol,
        l4_offset: at + 40,
        fragment: Fragment::None,
    };
    ipv6_rest(frame, link, header, end, chain).map(Some)
}

/// The first eight bytes of the header and where the packet ends, after the checks on version and length.
#[inline]
fn ipv6_lengths<C: Cursor>(frame: C, at: usize) -> Result<([u8; 8], usize), DropReason> {
    let header = frame.read::<8>(at).ok_or(DropReason::Runt)?;
    if frame.len() < at + 40 {
        return Err(DropReason::Runt);
    }
    if header[0] >> 4 != 6 {
        return Err(DropReason::BadIpVersion);
    }
    let end = at + 40 + usize::from(u16::from_be_bytes([header[4], header[5]]));
    if end > frame.len() {
        return Err(DropReason::Truncated);
    }
    Ok((header, end))
}

/// What is left once it is known where the L4 header is.
#[inline]
fn ipv6_rest<C: Cursor>(
    frame: C,
    link: Link,
    header: [u8; 8],
    end: usize,
    chain: ip::Chain,
) -> Result<IpPacket, DropReason> {
    let at = link.l3_offset;
    if same_v6(frame, at + 8, at + 24) {
        return Err(DropReason::Land);
    }
    let ip::Chain {
        protocol,
        l4_offset,
        fragment,
    } = chain;
    let packet = IpPacket {
        family: Family::V6,
        l3_offset: at,
        l4_offset,
        end,
        vlan: link.vlan,
        protocol,
        ttl: header[7],
        tos: header[0] << 4 | header[1] >> 4,
        fragment,
        l4: L4::Other,
    };
    let l4 = l4(frame, &packet)?;
    Ok(IpPacket { l4, ..packet })
}

/// True if two IPv6 addresses are the same.
///
/// In registers, because a comparison of arrays is a call of `memcmp`, which an XDP program does not have.
#[inline]
fn same_v6<C: Cursor>(frame: C, src: usize, dst: usize) -> bool {
    let word = |at: usize| frame.read::<8>(at).map(u64::from_ne_bytes);
    word(src) == word(dst) && word(src + 8) == word(dst + 8)
}

/// Reads the L4 header of a whole packet or a first fragment.
#[inline]
fn l4<C: Cursor>(frame: C, packet: &IpPacket) -> Result<L4, DropReason> {
    if packet.fragment == Fragment::Later {
        return Ok(L4::Other);
    }
    let (at, end) = (packet.l4_offset, packet.end);
    match (packet.protocol, packet.family) {
        (ip::TCP, _) => read_tcp(frame, at, end),
        (ip::UDP, _) => read_udp(frame, packet.fragment, at, end),
        (ip::ICMP, Family::V4) | (ip::ICMPV6, Family::V6) => {
            read_icmp(frame, packet.family, at, end)
        }
        _ => Ok(L4::Other),
    }
}

#[inline]
fn read_tcp<C: Cursor>(frame: C, at: usize, end: usize) -> Result<L4, DropReason> {
    let header = frame
        .read::<20>(at)
        .filter(|_| at + 20 <= end)
        .ok_or(DropReason::BadTcpHeader)?;
    let header_len = usize::from(header[12] >> 4) * 4;
    if header_len < 20 || at + header_len > end {
        return Err(DropReason::BadTcpHeader);
    }
    let flags = header[13];
    tcp::check_flags(flags)?;
    let src_port = u16::from_be_bytes([header[0], header[1]]);
    let dst_port = u16::from_be_bytes([header[2], header[3]]);
    Ok(L4::Tcp {
        src_port,
        dst_port,
        flags,
        header_len,
    })
}

#[inline]
fn read_udp<C: Cursor>(
    frame: C,
    fragment: Fragment,
    at: usize,
    end: usize,
) -> Result<L4, DropReason> {
    let header = frame
        .read::<8>(at)
        .filter(|_| at + 8 <= end)
        .ok_or(DropReason::BadUdpLength)?;
    let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
    // The length of a fragmented datagram counts the later fragments too.
    if length < 8 || (fragment == Fragment::None && at + length > end) {
        return Err(DropReason::BadUdpLength);
    }
    let src_port = u16::from_be_bytes([header[0], header[1]]);
    let dst_port = u16::from_be_bytes([header[2], header[3]]);
    Ok(L4::Udp { src_port, dst_port })
}

#[inline]
fn read_icmp<C: Cursor>(frame: C, family: Family, at: usize, end: usize) -> Result<L4, DropReason> {
    let header = frame
        .read::<8>(at)
        .filter(|_| at + 8 <= end)
        .ok_or(DropReason::BadIcmp)?;
    let [kind, code, _, _, id_high, id_low, ..] = header;
    // An error quotes at least an IP header.
    if ip::is_icmp_error(family, kind) && at + 8 + family.header_len() > end {
        return Err(DropReason::BadIcmp);
    }
    Ok(L4::Icmp {
        kind,
        code,
        id: u16::from_be_bytes([id_high, id_low]),
    })
}

#[cfg(test)]
mod tests;
