//! The Internet checksum: full (RFC 1071) and incremental (RFC 1624, equation 3).
//!
//! **Byte order.** Every sum here is over 16-bit words *as they lie in memory* (native loads), which is valid because a
//! one's-complement sum does not care (RFC 1071, section 2 B). So a checksum field is loaded with
//! `u16::from_ne_bytes` and stored with `to_ne_bytes`, and nothing is ever swapped. A *number* that enters a sum (a
//! length, a protocol) is turned into wire order first.
//!
//! **Widths.** A `u32` accumulator holds the unfolded sum of up to 65 536 words; [`fold`] makes it 16 bits wide again.

use core::net::{Ipv4Addr, Ipv6Addr};

use crate::cursor::{Cursor, put};
use crate::parse::{Fragment, IpPacket, L4};
use crate::tuple::{Address, Family};

/// Folds an accumulator to 16 bits. Zero only for zero, so equal sums of non-zero data have one form.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "two folds leave 16 bits")]
pub const fn fold(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    ((once & 0xffff) + (once >> 16)) as u16
}

/// Folds a 64-bit accumulator. Zero only for zero.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "two folds leave 32 bits")]
pub const fn fold64(sum: u64) -> u16 {
    let once = (sum & 0xffff_ffff) + (sum >> 32);
    let twice = (once & 0xffff_ffff) + (once >> 32);
    fold(((twice & 0xffff) + (twice >> 16)) as u32)
}

/// The four 16-bit words of a register, added up.
#[inline]
pub const fn sum_words(words: u64) -> u32 {
    (words & 0xffff) as u32
        + ((words >> 16) & 0xffff) as u32
        + ((words >> 32) & 0xffff) as u32
        + (words >> 48) as u32
}

/// What to add to a checksum when `old` becomes `new`: up to four words at once, both in memory order.
///
/// Deltas of several fields add up; fold them if more than a few thousand do.
#[inline]
pub const fn delta(old: u64, new: u64) -> u32 {
    sum_words(!old) + sum_words(new)
}

/// [`delta`] of one 16-bit word.
#[inline]
pub const fn delta16(old: u16, new: u16) -> u32 {
    !old as u32 + new as u32
}

/// [`delta`] of an address.
#[inline]
pub fn delta_address<A: Address>(old: A, new: A) -> u32 {
    delta16(old.sum(), new.sum())
}

/// A checksum field after a change: RFC 1624, equation 3. `field` and the result are in memory order.
#[inline]
pub const fn apply(field: u16, delta: u32) -> u16 {
    // Folded first, so that no delta can overflow the addition.
    !fold(!field as u32 + fold(delta) as u32)
}

/// [`apply`] for UDP over IPv4, where 0 means "no checksum" and stays so, and a computed 0 is sent as 0xffff (RFC 768).
#[inline]
pub const fn apply_udp(field: u16, delta: u32) -> u16 {
    if field == 0 {
        return 0;
    }
    never_zero(apply(field, delta))
}

/// The form of a checksum that must not be 0 on the wire: 0xffff is the same number.
#[inline]
pub const fn never_zero(field: u16) -> u16 {
    if field == 0 { 0xffff } else { field }
}

/// One's-complement sum of a byte string, folded; an odd last byte is padded with zero.
pub fn sum(bytes: &[u8]) -> u16 {
    let (words, rest) = bytes.as_chunks::<8>();
    let mut total = 0u64;
    for word in words {
        let (added, carry) = total.overflowing_add(u64::from_ne_bytes(*word));
        total = added + u64::from(carry);
    }
    let mut last = [0u8; 8];
    for (to, from) in last.iter_mut().zip(rest) {
        *to = *from;
    }
    let (added, carry) = total.overflowing_add(u64::from_ne_bytes(last));
    fold64(added + u64::from(carry))
}

/// The checksum field for a byte string whose own field holds 0 (or whatever should be added in).
#[inline]
pub fn checksum(bytes: &[u8]) -> u16 {
    !sum(bytes)
}

/// Sum of the IPv4 or IPv6 pseudo-header (RFC 793, RFC 8200 section 8.1), unfolded. `l4_len` is header and payload.
#[inline]
pub fn pseudo_header<A: Address>(src: A, dst: A, protocol: u8, l4_len: u32) -> u32 {
    let length = sum_words(u64::from(l4_len.to_be()));
    u32::from(src.sum()) + u32::from(dst.sum()) + u32::from(u16::from(protocol).to_be()) + length
}

/// The pseudo-header sum of a parsed packet, folded.
fn pseudo_header_of(bytes: &[u8], packet: &IpPacket) -> Option<u16> {
    let l4_len = u32::try_from(packet.end.checked_sub(packet.l4_offset)?).ok()?;
    let total = match packet.family {
        Family::V4 => {
            let (src, dst) = packet.addresses::<Ipv4Addr, _>(bytes)?;
            pseudo_header(src, dst, packet.protocol, l4_len)
        }
        Family::V6 => {
            let (src, dst) = packet.addresses::<Ipv6Addr, _>(bytes)?;
            pseudo_header(src, dst, packet.protocol, l4_len)
        }
    };
    Some(fold(total))
}

