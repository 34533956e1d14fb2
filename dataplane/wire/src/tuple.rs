//! Addresses by family, five-tuples and prefixes.
//!
//! IPv4 and IPv6 are a type parameter everywhere: [`Address`] is `core::net`'s address type with what the data plane
//! needs of either family. Ports and protocol numbers are numbers, not wire bytes.

use core::fmt;
use core::hash::Hash;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::str::FromStr;

use crate::checksum;
use crate::cursor::Cursor;

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Family {
    /// IPv4.
    V4 = 4,
    /// IPv6.
    V6 = 6,
}

impl Family {
    /// The family of an address.
    pub const fn of(address: IpAddr) -> Family {
        match address {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        }
    }

    /// Bits of an address: 32 or 128.
    pub const fn bits(self) -> u8 {
        match self {
            Family::V4 => 32,
            Family::V6 => 128,
        }
    }

    /// Bytes of the fixed header: 20 or 40.
    pub const fn header_len(self) -> usize {
        match self {
            Family::V4 => 20,
            Family::V6 => 40,
        }
    }
}

mod sealed {
    /// Keeps [`super::Address`] to the two families that exist.
    pub trait Sealed {}
    impl Sealed for core::net::Ipv4Addr {}
    impl Sealed for core::net::Ipv6Addr {}
}

/// An IP address of one family, known at compile time.
pub trait Address:
    sealed::Sealed
    + Copy
    + Eq
    + Ord
    + Hash
    + fmt::Debug
    + fmt::Display
    + Into<IpAddr>
    + Send
    + Sync
    + 'static
{
    /// Which family this is.
    const FAMILY: Family;
    /// Bytes of an address.
    const LEN: usize;
    /// Where the source address is in the IP header; the destination follows it.
    const SRC_OFFSET: usize;
    /// The wire form.
    type Octets: AsRef<[u8]> + Copy + Eq;

    /// The wire form, most significant byte first.
    fn to_octets(self) -> Self::Octets;
    /// Reads an address at `offset` of a frame.
    fn read<C: Cursor>(frame: C, offset: usize) -> Option<Self>;
    /// The address if it is of this family.
    fn from_ip(address: IpAddr) -> Option<Self>;
    /// The address as a number, in the low 32 or 128 bits.
    fn to_number(self) -> u128;
    /// The address of a number; bits above the family's width are ignored.
    fn from_number(number: u128) -> Self;
    /// One's-complement sum of the address's 16-bit words, folded; in memory order like everything in [`checksum`].
    fn sum(self) -> u16;
    /// False for an address that can never send: multicast, broadcast, loopback, unspecified, class E, IPv4-mapped.
    fn is_possible_source(self) -> bool;
    /// False for a unicast destination that can never be on a wire: loopback, unspecified, class E, IPv4-mapped.
    /// Multicast and the limited broadcast are possible destinations, though never forwarded ones.
    fn is_possible_destination(self) -> bool;
    /// True for multicast, and for IPv4's limited broadcast.
    fn is_group(self) -> bool;
    /// True for addresses that mean something on one link only (169.254/16, `fe80::/10`): never forwarded.
    fn is_link_local(self) -> bool;
    /// True for 0.0.0.0 and `::`.
    fn is_any(self) -> bool;

    /// The first [`Self::LEN`] bytes of a slice; `None` if it is shorter.
    fn from_slice(bytes: &[u8]) -> Option<Self> {
        Self::read(bytes, 0)
    }
}

impl Address for Ipv4Addr {
    const FAMILY: Family = Family::V4;
    const LEN: usize = 4;
    const SRC_OFFSET: usize = 12;
    type Octets = [u8; 4];

