//! What of the kernel's traffic may be how much. Links, their neighbours and allowed sources have a part of the ring to the
//! kernel that nothing else gets. What looks like part of a connection has no bound but the rest of the ring: anybody can send
//! that. All else has a bound. Without it a flood at the box's own address would fill the ring that carries BGP and ssh, and cost
//! the kernel more than all of forwarding.

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

/// What a packet for the kernel may claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// The kept part of the ring: link protocols, ARP, what a neighbour on the link sent (no router lets a hop limit of 255
    /// through, RFC 5082). Allowed sources have it too; the guard knows them.
    Right,
    /// No bound of its own: segments that open no connection, answers and errors. Whether there is such a connection only the
    /// kernel knows.
    Agreed,
    /// The bound that strangers share.
    Stranger,
}

/// What this packet may claim by itself.
pub(crate) fn claim_of(packet: &Packet) -> Claim {
    match packet {
        Packet::Arp(_) | Packet::Other(_) => Claim::Right,
        Packet::Ip(packet) if packet.ttl == u8::MAX => Claim::Right,
        Packet::Ip(packet) if is_of_something(packet) => Claim::Agreed,
        Packet::Ip(_) => Claim::Stranger,
    }
}

/// Whether the packet looks like part of something that the box began or agreed to.
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
    fn only_the_link_has_a_right_and_strangers_have_a_bound() {
        let v4 = |l4| claim_of(&packet(Family::V4, 63, l4));
        assert_eq!(v4(segment(tcp::ACK)), Claim::Agreed);
        assert_eq!(v4(segment(tcp::SYN | tcp::ACK)), Claim::Agreed);
        assert_eq!(v4(segment(tcp::SYN)), Claim::Stranger);
        let udp = L4::Udp {
            src_port: 53,
            dst_port: 53,
        };
        assert_eq!(v4(udp), Claim::Stranger);
        assert_eq!(claim_of(&packet(Family::V4, 255, udp)), Claim::Right);
        assert_eq!(v4(L4::Other), Claim::Stranger);
        let icmp = |family, kind| {
            let l4 = L4::Icmp {
                kind,
                code: 0,
                id: 0,
            };
            claim_of(&packet(family, 63, l4)) == Claim::Agreed
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
