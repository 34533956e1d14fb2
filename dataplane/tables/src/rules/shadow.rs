//! Rules that never decide, because one before them matches everything that they match.
//!
//! Rule by rule, in order, the boxes of those before are looked for that hold the rule's own. They are kept by the leading
//! bits of both addresses, in steps of a few bits, so that a rule looks only where a box that holds it can be. A rule that is
//! hidden is not kept: whatever it would hide, the one that hides it hides too.

use std::collections::{BTreeMap, HashMap};

use march_wire::tuple::IpPrefix;

use super::space::{LINES4, LINES6, Line, Piece, TAIL, WORDS4, WORDS6, lines, width};
use super::{Rules, shape};
use crate::{Criteria, Rule, RuleId, SetId, TcpFlags, Vlan, Wholeness};

/// Prefix lengths are rounded down to a multiple of this for finding.
const fn step<const W: usize>() -> u32 {
    if W == WORDS4 { 4 } else { 8 }
}

/// Boxes by the leading words of both addresses.
type Boxes<const W: usize, const L: usize> = HashMap<[u32; W], Vec<([Line; L], RuleId)>>;

/// The boxes so far, by the rounded lengths of both prefixes.
struct Seen<const W: usize, const L: usize> {
    by_lengths: BTreeMap<(u32, u32), Boxes<W, L>>,
}

impl<const W: usize, const L: usize> Seen<W, L> {
    fn new() -> Self {
        Self {
            by_lengths: BTreeMap::new(),
        }
    }

    fn add(&mut self, piece: &Piece<W>) {
        let rounded = lengths(piece).map(|length| length - length % step::<W>());
        let boxes = self.by_lengths.entry((rounded[0], rounded[1])).or_default();
        let boxes = boxes.entry(leading(piece, rounded)).or_default();
        boxes.push((lines(&piece.lowest, &piece.highest), piece.rule()));
    }

    /// A rule that `is_it` among those with a box that holds `piece`.
    fn find(&self, piece: &Piece<W>, mut is_it: impl FnMut(RuleId) -> bool) -> Option<RuleId> {
        let [source, destination] = lengths(piece);
        let mine: [Line; L] = lines(&piece.lowest, &piece.highest);
        for (rounded, boxes) in self.by_lengths.range(..=(source, destination)) {
            if rounded.1 > destination {
                continue;
            }
            let Some(boxes) = boxes.get(&leading(piece, [rounded.0, rounded.1])) else {
                continue;
            };
            for (other, rule) in boxes {
                let holds = mine
                    .iter()
                    .zip(other)
                    .all(|(mine, other)| mine.is_not_below(other));
                if holds && is_it(*rule) {
                    return Some(*rule);
                }
            }
        }
        None
    }
}

/// Leading bits of source and destination that are the same in all of a piece.
fn lengths<const W: usize>(piece: &Piece<W>) -> [u32; 2] {
    let side = (W - TAIL) / 2;
    [0, side].map(|first| {
        let mut length = 0;
        for word in first..first + side {
            let differing = piece.lowest[word] ^ piece.highest[word];
            length += differing.leading_zeros();
            if differing != 0 {
                break;
            }
        }
        length
    })
}

/// The first so many bits of source and destination, the other words 0.
fn leading<const W: usize>(piece: &Piece<W>, lengths: [u32; 2]) -> [u32; W] {
    let side = (W - TAIL) / 2;
    let mut key = [0; W];
    for (half, length) in lengths.into_iter().enumerate() {
        for word in 0..side {
            let at = half * side + word;
            let bits = length
                .saturating_sub(32 * u32::try_from(word).unwrap_or(0))
                .min(width::<W>(at));
            key[at] = piece.lowest[at] & !u32::MAX.checked_shr(bits).unwrap_or(0);
        }
    }
    key
}

impl Rules {
    /// Rules that never decide, each with an earlier one that matches all that it matches; by id. Only what one rule hides
    /// alone is found, and of sets only that they are the same, not what they hold.
    #[must_use]
    pub fn shadowed(&self) -> Vec<(RuleId, RuleId)> {
        let mut seen4 = Seen::<WORDS4, LINES4>::new();
        let mut seen6 = Seen::<WORDS6, LINES6>::new();
        let (mut own4, mut own6) = (Vec::new(), Vec::new());
        let mut hidden = Vec::new();
        for id in self.order.ids() {
            let Some(rule) = self.get(*id) else { continue };
            own4.clear();
            own6.clear();
            shape::pieces(rule, *id, 0, &mut own4);
            shape::pieces(rule, *id, 0, &mut own6);
            let is_it = |other: RuleId| {
                let other = self.get(other).filter(|other| is_implied(other, rule));
                other.is_some_and(|other| holds_all(other, &own4) && holds_all(other, &own6))
            };
            let by = match (own4.first(), own6.first()) {
                (Some(piece), _) => seen4.find(piece, is_it),
                (None, Some(piece)) => seen6.find(piece, is_it),
                // It can match nothing at all, which is not this.
                (None, None) => None,
            };
            match by {
                Some(by) => hidden.push((*id, by)),
                None => {
                    for piece in &own4 {
                        seen4.add(piece);
                    }
                    for piece in &own6 {
                        seen6.add(piece);
                    }
                }
            }
        }
        hidden.sort_unstable();
        hidden
    }
}

