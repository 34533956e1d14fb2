//! The hot path's parser: one shape of packet, recognised without a branch that traffic could make unpredictable.
//!
//! [`v4`] accepts exactly: untagged, IPv4 without options, not a fragment, TTL above 1, TCP or UDP, and every check of
//! [`crate::parse`] passed. [`v6`] accepts the same without extension headers. Anything else is `None`: take the general
//! parser, which says what it is. Conditions are combined with `&`: traffic mixes TCP with UDP, and a mispredicted branch
//! costs more than all of the arithmetic. What the compiler still makes a branch of is one that good traffic never takes.
//!
//! **Byte order.** Addresses and ports are *raw*: the wire's bytes in a native load, ready to be hashed, compared and
//! stored without a swap.

#![expect(
    clippy::needless_bitwise_bool,
    reason = "every condition is computed; a branch each is what this avoids"
)]
#![expect(
    clippy::inline_always,
    reason = "the loop body of a burst's first stage: a call would spill its result"
)]

use crate::cursor::Cursor;
use crate::ethernet;
use crate::ip;
use crate::parse::{Fragment, IpPacket, L4};
use crate::tcp;
use crate::tuple::Family;

/// Where the L4 header of a [`FastV4`] begins.
pub const V4_L4_OFFSET: usize = 34;
/// Where the L4 header of a [`FastV6`] begins.
pub const V6_L4_OFFSET: usize = 54;

/// Bytes up to the end of a TCP header without options: what one look at a frame loads.
const V4_HEADERS: usize = V4_L4_OFFSET + 20;
const V6_HEADERS: usize = V6_L4_OFFSET + 20;

/// The fields of an IPv4 packet that the hot path works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FastV4 {
    /// Source address in the first four bytes in memory, destination in the last four; raw.
    pub addresses: u64,
    /// Source port in the first two bytes in memory, destination in the last two; raw.
    pub ports: u32,
    /// 6 or 17.
    pub protocol: u8,
    /// TCP flags; 0 for UDP.
    pub tcp_flags: u8,
    /// TTL, above 1.
    pub ttl: u8,
    /// DSCP and ECN.
    pub tos: u8,
    /// Length of the IP packet in bytes, padding excluded.
    pub ip_len: u16,
}

/// The fields of an IPv6 packet that the hot path works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FastV6 {
    /// Source address, raw: two registers in memory order.
    pub src: [u64; 2],
    /// Destination address, raw.
    pub dst: [u64; 2],
    /// Source port in the first two bytes in memory, destination in the last two; raw.
    pub ports: u32,
    /// 6 or 17.
    pub protocol: u8,
    /// TCP flags; 0 for UDP.
    pub tcp_flags: u8,
    /// Hop limit, above 1.
    pub ttl: u8,
    /// DSCP and ECN.
    pub tos: u8,
    /// Length of the IP packet in bytes, header included, padding excluded.
    pub ip_len: u32,
}

/// What [`crate::parse`] says of a frame that [`v4`] recognised, read again without the checks. `None` if the frame is
/// shorter than that.
#[inline]
pub fn v4_packet(frame: &[u8]) -> Option<IpPacket> {
    let header: [u8; 20] = frame.read(ethernet::HEADER_LEN)?;
    let end = ethernet::HEADER_LEN + usize::from(u16::from_be_bytes([header[2], header[3]]));
    let (family, tos, ttl, protocol) = (Family::V4, header[1], header[8], header[9]);
    plain(frame, family, V4_L4_OFFSET, end, tos, ttl, protocol)
}

/// What [`crate::parse`] says of a frame that [`v6`] recognised, read again without the checks. `None` if the frame is
/// shorter than that.
#[inline]
pub fn v6_packet(frame: &[u8]) -> Option<IpPacket> {
    let header: [u8; 8] = frame.read(ethernet::HEADER_LEN)?;
    let end = V6_L4_OFFSET + usize::from(u16::from_be_bytes([header[4], header[5]]));
    let tos = header[0] << 4 | header[1] >> 4;
    let (family, ttl, protocol) = (Family::V6, header[7], header[6]);
    plain(frame, family, V6_L4_OFFSET, end, tos, ttl, protocol)
}

