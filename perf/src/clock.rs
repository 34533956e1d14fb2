//! Time by the TSC, and what a series of windows says.

use std::time::Instant;

/// The time-stamp counter, not reordered with what is around it.
#[inline]
pub fn tsc() -> u64 {
    use std::arch::x86_64::{_mm_lfence, _rdtsc};
    // SAFETY: SSE2 is part of x86-64.
    unsafe { _mm_lfence() };
    // SAFETY: the TSC is readable from user space on Linux.
    let now = unsafe { _rdtsc() };
    // SAFETY: as above.
    unsafe { _mm_lfence() };
    now
}

/// TSC ticks per nanosecond, measured against the monotonic clock.
pub fn tsc_per_ns() -> f64 {
    let mut rates: Vec<f64> = (0..5)
        .map(|_| {
            let (start, first) = (Instant::now(), tsc());
            while start.elapsed().as_millis() < 20 {
                std::hint::spin_loop();
            }
            let (last, elapsed) = (tsc(), start.elapsed());
            to_f64(last - first) / elapsed.as_secs_f64() / 1e9
        })
        .collect();
    percentile(&mut rates, 50)
}

/// The value that `percent` of the values do not exceed. Sorts them.
pub fn percentile(values: &mut [f64], percent: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    let Some(last) = values.len().checked_sub(1) else {
        return f64::NAN;
    };
    values[last * percent / 100]
}

/// Counts as numbers to divide; exact below 2^53.
#[expect(
    clippy::cast_precision_loss,
    reason = "counts and ticks of one run stay far below 2^53"
)]
pub fn to_f64(count: u64) -> f64 {
    count as f64
}

/// Highest priority and one core, so that what is measured is the code. Says what could not be had.
pub fn settle(core: usize) {
    prioritise(-20);
    pin(core);
}

/// Gives the calling thread, and those that it will start, this nice value.
pub fn prioritise(nice: i32) {
    // SAFETY: plain system call on the calling thread.
    let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) };
    if result != 0 {
        eprintln!("# not at nice {nice}: {}", std::io::Error::last_os_error());
    }
}

/// The scheduler's group of this session, in front of those of other sessions while this value lives.
///
/// With automatic grouping a nice value only counts inside the session: what another terminal runs has the same share of
/// a core as all of this benchmark, unless the group itself has a nice value.
pub struct Session {
    before: Option<i32>,
}

const GROUP: &str = "/proc/self/autogroup";

impl Session {
    /// Puts it in front; says so if that could not be had. Without automatic grouping there is nothing to do.
    pub fn prioritise() -> Self {
        let before = std::fs::read_to_string(GROUP)
            .ok()
            .and_then(|text| text.trim().rsplit_once(' ')?.1.parse().ok());
        if before.is_some()
            && let Err(error) = std::fs::write(GROUP, "-20")
        {
            eprintln!("# this session is not in front of others: {error}");
        }
        Self { before }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(before) = self.before {
            // It could be set or it could not; either way there is no more to do.
            let _ = std::fs::write(GROUP, before.to_string());
        }
    }
}

/// Keeps the calling thread on one core.
pub fn pin(core: usize) {
    // SAFETY: an all-zero CPU set is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: sets one bit inside the set; the index is bounds-checked by libc.
    unsafe { libc::CPU_SET(core, &mut set) };
    // SAFETY: the set is valid and of the size given.
    let pinned = unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) };
    if pinned != 0 {
        eprintln!(
            "# not pinned to core {core}: {}",
            std::io::Error::last_os_error()
        );
    }
}

/// A small generator of random numbers; the same seed gives the same traffic.
pub struct Random(u64);

impl Random {
    /// Seeded; zero is replaced.
    pub fn new(seed: u64) -> Self {
        Self(seed.max(1))
    }

    /// The next number.
    #[inline]
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Uniform below `bound`.
    #[inline]
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles() {
        let mut values = [5.0, 1.0, 3.0, 2.0, 4.0];
        assert!((percentile(&mut values, 50) - 3.0).abs() < 1e-9);
        assert!((percentile(&mut values, 100) - 5.0).abs() < 1e-9);
    }

    #[test]
    fn random_stays_below() {
        let mut random = Random::new(7);
        assert!((0..1000).all(|_| random.below(10) < 10));
    }
}
