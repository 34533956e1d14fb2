//! Sorted numbers, searched without a branch that they could make unpredictable: a line of every sixteenth, of every sixteenth of
//! those, and so on, each a count over sixteen neighbours.

use super::spans::Key;

/// Numbers per step.
const STEP: usize = 16;

/// A [`Key`] that octets and counts can be packed into.
pub(super) trait Word: Key {
    /// The highest.
    const MAX: Self;
    /// Octets in one.
    const OCTETS: usize;
    fn octet(self, at: usize) -> u8;
    /// Up to [`Word::OCTETS`] octets.
    fn of_octets(octets: &[u8]) -> Self;
    /// Three numbers below 2^16.
    fn of_counts(counts: [usize; 3]) -> Self;
    fn counts(self) -> [usize; 3];
    /// How many of a few sorted numbers are not above this one.
    fn rank(self, few: &[Self]) -> usize;
}

macro_rules! word {
    ($number:ty, $rank:expr) => {
        impl Word for $number {
            const MAX: Self = Self::MAX;
            const OCTETS: usize = size_of::<Self>();
            #[inline]
            fn octet(self, at: usize) -> u8 {
                self.to_le_bytes()[at]
            }
            fn of_octets(octets: &[u8]) -> Self {
                let mut word = [0; size_of::<Self>()];
                word[..octets.len()].copy_from_slice(octets);
                Self::from_le_bytes(word)
            }
            fn of_counts(counts: [usize; 3]) -> Self {
                counts.iter().rev().fold(0, |word, count| {
                    let count = u16::try_from(*count).expect("a chunk has few hundred of each");
                    word << 16 | Self::from(count)
                })
            }
            #[inline]
            fn counts(self) -> [usize; 3] {
                [0, 2, 4].map(|at| {
                    let [low, high] = [self.octet(at), self.octet(at + 1)];
                    usize::from(u16::from_le_bytes([low, high]))
                })
            }
            #[inline]
            fn rank(self, few: &[Self]) -> usize {
                $rank(few, self)
            }
        }
    };
}

// The processor compares 64-bit numbers four at a time; of the longer ones it is quicker to look at few.
word!(u64, |few: &[u64], number| few
    .iter()
    .map(|at| usize::from(*at <= number))
    .sum());
word!(u128, |few: &[u128], number| few
    .partition_point(|at| *at <= number));

/// Sorted numbers that can be searched.
#[derive(Clone)]
pub(super) struct Ladder<K> {
    /// The coarsest first, each filled up with the highest number to whole steps. The last one has all.
    rungs: Box<[Box<[K]>]>,
    count: usize,
}

impl<K: Word> Ladder<K> {
    pub fn new(numbers: Vec<K>) -> Self {
        let count = numbers.len();
        let mut rungs = vec![numbers];
        while let Some(finest) = rungs.last()
            && finest.len() > STEP
        {
            let coarser = finest.iter().step_by(STEP).copied().collect();
            rungs.push(coarser);
        }
        let whole = |mut rung: Vec<K>| {
            rung.resize(rung.len().next_multiple_of(STEP), K::MAX);
            rung.into()
        };
        Self {
            rungs: rungs.into_iter().rev().map(whole).collect(),
            count,
        }
    }

    pub fn get(&self, at: usize) -> Option<K> {
        let all = self.rungs.last()?;
        all[..self.count].get(at).copied()
    }

    /// How many are not above `number`.
    #[inline]
    pub fn rank(&self, number: K) -> usize {
        let mut step = 0;
        let mut found = 0;
        for rung in &self.rungs {
            let Some(near) = rung.get(step * STEP..(step + 1) * STEP) else {
                // Only the very last number goes past the end, over what fills up.
                return self.count;
            };
            found = step * STEP + number.rank(near);
            step = found.saturating_sub(1);
        }
        found.min(self.count)
    }

    pub fn memory_bytes(&self) -> usize {
        self.rungs.iter().map(|rung| size_of_val(&**rung)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_like_a_search() {
        for count in [0_u64, 1, 2, 15, 16, 17, 255, 256, 257, 4_096, 5_000] {
            let numbers: Vec<u64> = (0..count)
                .map(|number| number * 3)
                .chain((count > 20).then_some(u64::MAX))
                .collect();
            let ladder = Ladder::new(numbers.clone());
            for probe in (0..count * 3 + 5).chain([u64::MAX - 1, u64::MAX]) {
                let expected = numbers.partition_point(|number| *number <= probe);
                assert_eq!(ladder.rank(probe), expected, "{probe} in {count}");
            }
        }
    }
}
