use super::*;
use etherparse::{ArpOperation, SlicedPacket};
use proptest::prelude::*;

const OWN: Mac = [2, 0, 0, 0, 0, 9];
const PEER: Mac = [2, 0, 0, 0, 0, 1];
const LINK: Link = Link {
    ethertype: ethernet::ARP,
    l3_offset: 14,
    vlan: None,
};

fn asked() -> [u8; FRAME_LEN] {
    let mut frame = [0u8; FRAME_LEN];
    let len = request(
        &mut frame,
        PEER,
        Ipv4Addr::new(192, 0, 2, 1),
        Ipv4Addr::new(192, 0, 2, 9),
    );
    assert_eq!(len, Some(FRAME_LEN));
    frame
}

#[test]
fn a_request_as_etherparse_reads_it() {
    let frame = asked();
    let sliced = SlicedPacket::from_ethernet(&frame).unwrap();
    let Some(etherparse::NetSlice::Arp(slice)) = sliced.net else {
        panic!("{sliced:?}")
    };
    assert_eq!(slice.operation(), ArpOperation::REQUEST);
    assert_eq!(slice.sender_hw_addr(), PEER);
    assert_eq!(slice.sender_protocol_addr(), [192, 0, 2, 1]);
    assert_eq!(slice.target_protocol_addr(), [192, 0, 2, 9]);
}

#[test]
fn a_request_is_answered_to_its_sender() {
    let mut frame = asked();
    assert_eq!(
        target(frame.as_slice(), &LINK),
        Some(Ipv4Addr::new(192, 0, 2, 9))
    );
    answer(&mut frame, &LINK, OWN).unwrap();
    let reply = parse(frame.as_slice(), &LINK).unwrap();
    let expected = Arp {
        operation: Operation::Reply,
        sender_mac: OWN,
        sender: Ipv4Addr::new(192, 0, 2, 9),
        target_mac: PEER,
        target: Ipv4Addr::new(192, 0, 2, 1),
    };
    assert_eq!(reply, expected);
    assert_eq!(ethernet::destination(frame.as_slice()), Some(PEER));
    assert_eq!(ethernet::source(frame.as_slice()), Some(OWN));
    // A reply is no question.
    assert_eq!(answer(&mut frame, &LINK, OWN), None);
}

#[test]
fn announcements_are_requests_for_the_own_address() {
    let mut frame = [0xffu8; 100];
    let address = Ipv4Addr::new(192, 0, 2, 10);
    assert_eq!(announcement(&mut frame, OWN, address), Some(FRAME_LEN));
    let message = parse(&frame[..FRAME_LEN], &LINK).unwrap();
    assert_eq!(
        (message.sender, message.target, message.sender_mac),
        (address, address, OWN)
    );
    assert_eq!(
        ethernet::destination(frame.as_slice()),
        Some(ethernet::BROADCAST)
    );
    assert_eq!(
        announcement(&mut frame[..FRAME_LEN - 1], OWN, address),
        None
    );
}

#[test]
fn messages_that_cannot_be() {
    for (at, value) in [
        (15, 6),
        (16, 9),
        (18, 8),
        (19, 16),
        (21, 3),
        (21, 0),
        (22, 3),
    ] {
        let mut frame = asked();
        frame[at] = value;
        assert_eq!(
            parse(frame.as_slice(), &LINK),
            Err(DropReason::BadArp),
            "byte {at}"
        );
    }
    let frame = asked();
    for len in 0..14 + LEN {
        assert_eq!(
            parse(&frame[..len], &LINK),
            Err(DropReason::BadArp),
            "{len} bytes"
        );
    }
    assert!(parse(&frame[..14 + LEN], &LINK).is_ok());
}

proptest! {
    #[test]
    fn any_bytes(mut bytes in proptest::collection::vec(any::<u8>(), 0..80), l3_offset in 0..30usize) {
        let link = Link { l3_offset, ..LINK };
        let _ = parse(bytes.as_slice(), &link);
        let _ = answer(&mut bytes, &link, OWN);
    }
}
