use super::*;
use crate::build::{Checksum, PacketBuilder};
use crate::parse::{Packet, parse as parse_frame};
use crate::strategy::{Frame, damaged};
use proptest::prelude::*;
use std::vec::Vec;

const OWN: Mac = [2, 0, 0, 0, 0, 9];
const PEER: Mac = [2, 0, 0, 0, 0, 1];
const VIP: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10);
const GROUP: &str = "ff02::1:ff00:10";

fn body(options: &[u8]) -> Vec<u8> {
    let mut body = VIP.octets().to_vec();
    body.extend_from_slice(options);
    body
}

fn source_option() -> Vec<u8> {
    let mut option = std::vec![1, 1];
    option.extend_from_slice(&PEER);
    option
}

fn solicitation(src: &str, dst: &str, options: &[u8]) -> PacketBuilder {
    PacketBuilder::between(src, dst)
        .macs(PEER, [0x33, 0x33, 0xff, 0, 0, 0x10])
        .ttl(255)
        .icmp(SOLICITATION, 0, 0)
        .payload(&body(options))
}

fn packet_of(frame: &[u8]) -> IpPacket {
    match parse_frame(frame) {
        Ok(Packet::Ip(packet)) => packet,
        other => panic!("{other:?}"),
    }
}

fn read(packet: &PacketBuilder) -> Result<Neighbour, DropReason> {
    let frame = packet.build();
    parse(&frame, &packet_of(&frame))
}

/// The advertisement that answers, its receiver and its frame.
fn answered(packet: &PacketBuilder) -> (Advertisement, Ipv6Addr, Vec<u8>) {
    let mut frame = Frame::new(&packet.build());
    let parsed = packet_of(frame.bytes());
    let Ok(Neighbour::Solicitation(asked)) = parse(frame.bytes(), &parsed) else {
        panic!("no solicitation")
    };
    assert_eq!(target(frame.bytes(), &parsed), Some(VIP));
    assert!(answer(&mut frame, &parsed, &asked, OWN));
    let reply = packet_of(frame.bytes());
    let (sender, receiver) = reply.addresses::<Ipv6Addr, _>(frame.bytes()).unwrap();
    assert_eq!((sender, reply.vlan), (VIP, parsed.vlan));
    let Ok(Neighbour::Advertisement(said)) = parse(frame.bytes(), &reply) else {
        panic!("no advertisement")
    };
    (said, receiver, frame.bytes().to_vec())
}

#[test]
fn a_solicitation_is_answered_to_its_sender() {
    for packet in [
        solicitation("fe80::7", GROUP, &source_option()),
        solicitation("fe80::7", GROUP, &source_option()).vlan(12),
        // Unicast, without the option, and with one that means nothing here.
        solicitation("fe80::7", "2001:db8::10", &[]),
        solicitation(
            "fe80::7",
            GROUP,
            &[14, 1, 1, 2, 3, 4, 5, 6, 1, 1, 2, 0, 0, 0, 0, 1],
        ),
    ] {
        let (said, receiver, frame) = answered(&packet);
        let expected = Advertisement {
            target: VIP,
            target_mac: Some(OWN),
            is_router: false,
            is_solicited: true,
            overrides: true,
        };
        assert_eq!(said, expected);
        assert_eq!(receiver, "fe80::7".parse::<Ipv6Addr>().unwrap());
        assert_eq!(frame[..12], [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9]);
    }
}

#[test]
fn a_probe_is_answered_to_all() {
    let (said, receiver, frame) = answered(&solicitation("::", GROUP, &[]));
    assert!(!said.is_solicited && said.overrides);
    assert_eq!(receiver, ALL_NODES);
    assert_eq!(frame[..6], ALL_NODES_MAC);
}

#[test]
fn a_group_asks_for_nothing() {
    let group_option = [1, 1, 0x33, 0x33, 0, 0, 0, 1];
    for packet in [
        solicitation("ff02::1", GROUP, &source_option()),
        solicitation("fe80::7", GROUP, &group_option),
        solicitation("fe80::7", GROUP, &[]).macs(ethernet::BROADCAST, [0x33, 0x33, 0xff, 0, 0, 16]),
        solicitation("::", GROUP, &[]).macs(ethernet::BROADCAST, [0x33, 0x33, 0xff, 0, 0, 16]),
    ] {
        assert_eq!(read(&packet), Err(DropReason::BadArp));
    }
}

#[test]
fn announcements() {
    let mut out = [0u8; 200];
    assert_eq!(announcement(&mut out, OWN, VIP), Some(FRAME_LEN));
    let frame = &out[..FRAME_LEN];
    let Ok(Neighbour::Advertisement(said)) = parse(frame, &packet_of(frame)) else {
        panic!("{frame:?}")
    };
    assert_eq!(
        (said.target, said.target_mac, said.is_solicited),
        (VIP, Some(OWN), false)
    );
    assert_eq!(announcement(&mut out[..FRAME_LEN - 1], OWN, VIP), None);
}

#[test]
fn what_rfc_4861_refuses() {
    let good = || solicitation("fe80::7", GROUP, &source_option());
    assert!(read(&good()).is_ok());
    let multicast = Ipv6Addr::from_bits(0xff02 << 112 | 1).octets();
    let refused = [
        ("routed", good().ttl(254)),
        ("checksum", good().l4_checksum(Checksum::Wrong)),
        ("code", good().icmp(SOLICITATION, 1, 0)),
        ("short", good().payload(&VIP.octets()[..15])),
        ("multicast target", good().payload(&multicast)),
        (
            "option of no length",
            good().payload(&body(&[1, 0, 0, 0, 0, 0, 0, 0])),
        ),
        (
            "option beyond the end",
            good().payload(&body(&[1, 2, 0, 0, 0, 0, 0, 0])),
        ),
        (
            "probe with an address",
            solicitation("::", GROUP, &source_option()),
        ),
        (
            "probe to one address",
            solicitation("::", "2001:db8::10", &[]),
        ),
        ("fragment", good().fragment(0, true)),
        (
            "solicited to all",
            good().icmp(ADVERTISEMENT, 0, 0x6000_0000),
        ),
    ];
    for (what, packet) in refused {
        assert_eq!(read(&packet), Err(DropReason::BadArp), "{what}");
    }
}

proptest! {
    #[test]
    fn any_options(options in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = read(&solicitation("fe80::7", GROUP, &options));
    }

    #[test]
    fn any_packet(bytes in damaged()) {
        if let Ok(Packet::Ip(packet)) = parse_frame(bytes.as_slice()) {
            let asked = Solicitation { sender: VIP, target: VIP, sender_mac: None };
            let _ = parse(&bytes, &packet);
            let _ = answer(&mut Frame::new(&bytes), &packet, &asked, OWN);
        }
    }
}