    #[inline]
    fn to_octets(self) -> [u8; 4] {
        self.octets()
    }
    #[inline]
    fn read<C: Cursor>(frame: C, offset: usize) -> Option<Self> {
        frame.read::<4>(offset).map(Ipv4Addr::from)
    }
    #[inline]
    fn from_ip(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        }
    }
    #[inline]
    fn to_number(self) -> u128 {
        u128::from(self.to_bits())
    }
    #[inline]
    fn from_number(number: u128) -> Self {
        let [.., a, b, c, d] = number.to_be_bytes();
        Ipv4Addr::new(a, b, c, d)
    }
    #[inline]
    fn sum(self) -> u16 {
        checksum::fold(checksum::sum_words(u64::from(u32::from_ne_bytes(
            self.octets(),
        ))))
    }
    #[inline]
    fn is_possible_source(self) -> bool {
        let first = self.octets()[0];
        first != 0 && first != 127 && first < 224
    }
    #[inline]
    fn is_possible_destination(self) -> bool {
        let first = self.octets()[0];
        first != 0 && first != 127 && (first < 240 || self == Ipv4Addr::BROADCAST)
    }
    #[inline]
    fn is_group(self) -> bool {
        self.is_multicast() || self == Ipv4Addr::BROADCAST
    }
    #[inline]
    fn is_link_local(self) -> bool {
        Ipv4Addr::is_link_local(&self)
    }
    #[inline]
    fn is_any(self) -> bool {
        self.is_unspecified()
    }
}

/// True for `::ffff:0:0/96`, which stands for an IPv4 address inside a host and never belongs on a wire.
fn is_mapped(address: Ipv6Addr) -> bool {
    address.to_bits() >> 32 == 0xffff
}

impl Address for Ipv6Addr {
    const FAMILY: Family = Family::V6;
    const LEN: usize = 16;
    const SRC_OFFSET: usize = 8;
    type Octets = [u8; 16];

    #[inline]
    fn to_octets(self) -> [u8; 16] {
        self.octets()
    }
    #[inline]
    fn read<C: Cursor>(frame: C, offset: usize) -> Option<Self> {
        frame.read::<16>(offset).map(Ipv6Addr::from)
    }
    #[inline]
    fn from_ip(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(_) => None,
            IpAddr::V6(address) => Some(address),
        }
    }
    #[inline]
    fn to_number(self) -> u128 {
        self.to_bits()
    }
    #[inline]
    fn from_number(number: u128) -> Self {
        Ipv6Addr::from_bits(number)
    }
    #[inline]
    fn sum(self) -> u16 {
        let number = u128::from_ne_bytes(self.octets());
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the two halves of the address"
        )]
        let (low, high) = (number as u64, (number >> 64) as u64);
        checksum::fold(checksum::sum_words(low) + checksum::sum_words(high))
    }
    #[inline]
    fn is_possible_source(self) -> bool {
        !(self.is_unspecified() || self.is_loopback() || self.is_multicast() || is_mapped(self))
    }
    #[inline]
    fn is_possible_destination(self) -> bool {
        !(self.is_unspecified() || self.is_loopback() || is_mapped(self))
    }
    #[inline]
    fn is_group(self) -> bool {
        self.is_multicast()
    }
    #[inline]
    fn is_link_local(self) -> bool {
        self.is_unicast_link_local()
    }
    #[inline]
    fn is_any(self) -> bool {
        self.is_unspecified()
    }
}

/// What names a flow: addresses, ports and protocol of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FiveTuple<A: Address> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// Source port; 0 for a protocol without ports.
    pub src_port: u16,
    /// Destination port; 0 for a protocol without ports.
    pub dst_port: u16,
    /// IP protocol number of the last header.
    pub protocol: u8,
}

impl<A: Address> FiveTuple<A> {
    /// The other direction: source and destination exchanged.
    #[inline]
    #[must_use]
    pub fn reversed(self) -> Self {
        FiveTuple {
            src: self.dst,
            dst: self.src,
            src_port: self.dst_port,
            dst_port: self.src_port,
            protocol: self.protocol,
        }
    }
}

impl<A: Address> fmt::Display for FiveTuple<A> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let FiveTuple {
            src,
            dst,
            src_port,
            dst_port,
            protocol,
        } = self;
        match A::FAMILY {
            Family::V4 => write!(
                formatter,
                "{src}:{src_port} -> {dst}:{dst_port} protocol {protocol}"
            ),
            Family::V6 => write!(
                formatter,
                "[{src}]:{src_port} -> [{dst}]:{dst_port} protocol {protocol}"
            ),
        }
    }
}

/// An address block: no bit beyond the prefix length is set, by construction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IpPrefix {
    address: IpAddr,
    length: u8,
}

