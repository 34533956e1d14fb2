//! Generated frames: for services, through the box, of flows that exist, about them, and broken ones.

use core::net::IpAddr;

use march_policy::{Direction, Flow, Life, State, Tuple};
use march_wire::build::{Checksum, PacketBuilder};

use crate::config::PORTS;
use crate::dice::Dice;
use crate::universe::{
    self, EPHEMERAL, SERVED, TRANSLATED, Version, any, clients, dedicated, hosts, impossible, own,
    vips,
};

const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;
const FIN: u8 = 1;

/// A frame, and where it comes in.
#[derive(Clone, Debug)]
pub struct Incoming {
    /// Port.
    pub ingress: u16,
    /// Bytes.
    pub frame: Vec<u8>,
}

/// One frame for a world that remembers this.
pub fn frame(dice: &mut Dice, state: &State) -> Incoming {
    let ingress = dice.from_to(0, PORTS - 1);
    frame_on(dice, state, ingress)
}

/// One that comes in on this port.
pub fn frame_on(dice: &mut Dice, state: &State, ingress: u16) -> Incoming {
    let flows = state.flows().count();
    let flow = (flows > 0).then(|| *state.flows().nth(dice.below(flows)).expect("in bounds"));
    let packet = match (dice.below(100), flow) {
        (0..38, Some(flow)) => of_flow(dice, &flow),
        (38..44, Some(flow)) => about_flow(dice, &flow),
        (44..48, _) => return link(dice, ingress),
        (48..52, _) => echo(dice),
        (52..56, _) => fragment(dice),
        (56..59, _) => stray_error(dice),
        (59..62, _) => martian(dice),
        _ => opening(dice),
    };
    let mut frame = finish(dice, ingress, packet).build();
    if dice.percent(3) {
        break_it(dice, &mut frame);
    }
    let ingress = if dice.percent(1) { PORTS } else { ingress };
    Incoming { ingress, frame }
}

fn of(dice: &mut Dice, src: IpAddr, dst: IpAddr) -> PacketBuilder {
    // Land is the parser's to find; a few are enough.
    let dst = if src == dst && dice.percent(95) {
        match src {
            IpAddr::V4(_) => hosts(Version::V4)[0],
            IpAddr::V6(_) => hosts(Version::V6)[0],
        }
    } else {
        dst
    };
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => PacketBuilder::new(src, dst),
        (IpAddr::V6(src), IpAddr::V6(dst)) => PacketBuilder::new(src, dst),
        _ => unreachable!("both ends are of one family"),
    }
}

/// What may open a flow: mostly from clients to services and hosts.
fn opening(dice: &mut Dice) -> PacketBuilder {
    let version = universe::version(dice);
    let src = if dice.percent(85) {
        dice.pick(&clients(version))
    } else {
        any(dice, version)
    };
    let dst = match dice.below(20) {
        0..9 => dice.pick(&vips(version)),
        9..17 => dice.pick(&hosts(version)),
        _ => any(dice, version),
    };
    let packet = of(dice, src, dst);
    let (from, to) = ends(dice);
    match dice.below(20) {
        0..11 => {
            let flags = if dice.percent(80) { SYN } else { flags(dice) };
            packet.tcp(from, to, flags)
        }
        11..16 => packet.udp(from, to),
        16..18 => icmp(dice, packet, version),
        _ => packet.protocol(dice.pick(&[50, 47, 132, 59, 2])),
    }
}

fn ends(dice: &mut Dice) -> (u16, u16) {
    let from = if dice.percent(90) {
        dice.pick(&EPHEMERAL)
    } else {
        dice.pick(&SERVED)
    };
    let to = match dice.below(20) {
        0..17 => dice.pick(&SERVED),
        17 => dice.from_to(TRANSLATED.0, TRANSLATED.1),
        _ => dice.pick(&EPHEMERAL),
    };
    (from, to)
}

