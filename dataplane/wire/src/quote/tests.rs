use super::*;
use crate::build::{Checksum, PacketBuilder};
use crate::checksum::{L4Checksum, l4_state};
use crate::parse::{Packet, parse as parse_frame};
use crate::strategy::damaged;
use crate::tcp;
use core::net::IpAddr;
use proptest::prelude::*;
use std::vec::Vec;

fn packet_of(frame: &[u8]) -> IpPacket {
    match parse_frame(frame) {
        Ok(Packet::Ip(packet)) => packet,
        other => panic!("{other:?}"),
    }
}

#[derive(Clone, Copy, Debug)]
enum Inner {
    Tcp,
    Udp,
    UdpWithout,
    /// The source port is the identifier.
    Echo,
}

/// A packet from `tuple.src` to `tuple.dst`.
fn inner<A: Address>(tuple: &FiveTuple<A>, kind: Inner) -> PacketBuilder {
    let packet = PacketBuilder::new(tuple.src, tuple.dst).payload(&[0x5a; 40]);
    let (src, dst) = (tuple.src_port, tuple.dst_port);
    match kind {
        Inner::Tcp => packet.tcp(src, dst, tcp::ACK),
        Inner::Udp => packet.udp(src, dst),
        Inner::UdpWithout => packet.udp(src, dst).l4_checksum(Checksum::Zero),
        Inner::Echo => {
            let request = match A::FAMILY {
                Family::V4 => 8,
                Family::V6 => 128,
            };
            packet.icmp(request, 0, u32::from(src) << 16 | 7)
        }
    }
}

/// The error from `router` about the first `len` bytes of a packet, sent to that packet's source.
fn error<A: Address>(router: A, to: A, packet: &PacketBuilder, len: usize) -> Vec<u8> {
    let bytes = packet.build_ip();
    let quoted = &bytes[..len.min(bytes.len())];
    let (kind, code) = match A::FAMILY {
        Family::V4 => (3, 1),
        Family::V6 => (1, 3),
    };
    PacketBuilder::new(router, to)
        .icmp(kind, code, 0)
        .payload(quoted)
        .build()
}

/// Rewriting an error about one packet gives, byte for byte, the error about the other.
fn rewriting_is_rebuilding<A: Address>(
    old: FiveTuple<A>,
    new: FiveTuple<A>,
    routers: (A, A),
    kind: Inner,
    len: usize,
) -> Result<(), TestCaseError> {
    let mut frame = error(routers.0, old.src, &inner(&old, kind), len);
    let expected = error(routers.1, new.src, &inner(&new, kind), len);
    let packet = packet_of(&frame);
    let quote = parse(frame.as_slice(), &packet).unwrap();
    let protocol = quote.protocol;
    let ports = match kind {
        Inner::Echo => (0, 0),
        _ => (old.src_port, old.dst_port),
    };
    prop_assert_eq!(
        quote.tuple::<A, _>(frame.as_slice()),
        Some(FiveTuple {
            protocol,
            src_port: ports.0,
            dst_port: ports.1,
            ..old
        })
    );
    let change = Rewrite {
        src: routers.1,
        dst: new.src,
        quoted: new,
    };
    rewrite(&mut frame, &packet, &quote, &change).unwrap();
    prop_assert_eq!(l4_state(&frame, &packet_of(&frame)), L4Checksum::Valid);
    prop_assert_eq!(frame, expected);
    Ok(())
}

fn tuple<A: Address>((src, dst, src_port, dst_port): (u128, u128, u16, u16)) -> FiveTuple<A> {
    let (src, dst) = (A::from_number(src), A::from_number(dst));
    FiveTuple {
        src,
        dst,
        src_port,
        dst_port,
        protocol: 0,
    }
}

type Ends = (u128, u128, u16, u16);

