//! Builds packets for tests and tools: right by default, wrong where asked.
//!
//! Not for the data path: it allocates, and it computes every checksum in full.

use alloc::vec;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::checksum;
use crate::ethernet::{self, Mac};
use crate::ip;
use crate::tcp;

/// What to write into a checksum field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// The right one.
    Right,
    /// One that does not fit.
    Wrong,
    /// The pseudo-header sum only, as a kernel leaves it for hardware to complete. TCP and UDP.
    Partial,
    /// Zero: "none" in UDP over IPv4.
    Zero,
}

#[derive(Clone, Debug)]
enum Transport {
    Tcp {
        src_port: u16,
        dst_port: u16,
        flags: u8,
        sequence: u32,
        acknowledgement: u32,
        options: Vec<u8>,
    },
    Udp {
        src_port: u16,
        dst_port: u16,
    },
    Icmp {
        kind: u8,
        code: u8,
        rest: u32,
    },
    Raw {
        protocol: u8,
    },
}

/// A packet in the making. Every method replaces one property; [`PacketBuilder::build`] gives the frame.
#[derive(Clone, Debug)]
pub struct PacketBuilder {
    src: IpAddr,
    dst: IpAddr,
    src_mac: Mac,
    dst_mac: Mac,
    tags: Vec<(u16, u16)>,
    ttl: u8,
    tos: u8,
    options: Vec<u8>,
    extensions: Vec<(u8, Vec<u8>)>,
    fragment: Option<(u16, bool)>,
    transport: Transport,
    payload: Vec<u8>,
    header_checksum: Checksum,
    l4_checksum: Checksum,
    padded_to: usize,
}

impl PacketBuilder {
    /// An IPv4 or IPv6 packet between two addresses of one family: UDP from port 1 to port 2 unless said otherwise.
    ///
    /// # Panics
    /// If the families differ.
    pub fn new<T: Into<IpAddr>>(src: T, dst: T) -> PacketBuilder {
        let (src, dst) = (src.into(), dst.into());
        assert_eq!(
            src.is_ipv4(),
            dst.is_ipv4(),
            "{src} and {dst} are of different families"
        );
        PacketBuilder {
            src,
            dst,
            src_mac: [2, 0, 0, 0, 0, 1],
            dst_mac: [2, 0, 0, 0, 0, 2],
            tags: Vec::new(),
            ttl: 64,
            tos: 0,
            options: Vec::new(),
            extensions: Vec::new(),
            fragment: None,
            transport: Transport::Udp {
                src_port: 1,
                dst_port: 2,
            },
            payload: Vec::new(),
            header_checksum: Checksum::Right,
            l4_checksum: Checksum::Right,
            padded_to: 0,
        }
    }

    /// [`PacketBuilder::new`] from text.
    ///
    /// # Panics
    /// If either is not an address, or the families differ.
    pub fn between(src: &str, dst: &str) -> PacketBuilder {
        let address = |text: &str| -> IpAddr { text.parse().expect("an IP address") };
        PacketBuilder::new(address(src), address(dst))
    }

    /// True between IPv4 addresses.
    pub fn is_ipv4(&self) -> bool {
        self.src.is_ipv4()
    }

    /// MAC addresses.
    #[must_use]
    pub fn macs(mut self, src: Mac, dst: Mac) -> Self {
        (self.src_mac, self.dst_mac) = (src, dst);
        self
    }

    /// Adds an 802.1Q tag behind those there are.
    #[must_use]
    pub fn vlan(self, tci: u16) -> Self {
        self.tag(ethernet::VLAN, tci)
    }

    /// Adds a tag of any type behind those there are.
    #[must_use]
    pub fn tag(mut self, ethertype: u16, tci: u16) -> Self {
        self.tags.push((ethertype, tci));
        self
    }

    /// TTL or hop limit.
    #[must_use]
    pub fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    /// TOS or traffic class.
    #[must_use]
    pub fn tos(mut self, tos: u8) -> Self {
        self.tos = tos;
        self
    }

    /// IPv4 options, padded to a multiple of four bytes.
    #[must_use]
    pub fn options(mut self, options: &[u8]) -> Self {
        self.options = padded(options, 4);
        self
    }

    /// Adds an IPv6 extension header: its number, and its bytes from the third on (padded to a multiple of eight in all).
    #[must_use]
    pub fn extension(mut self, number: u8, body: &[u8]) -> Self {
        self.extensions.push((number, body.to_vec()));
        self
    }

    /// Makes it a fragment: offset in units of eight bytes, and whether more follow.
    #[must_use]
    pub fn fragment(mut self, offset: u16, more: bool) -> Self {
        self.fragment = Some((offset, more));
        self
    }

    /// TCP.
    #[must_use]
    pub fn tcp(mut self, src_port: u16, dst_port: u16, flags: u8) -> Self {
        let (sequence, acknowledgement, options) = (1, 0, Vec::new());
        self.transport = Transport::Tcp {
            src_port,
            dst_port,
            flags,
            sequence,
            acknowledgement,
            options,
        };
        self
    }

