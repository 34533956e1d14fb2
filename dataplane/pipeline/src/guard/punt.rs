//! What of the kernel's traffic may be how much: links, peers and connections that exist always get through, all else has a
//! bound. Without it a flood at the box's own address would fill the ring that carries BGP and ssh, and cost the kernel more
//! than all of forwarding.

use march_flow::{Rate, TokenBucket};
use march_wire::parse::L4;
use march_wire::{IpPacket, Packet, ip, tcp};

use crate::context::Now;

/// Packets per second and lcore that have no right to pass. New connections, datagrams and pings to the box itself: a router or
/// a busy console make tens of these a second, a health checker hundreds; a kernel takes a million. Some hundredths of that.
const PER_SECOND: u64 = 20_000;
/// How many of them at once: a tenth of a second's. The ring to the kernel has room for half as many beside those with a right.
const BURST: u64 = 2_000;

/// The bound on what has no right.
pub(crate) struct PuntShare {
    rate: Rate,
    bucket: TokenBucket,
}

impl PuntShare {
    pub fn new() -> Self {
        Self {
            rate: Rate::new(PER_SECOND, BURST),
            bucket: TokenBucket::default(),
        }
    }

    /// Whether one more packet without a right may pass.
    pub fn take(&mut self, now: Now) -> bool {
        self.bucket.take(&self.rate, 1, now.ms)
    }
}

/// Whether a packet for the kernel has a right to pass: link protocols, ARP, what a neighbour on the link sent (no router lets a
/// hop limit of 255 through, RFC 5082), segments that open no connection, answers and errors. Allowed sources have one too; the
/// guard knows them.
pub(crate) fn has_right(packet: &Packet) -> bool {
    match packet {
        Packet::Arp(_) | Packet::Other(_) => true,
        Packet::Ip(packet) => packet.ttl == u8::MAX || is_of_something(packet),
    }
}

/// Whether the packet belongs to something that the box began or agreed to.
fn is_of_something(packet: &IpPacket) -> bool {
    match packet.l4 {
        L4::Tcp { flags, .. } => !tcp::is_opening(flags),
        L4::Icmp { kind, .. } => is_answer(packet, kind),
        L4::Udp { .. } | L4::Other => false,
    }
}

/// Echo reply, or an error about something that was sent.
fn is_answer(packet: &IpPacket, kind: u8) -> bool {
    const ECHO_REPLY_V4: u8 = 0;
    const ECHO_REPLY_V6: u8 = 129;
    let echo_reply = match packet.family {
        march_wire::Family::V4 => ECHO_REPLY_V4,
        march_wire::Family::V6 => ECHO_REPLY_V6,
    };
    kind == echo_reply || ip::is_icmp_error(packet.family, kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use march_wire::Family;
    use march_wire::parse::Fragment;

    fn packet(family: Family, ttl: u8, l4: L4) -> Packet {
        Packet::Ip(IpPacket {
            family,
            l3_offset: 14,
            l4_offset: 34,
            end: 60,
            vlan: None,
            protocol: 6,
            ttl,
            tos: 0,
            fragment: Fragment::None,
            l4,
        })
    }

    fn segment(flags: u8) -> L4 {
        L4::Tcp {
            src_port: 1,
            dst_port: 22,
            flags,
            header_len: 20,
        }
    }

    #[test]
    fn connections_that_exist_answers_and_neighbours_have_a_right() {
        let v4 = |l4| has_right(&packet(Family::V4, 63, l4));
        assert!(v4(segment(tcp::ACK)));
        assert!(v4(segment(tcp::SYN | tcp::ACK)));
        assert!(!v4(segment(tcp::SYN)));
        let udp = L4::Udp {
            src_port: 53,
            dst_port: 53,
        };
        assert!(!v4(udp));
        assert!(has_right(&packet(Family::V4, 255, udp)), "from the link");
        assert!(!v4(L4::Other));
        let icmp = |family, kind| {
            let l4 = L4::Icmp {
                kind,
                code: 0,
                id: 0,
            };
            has_right(&packet(family, 63, l4))
        };
        assert!(icmp(Family::V4, 0) && !icmp(Family::V4, 8) && icmp(Family::V4, 3));
        assert!(icmp(Family::V6, 129) && !icmp(Family::V6, 128) && icmp(Family::V6, 2));
    }

    #[test]
    fn the_rest_has_a_bound() {
        let mut share = PuntShare::new();
        let mut passed = 0;
        for ms in 0..1_000 {
            passed += (0..100).filter(|_| share.take(Now { ms })).count();
        }
        assert!((21_900..=22_020).contains(&passed), "{passed}");
    }
}
