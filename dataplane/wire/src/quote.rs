//! The packet that an ICMP error quotes: reading it, and rewriting it together with the error around it.
//!
//! The quote is the beginning of a packet that was sent the other way, so its source is where the error goes. It may end
//! anywhere behind the first eight bytes of its L4 header (RFC 792), so a checksum is rewritten only where one is there.

use core::net::{Ipv4Addr, Ipv6Addr};

use crate::checksum::{apply, apply_udp, delta_address, delta16};
use crate::cursor::{Cursor, put, put_u16};
use crate::ip;
use crate::parse::{Fragment, IpPacket, L4};
use crate::tuple::{Address, Family, FiveTuple};
use crate::verdict::DropReason;

/// What of the quoted L4 header is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuotedL4 {
    /// TCP or UDP.
    Ports {
        /// Source port.
        src_port: u16,
        /// Destination port.
        dst_port: u16,
    },
    /// ICMP in IPv4, ICMPv6 in IPv6.
    Icmp {
        /// Message type.
        kind: u8,
        /// Identifier of an echo message.
        id: u16,
    },
    /// Another protocol, or a later fragment.
    Other,
}

/// Where everything is in the quoted packet. Offsets count from the Ethernet header of the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quote {
    /// Family, the same as the error's.
    pub family: Family,
    /// Start of the quoted IP header.
    pub l3_offset: usize,
    /// Start of the quoted L4 header.
    pub l4_offset: usize,
    /// One past the last quoted byte.
    pub end: usize,
    /// IP protocol number of the last header.
    pub protocol: u8,
    /// The quoted L4 header.
    pub l4: QuotedL4,
}

/// Reads the packet quoted by an ICMP error that [`crate::parse`] accepted.
///
/// `bad_icmp`: not an error, the quote's IP header cannot be, or less than eight bytes of its L4 header are there.
/// Checksums of the quote are not judged: routers and translators on the way may have left any.
#[inline]
pub fn parse<C: Cursor>(frame: C, packet: &IpPacket) -> Result<Quote, DropReason> {
    let L4::Icmp { kind, .. } = packet.l4 else {
        return Err(DropReason::BadIcmp);
    };
    if !ip::is_icmp_error(packet.family, kind) {
        return Err(DropReason::BadIcmp);
    }
    let at = packet.l4_offset + 8;
    let quote = match packet.family {
        Family::V4 => read_v4(frame, at, packet.end),
        Family::V6 => read_v6(frame, at, packet.end),
    };
    quote.ok_or(DropReason::BadIcmp)
}

#[inline]
fn read_v4<C: Cursor>(frame: C, at: usize, limit: usize) -> Option<Quote> {
    let header = frame.read::<12>(at)?;
    let header_len = usize::from(header[0] & 0x0f) * 4;
    if header[0] >> 4 != 4 || header_len < 20 {
        return None;
    }
    let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let fragment = ip::fragment(u16::from_be_bytes([header[6], header[7]]));
    let (l4_offset, end) = (at + header_len, limit.min(at + total));
    finish(
        frame,
        Quote {
            family: Family::V4,
            l3_offset: at,
            l4_offset,
            end,
            protocol: header[9],
            l4: QuotedL4::Other,
        },
        fragment,
    )
}

#[inline]
fn read_v6<C: Cursor>(frame: C, at: usize, limit: usize) -> Option<Quote> {
    let header = frame.read::<8>(at)?;
    if header[0] >> 4 != 6 {
        return None;
    }
    let payload = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let end = limit.min(at + 40 + payload);
    let chain = ip::extension_headers(frame, header[6], at + 40, end).ok()?;
    let ip::Chain {
        protocol,
        l4_offset,
        fragment,
    } = chain;
    finish(
        frame,
        Quote {
            family: Family::V6,
            l3_offset: at,
            l4_offset,
            end,
            protocol,
            l4: QuotedL4::Other,
        },
        fragment,
    )
}

#[inline]
fn finish<C: Cursor>(frame: C, quote: Quote, fragment: Fragment) -> Option<Quote> {
    if quote.l4_offset > quote.end {
        return None;
    }
    if fragment == Fragment::Later {
        return Some(quote);
    }
    let header = frame
        .read::<8>(quote.l4_offset)
        .filter(|_| quote.l4_offset + 8 <= quote.end)?;
    let [first, second, third, fourth, fifth, sixth, ..] = header;
    let l4 = match (quote.protocol, quote.family) {
        (ip::TCP | ip::UDP, _) => QuotedL4::Ports {
            src_port: u16::from_be_bytes([first, second]),
            dst_port: u16::from_be_bytes([third, fourth]),
        },
        (ip::ICMP, Family::V4) | (ip::ICMPV6, Family::V6) => QuotedL4::Icmp {
            kind: first,
            id: u16::from_be_bytes([fifth, sixth]),
        },
        _ => QuotedL4::Other,
    };
    Some(Quote { l4, ..quote })
}

impl Quote {
    /// Source and destination address of the quoted packet; `None` for the other family.
    #[inline]
    pub fn addresses<A: Address, C: Cursor>(&self, frame: C) -> Option<(A, A)> {
        if A::FAMILY != self.family {
            return None;
        }
        let src = self.l3_offset + A::SRC_OFFSET;
        Some((A::read(frame, src)?, A::read(frame, src + A::LEN)?))
    }