fn flags(dice: &mut Dice) -> u8 {
    match dice.below(8) {
        0 => dice.byte(),
        _ => dice.pick(&[
            SYN,
            ACK,
            SYN | ACK,
            FIN | ACK,
            RST,
            RST | ACK,
            ACK | 8,
            SYN | 0xc0,
        ]),
    }
}

fn icmp(dice: &mut Dice, packet: PacketBuilder, version: Version) -> PacketBuilder {
    let kind = match version {
        Version::V4 => dice.pick(&[8, 8, 8, 0, 13]),
        Version::V6 => dice.pick(&[128, 128, 128, 129, 133, 137]),
    };
    let code = dice.pick(&[0, 0, 0, 1]);
    let id = u32::from(dice.from_to(1, 3));
    packet.icmp(kind, code, id << 16 | u32::from(dice.byte()))
}

/// The next packet of a flow, from either end.
fn of_flow(dice: &mut Dice, flow: &Flow) -> PacketBuilder {
    let direction = dice.pick(&[Direction::Forward, Direction::Reverse]);
    let tuple = flow.incoming(direction);
    let packet = of(dice, tuple.src, tuple.dst);
    match tuple.protocol {
        6 => {
            let likely = likely_flags(dice, flow.life, direction);
            packet.tcp(tuple.src_port, tuple.dst_port, likely)
        }
        17 => packet.udp(tuple.src_port, tuple.dst_port),
        1 | 58 => {
            let kinds = if tuple.protocol == 1 {
                [8, 0]
            } else {
                [128, 129]
            };
            let kind = kinds[direction.index()];
            packet.icmp(
                kind,
                0,
                u32::from(tuple.src_port) << 16 | u32::from(dice.byte()),
            )
        }
        other => packet.protocol(other),
    }
}

/// Flags that move a connection on, mostly.
fn likely_flags(dice: &mut Dice, life: Life, direction: Direction) -> u8 {
    if dice.percent(15) {
        return flags(dice);
    }
    match (life, direction) {
        (Life::SynSent, Direction::Forward) => SYN,
        (Life::SynSent, Direction::Reverse) => SYN | ACK,
        (Life::Closed, _) => dice.pick(&[SYN, ACK]),
        (Life::Closing { .. } | Life::LastAck { .. }, _) => dice.pick(&[FIN | ACK, ACK, SYN]),
        _ if dice.percent(10) => FIN | ACK,
        _ => ACK,
    }
}

/// An ICMP error that quotes a packet of a flow as it left the box.
fn about_flow(dice: &mut Dice, flow: &Flow) -> PacketBuilder {
    let direction = dice.pick(&[Direction::Forward, Direction::Reverse]);
    let quoted = flow.outgoing(direction);
    // A router on the way, or the far end itself.
    let src = if dice.percent(60) {
        quoted.dst
    } else {
        any(dice, version_of(quoted.dst))
    };
    error(dice, src, quoted)
}

fn stray_error(dice: &mut Dice) -> PacketBuilder {
    let version = universe::version(dice);
    let quoted = Tuple {
        src: any(dice, version),
        dst: any(dice, version),
        src_port: dice.pick(&EPHEMERAL),
        dst_port: dice.pick(&SERVED),
        protocol: dice.pick(&[6, 17]),
    };
    let src = any(dice, version);
    error(dice, src, quoted)
}

fn version_of(address: IpAddr) -> Version {
    if address.is_ipv4() {
        Version::V4
    } else {
        Version::V6
    }
}

