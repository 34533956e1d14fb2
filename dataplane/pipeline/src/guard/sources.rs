//! Limits by source: the lcore's one table of buckets for guards and for the limits of rules.

use march_flow::{Rate, SourceKey, SourceTable};
use march_tables::{Limit, LimitId, LimitScope};
use march_wire::Family;
use march_wire::tuple::Address;

use crate::context::Now;

/// Buckets of sources by (limit, source prefix). A source's bucket is kept while there is room and something to remember.
pub(crate) struct Sources {
    table: SourceTable,
}

impl Sources {
    /// For so many sources. Allocates everything now.
    pub fn new(count: usize, seed: (u64, u64)) -> std::io::Result<Self> {
        Ok(Self {
            table: SourceTable::new(count, seed)?,
        })
    }

    /// Takes `units` from the bucket of the prefix that `source` is in. `false` if there is not as much left. A limit of another
    /// scope counts each source by itself.
    #[inline]
    pub fn take<A: Address>(
        &mut self,
        id: LimitId,
        limit: &Limit,
        source: A,
        units: u64,
        now: Now,
    ) -> bool {
        let key = self.key(id, limit.scope, source);
        self.take_at(key, &rate_of(limit), units, now)
    }

    /// Where the bucket of a source is.
    #[inline]
    pub fn key<A: Address>(&self, id: LimitId, scope: LimitScope, source: A) -> SourceKey {
        self.table.key(id, prefix(scope, source))
    }

    /// Fetches a bucket that will be taken from.
    #[inline]
    pub fn prefetch(&self, key: SourceKey) {
        self.table.prefetch(key);
    }

    /// The second half of [`Sources::take`], for callers that know the rate and have fetched the bucket.
    #[inline]
    pub fn take_at(&mut self, key: SourceKey, rate: &Rate, units: u64, now: Now) -> bool {
        self.table.take(key, rate, units, now.ms)
    }

    /// The table itself: how much of it is in use.
    pub fn table(&self) -> &SourceTable {
        &self.table
    }
}

/// A limit's rate on this lcore.
#[inline]
pub(crate) fn rate_of(limit: &Limit) -> Rate {
    Rate::new(limit.per_second, limit.burst)
}

/// The prefix that counts as one source, in two words that no other family's has.
#[inline]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the two halves are taken apart on purpose"
)]
fn prefix<A: Address>(scope: LimitScope, source: A) -> [u64; 2] {
    let length = match (scope, A::FAMILY) {
        (LimitScope::Source { v4, .. }, Family::V4) => v4,
        (LimitScope::Source { v6, .. }, Family::V6) => v6,
        _ => A::FAMILY.bits(),
    };
    let host_bits = u32::from(A::FAMILY.bits().saturating_sub(length));
    let number = source.to_number();
    let number = number.checked_shr(host_bits).unwrap_or(0);
    let number = number.checked_shl(host_bits).unwrap_or(0);
    match A::FAMILY {
        Family::V4 => [0, u64::from(u32::MAX) << 32 | number as u64],
        Family::V6 => [(number >> 64) as u64, number as u64],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::{Ipv4Addr, Ipv6Addr};
    use march_tables::LimitUnit;

    fn limit(v4: u8, v6: u8) -> Limit {
        Limit {
            name: "each".into(),
            scope: LimitScope::Source { v4, v6 },
            unit: LimitUnit::Packets,
            per_second: 1,
            burst: 1,
        }
    }

    #[test]
    fn a_prefix_is_one_source() {
        let mut sources = Sources::new(64, (3, 5)).expect("memory");
        let limit = limit(24, 64);
        let mut take4 =
            |a, b| sources.take(0, &limit, Ipv4Addr::new(198, 51, a, b), 1, Now { ms: 9 });
        assert!(take4(100, 1));
        assert!(!take4(100, 2));
        assert!(take4(101, 1));
        let mut take6 = |a, b| {
            let source = Ipv6Addr::new(0x2001, 0xdb8, 0, a, 0, 0, 0, b);
            sources.take(0, &limit, source, 1, Now { ms: 9 })
        };
        assert!(take6(1, 1));
        assert!(!take6(1, 2));
        assert!(take6(2, 1));
    }

    #[test]
    fn lengths_of_0_and_of_a_whole_address_mean_what_they_say() {
        let a = Ipv4Addr::new(10, 0, 0, 1);
        let b = Ipv4Addr::new(192, 0, 2, 1);
        assert_eq!(prefix(limit(0, 0).scope, a), prefix(limit(0, 0).scope, b));
        assert_ne!(prefix(limit(32, 0).scope, a), prefix(limit(32, 0).scope, b));
        let zero = Ipv6Addr::UNSPECIFIED;
        assert_eq!(
            prefix(limit(0, 0).scope, Ipv6Addr::LOCALHOST),
            prefix(limit(0, 0).scope, zero)
        );
        assert_ne!(
            prefix(limit(0, 128).scope, Ipv6Addr::LOCALHOST),
            prefix(limit(0, 128).scope, zero)
        );
    }
}
