use super::*;
use crate::build::{Checksum, PacketBuilder};
use crate::parse::{Packet, parse};
use crate::strategy::{tcp_or_udp, whole};
use proptest::prelude::*;
use std::vec::Vec;

/// RFC 1071 as it is written: big-endian words, one after another.
fn by_the_book(bytes: &[u8]) -> u16 {
    let mut total = 0u32;
    for pair in bytes.chunks(2) {
        let word = u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]);
        total += u32::from(word);
        total = (total & 0xffff) + (total >> 16);
    }
    u16::try_from(total).unwrap()
}

fn packet_of(frame: &[u8]) -> IpPacket {
    match parse(frame) {
        Ok(Packet::Ip(packet)) => packet,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_example_of_rfc_1071() {
    let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
    assert_eq!(sum(&bytes).to_ne_bytes(), [0xdd, 0xf2]);
}

#[test]
fn the_example_of_rfc_1624() {
    // HC = 0xDD2F, m = 0x5555 becomes 0x3285: the result is 0, not 0xffff.
    let be = |value: u16| u16::from_be_bytes(value.to_ne_bytes());
    assert_eq!(apply(be(0xdd2f), delta16(be(0x5555), be(0x3285))), 0);
}

#[test]
fn udp_zero_stays_zero_and_computed_zero_does_not() {
    assert_eq!(apply_udp(0, delta16(1, 2)), 0);
    let be = |value: u16| u16::from_be_bytes(value.to_ne_bytes());
    assert_eq!(
        apply_udp(be(0xdd2f), delta16(be(0x5555), be(0x3285))),
        0xffff
    );
}

#[test]
fn partial_checksums_are_completed() {
    for packet in [
        PacketBuilder::between("192.0.2.1", "192.0.2.2")
            .syn(1, 2)
            .payload(b"odd"),
        PacketBuilder::between("192.0.2.1", "192.0.2.2")
            .udp(1, 2)
            .payload(b"abc")
            .padded_to(80),
        PacketBuilder::between("2001:db8::1", "2001:db8::2")
            .syn(1, 2)
            .tcp_options(&[2, 4, 5, 0xb4]),
        PacketBuilder::between("2001:db8::1", "2001:db8::2")
            .udp(1, 2)
            .payload(&[0xff; 301])
            .vlan(3),
    ] {
        let mut frame = packet.clone().l4_checksum(Checksum::Partial).build();
        let parsed = packet_of(&frame);
        assert_eq!(l4_state(&frame, &parsed), L4Checksum::Partial);
        assert_eq!(complete_partial(&mut frame, &parsed), Some(()));
        assert_eq!(frame, packet.build());
        assert_eq!(l4_state(&frame, &parsed), L4Checksum::Valid);
        let before = frame.clone();
        assert_eq!(complete_partial(&mut frame, &parsed), None);
        assert_eq!(frame, before);
    }
}

#[test]
fn states() {
    let v4 = || {
        PacketBuilder::between("192.0.2.1", "192.0.2.2")
            .udp(1, 2)
            .payload(b"abc")
    };
    let v6 = || {
        PacketBuilder::between("::5", "::6")
            .udp(1, 2)
            .payload(b"abc")
    };
    let state = |packet: PacketBuilder| {
        let frame = packet.build();
        l4_state(&frame, &packet_of(&frame))
    };
    assert_eq!(state(v4()), L4Checksum::Valid);
    assert_eq!(state(v4().l4_checksum(Checksum::Wrong)), L4Checksum::Wrong);
    assert_eq!(state(v4().l4_checksum(Checksum::Zero)), L4Checksum::Absent);
    assert_eq!(state(v6().l4_checksum(Checksum::Zero)), L4Checksum::Wrong);
    assert_eq!(state(v4().fragment(0, true)), L4Checksum::Unknown);
    assert_eq!(state(v4().protocol(47)), L4Checksum::Unknown);
    assert_eq!(state(v4().icmp(8, 0, 7)), L4Checksum::Valid);
    assert_eq!(
        state(v6().icmp(128, 0, 7).l4_checksum(Checksum::Wrong)),
        L4Checksum::Wrong
    );
}

proptest! {
    #[test]
    fn sums_are_those_of_the_book(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert_eq!(u16::from_be_bytes(sum(&bytes).to_ne_bytes()), by_the_book(&bytes));
    }

    #[test]
    fn incremental_is_the_same_as_full(
        mut bytes in proptest::collection::vec(any::<u8>(), 20..80),
        at in 0..5usize,
        new: u64,
    ) {
        bytes[10] = 0x45;
        let before = checksum(&bytes);
        let at = at * 2;
        let old = u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap());
        bytes[at..at + 8].copy_from_slice(&new.to_ne_bytes());
        prop_assert_eq!(apply(before, delta(old, new)), checksum(&bytes));
        // Folded, doubled and undone it comes back.
        let there = u32::from(fold(delta(old, new)));
        prop_assert_eq!(apply(before, there), checksum(&bytes));
        prop_assert_eq!(apply(apply(before, there), delta(new, old)), before);
    }

    #[test]
    fn full_checksums_are_those_of_the_builder(packet in whole()) {
        let right = packet.build();
        let parsed = packet_of(&right);
        let mut frame = packet.l4_checksum(Checksum::Wrong).build();
        if write_l4(&mut frame, &parsed).is_some() {
            let state = l4_state(&frame, &parsed);
            prop_assert_eq!(state, L4Checksum::Valid);
        }
        prop_assert_eq!(frame, right);
    }

    #[test]
    fn the_builders_checksums_are_right_to_etherparse(
        (src, dst) in any::<(u32, u32)>(), above in tcp_or_udp(), payload in proptest::collection::vec(any::<u8>(), 0..60),
    ) {
        use etherparse::{Ipv4Header, IpNumber, TcpHeader, UdpHeader};
        let (src, dst) = (Ipv4Addr::from_bits(src), Ipv4Addr::from_bits(dst));
        prop_assume!(src != dst);
        let packet = PacketBuilder::new(src, dst).payload(&payload);
        let (packet, number) = match above {
            crate::strategy::Above::Udp { src, dst } => (packet.udp(src, dst), IpNumber::UDP),
            crate::strategy::Above::Tcp { src, dst, flags, .. } => (packet.tcp(src, dst, flags), IpNumber::TCP),
            _ => unreachable!(),
        };
        let bytes: Vec<u8> = packet.build_ip();
        let (header, rest) = Ipv4Header::from_slice(&bytes).unwrap();
        prop_assert_eq!(header.calc_header_checksum(), header.header_checksum);
        if number == IpNumber::UDP {
            let (udp, data) = UdpHeader::from_slice(rest).unwrap();
            prop_assert_eq!(udp.calc_checksum_ipv4(&header, data).unwrap(), udp.checksum);
        } else {
            let (tcp, data) = TcpHeader::from_slice(rest).unwrap();
            prop_assert_eq!(tcp.calc_checksum_ipv4(&header, data).unwrap(), tcp.checksum);
        }
    }
}
