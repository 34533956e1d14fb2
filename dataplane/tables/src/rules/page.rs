//! A decision tree in one piece of memory: the unit that generations share and that a change builds anew.
//!
//! A node is a number of 64 bits, a [`Node`]: a cut with the place of its slots, or a leaf with the place of its boxes. A slot
//! holds the node of its part, so that one step down is one read. A leaf is its verdicts, four to a line, then its boxes, both
//! in the order in which rules are looked at; a leaf ends at the first box that holds all of the leaf's part of the space.

use std::collections::HashMap;
use std::sync::Arc;

use super::bounds::{LEAF, LINES_PER_PIECE, MOST_IN_LEAF, MOST_STEPS};
use super::cut::{Aim, Cut, Scratch, choose};
use super::space::{Line, Piece, Point, Region, lines};
use super::verdict;
use crate::RuleId;

/// A cut or a leaf, packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Node(pub u64);

/// The bits that say which it is; a leaf is 0.
const KIND: u64 = 3;
const CUT: u64 = 1;
const PAGE: u64 = 2;

impl Node {
    /// A leaf without rules.
    pub const EMPTY: Self = Self(KIND);

    fn leaf(base: usize, count: usize) -> Self {
        Self((base as u64) << 32 | (count as u64) << 2)
    }

    pub fn cut(cut: Cut, base: usize) -> Self {
        Self(
            (base as u64) << 32
                | u64::from(cut.log2) << 11
                | u64::from(cut.shift) << 6
                | (cut.word as u64) << 2
                | CUT,
        )
    }

    /// The cut of a node that is one.
    pub fn as_cut(self) -> Cut {
        Cut {
            word: (self.0 >> 2 & 15) as usize,
            shift: (self.0 >> 6 & 31) as u32,
            log2: (self.0 >> 11 & 31) as u32,
        }
    }

    /// A page, by number.
    pub fn page(number: usize) -> Self {
        Self((number as u64) << 32 | PAGE)
    }

    #[inline(always)]
    pub fn is_cut(self) -> bool {
        self.0 & KIND == CUT
    }

    #[inline(always)]
    pub fn is_page(self) -> bool {
        self.0 & KIND == PAGE
    }

    /// Place of the slots or of the leaf, or number of the page.
    #[inline(always)]
    pub fn base(self) -> usize {
        (self.0 >> 32) as usize
    }

    /// Whether it is a leaf with a rule.
    #[inline(always)]
    pub fn is_full_leaf(self) -> bool {
        self.0 & KIND == 0
    }

    /// Boxes in a leaf.
    #[inline(always)]
    pub fn count(self) -> usize {
        (self.0 >> 2 & 0xfff) as usize
    }

    /// Which slot of the table a packet is in.
    #[inline(always)]
    pub fn slot<const W: usize>(self, words: &[u32; W]) -> usize {
        let word = (self.0 >> 2 & 15) as usize;
        let value = if W.is_power_of_two() {
            words[word & (W - 1)]
        } else {
            words.get(word).copied().unwrap_or(0)
        };
        let mask = (1_u32 << (self.0 >> 11 & 31)) - 1;
        self.base() + (value >> (self.0 >> 6 & 31) & mask) as usize
    }
}

/// The tree.
#[derive(Clone, Debug)]
pub(super) struct Page {
    pub root: Node,
    /// The lowest verdict in it.
    pub first: u64,
    pub lines: Arc<[Line]>,
}

impl Default for Page {
    fn default() -> Self {
        Self {
            root: Node::EMPTY,
            first: verdict::NONE,
            lines: Arc::from([]),
        }
    }
}

impl Page {
    /// The most steps down from a node, and the most boxes of a leaf below it. `below` is asked about other pages.
    pub fn worst_path(
        &self,
        node: Node,
        below: &impl Fn(Node) -> (usize, usize),
    ) -> (usize, usize) {
        if node.is_page() {
            return below(node);
        }
        if !node.is_cut() {
            return (0, node.count());
        }
        let slots = node.base()..node.base() + node.as_cut().slots();
        let paths = slots.map(|slot| self.worst_path(node_at(&self.lines, slot), below));
        let (steps, boxes) = paths.fold((0, 0), |a, b| (a.0.max(b.0), a.1.max(b.1)));
        (steps + 1, boxes)
    }

    /// Bytes of its memory.
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.lines) + 2 * size_of::<usize>()
    }
}

/// The node in a place of a table.
#[inline(always)]
pub(super) fn node_at(lines: &[Line], slot: usize) -> Node {
    lines
        .get(slot >> 2)
        .map_or(Node::EMPTY, |line| Node(line.number(slot)))
}

