//! What must hold for any bytes: shared by the fuzz target and the replay of its corpus.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use march_wire::checksum::{self, L4Checksum};
use march_wire::icmp::{self, Problem};
use march_wire::parse::{Fragment, IpPacket, L4, Packet, parse};
use march_wire::tuple::{Address, Family, FiveTuple};
use march_wire::{Buffer, arp, fast, nd, quote, tcp};

const OWN: [u8; 6] = [2, 0, 0, 0, 0, 9];

/// A frame with headroom.
struct Frame {
    memory: Vec<u8>,
    start: usize,
}

impl Frame {
    fn new(bytes: &[u8]) -> Frame {
        let mut memory = vec![0; 128];
        memory.extend_from_slice(bytes);
        Frame { memory, start: 128 }
    }
}

impl Buffer for Frame {
    fn bytes(&self) -> &[u8] {
        &self.memory[self.start..]
    }
    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..]
    }
    fn headroom(&self) -> usize {
        self.start
    }
    fn tailroom(&self) -> usize {
        128
    }
    fn prepend(&mut self, count: usize) -> bool {
        self.start
            .checked_sub(count)
            .map(|start| self.start = start)
            .is_some()
    }
    fn resize(&mut self, len: usize) -> bool {
        self.memory.resize(self.start + len, 0);
        true
    }
}

/// Everything that can be done with one frame.
pub fn frame(bytes: &[u8]) {
    let packet = match parse(bytes) {
        Ok(Packet::Ip(packet)) => packet,
        Ok(Packet::Arp(link)) => {
            if arp::parse(bytes, &link).is_ok() {
                let mut reply = bytes.to_vec();
                if arp::answer(&mut reply, &link, OWN).is_some() {
                    assert!(arp::parse(reply.as_slice(), &link).is_ok());
                }
            }
            return;
        }
        Ok(Packet::Other(_)) | Err(_) => {
            assert!(fast::v4(bytes).is_none() && fast::v6(bytes).is_none());
            return;
        }
    };
    assert!(packet.l3_offset < packet.l4_offset && packet.l4_offset <= packet.end);
    assert!(packet.end <= bytes.len());
    hot_path_agrees(bytes, &packet);
    answers(bytes, &packet);
    quoted(bytes, &packet);

    let mut partial = bytes.to_vec();
    if checksum::complete_partial(&mut partial, &packet).is_some() {
        assert_eq!(checksum::l4_state(&partial, &packet), L4Checksum::Valid);
    }
}

fn hot_path_agrees(bytes: &[u8], packet: &IpPacket) {
    let plain = packet.vlan.is_none()
        && packet.l4_offset == packet.l3_offset + packet.family.header_len()
        && packet.fragment == Fragment::None
        && packet.ttl > 1
        && matches!(packet.l4, L4::Tcp { .. } | L4::Udp { .. });
    assert_eq!(
        fast::v4(bytes).is_some(),
        plain && packet.family == Family::V4
    );
    assert_eq!(
        fast::v6(bytes).is_some(),
        plain && packet.family == Family::V6
    );
}

/// The packet of a frame that was made here: it must parse and its checksum must fit.
fn made_here(frame: &Frame) -> IpPacket {
    let Ok(Packet::Ip(packet)) = parse(frame.bytes()) else {
        panic!("{:02x?}", frame.bytes())
    };
    assert_eq!(
        checksum::l4_state(frame.bytes(), &packet),
        L4Checksum::Valid
    );
    packet
}

fn answers(bytes: &[u8], packet: &IpPacket) {
    let mut frame = Frame::new(bytes);
    if tcp::answer_with_reset(&mut frame, packet, OWN) {
        made_here(&frame);
    }
    let source: IpAddr = match packet.family {
        Family::V4 => Ipv4Addr::new(192, 0, 2, 254).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0xfe).into(),
    };
    let to_ourselves = packet
        .ip_addresses(bytes)
        .is_some_and(|(src, _)| src == source);
    for problem in [Problem::TimeExceeded, Problem::TooBig { mtu: 1400 }] {
        let mut frame = Frame::new(bytes);
        if icmp::answer_with_error(&mut frame, packet, problem, source, OWN) && !to_ourselves {
            made_here(&frame);
        }
    }
    let mut echo = bytes.to_vec();
    let was = checksum::l4_state(bytes, packet);
    if icmp::answer_echo(&mut echo, packet, OWN).is_some() {
        let Ok(Packet::Ip(reply)) = parse(echo.as_slice()) else {
            panic!("{echo:02x?}")
        };
        assert_eq!(checksum::l4_state(&echo, &reply), was);
    }
    if nd::is_neighbour(packet)
        && let Ok(nd::Neighbour::Solicitation(asked)) = nd::parse(bytes, packet)
    {
        let mut frame = Frame::new(bytes);
        if nd::answer(&mut frame, packet, &asked, OWN) && asked.sender != asked.target {
            made_here(&frame);
        }
    }
}

fn quoted(bytes: &[u8], packet: &IpPacket) {
    let Ok(quote) = quote::parse(bytes, packet) else {
        return;
    };
    assert!(quote.l3_offset < quote.l4_offset && quote.l4_offset <= quote.end);
    assert!(quote.end <= packet.end);
    match packet.family {
        Family::V4 => rewritten::<Ipv4Addr>(bytes, packet, &quote),
        Family::V6 => rewritten::<Ipv6Addr>(bytes, packet, &quote),
    }
}

/// Rewriting keeps a right checksum right.
fn rewritten<A: Address>(bytes: &[u8], packet: &IpPacket, quote: &quote::Quote) {
    let [a, b] = [A::from_number(0x0a00_0001), A::from_number(0x0a00_0002)];
    let inner = FiveTuple {
        src: b,
        dst: a,
        src_port: 1,
        dst_port: 2,
        protocol: quote.protocol,
    };
    let mut frame = bytes.to_vec();
    let change = quote::Rewrite {
        src: a,
        dst: b,
        quoted: inner,
    };
    quote::rewrite(&mut frame, packet, quote, &change).expect("the frame that was parsed");
    let Ok(Packet::Ip(after)) = parse(frame.as_slice()) else {
        panic!("{frame:02x?}")
    };
    let (was, is) = (
        checksum::l4_state(bytes, packet),
        checksum::l4_state(&frame, &after),
    );
    assert_eq!(was == L4Checksum::Valid, is == L4Checksum::Valid);
}