/// Whether every one of `pieces` is in a box of a rule.
fn holds_all<const W: usize>(rule: &Rule, pieces: &[Piece<W>]) -> bool {
    let mut boxes = Vec::new();
    shape::pieces(rule, 0, 0, &mut boxes);
    pieces.iter().all(|piece| {
        boxes.iter().any(|other: &Piece<W>| {
            (0..W).all(|word| {
                other.lowest[word] <= piece.lowest[word]
                    && piece.highest[word] <= other.highest[word]
            })
        })
    }) && !is_widened(rule)
}

/// Whether a rule's boxes hold more than its prefixes, ports and ingress ports say.
fn is_widened(rule: &Rule) -> bool {
    let ingress = &rule.criteria.ingress;
    let plain = Rule {
        criteria: Criteria {
            ingress: ingress.clone(),
            ..Criteria::default()
        },
        ..rule.clone()
    };
    let (mut boxes4, mut boxes6) = (Vec::<Piece<WORDS4>>::new(), Vec::<Piece<WORDS6>>::new());
    shape::pieces(&plain, 0, 0, &mut boxes4);
    shape::pieces(&plain, 0, 0, &mut boxes6);
    !(boxes4.iter().all(Piece::is_exact) && boxes6.iter().all(Piece::is_exact))
}

/// Whether what meets the conditions of `narrow` meets those of `wide` too, boxes aside.
fn is_implied(wide: &Rule, narrow: &Rule) -> bool {
    let is_part = |some: &[SetId], of: &[SetId]| some.iter().all(|set| of.contains(set));
    // Where sets are asked, the boxes say nothing about prefixes.
    let among = |wide: (&[IpPrefix], &[SetId]), narrow: (&[IpPrefix], &[SetId])| {
        let is_open = narrow.0.is_empty() && narrow.1.is_empty();
        let is_in = |prefix: &IpPrefix| wide.0.iter().any(|wide| wide.covers(*prefix));
        wide.1.is_empty() || !is_open && is_part(narrow.1, wide.1) && narrow.0.iter().all(is_in)
    };
    let sources = among(
        (&wide.sources, &wide.criteria.source_sets),
        (&narrow.sources, &narrow.criteria.source_sets),
    );
    let destinations = among(
        (&wide.destinations, &wide.criteria.destination_sets),
        (&narrow.destinations, &narrow.criteria.destination_sets),
    );
    let (wide, narrow) = (&wide.criteria, &narrow.criteria);
    let flags = |wide: TcpFlags, narrow: TcpFlags| {
        wide.mask & !narrow.mask == 0 && narrow.value & wide.mask == wide.value
    };
    sources
        && destinations
        && is_part(&wide.not_source_sets, &narrow.not_source_sets)
        && is_part(&wide.not_destination_sets, &narrow.not_destination_sets)
        && wide
            .tcp_flags
            .is_none_or(|wide| narrow.tcp_flags.is_some_and(|narrow| flags(wide, narrow)))
        && (wide.dscp == 0 || narrow.dscp != 0 && narrow.dscp & !wide.dscp == 0)
        && (wide.vlans.is_empty()
            || !narrow.vlans.is_empty()
                && narrow
                    .vlans
                    .iter()
                    .all(|narrow| wide.vlans.iter().any(|wide| is_tag_in(*narrow, *wide))))
        && wide.fragment.is_none_or(|wide| match narrow.fragment {
            Some(narrow) => {
                narrow == wide
                    || wide == Wholeness::Fragment
                        && matches!(narrow, Wholeness::First | Wholeness::Later)
            }
            None => false,
        })
}

fn is_tag_in(narrow: Vlan, wide: Vlan) -> bool {
    match (narrow, wide) {
        (Vlan::Untagged, Vlan::Untagged) => true,
        (Vlan::Ids(first, last), Vlan::Ids(low, high)) => low <= first && last <= high,
        _ => false,
    }
}
