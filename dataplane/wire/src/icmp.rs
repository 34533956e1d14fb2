//! ICMP and ICMPv6 messages that are made here: echo replies and errors, in place.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::buffer::Buffer;
use crate::checksum::{self, apply, delta16};
use crate::cursor::{Cursor, put};
use crate::ethernet::{self, Mac};
use crate::ip;
use crate::parse::{Fragment, IpPacket, L4};
use crate::tuple::{Address, Family};

/// Most of a packet that an ICMP error quotes: the whole error stays within 576 bytes (RFC 1812, section 4.3.2.3).
pub const QUOTE_MAX_V4: usize = 576 - 28;
/// Most of a packet that an ICMPv6 error quotes: the whole error stays within 1280 bytes (RFC 4443, section 2.4 c).
pub const QUOTE_MAX_V6: usize = 1280 - 48;
/// Headroom that [`answer_with_error`] needs at most.
pub const HEADROOM: usize = 48;

const ECHO_REPLY: u8 = 0;
const ECHO_REQUEST: u8 = 8;
const ECHO_REQUEST_V6: u8 = 128;
const ECHO_REPLY_V6: u8 = 129;
const REDIRECT_V6: u8 = 137;

/// Why a packet could not be delivered, in both families' terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// TTL or hop limit ran out here.
    TimeExceeded,
    /// Larger than the link it should leave by.
    TooBig {
        /// Largest IP packet that fits, in bytes.
        mtu: u16,
    },
    /// No route to the destination.
    NoRoute,
    /// The next hop or the destination does not answer.
    HostUnreachable,
    /// Nothing listens on the port.
    PortUnreachable,
    /// Policy forbids it.
    Prohibited,
}

impl Problem {
    /// Type, code and the four bytes behind the checksum.
    fn header(self, family: Family) -> (u8, u8, u32) {
        match (self, family) {
            (Problem::TimeExceeded, Family::V4) => (11, 0, 0),
            (Problem::TooBig { mtu }, Family::V4) => (3, 4, u32::from(mtu)),
            (Problem::TooBig { mtu }, Family::V6) => (2, 0, u32::from(mtu)),
            (Problem::TimeExceeded, Family::V6) | (Problem::NoRoute, Family::V4) => (3, 0, 0),
            (Problem::NoRoute, Family::V6) => (1, 0, 0),
            (Problem::HostUnreachable, Family::V4) => (3, 1, 0),
            (Problem::HostUnreachable, Family::V6) => (1, 3, 0),
            (Problem::PortUnreachable, Family::V4) => (3, 3, 0),
            (Problem::PortUnreachable, Family::V6) => (1, 4, 0),
            (Problem::Prohibited, Family::V4) => (3, 13, 0),
            (Problem::Prohibited, Family::V6) => (1, 1, 0),
        }
    }
}

/// True for an echo request that is whole.
#[inline]
pub const fn is_echo_request(packet: &IpPacket) -> bool {
    matches!(packet.fragment, Fragment::None)
        && matches!(
            (packet.family, packet.l4),
            (
                Family::V4,
                L4::Icmp {
                    kind: ECHO_REQUEST,
                    code: 0,
                    ..
                }
            ) | (
                Family::V6,
                L4::Icmp {
                    kind: ECHO_REQUEST_V6,
                    code: 0,
                    ..
                }
            )
        )
}

/// Turns an echo request into the reply, from the address that was asked and from `own` back to the frame's sender.
///
/// The checksum is updated, not recomputed: a request with a wrong one becomes a reply with a wrong one. `None`, and no
/// change, if the packet is not a whole echo request.
pub fn answer_echo(frame: &mut [u8], packet: &IpPacket, own: Mac) -> Option<()> {
    if !is_echo_request(packet) {
        return None;
    }
    let (request, reply) = match packet.family {
        Family::V4 => (ECHO_REQUEST, ECHO_REPLY),
        Family::V6 => (ECHO_REQUEST_V6, ECHO_REPLY_V6),
    };
    ethernet::turn_around(frame, own)?;
    match packet.family {
        Family::V4 => {
            let (src, dst) = packet.addresses::<Ipv4Addr, _>(&*frame)?;
            put(frame, packet.l3_offset + 12, dst.octets())?;
            put(frame, packet.l3_offset + 16, src.octets())?;
            put(frame, packet.l3_offset + 8, [ip::OWN_TTL])?;
            checksum::write_ipv4_header(frame, packet.l3_offset)?;
        }
        Family::V6 => {
            let (src, dst) = packet.addresses::<Ipv6Addr, _>(&*frame)?;
            put(frame, packet.l3_offset + 8, dst.octets())?;
            put(frame, packet.l3_offset + 24, src.octets())?;
            put(frame, packet.l3_offset + 7, [ip::OWN_TTL])?;
        }
    }
    // The pseudo-header of ICMPv6 sums both addresses, so exchanging them changes nothing.
    let field = u16::from_ne_bytes((&*frame).read(packet.l4_offset + 2)?);
    let change = delta16(
        u16::from_ne_bytes([request, 0]),
        u16::from_ne_bytes([reply, 0]),
    );
    put(frame, packet.l4_offset, [reply])?;
    put(
        frame,
        packet.l4_offset + 2,
        apply(field, change).to_ne_bytes(),
    )
}

