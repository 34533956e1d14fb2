//! The rule classifier: which rule, first by priority and then by name, matches a packet.
//!
//! It is asked for packets without a flow and when flows are judged again, so its figures are those of a flood of new
//! flows. A rule is one or several boxes in the space of packets (`rules/space`, `rules/shape`); boxes are parted by what
//! tells them apart (`rules/forest`), and each part is a decision tree (`rules/tree`) of pages (`rules/page`) that the next
//! generation shares unless a changed rule meets them. What no box says (sets, flags, marks, VLANs) is asked of the rule
//! itself (`rules/criteria`). How far a packet may have to go is bounded (`rules/bounds`), and what would go beyond is
//! refused when it is built.

mod bounds;
mod criteria;
mod cut;
mod forest;
mod order;
mod page;
mod shadow;
mod shape;
mod space;
mod tree;
mod verdict;

use std::collections::BTreeMap;
use std::sync::Arc;

use march_wire::tuple::{Address, Family};

use criteria::{Memory, applies};
use forest::{BURST, Forest};
use order::{Order, Place};
use page::Refused;
use space::{LINES4, LINES6, Point, WORDS4, WORDS6};
use tree::Change;

use crate::rule_list::{PIECE, RulePiece};
use crate::{
    Action, AddressSet, BuildError, NONE, Rule, RuleId, RuleList, Subject, Treatment, TreatmentId,
};

/// The rule that decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleMatch {
    /// Which rule: its position in the configuration.
    pub rule: RuleId,
    /// What it says.
    pub action: Action,
    /// How what it lets through is treated; [`NONE`] for as it is.
    pub treatment: TreatmentId,
}

/// How far a packet may have to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorstPath {
    /// Tables read, one after the other.
    pub steps: usize,
    /// Boxes compared, if none matches.
    pub boxes: usize,
}

/// How many rules a generation takes at most.
pub const MAX_RULES: usize = 1 << 20;

/// Changed rules from which on everything is built anew: this many, and another one for each this many rules.
const MOST_CHANGES: usize = 64;

/// Rules that got other ranks because one came between them, from which on everything is built anew. It takes hundreds of
/// rules added at one place one by one.
const MOST_MOVED: usize = 512;

/// Every rule of one generation.
#[derive(Clone, Debug)]
pub struct Rules {
    v4: Arc<Forest<WORDS4, LINES4>>,
    v6: Arc<Forest<WORDS6, LINES6>>,
    order: Order,
    places: Vec<Place>,
    /// Rules that let transit through.
    carriers: usize,
    /// Rules that use each set.
    set_uses: Vec<u32>,
    source: RuleList,
    sets: Arc<[AddressSet]>,
    treatments: Arc<[Treatment]>,
}

impl Rules {
    /// Compiles rules; the order given does not matter.
    pub(crate) fn new(source: &RuleList, sets: &Arc<[AddressSet]>) -> Result<Self, BuildError> {
        check(source)?;
        let mut places = vec![Place::default(); source.len()];
        let order = Order::new(source, &mut places);
        let mut treatments = Treatments::default();
        for (rule, place) in source.iter().zip(&mut places) {
            place.treatment = treatments.id(rule)?;
        }
        let mut pieces4 = Vec::with_capacity(order.ids().len());
        let mut pieces6 = Vec::with_capacity(order.ids().len());
        for id in order.ids() {
            let (rule, rank) = (&source[*id as usize], places[*id as usize].rank);
            shape::pieces(rule, *id, rank, &mut pieces4);
            shape::pieces(rule, *id, rank, &mut pieces6);
        }
        let refuse = |refused| refusal(source, refused);
        let mut rules = Self {
            v4: Arc::new(Forest::new(&pieces4).map_err(refuse)?),
            v6: Arc::new(Forest::new(&pieces6).map_err(refuse)?),
            order,
            places,
            carriers: 0,
            set_uses: vec![0; sets.len()],
            source: source.clone(),
            sets: Arc::clone(sets),
            treatments: treatments.list.into(),
        };
        for rule in source.iter() {
            rules.count(rule, 1);
        }
        Ok(rules)
    }

