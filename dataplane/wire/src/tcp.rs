//! TCP: flags, the combinations that are attacks, and the RST that answers a segment without a connection.

use crate::buffer::Buffer;
use crate::checksum;
use crate::cursor::{Cursor, put};
use crate::ethernet::{self, Mac};
use crate::ip;
use crate::parse::{Fragment, IpPacket, L4};
use crate::verdict::DropReason;

/// No more data from the sender.
pub const FIN: u8 = 0x01;
/// Synchronise sequence numbers.
pub const SYN: u8 = 0x02;
/// Reset the connection.
pub const RST: u8 = 0x04;
/// Push.
pub const PSH: u8 = 0x08;
/// The acknowledgement number counts.
pub const ACK: u8 = 0x10;
/// The urgent pointer counts.
pub const URG: u8 = 0x20;
/// ECN echo (RFC 3168).
pub const ECE: u8 = 0x40;
/// Congestion window reduced (RFC 3168).
pub const CWR: u8 = 0x80;

const XMAS: u8 = FIN | PSH | URG;

/// Refuses flag combinations that no TCP sends. ECE and CWR are not looked at.
///
/// In this order: none of the six (`tcp_null`), FIN with PSH and URG (`tcp_xmas`), SYN with FIN or RST (`tcp_syn_fin`).
#[inline]
pub const fn check_flags(flags: u8) -> Result<(), DropReason> {
    if flags & (FIN | SYN | RST | PSH | ACK | URG) == 0 {
        return Err(DropReason::TcpNull);
    }
    if flags & XMAS == XMAS {
        return Err(DropReason::TcpXmas);
    }
    if flags & SYN != 0 && flags & (FIN | RST) != 0 {
        return Err(DropReason::TcpSynFin);
    }
    Ok(())
}

/// Turns a segment into the RST that answers it (RFC 9293, section 3.10.7.1), from `own` back to the frame's sender.
///
/// With ACK in the segment: `SEQ = SEG.ACK`, RST. Without: `SEQ = 0`, `ACK = SEG.SEQ + SEG.LEN`, RST and ACK. The reply has
/// no IP options, extension headers or TCP options; a VLAN tag stays. `false`, and no change, if the packet is not a
/// whole TCP segment or has RST itself.
#[must_use]
pub fn answer_with_reset(frame: &mut impl Buffer, packet: &IpPacket, own: Mac) -> bool {
    reset(frame, packet, own).is_some()
}

fn reset(frame: &mut impl Buffer, packet: &IpPacket, own: Mac) -> Option<()> {
    let L4::Tcp {
        src_port,
        dst_port,
        flags,
        header_len,
    } = packet.l4
    else {
        return None;
    };
    if packet.fragment != Fragment::None || flags & RST != 0 {
        return None;
    }
    let bytes = frame.bytes();
    let sequence = bytes.read_u32(packet.l4_offset + 4)?;
    let acknowledged = bytes.read_u32(packet.l4_offset + 8)?;
    let payload = u32::try_from(packet.end.checked_sub(packet.l4_offset + header_len)?).ok()?;
    let segment_len = payload + u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
    let (sequence, acknowledgement, flags) = if flags & ACK != 0 {
        (acknowledged, 0, RST)
    } else {
        (0, sequence.wrapping_add(segment_len), RST | ACK)
    };

    // Shorter than any segment it answers, so resizing only ever cuts.
    let l4_offset = packet.l3_offset + packet.family.header_len();
    let end = l4_offset + 20;
    if !frame.resize(end) {
        return None;
    }
    let bytes = frame.bytes_mut();
    ethernet::turn_around(bytes, own)?;
    ip::write_answer_header(bytes, packet, 20)?;
    let [s0, s1, s2, s3] = sequence.to_be_bytes();
    let [a0, a1, a2, a3] = acknowledgement.to_be_bytes();
    let ([from0, from1], [to0, to1]) = (dst_port.to_be_bytes(), src_port.to_be_bytes());
    let header = [
        from0, from1, to0, to1, s0, s1, s2, s3, a0, a1, a2, a3, 0x50, flags, 0, 0, 0, 0, 0, 0,
    ];
    put(bytes, l4_offset, header)?;
    let l4 = L4::Tcp {
        src_port: dst_port,
        dst_port: src_port,
        flags,
        header_len: 20,
    };
    checksum::write_l4(
        bytes,
        &IpPacket {
            l4_offset,
            end,
            l4,
            protocol: ip::TCP,
            ..*packet
        },
    )
}

/// True for a segment that may open a connection: SYN without ACK.
#[inline]
pub const fn is_opening(flags: u8) -> bool {
    flags & (SYN | ACK) == SYN
}

#[cfg(test)]
mod tests;