/// True if an error may be sent about this packet (RFC 1812, section 4.3.2.7; RFC 4443, section 2.4 e).
///
/// Never about an ICMP error or redirect, a fragment other than the first, a packet sent to a group (by MAC or by IP
/// address; "packet too big" excepted in IPv6, where path MTU discovery of multicast needs it), or one whose source
/// cannot be a single host.
pub fn may_answer_with_error(frame: &[u8], packet: &IpPacket, problem: Problem) -> bool {
    let Some((src, dst)) = packet.ip_addresses(frame) else {
        return false;
    };
    let Some(mac) = ethernet::destination(frame) else {
        return false;
    };
    let (source_is_host, sent_to_group) = match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => (src.is_possible_source(), dst.is_group()),
        (IpAddr::V6(src), IpAddr::V6(dst)) => (src.is_possible_source(), dst.is_group()),
        _ => return false,
    };
    let group_is_fine = packet.family == Family::V6 && matches!(problem, Problem::TooBig { .. });
    let is_error = match packet.l4 {
        L4::Icmp {
            kind: REDIRECT_V6, ..
        } if packet.family == Family::V6 => true,
        L4::Icmp { kind, .. } => ip::is_icmp_error(packet.family, kind),
        L4::Tcp { .. } | L4::Udp { .. } | L4::Other => false,
    };
    packet.fragment != Fragment::Later
        && !is_error
        && source_is_host
        && (group_is_fine || !(sent_to_group || ethernet::is_group(mac)))
}

/// Turns a packet into the ICMP error about it, sent from `source` and from `own` back to the frame's sender.
///
/// The quoted packet stays where it is in memory; the new headers go in front, into up to [`HEADROOM`] bytes of headroom.
/// A VLAN tag stays. `false` if [`may_answer_with_error`] says so, `source` is of the other family, or the headroom is
/// too small; the frame is then unchanged.
#[must_use]
pub fn answer_with_error(
    frame: &mut impl Buffer,
    packet: &IpPacket,
    problem: Problem,
    source: IpAddr,
    own: Mac,
) -> bool {
    if Family::of(source) != packet.family || !may_answer_with_error(frame.bytes(), packet, problem)
    {
        return false;
    }
    write_error(frame, packet, problem, source, own).is_some()
}

fn write_error(
    frame: &mut impl Buffer,
    packet: &IpPacket,
    problem: Problem,
    source: IpAddr,
    own: Mac,
) -> Option<()> {
    let (receiver, _) = packet.ip_addresses(frame.bytes())?;
    let back_to = ethernet::source(frame.bytes())?;
    let (quote_max, protocol) = match packet.family {
        Family::V4 => (QUOTE_MAX_V4, ip::ICMP),
        Family::V6 => (QUOTE_MAX_V6, ip::ICMPV6),
    };
    let quote_len = packet.ip_len().min(quote_max);
    let growth = packet.family.header_len() + 8;
    let link_type: [u8; 2] = frame.bytes().read(12)?;
    let tag: Option<[u8; 4]> = packet
        .vlan
        .and_then(|_| frame.bytes().read(ethernet::HEADER_LEN));
    if !frame.prepend(growth) {
        return None;
    }
    // Shorter than what is there: the padding and what exceeds the quote goes.
    if !frame.resize(packet.l3_offset + growth + quote_len) {
        return None;
    }
    let bytes = frame.bytes_mut();
    ethernet::set_addresses(bytes, back_to, own)?;
    put(bytes, 12, link_type)?;
    if let Some(tag) = tag {
        put(bytes, ethernet::HEADER_LEN, tag)?;
    }

    let l3 = packet.l3_offset;
    let l4 = l3 + packet.family.header_len();
    let (kind, code, rest) = problem.header(packet.family);
    let [r0, r1, r2, r3] = rest.to_be_bytes();
    put(bytes, l4, [kind, code, 0, 0, r0, r1, r2, r3])?;
    let message_len = quote_len + 8;
    let pseudo = match (source, receiver) {
        (IpAddr::V4(source), IpAddr::V4(receiver)) => {
            ip::write_ipv4(
                bytes,
                l3,
                (source, receiver),
                protocol,
                ip::OWN_TTL,
                message_len,
            )?;
            0
        }
        (IpAddr::V6(source), IpAddr::V6(receiver)) => {
            ip::write_ipv6(
                bytes,
                l3,
                (source, receiver),
                protocol,
                ip::OWN_TTL,
                message_len,
            )?;
            checksum::pseudo_header(source, receiver, protocol, u32::try_from(message_len).ok()?)
        }
        _ => return None,
    };
    let message = checksum::sum(bytes.get(l4..l4 + message_len)?);
    let complete = !checksum::fold(pseudo + u32::from(message));
    put(bytes, l4 + 2, complete.to_ne_bytes())
}

#[cfg(test)]
mod tests;
