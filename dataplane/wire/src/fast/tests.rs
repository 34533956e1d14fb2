use super::*;
use crate::build::{Checksum, PacketBuilder};
use crate::parse::{Fragment, IpPacket, L4, Packet, parse};
use crate::strategy::{damaged, plain, whole};
use crate::tuple::{Address, Family};
use core::net::{Ipv4Addr, Ipv6Addr};
use proptest::prelude::*;

/// The shape that [`v4`] and [`v6`] promise to recognise, from the general parser's result.
fn shape(frame: &[u8]) -> Option<IpPacket> {
    let Ok(Packet::Ip(packet)) = parse(frame) else {
        return None;
    };
    let header_len = packet.family.header_len();
    let plain = packet.vlan.is_none()
        && packet.l4_offset == packet.l3_offset + header_len
        && packet.fragment == Fragment::None
        && packet.ttl > 1
        && matches!(packet.l4, L4::Tcp { .. } | L4::Udp { .. });
    plain.then_some(packet)
}

fn flags_of(packet: &IpPacket) -> u8 {
    match packet.l4 {
        L4::Tcp { flags, .. } => flags,
        _ => 0,
    }
}

fn raw_ports(packet: &IpPacket) -> u32 {
    let (src, dst) = packet.ports();
    let ([a, b], [c, d]) = (src.to_be_bytes(), dst.to_be_bytes());
    u32::from_ne_bytes([a, b, c, d])
}

fn words(address: Ipv6Addr) -> [u64; 2] {
    let octets = address.octets();
    let load = |at: usize| u64::from_ne_bytes(octets[at..at + 8].try_into().unwrap());
    [load(0), load(8)]
}

/// Both directions of the promise.
fn agree(frame: &[u8]) -> Result<(), TestCaseError> {
    let general = shape(frame);
    let of = |family| general.filter(|packet| packet.family == family);
    let four = of(Family::V4).map(|packet| {
        let (src, dst) = packet.addresses::<Ipv4Addr, _>(frame).unwrap();
        let mut addresses = [0u8; 8];
        addresses[..4].copy_from_slice(&src.to_octets());
        addresses[4..].copy_from_slice(&dst.to_octets());
        FastV4 {
            addresses: u64::from_ne_bytes(addresses),
            ports: raw_ports(&packet),
            protocol: packet.protocol,
            tcp_flags: flags_of(&packet),
            ttl: packet.ttl,
            tos: packet.tos,
            ip_len: u16::try_from(packet.ip_len()).unwrap(),
        }
    });
    prop_assert_eq!(v4(frame), four);
    let six = of(Family::V6).map(|packet| {
        let (src, dst) = packet.addresses::<Ipv6Addr, _>(frame).unwrap();
        FastV6 {
            src: words(src),
            dst: words(dst),
            ports: raw_ports(&packet),
            protocol: packet.protocol,
            tcp_flags: flags_of(&packet),
            ttl: packet.ttl,
            tos: packet.tos,
            ip_len: u32::try_from(packet.ip_len()).unwrap(),
        }
    });
    prop_assert_eq!(v6(frame), six);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn plain_packets_are_recognised(packet in plain()) {
        let frame = packet.build();
        prop_assert!(v4(&frame).is_some() || v6(&frame).is_some());
        agree(&frame)?;
    }

    #[test]
    fn plain_packets_with_one_byte_changed(packet in plain(), at: proptest::sample::Index, value: u8) {
        let mut frame = packet.build();
        let at = at.index(frame.len().min(80));
        frame[at] = value;
        agree(&frame)?;
    }

    #[test]
    fn plain_packets_with_one_byte_changed_and_the_header_checksum_right(
        packet in plain(), at: proptest::sample::Index, value: u8,
    ) {
        let mut frame = packet.build();
        let at = at.index(frame.len().min(80));
        frame[at] = value;
        crate::checksum::write_ipv4_header(&mut frame, 14);
        agree(&frame)?;
    }

    #[test]
    fn cut_packets(packet in plain(), len: proptest::sample::Index) {
        let frame = packet.build();
        agree(&frame[..len.index(frame.len())])?;
    }

    #[test]
    fn other_packets(packet in whole()) {
        agree(&packet.build())?;
    }

    #[test]
    fn damaged_packets(frame in damaged()) {
        agree(&frame)?;
    }
}

#[test]
fn all_tcp_flags() {
    for flags in 0..=255u8 {
        for packet in [
            PacketBuilder::between("192.0.2.1", "192.0.2.2"),
            PacketBuilder::between("::5", "::6"),
        ] {
            agree(&packet.tcp(1, 2, flags).build()).unwrap();
        }
    }
}

#[test]
fn all_header_lengths_and_total_lengths_of_a_small_frame() {
    for packet in [
        PacketBuilder::between("192.0.2.1", "192.0.2.2")
            .udp(1, 2)
            .payload(&[9; 18]),
        PacketBuilder::between("192.0.2.1", "192.0.2.2")
            .tcp(1, 2, tcp::ACK)
            .payload(&[9; 6]),
    ] {
        let frame = packet.build();
        for first in 0..=255u8 {
            for total in 0..80u8 {
                let mut frame = frame.clone();
                (frame[14], frame[17]) = (first, total);
                crate::checksum::write_ipv4_header(&mut frame, 14);
                agree(&frame).unwrap();
            }
        }
    }
}

#[test]
fn a_wrong_header_checksum_is_for_the_general_parser() {
    let packet = PacketBuilder::between("192.0.2.1", "192.0.2.2").udp(1, 2);
    assert!(v4(&packet.build()).is_some());
    assert!(v4(&packet.header_checksum(Checksum::Wrong).build()).is_none());
}