#[inline]
fn plain(
    frame: &[u8],
    family: Family,
    l4_offset: usize,
    end: usize,
    tos: u8,
    ttl: u8,
    protocol: u8,
) -> Option<IpPacket> {
    let [a, b, c, d] = frame.read::<4>(l4_offset)?;
    let (src_port, dst_port) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    let l4 = if protocol == ip::TCP {
        let [offset, flags] = frame.read::<2>(l4_offset + 12)?;
        L4::Tcp {
            src_port,
            dst_port,
            flags,
            header_len: usize::from(offset >> 4) * 4,
        }
    } else {
        L4::Udp { src_port, dst_port }
    };
    Some(IpPacket {
        family,
        l3_offset: ethernet::HEADER_LEN,
        l4_offset,
        end,
        vlan: None,
        protocol,
        ttl,
        tos,
        fragment: Fragment::None,
        l4,
    })
}

/// The TCP flag combinations that pass, one bit for each value of the low six flags.
const GOOD_FLAGS: u64 = {
    let mut good = 0u64;
    let mut flags = 0u8;
    while flags < 64 {
        if tcp::check_flags(flags).is_ok() {
            good |= 1 << flags;
        }
        flags += 1;
    }
    good
};

/// The four bytes from the `EtherType` on, as a native load sees them: type, version byte, and one byte masked out.
const fn shape(ethertype: u16, version: u8) -> u32 {
    let [high, low] = ethertype.to_be_bytes();
    u32::from_ne_bytes([high, low, version, 0])
}

#[inline(always)]
fn native<const N: usize, const AT: usize, const LEN: usize>(headers: &[u8; LEN]) -> [u8; N] {
    const { assert!(AT + N <= LEN, "a field lies inside the headers") };
    core::array::from_fn(|index| headers[AT + index])
}

#[inline(always)]
fn load64<const AT: usize, const LEN: usize>(headers: &[u8; LEN]) -> u64 {
    u64::from_ne_bytes(native::<8, AT, LEN>(headers))
}

#[inline(always)]
fn load32<const AT: usize, const LEN: usize>(headers: &[u8; LEN]) -> u32 {
    u32::from_ne_bytes(native::<4, AT, LEN>(headers))
}

#[inline(always)]
fn number16<const AT: usize, const LEN: usize>(headers: &[u8; LEN]) -> u32 {
    u32::from(u16::from_be_bytes(native::<2, AT, LEN>(headers)))
}

/// Protocol, lengths and flags of TCP or UDP at once; returns the verdict and the flags (0 for UDP).
#[inline(always)]
fn l4<const AT: usize, const LEN: usize>(
    headers: &[u8; LEN],
    protocol: u8,
    l4_len: u32,
) -> (bool, u8) {
    let is_tcp = protocol == ip::TCP;
    let is_udp = protocol == ip::UDP;
    let udp_len = u32::from(u16::from_be_bytes([headers[AT + 4], headers[AT + 5]]));
    let tcp_len = u32::from(headers[AT + 12] >> 4) * 4;
    let flags = headers[AT + 13];
    let tcp_good =
        is_tcp & (tcp_len >= 20) & (tcp_len <= l4_len) & ((GOOD_FLAGS >> (flags & 63)) & 1 == 1);
    let udp_good = is_udp & (udp_len >= 8) & (udp_len <= l4_len);
    (
        tcp_good | udp_good,
        flags & 0u8.wrapping_sub(u8::from(is_tcp)),
    )
}

/// True if a sum of 32-bit words folds to 0xffff. Adding a register to itself with its halves exchanged puts the sum of
/// the halves, end-around carry included, into the upper half.
#[inline(always)]
fn folds_to_ones(sum: u64) -> bool {
    let words = (sum.wrapping_add(sum.rotate_left(32)) >> 32) as u32;
    words.wrapping_add(words.rotate_left(16)) >> 16 == 0xffff
}

/// Recognises the common shape of IPv4; `None` means that [`crate::parse`] has to look.
#[inline(always)]
pub fn v4(frame: &[u8]) -> Option<FastV4> {
    match frame.first_chunk::<V4_HEADERS>() {
        Some(headers) => v4_headers(headers, frame.len()),
        None => v4_short(frame),
    }
}

/// A UDP frame too short for what [`v4`] loads: the same on a padded copy.
#[cold]
#[inline(never)]
fn v4_short(frame: &[u8]) -> Option<FastV4> {
    if frame.len() < V4_L4_OFFSET + 8 {
        return None;
    }
    let mut headers = [0u8; V4_HEADERS];
    for (to, from) in headers.iter_mut().zip(frame) {
        *to = *from;
    }
    v4_headers(&headers, frame.len())
}

