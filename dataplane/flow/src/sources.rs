//! How far ahead of its rate each source is: one lcore's bounded table of token buckets.

use crate::HashSeed;
use crate::address::multiply_fold;
use crate::memory::{HugeSlice, Zeroed, prefetch};
use crate::rate::{Rate, TokenBucket};

/// Sources that share a cache line.
const WAYS: usize = 4;

/// One source. No tag: the place is empty.
#[derive(Clone, Copy)]
#[repr(C)]
struct Entry {
    /// The whole hash of who it is, never 0. Two sources with equal hashes share a bucket; nobody can choose them without the seed.
    tag: u64,
    bucket: TokenBucket,
}

/// One cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line {
    entries: [Entry; WAYS],
}

const _: () = assert!(size_of::<Line>() == 64 && align_of::<Line>() == 64);

// SAFETY: integers only; an all-zero line holds nobody.
unsafe impl Zeroed for Line {}

/// Who is limited: a hash over the limit and the source, from [`SourceTable::key`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceKey(u64);

/// Token buckets by source, 16 bytes each, bounded. When a line is full, the source whose bucket is nearest to full makes room:
/// of all four it is the one about whom least is forgotten, so a flood of sources that come once pushes out its own kind and
/// not the one that sends too much.
pub struct SourceTable {
    lines: HugeSlice<Line>,
    mask: usize,
    seed: HashSeed,
    tracked: usize,
    evicted: u64,
}

impl SourceTable {
    /// For `sources`: at least twice as many places, 16 bytes each. That leaves one source in thirty without a place of its own
    /// when all are there; as many places as sources would leave one in five. Allocates everything now.
    ///
    /// # Errors
    /// The system has no such memory.
    pub fn new(sources: usize, seed: (u64, u64)) -> std::io::Result<Self> {
        let lines = sources
            .saturating_mul(2)
            .div_ceil(WAYS)
            .max(1)
            .checked_next_power_of_two()
            .ok_or_else(|| std::io::Error::from(std::io::ErrorKind::OutOfMemory))?;
        Ok(Self {
            lines: HugeSlice::new(lines)?,
            mask: lines - 1,
            seed: HashSeed(seed.0 | 1, seed.1 | 1),
            tracked: 0,
            evicted: 0,
        })
    }

    /// Whom `limit` counts: the source prefix in two words, host bits 0. An IPv4 prefix has 0 in the upper word and
    /// `u32::MAX` in the upper half of the lower one, which no IPv6 prefix that sends has.
    #[inline]
    pub fn key(&self, limit: u16, source: [u64; 2]) -> SourceKey {
        SourceKey(hash_of(self.seed, limit, source))
    }

    /// Fetches the line of a source that will be asked about.
    #[inline]
    pub fn prefetch(&self, key: SourceKey) {
        prefetch(&self.lines[self.line_of(key)]);
    }

    /// Takes `units` from the source's bucket, a full one if it is not known. `false` if there is not as much.
    #[inline]
    pub fn take(&mut self, key: SourceKey, rate: &Rate, units: u64, now_ms: u32) -> bool {
        let tag = key.0 | 1 << 63;
        let at = self.line_of(key);
        let line = &mut self.lines[at];
        for entry in &mut line.entries {
            if entry.tag == tag {
                return entry.bucket.take(rate, units, now_ms);
            }
        }
        let mut victim = 0;
        let mut least = u64::MAX;
        for (way, entry) in line.entries.iter().enumerate() {
            if entry.tag == 0 {
                victim = way;
                self.tracked += 1;
                least = 0;
                break;
            }
            let lacks = entry.bucket.lacks(now_ms);
            if lacks < least {
                (victim, least) = (way, lacks);
            }
        }
        self.evicted += u64::from(least > 0);
        let mut bucket = TokenBucket::default();
        let taken = bucket.take(rate, units, now_ms);
        line.entries[victim & (WAYS - 1)] = Entry { tag, bucket };
        taken
    }

    /// Places in use, those of sources that have been silent since included.
    pub fn tracked(&self) -> usize {
        self.tracked
    }

    /// Sources that were forgotten before their bucket was full again.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Places.
    pub fn capacity(&self) -> usize {
        self.lines.len() * WAYS
    }

    /// Memory in use, bytes.
    pub fn memory_bytes(&self) -> usize {
        size_of_val(&*self.lines)
    }