/// Where the L4 checksum field of a whole packet is in the frame; `None` for a fragment or an unknown protocol.
#[inline]
pub fn l4_field(packet: &IpPacket) -> Option<usize> {
    if packet.fragment != Fragment::None {
        return None;
    }
    let within = match packet.l4 {
        L4::Tcp { .. } => 16,
        L4::Udp { .. } => 6,
        L4::Icmp { .. } => 2,
        L4::Other => return None,
    };
    Some(packet.l4_offset + within)
}

/// What the L4 checksum of a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum L4Checksum {
    /// It fits.
    Valid,
    /// UDP over IPv4 without one.
    Absent,
    /// Only the pseudo-header sum is there: the sender left the rest to hardware that never saw the frame.
    Partial,
    /// It does not fit.
    Wrong,
    /// A fragment or a protocol whose checksum is not known here.
    Unknown,
}

/// Judges the L4 checksum over the whole payload. Not for the hot path.
pub fn l4_state(bytes: &[u8], packet: &IpPacket) -> L4Checksum {
    judge(bytes, packet).unwrap_or(L4Checksum::Unknown)
}

fn judge(bytes: &[u8], packet: &IpPacket) -> Option<L4Checksum> {
    let field = u16::from_ne_bytes(bytes.read(l4_field(packet)?)?);
    let is_udp = matches!(packet.l4, L4::Udp { .. });
    if is_udp && field == 0 {
        // RFC 8200 section 8.1: not allowed over IPv6.
        return Some(match packet.family {
            Family::V4 => L4Checksum::Absent,
            Family::V6 => L4Checksum::Wrong,
        });
    }
    let pseudo = match (packet.family, packet.l4) {
        (Family::V4, L4::Icmp { .. }) => 0,
        _ => pseudo_header_of(bytes, &covered(bytes, packet)?)?,
    };
    let covered = covered(bytes, packet)?;
    let total = u32::from(sum(bytes.get(covered.l4_offset..covered.end)?)) + u32::from(pseudo);
    if fold(total) == 0xffff {
        return Some(L4Checksum::Valid);
    }
    let partial = is_partial(bytes, packet);
    Some(if partial {
        L4Checksum::Partial
    } else {
        L4Checksum::Wrong
    })
}

/// The packet with `end` where its checksum ends: a UDP length may be shorter than the IP payload.
fn covered(bytes: &[u8], packet: &IpPacket) -> Option<IpPacket> {
    let mut covered = *packet;
    if let L4::Udp { .. } = packet.l4 {
        let length = bytes.read_u16(packet.l4_offset + 4)?;
        covered.end = packet.l4_offset + usize::from(length);
    }
    Some(covered)
}

/// True if a TCP or UDP checksum field holds just the folded pseudo-header sum, as Linux leaves it for hardware to
/// complete. A complete checksum looks the same once in 65 536 packets; [`complete_partial`] leaves such a one as it is.
pub fn is_partial(bytes: &[u8], packet: &IpPacket) -> bool {
    let expected = match packet.l4 {
        L4::Tcp { .. } | L4::Udp { .. } => {
            covered(bytes, packet).and_then(|covered| pseudo_header_of(bytes, &covered))
        }
        L4::Icmp { .. } | L4::Other => None,
    };
    let field = l4_field(packet)
        .and_then(|offset| bytes.read(offset))
        .map(u16::from_ne_bytes);
    expected.is_some() && field == expected
}

/// Replaces a partial checksum by the complete one. `None`, and no change, if the packet has no partial checksum.
pub fn complete_partial(bytes: &mut [u8], packet: &IpPacket) -> Option<()> {
    if !is_partial(bytes, packet) {
        return None;
    }
    // The field already holds the pseudo-header sum, so the plain sum over the segment includes it.
    let covered = covered(bytes, packet)?;
    let complete = !sum(bytes.get(covered.l4_offset..covered.end)?);
    let complete = if matches!(packet.l4, L4::Udp { .. }) {
        never_zero(complete)
    } else {
        complete
    };
    put(bytes, l4_field(packet)?, complete.to_ne_bytes())
}

/// Computes and writes the L4 checksum in full. `None` if the packet has none that is known here.
pub fn write_l4(bytes: &mut [u8], packet: &IpPacket) -> Option<()> {
    let field = l4_field(packet)?;
    let covered = covered(bytes, packet)?;
    let pseudo = match (packet.family, packet.l4) {
        (Family::V4, L4::Icmp { .. }) => 0,
        _ => pseudo_header_of(bytes, &covered)?,
    };
    put(bytes, field, [0, 0])?;
    let data = sum(bytes.get(covered.l4_offset..covered.end)?);
    let complete = !fold(u32::from(data) + u32::from(pseudo));
    let complete = if matches!(packet.l4, L4::Udp { .. }) {
        never_zero(complete)
    } else {
        complete
    };
    put(bytes, field, complete.to_ne_bytes())
}

/// Computes and writes the checksum of the IPv4 header that starts at `l3_offset`.
pub fn write_ipv4_header(bytes: &mut [u8], l3_offset: usize) -> Option<()> {
    let header_len = usize::from((&*bytes).read_u8(l3_offset)? & 0x0f) * 4;
    let header = bytes.get_mut(l3_offset..)?.get_mut(..header_len)?;
    put(header, 10, [0, 0])?;
    let complete = checksum(header);
    put(header, 10, complete.to_ne_bytes())
}

#[cfg(test)]
mod tests;