fn error(dice: &mut Dice, src: IpAddr, quoted: Tuple) -> PacketBuilder {
    let inner = match (quoted.src, quoted.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => PacketBuilder::new(src, dst),
        (IpAddr::V6(src), IpAddr::V6(dst)) => PacketBuilder::new(src, dst),
        _ => unreachable!("both ends are of one family"),
    };
    let payload: Vec<u8> = (0..dice.below(40)).map(|_| dice.byte()).collect();
    let inner = match quoted.protocol {
        6 => inner.tcp(quoted.src_port, quoted.dst_port, ACK),
        17 => inner.udp(quoted.src_port, quoted.dst_port),
        1 => inner.icmp(8, 0, u32::from(quoted.src_port) << 16),
        58 => inner.icmp(128, 0, u32::from(quoted.src_port) << 16),
        other => inner.protocol(other),
    };
    let l4_checksum = dice.pick(&[
        Checksum::Right,
        Checksum::Right,
        Checksum::Right,
        Checksum::Wrong,
        Checksum::Zero,
    ]);
    let header_checksum = dice.pick(&[Checksum::Right, Checksum::Right, Checksum::Wrong]);
    let mut quote = inner
        .payload(&payload)
        .l4_checksum(l4_checksum)
        .header_checksum(header_checksum)
        .ttl(dice.pick(&[1, 60]))
        .build_ip();
    if dice.percent(40) {
        quote.truncate(quoted_header(quoted.src) + dice.pick(&[4, 8, 10, 16, 18, 20]));
    }
    let (kind, code) = if quoted.src.is_ipv4() {
        dice.pick(&[(3, 1), (3, 4), (11, 0), (12, 0), (5, 1)])
    } else {
        dice.pick(&[(1, 0), (2, 0), (3, 0), (4, 1)])
    };
    let dst = if dice.percent(97) {
        quoted.src
    } else {
        any(dice, version_of(quoted.src))
    };
    of(dice, src, dst)
        .icmp(kind, code, dice.pick(&[0, 1400]))
        .payload(&quote)
}

fn quoted_header(address: IpAddr) -> usize {
    if address.is_ipv4() { 20 } else { 40 }
}

fn echo(dice: &mut Dice) -> PacketBuilder {
    let version = universe::version(dice);
    let ours = [vips(version), vec![dedicated(version), own(version, 0)]].concat();
    let (src, dst) = (dice.pick(&clients(version)), dice.pick(&ours));
    let packet = of(dice, src, dst);
    icmp(dice, packet, version)
}

fn fragment(dice: &mut Dice) -> PacketBuilder {
    let packet = opening(dice).payload(&[7; 64]);
    match dice.below(3) {
        0 => packet.fragment(0, true),
        1 => packet.fragment(8, true),
        _ => packet.fragment(16, false),
    }
}

fn martian(dice: &mut Dice) -> PacketBuilder {
    let version = universe::version(dice);
    let (odd, usual) = (dice.pick(&impossible(version)), any(dice, version));
    let packet = if dice.percent(50) {
        of(dice, odd, usual)
    } else {
        of(dice, usual, odd)
    };
    let (from, to) = ends(dice);
    match dice.below(3) {
        0 => packet.tcp(from, to, SYN),
        1 => packet.udp(from, to),
        _ => icmp(dice, packet, version),
    }
}