    #[inline]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the mask keeps fewer bits than either type has"
    )]
    fn line_of(&self, key: SourceKey) -> usize {
        key.0 as usize & self.mask
    }
}

#[inline]
fn hash_of(seed: HashSeed, limit: u16, source: [u64; 2]) -> u64 {
    let folded = multiply_fold(source[0] ^ seed.0, source[1] ^ seed.1);
    multiply_fold(
        folded ^ seed.0.rotate_left(29) ^ u64::from(limit),
        seed.1 ^ 0x9e6c_63d0_876a_46bb ^ source[0].rotate_left(17) ^ source[1],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: (u64, u64) = (0x1234_5678_9abc_def1, 0x0fed_cba9_8765_4321);

    fn v4(address: u32) -> [u64; 2] {
        [0, u64::from(u32::MAX) << 32 | u64::from(address)]
    }

    #[test]
    fn one_source_is_held_to_its_rate_and_another_is_not() {
        let mut table = SourceTable::new(1 << 10, SEED).unwrap();
        let rate = Rate::new(10_000, 10_000);
        let [loud, calm] = [1, 2].map(|address| table.key(7, v4(address)));
        let (mut passed, mut refused) = (0, 0);
        for ms in 0..10_000 {
            for _ in 0..50 {
                passed += u32::from(table.take(loud, &rate, 1, ms));
            }
            refused += u32::from(!table.take(calm, &rate, 9, ms));
        }
        assert_eq!(refused, 0);
        // 10 s at the rate, and the burst.
        assert!((109_900..=110_000 + 20).contains(&passed), "{passed}");
        assert_eq!((table.tracked(), table.evicted()), (2, 0));
    }

    #[test]
    fn limits_do_not_share_buckets() {
        let mut table = SourceTable::new(1 << 10, SEED).unwrap();
        let rate = Rate::new(1, 1);
        let keys = [0, 1].map(|limit| table.key(limit, v4(9)));
        assert!(keys.iter().all(|key| table.take(*key, &rate, 1, 0)));
        assert!(!keys.iter().any(|key| table.take(*key, &rate, 1, 0)));
    }

    #[test]
    fn a_flood_of_sources_does_not_free_the_one_that_sends_too_much() {
        let mut table = SourceTable::new(1 << 10, SEED).unwrap();
        let rate = Rate::new(1_000, 1_000);
        let loud = table.key(0, v4(0xffff));
        let (mut passed, mut spoofed) = (0, 0);
        for ms in 0..10_000 {
            for _ in 0..5 {
                passed += u32::from(table.take(loud, &rate, 1, ms));
            }
            for _ in 0..20 {
                spoofed += 1;
                let key = table.key(0, v4(0x0a00_0000 + spoofed));
                assert!(
                    table.take(key, &rate, 1, ms),
                    "a source that comes once is not limited"
                );
            }
        }
        assert!((10_900..=11_010).contains(&passed), "{passed}");
        assert_eq!(table.tracked(), table.capacity(), "the flood fills it");
    }

    #[test]
    fn a_million_sources_find_room() {
        let mut table = SourceTable::new(1_000_000, SEED).unwrap();
        let rate = Rate::new(1, 10);
        for address in 0..1_000_000_u32 {
            let key = table.key(0, v4(address << 4));
            table.take(key, &rate, 1, 0);
        }
        let kept = table.tracked();
        assert!(kept > 960_000, "{kept} places in use");
        assert_eq!(usize::try_from(table.evicted()), Ok(1_000_000 - kept));
        assert_eq!(table.memory_bytes(), 32 << 20);
    }

    proptest::proptest! {
        /// Every bit of limit and source makes another key: 64 bits of hash, so equal ones would be a fault of the hash.
        #[test]
        fn keys_depend_on_everything(seed: (u64, u64), limit: u16, a: u64, b: u64, bit in 0_u32..144) {
            let hash = |limit, source| hash_of(HashSeed(seed.0 | 1, seed.1 | 1), limit, source);
            let other = match bit {
                0..64 => hash(limit, [a ^ 1 << bit, b]),
                64..128 => hash(limit, [a, b ^ 1 << (bit - 64)]),
                _ => hash(limit ^ 1 << (bit - 128), [a, b]),
            };
            proptest::prop_assert_ne!(hash(limit, [a, b]), other);
        }
    }
}
