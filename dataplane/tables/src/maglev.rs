//! Maglev consistent hashing (Eisenbud et al., NSDI 2016, section 3.4), weighted.
//!
//! Every backend walks its own permutation of the slots and claims the next free one whenever its accumulated weight
//! reaches another whole turn. Permutations depend only on (address, port), and backends take their turns in the order of
//! the same stable hash, so that every node builds the same table whatever order a document lists them in.

use core::cmp::Ordering;
use core::net::IpAddr;

use crate::BackendId;

/// Slots of a table: a prime, larger than 100 times any sensible pool.
pub(crate) const SLOTS: usize = 65_537;

/// A backend that takes new flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// What the table answers with.
    pub slot: BackendId,
    /// Identity, with the port.
    pub address: IpAddr,
    /// Identity, with the address.
    pub port: u16,
    /// Relative share, at least 1.
    pub weight: u32,
}

impl Member {
    /// A hash of (address, port) that is the same on every node and in every version.
    fn stable_hash(&self, salt: u64) -> u64 {
        let (high, low, family) = match self.address {
            IpAddr::V4(address) => (0, u64::from(u32::from(address)), 4),
            IpAddr::V6(address) => {
                let [high, low] = halves(u128::from(address));
                (high, low, 6)
            }
        };
        let mut hash = mix(salt ^ family);
        hash = mix(hash ^ high);
        hash = mix(hash ^ low);
        mix(hash ^ u64::from(self.port))
    }

    /// Total order on identity; the hash first so that neighbours in address space are not neighbours in turns.
    pub(crate) fn order(&self, other: &Self) -> Ordering {
        let key = |member: &Self| (member.stable_hash(ORDER), member.address, member.port);
        key(self).cmp(&key(other))
    }
}

const ORDER: u64 = 0x6f72_6465_7200_0001;
const OFFSET: u64 = 0x6f66_6673_6574_0002;
const STRIDE: u64 = 0x7374_7269_6465_0003;

fn halves(value: u128) -> [u64; 2] {
    let bytes = value.to_be_bytes();
    let half = |at: usize| {
        let mut out = [0; 8];
        out.copy_from_slice(&bytes[at..at + 8]);
        u64::from_be_bytes(out)
    };
    [half(0), half(8)]
}

/// The finalizer of `SplitMix64`: a fixed bijection with full avalanche. Not keyed, on purpose: see the module header.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// A lookup table from hash to backend slot: 65 537 entries, 128 KB.
#[derive(PartialEq, Eq)]
pub struct Maglev {
    table: Box<[BackendId]>,
}

impl core::fmt::Debug for Maglev {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter
            .debug_struct("Maglev")
            .field("slots", &self.table.len())
            .finish()
    }
}

/// One backend's walk through the slots.
struct Walk {
    member: Member,
    next: u64,
    stride: u64,
    /// Weight needed for the next turn, in units of one member's weight per round.
    due: u64,
}

impl Walk {
    fn new(member: Member) -> Self {
        let slots = SLOTS as u64;
        Self {
            next: member.stable_hash(OFFSET) % slots,
            stride: member.stable_hash(STRIDE) % (slots - 1) + 1,
            due: 0,
            member,
        }
    }

    /// Claims the next slot of this permutation that is still free. The caller knows that there is one.
    fn claim(&mut self, table: &mut [u16], taken: &mut [bool]) {
        loop {
            let at = usize::try_from(self.next).expect("a slot index fits usize");
            self.next = (self.next + self.stride) % SLOTS as u64;
            if !taken[at] {
                taken[at] = true;
                table[at] = self.member.slot;
                return;
            }
        }
    }
}

impl Maglev {
    /// Builds the table for `members` in any order; `None` if there are none. About a millisecond: not for a lcore.
    #[must_use]
    pub fn new(members: &[Member]) -> Option<Self> {
        let mut members = members.to_vec();
        members.retain(|member| member.weight > 0);
        members.sort_by(Member::order);
        let heaviest = u64::from(members.iter().map(|member| member.weight).max()?);

        let mut walks: Vec<Walk> = members.into_iter().map(Walk::new).collect();
        let mut table = vec![0; SLOTS].into_boxed_slice();
        let mut taken = vec![false; SLOTS];
        let mut left = SLOTS;
        // In round r a member has earned r * weight; a turn costs the heaviest weight. 65 537 rounds of a u32 fit u64.
        for round in 1_u64.. {
            for walk in &mut walks {
                let earned = round * u64::from(walk.member.weight);
                if earned < walk.due + heaviest {
                    continue;
                }
                walk.due += heaviest;
                walk.claim(&mut table, &mut taken);
                left -= 1;
                if left == 0 {
                    return Some(Self { table });
                }
            }
        }
        unreachable!("every round fills at least one slot")
    }