    /// Source and destination port; 0 and 0 for anything but TCP and UDP.
    #[inline]
    pub const fn ports(&self) -> (u16, u16) {
        match self.l4 {
            QuotedL4::Ports { src_port, dst_port } => (src_port, dst_port),
            QuotedL4::Icmp { .. } | QuotedL4::Other => (0, 0),
        }
    }

    /// The quoted packet's five-tuple, in the direction in which it was sent; `None` for the other family.
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

    /// Where the quoted L4 checksum is, if the quote reaches that far.
    fn l4_checksum(&self) -> Option<usize> {
        let within = match (self.protocol, self.l4) {
            (ip::TCP, QuotedL4::Ports { .. }) => 16,
            (ip::UDP, QuotedL4::Ports { .. }) => 6,
            (ip::ICMP | ip::ICMPV6, QuotedL4::Icmp { .. }) => 2,
            _ => return None,
        };
        Some(self.l4_offset + within).filter(|at| at + 2 <= self.end)
    }
}

/// New addresses for both layers of an ICMP error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rewrite<A: Address> {
    /// Source of the error itself.
    pub src: A,
    /// Destination of the error itself.
    pub dst: A,
    /// What the quoted packet shall look like; its protocol is not changed. Ports count for TCP and UDP; for an ICMP query the
    /// source port is its identifier.
    pub quoted: FiveTuple<A>,
}

/// Rewrites an ICMP error and the packet that it quotes, with every checksum that either holds, incrementally.
///
/// `None` if the families differ or the frame is not the one that was parsed.
pub fn rewrite<A: Address>(
    frame: &mut [u8],
    packet: &IpPacket,
    quote: &Quote,
    new: &Rewrite<A>,
) -> Option<()> {
    let (old_src, old_dst) = packet.addresses::<A, _>(&*frame)?;
    let icmp_field = packet.l4_offset + 2;
    let icmp_sum = load(frame, icmp_field)?;
    let inside = rewrite_quote(frame, quote, &new.quoted)?;

    let outside = delta_address(old_src, new.src) + delta_address(old_dst, new.dst);
    let src_at = packet.l3_offset + A::SRC_OFFSET;
    put_address(frame, src_at, new.src)?;
    put_address(frame, src_at + A::LEN, new.dst)?;
    match A::FAMILY {
        Family::V4 => {
            let field = packet.l3_offset + 10;
            store(frame, field, apply(load(frame, field)?, outside))?;
            store(frame, icmp_field, apply(icmp_sum, inside))
        }
        Family::V6 => store(frame, icmp_field, apply(icmp_sum, inside + outside)),
    }
}

/// Rewrites the quoted packet and returns what that adds to the checksum around it.
fn rewrite_quote<A: Address>(frame: &mut [u8], quote: &Quote, new: &FiveTuple<A>) -> Option<u32> {
    let (old_src, old_dst) = quote.addresses::<A, _>(&*frame)?;
    let addresses = delta_address(old_src, new.src) + delta_address(old_dst, new.dst);
    let src_at = quote.l3_offset + A::SRC_OFFSET;
    put_address(frame, src_at, new.src)?;
    put_address(frame, src_at + A::LEN, new.dst)?;
    let mut total = addresses;

    if A::FAMILY == Family::V4 {
        let field = quote.l3_offset + 10;
        total += replace(frame, field, |old| apply(old, addresses))?;
    }
    let mut numbers = 0;
    match quote.l4 {
        QuotedL4::Ports { src_port, dst_port } => {
            numbers = delta16(src_port.to_be(), new.src_port.to_be())
                + delta16(dst_port.to_be(), new.dst_port.to_be());
            put_u16(frame, quote.l4_offset, new.src_port)?;
            put_u16(frame, quote.l4_offset + 2, new.dst_port)?;
        }
        QuotedL4::Icmp { id, .. } => {
            numbers = delta16(id.to_be(), new.src_port.to_be());
            put_u16(frame, quote.l4_offset + 4, new.src_port)?;
        }
        QuotedL4::Other => {}
    }
    total += numbers;
    if let Some(field) = quote.l4_checksum() {
        // ICMPv6 sums the addresses, ICMP does not.
        let change = match quote.protocol {
            ip::ICMP => numbers,
            _ => addresses + numbers,
        };
        total += replace(frame, field, |old| match quote.protocol {
            ip::UDP => apply_udp(old, change),
            _ => apply(old, change),
        })?;
    }
    Some(total)
}

/// Changes a checksum field and returns what that adds to a checksum around it.
fn replace(frame: &mut [u8], at: usize, change: impl FnOnce(u16) -> u16) -> Option<u32> {
    let old = load(frame, at)?;
    let new = change(old);
    store(frame, at, new)?;
    Some(delta16(old, new))
}

fn load(frame: &[u8], at: usize) -> Option<u16> {
    frame.read(at).map(u16::from_ne_bytes)
}

fn store(frame: &mut [u8], at: usize, value: u16) -> Option<()> {
    put(frame, at, value.to_ne_bytes())
}

fn put_address<A: Address>(frame: &mut [u8], at: usize, address: A) -> Option<()> {
    match A::FAMILY {
        Family::V4 => put(
            frame,
            at,
            Ipv4Addr::from_number(address.to_number()).octets(),
        ),
        Family::V6 => put(
            frame,
            at,
            Ipv6Addr::from_number(address.to_number()).octets(),
        ),
    }
}

#[cfg(test)]
mod tests;
