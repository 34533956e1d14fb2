//! The rewrite: addresses, ports, TTL, code point, and every checksum over them in full.

use core::net::IpAddr;

use march_wire::IpPacket;
use march_wire::parse::L4;
use march_wire::tuple::Family;

use crate::checksum;
use crate::facts::Tuple;

/// Where the checksum behind the IP header is, and whether it covers the addresses. Of a packet that the parser saw whole.
fn l4_field(packet: &IpPacket) -> Option<(usize, Covers)> {
    let (within, covers) = match packet.l4 {
        L4::Tcp { .. } => (16, Covers::Addresses),
        L4::Udp { .. } => (6, Covers::Addresses),
        L4::Icmp { .. } if packet.family == Family::V6 => (2, Covers::Addresses),
        L4::Icmp { .. } => (2, Covers::MessageOnly),
        L4::Other => return None,
    };
    Some((packet.l4_offset + within, covers))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Covers {
    Addresses,
    MessageOnly,
}

/// What the L4 checksum covers, as it is in the frame.
fn covered(frame: &[u8], packet: &IpPacket, tuple: Tuple, covers: Covers) -> Vec<u8> {
    let segment = frame.get(packet.l4_offset..packet.end).unwrap_or_default();
    let pseudo = match covers {
        Covers::Addresses => {
            checksum::pseudo_header(tuple.src, tuple.dst, packet.protocol, segment.len())
        }
        Covers::MessageOnly => Vec::new(),
    };
    [&pseudo, segment].concat()
}

/// The sum of all that the L4 checksum covers, itself included: 0xffff if it is right.
pub(crate) fn l4_sum(frame: &[u8], packet: &IpPacket, tuple: Tuple) -> u16 {
    l4_field(packet).map_or(0, |(_, covers)| {
        checksum::sum(&covered(frame, packet, tuple, covers))
    })
}

/// Writes the L4 checksum that keeps the sum as it was `before` the change. UDP without a checksum keeps none.
pub(crate) fn keep_sum(frame: &mut [u8], packet: &IpPacket, now: Tuple, before: u16) {
    let Some((field, covers)) = l4_field(packet) else {
        return;
    };
    let is_udp = matches!(packet.l4, L4::Udp { .. });
    if is_udp && frame[field..field + 2] == [0, 0] {
        return;
    }
    frame[field..field + 2].fill(0);
    let kept = match checksum::field_keeping(before, &covered(frame, packet, now, covers)) {
        0 if is_udp => 0xffff,
        kept => kept,
    };
    frame[field..field + 2].copy_from_slice(&kept.to_be_bytes());
}

/// Writes the checksum of an IPv4 header; IPv6 has none.
pub(crate) fn fix_ip_header(frame: &mut [u8], packet: &IpPacket) {
    if packet.family == Family::V6 {
        return;
    }
    let at = packet.l3_offset;
    let len = usize::from(frame[at] & 0x0f) * 4;
    frame[at + 10..at + 12].fill(0);
    let field = checksum::field_for(&frame[at..at + len]);
    frame[at + 10..at + 12].copy_from_slice(&field.to_be_bytes());
}

/// Writes both addresses into the IP header at `at`.
pub(crate) fn put_addresses(frame: &mut [u8], at: usize, tuple: Tuple) {
    match (tuple.src, tuple.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            frame[at + 12..at + 16].copy_from_slice(&src.octets());
            frame[at + 16..at + 20].copy_from_slice(&dst.octets());
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            frame[at + 8..at + 24].copy_from_slice(&src.octets());
            frame[at + 24..at + 40].copy_from_slice(&dst.octets());
        }
        _ => {}
    }
}

/// Writes the code point; the two bits of ECN stay.
fn put_dscp(frame: &mut [u8], packet: &IpPacket, dscp: u8) {
    let tos = dscp << 2 | packet.tos & 3;
    let at = packet.l3_offset;
    match packet.family {
        Family::V4 => frame[at + 1] = tos,
        Family::V6 => {
            frame[at] = frame[at] & 0xf0 | tos >> 4;
            frame[at + 1] = frame[at + 1] & 0x0f | tos << 4;
        }
    }
}

/// One hop less to live.
pub(crate) fn lower_ttl(frame: &mut [u8], packet: &IpPacket) {
    let within = match packet.family {
        Family::V4 => 8,
        Family::V6 => 7,
    };
    frame[packet.l3_offset + within] = packet.ttl.saturating_sub(1);
}

/// Turns a packet that came in as `before` into one that leaves as `after`.
pub(crate) fn rewrite(
    frame: &mut [u8],
    packet: &IpPacket,
    before: Tuple,
    after: Tuple,
    mark: Option<u8>,
) {
    let sum = l4_sum(frame, packet, before);
    put_addresses(frame, packet.l3_offset, after);
    if matches!(packet.l4, L4::Tcp { .. } | L4::Udp { .. }) {
        let at = packet.l4_offset;
        frame[at..at + 2].copy_from_slice(&after.src_port.to_be_bytes());
        frame[at + 2..at + 4].copy_from_slice(&after.dst_port.to_be_bytes());
    }
    if is_renumbered(packet, before, after) {
        let at = packet.l4_offset + 4;
        frame[at..at + 2].copy_from_slice(&after.src_port.to_be_bytes());
    }
    if let Some(dscp) = mark {
        put_dscp(frame, packet, dscp);
    }
    lower_ttl(frame, packet);
    fix_ip_header(frame, packet);
    // A message that stays as it is keeps its checksum to the bit.
    let is_untouched = matches!(packet.l4, L4::Icmp { .. }) && before == after;
    if !is_untouched {
        keep_sum(frame, packet, after, sum);
    }
}

/// Whether an ICMP message of a flow gets another identifier.
fn is_renumbered(packet: &IpPacket, before: Tuple, after: Tuple) -> bool {
    matches!(packet.l4, L4::Icmp { .. }) && before.src_port != after.src_port
}
