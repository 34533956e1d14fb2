//! Pieces of the IP layer that more than one decoder needs: options, fragments, extension headers, protocol numbers.

use core::net::{Ipv4Addr, Ipv6Addr};

use crate::checksum;
use crate::cursor::{Cursor, put};
use crate::parse::{Fragment, IpPacket};
use crate::tuple::Family;
use crate::verdict::DropReason;

/// Protocol number of ICMP.
pub const ICMP: u8 = 1;
/// Protocol number of TCP.
pub const TCP: u8 = 6;
/// Protocol number of UDP.
pub const UDP: u8 = 17;
/// Next header: IPv6 routing header.
pub const ROUTING: u8 = 43;
/// Next header: IPv6 fragment header.
pub const FRAGMENT: u8 = 44;
/// Protocol number of ICMPv6.
pub const ICMPV6: u8 = 58;
/// Next header: nothing follows.
pub const NO_NEXT_HEADER: u8 = 59;
/// Next header: IPv6 destination options.
pub const DESTINATION_OPTIONS: u8 = 60;
/// Next header: IPv6 hop-by-hop options, the first extension header or none.
pub const HOP_BY_HOP: u8 = 0;

/// How many IPv6 extension headers are followed before the packet is dropped.
pub const EXTENSION_HEADERS_MAX: usize = 8;
/// Bytes of IPv4 options at most.
pub const OPTIONS_MAX: usize = 40;

const LOOSE_SOURCE_ROUTE: u8 = 131;
const STRICT_SOURCE_ROUTE: u8 = 137;

/// True for the ICMP messages that quote the packet they are about (RFC 792; RFC 4443: types below 128).
#[inline]
pub const fn is_icmp_error(family: Family, kind: u8) -> bool {
    match family {
        // Destination unreachable, source quench, redirect, time exceeded, parameter problem.
        Family::V4 => matches!(kind, 3 | 4 | 5 | 11 | 12),
        Family::V6 => kind < 128,
    }
}

/// TTL or hop limit of packets that are made here.
pub const OWN_TTL: u8 = 64;
/// Hop limit that neighbour discovery insists on (RFC 4861): such a packet never passed a router.
pub const LINK_TTL: u8 = 255;

/// Writes the IP header of an answer over that of the packet it answers: addresses exchanged, no options, whole.
///
/// The frame must already be long enough. `payload` is the number of bytes behind the header.
pub(crate) fn write_answer_header(
    bytes: &mut [u8],
    packet: &IpPacket,
    payload: usize,
) -> Option<()> {
    match packet.family {
        Family::V4 => {
            let (src, dst) = packet.addresses::<Ipv4Addr, _>(&*bytes)?;
            write_ipv4(
                bytes,
                packet.l3_offset,
                (dst, src),
                packet.protocol,
                OWN_TTL,
                payload,
            )
        }
        Family::V6 => {
            let (src, dst) = packet.addresses::<Ipv6Addr, _>(&*bytes)?;
            write_ipv6(
                bytes,
                packet.l3_offset,
                (dst, src),
                packet.protocol,
                OWN_TTL,
                payload,
            )
        }
    }
}

/// Writes an IPv4 header without options: "don't fragment", identification 0 (RFC 6864), checksum included.
pub(crate) fn write_ipv4(
    bytes: &mut [u8],
    at: usize,
    (src, dst): (Ipv4Addr, Ipv4Addr),
    protocol: u8,
    ttl: u8,
    payload: usize,
) -> Option<()> {
    let [len_high, len_low] = u16::try_from(payload + 20).ok()?.to_be_bytes();
    put(
        bytes,
        at,
        [
            0x45, 0, len_high, len_low, 0, 0, 0x40, 0, ttl, protocol, 0, 0,
        ],
    )?;
    put(bytes, at + 12, src.octets())?;
    put(bytes, at + 16, dst.octets())?;
    checksum::write_ipv4_header(bytes, at)
}

