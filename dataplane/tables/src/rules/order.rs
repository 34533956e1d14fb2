//! Ranks: 32-bit numbers in the order in which rules are looked at, with room between them.
//!
//! Structures that generations share hold ranks, so a rule that comes or goes must not move those of the others. A new rule
//! takes a number between its neighbours'; where there is none left, the fewest rules around it that have room together are
//! spread anew, and count as changed.

use crate::{Rule, RuleId, RuleList};

/// A rule's place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// Its rank, if it is in the order.
    pub rank: u32,
    /// Its treatment.
    pub treatment: u16,
}

/// Ranks of 32 neighbours after spreading differ at least by this, those of 64 by twice as much and so on: what is spread
/// further is spread thinner, and lasts.
const ROOM: u32 = 64;
/// A new rank is at most this far behind the one before: rules added one behind the other then use up the room slowly.
const STRIDE: u32 = 1024;

/// The rules in order.
#[derive(Clone, Debug, Default)]
pub(super) struct Order {
    /// Ids, by rank.
    ids: Vec<RuleId>,
}

/// By what rules are ordered.
fn key(rule: &Rule, id: RuleId) -> (u32, &str, RuleId) {
    (rule.priority, &rule.name, id)
}

impl Order {
    /// Orders all rules and spreads their ranks evenly.
    pub fn new(source: &RuleList, places: &mut [Place]) -> Self {
        let mut rules: Vec<(RuleId, &Rule)> = (0..)
            .zip(source.iter().map(|rule| &**rule))
            .filter(|(_, rule)| !rule.is_vacant())
            .collect();
        rules.sort_unstable_by(|(a, one), (b, other)| key(one, *a).cmp(&key(other, *b)));
        let ids: Vec<RuleId> = rules.iter().map(|(id, _)| *id).collect();
        spread(&ids, 0, u32::MAX, places);
        Self { ids }
    }

    /// In order.
    pub fn ids(&self) -> &[RuleId] {
        &self.ids
    }

    /// Takes a rule out.
    pub fn remove(&mut self, id: RuleId, places: &[Place]) {
        let rank = places[id as usize].rank;
        let at = self
            .ids
            .partition_point(|other| places[*other as usize].rank < rank);
        debug_assert_eq!(self.ids[at], id, "a rule is where its rank says");
        self.ids.remove(at);
    }

    /// Puts a rule in. Adds those that got another rank to `moved`.
    pub fn insert(
        &mut self,
        id: RuleId,
        source: &RuleList,
        places: &mut [Place],
        moved: &mut Vec<RuleId>,
    ) {
        let rule = &source[id as usize];
        let at = self
            .ids
            .partition_point(|other| key(&source[*other as usize], *other) < key(rule, id));
        self.ids.insert(at, id);
        let (before, after) = self.around(at, at + 1, places);
        if after - before >= 2 {
            places[id as usize].rank = before + ((after - before) / 2).min(STRIDE);
            return;
        }
        let (mut reach, mut room) = (16, ROOM);
        loop {
            let (first, last) = (at.saturating_sub(reach), (at + reach).min(self.ids.len()));
            let (before, after) = self.around(first, last, places);
            let count = u32::try_from(last - first).unwrap_or(u32::MAX - 1);
            let is_all = last - first == self.ids.len();
            if is_all || (after - before) / (count + 1) >= room {
                let window = &self.ids[first..last];
                spread(window, before, after, places);
                moved.extend(window.iter().filter(|other| **other != id));
                return;
            }
            (reach, room) = (reach * 2, room.saturating_mul(2));
        }
    }

    /// The ranks before `first` and from `last` on.
    fn around(&self, first: usize, last: usize, places: &[Place]) -> (u32, u32) {
        let rank = |id: &RuleId| places[*id as usize].rank;
        let before = first.checked_sub(1).and_then(|at| self.ids.get(at));
        (
            before.map_or(0, rank),
            self.ids.get(last).map_or(u32::MAX, rank),
        )
    }
}

/// Gives ranks between two others, the same distance apart.
fn spread(ids: &[RuleId], before: u32, after: u32, places: &mut [Place]) {
    let count = u32::try_from(ids.len()).expect("fewer rules than ranks");
    let gap = (after - before) / (count + 1);
    for (number, id) in (1..).zip(ids) {
        places[*id as usize].rank = before + number * gap;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(name: &str) -> Rule {
        Rule {
            name: name.into(),
            ..Rule::vacant()
        }
    }

    fn is_sorted(order: &Order, source: &RuleList, places: &[Place]) -> bool {
        order.ids().is_sorted_by(|a, b| {
            let (one, other) = (&source[*a as usize], &source[*b as usize]);
            key(one, *a) < key(other, *b) && places[*a as usize].rank < places[*b as usize].rank
        })
    }

    #[test]
    fn ten_thousand_rules_fit_into_the_same_gap() {
        for is_ascending in [true, false] {
            let mut source: RuleList = [rule("a"), rule("z")].into();
            let mut places = vec![Place::default(); 2];
            let mut order = Order::new(&source, &mut places);
            let mut all_moved = 0;
            for number in 0..10_000_u32 {
                let id = number + 2;
                let name = if is_ascending {
                    number
                } else {
                    99_999 - number
                };
                source.set(id, rule(&format!("m{name:06}")).into());
                places.push(Place::default());
                let mut moved = Vec::new();
                order.insert(id, &source, &mut places, &mut moved);
                all_moved += moved.len();
            }
            assert!(is_sorted(&order, &source, &places));
            assert!(
                all_moved < 20 * 10_000,
                "{all_moved} rules moved for 10 000"
            );
        }
    }

    #[test]
    fn what_is_removed_is_gone_and_the_rest_stays() {
        let source: RuleList = ["a", "b", "c"].map(rule).into();
        let mut places = vec![Place::default(); 3];
        let mut order = Order::new(&source, &mut places);
        let before = places.clone();
        order.remove(1, &places);
        assert_eq!(order.ids(), [0, 2]);
        assert_eq!(places, before);
    }
}
