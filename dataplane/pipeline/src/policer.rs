//! Limits that rules put on flows: whose bucket a packet is taken from.
//!
//! Buckets go by the limit's number, which stays from one generation to the next, so that a change of its rate forgets nothing.

use march_flow::{SourceKey, SourceTable, TokenBucket};
use march_tables::{Limit, LimitId, LimitScope, LimitUnit, NONE, ServiceId};
use march_wire::tuple::Address;

use crate::context::Now;
use crate::guard::{Sources, rate_of};

/// Buckets of (limit, service) that are remembered. Beyond it the one that is nearest to full is forgotten.
const SERVICE_BUCKETS: usize = 16_384;

/// Buckets that are no source's: those of all that a limit is put on, and those of services.
pub(crate) struct Policers {
    /// By limit.
    shared: Box<[TokenBucket]>,
    services: SourceTable,
}

/// One packet that a limit counts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Charge<A> {
    /// Who opened the flow.
    pub source: A,
    /// The flow's service; [`NONE`] for transit.
    pub service: ServiceId,
    /// Length of the frame as it came in, bytes.
    pub len: usize,
    /// The source's bucket, where it was fetched ahead.
    pub bucket: Option<SourceKey>,
}

impl Policers {
    /// Allocates everything.
    pub fn new(seed: (u64, u64)) -> std::io::Result<Self> {
        Ok(Self {
            shared: vec![TokenBucket::default(); usize::from(NONE)].into(),
            services: SourceTable::new(SERVICE_BUCKETS, seed)?,
        })
    }

    /// Whether the packet is within the limit; then it counts. `sources` has the buckets of sources.
    pub fn admit<A: Address>(
        &mut self,
        sources: &mut Sources,
        (id, limit): (LimitId, &Limit),
        charge: &Charge<A>,
        now: Now,
    ) -> bool {
        let units = match limit.unit {
            LimitUnit::Packets => 1,
            LimitUnit::Bits => charge.len as u64 * 8,
        };
        match limit.scope {
            LimitScope::Shared => {
                let bucket = self.shared.get_mut(usize::from(id));
                bucket.is_none_or(|bucket| bucket.take(&rate_of(limit), units, now.ms))
            }
            LimitScope::Service => {
                let key = self.services.key(id, [0, u64::from(charge.service)]);
                self.services.take(key, &rate_of(limit), units, now.ms)
            }
            LimitScope::Source { .. } => match charge.bucket {
                Some(key) => sources.take_at(key, &rate_of(limit), units, now),
                None => sources.take(id, limit, charge.source, units, now),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::Ipv4Addr;

    fn limit(scope: LimitScope, unit: LimitUnit, burst: u64) -> Limit {
        Limit {
            name: "limit".into(),
            scope,
            unit,
            per_second: 1,
            burst,
        }
    }

    /// How many packets of 100 bytes of `source` and `service` the limit lets through at once.
    fn admitted(
        policers: &mut Policers,
        sources: &mut Sources,
        limit: &Limit,
        source: u8,
        service: ServiceId,
    ) -> usize {
        let charge = Charge {
            source: Ipv4Addr::new(10, 0, 0, source),
            service,
            len: 100,
            bucket: None,
        };
        let now = Now { ms: 77 };
        (0..10)
            .take_while(|_| policers.admit(sources, (3, limit), &charge, now))
            .count()
    }

    #[test]
    fn each_scope_shares_what_it_says() {
        for (scope, expected) in [
            (LimitScope::Shared, [4, 0, 0]),
            (LimitScope::Source { v4: 32, v6: 128 }, [4, 4, 0]),
            (LimitScope::Service, [4, 0, 4]),
        ] {
            let mut policers = Policers::new((1, 2)).expect("memory");
            let mut sources = Sources::new(64, (3, 4)).expect("memory");
            let limit = limit(scope, LimitUnit::Packets, 4);
            let mut next =
                |source, service| admitted(&mut policers, &mut sources, &limit, source, service);
            let counts = [next(1, 5), next(2, 5), next(1, 6)];
            assert_eq!(counts, expected, "{scope:?}");
        }
    }

    #[test]
    fn bits_are_those_of_the_whole_frame() {
        let mut policers = Policers::new((1, 2)).expect("memory");
        let mut sources = Sources::new(64, (3, 4)).expect("memory");
        let limit = limit(LimitScope::Shared, LimitUnit::Bits, 2_500);
        assert_eq!(admitted(&mut policers, &mut sources, &limit, 1, 0), 3);
    }
}