/// Writes an IPv6 header without flow label.
pub(crate) fn write_ipv6(
    bytes: &mut [u8],
    at: usize,
    (src, dst): (Ipv6Addr, Ipv6Addr),
    protocol: u8,
    ttl: u8,
    payload: usize,
) -> Option<()> {
    let [len_high, len_low] = u16::try_from(payload).ok()?.to_be_bytes();
    put(bytes, at, [0x60, 0, 0, 0, len_high, len_low, protocol, ttl])?;
    put(bytes, at + 8, src.octets())?;
    put(bytes, at + 24, dst.octets())
}

/// The fragment field of an IPv4 header: 3 bits of flags, 13 bits of offset.
#[inline]
pub(crate) const fn fragment(field: u16) -> Fragment {
    match (field & 0x1fff, field & 0x2000) {
        (0, 0) => Fragment::None,
        (0, _) => Fragment::First,
        _ => Fragment::Later,
    }
}

/// One's-complement sum of an IPv4 header of `len` bytes: 0xffff if its checksum is right.
///
/// Words that the frame does not have count nothing; the caller has compared the lengths.
#[inline]
pub(crate) fn header_sum<C: Cursor>(frame: C, at: usize, len: usize) -> u16 {
    let mut sum = 0u64;
    for index in 0..(20 + OPTIONS_MAX) / 4 {
        if index * 4 >= len {
            break;
        }
        let Some(word) = frame.read(at + index * 4) else {
            break;
        };
        sum += u64::from(u32::from_ne_bytes(word));
    }
    checksum::fold64(sum)
}

/// Refuses source routes and option lengths that cannot be in the `len` bytes of options at `at`; any other is fine.
///
/// One byte per turn with a constant stride, because the BPF verifier follows that and not a walk by option length.
#[inline]
pub(crate) fn check_options<C: Cursor>(frame: C, at: usize, len: usize) -> Result<(), DropReason> {
    let mut rest_of_option = 0usize;
    for index in 0..OPTIONS_MAX {
        if index >= len {
            break;
        }
        if rest_of_option > 0 {
            rest_of_option -= 1;
            continue;
        }
        let Some(kind) = frame.read_u8(at + index) else {
            break;
        };
        match kind {
            0 => break,
            1 => {}
            LOOSE_SOURCE_ROUTE | STRICT_SOURCE_ROUTE => return Err(DropReason::SourceRoute),
            _ => {
                let option_len = frame.read_u8(at + index + 1).map_or(0, usize::from);
                if option_len < 2 || index + option_len > len {
                    return Err(DropReason::BadIpOptions);
                }
                rest_of_option = option_len - 1;
            }
        }
    }
    Ok(())
}

/// Where a chain of IPv6 extension headers ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain {
    /// The next-header value of the last header followed.
    pub protocol: u8,
    /// Where that protocol's header begins.
    pub l4_offset: usize,
    /// What a fragment header said.
    pub fragment: Fragment,
}

/// True for a next-header value that [`extension_headers`] would follow.
#[inline]
pub const fn is_extension_header(protocol: u8) -> bool {
    matches!(
        protocol,
        HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION_OPTIONS
    )
}