    /// Sequence and acknowledgement number of a TCP segment.
    #[must_use]
    pub fn numbers(mut self, new_sequence: u32, new_acknowledgement: u32) -> Self {
        if let Transport::Tcp {
            sequence,
            acknowledgement,
            ..
        } = &mut self.transport
        {
            (*sequence, *acknowledgement) = (new_sequence, new_acknowledgement);
        }
        self
    }

    /// Options of a TCP segment, padded to a multiple of four bytes.
    #[must_use]
    pub fn tcp_options(mut self, bytes: &[u8]) -> Self {
        if let Transport::Tcp { options, .. } = &mut self.transport {
            *options = padded(bytes, 4);
        }
        self
    }

    /// UDP.
    #[must_use]
    pub fn udp(mut self, src_port: u16, dst_port: u16) -> Self {
        self.transport = Transport::Udp { src_port, dst_port };
        self
    }

    /// ICMP or ICMPv6: type, code and the four bytes behind the checksum.
    #[must_use]
    pub fn icmp(mut self, kind: u8, code: u8, rest: u32) -> Self {
        self.transport = Transport::Icmp { kind, code, rest };
        self
    }

    /// Any other protocol: the payload is all there is.
    #[must_use]
    pub fn protocol(mut self, protocol: u8) -> Self {
        self.transport = Transport::Raw { protocol };
        self
    }

    /// What follows the L4 header.
    #[must_use]
    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    /// What the IPv4 header checksum is.
    #[must_use]
    pub fn header_checksum(mut self, checksum: Checksum) -> Self {
        self.header_checksum = checksum;
        self
    }

    /// What the L4 checksum is.
    #[must_use]
    pub fn l4_checksum(mut self, checksum: Checksum) -> Self {
        self.l4_checksum = checksum;
        self
    }

    /// Pads the frame with zeros to at least this many bytes.
    #[must_use]
    pub fn padded_to(mut self, len: usize) -> Self {
        self.padded_to = len;
        self
    }

    /// The frame.
    ///
    /// # Panics
    /// If a length does not fit its field.
    pub fn build(&self) -> Vec<u8> {
        let packet = self.build_ip();
        let mut frame = Vec::with_capacity(packet.len() + 22);
        frame.extend_from_slice(&self.dst_mac);
        frame.extend_from_slice(&self.src_mac);
        for (ethertype, tci) in &self.tags {
            frame.extend_from_slice(&ethertype.to_be_bytes());
            frame.extend_from_slice(&tci.to_be_bytes());
        }
        let ethertype = if self.src.is_ipv4() {
            ethernet::IPV4
        } else {
            ethernet::IPV6
        };
        frame.extend_from_slice(&ethertype.to_be_bytes());
        frame.extend_from_slice(&packet);
        if frame.len() < self.padded_to {
            frame.resize(self.padded_to, 0);
        }
        frame
    }

