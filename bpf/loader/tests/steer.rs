//! The program's decisions, frame by frame, through the kernel's `BPF_PROG_TEST_RUN`. Needs root.

use march_bpf_loader::{Action, AddressSet, Counters, NatAddress, Steering, Transit};
use march_wire::build::{Checksum, PacketBuilder};
use march_wire::{DropReason, arp, ethernet, tcp};

const PORT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// What a frame should lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    Pass,
    /// To a socket; none is bound, so the frame is dropped and counted as such.
    Socket,
    /// To a socket at an address that is the kernel's as well: without one it passes. Told from `Pass` with a real
    /// socket only, in `attach.rs`.
    SocketOrPass,
    Drop(DropReason),
}

fn addresses(transit: Transit) -> AddressSet {
    let ip = |text: &str| text.parse().unwrap();
    AddressSet {
        kernel: vec![
            ip("192.0.2.1"),
            ip("2001:db8::1"),
            ip("fe80::1"),
            ip("192.0.2.2"),
        ],
        vips: [
            "198.51.100.10/32",
            "203.0.113.0/24",
            "2001:db8:1::10/128",
            "2001:db8:2::/64",
        ]
        .iter()
        .map(|text| text.parse().unwrap())
        .collect(),
        nat: [
            "192.0.2.1",
            "2001:db8::1",
            "198.51.100.77",
            "2001:db8:1::77",
        ]
        .iter()
        .map(|text| NatAddress {
            address: ip(text),
            first_port: 20_000,
            last_port: 32_767,
        })
        .collect(),
        transit,
    }
}

fn steering(transit: Transit) -> Steering {
    let mut steering = Steering::load().expect("root, BPF and the capabilities for it");
    steering.set_mac(PORT_MAC).unwrap();
    steering.publish(&addresses(transit)).unwrap();
    steering
}

/// Runs one frame and checks the action, the counter that moved and that no other did.
fn check(steering: &Steering, what: &str, frame: &[u8], expected: Expected) {
    let before = steering.counters().unwrap();
    let action = steering.dry_run(frame).unwrap();
    let after = steering.counters().unwrap();
    let (wanted, counted) = match expected {
        Expected::Pass | Expected::SocketOrPass => (Action::Pass, None),
        Expected::Socket => (Action::Drop, Some(DropReason::NoSocket)),
        Expected::Drop(reason) => (Action::Drop, Some(reason)),
    };
    let outcome = moved(&before, &after);
    assert_eq!(
        (action, outcome.as_slice()),
        (wanted, [counted].as_slice()),
        "{what}: {}",
        hex(frame)
    );
    assert_eq!(after.seen.packets - before.seen.packets, 1, "{what}");
    assert_eq!(
        after.seen.bytes - before.seen.bytes,
        frame.len() as u64,
        "{what}"
    );
    let bytes = |counters: &Counters| match counted {
        Some(reason) => counters.dropped(reason).bytes,
        None => counters.passed.bytes,
    };
    assert_eq!(bytes(&after) - bytes(&before), frame.len() as u64, "{what}");
}

/// Each outcome that was counted between two readings: `None` for passed, a reason for dropped.
fn moved(before: &Counters, after: &Counters) -> Vec<Option<DropReason>> {
    assert_eq!(
        after.redirected, before.redirected,
        "nothing can be redirected without a socket"
    );
    let passed = after.passed.packets - before.passed.packets;
    let mut all = vec![None; usize::try_from(passed).unwrap()];
    for ((reason, now), (_, then)) in after.drops().zip(before.drops()) {
        for _ in then.packets..now.packets {
            all.push(Some(reason));
        }
    }
    all
}

fn hex(frame: &[u8]) -> String {
    format!("{frame:02x?}")
}

fn v4(dst: &str) -> PacketBuilder {
    PacketBuilder::between("10.9.8.7", dst)
        .macs(PEER_MAC, PORT_MAC)
        .syn(40_000, 80)
}

fn v6(dst: &str) -> PacketBuilder {
    PacketBuilder::between("2001:db8:ffff::7", dst)
        .macs(PEER_MAC, PORT_MAC)
        .syn(40_000, 80)
}

fn arp_request(target: &str) -> Vec<u8> {
    let mut frame = vec![0u8; arp::FRAME_LEN];
    let address = target.parse().unwrap();
    arp::request(&mut frame, PEER_MAC, "192.0.2.9".parse().unwrap(), address).unwrap();
    frame
}