#[inline(always)]
fn v4_headers(headers: &[u8; V4_HEADERS], len: usize) -> Option<FastV4> {
    // EtherType, version and header length in one comparison; the fourth byte is TOS.
    const SHAPE: u32 = shape(ethernet::IPV4, 0x45);
    const SHAPE_MASK: u32 = u32::from_ne_bytes([0xff, 0xff, 0xff, 0]);
    // Everything of the fragment field except "don't fragment" and the reserved bit.
    const FRAGMENT_MASK: u16 = 0x3fff;
    const LOW: u64 = 0xffff_ffff;

    let first = load64::<14, V4_HEADERS>(headers);
    let second = load64::<22, V4_HEADERS>(headers);
    let third = load32::<30, V4_HEADERS>(headers);
    let sum = (first & LOW) + (first >> 32) + (second & LOW) + (second >> 32) + u64::from(third);

    let addresses = load64::<26, V4_HEADERS>(headers);
    let (src, dst) = (load32::<26, V4_HEADERS>(headers), third);
    let total = number16::<16, V4_HEADERS>(headers);
    let (ttl, protocol) = (headers[22], headers[23]);
    let fragment = u16::from_be_bytes([headers[20], headers[21]]);
    let (l4_good, tcp_flags) =
        l4::<V4_L4_OFFSET, V4_HEADERS>(headers, protocol, total.wrapping_sub(20));
    let good = (load32::<12, V4_HEADERS>(headers) & SHAPE_MASK == SHAPE)
        & folds_to_ones(sum)
        & (total >= 28)
        & (total as usize + 14 <= len)
        & (fragment & FRAGMENT_MASK == 0)
        & (ttl > 1)
        & (src != dst)
        & l4_good;
    #[expect(clippy::cast_possible_truncation, reason = "read from 16 bits")]
    let ip_len = total as u16;
    let ports = load32::<V4_L4_OFFSET, V4_HEADERS>(headers);
    good.then_some(FastV4 {
        addresses,
        ports,
        protocol,
        tcp_flags,
        ttl,
        tos: headers[15],
        ip_len,
    })
}

/// Recognises the common shape of IPv6; `None` means that [`crate::parse`] has to look.
#[inline(always)]
pub fn v6(frame: &[u8]) -> Option<FastV6> {
    match frame.first_chunk::<V6_HEADERS>() {
        Some(headers) => v6_headers(headers, frame.len()),
        None => v6_short(frame),
    }
}

#[cold]
#[inline(never)]
fn v6_short(frame: &[u8]) -> Option<FastV6> {
    if frame.len() < V6_L4_OFFSET + 8 {
        return None;
    }
    let mut headers = [0u8; V6_HEADERS];
    for (to, from) in headers.iter_mut().zip(frame) {
        *to = *from;
    }
    v6_headers(&headers, frame.len())
}

#[inline(always)]
fn v6_headers(headers: &[u8; V6_HEADERS], len: usize) -> Option<FastV6> {
    // EtherType and version in one comparison.
    const SHAPE: u32 = shape(ethernet::IPV6, 0x60);
    const SHAPE_MASK: u32 = u32::from_ne_bytes([0xff, 0xff, 0xf0, 0]);

    let src = [
        load64::<22, V6_HEADERS>(headers),
        load64::<30, V6_HEADERS>(headers),
    ];
    let dst = [
        load64::<38, V6_HEADERS>(headers),
        load64::<46, V6_HEADERS>(headers),
    ];
    let payload = number16::<18, V6_HEADERS>(headers);
    let (protocol, ttl) = (headers[20], headers[21]);
    let (l4_good, tcp_flags) = l4::<V6_L4_OFFSET, V6_HEADERS>(headers, protocol, payload);
    let good = (load32::<12, V6_HEADERS>(headers) & SHAPE_MASK == SHAPE)
        & (payload as usize + V6_L4_OFFSET <= len)
        & (ttl > 1)
        & ((src[0] ^ dst[0]) | (src[1] ^ dst[1]) != 0)
        & l4_good;
    let tos = headers[14] << 4 | headers[15] >> 4;
    let ports = load32::<V6_L4_OFFSET, V6_HEADERS>(headers);
    good.then_some(FastV6 {
        src,
        dst,
        ports,
        protocol,
        tcp_flags,
        ttl,
        tos,
        ip_len: payload + 40,
    })
}

#[cfg(test)]
mod tests;
