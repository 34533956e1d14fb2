use super::*;
use crate::build::{Checksum, PacketBuilder};
use crate::strategy::{damaged, whole};
use crate::tcp::{ACK, FIN, PSH, RST, SYN, URG};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use proptest::prelude::*;
use std::vec;
use std::vec::Vec;

fn v4() -> PacketBuilder {
    PacketBuilder::between("192.0.2.1", "198.51.100.2")
}

fn v6() -> PacketBuilder {
    PacketBuilder::between("2001:db8::1", "2001:db8:1::2")
}

fn ip_packet(frame: &[u8]) -> IpPacket {
    match parse(frame) {
        Ok(Packet::Ip(packet)) => packet,
        other => panic!("{other:?}"),
    }
}

fn reason(frame: &[u8]) -> DropReason {
    parse(frame).expect_err("a frame that cannot be")
}

#[test]
fn a_plain_packet_of_each_family() {
    let frame = v4()
        .ttl(9)
        .tos(0xb8)
        .tcp(1234, 80, SYN | ACK)
        .payload(b"hello")
        .padded_to(80)
        .build();
    let expected = IpPacket {
        family: Family::V4,
        l3_offset: 14,
        l4_offset: 34,
        end: 34 + 25,
        vlan: None,
        protocol: 6,
        ttl: 9,
        tos: 0xb8,
        fragment: Fragment::None,
        l4: L4::Tcp {
            src_port: 1234,
            dst_port: 80,
            flags: SYN | ACK,
            header_len: 20,
        },
    };
    assert_eq!(parse(frame.as_slice()), Ok(Packet::Ip(expected)));
    assert_eq!(expected.ip_len(), 45);

    let frame = v6().ttl(9).tos(0xb8).udp(53, 5353).vlan(0x3001).build();
    let expected = IpPacket {
        family: Family::V6,
        l3_offset: 18,
        l4_offset: 58,
        end: 66,
        vlan: Some(0x3001),
        protocol: 17,
        ttl: 9,
        tos: 0xb8,
        fragment: Fragment::None,
        l4: L4::Udp {
            src_port: 53,
            dst_port: 5353,
        },
    };
    assert_eq!(parse(frame.as_slice()), Ok(Packet::Ip(expected)));
    let tuple = expected.tuple::<Ipv6Addr, _>(frame.as_slice()).unwrap();
    assert_eq!(
        std::format!("{tuple}"),
        "[2001:db8::1]:53 -> [2001:db8:1::2]:5353 protocol 17"
    );
    assert_eq!(expected.tuple::<Ipv4Addr, _>(frame.as_slice()), None);
}

#[test]
fn what_is_not_ip() {
    let mut frame = v4().build();
    frame[12..14].copy_from_slice(&[0x08, 0x06]);
    assert!(matches!(
        parse(frame.as_slice()),
        Ok(Packet::Arp(Link { l3_offset: 14, .. }))
    ));
    frame[12..14].copy_from_slice(&[0x88, 0xcc]);
    assert!(matches!(
        parse(frame.as_slice()),
        Ok(Packet::Other(Link {
            ethertype: 0x88cc,
            ..
        }))
    ));
}

