//! Buckets of one cache line with sixteen-bit tags, entries of one cache line with the whole key.

use std::arch::x86_64::{_mm_cmpeq_epi16, _mm_load_si128, _mm_movemask_epi8, _mm_set1_epi16};

use crate::memory::{Arena, Zeroable, prefetch};

const SLOTS: usize = 8;

/// Eight tags, eight entry numbers, and how many keys of this home bucket live in their alternate one.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Bucket {
    tags: [u16; SLOTS],
    entries: [u32; SLOTS],
    moved_out: u32,
    unused: [u32; 3],
}

/// What is known of one direction of one session.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct Entry {
    pub addresses: u64,
    /// Source port, destination port, protocol from the low end.
    pub ports: u64,
    pub new_addresses: u64,
    pub new_ports: u32,
    pub ip_delta: u16,
    pub l4_delta: u16,
    pub service: u16,
    pub next_hop: u16,
    pub last_seen: u32,
    pub packets: u64,
    pub bytes: u64,
    pub tcp_flags: u32,
    pub peer: u32,
}

const _: () = assert!(size_of::<Bucket>() == 64 && size_of::<Entry>() == 64);

// SAFETY: integers only.
unsafe impl Zeroable for Bucket {}
// SAFETY: integers only.
unsafe impl Zeroable for Entry {}

/// No entry.
pub const MISS: u32 = u32::MAX;

/// Exact-match table over [`Entry`].
pub struct Table {
    buckets: Arena<Bucket>,
    pub entries: Arena<Entry>,
}

impl Table {
    /// For `capacity` entries at a load of 0.48 to 0.8 of the slots.
    pub fn new(capacity: usize) -> std::io::Result<Self> {
        Ok(Self {
            buckets: Arena::new(capacity / SLOTS + capacity / SLOTS / 4 + 2)?,
            entries: Arena::new(capacity)?,
        })
    }

    /// Two rounds of 64 x 64 -> 128 multiplication, keyed.
    #[inline]
    pub fn hash(addresses: u64, ports: u64) -> u64 {
        let first = mix(
            addresses ^ 0x8c3f_52d1_9b0e_47a5,
            ports ^ 0x2f61_c08e_d574_3b99,
        );
        mix(first ^ 0xd6e8_feb8_6659_fd93, 0xa5a3_564d_27f1_1c6b)
    }

    #[inline]
    pub fn prefetch_bucket(&self, hash: u64) {
        prefetch(self.buckets.address(home(hash)));
    }

    #[inline]
    pub fn prefetch_entry(&self, entry: u32) {
        prefetch(self.entries.address(entry as usize));
    }

    /// The first entry whose tag fits; its key is still to be compared.
    #[inline]
    pub fn candidate(&self, hash: u64) -> u32 {
        let tag = tag(hash);
        let bucket = self.buckets.at(home(hash));
        let found = matching(bucket, tag);
        if found != 0 {
            return bucket.entries[(found.trailing_zeros() / 2) as usize % SLOTS];
        }
        if bucket.moved_out == 0 {
            return MISS;
        }
        let bucket = self.buckets.at(self.alternate(home(hash), tag));
        match matching(bucket, tag) {
            0 => MISS,
            found => bucket.entries[(found.trailing_zeros() / 2) as usize % SLOTS],
        }
    }

    /// Every entry whose tag fits, by key: for the rare case that two tags of a bucket are the same.
    #[cold]
    #[inline(never)]
    pub fn find(&self, hash: u64, addresses: u64, ports: u64) -> u32 {
        let tag = tag(hash);
        for index in [home(hash), self.alternate(home(hash), tag)] {
            let bucket = self.buckets.at(index);
            for (found, entry) in bucket.tags.iter().zip(bucket.entries) {
                let key = self.entries.at(entry as usize);
                if *found == tag && key.addresses == addresses && key.ports == ports {
                    return entry;
                }
            }
        }
        MISS
    }

