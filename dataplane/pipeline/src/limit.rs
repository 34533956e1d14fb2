//! Rate limits for what the box answers of its own, so that nobody can use it as an amplifier or spend its cores.

/// A bucket of tokens, filled lazily at a fixed rate.
#[derive(Clone, Copy, Debug)]
pub struct TokenBucket {
    per_second: u32,
    burst: u32,
    /// Tokens times 1000, so that a millisecond adds a whole number.
    milli_tokens: u64,
    last_ms: u32,
}

impl TokenBucket {
    /// A full bucket.
    pub const fn new(per_second: u32, burst: u32) -> Self {
        Self {
            per_second,
            burst,
            milli_tokens: burst as u64 * 1_000,
            last_ms: 0,
        }
    }

    /// Takes one token if there is one.
    pub fn take(&mut self, now_ms: u32) -> bool {
        let elapsed_ms = now_ms.wrapping_sub(self.last_ms);
        self.last_ms = now_ms;
        let filled = self.milli_tokens + u64::from(elapsed_ms) * u64::from(self.per_second);
        self.milli_tokens = filled.min(u64::from(self.burst) * 1_000);
        let Some(left) = self.milli_tokens.checked_sub(1_000) else {
            return false;
        };
        self.milli_tokens = left;
        true
    }
}

/// The buckets of one lcore.
#[derive(Clone, Copy, Debug)]
pub struct Answers {
    /// ICMP errors: time exceeded, packet too big.
    pub errors: TokenBucket,
    /// Echo replies for our addresses.
    pub echoes: TokenBucket,
    /// RSTs for segments without a flow or a backend.
    pub resets: TokenBucket,
}

impl Default for Answers {
    fn default() -> Self {
        Self {
            errors: TokenBucket::new(1_000, 1_000),
            echoes: TokenBucket::new(10_000, 10_000),
            resets: TokenBucket::new(10_000, 10_000),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_the_burst_then_the_rate() {
        let mut bucket = TokenBucket::new(100, 5);
        assert_eq!((0..10).filter(|_| bucket.take(0)).count(), 5);
        assert_eq!(
            (0..10).filter(|_| bucket.take(9)).count(),
            0,
            "9 ms at 100/s is not yet a token"
        );
        assert_eq!((0..10).filter(|_| bucket.take(20)).count(), 2);
        let over_a_second: usize = (1..=1_000)
            .map(|ms| usize::from(bucket.take(20 + ms)))
            .sum();
        assert_eq!(over_a_second, 100);
    }

    #[test]
    fn a_long_pause_fills_no_more_than_the_burst() {
        let mut bucket = TokenBucket::new(u32::MAX, 3);
        assert_eq!((0..10).filter(|_| bucket.take(u32::MAX)).count(), 3);
    }
}
