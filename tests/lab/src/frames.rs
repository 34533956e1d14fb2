//! Frames that no well-behaved stack would send, from a packet socket in the client's namespace.
//!
//! `lab frames INTERFACE` sends every frame of [`all`] a number of times and prints how many frames went out. Each frame names what the
//! data plane must do with it: a drop reason, or that it is none.

use anyhow::{Context, Result, bail};
use march_wire::DropReason;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, bind, send, socket,
};

use crate::topology::{CLIENT4, CLIENT6, VIP4, VIP6};

/// MAC address of the proxy's port towards the client, as [`crate::topology`] sets it.
pub const PROXY_MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];
/// MAC address of the client.
pub const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 1, 2];

/// One frame and what must become of it.
#[derive(Clone, Debug)]
pub struct Frame {
    /// What is odd about it.
    pub what: &'static str,
    /// The bytes, without FCS.
    pub bytes: Vec<u8>,
    /// The reason it must be dropped for; `None` when it is carried, answered or left to the kernel.
    pub drop: Option<DropReason>,
}

/// Frames of every kind, IPv4 and IPv6, well-formed and not.
pub fn all() -> Vec<Frame> {
    let good = udp4(b"mixed");
    let mut frames = vec![
        Frame {
            what: "UDP for a service",
            bytes: good.clone(),
            drop: None,
        },
        Frame {
            what: "UDP for a service, IPv6",
            bytes: udp6(b"mixed"),
            drop: None,
        },
        Frame {
            what: "UDP for a port without a service",
            bytes: with_udp_port(4242),
            drop: Some(DropReason::NoService),
        },
        Frame {
            what: "source route option",
            bytes: source_route(),
            drop: Some(DropReason::SourceRoute),
        },
        Frame {
            what: "TCP without a flag",
            bytes: tcp4(0),
            drop: Some(DropReason::TcpNull),
        },
        Frame {
            what: "TCP with FIN, PSH, URG",
            bytes: tcp4(0x29),
            drop: Some(DropReason::TcpXmas),
        },
        Frame {
            what: "TCP with SYN and FIN",
            bytes: tcp4(0x03),
            drop: Some(DropReason::TcpSynFin),
        },
        Frame {
            what: "an unknown Ethernet type",
            bytes: ethernet(0x88b5, &[0; 50]),
            drop: None,
        },
    ];
    frames.push(changed(
        &good,
        "bad IPv4 checksum",
        DropReason::BadIpChecksum,
        |bytes| bytes[24] ^= 0xff,
    ));
    frames.push(changed(
        &good,
        "header length below 20",
        DropReason::BadIhl,
        |bytes| bytes[14] = 0x44,
    ));
    frames.push(changed(
        &good,
        "IPv4 version 6",
        DropReason::BadIpVersion,
        |bytes| bytes[14] = 0x65,
    ));
    frames.push(resummed(
        &good,
        "total length beyond the frame",
        DropReason::Truncated,
        |bytes| bytes[16] = 0x40,
    ));
    frames.push(resummed(
        &good,
        "total length below the header",
        DropReason::BadIpLength,
        |bytes| bytes[17] = 10,
    ));
    frames.push(resummed(
        &good,
        "source is the destination",
        DropReason::Land,
        |bytes| bytes.copy_within(30..34, 26),
    ));
    frames.push(resummed(
        &good,
        "multicast source",
        DropReason::MartianSource,
        |bytes| bytes[26] = 224,
    ));
    frames.push(resummed(
        &good,
        "a fragment",
        DropReason::Fragment,
        |bytes| bytes[20] = 0x20,
    ));
    frames.push(changed(
        &good,
        "UDP length below 8",
        DropReason::BadUdpLength,
        |bytes| bytes[39] = 4,
    ));
    frames
}

fn ethernet(kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = [PROXY_MAC, CLIENT_MAC].concat();
    bytes.extend(kind.to_be_bytes());
    bytes.extend(payload);
    bytes
}

fn ipv4(protocol: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let header = 20 + options.len();
    let total = u16::try_from(header + payload.len()).expect("small");
    let mut bytes = vec![
        0x40 | u8::try_from(header / 4).expect("at most 60 bytes"),
        0,
    ];
    bytes.extend(total.to_be_bytes());
    bytes.extend([0, 7, 0, 0, 64, protocol, 0, 0]);
    bytes.extend(CLIENT4.octets());
    bytes.extend(VIP4.octets());
    bytes.extend(options);
    bytes.extend(payload);
    let mut frame = ethernet(0x0800, &bytes);
    sum_ipv4(&mut frame);
    frame
}