/// The lower of `best` and the first verdict of a leaf that the packet has. `accept` is asked about those that are
/// conditional. Four boxes are compared without a branch: which of them it is nobody could predict.
#[inline(always)]
pub(super) fn first_in_leaf<const W: usize, const L: usize>(
    lines: &[Line],
    leaf: Node,
    point: &Point<W, L>,
    best: u64,
    accept: impl FnMut(RuleId) -> bool,
) -> u64 {
    let count = leaf.count();
    let base = leaf.base();
    let heads = count.div_ceil(4);
    let boxes = base + heads;
    let (Some(head), Some(boxes)) = (lines.get(base), lines.get(boxes..boxes + 4 * L)) else {
        return best;
    };
    let found = u32::from(point.is_in(&boxes[..L]))
        | u32::from(point.is_in(&boxes[L..2 * L])) << 1
        | u32::from(point.is_in(&boxes[2 * L..3 * L])) << 2
        | u32::from(point.is_in(&boxes[3 * L..4 * L])) << 3;
    // Boxes behind the end belong to others.
    let found = found & !(u32::MAX << count.min(4));
    let verdict = head.number(found.trailing_zeros() as usize & 3);
    let verdict = if found == 0 { verdict::NONE } else { verdict };
    if (found == 0) & (count > 4)
        | (found != 0) & verdict::is_conditional(verdict) & (verdict < best)
    {
        return search_leaf(lines, leaf, point, best, accept);
    }
    best.min(verdict)
}

/// The same for a leaf in which the first four boxes do not decide.
#[inline(never)]
fn search_leaf<const W: usize, const L: usize>(
    lines: &[Line],
    leaf: Node,
    point: &Point<W, L>,
    best: u64,
    mut accept: impl FnMut(RuleId) -> bool,
) -> u64 {
    let count = leaf.count();
    let (base, heads) = (leaf.base(), count.div_ceil(4));
    let Some(all) = lines.get(base..base + heads + count * L) else {
        return best;
    };
    let (heads, boxes) = all.split_at(heads);
    for (at, lines) in boxes.chunks_exact(L).enumerate() {
        if !point.is_in(lines) {
            continue;
        }
        let verdict = heads
            .get(at / 4)
            .map_or(verdict::NONE, |head| head.number(at));
        if verdict >= best {
            return best;
        }
        if !verdict::is_conditional(verdict) || accept(verdict::rule(verdict)) {
            return verdict;
        }
    }
    best
}

/// Why there is no tree: too many rules meet in one place, this one and those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub rule: RuleId,
}

/// Builds pages, one after another.
pub(super) struct Builder<'a, const W: usize, const L: usize> {
    pieces: &'a [Piece<W>],
    lines: Vec<Line>,
    leaves: HashMap<Box<[u32]>, Node, foldhash::fast::RandomState>,
    scratch: Scratch,
}

/// What is wanted of cuts, by how long a list is: a long one must become shorter even if that takes many copies.
const AIMS: [(usize, Aim); 3] = [(0, aim(1.0)), (16, aim(0.5)), (32, aim(0.25))];

const fn aim(thrift: f64) -> Aim {
    Aim {
        length: LEAF / 2,
        most_log2: 10,
        thrift,
    }
}

impl<'a, const W: usize, const L: usize> Builder<'a, W, L> {
    pub fn new(pieces: &'a [Piece<W>]) -> Self {
        Self {
            pieces,
            lines: Vec::new(),
            leaves: HashMap::default(),
            scratch: Scratch::default(),
        }
    }

    /// The tree of the pieces in `list`, which is in the order in which rules are looked at.
    pub fn page(&mut self, list: &[u32], region: &Region<W>) -> Result<Page, Refused> {
        self.lines.clear();
        self.leaves.clear();
        let budget = list.len() * LINES_PER_PIECE * L;
        let root = self.node(&cut_short(self.pieces, list, region), region, 0, budget)?;
        self.lines.extend([Line::ZERO; 4].repeat(L));
        Ok(Page {
            root,
            first: list
                .first()
                .map_or(verdict::NONE, |at| self.pieces[*at as usize].verdict),
            lines: Arc::from(&*self.lines),
        })
    }

    /// The node of a list, with this many lines to spend on it and all below.
    fn node(
        &mut self,
        list: &[u32],
        region: &Region<W>,
        depth: usize,
        budget: usize,
    ) -> Result<Node, Refused> {
        if list.len() <= LEAF {
            return Ok(self.leaf(list));
        }
        let Some((cut, lists)) = self.affordable(list, region, depth, budget) else {
            return match list.get(MOST_IN_LEAF) {
                None => Ok(self.leaf(list)),
                Some(over) => Err(Refused {
                    rule: self.pieces[*over as usize].rule(),
                }),
            };
        };
        let slots = cut.slots();
        let base = self.lines.len() * 4;
        self.lines
            .resize(self.lines.len() + slots.div_ceil(4), Line::ZERO);
        let mut previous: Option<(&[u32], Node)> = None;
        let left = budget.saturating_sub(slots.div_ceil(4));
        for slot in 0..slots {
            if !cut.is_possible(region, slot) {
                continue;
            }
            let part = cut.part(region, slot);
            let here = lists.slot(slot);
            let share = left * here.len() / lists.len();
            let node = match previous {
                Some((list, node)) if list == here && (here.len() <= LEAF) => node,
                _ => self.node(here, &part, depth + 1, share)?,
            };
            previous = Some((here, node));
            let place = base + slot;
            self.lines[place / 4].set_number(place, node.0);
        }
        Ok(Node::cut(cut, base))
    }

