use super::*;
use crate::build::PacketBuilder;
use crate::checksum::{L4Checksum, l4_state};
use crate::parse::{Packet, parse};
use crate::strategy::{Frame, whole};
use core::net::IpAddr;
use proptest::prelude::*;

const OWN: Mac = [2, 0, 0, 0, 0, 9];

fn ip_packet(frame: &[u8]) -> IpPacket {
    match parse(frame) {
        Ok(Packet::Ip(packet)) => packet,
        other => panic!("{other:?}"),
    }
}

/// Sequence, acknowledgement and flags of the RST that answers a packet.
fn answer(packet: &PacketBuilder) -> Option<(u32, u32, u8)> {
    let mut frame = Frame::new(&packet.build());
    let parsed = ip_packet(frame.bytes());
    let (src, dst) = parsed.ip_addresses(frame.bytes()).unwrap();
    if !answer_with_reset(&mut frame, &parsed, OWN) {
        assert_eq!(frame.bytes(), packet.build());
        return None;
    }
    let bytes = frame.bytes();
    let reply = ip_packet(bytes);
    let turned: (IpAddr, IpAddr) = reply.ip_addresses(bytes).unwrap();
    assert_eq!(turned, (dst, src));
    let (src_port, dst_port) = parsed.ports();
    assert_eq!(reply.ports(), (dst_port, src_port));
    assert_eq!(reply.vlan, parsed.vlan);
    assert_eq!(reply.end, bytes.len());
    assert_eq!(reply.ttl, 64);
    assert_eq!(l4_state(bytes, &reply), L4Checksum::Valid);
    assert_eq!(bytes[..12], [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9]);
    let L4::Tcp {
        flags,
        header_len: 20,
        ..
    } = reply.l4
    else {
        panic!("{reply:?}")
    };
    let sequence = bytes.read_u32(reply.l4_offset + 4).unwrap();
    Some((
        sequence,
        bytes.read_u32(reply.l4_offset + 8).unwrap(),
        flags,
    ))
}

#[test]
fn sequence_numbers_follow_the_rules() {
    for packet in [
        PacketBuilder::between("192.0.2.1", "192.0.2.2"),
        PacketBuilder::between("192.0.2.1", "192.0.2.2")
            .vlan(7)
            .options(&[0x94, 4, 0, 0]),
        PacketBuilder::between("2001:db8::1", "2001:db8::2"),
        PacketBuilder::between("2001:db8::1", "2001:db8::2")
            .extension(60, &[1, 2])
            .padded_to(200),
    ] {
        let segment = |flags| packet.clone().tcp(1000, 80, flags).numbers(100, 7000);
        assert_eq!(answer(&segment(ACK)), Some((7000, 0, RST)));
        assert_eq!(
            answer(&segment(ACK | PSH).payload(&[1; 10])),
            Some((7000, 0, RST))
        );
        assert_eq!(answer(&segment(SYN | ACK)), Some((7000, 0, RST)));
        assert_eq!(answer(&segment(SYN)), Some((0, 101, RST | ACK)));
        assert_eq!(
            answer(&segment(SYN).tcp_options(&[2, 4, 5, 0xb4])),
            Some((0, 101, RST | ACK))
        );
        assert_eq!(
            answer(&segment(FIN).payload(&[1; 10])),
            Some((0, 111, RST | ACK))
        );
        assert_eq!(
            answer(&segment(PSH).payload(&[1; 10])),
            Some((0, 110, RST | ACK))
        );
        assert_eq!(
            answer(&segment(SYN).numbers(u32::MAX, 0)),
            Some((0, 0, RST | ACK))
        );
    }
}

#[test]
fn a_reset_is_never_answered_nor_what_is_not_a_whole_segment() {
    let packet = || PacketBuilder::between("192.0.2.1", "192.0.2.2");
    assert_eq!(answer(&packet().tcp(1, 2, RST)), None);
    assert_eq!(answer(&packet().tcp(1, 2, RST | ACK)), None);
    assert_eq!(answer(&packet().udp(1, 2)), None);
    assert_eq!(answer(&packet().tcp(1, 2, ACK).fragment(0, true)), None);
}

proptest! {
    #[test]
    fn answers_to_anything_are_valid_segments(packet in whole()) {
        // The addresses, ports and checksums are looked at inside.
        let _ = answer(&packet);
    }
}

#[test]
fn opening_segments() {
    for flags in 0..=255u8 {
        assert_eq!(is_opening(flags), flags & SYN != 0 && flags & ACK == 0);
    }
}
