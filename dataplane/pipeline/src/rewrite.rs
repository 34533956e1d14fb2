//! The remembered rewrite: addresses, ports, TTL or hop limit minus one, checksums (RFC 1624), both MAC addresses.
//!
//! Offsets are parameters; the hot path passes constants and the compiler folds them, so that one function serves the
//! plain frame and the one with a VLAN tag, options or extension headers.

use march_flow::{AddressPair, Direction, Flow, Ipv4Pair, Ipv6Pair, Key};
use march_wire::{IpPacket, checksum, fast};

/// Offset of the Ethernet payload without a VLAN tag.
pub const L3: usize = 14;
/// The bits of explicit congestion notification (RFC 3168) in the octet that DSCP shares with them.
const ECN: u8 = 0b11;
/// Protocol number of UDP.
pub const UDP: u8 = 17;

/// What differs between the two address families on the way through.
pub trait IpVersion: 'static {
    /// Two addresses, as loaded.
    type Pair: AddressPair;
    /// One address, as the slow path's tables want it.
    type Address: march_wire::tuple::Address + Into<core::net::IpAddr>;
    /// Index in two-element arrays of the families: 0 for IPv4, 1 for IPv6.
    const INDEX: usize;
    /// Offset of the L4 header of an untagged packet without options or extension headers.
    const L4: usize;

    /// Rewrites the IP header at `l3`: addresses, checksum, TTL or hop limit minus one. Returns `false` and changes nothing
    /// if the frame is too short.
    fn rewrite_ip(bytes: &mut [u8], l3: usize, change: &Change<Self::Pair>) -> bool;

    /// TTL or hop limit minus one, with the IPv4 header checksum. Returns `false` and changes nothing if the frame is too
    /// short.
    fn decrement_ttl(bytes: &mut [u8], l3: usize) -> bool;

    /// Writes a differentiated services code point (RFC 2474) into the IP header at `l3`; ECN stays. Returns `false` and changes
    /// nothing if the frame is too short.
    fn mark(bytes: &mut [u8], l3: usize, dscp: u8) -> bool;

    /// Identifier and checksum of the ICMP echo message at `l4`. Returns `false` and changes nothing if the frame is too short.
    fn rewrite_echo(bytes: &mut [u8], l4: usize, change: &Change<Self::Pair>) -> bool;

    /// The pair as addresses: source, destination.
    fn addresses(pair: Self::Pair) -> (Self::Address, Self::Address);

    /// Two addresses as a pair.
    fn pair(source: Self::Address, destination: Self::Address) -> Self::Pair;

    /// What the general parser says of a frame that the fast one recognised.
    fn recognised(bytes: &[u8]) -> Option<IpPacket>;

    /// The port's source NAT pool of this family.
    fn nat(port: &march_tables::PortTable) -> &march_tables::NatPool<Self::Address>;
}

/// What leaves instead of what came.
#[derive(Clone, Copy, Debug)]
pub struct Change<P> {
    /// Outgoing addresses and ports.
    pub key: Key<P>,
    /// One's complement change of the address words.
    pub address_delta: u16,
    /// One's complement change of address and port words.
    pub l4_delta: u16,
}

/// All ones for UDP, zero otherwise. Kept as a mask in memory from the parse stage to the rewrite stage: in traffic of
/// mixed protocols a branch would be wrong every second time and cost as much as all of the rewrite, and a mask that the
/// compiler has not seen being made stays arithmetic.
#[inline]
#[must_use]
pub const fn udp_mask(protocol: u8) -> u32 {
    0u32.wrapping_sub((((protocol ^ UDP) as u32).wrapping_sub(1)) >> 31)
}

impl<P: AddressPair> Change<P> {
    /// What `flow` says of packets of `direction`.
    #[inline]
    pub fn of(flow: &Flow<P>, direction: Direction) -> Self {
        Self {
            key: flow.outgoing(direction),
            address_delta: flow.address_delta(direction),
            l4_delta: flow.l4_delta(direction),
        }
    }
}

/// IPv4.
pub enum V4 {}
/// IPv6.
pub enum V6 {}

