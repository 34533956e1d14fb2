//! Timing by turns: ours, theirs, ours again, each for a tenth of a second or so.

use march_tables::{Rules, Subject};
use march_wire::tuple::Address;

use super::acl::{Acl, Algorithm, Keys};
use super::ours::{self, BURST, Lookup};
use super::report::Yardstick;
use crate::clock::{percentile, to_f64, tsc};

/// Lookups between two readings of the clock: some 50 to 200 us, so that a stolen window is one among many.
const WINDOW: usize = 1024;
/// Batches that `rte_acl` is tried with; the best counts.
const BATCHES: [usize; 4] = [32, 64, 128, 256];

/// How long and how often.
#[derive(Clone, Copy)]
pub struct Timer {
    /// TSC ticks per nanosecond.
    pub rate: f64,
    /// Milliseconds of a turn.
    pub turn_ms: u64,
    /// Turns of each side.
    pub rounds: usize,
}

/// Nanoseconds per lookup of ours.
pub struct Times {
    /// One at a time.
    pub single_ns: f64,
    /// In bursts.
    pub burst_ns: f64,
}

impl Timer {
    /// Ours and `rte_acl` at its best, A B A B.
    pub fn both<A: Address>(
        self,
        rules: &Rules,
        subjects: &[Subject<A>],
        acl: &mut Acl,
        keys: &Keys,
    ) -> (Times, Yardstick) {
        let avx2 = self.best_of(acl, keys, &Algorithm::ALL[..1]);
        let best = self.best_of(acl, keys, &Algorithm::ALL);
        let one = (best.0, 1);
        let mut turns: [Vec<f64>; 5] = Default::default();
        for _ in 0..self.rounds {
            turns[0].push(self.ours(rules, subjects, ours::burst));
            turns[1].push(self.theirs(acl, keys, best));
            turns[2].push(self.ours(rules, subjects, ours::single));
            turns[3].push(self.theirs(acl, keys, one));
            turns[4].push(self.theirs(acl, keys, avx2));
        }
        let [burst, widest, single, one, avx2] = &turns;
        let speed = [ratio(widest, burst), ratio(avx2, burst), ratio(one, single)];
        let [burst_ns, widest_ns, single_ns, one_ns, avx2_ns] =
            turns.map(|mut turns| percentile(&mut turns, 50));
        let yardstick = Yardstick {
            widest_ns,
            avx2_ns,
            single_ns: one_ns,
            best: (best.0.name(), best.1),
            speed,
            bytes: acl.bytes,
            build_seconds: acl.build_seconds,
        };
        let ours = Times {
            single_ns,
            burst_ns,
        };
        (ours, yardstick)
    }

    /// Ours without anything beside it.
    pub fn alone<A: Address>(self, rules: &Rules, subjects: &[Subject<A>]) -> Times {
        let mut turns: [Vec<f64>; 2] = Default::default();
        for _ in 0..self.rounds {
            turns[0].push(self.ours(rules, subjects, ours::burst));
            turns[1].push(self.ours(rules, subjects, ours::single));
        }
        let [burst_ns, single_ns] = turns.map(|mut turns| percentile(&mut turns, 50));
        Times {
            single_ns,
            burst_ns,
        }
    }

    /// The fastest of these algorithms with its fastest batch.
    fn best_of(self, acl: &mut Acl, keys: &Keys, algorithms: &[Algorithm]) -> (Algorithm, usize) {
        let choices = algorithms
            .iter()
            .flat_map(|algorithm| BATCHES.map(|batch| (*algorithm, batch)));
        let times = choices.map(|choice| (self.theirs(acl, keys, choice), choice));
        let fastest = times.min_by(|(one, _), (other, _)| one.total_cmp(other));
        fastest.expect("there is an algorithm").1
    }

    /// A turn of `rte_acl`; infinitely slow where the machine lacks the algorithm.
    fn theirs(self, acl: &mut Acl, keys: &Keys, (algorithm, batch): (Algorithm, usize)) -> f64 {
        if !acl.choose(algorithm) {
            return f64::INFINITY;
        }
        let mut results = vec![0; WINDOW];
        self.turn(keys.len(), |at| {
            for (index, results) in results.chunks_mut(batch).enumerate() {
                acl.classify(keys, at + index * batch, results);
            }
            std::hint::black_box(&results);
        })
    }

    /// A turn of ours.
    fn ours<A: Address>(self, rules: &Rules, subjects: &[Subject<A>], lookup: Lookup<A>) -> f64 {
        let mut results = vec![None; WINDOW];
        self.turn(subjects.len(), |at| {
            for (subjects, results) in subjects[at..].chunks(BURST).zip(results.chunks_mut(BURST)) {
                lookup(rules, subjects, results);
            }
            std::hint::black_box(&results);
        })
    }

    /// Nanoseconds per lookup, the median of a turn's windows. Its first third brings the caches to this side's state.
    fn turn(self, trace: usize, mut lookup: impl FnMut(usize)) -> f64 {
        let mut times = Vec::new();
        let (mut at, start) = (0, tsc());
        let turn_ns = to_f64(self.turn_ms) * 1e6;
        loop {
            let first = tsc();
            lookup(at);
            let last = tsc();
            at = (at + WINDOW) % trace;
            let elapsed_ns = to_f64(last - start) / self.rate;
            if elapsed_ns > turn_ns / 3.0 {
                times.push(to_f64(last - first) / self.rate / to_f64(WINDOW as u64));
            }
            if elapsed_ns > turn_ns {
                return percentile(&mut times, 50);
            }
        }
    }
}

/// Their time over ours, round by round, the median.
fn ratio(theirs: &[f64], ours: &[f64]) -> f64 {
    let rounds = theirs.iter().zip(ours);
    let mut ratios: Vec<f64> = rounds.map(|(theirs, ours)| theirs / ours).collect();
    percentile(&mut ratios, 50)
}
