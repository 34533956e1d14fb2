//! One cache line of the index: eight tags, eight slots, and how many of its own entries live in their other bucket.

use crate::memory::Zeroed;

/// Entries of one bucket.
pub const WAYS: usize = 8;

/// One cache line of the index.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct Bucket {
    /// Upper bits of the hash, never 0 in a used way.
    pub tags: [u16; WAYS],
    /// Flow index shifted left by one, or'ed with the direction.
    pub slots: [u32; WAYS],
    /// Entries whose first bucket this is but which live in their second.
    pub overflow: u32,
    unused: [u32; 3],
}

const _: () = assert!(size_of::<Bucket>() == 64 && align_of::<Bucket>() == 64);

// SAFETY: integers only; an all-zero bucket is an empty one.
unsafe impl Zeroed for Bucket {}

impl Bucket {
    /// Bit `i` is set where way `i` has this tag.
    #[inline]
    pub fn matches(&self, tag: u16) -> u32 {
        // Compiles to one vector compare and one mask move.
        let mut mask = 0;
        for (way, candidate) in self.tags.iter().enumerate() {
            mask |= u32::from(*candidate == tag) << way;
        }
        mask
    }

    /// The first free way.
    #[inline]
    pub fn free_way(&self) -> Option<usize> {
        let mask = self.matches(0);
        (mask != 0).then(|| mask.trailing_zeros() as usize)
    }

    /// The way that holds this slot under this tag.
    pub fn way_of(&self, tag: u16, slot: u32) -> Option<usize> {
        (0..WAYS).find(|&way| self.tags[way] == tag && self.slots[way] == slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_every_way() {
        let mut bucket = Bucket {
            tags: [0; WAYS],
            slots: [0; WAYS],
            overflow: 0,
            unused: [0; 3],
        };
        assert_eq!(bucket.matches(0), 0xff);
        for way in 0..WAYS {
            assert_eq!(bucket.free_way(), Some(way));
            bucket.tags[way] = 0x8001 + u16::try_from(way).unwrap();
            assert_eq!(bucket.matches(bucket.tags[way]), 1 << way);
        }
        assert_eq!(bucket.free_way(), None);
        bucket.tags[3] = bucket.tags[5];
        assert_eq!(bucket.matches(bucket.tags[5]), 1 << 3 | 1 << 5);
    }
}
