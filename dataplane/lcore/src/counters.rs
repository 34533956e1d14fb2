//! What an lcore counts about itself. Packets are counted in [`march_pipeline::Counters`].

use march_pipeline::Counter;

/// Buckets of the burst histogram: bucket `i` counts bursts of 2^i up to 2^(i+1) - 1 frames.
pub const BURST_BUCKETS: usize = 7;

const _: () = assert!(1 << (BURST_BUCKETS - 1) == march_port::BURST);

/// One writer, any number of readers.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct LcoreCounters {
    /// Id of the generation that the last turn ran with: no frame is decided by an older one any more.
    pub generation: Counter,
    /// Counter cycles of turns that moved a frame.
    pub busy_cycles: Counter,
    /// Counter cycles of turns that moved none, sleep included.
    pub idle_cycles: Counter,
    /// Longest turn that moved a frame, cycles (a gauge; [`crate::Command::ForgetWorst`] sets it to 0).
    pub worst_turn_cycles: Counter,
    /// Turns.
    pub turns: Counter,
    /// Polls of a port that found nothing.
    pub empty_polls: Counter,
    /// Bursts received, by size.
    pub bursts: [Counter; BURST_BUCKETS],
    /// Next hops that the agent was asked to resolve.
    pub resolve_requests: Counter,
    /// Requests that found the ring to the agent full; the next packet asks again.
    pub resolve_lost: Counter,
    /// Sleeps of [`crate::Idle::Relax`].
    pub naps: Counter,
}

impl LcoreCounters {
    /// Counts one poll of a port.
    #[inline]
    pub(crate) fn polled(&self, frames: usize) {
        let bucket = frames
            .checked_ilog2()
            .and_then(|bucket| self.bursts.get(bucket as usize));
        bucket.unwrap_or(&self.empty_polls).add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bursts_are_counted_by_size() {
        let counters = LcoreCounters::default();
        for frames in [0, 1, 2, 3, 4, 63, 64] {
            counters.polled(frames);
        }
        let bursts: Vec<u64> = counters.bursts.iter().map(Counter::get).collect();
        assert_eq!(bursts, [1, 2, 1, 0, 0, 1, 1]);
        assert_eq!(counters.empty_polls.get(), 1);
    }
}