/// Writes the IPv4 header checksum of a frame.
fn sum_ipv4(frame: &mut [u8]) {
    let header = usize::from(frame[14] & 15).max(5) * 4;
    frame[24..26].fill(0);
    let sum = checksum(0, &frame[14..14 + header]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
}

fn checksum(start: u32, bytes: &[u8]) -> u16 {
    let mut sum = start;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded")
}

fn udp(port: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).expect("small");
    let mut bytes = 40_000u16.to_be_bytes().to_vec();
    bytes.extend(port.to_be_bytes());
    bytes.extend(length.to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(payload);
    bytes
}

/// A datagram to the echo service. Without a UDP checksum, which IPv4 allows.
fn udp4(payload: &[u8]) -> Vec<u8> {
    ipv4(17, &[], &udp(9000, payload))
}

fn with_udp_port(port: u16) -> Vec<u8> {
    ipv4(17, &[], &udp(port, b"nobody"))
}

fn udp6(payload: &[u8]) -> Vec<u8> {
    let mut datagram = udp(9000, payload);
    let length = u32::try_from(datagram.len()).expect("small");
    let mut pseudo = [CLIENT6.octets(), VIP6.octets()].concat();
    pseudo.extend(length.to_be_bytes());
    pseudo.extend([0, 0, 0, 17]);
    pseudo.extend(&datagram);
    let sum = checksum(0, &pseudo);
    datagram[6..8].copy_from_slice(&sum.to_be_bytes());
    let mut bytes = vec![0x60, 0, 0, 0];
    bytes.extend(u16::try_from(length).expect("small").to_be_bytes());
    bytes.extend([17, 64]);
    bytes.extend(CLIENT6.octets());
    bytes.extend(VIP6.octets());
    bytes.extend(datagram);
    ethernet(0x86dd, &bytes)
}

fn tcp4(flags: u8) -> Vec<u8> {
    let mut segment = 40_001u16.to_be_bytes().to_vec();
    segment.extend(80u16.to_be_bytes());
    segment.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    let mut pseudo = [CLIENT4.octets(), VIP4.octets()].concat();
    pseudo.extend([0, 6, 0, 20]);
    pseudo.extend(&segment);
    let sum = checksum(0, &pseudo);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    ipv4(6, &[], &segment)
}

fn source_route() -> Vec<u8> {
    // Loose source route with one address, then end of options.
    ipv4(17, &[131, 7, 4, 10, 0, 1, 11, 0], &udp(9000, b"routed"))
}

fn changed(
    frame: &[u8],
    what: &'static str,
    drop: DropReason,
    change: impl FnOnce(&mut Vec<u8>),
) -> Frame {
    let mut bytes = frame.to_vec();
    change(&mut bytes);
    Frame {
        what,
        bytes,
        drop: Some(drop),
    }
}

fn resummed(
    frame: &[u8],
    what: &'static str,
    drop: DropReason,
    change: impl FnOnce(&mut Vec<u8>),
) -> Frame {
    changed(frame, what, drop, |bytes| {
        change(bytes);
        sum_ipv4(bytes);
    })
}

/// Sends every frame `times` times out of `interface` of the present namespace.
pub fn send_all(interface: &str, times: u32) -> Result<()> {
    let address = nix::ifaddrs::getifaddrs()?
        .find_map(|entry| {
            entry.address.filter(|address| {
                entry.interface_name == interface && address.as_link_addr().is_some()
            })
        })
        .with_context(|| format!("no interface {interface}"))?;
    let socket = socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::empty(),
        SockProtocol::EthAll,
    )?;
    bind(std::os::fd::AsRawFd::as_raw_fd(&socket), &address)?;
    for _ in 0..times {
        for frame in all() {
            let sent = send(
                std::os::fd::AsRawFd::as_raw_fd(&socket),
                &frame.bytes,
                MsgFlags::empty(),
            )?;
            if sent != frame.bytes.len() {
                bail!("{}: {sent} of {} bytes sent", frame.what, frame.bytes.len());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn well_formed_frames_have_right_checksums() {
        for frame in [udp4(b"odd"), tcp4(2), source_route()] {
            let header = usize::from(frame[14] & 15) * 4;
            assert_eq!(
                checksum(0, &frame[14..14 + header]),
                0,
                "a header with its checksum sums to zero"
            );
        }
    }

    #[test]
    fn each_reason_is_asked_for_once() {
        let reasons: Vec<DropReason> = all().iter().filter_map(|frame| frame.drop).collect();
        let mut unique = reasons.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(unique.len(), reasons.len());
    }
}