impl IpVersion for V4 {
    type Pair = Ipv4Pair;
    type Address = core::net::Ipv4Addr;
    const INDEX: usize = 0;
    const L4: usize = L3 + 20;

    #[inline(always)]
    fn rewrite_ip(bytes: &mut [u8], l3: usize, change: &Change<Ipv4Pair>) -> bool {
        let Some(header) = bytes.get_mut(l3..l3 + 20) else {
            return false;
        };
        lower_ttl(header, change.address_delta);
        header[12..20].copy_from_slice(&change.key.addresses.0.to_ne_bytes());
        true
    }

    fn decrement_ttl(bytes: &mut [u8], l3: usize) -> bool {
        let Some(header) = bytes.get_mut(l3..l3 + 20) else {
            return false;
        };
        lower_ttl(header, 0);
        true
    }

    fn mark(bytes: &mut [u8], l3: usize, dscp: u8) -> bool {
        let Some(header) = bytes.get_mut(l3..l3 + 20) else {
            return false;
        };
        let old = u16::from_ne_bytes([header[0], header[1]]);
        header[1] = dscp << 2 | header[1] & ECN;
        let new = u16::from_ne_bytes([header[0], header[1]]);
        let sum = u16::from_ne_bytes([header[10], header[11]]);
        let sum = checksum::apply(sum, checksum::delta16(old, new));
        header[10..12].copy_from_slice(&sum.to_ne_bytes());
        true
    }

    fn rewrite_echo(bytes: &mut [u8], l4: usize, change: &Change<Ipv4Pair>) -> bool {
        rewrite_echo(bytes, l4, 0, change.key.ports)
    }

    fn addresses(pair: Ipv4Pair) -> (Self::Address, Self::Address) {
        let [a, b, c, d, e, f, g, h] = pair.0.to_ne_bytes();
        ([a, b, c, d].into(), [e, f, g, h].into())
    }

    fn pair(source: Self::Address, destination: Self::Address) -> Ipv4Pair {
        let ([a, b, c, d], [e, f, g, h]) = (source.octets(), destination.octets());
        Ipv4Pair(u64::from_ne_bytes([a, b, c, d, e, f, g, h]))
    }

    fn recognised(bytes: &[u8]) -> Option<IpPacket> {
        fast::v4_packet(bytes)
    }

    fn nat(port: &march_tables::PortTable) -> &march_tables::NatPool<Self::Address> {
        &port.nat4
    }
}

impl IpVersion for V6 {
    type Pair = Ipv6Pair;
    type Address = core::net::Ipv6Addr;
    const INDEX: usize = 1;
    const L4: usize = L3 + 40;

    #[inline(always)]
    fn rewrite_ip(bytes: &mut [u8], l3: usize, change: &Change<Ipv6Pair>) -> bool {
        let Some(header) = bytes.get_mut(l3..l3 + 40) else {
            return false;
        };
        header[7] = header[7].wrapping_sub(1);
        for (chunk, word) in header[8..40]
            .chunks_exact_mut(8)
            .zip(change.key.addresses.0)
        {
            chunk.copy_from_slice(&word.to_ne_bytes());
        }
        true
    }

    fn decrement_ttl(bytes: &mut [u8], l3: usize) -> bool {
        let Some(limit) = bytes.get_mut(l3 + 7) else {
            return false;
        };
        *limit = limit.wrapping_sub(1);
        true
    }

    fn mark(bytes: &mut [u8], l3: usize, dscp: u8) -> bool {
        let Some([first, second]) = bytes.get_mut(l3..l3 + 2) else {
            return false;
        };
        // Version, traffic class and flow label lie across the octets.
        *first = *first & 0xf0 | dscp >> 2 & 0x0f;
        *second = dscp << 6 | *second & 0x3f;
        true
    }

    fn rewrite_echo(bytes: &mut [u8], l4: usize, change: &Change<Ipv6Pair>) -> bool {
        rewrite_echo(bytes, l4, change.address_delta, change.key.ports)
    }

    fn addresses(pair: Ipv6Pair) -> (Self::Address, Self::Address) {
        let half = |high: u64, low: u64| {
            let mut octets = [0; 16];
            octets[..8].copy_from_slice(&high.to_ne_bytes());
            octets[8..].copy_from_slice(&low.to_ne_bytes());
            core::net::Ipv6Addr::from(octets)
        };
        let [a, b, c, d] = pair.0;
        (half(a, b), half(c, d))
    }

