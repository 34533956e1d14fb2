//! The addresses of one family as numbers, most significant bit first.

use march_wire::tuple::{Address, Family, IpPrefix};

/// `u32` for IPv4, `u128` for IPv6.
pub(crate) trait Number: Copy + Ord {
    /// Which family this is for.
    const FAMILY: Family;
    /// The lowest address.
    const ZERO: Self;

    /// A number of this family, given in 128 bits. Bits above the family's width are ignored.
    fn narrow(number: u128) -> Self;
    /// The leading 16 bits.
    fn top(self) -> u16;
    /// The next address, if there is one.
    fn next(self) -> Option<Self>;

    /// First and last address of a prefix; `None` for one of the other family.
    fn range(prefix: IpPrefix) -> Option<(Self, Self)> {
        let first = match (prefix.address(), Self::FAMILY) {
            (core::net::IpAddr::V4(address), Family::V4) => address.to_number(),
            (core::net::IpAddr::V6(address), Family::V6) => address.to_number(),
            _ => return None,
        };
        let host_bits = u32::from(prefix.family().bits() - prefix.length());
        let span = u128::MAX.checked_shr(128 - host_bits).unwrap_or(0);
        Some((Self::narrow(first), Self::narrow(first | span)))
    }
}

impl Number for u32 {
    const FAMILY: Family = Family::V4;
    const ZERO: Self = 0;

    #[inline]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the upper bits are ignored, as documented"
    )]
    fn narrow(number: u128) -> Self {
        number as u32
    }
    #[inline]
    fn top(self) -> u16 {
        (self >> 16) as u16
    }
    #[inline]
    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
}

impl Number for u128 {
    const FAMILY: Family = Family::V6;
    const ZERO: Self = 0;

    #[inline]
    fn narrow(number: u128) -> Self {
        number
    }
    #[inline]
    fn top(self) -> u16 {
        (self >> 112) as u16
    }
    #[inline]
    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
}
