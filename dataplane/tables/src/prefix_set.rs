//! A set of prefixes of both families: is an address in it, and by how long a prefix.
//!
//! Made for a million prefixes and more that change one by one: a set is immutable, the next one shares every page that did not
//! change. Both halves keep, page by page, the prefixes in order (for changes) and the ranges in which one of them each is the
//! longest (for lookups).

mod chunks;
mod ladder;
mod spans;
mod v4;

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use march_wire::tuple::{Address, Family, IpPrefix};

use crate::number::Number;
use chunks::Chunks;
use spans::{Changes, Prefix};
use v4::V4;

/// IPv6 prefixes up to this length are looked up by the upper half of an address.
const UPPER: u8 = 64;

/// Prefixes of both families. Immutable; a prefix is in it once or not at all.
#[derive(Clone)]
pub struct PrefixSet {
    v4: V4,
    /// IPv6 prefixes of up to 64 bits.
    upper6: Chunks<u64>,
    /// Longer ones.
    lower6: Chunks<u128>,
    count: usize,
}

impl Default for PrefixSet {
    fn default() -> Self {
        Self {
            v4: V4::new(),
            upper6: Chunks::new(),
            lower6: Chunks::new(),
            count: 0,
        }
    }
}

impl fmt::Debug for PrefixSet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "PrefixSet({} prefixes)", self.count)
    }
}

impl PrefixSet {
    /// The set of these prefixes, in any order; they may nest, and equal ones count once.
    #[must_use]
    pub fn new(prefixes: &[IpPrefix]) -> Self {
        Self::default().with_changes(prefixes, &[])
    }

    /// This set without what is in `remove` and with what is in `add`; what is in both is in it. Removing what is not there and
    /// adding what is there change nothing. Pages without a change are shared.
    #[must_use]
    pub fn with_changes(&self, add: &[IpPrefix], remove: &[IpPrefix]) -> Self {
        let [add, remove] = [add, remove].map(Lists::new);
        let (v4, v4_growth) = self.v4.with_changes(Changes {
            add: &add.v4,
            remove: &remove.v4,
        });
        let upper = Changes {
            add: &add.upper6,
            remove: &remove.upper6,
        };
        let (upper6, upper_growth) = change(&self.upper6, upper);
        let lower = Changes {
            add: &add.lower6,
            remove: &remove.lower6,
        };
        let (lower6, lower_growth) = change(&self.lower6, lower);
        let growth = v4_growth + upper_growth + lower_growth;
        Self {
            v4,
            upper6,
            lower6,
            count: self.count.saturating_add_signed(growth),
        }
    }

    /// Length of the longest prefix that holds `address`; `None` if none does.
    #[inline]
    pub fn longest<A: Address>(&self, address: A) -> Option<u8> {
        let number = address.to_number();
        let code = match A::FAMILY {
            Family::V4 => self.v4.code(u32::narrow(number)),
            Family::V6 => match self.lower6.code(number) {
                0 => self.upper6.code(upper_half(number)),
                code => code,
            },
        };
        code.checked_sub(1)
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

    /// Every prefix once: IPv4 before IPv6, shorter than 16 (65 to 128: longer than 64) bits apart from the others, each part in
    /// order of addresses.
    pub fn iter(&self) -> impl Iterator<Item = IpPrefix> + '_ {
        let v4 = self.v4.iter().map(|(first, length)| {
            let address = IpAddr::V4(Ipv4Addr::from(first));
            IpPrefix::containing(address, length)
        });
        let upper = self.upper6.iter();
        let upper = upper.map(|(first, length)| (u128::from(first) << 64, length));
        let v6 = upper.chain(self.lower6.iter()).map(|(first, length)| {
            let address = IpAddr::V6(Ipv6Addr::from(first));
            IpPrefix::containing(address, length)
        });
        v4.chain(v6)
            .map(|prefix| prefix.expect("what went in was a prefix"))
    }

    /// Memory in use, bytes; what two sets share counts for both.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.v4.memory_bytes() + self.upper6.memory_bytes() + self.lower6.memory_bytes()
    }
}

const fn upper_half(number: u128) -> u64 {
    (number >> 64) as u64
}

fn change<K: ladder::Word>(chunks: &Chunks<K>, changes: Changes<'_, K>) -> (Chunks<K>, isize) {
    if changes.is_empty() {
        return (chunks.clone(), 0);
    }
    chunks.with_changes(changes)
}

/// Prefixes by part, each in order and without repetition.
struct Lists {
    v4: Vec<Prefix<u32>>,
    upper6: Vec<Prefix<u64>>,
    lower6: Vec<Prefix<u128>>,
}

impl Lists {
    fn new(prefixes: &[IpPrefix]) -> Self {
        let mut lists = Self {
            v4: Vec::new(),
            upper6: Vec::new(),
            lower6: Vec::new(),
        };
        for prefix in prefixes {
            let length = prefix.length();
            match prefix.address() {
                IpAddr::V4(address) => lists.v4.push((address.into(), length)),
                IpAddr::V6(address) if length <= UPPER => {
                    lists.upper6.push((upper_half(address.into()), length));
                }
                IpAddr::V6(address) => lists.lower6.push((address.into(), length)),
            }
        }
        sort(&mut lists.v4);
        sort(&mut lists.upper6);
        sort(&mut lists.lower6);
        lists
    }
}

fn sort<K: Ord>(list: &mut Vec<Prefix<K>>) {
    list.sort_unstable();
    list.dedup();
}

#[cfg(test)]
mod tests;
