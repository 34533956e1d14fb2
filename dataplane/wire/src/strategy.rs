//! Generated packets, and a buffer to change them in. Tests only.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::vec;
use std::vec::Vec;

use proptest::collection;
use proptest::prelude::*;

use crate::Buffer;
use crate::build::PacketBuilder;
use crate::tcp;

/// A frame with room on both sides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    memory: Vec<u8>,
    start: usize,
    end: usize,
}

const ROOM: usize = 128;

impl Frame {
    pub fn new(bytes: &[u8]) -> Frame {
        let mut memory = vec![0xee; ROOM];
        memory.extend_from_slice(bytes);
        memory.extend_from_slice(&[0xee; ROOM]);
        Frame {
            memory,
            start: ROOM,
            end: ROOM + bytes.len(),
        }
    }
}

impl Buffer for Frame {
    fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.end]
    }
    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.end]
    }
    fn headroom(&self) -> usize {
        self.start
    }
    fn tailroom(&self) -> usize {
        self.memory.len() - self.end
    }
    fn prepend(&mut self, count: usize) -> bool {
        if count > self.start {
            return false;
        }
        self.start -= count;
        true
    }
    fn resize(&mut self, len: usize) -> bool {
        if self.start + len > self.memory.len() {
            return false;
        }
        self.end = self.start + len;
        true
    }
}

/// What is above IP.
#[derive(Clone, Debug)]
pub enum Above {
    Tcp {
        src: u16,
        dst: u16,
        flags: u8,
        sequence: u32,
        acknowledgement: u32,
        options: Vec<u8>,
    },
    Udp {
        src: u16,
        dst: u16,
    },
    Echo {
        id: u16,
    },
    Other {
        protocol: u8,
    },
}

impl Above {
    fn put(&self, packet: PacketBuilder, is_v4: bool) -> PacketBuilder {
        match self {
            Above::Tcp {
                src,
                dst,
                flags,
                sequence,
                acknowledgement,
                options,
            } => packet
                .tcp(*src, *dst, *flags)
                .numbers(*sequence, *acknowledgement)
                .tcp_options(options),
            Above::Udp { src, dst } => packet.udp(*src, *dst),
            Above::Echo { id } => {
                packet.icmp(if is_v4 { 8 } else { 128 }, 0, u32::from(*id) << 16 | 1)
            }
            Above::Other { protocol } => packet.protocol(*protocol),
        }
    }
}

/// TCP flags that pass the check.
pub fn good_flags() -> impl Strategy<Value = u8> {
    any::<u8>().prop_filter("possible flags", |flags| tcp::check_flags(*flags).is_ok())
}

pub fn tcp_or_udp() -> impl Strategy<Value = Above> {
    let options = collection::vec(any::<u8>(), 0..=40);
    let tcp = (
        any::<u16>(),
        any::<u16>(),
        good_flags(),
        any::<u32>(),
        any::<u32>(),
        options,
    )
        .prop_map(
            |(src, dst, flags, sequence, acknowledgement, options)| Above::Tcp {
                src,
                dst,
                flags,
                sequence,
                acknowledgement,
                options,
            },
        );
    let udp = (any::<u16>(), any::<u16>()).prop_map(|(src, dst)| Above::Udp { src, dst });
    prop_oneof![tcp, udp]
}

fn above() -> impl Strategy<Value = Above> {
    prop_oneof![
        4 => tcp_or_udp(),
        1 => any::<u16>().prop_map(|id| Above::Echo { id }),
        1 => prop_oneof![Just(47u8), Just(50), Just(132), Just(253)].prop_map(|protocol| Above::Other { protocol }),
    ]
}

/// Addresses of one family, never the same twice.
pub fn between() -> impl Strategy<Value = PacketBuilder> {
    let v4 = (any::<u32>(), any::<u32>())
        .prop_filter("land", |(src, dst)| src != dst)
        .prop_map(|(src, dst)| {
            PacketBuilder::new(Ipv4Addr::from_bits(src), Ipv4Addr::from_bits(dst))
        });
    let v6 = (any::<u128>(), any::<u128>())
        .prop_filter("land", |(src, dst)| src != dst)
        .prop_map(|(src, dst)| {
            PacketBuilder::new(Ipv6Addr::from_bits(src), Ipv6Addr::from_bits(dst))
        });
    prop_oneof![v4, v6]
}

/// Whole TCP and UDP packets without tag, options or extension headers, TTL above 1: the hot path's shape.
pub fn plain() -> impl Strategy<Value = PacketBuilder> {
    (
        between(),
        tcp_or_udp(),
        2..=255u8,
        any::<u8>(),
        collection::vec(any::<u8>(), 0..100),
        0..80usize,
    )
        .prop_map(|(packet, above, ttl, tos, payload, padded_to)| {
            let packet = packet
                .ttl(ttl)
                .tos(tos)
                .payload(&payload)
                .padded_to(padded_to);
            let is_v4 = packet.is_ipv4();
            above.put(packet, is_v4)
        })
}

/// Whole packets that pass every check, with everything that a header may have.
pub fn whole() -> impl Strategy<Value = PacketBuilder> {
    let options = prop_oneof![
        3 => Just(Vec::new()),
        1 => collection::vec(Just(1u8), 1..=40),
        1 => Just(vec![0x94, 4, 0, 0]),
        1 => (3..=37u8).prop_map(|len| {
            let mut option = vec![7, len, 4];
            option.resize(usize::from(len), 0);
            option
        }),
    ];
    let extension = (
        prop_oneof![Just(60u8), Just(43)],
        collection::vec(any::<u8>(), 6..40),
    )
        .prop_map(|(number, mut body)| {
            // Routing type 2, which nothing here objects to.
            body[0] = 2;
            (number, body)
        });
    let extensions = (any::<bool>(), collection::vec(extension, 0..=7));
    let padding = prop_oneof![Just(0usize), Just(60), Just(200)];
    (
        (
            between(),
            above(),
            any::<u8>(),
            any::<u8>(),
            proptest::option::of(any::<u16>()),
        ),
        (
            collection::vec(any::<u8>(), 0..200),
            options,
            extensions,
            padding,
        ),
    )
        .prop_map(
            |(
                (packet, above, ttl, tos, vlan),
                (payload, options, (hop_by_hop, extensions), padded_to),
            )| {
                let is_v4 = packet.is_ipv4();
                let mut packet = packet
                    .ttl(ttl)
                    .tos(tos)
                    .payload(&payload)
                    .padded_to(padded_to);
                if let Some(tci) = vlan {
                    packet = packet.vlan(tci);
                }
                if is_v4 {
                    packet = packet.options(&options);
                } else {
                    if hop_by_hop {
                        packet = packet.extension(0, &[5, 2, 0, 0, 1, 0]);
                    }
                    for (number, body) in extensions {
                        packet = packet.extension(number, &body);
                    }
                }
                above.put(packet, is_v4)
            },
        )
}

/// Frames near a valid one: some bytes overwritten, the end cut.
pub fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let damage = collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..6);
    (
        whole(),
        damage,
        any::<proptest::sample::Index>(),
        any::<bool>(),
    )
        .prop_map(|(packet, damage, cut, cuts)| {
            let mut frame = packet.build();
            for (at, value) in damage {
                let at = at.index(frame.len().min(100));
                frame[at] = value;
            }
            if cuts {
                frame.truncate(cut.index(frame.len()));
            }
            frame
        })
}
