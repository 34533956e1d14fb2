use super::*;
use crate::build::{Checksum, PacketBuilder};
use crate::checksum::{L4Checksum, l4_state};
use crate::parse::{Packet, parse};
use crate::quote;
use crate::strategy::{Frame, whole};
use proptest::prelude::*;
use std::vec;

const OWN: Mac = [2, 0, 0, 0, 0, 9];
const V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 254);
const V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0xfe);

fn packet_of(frame: &[u8]) -> IpPacket {
    match parse(frame) {
        Ok(Packet::Ip(packet)) => packet,
        other => panic!("{other:?}"),
    }
}

fn v4() -> PacketBuilder {
    PacketBuilder::between("198.51.100.7", "203.0.113.9").udp(1000, 2000)
}

fn v6() -> PacketBuilder {
    PacketBuilder::between("2001:db8:5::7", "2001:db8:6::9").udp(1000, 2000)
}

fn source_for(packet: &PacketBuilder) -> IpAddr {
    if packet.is_ipv4() {
        V4.into()
    } else {
        V6.into()
    }
}

const PROBLEMS: [Problem; 6] = [
    Problem::TimeExceeded,
    Problem::TooBig { mtu: 1280 },
    Problem::NoRoute,
    Problem::HostUnreachable,
    Problem::PortUnreachable,
    Problem::Prohibited,
];

/// Makes the error and checks all of it but the type.
fn complain(builder: &PacketBuilder, problem: Problem) -> Option<(u8, u8, u32)> {
    let original = builder.build();
    let mut frame = Frame::new(&original);
    let packet = packet_of(&original);
    if !answer_with_error(&mut frame, &packet, problem, source_for(builder), OWN) {
        assert_eq!(
            frame,
            Frame::new(&original),
            "an unsent error leaves the frame alone"
        );
        return None;
    }
    let bytes = frame.bytes();
    let error = packet_of(bytes);
    let (src, dst) = packet.ip_addresses(original.as_slice()).unwrap();
    assert_eq!(error.ip_addresses(bytes), Some((source_for(builder), src)));
    assert_eq!((error.vlan, error.end), (packet.vlan, bytes.len()));
    assert_eq!(l4_state(bytes, &error), L4Checksum::Valid);
    assert_eq!(bytes[..12], [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9]);
    assert!(error.ip_len() <= if builder.is_ipv4() { 576 } else { 1280 });
    let quoted = &bytes[error.l4_offset + 8..];
    assert!(
        original[packet.l3_offset..packet.end].starts_with(quoted),
        "the quote is the packet as it came"
    );
    if quoted.len() >= 28 && packet.ip_len() >= packet.l4_offset - packet.l3_offset + 8 {
        let quote = quote::parse(bytes, &error).unwrap();
        assert_eq!(quote.ports(), packet.ports());
        let inner = if builder.is_ipv4() {
            let (inner_src, inner_dst) = quote.addresses::<Ipv4Addr, _>(bytes).unwrap();
            (inner_src.into(), inner_dst.into())
        } else {
            let (inner_src, inner_dst) = quote.addresses::<Ipv6Addr, _>(bytes).unwrap();
            (inner_src.into(), inner_dst.into())
        };
        assert_eq!(inner, (src, dst));
    }
    let [kind, code] = bytes.read(error.l4_offset).unwrap();
    Some((kind, code, bytes.read_u32(error.l4_offset + 4).unwrap()))
}

#[test]
fn each_problem_in_both_families() {
    let expected = [
        ((11, 0, 0), (3, 0, 0)),
        ((3, 4, 1280), (2, 0, 1280)),
        ((3, 0, 0), (1, 0, 0)),
        ((3, 1, 0), (1, 3, 0)),
        ((3, 3, 0), (1, 4, 0)),
        ((3, 13, 0), (1, 1, 0)),
    ];
    for (problem, (four, six)) in PROBLEMS.into_iter().zip(expected) {
        assert_eq!(complain(&v4(), problem), Some(four));
        assert_eq!(complain(&v6(), problem), Some(six));
        assert_eq!(
            complain(&v4().vlan(5).options(&[1, 1, 1, 1]).padded_to(90), problem),
            Some(four)
        );
        assert_eq!(
            complain(&v6().vlan(5).extension(60, &[1, 2]), problem),
            Some(six)
        );
        assert_eq!(complain(&v4().payload(&[7; 1400]), problem), Some(four));
        assert_eq!(complain(&v6().payload(&[7; 1400]), problem), Some(six));
        assert_eq!(
            complain(&v4().fragment(0, true).payload(&[7; 64]), problem),
            Some(four)
        );
    }
}

#[test]
fn quotes_are_as_long_as_allowed() {
    for (builder, longest) in [(v4(), 576), (v6(), 1280)] {
        let long = builder.payload(&[7; 1400]).build();
        let mut frame = Frame::new(&long);
        let packet = packet_of(&long);
        let source = if packet.family == Family::V4 {
            V4.into()
        } else {
            V6.into()
        };
        assert!(answer_with_error(
            &mut frame,
            &packet,
            Problem::TimeExceeded,
            source,
            OWN
        ));
        assert_eq!(packet_of(frame.bytes()).ip_len(), longest);
    }
}

