//! The lcore's clock: the time-stamp counter where it can be trusted, the monotonic clock elsewhere.

use std::time::{Duration, Instant};

use march_pipeline::Now;

/// How long the counter is watched against the monotonic clock. The readings at either end are some 50 ns apart, which is
/// a few parts in a million of this.
const CALIBRATION: Duration = Duration::from_millis(20);

/// Turns counter cycles into milliseconds. Calibrate once at start and copy it to every lcore.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    source: Source,
    start_cycles: u64,
    cycles_per_ms: u64,
}

#[derive(Clone, Copy, Debug)]
enum Source {
    /// Constant rate, the same on all cores.
    #[cfg(target_arch = "x86_64")]
    Tsc,
    /// Nanoseconds since this moment count as cycles.
    Monotonic(Instant),
}

impl Clock {
    /// Measures the counter's rate; takes 20 ms.
    #[must_use]
    pub fn calibrate() -> Self {
        #[cfg(target_arch = "x86_64")]
        if has_constant_tsc() {
            let (start, from) = sample();
            while start.elapsed() < CALIBRATION {
                core::hint::spin_loop();
            }
            let (end, to) = sample();
            let per_ms = u128::from(to - from) * 1_000_000 / (end - start).as_nanos().max(1);
            return Self {
                source: Source::Tsc,
                start_cycles: from,
                cycles_per_ms: u64::try_from(per_ms).unwrap_or(u64::MAX).max(1),
            };
        }
        Self::monotonic()
    }

    /// A clock without the counter: slower to read, right everywhere.
    #[must_use]
    pub fn monotonic() -> Self {
        Self {
            source: Source::Monotonic(Instant::now()),
            start_cycles: 0,
            cycles_per_ms: 1_000_000,
        }
    }

    /// The counter now. Only differences mean anything.
    #[inline]
    pub fn cycles(&self) -> u64 {
        match self.source {
            #[cfg(target_arch = "x86_64")]
            Source::Tsc => tsc(),
            Source::Monotonic(start) => {
                u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX)
            }
        }
    }

    /// The counter's rate: to turn [`crate::LcoreCounters`] cycles into time.
    pub fn cycles_per_ms(&self) -> u64 {
        self.cycles_per_ms
    }

    /// The pipeline's time at a counter value.
    #[inline]
    pub fn now(&self, cycles: u64) -> Now {
        let ms = cycles.wrapping_sub(self.start_cycles) / self.cycles_per_ms;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the pipeline's clock wraps"
        )]
        Now { ms: ms as u32 }
    }
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[expect(unsafe_code, reason = "the intrinsic is declared unsafe")]
fn tsc() -> u64 {
    // SAFETY: the instruction reads a counter and touches nothing; every x86-64 has it.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Both clocks at the same moment: the tightest of several tries, as a thread may lose its core between two readings.
#[cfg(target_arch = "x86_64")]
fn sample() -> (Instant, u64) {
    const TRIES: usize = 16;
    let attempt = |_| {
        let before = tsc();
        let instant = Instant::now();
        let gap = tsc() - before;
        (gap, instant, before + gap / 2)
    };
    let tightest = (0..TRIES).map(attempt).min_by_key(|(gap, ..)| *gap);
    let (_, instant, cycles) = tightest.expect("there are tries");
    (instant, cycles)
}

/// Whether the kernel found the counter constant in rate and running in every sleep state.
#[cfg(target_arch = "x86_64")]
fn has_constant_tsc() -> bool {
    let Ok(text) = std::fs::read_to_string("/proc/cpuinfo") else {
        return false;
    };
    let flags = text.lines().find(|line| line.starts_with("flags"));
    flags.is_some_and(|line| {
        let mut words = line.split_whitespace();
        words.clone().any(|word| word == "constant_tsc") && words.any(|word| word == "nonstop_tsc")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_at_the_pace_of_the_monotonic_clock() {
        for clock in [Clock::calibrate(), Clock::monotonic()] {
            // Bounds that hold wherever the thread loses its core: the counter's span holds the inner one and is in the
            // outer one. Rounding costs a millisecond.
            let outer = Instant::now();
            let from = clock.cycles();
            let inner = Instant::now();
            while inner.elapsed() < Duration::from_millis(30) {
                core::hint::spin_loop();
            }
            let to = clock.cycles();
            let most = outer.elapsed().as_millis() * 1_001 / 1_000 + 2;
            let counted = clock.now(to).ms.wrapping_sub(clock.now(from).ms);
            assert!(
                (29..=most).contains(&u128::from(counted)),
                "{counted} ms, at most {most}"
            );
        }
    }

    #[test]
    fn milliseconds_wrap() {
        let clock = Clock {
            source: Source::Monotonic(Instant::now()),
            start_cycles: 0,
            cycles_per_ms: 2,
        };
        assert_eq!(clock.now(2 * (u64::from(u32::MAX) + 3)).ms, 2);
    }
}
