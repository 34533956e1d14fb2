//! Frames that no well-behaved stack would send, from a packet socket in the client's namespace.
//!
//! `lab frames INTERFACE` sends every frame of [`all`] a number of times and prints how many frames went out. Each frame names what the
//! data plane must do with it: a drop reason, or that it is none.

use std::fmt::Write as _;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use march_wire::DropReason;
use march_wire::build::PacketBuilder;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, bind, send, socket,
};

use pcap_file::pcap::{PcapPacket, PcapWriter};

use crate::topology::{CLIENT4, CLIENT6, DENIED4, ROUTED_VIP4, VIP4, VIP6, backend4};

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
    let socket = Raw::open(interface)?;
    for _ in 0..times {
        for frame in all() {
            socket.send(&frame.bytes).context(frame.what)?;
        }
    }
    Ok(())
}

/// Sends the frames of a file that [`write_hex`] wrote, at most so many per second.
pub fn replay(interface: &str, file: &Path, per_second: u32) -> Result<()> {
    let socket = Raw::open(interface)?;
    let pause = Duration::from_secs(1) / per_second.max(1);
    for line in std::fs::read_to_string(file)?.lines() {
        let digits: Option<Vec<u8>> = (0..line.len() / 2)
            .map(|at| u8::from_str_radix(line.get(2 * at..2 * at + 2)?, 16).ok())
            .collect();
        socket.send(&digits.context("not hexadecimal")?)?;
        std::thread::sleep(pause);
    }
    Ok(())
}

/// Writes frames as lines of hexadecimal digits.
pub fn write_hex(file: &Path, frames: &[Vec<u8>]) -> Result<()> {
    let mut text = String::new();
    for frame in frames {
        for byte in frame {
            write!(text, "{byte:02x}")?;
        }
        text.push('\n');
    }
    std::fs::write(file, text)?;
    Ok(())
}

/// Writes frames as a capture file.
pub fn write_pcap(file: &Path, frames: &[Vec<u8>]) -> Result<()> {
    let mut writer = PcapWriter::new(std::fs::File::create(file)?)?;
    for (number, frame) in (0..).zip(frames) {
        let length = u32::try_from(frame.len())?;
        writer.write_packet(&PcapPacket::new(
            Duration::from_millis(number),
            length,
            frame,
        ))?;
    }
    Ok(())
}

/// First packets of as many flows as there are packets, of many kinds and to many ends: the same ones each time.
pub fn random(count: usize) -> Vec<Vec<u8>> {
    let mut state = 0x6d61_7263_6870_7278_u64;
    let mut below = |bound: usize| {
        // xorshift64*: plenty for choosing packets.
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        let number = state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(number).expect("31 bits") % bound
    };
    let port_of = |number: usize| u16::try_from(number).unwrap_or(u16::MAX);
    (0..count)
        .map(|number| {
            // Every packet has a source port or identifier of its own, so that none belongs to another's flow.
            let source_port = port_of(20_000 + number * 11);
            let source = [CLIENT4, CLIENT4, DENIED4][below(3)];
            let port = [80, 81, 8081, 8181, 9000, 9001, 5100][below(7)];
            let destination = [VIP4, VIP4, ROUTED_VIP4, backend4(0), backend4(2)][below(5)];
            let packet = PacketBuilder::new(source, destination).macs(CLIENT_MAC, PROXY_MAC);
            let packet = match below(8) {
                0..=2 => packet.tcp(source_port, port, 2),
                3..=5 => packet.udp(source_port, port).payload(b"random"),
                6 => packet.icmp(8, 0, u32::from(source_port) << 16 | 1),
                _ => packet.tcp(source_port, port, 0x10),
            };
            let packet = if below(16) == 0 {
                packet.ttl(1)
            } else {
                packet
            };
            packet.padded_to(60).build()
        })
        .collect()
}

/// A packet socket on one interface.
pub(crate) struct Raw(OwnedFd);

impl Raw {
    /// Opens one in the present namespace.
    pub fn open(interface: &str) -> Result<Self> {
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
        bind(socket.as_raw_fd(), &address)?;
        Ok(Self(socket))
    }

    /// Sends a frame as it is.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        let sent = send(self.0.as_raw_fd(), frame, MsgFlags::empty())?;
        if sent != frame.len() {
            bail!("{sent} of {} bytes sent", frame.len());
        }
        Ok(())
    }
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