/// What any packet may have: MAC addresses, a tag, a code point, few hops left, options, much payload, a wrong checksum.
fn finish(dice: &mut Dice, ingress: u16, packet: PacketBuilder) -> PacketBuilder {
    let is_ipv4 = packet.is_ipv4();
    let to = match dice.below(60) {
        0 => universe::mac(ingress + 1),
        1 => [0xff; 6],
        2 => [1, 0, 0x5e, 0, 0, 5],
        _ => universe::mac(ingress),
    };
    let mut packet = packet.macs([2, 2, 2, 2, 2, dice.byte()], to);
    if dice.percent(12) {
        packet = packet.vlan(dice.pick(&[100, 99, 250, 0x2064, 0, 0xe064]));
    }
    if dice.percent(20) {
        packet = packet.tos(dice.pick(&[0, 46 << 2, 46 << 2 | 3, 10 << 2 | 1, 0xff, 1]));
    }
    packet = packet.ttl(dice.pick(&[64, 64, 64, 64, 64, 64, 64, 255, 3, 2, 1, 0]));
    if dice.percent(4) {
        packet = if is_ipv4 {
            packet.options(dice.pick::<&[u8]>(&[
                &[1, 1, 1, 1],
                &[7, 7, 4, 0, 0, 0, 0, 0],
                &[131, 3, 4, 0],
            ]))
        } else {
            packet.extension(dice.pick(&[60, 0, 43]), &[0, 0, 1, 4, 0, 0, 0, 0][2..])
        };
    }
    if dice.percent(15) {
        let len = dice.pick(&[1, 10, 101, 1250, 1380, 1450, 1480]);
        let filler: Vec<u8> = (0..len).map(|_| dice.byte()).collect();
        packet = packet.payload(&filler);
    }
    if dice.percent(6) {
        packet = packet.l4_checksum(dice.pick(&[
            Checksum::Wrong,
            Checksum::Partial,
            Checksum::Partial,
            Checksum::Zero,
        ]));
    }
    if dice.percent(30) {
        packet = packet.padded_to(60);
    }
    packet
}

/// Flips, cuts or inserts something.
fn break_it(dice: &mut Dice, frame: &mut Vec<u8>) {
    match dice.below(4) {
        0 => frame.truncate(dice.below(frame.len() + 1)),
        1 => {
            let at = dice.below(frame.len().min(80));
            frame[at] = dice.byte();
        }
        _ => {
            let at = dice.below(frame.len().min(64));
            frame[at] ^= 1 << dice.below(8);
        }
    }
}

/// ARP, neighbour discovery, and protocols of the link.
fn link(dice: &mut Dice, ingress: u16) -> Incoming {
    let from = [2, 2, 2, 2, 2, dice.byte()];
    let to = if dice.percent(50) {
        universe::mac(ingress)
    } else {
        [0xff; 6]
    };
    let frame = match dice.below(4) {
        0 => [&to[..], &from, &[0x88, 0xcc, 2, 7, 4, 0, 0, 0]].concat(),
        1 => solicitation(dice, from),
        _ => {
            let mut frame = [&to[..], &from, &[8, 6, 0, 1, 8, 0, 6, 4, 0]].concat();
            frame.push(dice.pick(&[1, 1, 1, 2, 3]));
            let IpAddr::V4(target) = any(dice, Version::V4) else {
                unreachable!("an IPv4 address was asked for")
            };
            frame.extend(from);
            frame.extend([198, 51, 100, 1]);
            frame.extend([0; 6]);
            frame.extend(target.octets());
            frame.resize(60, 0);
            frame
        }
    };
    Incoming { ingress, frame }
}

fn solicitation(dice: &mut Dice, from: [u8; 6]) -> Vec<u8> {
    let IpAddr::V6(target) = any(dice, Version::V6) else {
        unreachable!("an IPv6 address was asked for")
    };
    let is_probe = dice.percent(20);
    let src = if is_probe {
        impossible(Version::V6)[1]
    } else {
        clients(Version::V6)[0]
    };
    let low = target.octets();
    let group = core::net::Ipv6Addr::new(
        0xff02,
        0,
        0,
        0,
        0,
        1,
        0xff00 | u16::from(low[13]),
        u16::from_be_bytes([low[14], low[15]]),
    );
    let mut payload = target.octets().to_vec();
    if !is_probe && dice.percent(80) {
        payload.extend([1, 1]);
        payload.extend(from);
    }
    let mac = [0x33, 0x33, 0xff, low[13], low[14], low[15]];
    PacketBuilder::new(src, IpAddr::V6(group))
        .macs(from, mac)
        .ttl(if dice.percent(90) { 255 } else { 64 })
        .icmp(dice.pick(&[135, 135, 135, 136]), 0, 0)
        .payload(&payload)
        .build()
}