#[test]
fn each_check_has_its_reason() {
    let with = |mut frame: Vec<u8>, at: usize, value: u8| {
        frame[at] = value;
        frame
    };
    let tcp = || v4().tcp(1, 2, ACK);
    assert_eq!(reason(&[0; 13]), DropReason::Runt);
    assert_eq!(reason(&tcp().vlan(1).vlan(2).build()), DropReason::QinQ);
    assert_eq!(
        reason(&with(tcp().build(), 14, 0x65)),
        DropReason::BadIpVersion
    );
    assert_eq!(
        reason(&with(v6().build(), 14, 0x40)),
        DropReason::BadIpVersion
    );
    assert_eq!(reason(&with(tcp().build(), 14, 0x44)), DropReason::BadIhl);
    assert_eq!(reason(&with(tcp().build(), 14, 0x4f)), DropReason::BadIhl);
    assert_eq!(
        reason(&with(tcp().build(), 17, 19)),
        DropReason::BadIpLength
    );
    assert_eq!(reason(&with(tcp().build(), 17, 41)), DropReason::Truncated);
    assert_eq!(reason(&with(v6().build(), 19, 9)), DropReason::Truncated);
    assert_eq!(
        reason(&tcp().header_checksum(Checksum::Wrong).build()),
        DropReason::BadIpChecksum
    );
    assert_eq!(
        reason(&tcp().options(&[137, 3, 4]).build()),
        DropReason::SourceRoute
    );
    assert_eq!(
        reason(&tcp().options(&[7, 1]).build()),
        DropReason::BadIpOptions
    );
    assert_eq!(
        reason(&with(tcp().build(), 46, 0x4f)),
        DropReason::BadTcpHeader
    );
    assert_eq!(
        reason(&with(tcp().build(), 46, 0x60)),
        DropReason::BadTcpHeader
    );
    assert_eq!(
        reason(&v4().protocol(6).payload(&[0; 19]).build()),
        DropReason::BadTcpHeader
    );
    assert_eq!(
        reason(&with(v4().udp(1, 2).build(), 39, 7)),
        DropReason::BadUdpLength
    );
    assert_eq!(
        reason(&with(v4().udp(1, 2).build(), 39, 9)),
        DropReason::BadUdpLength
    );
    assert_eq!(
        reason(&v6().protocol(17).payload(&[0; 7]).build()),
        DropReason::BadUdpLength
    );
    assert_eq!(
        reason(&v4().protocol(1).payload(&[8; 7]).build()),
        DropReason::BadIcmp
    );
    assert_eq!(
        reason(&v4().icmp(3, 0, 0).payload(&[0; 19]).build()),
        DropReason::BadIcmp
    );
    assert_eq!(
        reason(&v6().icmp(1, 0, 0).payload(&[0; 39]).build()),
        DropReason::BadIcmp
    );
    assert_eq!(
        reason(&PacketBuilder::between("192.0.2.1", "192.0.2.1").build()),
        DropReason::Land
    );
    assert_eq!(
        reason(&PacketBuilder::between("fe80::1", "fe80::1").build()),
        DropReason::Land
    );
}

#[test]
fn padding_that_hides_a_short_header_does_not_help() {
    // The bytes are in the frame, but not in the packet.
    for (packet, expected) in [
        (
            v4().protocol(6).payload(&[0x50; 12]),
            DropReason::BadTcpHeader,
        ),
        (
            v6().protocol(17).payload(&[0, 1, 0, 2]),
            DropReason::BadUdpLength,
        ),
        (v4().protocol(1).payload(&[8, 0, 0, 0]), DropReason::BadIcmp),
    ] {
        assert_eq!(reason(&packet.padded_to(120).build()), expected);
    }
}

#[test]
fn extension_headers() {
    let to = |packet: PacketBuilder| parse(packet.udp(1, 2).build().as_slice());
    let pad = [1u8, 2];
    assert_eq!(
        to(v6().extension(60, &pad).extension(0, &pad)),
        Err(DropReason::ExtensionHeaders)
    );
    assert_eq!(
        to(v6().extension(43, &[0, 1])),
        Err(DropReason::SourceRoute)
    );
    assert!(to(v6().extension(43, &[2, 1])).is_ok());
    assert!(
        to(v6()
            .extension(0, &pad)
            .extension(60, &pad)
            .extension(43, &[4, 0]))
        .is_ok()
    );
    assert!(to((0..8).fold(v6(), |packet, _| packet.extension(60, &pad))).is_ok());
    let nine = (0..9).fold(v6(), |packet, _| packet.extension(60, &pad));
    assert_eq!(to(nine), Err(DropReason::ExtensionHeaders));
    let twice = v6()
        .extension(44, &[0, 0, 0, 0, 0, 1])
        .extension(44, &[0, 0, 0, 0, 0, 1]);
    assert_eq!(to(twice), Err(DropReason::ExtensionHeaders));
    // A length that passes the end of the packet.
    let mut frame = v6().extension(60, &pad).udp(1, 2).build();
    frame[55] = 9;
    assert_eq!(reason(&frame), DropReason::ExtensionHeaders);
    // The chain ends where it must not be followed: nothing, ESP, AH.
    for protocol in [59, 50, 51] {
        let frame = v6()
            .extension(60, &pad)
            .protocol(protocol)
            .payload(&[0; 8])
            .build();
        let packet = ip_packet(&frame);
        assert_eq!(
            (packet.protocol, packet.l4_offset, packet.l4),
            (protocol, 62, L4::Other)
        );
    }
}