fn both<A: Address>(
    old: Ends,
    new: Ends,
    routers: (u128, u128),
    kind: Inner,
    extra: usize,
) -> Result<(), TestCaseError> {
    let (old, new) = (tuple::<A>(old), tuple::<A>(new));
    let routers = (A::from_number(routers.0), A::from_number(routers.1));
    let distinct =
        old.src != old.dst && new.src != new.dst && routers.0 != old.src && routers.1 != new.src;
    prop_assume!(distinct);
    rewriting_is_rebuilding(old, new, routers, kind, A::FAMILY.header_len() + 8 + extra)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn rewriting_an_error_is_as_good_as_making_it_anew(
        old: Ends,
        new: Ends,
        routers: (u128, u128),
        kind in prop_oneof![
            Just(Inner::Tcp),
            Just(Inner::Udp),
            Just(Inner::UdpWithout),
            Just(Inner::Echo),
        ],
        // Nine bytes would cut a TCP checksum in half, and half a checksum is left as it is.
        extra in (0..80usize).prop_filter("half a checksum", |extra| *extra != 9),
    ) {
        both::<Ipv4Addr>(old, new, routers, kind, extra)?;
        // Without a checksum UDP over IPv6 cannot be.
        let kind = if matches!(kind, Inner::UdpWithout) { Inner::Udp } else { kind };
        both::<Ipv6Addr>(old, new, routers, kind, extra)?;
    }

    #[test]
    fn any_packet(mut bytes in damaged()) {
        if let Ok(Packet::Ip(packet)) = parse_frame(bytes.as_slice())
            && let Ok(quote) = parse(bytes.as_slice(), &packet)
        {
            let quoted = tuple::<Ipv4Addr>((1, 2, 3, 4));
            let change = Rewrite { src: quoted.src, dst: quoted.dst, quoted };
            let _ = rewrite(&mut bytes, &packet, &quote, &change);
        }
    }

    #[test]
    fn any_quote(payload in proptest::collection::vec(any::<u8>(), 40..120), four: bool) {
        let builder = if four {
            PacketBuilder::between("192.0.2.1", "192.0.2.2").icmp(3, 1, 0)
        } else {
            PacketBuilder::between("2001:db8::1", "2001:db8::2").icmp(1, 3, 0)
        };
        let frame = builder.payload(&payload).build();
        let packet = packet_of(&frame);
        if let Ok(quote) = parse(frame.as_slice(), &packet) {
            prop_assert!(quote.l4_offset <= frame.len() && quote.end <= packet.end);
        }
    }
}

fn v4_error(inner: &[u8]) -> Result<Quote, DropReason> {
    let frame = PacketBuilder::between("192.0.2.1", "192.0.2.2")
        .icmp(11, 0, 0)
        .payload(inner)
        .build();
    parse(frame.as_slice(), &packet_of(&frame))
}

#[test]
fn what_is_no_quote() {
    let good = PacketBuilder::between("192.0.2.2", "203.0.113.1")
        .udp(1, 2)
        .build_ip();
    assert_eq!(v4_error(&good).map(|quote| quote.ports()), Ok((1, 2)));
    let with = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        v4_error(&bytes)
    };
    assert_eq!(with(0, 0x65), Err(DropReason::BadIcmp));
    assert_eq!(with(0, 0x44), Err(DropReason::BadIcmp));
    assert_eq!(with(0, 0x4f), Err(DropReason::BadIcmp));
    assert_eq!(with(3, 27), Err(DropReason::BadIcmp));
    for len in 20..28 {
        assert_eq!(
            v4_error(&good[..len]),
            Err(DropReason::BadIcmp),
            "{len} bytes"
        );
    }
    let echo = PacketBuilder::between("192.0.2.1", "192.0.2.2")
        .icmp(8, 0, 0)
        .build();
    assert_eq!(
        parse(echo.as_slice(), &packet_of(&echo)),
        Err(DropReason::BadIcmp)
    );
}

#[test]
fn quoted_echoes_and_fragments() {
    let from = || PacketBuilder::between("192.0.2.2", "203.0.113.1");
    let echo = v4_error(&from().icmp(8, 0, 0x4321_0001).build_ip()).unwrap();
    assert_eq!(
        echo.l4,
        QuotedL4::Icmp {
            kind: 8,
            id: 0x4321
        }
    );
    let later = v4_error(
        &from()
            .udp(1, 2)
            .fragment(3, true)
            .payload(&[0; 16])
            .build_ip(),
    )
    .unwrap();
    assert_eq!((later.l4, later.ports()), (QuotedL4::Other, (0, 0)));
    let esp = v4_error(&from().protocol(50).payload(&[0; 16]).build_ip()).unwrap();
    assert_eq!((esp.protocol, esp.l4), (50, QuotedL4::Other));
}

#[test]
fn extension_headers_inside_a_quote() {
    let from: IpAddr = "2001:db8::2".parse().unwrap();
    let inner = PacketBuilder::new(from, "2001:db8:9::1".parse().unwrap())
        .extension(60, &[1, 2])
        .udp(5, 6);
    let frame = PacketBuilder::between("2001:db8::1", "2001:db8::2")
        .icmp(3, 0, 0)
        .payload(&inner.build_ip())
        .build();
    let quote = parse(frame.as_slice(), &packet_of(&frame)).unwrap();
    assert_eq!(
        (quote.ports(), quote.l4_offset),
        ((5, 6), quote.l3_offset + 48)
    );
}