    /// The backend slot for a flow's hash.
    #[inline]
    pub fn get(&self, hash: u64) -> BackendId {
        // The high half of a 64 x 64 multiplication maps the hash onto the table without a division.
        let at = (u128::from(hash) * self.table.len() as u128) >> 64;
        #[expect(clippy::cast_possible_truncation, reason = "below the table's length")]
        self.table[at as usize]
    }

    /// The table itself: for reports, and for tiers that keep it elsewhere (index `hash * slots >> 64`).
    #[must_use]
    pub fn table(&self) -> &[BackendId] {
        &self.table
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::{Ipv4Addr, Ipv6Addr};
    use proptest::prelude::*;

    fn member(index: u16, weight: u32) -> Member {
        Member {
            slot: index,
            address: if index.is_multiple_of(2) {
                Ipv4Addr::from(0x0a00_0000 + u32::from(index)).into()
            } else {
                Ipv6Addr::from(0x2001_0db8_u128 << 96 | u128::from(index)).into()
            },
            port: 8080 + index % 3,
            weight,
        }
    }

    fn members(weights: &[u32]) -> Vec<Member> {
        (0..)
            .zip(weights)
            .map(|(index, weight)| member(index, *weight))
            .collect()
    }

    fn share(table: &Maglev, slot: u16) -> u64 {
        table
            .table()
            .iter()
            .map(|entry| u64::from(*entry == slot))
            .sum()
    }

    #[test]
    fn no_member_no_table() {
        assert!(Maglev::new(&[]).is_none());
        assert!(Maglev::new(&[member(1, 0)]).is_none());
    }

    #[test]
    fn the_table_is_the_same_in_every_version() {
        let table = Maglev::new(&members(&[1, 2, 3, 4])).expect("members");
        let digest = table
            .table()
            .iter()
            .fold(0_u64, |digest, slot| mix(digest ^ u64::from(*slot)));
        // Nodes of different versions serve one VIP side by side: a change here breaks flows that ECMP moves.
        assert_eq!(digest, DIGEST);
    }
    const DIGEST: u64 = 3_411_717_817_164_913_237;

    #[test]
    fn every_slot_is_reachable_and_in_bounds() {
        let table = Maglev::new(&members(&[1; 5])).expect("members");
        assert_eq!(table.get(0), table.table()[0]);
        assert_eq!(table.get(u64::MAX), table.table()[SLOTS - 1]);
    }

    #[test]
    fn a_thousand_backends_share_evenly() {
        let members = members(&[7; 1000]);
        let table = Maglev::new(&members).expect("members");
        for member in &members {
            let share = share(&table, member.slot);
            assert!((65..=66).contains(&share), "{share}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn order_does_not_matter(weights in prop::collection::vec(1_u32..100, 1..40), seed in any::<u64>()) {
            let sorted = members(&weights);
            let mut shuffled = sorted.clone();
            let mut state = seed;
            for at in (1..shuffled.len()).rev() {
                state = mix(state);
                shuffled.swap(at, usize::try_from(state % (at as u64 + 1)).expect("small"));
            }
            prop_assert_eq!(Maglev::new(&sorted), Maglev::new(&shuffled));
        }

        #[test]
        fn weights_are_honoured_within_one_percent(weights in prop::collection::vec(1_u32..1000, 1..40)) {
            let table = Maglev::new(&members(&weights)).expect("members");
            let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
            for (index, weight) in (0..).zip(&weights) {
                let expected = SLOTS as u64 * u64::from(*weight) / total;
                let got = share(&table, index);
                // One per cent of the share, or the two turns that rounding can cost a very light one.
                prop_assert!(got.abs_diff(expected) <= (expected / 100).max(2), "{got} of {expected}");
            }
        }

        #[test]
        fn removing_one_moves_little_else(count in 2_usize..60, victim in any::<prop::sample::Index>()) {
            let all = members(&vec![1; count]);
            let victim = victim.index(count);
            let mut fewer = all.clone();
            let gone = fewer.remove(victim).slot;
            let before = Maglev::new(&all).expect("members");
            let after = Maglev::new(&fewer).expect("members");
            let moved = before.table().iter().zip(after.table())
                .filter(|(old, new)| **old != gone && old != new)
                .count();
            // The slots of the removed one must move; of the others at most a few per cent may (the paper measures
            // about 1 % at this ratio of slots to backends).
            prop_assert!(moved * 100 <= SLOTS * 4, "{moved} of {SLOTS} moved besides the removed backend's");
        }

        #[test]
        fn slots_do_not_shape_the_table(weights in prop::collection::vec(1_u32..10, 1..20), shift in 1_u16..1000) {
            // Another node gave the same backends other slots: the same backend answers for the same hash.
            let here = members(&weights);
            let there: Vec<Member> = here.iter().map(|member| Member { slot: member.slot + shift, ..*member }).collect();
            let here = Maglev::new(&here).expect("members");
            let there = Maglev::new(&there).expect("members");
            prop_assert!(here.table().iter().zip(there.table()).all(|(a, b)| a + shift == *b));
        }
    }
}
