//! The rules of a configuration, by id, in pieces that configurations share.
//!
//! A hundred thousand rules are compared and copied at every change of one; the list is cut into pieces behind pointers, so
//! that an unchanged piece costs one comparison of pointers and a changed one a copy of its pointers.

use core::ops::Index;
use std::sync::{Arc, LazyLock};

use crate::{Rule, RuleId};

/// Rules in one piece. Fewer make the list of pieces longer, more make the piece of a changed rule longer; one change in
/// 100 000 rules copies about as many pointers in either at 256.
pub(crate) const PIECE: usize = 256;

/// One piece.
pub(crate) type RulePiece = Arc<[Arc<Rule>]>;

/// Rules by id. Every piece but the last holds the same number. A copy shares everything.
#[derive(Clone, Debug, Default)]
pub struct RuleList {
    pieces: Arc<[RulePiece]>,
}

static VACANT: LazyLock<Arc<Rule>> = LazyLock::new(|| Arc::new(Rule::vacant()));

impl RuleList {
    /// How many places there are, vacant ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pieces.last().map_or(0, |last| {
            (self.pieces.len() - 1).saturating_mul(PIECE) + last.len()
        })
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// The rule with this id, if it is in bounds.
    #[inline]
    #[must_use]
    pub fn get(&self, id: RuleId) -> Option<&Arc<Rule>> {
        let at = usize::try_from(id).ok()?;
        self.pieces.get(at / PIECE)?.get(at % PIECE)
    }

    /// All of them, by id.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Rule>> + Clone {
        self.pieces.iter().flat_map(|piece| piece.iter())
    }

    /// Puts a rule into a place; vacant ones appear before it if the list was shorter.
    pub fn set(&mut self, id: RuleId, rule: Arc<Rule>) {
        let at = usize::try_from(id).expect("ids fit into addresses");
        if at >= self.len() {
            let vacant = core::iter::repeat_n(&*VACANT, at - self.len());
            *self = self.iter().chain(vacant).chain([&rule]).cloned().collect();
            return;
        }
        let piece = &mut Arc::make_mut(&mut self.pieces)[at / PIECE];
        Arc::make_mut(piece)[at % PIECE] = rule;
    }

    /// The pieces, [`PIECE`] rules each but for the last.
    pub(crate) fn pieces(&self) -> &[RulePiece] {
        &self.pieces
    }

    /// Whether both are the same object or hold equal rules; what is shared is not looked at.
    fn is_equal(&self, other: &Self) -> bool {
        let same_rule = |(a, b): (&Arc<Rule>, &Arc<Rule>)| Arc::ptr_eq(a, b) || a == b;
        let same_piece = |(a, b): (&RulePiece, &RulePiece)| {
            Arc::ptr_eq(a, b) || a.len() == b.len() && a.iter().zip(&**b).all(same_rule)
        };
        Arc::ptr_eq(&self.pieces, &other.pieces)
            || self.pieces.len() == other.pieces.len()
                && self.pieces.iter().zip(&*other.pieces).all(same_piece)
    }
}

impl PartialEq for RuleList {
    fn eq(&self, other: &Self) -> bool {
        self.is_equal(other)
    }
}

impl Eq for RuleList {}

impl FromIterator<Arc<Rule>> for RuleList {
    fn from_iter<T: IntoIterator<Item = Arc<Rule>>>(rules: T) -> Self {
        let rules: Vec<Arc<Rule>> = rules.into_iter().collect();
        Self {
            pieces: rules.chunks(PIECE).map(Arc::from).collect(),
        }
    }
}

impl FromIterator<Rule> for RuleList {
    fn from_iter<T: IntoIterator<Item = Rule>>(rules: T) -> Self {
        rules.into_iter().map(Arc::new).collect()
    }
}

impl From<Vec<Rule>> for RuleList {
    fn from(rules: Vec<Rule>) -> Self {
        rules.into_iter().collect()
    }
}

impl<const N: usize> From<[Rule; N]> for RuleList {
    fn from(rules: [Rule; N]) -> Self {
        rules.into_iter().collect()
    }
}

impl Index<usize> for RuleList {
    type Output = Rule;

    fn index(&self, at: usize) -> &Rule {
        &self.pieces[at / PIECE][at % PIECE]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: usize) -> Rule {
        Rule {
            name: name.to_string().into(),
            ..Rule::vacant()
        }
    }

    #[test]
    fn a_changed_rule_leaves_the_other_pieces_shared() {
        let list: RuleList = (0..3 * PIECE).map(named).collect();
        let mut changed = list.clone();
        assert_eq!(list, changed);
        changed.set(300, Arc::new(named(0)));
        assert_ne!(list, changed);
        assert_eq!(changed.len(), list.len());
        let shared: Vec<bool> = (list.pieces().iter().zip(changed.pieces()))
            .map(|(a, b)| Arc::ptr_eq(a, b))
            .collect();
        assert_eq!(shared, [true, false, true]);
        assert_eq!(&*changed[300].name, "0");
        assert_eq!(&*list[300].name, "300");
    }

    #[test]
    fn a_place_behind_the_end_makes_vacant_ones_before_it() {
        let mut list = RuleList::default();
        assert!(list.is_empty());
        list.set(2, Arc::new(named(2)));
        assert_eq!(list.len(), 3);
        assert!(list[0].is_vacant() && list[1].is_vacant());
        assert_eq!(list.get(2).map(|rule| &*rule.name), Some("2"));
        assert_eq!(list.get(3), None);
    }

    #[test]
    fn equal_rules_elsewhere_are_equal() {
        let list: RuleList = (0..300).map(named).collect();
        let copy: RuleList = (0..300).map(named).collect();
        let longer: RuleList = (0..301).map(named).collect();
        assert_eq!(list, copy);
        assert_ne!(list, longer);
    }
}