    fn pair(source: Self::Address, destination: Self::Address) -> Ipv6Pair {
        let mut words = [0; 4];
        for (word, chunk) in words.iter_mut().zip(
            source
                .octets()
                .chunks_exact(8)
                .chain(destination.octets().chunks_exact(8)),
        ) {
            *word = u64::from_ne_bytes(chunk.try_into().unwrap_or_default());
        }
        Ipv6Pair(words)
    }

    fn recognised(bytes: &[u8]) -> Option<IpPacket> {
        fast::v6_packet(bytes)
    }

    fn nat(port: &march_tables::PortTable) -> &march_tables::NatPool<Self::Address> {
        &port.nat6
    }
}

/// TTL minus one in an IPv4 header of at least 20 bytes, and the header checksum with that and `address_delta` in it.
#[inline(always)]
fn lower_ttl(header: &mut [u8], address_delta: u16) {
    /// The TTL is the low byte of its little-endian word, and adding this is subtracting one there.
    const MINUS_ONE: u32 = 0xfffe;
    // TTL, protocol and checksum are one word of 32 bits.
    let word = u32::from_le_bytes([header[8], header[9], header[10], header[11]]);
    let checksum = !fold((!word >> 16) + u32::from(address_delta) + MINUS_ONE);
    let word = ((word & 0xffff) - 1) | u32::from(checksum) << 16;
    header[8..12].copy_from_slice(&word.to_le_bytes());
}

/// Ports and checksum of TCP (`udp_mask` zero) or UDP (all ones) at `l4`. Returns `false` and changes nothing if the
/// frame is too short.
#[inline(always)]
pub fn rewrite_l4<P: AddressPair>(
    bytes: &mut [u8],
    l4: usize,
    udp_mask: u32,
    change: &Change<P>,
) -> bool {
    let at = l4 + 16 - (0xa & udp_mask) as usize;
    let Some(field) = bytes.get_mut(at..at + 2) else {
        return false;
    };
    let old = u32::from(u16::from_ne_bytes([field[0], field[1]]));
    let new = u32::from(!fold((!old & 0xffff) + u32::from(change.l4_delta)));
    // UDP: no checksum (0) stays none, and a checksum that comes out as 0 is sent as 0xffff.
    let zero_to_ones = (new.wrapping_sub(1) >> 16) & udp_mask;
    let keep_none = 0u32.wrapping_sub(old.wrapping_sub(1) >> 31) & udp_mask;
    let checksum = (new | zero_to_ones) & !keep_none;
    field.copy_from_slice(&low_half(checksum).to_ne_bytes());
    // The checksum lies behind the ports, so they are there too.
    if let Some(ports) = bytes.get_mut(l4..l4 + 4) {
        ports.copy_from_slice(&change.key.ports.to_ne_bytes());
    }
    true
}

/// Identifier (the low half of `ports`, as in a key) and checksum of an echo message, which also sums what `address_delta` says.
fn rewrite_echo(bytes: &mut [u8], l4: usize, address_delta: u16, ports: u32) -> bool {
    let Some(message) = bytes.get_mut(l4..l4 + 8) else {
        return false;
    };
    let old = u16::from_ne_bytes([message[4], message[5]]);
    let new = low_half(ports);
    let sum = u16::from_ne_bytes([message[2], message[3]]);
    let delta = checksum::delta16(old, new) + u32::from(address_delta);
    message[2..4].copy_from_slice(&checksum::apply(sum, delta).to_ne_bytes());
    message[4..6].copy_from_slice(&new.to_ne_bytes());
    true
}

#[inline(always)]
fn low_half(word: u32) -> u16 {
    let [a, b, ..] = word.to_le_bytes();
    u16::from_le_bytes([a, b])
}

/// Folds a one's complement sum of a few words to 16 bits.
#[inline(always)]
fn fold(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    low_half((once & 0xffff) + (once >> 16))
}

#[cfg(not(target_endian = "little"))]
compile_error!("the lcores' word arithmetic is written for little-endian machines");
