//! One flow: both directions of one five-tuple, what to do with their packets, and what was counted.

use crate::address::{AddressPair, Key};
use crate::memory::Zeroed;

/// "None" for the 16-bit ids that a flow remembers.
pub const NONE: u16 = u16::MAX;

/// Which end a packet comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the end that opened the flow.
    Forward = 0,
    /// Back to it.
    Reverse = 1,
}

impl Direction {
    /// From the low bit of a slot.
    #[inline]
    #[must_use]
    pub const fn of_bit(bit: u32) -> Self {
        if bit & 1 == 0 {
            Self::Forward
        } else {
            Self::Reverse
        }
    }

    /// Index of this direction in the two-element arrays of a flow.
    #[inline]
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The other one.
    #[inline]
    #[must_use]
    pub const fn opposite(self) -> Self {
        match self {
            Self::Forward => Self::Reverse,
            Self::Reverse => Self::Forward,
        }
    }
}

/// Where a flow is in its life; decides its timeout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FlowState {
    /// Not a flow: the entry is on the free list.
    Free = 0,
    /// The client's SYN was forwarded.
    SynSent,
    /// The server answered SYN with ACK.
    SynReceived,
    /// The client acknowledged.
    Established,
    /// The opener sent FIN.
    ClosingForward,
    /// The other end sent FIN.
    ClosingReverse,
    /// Both did, the opener first: its last acknowledgement is awaited.
    LastAckForward,
    /// Both did, the other end first: its last acknowledgement is awaited.
    LastAckReverse,
    /// Over: the next sweep takes it.
    Closed,
    /// Not TCP and not ICMP.
    Datagram,
    /// ICMP echo.
    Echo,
}

impl FlowState {
    /// The states of a TCP flow.
    pub const TCP: [Self; 8] = [
        Self::SynSent,
        Self::SynReceived,
        Self::Established,
        Self::ClosingForward,
        Self::ClosingReverse,
        Self::LastAckForward,
        Self::LastAckReverse,
        Self::Closed,
    ];

    /// A handshake that is not done: the first to go when room is needed.
    #[inline]
    #[must_use]
    pub const fn is_embryonic(self) -> bool {
        matches!(self, Self::SynSent | Self::SynReceived)
    }
}

/// One flow. For IPv4 exactly one cache line, for IPv6 two.
///
/// `addresses[d]` and `ports[d]` are what packets of direction `d` carry when they come in. What they carry when they
/// go out is `addresses[1 - d].swapped()`: without translation the two are each other's swap.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Flow<A> {
    /// Incoming addresses by direction.
    pub addresses: [A; 2],
    /// Incoming ports by direction, as in [`Key::ports`].
    pub ports: [u32; 2],
    bytes_low: [u32; 2],
    packets: [u32; 2],
    /// When a packet of either direction was last seen, milliseconds of the lcore's clock, wrapping.
    pub last_seen_ms: u32,
    bytes_high: [u8; 2],
    /// One's complement change of the address words, direction forward; the reverse is its complement. For the IPv4 header checksum.
    pub address_delta: u16,
    /// The same of addresses and ports together. For the TCP, UDP and ICMPv6 checksums.
    pub l4_delta: u16,
    /// Service that the flow belongs to, or [`NONE`] for transit.
    pub service: u16,
    /// Backend slot, or [`NONE`] for transit.
    pub backend: u16,
    /// Adjacency by direction. Forward packets of a service go where the backend's adjacency says instead.
    pub next_hop: [u16; 2],
    /// Generation epoch under which the flow was last allowed and routed; 0 is never current.
    pub epoch: u16,
    /// Treatment of the flow's packets, or [`NONE`] for as they are. Means something only under `epoch`, and stands behind it
    /// so that the hot path compares both at once.
    pub treatment: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Life.
    pub state: FlowState,
}

const _: () = assert!(size_of::<Flow<crate::Ipv4Pair>>() == 64);
const _: () = assert!(size_of::<Flow<crate::Ipv6Pair>>() == 128);

// SAFETY: integers and an enum whose discriminant 0 is `Free`; address pairs are integers (`AddressPair` is implemented
// only by the two types of this crate that are).
unsafe impl<A: AddressPair> Zeroed for Flow<A> {}

impl<A: AddressPair> Flow<A> {
    /// A flow whose packets come in as `forward` and whose answers come in as `reverse`. For an untranslated flow
    /// `reverse` is `forward.swapped()`.
    #[must_use]
    pub fn new(forward: Key<A>, reverse: Key<A>, state: FlowState, now_ms: u32) -> Self {
        // Out goes reverse.swapped(); sums do not care about the order of words.
        let address_delta = fold(complement_sum(forward.addresses) + reverse.addresses.sum());
        let ports = fold(sum_ports(!forward.ports) + sum_ports(reverse.ports));
        Self {
            addresses: [forward.addresses, reverse.addresses],
            ports: [forward.ports, reverse.ports],
            bytes_low: [0; 2],
            packets: [0; 2],
            last_seen_ms: now_ms,
            bytes_high: [0; 2],
            address_delta,
            l4_delta: fold(u32::from(address_delta) + u32::from(ports)),
            service: NONE,
            backend: NONE,
            next_hop: [NONE; 2],
            epoch: 0,
            treatment: NONE,
            protocol: forward.protocol,
            state,
        }
    }

    /// The key under which packets of `direction` find this flow.
    #[inline]
    pub fn key(&self, direction: Direction) -> Key<A> {
        Key {
            addresses: self.addresses[direction.index()],
            ports: self.ports[direction.index()],
            protocol: self.protocol,
        }
    }

    /// What packets of `direction` carry when they leave.
    #[inline]
    pub fn outgoing(&self, direction: Direction) -> Key<A> {
        self.key(direction.opposite()).swapped()
    }