    /// The IP packet alone: what an ICMP error quotes.
    ///
    /// # Panics
    /// If a length does not fit its field.
    pub fn build_ip(&self) -> Vec<u8> {
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => self.ipv4(src, dst),
            (IpAddr::V6(src), IpAddr::V6(dst)) => self.ipv6(src, dst),
            _ => unreachable!("checked by `new`"),
        }
    }

    fn ipv4(&self, src: Ipv4Addr, dst: Ipv4Addr) -> Vec<u8> {
        let (protocol, segment) = self.segment(|protocol, len| pseudo(src, dst, protocol, len), 0);
        let header_len = 20 + self.options.len();
        let total = u16::try_from(header_len + segment.len()).expect("an IPv4 length");
        let (offset, more) = self.fragment.unwrap_or((0, false));
        let field = offset | if more { 0x2000 } else { 0 };
        let words = u8::try_from(header_len / 4).expect("a header length");
        let mut packet = vec![0x40 | words, self.tos];
        packet.extend_from_slice(&total.to_be_bytes());
        packet.extend_from_slice(&[0x12, 0x34]);
        packet.extend_from_slice(&field.to_be_bytes());
        packet.extend_from_slice(&[self.ttl, protocol, 0, 0]);
        packet.extend_from_slice(&src.octets());
        packet.extend_from_slice(&dst.octets());
        packet.extend_from_slice(&self.options);
        let right = checksum::checksum(&packet);
        let field = match self.header_checksum {
            Checksum::Right | Checksum::Partial => right,
            Checksum::Wrong => right ^ 0x0101,
            Checksum::Zero => 0,
        };
        packet[10..12].copy_from_slice(&field.to_ne_bytes());
        packet.extend_from_slice(&segment);
        packet
    }

    fn ipv6(&self, src: Ipv6Addr, dst: Ipv6Addr) -> Vec<u8> {
        let icmp_pseudo = 1;
        let (protocol, segment) =
            self.segment(|protocol, len| pseudo(src, dst, protocol, len), icmp_pseudo);
        let mut extensions = self.extensions.clone();
        if let Some((offset, more)) = self.fragment {
            let field = (offset << 3 | u16::from(more)).to_be_bytes();
            extensions.push((ip::FRAGMENT, vec![field[0], field[1], 0, 0, 0, 1]));
        }
        let mut chain = Vec::new();
        for (index, (number, body)) in extensions.iter().enumerate() {
            let next = extensions
                .get(index + 1)
                .map_or(protocol, |(number, _)| *number);
            let mut header = vec![next, 0];
            header.extend_from_slice(body);
            let mut header = padded(&header, 8);
            if *number != ip::FRAGMENT {
                header[1] = u8::try_from(header.len() / 8 - 1).expect("an extension header length");
            }
            chain.extend_from_slice(&header);
        }
        let first = extensions.first().map_or(protocol, |(number, _)| *number);
        let payload_len = u16::try_from(chain.len() + segment.len()).expect("an IPv6 length");
        let mut packet = vec![0x60 | self.tos >> 4, self.tos << 4, 0, 0];
        packet.extend_from_slice(&payload_len.to_be_bytes());
        packet.extend_from_slice(&[first, self.ttl]);
        packet.extend_from_slice(&src.octets());
        packet.extend_from_slice(&dst.octets());
        packet.extend_from_slice(&chain);
        packet.extend_from_slice(&segment);
        packet
    }

    /// Protocol number and L4 bytes. `icmp_pseudo` is 1 where ICMP sums a pseudo-header.
    fn segment(&self, pseudo: impl Fn(u8, usize) -> u32, icmp_pseudo: u32) -> (u8, Vec<u8>) {
        let later = self.fragment.is_some_and(|(offset, _)| offset > 0);
        let (protocol, mut header, field, pseudo_factor) = self.l4_header(icmp_pseudo);
        if later {
            header.clear();
        }
        let mut segment = header;
        segment.extend_from_slice(&self.payload);
        if let Some(field) = field.filter(|_| !later) {
            let pseudo = checksum::fold(pseudo(protocol, segment.len()) * pseudo_factor);
            let data = checksum::sum(&segment);
            let right = !checksum::fold(u32::from(data) + u32::from(pseudo));
            let right = if protocol == ip::UDP {
                checksum::never_zero(right)
            } else {
                right
            };
            let value = match self.l4_checksum {
                Checksum::Right => right,
                Checksum::Wrong => right ^ 0x0101,
                Checksum::Partial => pseudo,
                Checksum::Zero => 0,
            };
            segment[field..field + 2].copy_from_slice(&value.to_ne_bytes());
        }
        (protocol, segment)
    }

    fn l4_header(&self, icmp_pseudo: u32) -> (u8, Vec<u8>, Option<usize>, u32) {
        match &self.transport {
            Transport::Tcp {
                src_port,
                dst_port,
                flags,
                sequence,
                acknowledgement,
                options,
            } => {
                let words = u8::try_from(5 + options.len() / 4).expect("a data offset");
                let mut header = Vec::new();
                header.extend_from_slice(&src_port.to_be_bytes());
                header.extend_from_slice(&dst_port.to_be_bytes());
                header.extend_from_slice(&sequence.to_be_bytes());
                header.extend_from_slice(&acknowledgement.to_be_bytes());
                header.extend_from_slice(&[words << 4, *flags, 0xff, 0xff, 0, 0, 0, 0]);
                header.extend_from_slice(options);
                (ip::TCP, header, Some(16), 1)
            }
            Transport::Udp { src_port, dst_port } => {
                let len = u16::try_from(8 + self.payload.len()).expect("a UDP length");
                let mut header = Vec::new();
                header.extend_from_slice(&src_port.to_be_bytes());
                header.extend_from_slice(&dst_port.to_be_bytes());
                header.extend_from_slice(&len.to_be_bytes());
                header.extend_from_slice(&[0, 0]);
                (ip::UDP, header, Some(6), 1)
            }
            Transport::Icmp { kind, code, rest } => {
                let protocol = if self.src.is_ipv4() {
                    ip::ICMP
                } else {
                    ip::ICMPV6
                };
                let mut header = vec![*kind, *code, 0, 0];
                header.extend_from_slice(&rest.to_be_bytes());
                (protocol, header, Some(2), icmp_pseudo)
            }
            Transport::Raw { protocol } => (*protocol, Vec::new(), None, 0),
        }
    }

    /// A SYN: shorthand for a TCP segment that opens a connection.
    #[must_use]
    pub fn syn(self, src_port: u16, dst_port: u16) -> Self {
        self.tcp(src_port, dst_port, tcp::SYN)
    }
}

fn pseudo<A: crate::tuple::Address>(src: A, dst: A, protocol: u8, len: usize) -> u32 {
    checksum::pseudo_header(src, dst, protocol, u32::try_from(len).expect("a length"))
}

fn padded(bytes: &[u8], unit: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes.resize(bytes.len().next_multiple_of(unit), 0);
    bytes
}