#[test]
fn fragments_are_classified() {
    for packet in [v4(), v6()] {
        let header_len = if packet.is_ipv4() { 0 } else { 8 };
        let first = packet
            .clone()
            .udp(7, 8)
            .fragment(0, true)
            .payload(&[0; 64])
            .build();
        let first = ip_packet(&first);
        assert_eq!(first.fragment, Fragment::First);
        assert_eq!(first.ports(), (7, 8));
        assert_eq!(
            first.l4_offset,
            first.l3_offset + first.family.header_len() + header_len
        );
        for more in [false, true] {
            let later = packet
                .clone()
                .udp(7, 8)
                .fragment(8, more)
                .payload(&[0; 64])
                .build();
            let later = ip_packet(&later);
            assert_eq!(
                (later.fragment, later.l4, later.protocol),
                (Fragment::Later, L4::Other, 17)
            );
        }
        // The datagram is longer than its first fragment.
        let mut long = packet
            .clone()
            .udp(7, 8)
            .fragment(0, true)
            .payload(&[0; 64])
            .build();
        long[14 + first.family.header_len() + header_len + 4] = 0x7f;
        assert_eq!(ip_packet(&long).ports(), (7, 8));
    }
    let atomic = v6().udp(7, 8).fragment(0, false).build();
    assert_eq!(ip_packet(&atomic).fragment, Fragment::None);
    assert_eq!(ip_packet(&atomic).ports(), (7, 8));
    let tiny = v4().protocol(6).fragment(0, true).payload(&[0; 8]).build();
    assert_eq!(reason(&tiny), DropReason::BadTcpHeader);
}

#[test]
fn all_tcp_flags() {
    for flags in 0..=255u8 {
        let seen = parse(v4().tcp(1, 2, flags).build().as_slice()).map(|_| ());
        let expected = match flags {
            _ if flags & (FIN | SYN | RST | PSH | ACK | URG) == 0 => Err(DropReason::TcpNull),
            _ if flags & FIN != 0 && flags & PSH != 0 && flags & URG != 0 => {
                Err(DropReason::TcpXmas)
            }
            _ if flags & SYN != 0 && flags & FIN != 0 => Err(DropReason::TcpSynFin),
            _ if flags & SYN != 0 && flags & RST != 0 => Err(DropReason::TcpSynFin),
            _ => Ok(()),
        };
        assert_eq!(seen, expected, "{flags:#04x}");
        let seen = parse(v6().tcp(1, 2, flags).build().as_slice()).map(|_| ());
        assert_eq!(seen, expected, "{flags:#04x}");
    }
}

