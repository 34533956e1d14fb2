//! Weighted round robin as a precomputed sequence, evenly spread.

use crate::{BackendId, Member};

/// Longest sequence, unless the pool has more backends than that: each is in it at least once.
const MAX_LEN: u64 = 4096;

/// A sequence of backend slots in which each occurs in proportion to its weight and never in clumps.
#[derive(Debug, PartialEq, Eq)]
pub struct Schedule {
    turns: Box<[BackendId]>,
}

impl Schedule {
    /// Builds the sequence for `members` in any order; `None` if there are none.
    ///
    /// Weights are divided by their greatest common divisor, then scaled so that the sequence has about 4096 turns at
    /// most; a scaled weight is never below one.
    #[must_use]
    pub fn new(members: &[Member]) -> Option<Self> {
        let mut members = members.to_vec();
        members.retain(|member| member.weight > 0);
        members.sort_by(Member::order);
        let divisor = members
            .iter()
            .map(|member| u64::from(member.weight))
            .reduce(greatest_common_divisor)?;
        let total: u64 = members
            .iter()
            .map(|member| u64::from(member.weight) / divisor)
            .sum();
        let scale = |weight: u32| {
            let weight = u64::from(weight) / divisor;
            if total <= MAX_LEN {
                weight
            } else {
                (weight * MAX_LEN / total).max(1)
            }
        };

        // Turn k of a member with weight w falls due at (k + phase) / w of the cycle. Phases differ, so that light
        // members do not all come at once. Fractions are compared by cross multiplication; with at most 2^16 members
        // and 2^17 turns both products fit 64 bits.
        let count = members.len() as u64;
        let mut due: Vec<(u64, u64, BackendId)> = (0_u64..)
            .zip(&members)
            .flat_map(|(index, member)| {
                let weight = scale(member.weight);
                (0..weight).map(move |turn| {
                    let numerator = 2 * count * turn + 2 * index + 1;
                    (numerator, 2 * count * weight, member.slot)
                })
            })
            .collect();
        due.sort_by(|a, b| (a.0 * b.1).cmp(&(b.0 * a.1)));
        Some(Self {
            turns: due.into_iter().map(|(_, _, slot)| slot).collect(),
        })
    }

    /// The backend whose turn it is; moves the caller's cursor on. Any cursor value is fine.
    #[inline]
    pub fn next(&self, cursor: &mut u32) -> BackendId {
        let mut at = *cursor as usize;
        if at >= self.turns.len() {
            at = 0;
        }
        *cursor = u32::try_from(at + 1).unwrap_or(0);
        self.turns[at]
    }

    /// The whole cycle.
    #[must_use]
    pub fn turns(&self) -> &[BackendId] {
        &self.turns
    }
}

fn greatest_common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b > 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::Ipv4Addr;
    use proptest::prelude::*;

    fn members(weights: &[u32]) -> Vec<Member> {
        (0_u16..)
            .zip(weights)
            .map(|(slot, weight)| Member {
                slot,
                address: Ipv4Addr::from(0x0a00_0000 + u32::from(slot)).into(),
                port: 80,
                weight: *weight,
            })
            .collect()
    }

    fn count(turns: &[u16], slot: u16) -> usize {
        turns.iter().filter(|turn| **turn == slot).count()
    }

    #[test]
    fn no_member_no_schedule() {
        assert_eq!(Schedule::new(&[]), None);
    }

    #[test]
    fn equal_weights_take_turns_and_the_cursor_wraps() {
        let schedule = Schedule::new(&members(&[50, 50, 50])).expect("members");
        assert_eq!(schedule.turns().len(), 3);
        let mut cursor = u32::MAX;
        let seen: Vec<u16> = (0..6).map(|_| schedule.next(&mut cursor)).collect();
        assert_eq!(seen[..3], seen[3..]);
        assert!((0..3).all(|slot| count(&seen, slot) == 2));
    }

    #[test]
    fn heavy_turns_are_spread() {
        let schedule = Schedule::new(&members(&[5, 1, 1])).expect("members");
        let turns = schedule.turns();
        assert_eq!((turns.len(), count(turns, 0)), (7, 5));
        // Never all of the heavy one's turns in a row, seen as a cycle.
        let cycle: Vec<u16> = turns.iter().chain(turns).copied().collect();
        assert!(
            cycle
                .windows(5)
                .all(|window| window.iter().any(|slot| *slot != 0)),
            "{turns:?}"
        );
    }

    #[test]
    fn length_is_bounded_and_nobody_starves() {
        let schedule = Schedule::new(&members(&[1, 1_000_003, u32::MAX])).expect("members");
        assert!(schedule.turns().len() <= 4096 + 3);
        assert!((0..3).all(|slot| count(schedule.turns(), slot) >= 1));
    }

    proptest! {
        #[test]
        fn proportions_hold_in_every_prefix(weights in prop::collection::vec(1_u32..20, 1..12)) {
            let schedule = Schedule::new(&members(&weights)).expect("members");
            let total: u32 = weights.iter().sum();
            let turns = schedule.turns();
            for end in 1..=turns.len() {
                for (slot, weight) in (0..).zip(&weights) {
                    let expected = end as u64 * u64::from(*weight) / u64::from(total);
                    let got = count(&turns[..end], slot) as u64;
                    // A turn is at most half a period early or late, plus what ties shift.
                    prop_assert!(got.abs_diff(expected) <= 2 + weights.len() as u64 / 2);
                }
            }
        }
    }
}
