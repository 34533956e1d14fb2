//! Token buckets: how much may still pass.

use core::net::IpAddr;

use march_tables::{Limit, LimitId, LimitScope, LimitUnit, Mirror, ServiceId, Treatment};
use march_wire::tuple::IpPrefix;
use march_wire::{DropReason, Verdict};

use crate::decide::{Step, Walk};
use crate::decision::{Counter, LimitUse, Mirrored};

/// Who shares a bucket of one limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Share {
    All,
    Source(IpPrefix),
    Service(Option<ServiceId>),
}

/// What comes within two milliseconds may come at once, whatever the burst: the clock's step is one.
const SHORTEST_MS: u128 = 2;
/// No bucket holds more than an hour's worth.
const LONGEST_MS: u128 = 3_600_000;

/// A token in the parts that are counted, and what one token per second gives back in a millisecond: a whole number of them, and
/// fine enough that a change of rate rounds away nothing that a packet could notice.
const TOKEN: u128 = 1_000 * EACH_MS;
const EACH_MS: u128 = 1_000_000_000;

/// Tokens, filled at a rate up to a burst, full at first. Counted is what is missing.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Bucket {
    missing: u128,
    /// The rate that `missing` was counted at.
    per_second: u64,
    last_ms: u32,
}

impl Bucket {
    /// Lets time pass, at the rate of then; what is missing takes as long to come back after the rate changed.
    fn fill(&mut self, per_second: u64, now_ms: u32) {
        let elapsed_ms = now_ms.wrapping_sub(self.last_ms);
        let filled = u128::from(elapsed_ms) * u128::from(self.per_second) * EACH_MS;
        self.missing = self.missing.saturating_sub(filled);
        if self.per_second > 0 {
            let scaled = self.missing * u128::from(per_second);
            self.missing = scaled.div_ceil(u128::from(self.per_second));
        }
        self.per_second = per_second;
        self.last_ms = now_ms;
    }

    /// Takes `needed` tokens if there are as many; more than the burst at once only from a full bucket.
    pub fn take(&mut self, per_second: u64, burst: u64, now_ms: u32, needed: u64) -> Taken {
        self.fill(per_second, now_ms);
        let each_ms = u128::from(per_second) * EACH_MS;
        let bounded = |tokens: u64| (u128::from(tokens) * TOKEN).min(LONGEST_MS * each_ms);
        let depth = bounded(burst).max(SHORTEST_MS * each_ms);
        let left = depth.saturating_sub(self.missing) / TOKEN;
        let left = u64::try_from(left).unwrap_or(u64::MAX);
        let after = self.missing + bounded(needed);
        if self.missing > 0 && after > depth {
            return Taken::Lacked(left);
        }
        self.missing = after;
        Taken::Had(left)
    }
}

/// Whether there were enough, and how many there were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    Had(u64),
    Lacked(u64),
}

impl Taken {
    pub fn left(self) -> u64 {
        match self {
            Self::Had(left) | Self::Lacked(left) => left,
        }
    }
}

fn share(limit: &Limit, source: IpAddr, service: Option<ServiceId>) -> Share {
    match limit.scope {
        LimitScope::Shared => Share::All,
        LimitScope::Service => Share::Service(service),
        LimitScope::Source { v4, v6 } => {
            let length = if source.is_ipv4() {
                v4.min(32)
            } else {
                v6.min(128)
            };
            Share::Source(
                IpPrefix::containing(source, length).unwrap_or_else(|_| IpPrefix::host(source)),
            )
        }
    }
}

impl Walk<'_> {
    /// Charges a packet to one of the configuration's limits; beyond it the packet is dropped as `reason`.
    pub(crate) fn charge(
        &mut self,
        id: LimitId,
        source: IpAddr,
        service: Option<ServiceId>,
        reason: DropReason,
    ) -> Step<()> {
        let Some(limit) = self.policy.config.limits.get(usize::from(id)) else {
            return Ok(());
        };
        let needed = match limit.unit {
            LimitUnit::Packets => 1,
            LimitUnit::Bits => self.arrival.frame.len() as u64 * 8,
        };
        let now_ms = self.arrival.now_ms;
        let bucket = self
            .state
            .limits
            .entry((id, share(limit, source, service)))
            .or_default();
        let taken = bucket.take(limit.per_second, limit.burst, now_ms, needed);
        self.told.limits.push(LimitUse::Configured {
            limit: id,
            left: taken.left(),
            needed,
        });
        match taken {
            Taken::Had(_) => Ok(()),
            Taken::Lacked(_) => Err(Verdict::Drop(reason)),
        }
    }

    /// What a service lets clients open: connections per second, handshakes at once.
    pub(crate) fn admit(&mut self, id: ServiceId, protocol: u8) -> Step<()> {
        let Some(limits) = self.policy.service(id).map(|service| service.limits) else {
            return Ok(());
        };
        let (rate, now_ms) = (u64::from(limits.new_per_second), self.arrival.now_ms);
        if rate > 0 {
            let buckets = &mut self.state.new_connections;
            let bucket = buckets.entry(id).or_default();
            let taken = bucket.take(rate, rate, now_ms, 1);
            self.told
                .limits
                .push(LimitUse::NewConnections { left: taken.left() });
            if let Taken::Lacked(_) = taken {
                return Err(Verdict::Drop(DropReason::NewConnectionRate));
            }
        }
        if limits.half_open > 0 && protocol == crate::facts::TCP {
            let (now, most) = (self.state.half_open(id), limits.half_open);
            self.told.limits.push(LimitUse::HalfOpen { now, most });
            if now >= most {
                return Err(Verdict::Drop(DropReason::HalfOpenLimit));
            }
        }
        Ok(())
    }

    /// Makes a copy of the packet as it came in, if the rate allows one. Rules with equal treatments share one bound.
    pub(crate) fn mirror(&mut self, treatment: Treatment, mirror: Mirror) {
        let Mirror { port, per_second } = mirror;
        let (rate, now_ms) = (u64::from(per_second), self.arrival.now_ms);
        let bucket = self.state.mirrors.entry(treatment).or_default();
        if rate > 0 && matches!(bucket.take(rate, rate, now_ms, 1), Taken::Had(_)) {
            self.told.mirrored = Some(Mirrored::Copied(port, self.told.frame.clone()));
            self.move_counter(Counter::Mirrored(port), 1);
        } else {
            self.told.mirrored = Some(Mirrored::Lost(port));
            self.move_counter(Counter::MirrorLost(port), 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let mut bucket = Bucket::default();
        let mut had = |now_ms| {
            (0..10)
                .filter(|_| matches!(bucket.take(100, 3, now_ms, 1), Taken::Had(_)))
                .count()
        };
        assert_eq!([had(0), had(9), had(10), had(10_000)], [3, 0, 1, 3]);
    }

    #[test]
    fn more_than_the_burst_needs_a_full_bucket() {
        let mut bucket = Bucket::default();
        assert_eq!(bucket.take(1000, 10, 0, 11), Taken::Had(10));
        assert_eq!(bucket.take(1000, 10, 1, 1), Taken::Lacked(0));
        assert_eq!(bucket.take(1000, 10, 2, 1), Taken::Had(1));
        assert_eq!(bucket.take(1000, 10, 2, 11), Taken::Lacked(0));
    }
}