#[test]
fn what_never_gets_an_error() {
    let group_mac = [0x01, 0, 0x5e, 0, 0, 1];
    let never = [
        v4().icmp(3, 0, 0).payload(&v4().build_ip()),
        v4().icmp(11, 0, 0).payload(&v4().build_ip()),
        v4().icmp(5, 0, 0).payload(&v4().build_ip()),
        v4().fragment(9, false).payload(&[0; 64]),
        v4().macs([2, 0, 0, 0, 0, 1], group_mac),
        v4().macs([2, 0, 0, 0, 0, 1], ethernet::BROADCAST),
        PacketBuilder::between("198.51.100.7", "224.0.0.1"),
        PacketBuilder::between("198.51.100.7", "255.255.255.255"),
        PacketBuilder::between("0.0.0.0", "203.0.113.9"),
        PacketBuilder::between("127.0.0.1", "203.0.113.9"),
        PacketBuilder::between("224.0.0.1", "203.0.113.9"),
        v6().icmp(1, 0, 0).payload(&v6().build_ip()),
        v6().icmp(137, 0, 0).payload(&[0; 32]),
        v6().fragment(9, false).payload(&[0; 64]),
        PacketBuilder::between("::", "2001:db8:6::9"),
        PacketBuilder::between("ff02::1", "2001:db8:6::9"),
    ];
    for (index, packet) in never.iter().enumerate() {
        for problem in PROBLEMS {
            assert_eq!(
                complain(packet, problem),
                None,
                "packet {index}, {problem:?}"
            );
        }
    }
    let multicast = PacketBuilder::between("2001:db8:5::7", "ff05::5")
        .macs([2, 0, 0, 0, 0, 1], [0x33, 0x33, 0, 0, 0, 5]);
    for problem in PROBLEMS {
        let expected = matches!(problem, Problem::TooBig { .. });
        assert_eq!(
            complain(&multicast, problem).is_some(),
            expected,
            "{problem:?}"
        );
    }
    // Questions are no errors.
    assert!(complain(&v4().icmp(8, 0, 0), Problem::TimeExceeded).is_some());
    assert!(complain(&v6().icmp(128, 0, 0), Problem::TimeExceeded).is_some());
}

#[test]
fn without_headroom_or_with_the_wrong_family_nothing_happens() {
    let bytes = v4().build();
    let mut frame = Frame::new(&bytes);
    let packet = packet_of(&bytes);
    assert!(!answer_with_error(
        &mut frame,
        &packet,
        Problem::NoRoute,
        V6.into(),
        OWN
    ));
    assert!(frame.prepend(128));
    let full = frame.bytes().to_vec();
    assert_eq!(frame.headroom(), 0);
    let mut cramped = Frame::new(&bytes);
    assert!(cramped.prepend(110));
    cramped.bytes_mut()[..bytes.len()].copy_from_slice(&bytes);
    assert!(cramped.resize(bytes.len()));
    assert!(!answer_with_error(
        &mut cramped,
        &packet,
        Problem::NoRoute,
        V4.into(),
        OWN
    ));
    assert_eq!(cramped.bytes(), bytes);
    assert_eq!(frame.bytes(), full);
}

#[test]
fn echoes() {
    for (request, reply) in [
        (v4().icmp(8, 0, 0x1234_0001), 0),
        (v6().icmp(128, 0, 0x1234_0001), 129),
    ] {
        for request in [
            request.clone().payload(b"ping"),
            request.clone().vlan(3).ttl(1),
            request.payload(&vec![9; 1000]),
        ] {
            let before = request.build();
            let packet = packet_of(&before);
            let mut frame = before.clone();
            answer_echo(&mut frame, &packet, OWN).unwrap();
            let answer = packet_of(&frame);
            let (src, dst) = packet.ip_addresses(before.as_slice()).unwrap();
            assert_eq!(answer.ip_addresses(frame.as_slice()), Some((dst, src)));
            assert_eq!(
                answer.l4,
                L4::Icmp {
                    kind: reply,
                    code: 0,
                    id: 0x1234
                }
            );
            assert_eq!((answer.ttl, frame.len()), (64, before.len()));
            assert_eq!(l4_state(&frame, &answer), L4Checksum::Valid);
            assert_eq!(
                frame[answer.l4_offset + 4..],
                before[packet.l4_offset + 4..]
            );
            assert_eq!(frame[..12], [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9]);
            assert_eq!(answer_echo(&mut frame, &answer, OWN), None);
        }
    }
    let wrong = v4().icmp(8, 0, 1).l4_checksum(Checksum::Wrong).build();
    let mut frame = wrong.clone();
    answer_echo(&mut frame, &packet_of(&wrong), OWN).unwrap();
    assert_eq!(l4_state(&frame, &packet_of(&frame)), L4Checksum::Wrong);
    let fragment = v4()
        .icmp(8, 0, 1)
        .fragment(0, true)
        .payload(&[0; 8])
        .build();
    assert_eq!(
        answer_echo(&mut fragment.clone(), &packet_of(&fragment), OWN),
        None
    );
}

proptest! {
    #[test]
    fn errors_about_anything(packet in whole(), problem in 0..PROBLEMS.len()) {
        let _ = complain(&packet, PROBLEMS[problem]);
    }
}
