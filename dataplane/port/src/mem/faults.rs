//! Faults on demand, the same ones for the same seed.

/// How often a memory port misbehaves, each in occurrences per million.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Start of the sequence: the same seed and the same calls give the same faults.
    pub seed: u64,
    /// Frames lost before `rx_burst` sees them (counted in `rx_missed`).
    pub rx_loss: u32,
    /// Frames that change places with the one before them in a burst.
    pub rx_reorder: u32,
    /// Calls of `tx_burst` that find room for only some of the frames.
    pub tx_full: u32,
    /// Calls of `allocate` that find the pool dry.
    pub pool_dry: u32,
}

/// The sequence of faults (`SplitMix64`).
#[derive(Debug)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Whether something that happens `per_million` times in a million happens now.
    pub(super) fn roll(&mut self, per_million: u32) -> bool {
        per_million != 0 && self.below(1_000_000) < u64::from(per_million)
    }

    /// A number below `bound`.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64)
            .try_into()
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_rolls_the_same_faults() {
        let (mut first, mut second) = (Dice::new(7), Dice::new(7));
        let rolls: Vec<bool> = (0..1000).map(|_| first.roll(300_000)).collect();
        assert!(rolls.iter().all(|&roll| roll == second.roll(300_000)));
        let hits = rolls.iter().filter(|&&roll| roll).count();
        assert!((200..400).contains(&hits), "{hits} of 1000 at 30 %");
        assert!(!first.roll(0));
        assert!(first.roll(1_000_000));
    }
}
