//! A set of prefixes of both families: is an address in it, and by how long a prefix.

use march_wire::tuple::{Address, Family, IpPrefix};

use crate::lpm::Lpm;
use crate::number::Number;

/// Prefixes of both families. Immutable.
#[derive(Debug)]
pub struct PrefixSet {
    v4: Lpm<u32, Option<u8>>,
    v6: Lpm<u128, Option<u8>>,
    count: usize,
}

impl PrefixSet {
    /// The set of these prefixes; they may nest, and equal ones count once for each time.
    #[must_use]
    pub fn new(prefixes: &[IpPrefix]) -> Self {
        let lengths = || {
            prefixes
                .iter()
                .map(|prefix| (*prefix, Some(prefix.length())))
        };
        Self {
            v4: Lpm::new(lengths(), None),
            v6: Lpm::new(lengths(), None),
            count: prefixes.len(),
        }
    }

    /// Length of the longest prefix that holds `address`; `None` if none does.
    #[inline]
    pub fn longest<A: Address>(&self, address: A) -> Option<u8> {
        let number = address.to_number();
        match A::FAMILY {
            Family::V4 => self.v4.get(u32::narrow(number)),
            Family::V6 => self.v6.get(u128::narrow(number)),
        }
    }

    /// How many prefixes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::{Ipv4Addr, Ipv6Addr};

    #[test]
    fn the_longest_prefix_of_the_family_counts() {
        let prefixes = ["10.0.0.0/8", "10.1.0.0/16", "2001:db8::/32"]
            .map(|text| text.parse().expect("a prefix"));
        let set = PrefixSet::new(&prefixes);
        assert_eq!(set.longest(Ipv4Addr::new(10, 1, 2, 3)), Some(16));
        assert_eq!(set.longest(Ipv4Addr::new(10, 2, 2, 3)), Some(8));
        assert_eq!(set.longest(Ipv4Addr::new(11, 2, 2, 3)), None);
        assert_eq!(
            set.longest(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
            Some(32)
        );
        assert_eq!(set.longest(Ipv6Addr::LOCALHOST), None);
        assert_eq!(set.len(), 3);
    }
}