/// Each field of ours against the same of an independent parser.
fn compare(frame: &[u8], ours: &IpPacket, theirs: &SlicedPacket<'_>) -> Result<(), TestCaseError> {
    let payload = match theirs.net.as_ref().expect("an IP packet") {
        NetSlice::Ipv4(slice) => {
            let header = slice.header();
            let (src, dst) = ours.addresses::<Ipv4Addr, _>(frame).unwrap();
            prop_assert_eq!(
                (src, dst),
                (header.source_addr(), header.destination_addr())
            );
            prop_assert_eq!(
                (ours.ttl, ours.tos),
                (
                    header.ttl(),
                    header.dcp().value() << 2 | header.ecn().value()
                )
            );
            slice.payload()
        }
        NetSlice::Ipv6(slice) => {
            let header = slice.header();
            let (src, dst) = ours.addresses::<Ipv6Addr, _>(frame).unwrap();
            prop_assert_eq!(
                (src, dst),
                (header.source_addr(), header.destination_addr())
            );
            prop_assert_eq!(
                (ours.ttl, ours.tos),
                (header.hop_limit(), header.traffic_class())
            );
            slice.payload()
        }
        NetSlice::Arp(_) => return Err(TestCaseError::fail("not ARP")),
    };
    // They follow an authentication header, we end there.
    if ours.protocol != 51 {
        prop_assert_eq!(ours.protocol, payload.ip_number.0);
        prop_assert_eq!(&frame[ours.l4_offset..ours.end], payload.payload);
        prop_assert_eq!(ours.fragment != Fragment::None, payload.fragmented);
    }
    match (&theirs.transport, ours.l4) {
        (
            Some(TransportSlice::Tcp(tcp)),
            L4::Tcp {
                src_port,
                dst_port,
                flags,
                header_len,
            },
        ) => {
            prop_assert_eq!(
                (src_port, dst_port),
                (tcp.source_port(), tcp.destination_port())
            );
            prop_assert_eq!(header_len, tcp.header_slice().len());
            prop_assert_eq!(flags & SYN != 0, tcp.syn());
            prop_assert_eq!(flags & FIN != 0, tcp.fin());
            prop_assert_eq!(flags & RST != 0, tcp.rst());
            prop_assert_eq!(flags & ACK != 0, tcp.ack());
        }
        (Some(TransportSlice::Udp(udp)), L4::Udp { src_port, dst_port }) => {
            prop_assert_eq!(
                (src_port, dst_port),
                (udp.source_port(), udp.destination_port())
            );
        }
        (Some(TransportSlice::Icmpv4(icmp)), L4::Icmp { kind, code, .. }) => {
            prop_assert_eq!((kind, code), (icmp.type_u8(), icmp.code_u8()));
        }
        (Some(TransportSlice::Icmpv6(icmp)), L4::Icmp { kind, code, .. }) => {
            prop_assert_eq!((kind, code), (icmp.type_u8(), icmp.code_u8()));
        }
        (None, _) => {}
        (theirs, ours) => {
            let mixed = matches!(ours, L4::Other);
            prop_assert!(mixed, "{:?} but {:?}", ours, theirs);
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn whole_packets_parse_as_etherparse_says(packet in whole()) {
        let frame = packet.build();
        let ours = ip_packet(&frame);
        let theirs = SlicedPacket::from_ethernet(&frame).unwrap();
        compare(&frame, &ours, &theirs)?;
    }

    #[test]
    fn damaged_frames_parse_the_same_or_not_at_all(frame in damaged()) {
        let ours = parse(frame.as_slice());
        if let (Ok(Packet::Ip(ours)), Ok(theirs)) = (ours, SlicedPacket::from_ethernet(&frame))
            && theirs.net.is_some()
        {
            compare(&frame, &ours, &theirs)?;
        }
    }

    #[test]
    fn any_bytes_give_a_verdict_with_offsets_inside(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(Packet::Ip(packet)) = parse(bytes.as_slice()) {
            prop_assert!(packet.l3_offset < packet.l4_offset);
            prop_assert!(packet.l4_offset <= packet.end && packet.end <= bytes.len());
        }
    }

    #[test]
    fn every_prefix_of_a_packet_is_cut(packet in whole()) {
        let frame = packet.build();
        let end = ip_packet(&frame).end;
        for len in 0..end {
            let verdict = parse(&frame[..len]);
            let expected = matches!(
                verdict,
                Err(DropReason::Runt | DropReason::Truncated | DropReason::BadIhl)
            );
            prop_assert!(expected, "{} of {}: {:?}", len, end, verdict);
        }
        prop_assert!(parse(&frame[..end]).is_ok());
    }
}

#[test]
fn empty_frames() {
    for len in 0..14 {
        assert_eq!(reason(&vec![0xff; len]), DropReason::Runt);
    }
}