    /// True where packets leave with other addresses or ports than they came with.
    pub fn is_translated(&self) -> bool {
        self.outgoing(Direction::Forward) != self.key(Direction::Forward)
    }

    /// Change of the address words for `direction`, one's complement.
    #[inline]
    pub fn address_delta(&self, direction: Direction) -> u16 {
        self.address_delta ^ 0u16.wrapping_sub(direction as u16)
    }

    /// Change of address and port words for `direction`, one's complement.
    #[inline]
    pub fn l4_delta(&self, direction: Direction) -> u16 {
        self.l4_delta ^ 0u16.wrapping_sub(direction as u16)
    }

    /// Counts one packet of `len` bytes and remembers when.
    #[inline]
    pub fn count(&mut self, direction: Direction, len: u32, now_ms: u32) {
        let index = direction.index();
        self.packets[index] = self.packets[index].wrapping_add(1);
        let (low, carry) = self.bytes_low[index].overflowing_add(len);
        self.bytes_low[index] = low;
        self.bytes_high[index] = self.bytes_high[index].wrapping_add(u8::from(carry));
        self.last_seen_ms = now_ms;
    }

    /// Whether the flow was allowed and routed under `epoch` and its packets go as they are.
    #[inline(always)]
    pub fn is_plain_under(&self, epoch: u16) -> bool {
        let word = |epoch: u16, treatment: u16| u32::from(epoch) | u32::from(treatment) << 16;
        word(self.epoch, self.treatment) == word(epoch, NONE)
    }

    /// Packets of a direction, modulo 2^32.
    pub fn packets(&self, direction: Direction) -> u32 {
        self.packets[direction.index()]
    }

    /// Bytes of a direction, modulo 2^40.
    pub fn bytes(&self, direction: Direction) -> u64 {
        u64::from(self.bytes_high[direction.index()]) << 32
            | u64::from(self.bytes_low[direction.index()])
    }

    /// Milliseconds since the last packet.
    #[inline]
    pub fn idle_ms(&self, now_ms: u32) -> u32 {
        now_ms.wrapping_sub(self.last_seen_ms)
    }
}

fn complement_sum<A: AddressPair>(addresses: A) -> u32 {
    // Complementing every 16-bit word of a sum of `n` words is n * 0xffff minus the sum, and n * 0xffff is zero in
    // one's complement arithmetic; a fixed multiple large enough keeps it positive.
    const MULTIPLE: u32 = 0xffff * 32;
    MULTIPLE - addresses.sum()
}

const fn sum_ports(ports: u32) -> u32 {
    (ports & 0xffff) + (ports >> 16)
}

/// Folds a one's complement sum to 16 bits.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "two folds leave 16 bits")]
const fn fold(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    let twice = (once & 0xffff) + (once >> 16);
    twice as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Ipv4Pair;

    fn key(addresses: u64, ports: u32) -> Key<Ipv4Pair> {
        Key {
            addresses: Ipv4Pair(addresses),
            ports,
            protocol: 6,
        }
    }

    #[test]
    fn outgoing_is_the_other_side_swapped() {
        // In: 1 -> 2, out: 3 -> 4, so answers come as 4 -> 3.
        let flow = Flow::new(
            key(0x0000_0002_0000_0001, 0x0020_0010),
            key(0x0000_0003_0000_0004, 0x0030_0040),
            FlowState::SynSent,
            7,
        );
        assert_eq!(
            flow.outgoing(Direction::Forward),
            key(0x0000_0004_0000_0003, 0x0040_0030)
        );
        assert_eq!(
            flow.outgoing(Direction::Reverse),
            key(0x0000_0001_0000_0002, 0x0010_0020)
        );
        assert!(flow.is_translated());
        let plain = Flow::new(key(5, 6), key(5, 6).swapped(), FlowState::Datagram, 0);
        assert!(!plain.is_translated());
    }

    #[test]
    fn counts_beyond_32_bits_of_bytes() {
        let mut flow = Flow::new(key(1, 2), key(3, 4), FlowState::Established, 0);
        for _ in 0..3 {
            flow.count(Direction::Reverse, u32::MAX, 9);
        }
        assert_eq!(flow.bytes(Direction::Reverse), 3 * u64::from(u32::MAX));
        assert_eq!(flow.packets(Direction::Reverse), 3);
        assert_eq!(flow.bytes(Direction::Forward), 0);
        assert_eq!(flow.idle_ms(12), 3);
    }

    #[test]
    fn idle_time_survives_the_wrap_of_the_clock() {
        let flow = Flow::new(key(1, 2), key(3, 4), FlowState::Established, u32::MAX - 4);
        assert_eq!(flow.idle_ms(5), 10);
    }

    proptest::proptest! {
        /// RFC 1624: applying the delta to a checksum equals summing anew.
        #[test]
        fn deltas_agree_with_summing_anew(a: u64, b: u64, pa: u32, pb: u32, rest: u16) {
            let flow = Flow::new(key(a, pa), key(b, pb), FlowState::Established, 0);
            for direction in [Direction::Forward, Direction::Reverse] {
                let (before, after) = (flow.key(direction), flow.outgoing(direction));
                let sum = |key: Key<Ipv4Pair>| fold(key.addresses.sum() + sum_ports(key.ports) + u32::from(rest));
                let updated = fold(u32::from(sum(before)) + u32::from(flow.l4_delta(direction)));
                let equal = updated == sum(after) || [updated, sum(after)].iter().all(|sum| [0, 0xffff].contains(sum));
                proptest::prop_assert!(equal, "{updated:04x} {:04x}", sum(after));
            }
        }
    }
}