/// A neighbour solicitation for `target`, sent to its solicited-node group.
fn solicitation(target: &str) -> Vec<u8> {
    let target: std::net::Ipv6Addr = target.parse().unwrap();
    let [.., x, y, z] = target.octets();
    let group = format!("ff02::1:ff{x:02x}:{y:02x}{z:02x}");
    let mut body = target.octets().to_vec();
    body.extend_from_slice(&[1, 1]);
    body.extend_from_slice(&PEER_MAC);
    PacketBuilder::between("fe80::7", &group)
        .macs(PEER_MAC, [0x33, 0x33, 0xff, x, y, z])
        .ttl(255)
        .icmp(135, 0, 0)
        .payload(&body)
        .build()
}

/// An ICMP error to `dst` about a packet that `dst` sent from `src_port`.
fn error_about(dst: &str, protocol: &str, src_port: u16) -> PacketBuilder {
    let is_v6 = dst.contains(':');
    let (router, far) = if is_v6 {
        ("2001:db8:ffff::1", "2001:db8:9::9")
    } else {
        ("10.9.9.9", "10.1.1.1")
    };
    let inner = PacketBuilder::between(dst, far);
    let inner = match protocol {
        "tcp" => inner.tcp(src_port, 80, tcp::ACK),
        "udp" => inner.udp(src_port, 53),
        _ => inner.icmp(if is_v6 { 128 } else { 8 }, 0, u32::from(src_port) << 16),
    };
    let (kind, code) = if is_v6 { (1, 4) } else { (3, 3) };
    PacketBuilder::between(router, dst)
        .macs(PEER_MAC, PORT_MAC)
        .icmp(kind, code, 0)
        .payload(&inner.build_ip())
}