    /// Links entry number `entry`, which holds its key already. `false` if neither bucket can take it.
    pub fn insert(&mut self, hash: u64, entry: u32) -> bool {
        let tag = tag(hash);
        let first = home(hash);
        let second = self.alternate(first, tag);
        if self.place(first, tag, entry) {
            return true;
        }
        if self.place(second, tag, entry) || self.make_room(second, tag, entry) {
            self.buckets.at_mut(first).moved_out += 1;
            return true;
        }
        false
    }

    fn place(&mut self, bucket: usize, tag: u16, entry: u32) -> bool {
        let bucket = self.buckets.at_mut(bucket);
        let Some(slot) = bucket.tags.iter().position(|used| *used == 0) else {
            return false;
        };
        bucket.tags[slot] = tag;
        bucket.entries[slot] = entry;
        true
    }

    /// Moves one resident that is at home in `bucket` to its alternate, then takes its slot.
    fn make_room(&mut self, bucket: usize, tag: u16, entry: u32) -> bool {
        for slot in 0..SLOTS {
            let (moved_tag, moved) = {
                let bucket = self.buckets.at(bucket);
                (bucket.tags[slot], bucket.entries[slot])
            };
            let key = self.entries.at(moved as usize);
            let at_home = self.same(home(Self::hash(key.addresses, key.ports)), bucket);
            let other = self.alternate(bucket, moved_tag);
            if at_home && !self.same(other, bucket) && self.place(other, moved_tag, moved) {
                let bucket = self.buckets.at_mut(bucket);
                bucket.moved_out += 1;
                bucket.tags[slot] = tag;
                bucket.entries[slot] = entry;
                return true;
            }
        }
        false
    }

    fn same(&self, left: usize, right: usize) -> bool {
        (left ^ right) & (self.buckets.len() - 1) == 0
    }

    #[inline]
    fn alternate(&self, bucket: usize, tag: u16) -> usize {
        bucket ^ (usize::from(tag).wrapping_mul(0x9e37_79b1) & (self.buckets.len() - 1))
    }
}

#[inline]
fn mix(left: u64, right: u64) -> u64 {
    let product = u128::from(left) * u128::from(right);
    (product as u64) ^ ((product >> 64) as u64)
}

/// Never 0: that is an empty slot.
#[inline]
fn tag(hash: u64) -> u16 {
    ((hash >> 48) as u16) | 1
}

#[inline]
fn home(hash: u64) -> usize {
    hash as usize & 0xffff_ffff
}

/// Two bits for each slot whose tag is `tag`.
#[inline]
fn matching(bucket: &Bucket, tag: u16) -> u32 {
    // SAFETY: SSE2 is part of x86-64.
    unsafe { matching_sse2(bucket, tag) }
}

#[inline]
#[target_feature(enable = "sse2")]
fn matching_sse2(bucket: &Bucket, tag: u16) -> u32 {
    // SAFETY: the tags are the first 16 bytes of a bucket, which is aligned to 64.
    let tags = unsafe { _mm_load_si128(bucket.tags.as_ptr().cast()) };
    let wanted = _mm_set1_epi16(tag.cast_signed());
    _mm_movemask_epi8(_mm_cmpeq_epi16(tags, wanted)).cast_unsigned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_inserted_is_found() {
        const COUNT: u32 = 50_000;
        let mut table = Table::new(COUNT as usize).unwrap();
        let key = |id: u32| (u64::from(id) * 7919, u64::from(id) ^ 0x11_0000_0000);
        for id in 0..COUNT {
            let (addresses, ports) = key(id);
            *table.entries.at_mut(id as usize) = Entry {
                addresses,
                ports,
                new_addresses: 0,
                new_ports: 0,
                ip_delta: 0,
                l4_delta: 0,
                service: 0,
                next_hop: 0,
                last_seen: 0,
                packets: 0,
                bytes: 0,
                tcp_flags: 0,
                peer: 0,
            };
            assert!(table.insert(Table::hash(addresses, ports), id));
        }
        for id in 0..COUNT {
            let (addresses, ports) = key(id);
            let hash = Table::hash(addresses, ports);
            assert_ne!(table.candidate(hash), MISS);
            assert_eq!(table.find(hash, addresses, ports), id);
        }
    }
}