/// Why something is not a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrefixError {
    /// Not an IPv4 or IPv6 address.
    Address,
    /// The length is not a number from 0 to the family's bits.
    Length {
        /// 32 or 128.
        most: u8,
    },
    /// Bits beyond the length are set; the block that was probably meant.
    HostBits {
        /// The same address with those bits cleared.
        network: IpPrefix,
    },
}

impl fmt::Display for PrefixError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PrefixError::Address => formatter.write_str("not an IPv4 or IPv6 address"),
            PrefixError::Length { most } => write!(formatter, "prefix length must be 0 to {most}"),
            PrefixError::HostBits { network } => {
                write!(
                    formatter,
                    "host bits are set beyond the prefix length; the network is {network}"
                )
            }
        }
    }
}

impl core::error::Error for PrefixError {}

/// The mask of `length` leading bits in a word of `bits`, as a number in the low `bits` bits.
const fn mask(bits: u8, length: u8) -> u128 {
    let all = u128::MAX >> (128 - bits as u32);
    match length {
        0 => 0,
        length => all & (all << (bits - length) as u32),
    }
}

const fn number_of(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits() as u128,
        IpAddr::V6(address) => address.to_bits(),
    }
}

impl IpPrefix {
    /// A block of `length` leading bits. Refuses a length beyond the family's bits, and host bits that are set.
    pub fn new(address: IpAddr, length: u8) -> Result<IpPrefix, PrefixError> {
        let prefix = IpPrefix::containing(address, length)?;
        if prefix.address == address {
            Ok(prefix)
        } else {
            Err(PrefixError::HostBits { network: prefix })
        }
    }

    /// The block of `length` leading bits that `address` is in.
    pub fn containing(address: IpAddr, length: u8) -> Result<IpPrefix, PrefixError> {
        let most = Family::of(address).bits();
        if length > most {
            return Err(PrefixError::Length { most });
        }
        let network = number_of(address) & mask(most, length);
        let address = match address {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from_number(network)),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from_number(network)),
        };
        Ok(IpPrefix { address, length })
    }

    /// The block of one address.
    pub const fn host(address: IpAddr) -> IpPrefix {
        IpPrefix {
            address,
            length: Family::of(address).bits(),
        }
    }

    /// The first address of the block.
    pub const fn address(self) -> IpAddr {
        self.address
    }

    /// Leading bits that are fixed.
    pub const fn length(self) -> u8 {
        self.length
    }

    /// The family of the block.
    pub const fn family(self) -> Family {
        Family::of(self.address)
    }

    /// True if the block is one address.
    pub const fn is_host(self) -> bool {
        self.length == self.family().bits()
    }

    /// The first address and the length if the block is of family `A`.
    #[inline]
    pub fn of<A: Address>(self) -> Option<(A, u8)> {
        A::from_ip(self.address).map(|address| (address, self.length))
    }

    /// True if the address is in the block; false for one of the other family.
    #[inline]
    pub fn contains<T: Into<IpAddr>>(self, address: T) -> bool {
        let address = address.into();
        let family = self.family();
        Family::of(address) == family
            && number_of(address) & mask(family.bits(), self.length) == number_of(self.address)
    }

    /// True if every address of `other` is in this block.
    pub fn covers(self, other: IpPrefix) -> bool {
        self.length <= other.length && self.contains(other.address)
    }

    /// True if the two blocks have an address in common.
    pub fn overlaps(self, other: IpPrefix) -> bool {
        self.covers(other) || other.covers(self)
    }
}

impl fmt::Display for IpPrefix {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.address, self.length)
    }
}

impl FromStr for IpPrefix {
    type Err = PrefixError;

    /// `address/length`, or an address alone for the block of that one address.
    fn from_str(text: &str) -> Result<IpPrefix, PrefixError> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| PrefixError::Address)?;
        let most = Family::of(address).bits();
        let Some(length) = length else {
            return Ok(IpPrefix::host(address));
        };
        // `u8::from_str` takes a sign; a prefix length has none.
        if !length.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(PrefixError::Length { most });
        }
        let length = length.parse().map_err(|_| PrefixError::Length { most })?;
        IpPrefix::new(address, length)
    }
}

#[cfg(test)]
mod tests;