type Case = (&'static str, Vec<u8>, Expected);

/// Frames whose outcome does not depend on transit.
#[expect(clippy::too_many_lines, reason = "a table")]
fn ours_and_the_kernels() -> Vec<Case> {
    use Expected::{Pass, Socket, SocketOrPass};
    let mut cases = vec![
        ("v4 VIP", v4("198.51.100.10").build(), Socket),
        (
            "v4 VIP, any port and protocol",
            v4("198.51.100.10").udp(1, 9).build(),
            Socket,
        ),
        (
            "v4 VIP, tagged",
            v4("198.51.100.10").vlan(100).build(),
            Socket,
        ),
        (
            "v4 VIP, echo",
            v4("198.51.100.10").icmp(8, 0, 1).build(),
            Socket,
        ),
        (
            "v4 VIP, with options",
            v4("198.51.100.10").options(&[0x94, 4, 0, 0]).build(),
            Socket,
        ),
        (
            "v4 VIP, later fragment",
            v4("198.51.100.10")
                .fragment(100, false)
                .payload(&[0; 64])
                .build(),
            Socket,
        ),
        (
            "v4 VIP, GRE",
            v4("198.51.100.10").protocol(47).payload(&[0; 32]).build(),
            Socket,
        ),
        ("inside a VIP block", v4("203.0.113.200").build(), Socket),
        (
            "v4 dedicated NAT address",
            v4("198.51.100.77").tcp(80, 1, tcp::ACK).build(),
            Socket,
        ),
        ("v4 kernel", v4("192.0.2.2").build(), Pass),
        ("v4 kernel, tagged", v4("192.0.2.2").vlan(7).build(), Pass),
        (
            "v4 kernel, NAT port range but no NAT address",
            v4("192.0.2.2").tcp(80, 25_000, tcp::ACK).build(),
            Pass,
        ),
        (
            "v4 kernel and NAT, first port",
            v4("192.0.2.1").tcp(80, 20_000, tcp::ACK).build(),
            SocketOrPass,
        ),
        (
            "v4 kernel and NAT, below",
            v4("192.0.2.1").tcp(80, 19_999, tcp::ACK).build(),
            Pass,
        ),
        (
            "v4 kernel and NAT, echo",
            v4("192.0.2.1").icmp(8, 0, 1).build(),
            Pass,
        ),
        (
            "v4 multicast",
            v4("224.0.0.5")
                .macs(PEER_MAC, [1, 0, 0x5e, 0, 0, 5])
                .udp(1, 2)
                .build(),
            Pass,
        ),
        (
            "v4 broadcast",
            v4("255.255.255.255")
                .macs(PEER_MAC, [0xff; 6])
                .udp(68, 67)
                .build(),
            Pass,
        ),
        ("v6 VIP", v6("2001:db8:1::10").build(), Socket),
        (
            "v6 VIP, tagged",
            v6("2001:db8:1::10").vlan(100).udp(1, 9).build(),
            Socket,
        ),
        (
            "v6 VIP behind extension headers",
            v6("2001:db8:1::10")
                .extension(0, &[5, 2, 0, 0])
                .extension(60, &[1, 2])
                .build(),
            Socket,
        ),
        (
            "v6 VIP, fragment",
            v6("2001:db8:1::10")
                .fragment(9, true)
                .payload(&[0; 64])
                .build(),
            Socket,
        ),
        (
            "inside a v6 VIP block",
            v6("2001:db8:2::dead").build(),
            Socket,
        ),
        (
            "v6 dedicated NAT address",
            v6("2001:db8:1::77").tcp(80, 1, tcp::ACK).build(),
            Socket,
        ),
        ("v6 kernel", v6("2001:db8::1").build(), Pass),
        ("v6 link-local", v6("fe80::1").udp(1, 2).build(), Pass),
        (
            "v6 kernel and NAT, last port",
            v6("2001:db8::1").udp(80, 32_767).build(),
            SocketOrPass,
        ),
        (
            "v6 kernel and NAT, above",
            v6("2001:db8::1").udp(80, 32_768).build(),
            Pass,
        ),
        (
            "v6 multicast",
            v6("ff02::5")
                .macs(PEER_MAC, [0x33, 0x33, 0, 0, 0, 5])
                .udp(1, 2)
                .build(),
            Pass,
        ),
        ("ARP for a VIP", arp_request("198.51.100.10"), Socket),
        ("ARP inside a VIP block", arp_request("203.0.113.1"), Socket),
        (
            "ARP for a dedicated NAT address",
            arp_request("198.51.100.77"),
            Socket,
        ),
        ("ARP for the kernel", arp_request("192.0.2.1"), Pass),
        ("ARP for a stranger", arp_request("192.0.2.200"), Pass),
        ("ND for a VIP", solicitation("2001:db8:1::10"), Socket),
        (
            "ND for a dedicated NAT address",
            solicitation("2001:db8:1::77"),
            Socket,
        ),
        ("ND for the kernel", solicitation("2001:db8::1"), Pass),
        ("ND for a stranger", solicitation("2001:db8::99"), Pass),
    ];
    for (address, alone) in [
        ("192.0.2.1", false),
        ("2001:db8::1", false),
        ("198.51.100.77", true),
    ] {
        let to_us = if alone { Socket } else { SocketOrPass };
        let to_kernel = if alone { Socket } else { Pass };
        cases.push((
            "error about a flow, TCP",
            error_about(address, "tcp", 20_001).build(),
            to_us,
        ));
        cases.push((
            "error about a flow, UDP",
            error_about(address, "udp", 32_767).build(),
            to_us,
        ));
        cases.push((
            "error about the kernel's own",
            error_about(address, "tcp", 50_000).build(),
            to_kernel,
        ));
        cases.push((
            "error about a ping",
            error_about(address, "icmp", 20_001).build(),
            to_kernel,
        ));
    }
    let mut lldp = vec![0x01, 0x80, 0xc2, 0, 0, 0x0e, 2, 0, 0, 0, 0, 1, 0x88, 0xcc];
    lldp.resize(60, 0);
    cases.push(("LLDP", lldp, Pass));
    cases
}

/// Frames that are dropped whoever they are for.
#[allow(clippy::too_many_lines, reason = "a table")]
fn impossible() -> Vec<Case> {
    let vip = || v4("198.51.100.10");
    let vip6 = || v6("2001:db8:1::10");
    let to_stranger = vip().macs(PEER_MAC, [2, 9, 9, 9, 9, 9]);
    let mut bad_version = vip().build();
    bad_version[14] = 0x65;
    let mut bad_ihl = vip().build();
    bad_ihl[14] = 0x44;
    let mut cut = vip().payload(&[7; 400]).build();
    cut.truncate(200);
    let bad_arp = {
        let mut frame = arp_request("192.0.2.1");
        frame[21] = 9;
        frame
    };
    let cases: Vec<(&'static str, Vec<u8>, DropReason)> = vec![
        ("another MAC", to_stranger.build(), DropReason::WrongMac),
        ("runt", vip().build()[..20].to_vec(), DropReason::Runt),
        ("two tags", vip().vlan(1).vlan(2).build(), DropReason::QinQ),
        (
            "service tag",
            vip().tag(ethernet::SERVICE_VLAN, 1).build(),
            DropReason::QinQ,
        ),
        ("version", bad_version, DropReason::BadIpVersion),
        ("IHL", bad_ihl, DropReason::BadIhl),
        ("cut", cut, DropReason::Truncated),
        (
            "header checksum",
            vip().header_checksum(Checksum::Wrong).build(),
            DropReason::BadIpChecksum,
        ),
        ("null", vip().tcp(1, 2, 0).build(), DropReason::TcpNull),
        ("xmas", vip().tcp(1, 2, 0x29).build(), DropReason::TcpXmas),
        (
            "SYN and FIN",
            vip6().tcp(1, 2, 0x03).build(),
            DropReason::TcpSynFin,
        ),
        (
            "land",
            PacketBuilder::between("198.51.100.10", "198.51.100.10")
                .macs(PEER_MAC, PORT_MAC)
                .build(),
            DropReason::Land,
        ),
        (
            "land in IPv6",
            PacketBuilder::between("2001:db8:1::10", "2001:db8:1::10")
                .macs(PEER_MAC, PORT_MAC)
                .build(),
            DropReason::Land,
        ),
        ("ARP of another kind", bad_arp, DropReason::BadArp),
        (
            "kernel's address, impossible flags",
            v4("192.0.2.2").tcp(1, 2, 0).build(),
            DropReason::TcpNull,
        ),
    ];
    cases
        .into_iter()
        .map(|(what, frame, reason)| (what, frame, Expected::Drop(reason)))
        .collect()
}

#[test]
fn every_frame_goes_where_it_belongs() {
    for transit in [Transit::Denied, Transit::Judged] {
        let steering = steering(transit);
        for (what, frame, expected) in ours_and_the_kernels().into_iter().chain(impossible()) {
            check(&steering, what, &frame, expected);
        }
    }
}

/// Options and extension headers are userspace's to judge, right or wrong, for whomever they are; groups are the kernel's.
#[test]
fn options_and_extension_headers_go_to_userspace() {
    let steering = steering(Transit::Denied);
    let source_route: &[u8] = &[131, 7, 4, 1, 2, 3, 4];
    for address in ["198.51.100.10", "10.20.30.40"] {
        let frame = v4(address).options(source_route).build();
        check(&steering, address, &frame, Expected::Socket);
    }
    for address in ["2001:db8:1::10", "2001:db8:7::1"] {
        for (number, body) in [(43, [0, 1]), (60, [1, 2]), (0, [5, 2])] {
            let frame = v6(address).extension(number, &body).build();
            check(&steering, address, &frame, Expected::Socket);
        }
    }
    let kernels = v4("192.0.2.2").options(source_route).build();
    check(&steering, "kernel's", &kernels, Expected::SocketOrPass);
    let report = v6("ff02::16").extension(0, &[5, 2, 0, 0]).build();
    check(&steering, "MLD", &report, Expected::Pass);
}

#[test]
fn the_rest_is_transit_where_rules_allow_any() {
    let rest = [
        v4("10.20.30.40").build(),
        v4("10.20.30.40").vlan(5).build(),
        v6("2001:db8:7::1").build(),
    ];
    let denied = steering(Transit::Denied);
    for frame in &rest {
        check(
            &denied,
            "denied",
            frame,
            Expected::Drop(DropReason::NoService),
        );
    }
    let judged = steering(Transit::Judged);
    for frame in &rest {
        check(&judged, "judged", frame, Expected::Socket);
    }
}

#[test]
fn nothing_published_passes_everything() {
    let steering = Steering::load().unwrap();
    for (what, frame, _) in ours_and_the_kernels().into_iter().chain(impossible()) {
        check(&steering, what, &frame, Expected::Pass);
    }
}

#[test]
fn publishing_replaces_everything() {
    let mut steering = steering(Transit::Judged);
    let vip = v4("198.51.100.10").build();
    check(&steering, "before", &vip, Expected::Socket);
    let only_kernel = AddressSet {
        kernel: vec!["198.51.100.10".parse().unwrap()],
        ..AddressSet::default()
    };
    steering.publish(&only_kernel).unwrap();
    check(&steering, "now the kernel's", &vip, Expected::Pass);
    check(
        &steering,
        "no longer transit",
        &v4("10.20.30.40").build(),
        Expected::Drop(DropReason::NoService),
    );
    steering.publish(&AddressSet::default()).unwrap();
    check(
        &steering,
        "nobody's",
        &vip,
        Expected::Drop(DropReason::NoService),
    );
}

#[test]
fn every_prefix_of_every_frame_is_decided_as_the_parser_says() {
    let steering = steering(Transit::Judged);
    for (what, frame, _) in ours_and_the_kernels().into_iter().chain(impossible()) {
        for len in ethernet::HEADER_LEN..frame.len() {
            let cut = &frame[..len];
            let before = steering.counters().unwrap();
            steering.dry_run(cut).unwrap();
            let outcome = moved(&before, &steering.counters().unwrap());
            assert_eq!(outcome.len(), 1, "{what}, {len} bytes");
            let verdict = march_wire::parse(cut).and_then(|packet| match packet {
                march_wire::Packet::Arp(link) => arp::parse(cut, &link).map(|_| ()),
                _ => Ok(()),
            });
            if let Err(reason) = verdict {
                assert_eq!(outcome, [Some(reason)], "{what}, {len} bytes");
            } else {
                assert!(
                    matches!(
                        outcome[0],
                        None | Some(DropReason::NoSocket | DropReason::WrongMac)
                    ),
                    "{what}, {len} bytes: {outcome:?}"
                );
            }
        }
    }
}