/// Follows extension headers from `at` (with next-header value `first`) to something that is none.
///
/// Hop-by-hop options are allowed first only, one fragment header at most, routing type 0 never (RFC 5095). A chain
/// that passes `end` or is longer than [`EXTENSION_HEADERS_MAX`] drops as `extension_headers`. ESP and AH end the chain.
#[inline]
pub fn extension_headers<C: Cursor>(
    frame: C,
    first: u8,
    at: usize,
    end: usize,
) -> Result<Chain, DropReason> {
    let mut chain = Chain {
        protocol: first,
        l4_offset: at,
        fragment: Fragment::None,
    };
    let mut fragment_seen = false;
    for index in 0..=EXTENSION_HEADERS_MAX {
        match chain.protocol {
            HOP_BY_HOP if index == 0 => {}
            ROUTING | DESTINATION_OPTIONS => {}
            FRAGMENT if !fragment_seen => {}
            HOP_BY_HOP | FRAGMENT => return Err(DropReason::ExtensionHeaders),
            _ => return Ok(chain),
        }
        if index == EXTENSION_HEADERS_MAX {
            break;
        }
        let header = frame
            .read::<4>(chain.l4_offset)
            .ok_or(DropReason::ExtensionHeaders)?;
        let [next, length, third, fourth] = header;
        let is_fragment = chain.protocol == FRAGMENT;
        if chain.protocol == ROUTING && third == 0 {
            return Err(DropReason::SourceRoute);
        }
        let len = if is_fragment {
            8
        } else {
            (usize::from(length) + 1) * 8
        };
        chain.l4_offset += len;
        chain.protocol = next;
        if chain.l4_offset > end {
            return Err(DropReason::ExtensionHeaders);
        }
        if is_fragment {
            fragment_seen = true;
            // 13 bits of offset, 2 reserved, 1 "more".
            let field = u16::from_be_bytes([third, fourth]);
            if field & 0xfff8 != 0 {
                chain.fragment = Fragment::Later;
                return Ok(chain);
            }
            if field & 1 == 1 {
                chain.fragment = Fragment::First;
            }
        }
    }
    Err(DropReason::ExtensionHeaders)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(bytes: &[u8]) -> Result<(), DropReason> {
        // The payload must not be taken for the rest of an option.
        let mut frame = std::vec::Vec::from(bytes);
        frame.extend_from_slice(&[2; 8]);
        check_options(frame.as_slice(), 0, bytes.len())
    }

    #[test]
    fn ordinary_options_pass() {
        assert_eq!(options(&[]), Ok(()));
        assert_eq!(options(&[1, 1, 1, 0]), Ok(()));
        assert_eq!(options(&[7, 7, 4, 0, 0, 0, 0, 0]), Ok(()));
        // Router alert, as IGMP sends it.
        assert_eq!(options(&[0x94, 4, 0, 0]), Ok(()));
        // What looks like a source route is data of another option, or behind the end.
        assert_eq!(options(&[7, 4, 131, 137]), Ok(()));
        assert_eq!(options(&[0, 131, 3, 4]), Ok(()));
    }

    #[test]
    fn source_routes_do_not() {
        assert_eq!(options(&[131, 3, 4, 0]), Err(DropReason::SourceRoute));
        assert_eq!(options(&[137, 3, 4, 0]), Err(DropReason::SourceRoute));
        assert_eq!(
            options(&[1, 7, 3, 4, 131, 3, 4, 0]),
            Err(DropReason::SourceRoute)
        );
        let mut last = [1u8; OPTIONS_MAX];
        last[OPTIONS_MAX - 1] = 131;
        assert_eq!(options(&last), Err(DropReason::SourceRoute));
    }

    #[test]
    fn lengths_that_cannot_be() {
        for bad in [[7, 0, 0, 0], [7, 1, 0, 0], [7, 5, 0, 0], [1, 1, 1, 7]] {
            assert_eq!(options(&bad), Err(DropReason::BadIpOptions), "{bad:?}");
        }
        let mut last = [1u8; OPTIONS_MAX];
        last[OPTIONS_MAX - 1] = 7;
        assert_eq!(options(&last), Err(DropReason::BadIpOptions));
    }

    #[test]
    fn fragment_fields() {
        assert_eq!(fragment(0x4000), Fragment::None);
        assert_eq!(fragment(0x2000), Fragment::First);
        assert_eq!(fragment(0x2001), Fragment::Later);
        assert_eq!(fragment(0x0001), Fragment::Later);
        assert_eq!(fragment(0x0000), Fragment::None);
    }
}
