//! Rates as time: what one unit costs, and how far ahead of its time a sender may be.
//!
//! A bucket is one number, the moment at which it is full again: taking moves it ahead by what was taken, time alone brings it
//! back. Nothing is refilled, a bucket nobody has touched is a full one, and forgetting a full one forgets nothing.

/// Fraction bits of a time: it is milliseconds of the lcore's clock in the upper half, and wraps as that does.
const FRACTION: u32 = 32;
/// More fraction bits of what one unit costs, so that many small units add up to the right rate.
const FINER: u32 = 20;
/// The longest time that a burst may be worth: an hour. A bucket that seems further ahead has not been touched for weeks.
const LONGEST: u64 = 3_600_000 << FRACTION;
/// The clock's step is a millisecond: what comes within two may come at once, or bursts below that would lower the rate.
const SHORTEST: u64 = 2 << FRACTION;

/// A rate with a burst, ready to be taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Milliseconds that one unit takes, with [`FRACTION`] + [`FINER`] fraction bits.
    per_unit: u64,
    /// How far ahead of its time a bucket may be.
    depth: u64,
}

impl Rate {
    /// `per_second` units with `burst` units at once, both at least 1. A burst of more than an hour's units is one of an hour's,
    /// one of less than two milliseconds' is one of two milliseconds'.
    #[must_use]
    pub fn new(per_second: u64, burst: u64) -> Self {
        let per_unit = (1_000 << (FRACTION + FINER)) / per_second.max(1);
        let mut rate = Self {
            per_unit,
            depth: LONGEST,
        };
        rate.depth = rate.cost(burst.max(1)).max(SHORTEST);
        rate
    }

    /// What `units` take, at most [`LONGEST`].
    #[inline]
    fn cost(&self, units: u64) -> u64 {
        let exact = (u128::from(units) * u128::from(self.per_unit)) >> FINER;
        u64::try_from(exact).unwrap_or(u64::MAX).min(LONGEST)
    }
}

/// A bucket of a [`Rate`]. The default is full, whatever the time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct TokenBucket {
    /// When it is full again; 0 for never touched.
    full_at: u64,
}

impl TokenBucket {
    /// Takes `units` if there are as many; more than a burst at once only from a full bucket.
    #[inline]
    pub fn take(&mut self, rate: &Rate, units: u64, now_ms: u32) -> bool {
        let lacks = self.lacks(now_ms);
        let after = lacks + rate.cost(units);
        if after > rate.depth && lacks > 0 {
            return false;
        }
        self.full_at = time_of(now_ms).wrapping_add(after).max(1);
        true
    }

    /// How long it takes until it is full: 0 for one that is.
    #[inline]
    pub(crate) fn lacks(self, now_ms: u32) -> u64 {
        let ahead = self.full_at.wrapping_sub(time_of(now_ms));
        // What lies behind looks far ahead.
        if self.full_at == 0 || ahead > 2 * LONGEST {
            0
        } else {
            ahead
        }
    }
}

#[inline]
fn time_of(now_ms: u32) -> u64 {
    u64::from(now_ms) << FRACTION
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(bucket: &mut TokenBucket, rate: &Rate, tries: u32, now_ms: u32) -> u32 {
        (0..tries)
            .map(|_| u32::from(bucket.take(rate, 1, now_ms)))
            .sum()
    }

    #[test]
    fn gives_the_burst_then_the_rate() {
        let rate = Rate::new(100, 5);
        let mut bucket = TokenBucket::default();
        assert_eq!(taken(&mut bucket, &rate, 10, 0), 5);
        assert_eq!(
            taken(&mut bucket, &rate, 10, 9),
            0,
            "9 ms at 100/s is not yet one"
        );
        assert_eq!(taken(&mut bucket, &rate, 10, 20), 2);
        let in_a_second: u32 = (21..=1_020)
            .map(|ms| taken(&mut bucket, &rate, 3, ms))
            .sum();
        assert_eq!(in_a_second, 100);
        assert_eq!(
            taken(&mut bucket, &rate, 10, 100_000),
            5,
            "a pause fills no more than the burst"
        );
    }

    #[test]
    fn every_rate_is_exact_over_ten_seconds() {
        for (per_second, burst, units) in [
            (1, 1, 1),
            (3, 1, 1),
            (999, 10, 1),
            (10_000, 10_000, 1),
            (10_000, 1, 1),
            (1_000_003, 5_000, 7),
            (100_000_000_000, 10_000_000, 512_000),
            (9_999_999_999, 20_000, 12_144),
        ] {
            let rate = Rate::new(per_second, burst);
            let mut bucket = TokenBucket::default();
            let start = u32::MAX - 5_000;
            let mut total = 0;
            for ms in 0..10_000 {
                let now = start.wrapping_add(ms);
                while bucket.take(&rate, units, now) {
                    total += units;
                }
            }
            let most = per_second * 10 + burst.max(per_second / 500) + 2 * units;
            let least = per_second * 10 * 999 / 1_000 - units.min(per_second * 10);
            assert!(
                (least..=most).contains(&total),
                "{per_second}/s: {total}, not {least} to {most}"
            );
        }
    }

    #[test]
    fn more_than_the_burst_goes_once_the_bucket_is_full() {
        let rate = Rate::new(1_000, 100);
        let mut bucket = TokenBucket::default();
        assert!(bucket.take(&rate, 500, 0));
        assert!(!bucket.take(&rate, 1, 300));
        assert!(bucket.take(&rate, 1, 401));
        assert!(
            !bucket.take(&rate, 500, 401),
            "not from one that is not full"
        );
    }

    #[test]
    fn what_was_forgotten_for_weeks_is_full() {
        let rate = Rate::new(10, 10);
        for weeks_ms in [3_600_000_u32, u32::MAX / 2 + 5, u32::MAX - 8_000_000] {
            let mut bucket = TokenBucket::default();
            assert_eq!(taken(&mut bucket, &rate, 20, 7), 10);
            assert_eq!(
                taken(&mut bucket, &rate, 20, 7_u32.wrapping_add(weeks_ms)),
                10,
                "{weeks_ms}"
            );
        }
    }
}