    /// The rules after `previous`, which are the same object unless a rule or a set that a rule uses changed. Shares what no
    /// changed rule meets.
    pub(crate) fn update(
        previous: &Arc<Self>,
        source: &RuleList,
        sets: &Arc<[AddressSet]>,
    ) -> Result<Arc<Self>, BuildError> {
        check_count(source)?;
        let changed = difference(&previous.source, source);
        if changed.is_empty() && previous.uses_the_same(sets) {
            return Ok(Arc::clone(previous));
        }
        if changed.len() > MOST_CHANGES + source.len() / MOST_CHANGES {
            return Self::new(source, sets).map(Arc::new);
        }
        let mut next = Self {
            source: source.clone(),
            sets: Arc::clone(sets),
            ..Self::clone(previous)
        };
        if changed.is_empty() || next.apply(previous, &changed)? {
            return Ok(Arc::new(next));
        }
        Self::new(source, sets).map(Arc::new)
    }

    /// Brings everything up to date with the changed rules; false if it had better be built anew.
    fn apply(&mut self, previous: &Self, changed: &[RuleId]) -> Result<bool, BuildError> {
        let length = self.source.len().max(previous.source.len());
        self.places.resize(length, Place::default());
        let mut changes: (Vec<Change<WORDS4>>, Vec<Change<WORDS6>>) = (Vec::new(), Vec::new());
        let mut pieces = Pieces::default();
        let mut added = Vec::with_capacity(changed.len());
        for id in changed {
            let (old, new) = (previous.get(*id), self.source.get(*id).cloned());
            let old = old.filter(|rule| !rule.is_vacant());
            let new = new.filter(|rule| !rule.is_vacant());
            if let Some(new) = &new {
                check_rule(new)?;
                self.count(new, 1);
            }
            let is_moved = match (old, &new) {
                (Some(old), Some(new)) => (old.priority, &old.name) != (new.priority, &new.name),
                _ => true,
            };
            if let Some(old) = old {
                self.count(old, -1);
                pieces.remove(old, *id, previous.places[*id as usize].rank, &mut changes);
                if is_moved {
                    self.order.remove(*id, &self.places);
                }
            }
            if new.is_some() {
                added.push((*id, is_moved));
            }
        }
        let mut moved = Vec::new();
        for (id, is_moved) in &added {
            if *is_moved {
                self.order
                    .insert(*id, &self.source, &mut self.places, &mut moved);
            }
        }
        self.places.truncate(self.source.len());
        moved.sort_unstable();
        moved.dedup();
        moved.retain(|id| !changed.contains(id));
        if moved.len() > MOST_MOVED {
            return Ok(false);
        }
        for id in &moved {
            let rule = &self.source[*id as usize];
            pieces.remove(rule, *id, previous.places[*id as usize].rank, &mut changes);
        }
        let mut treatments = Treatments::of(&self.treatments);
        for id in moved.iter().chain(added.iter().map(|(id, _)| id)) {
            let rule = &self.source[*id as usize];
            // Treatments that nothing has any more are only left out when all is built anew.
            let Ok(treatment) = treatments.id(rule) else {
                return Ok(false);
            };
            let place = &mut self.places[*id as usize];
            place.treatment = treatment;
            pieces.add(rule, *id, place.rank, &mut changes);
        }
        if treatments.list.len() != self.treatments.len() {
            self.treatments = treatments.list.into();
        }
        let refuse = |refused| refusal(&self.source, refused);
        let (v4, v6) = (self.v4.update(&changes.0), self.v6.update(&changes.1));
        match (v4.map_err(refuse)?, v6.map_err(refuse)?) {
            (Some(v4), Some(v6)) => {
                (self.v4, self.v6) = (Arc::new(v4), Arc::new(v6));
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Counts what a rule uses, once more or once less.
    fn count(&mut self, rule: &Rule, times: i32) {
        if rule.is_vacant() {
            return;
        }
        if rule.action.carries_transit() {
            self.carriers = self.carriers.saturating_add_signed(times as isize);
        }
        for set in rule.criteria.sets() {
            let at = usize::from(*set);
            if self.set_uses.len() <= at {
                self.set_uses.resize(at + 1, 0);
            }
            self.set_uses[at] = self.set_uses[at].saturating_add_signed(times);
        }
    }

    /// Whether every set that a rule uses is as it was.
    fn uses_the_same(&self, sets: &Arc<[AddressSet]>) -> bool {
        let is_same = |(at, uses): (usize, &u32)| *uses == 0 || self.sets.get(at) == sets.get(at);
        Arc::ptr_eq(&self.sets, sets) || self.set_uses.iter().enumerate().all(is_same)
    }

    /// The first rule, by priority and then name, that matches.
    #[inline]
    pub fn classify<A: Address>(&self, subject: &Subject<A>) -> Option<RuleMatch> {
        let mut memory = Memory::new(&self.sets);
        let accept = |rule: RuleId| {
            self.get(rule)
                .is_some_and(|rule| applies(rule, subject, &mut memory))
        };
        let verdict = match A::FAMILY {
            Family::V4 => self.v4.find(&Point::of(subject), accept),
            Family::V6 => self.v6.find(&Point::of(subject), accept),
        };
        self.explain(verdict)
    }

    /// The same for several packets, in less time: what one waits for, the others use. Each place of `matches` gets the answer
    /// for the subject at the same place; 64 at a time go together.
    ///
    /// # Panics
    /// If there are not as many places as subjects.
    pub fn classify_burst<A: Address>(
        &self,
        subjects: &[Subject<A>],
        matches: &mut [Option<RuleMatch>],
    ) {
        assert_eq!(subjects.len(), matches.len(), "a place for each answer");
        for (subjects, matches) in subjects.chunks(BURST).zip(matches.chunks_mut(BURST)) {
            match A::FAMILY {
                Family::V4 => self.burst(&self.v4, subjects, matches),
                Family::V6 => self.burst(&self.v6, subjects, matches),
            }
        }
    }

    #[inline]
    fn burst<A: Address, const W: usize, const L: usize>(
        &self,
        forest: &Forest<W, L>,
        subjects: &[Subject<A>],
        matches: &mut [Option<RuleMatch>],
    ) {
        let mut points = [Point::<W, L>::ORIGIN; BURST];
        points_of(subjects, &mut points);
        let mut best = [verdict::NONE; BURST];
        let mut memory = Memory::new(&self.sets);
        let mut asked = None;
        forest.find_burst(
            &points[..subjects.len().min(BURST)],
            &mut best,
            |at, rule| {
                if asked != Some(at) {
                    asked = Some(at);
                    memory.forget();
                }
                let subject = subjects.get(at);
                self.get(rule)
                    .zip(subject)
                    .is_some_and(|(rule, subject)| applies(rule, subject, &mut memory))
            },
        );
        self.explain_burst(&best, matches);
    }

    #[inline(never)]
    fn explain_burst(&self, best: &[u64; BURST], matches: &mut [Option<RuleMatch>]) {
        for (verdict, place) in best.iter().zip(matches) {
            *place = self.explain(*verdict);
        }
    }

    /// What a verdict means.
    #[inline(always)]
    fn explain(&self, verdict: u64) -> Option<RuleMatch> {
        if verdict == verdict::NONE {
            return None;
        }
        if verdict::needs_source(verdict) {
            return self.explain_all(verdict);
        }
        let (rule, treatment) = (verdict::rule(verdict), NONE);
        let of = |action| RuleMatch {
            rule,
            action,
            treatment,
        };
        // A literal in each arm: a value of `Action` from a table would be copied with the room for its parameters.
        Some(match verdict::kind(verdict) {
            0 => of(Action::Allow),
            1 => of(Action::Drop),
            2 => of(Action::Reject),
            3 => of(Action::Count),
            _ => of(Action::Punt),
        })
    }

    #[cold]
    fn explain_all(&self, verdict: u64) -> Option<RuleMatch> {
        let rule = verdict::rule(verdict);
        Some(RuleMatch {
            rule,
            action: self.get(rule)?.action,
            treatment: self.places.get(rule as usize)?.treatment,
        })
    }

    /// The treatments that rules name, by [`TreatmentId`].
    pub(crate) fn treatments(&self) -> &Arc<[Treatment]> {
        &self.treatments
    }

    /// Whether any rule allows: without one, nothing is transit.
    pub fn has_allow(&self) -> bool {
        self.carriers > 0
    }

    /// The rule as configured, if the id is in bounds.
    pub fn get(&self, id: RuleId) -> Option<&Rule> {
        self.source.get(id).map(|rule| &**rule)
    }

    /// What was compiled.
    pub(crate) fn source(&self) -> &RuleList {
        &self.source
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.source.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.source.is_empty()
    }

    /// The most that looking up one packet may take, in the family in which that is more.
    #[must_use]
    pub fn worst_path(&self) -> WorstPath {
        let (v4, v6) = (self.v4.worst_path(), self.v6.worst_path());
        WorstPath {
            steps: v4.0.max(v6.0),
            boxes: v4.1.max(v6.1),
        }
    }

    /// Bytes of what is looked up and of what it is updated from; not those of the configured rules.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let own = size_of_val(&*self.places) + size_of_val(self.order.ids());
        self.v4.bytes() + self.v6.bytes() + own
    }
}

/// Rules as boxes, in both families.
#[derive(Default)]
struct Pieces {
    v4: Vec<space::Piece<WORDS4>>,
    v6: Vec<space::Piece<WORDS6>>,
}

type Changes = (Vec<Change<WORDS4>>, Vec<Change<WORDS6>>);

impl Pieces {
    fn of(&mut self, rule: &Rule, id: RuleId, rank: u32) {
        self.v4.clear();
        self.v6.clear();
        shape::pieces(rule, id, rank, &mut self.v4);
        shape::pieces(rule, id, rank, &mut self.v6);
    }

    fn add(&mut self, rule: &Rule, id: RuleId, rank: u32, changes: &mut Changes) {
        self.of(rule, id, rank);
        changes
            .0
            .extend(self.v4.iter().map(|piece| Change::Add(*piece)));
        changes
            .1
            .extend(self.v6.iter().map(|piece| Change::Add(*piece)));
    }

    fn remove(&mut self, rule: &Rule, id: RuleId, rank: u32, changes: &mut Changes) {
        self.of(rule, id, rank);
        changes
            .0
            .extend(self.v4.iter().map(|piece| Change::Remove(*piece)));
        changes
            .1
            .extend(self.v6.iter().map(|piece| Change::Remove(*piece)));
    }
}

#[inline(never)]
fn points_of<A: Address, const W: usize, const L: usize>(
    subjects: &[Subject<A>],
    points: &mut [Point<W, L>; BURST],
) {
    for (point, subject) in points.iter_mut().zip(subjects) {
        *point = Point::of(subject);
    }
}

/// Ids whose rules differ. Shared pieces are not looked at.
fn difference(old: &RuleList, new: &RuleList) -> Vec<RuleId> {
    let mut changed = Vec::new();
    let (old, new) = (old.pieces(), new.pieces());
    for number in 0..old.len().max(new.len()) {
        let (old, new) = (old.get(number), new.get(number));
        if let (Some(old), Some(new)) = (old, new)
            && Arc::ptr_eq(old, new)
        {
            continue;
        }
        let length = |piece: Option<&RulePiece>| piece.map_or(0, |piece| piece.len());
        for at in 0..length(old).max(length(new)) {
            let (old, new) = (
                old.and_then(|piece| piece.get(at)),
                new.and_then(|piece| piece.get(at)),
            );
            let is_same = match (old, new) {
                (Some(old), Some(new)) => Arc::ptr_eq(old, new) || old == new,
                _ => false,
            };
            if !is_same {
                changed.push(RuleId::try_from(number * PIECE + at).expect("fewer rules than ids"));
            }
        }
    }
    changed
}

/// The distinct treatments of rules, the plain one aside.
#[derive(Default)]
struct Treatments {
    list: Vec<Treatment>,
    ids: BTreeMap<Treatment, TreatmentId>,
}

impl Treatments {
    fn of(list: &[Treatment]) -> Self {
        Self {
            list: list.to_vec(),
            ids: list.iter().copied().zip(0..).collect(),
        }
    }

    fn id(&mut self, rule: &Rule) -> Result<TreatmentId, BuildError> {
        if rule.treatment.is_plain() {
            return Ok(NONE);
        }
        if let Some(id) = self.ids.get(&rule.treatment) {
            return Ok(*id);
        }
        let count = self.list.len();
        let id = TreatmentId::try_from(count).ok().filter(|id| *id != NONE);
        let id = id.ok_or(BuildError::TooMany {
            what: "treatments",
            count: count + 1,
        })?;
        self.list.push(rule.treatment);
        self.ids.insert(rule.treatment, id);
        Ok(id)
    }
}

fn check(source: &RuleList) -> Result<(), BuildError> {
    check_count(source)?;
    source.iter().try_for_each(|rule| check_rule(rule))
}

/// A verdict has no room for greater ids.
fn check_count(source: &RuleList) -> Result<(), BuildError> {
    if source.len() > MAX_RULES {
        return Err(BuildError::TooMany {
            what: "rules",
            count: source.len(),
        });
    }
    Ok(())
}

fn check_rule(rule: &Rule) -> Result<(), BuildError> {
    let mut ranges = rule.source_ports.iter().chain(&rule.ports);
    match ranges.find(|range| range.first > range.last) {
        None => Ok(()),
        Some(range) => Err(BuildError::RulePorts {
            rule: rule.name.clone(),
            first: range.first,
            last: range.last,
        }),
    }
}

fn refusal(source: &RuleList, refused: Refused) -> BuildError {
    BuildError::RulesMeet {
        rule: source
            .get(refused.rule)
            .map(|rule| rule.name.clone())
            .unwrap_or_default(),
        most: bounds::MOST_IN_LEAF,
    }
}

#[cfg(test)]
mod tests;