    /// The best cut that there are lines for, and the list of each of its slots, cut short.
    fn affordable(
        &mut self,
        list: &[u32],
        region: &Region<W>,
        depth: usize,
        budget: usize,
    ) -> Option<(Cut, Lists)> {
        if depth >= MOST_STEPS {
            return None;
        }
        for (least, aim) in &AIMS {
            if list.len() <= *least {
                break;
            }
            let Some(cut) = choose(self.pieces, list, region, aim, &mut self.scratch) else {
                continue;
            };
            for cut in cut.narrower() {
                let mut lists = Lists::of(self.pieces, list, cut);
                lists.cut_short(self.pieces, region, cut);
                let needed = cut.slots().div_ceil(4) + lists.len() * (4 * L + 1) / 4;
                if needed <= budget {
                    return Some((cut, lists));
                }
            }
            return None;
        }
        None
    }

    fn leaf(&mut self, list: &[u32]) -> Node {
        if list.is_empty() {
            return Node::EMPTY;
        }
        if let Some(node) = self.leaves.get(list) {
            return *node;
        }
        let base = self.lines.len();
        let heads = list.len().div_ceil(4);
        self.lines.resize(base + heads, Line::ZERO);
        for (at, piece) in list.iter().enumerate() {
            let piece = &self.pieces[*piece as usize];
            self.lines[base + at / 4].set_number(at, piece.verdict);
            let lines: [Line; L] = lines(&piece.lowest, &piece.highest);
            self.lines.extend(lines);
        }
        let node = Node::leaf(base, list.len());
        self.leaves.insert(list.into(), node);
        node
    }
}

/// How many pieces of a list count: up to the first that holds all of the region, that one included.
pub(super) fn covered<const W: usize>(
    pieces: &[Piece<W>],
    list: &[u32],
    region: &Region<W>,
) -> usize {
    let last = list.iter().position(|at| {
        let piece = &pieces[*at as usize];
        piece.is_exact() && piece.covers(region)
    });
    last.map_or(list.len(), |last| last + 1)
}

/// The pieces that count.
fn cut_short<const W: usize>(pieces: &[Piece<W>], list: &[u32], region: &Region<W>) -> Vec<u32> {
    list[..covered(pieces, list, region)].to_vec()
}

/// The list of each slot of a cut.
pub(super) struct Lists {
    /// Where each slot's list begins and ends.
    ends: Vec<(u32, u32)>,
    items: Vec<u32>,
    count: usize,
}

impl Lists {
    pub fn of<const W: usize>(pieces: &[Piece<W>], list: &[u32], cut: Cut) -> Self {
        let mut ends = vec![(0_u32, 0_u32); cut.slots()];
        for at in list {
            cut.each_slot(&pieces[*at as usize], |slot| ends[slot].1 += 1);
        }
        let mut next = 0;
        for (start, end) in &mut ends {
            let count = *end;
            (*start, *end) = (next, next);
            next += count;
        }
        let mut items = vec![0; next as usize];
        for at in list {
            cut.each_slot(&pieces[*at as usize], |slot| {
                let end = &mut ends[slot].1;
                items[*end as usize] = *at;
                *end += 1;
            });
        }
        Self {
            ends,
            count: items.len(),
            items,
        }
    }

    /// Ends each slot's list at the first piece that holds all of the slot.
    pub fn cut_short<const W: usize>(&mut self, pieces: &[Piece<W>], region: &Region<W>, cut: Cut) {
        self.count = 0;
        for (slot, (start, end)) in self.ends.iter_mut().enumerate() {
            let list = &self.items[*start as usize..*end as usize];
            let kept = if cut.is_possible(region, slot) {
                covered(pieces, list, &cut.part(region, slot))
            } else {
                0
            };
            #[expect(clippy::cast_possible_truncation, reason = "no longer than it was")]
            let kept_end = *start + kept as u32;
            *end = kept_end;
            self.count += kept;
        }
    }

    /// Pieces of all slots together.
    pub fn len(&self) -> usize {
        self.count
    }

    pub fn slot(&self, slot: usize) -> &[u32] {
        let (start, end) = self.ends[slot];
        &self.items[start as usize..end as usize]
    }
}
