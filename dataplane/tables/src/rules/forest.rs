//! The rules of one family: a tree for each part of them.
//!
//! A rule with a wide prefix would be in many slots of a cut of that address. So rules are parted by how long their prefixes
//! are, and each tree cuts what its rules tell apart.

#[cfg(test)]
use super::page::Page;
use super::page::{Node, Refused, first_in_leaf, node_at};
use super::space::{Line, Piece, Point, TAIL, width};
use super::tree::{Change, Tree};
use super::verdict;
use crate::RuleId;

/// How many parts there are.
const PARTS: usize = 7;

/// Packets that are looked up together.
pub(super) const BURST: usize = 64;

/// The trees.
#[derive(Clone, Debug)]
pub(super) struct Forest<const W: usize, const L: usize> {
    trees: [Tree<W, L>; PARTS],
    /// Pieces of each part, those that are in the tree of the rest among them.
    counts: [usize; PARTS],
    /// Whether a part is in the tree of the rest.
    is_few: [bool; PARTS],
}

/// Leading bits of an address that all of a piece agrees in.
fn length<const W: usize>(piece: &Piece<W>, first: usize) -> u32 {
    let mut length = 0;
    for word in first..first + (W - TAIL) / 2 {
        let differing = piece.lowest[word] ^ piece.highest[word];
        length += differing.leading_zeros();
        if differing != 0 {
            break;
        }
    }
    length
}

/// Leading bits from which on a prefix is long.
const fn long<const W: usize>() -> u32 {
    if W == super::space::WORDS4 { 16 } else { 32 }
}

fn part<const W: usize>(piece: &Piece<W>) -> usize {
    debug_assert!(width::<W>(0) == 32, "words of addresses");
    let is_few = |word: usize| piece.highest[word] - piece.lowest[word] < FEW_PORTS;
    if length(piece, (W - TAIL) / 2) >= long::<W>() {
        0
    } else if length(piece, 0) >= long::<W>() {
        1
    } else if is_few(W - 3) {
        2
    } else if is_few(W - 4) {
        3
    } else if length(piece, (W - TAIL) / 2) >= FEW_BITS {
        4
    } else if length(piece, 0) >= FEW_BITS {
        5
    } else {
        REST
    }
}

/// Leading bits from which on a prefix tells packets apart a little.
const FEW_BITS: u32 = 4;

/// Ports in a range that tells packets apart.
const FEW_PORTS: u32 = 8192;
/// The part of rules that no word tells apart well.
const REST: usize = 6;
/// Pieces for which another tree is not worth a visit.
const FEW: usize = 32;
/// Pieces from which on it would be.
const FEW_NO_MORE: usize = 8 * FEW;

/// The tree that a piece is in.
fn place<const W: usize>(piece: &Piece<W>, is_few: [bool; PARTS]) -> usize {
    let part = part(piece);
    if is_few[part] { REST } else { part }
}

impl<const W: usize, const L: usize> Forest<W, L> {
    /// The trees of `pieces`, which are in the order in which rules are looked at.
    pub fn new(pieces: &[Piece<W>]) -> Result<Self, Refused> {
        let mut counts = [0; PARTS];
        for piece in pieces {
            counts[part(piece)] += 1;
        }
        let is_few = counts.map(|count| count < FEW);
        let mut parts: [Vec<Piece<W>>; PARTS] = Default::default();
        for piece in pieces {
            parts[place(piece, is_few)].push(*piece);
        }
        let mut trees: [Tree<W, L>; PARTS] = Default::default();
        for (tree, part) in trees.iter_mut().zip(&parts) {
            *tree = Tree::new(part)?;
        }
        Ok(Self {
            trees,
            counts,
            is_few,
        })
    }

    /// The trees with some pieces more and some less; `None` if they should rather be made anew.
    pub fn update(&self, changes: &[Change<W>]) -> Result<Option<Self>, Refused> {
        let mut next = self.clone();
        let mut parts: [Vec<Change<W>>; PARTS] = Default::default();
        for change in changes {
            let number = part(change.piece());
            match change {
                Change::Add(_) => next.counts[number] += 1,
                Change::Remove(_) => next.counts[number] -= 1,
            }
            parts[place(change.piece(), self.is_few)].push(*change);
        }
        let is_grown =
            |part: usize| part != REST && self.is_few[part] && next.counts[part] > FEW_NO_MORE;
        if (0..PARTS).any(is_grown) {
            return Ok(None);
        }
        for (tree, changes) in next.trees.iter_mut().zip(&parts) {
            if !changes.is_empty() {
                *tree = tree.update(changes)?;
            }
        }
        Ok(Some(next))
    }

    /// Every page.
    #[cfg(test)]
    pub fn pages(&self) -> impl Iterator<Item = &Page> {
        self.trees.iter().flat_map(Tree::pages)
    }

    /// The lowest verdict that the packet has.
    #[inline]
    pub fn find(&self, point: &Point<W, L>, mut accept: impl FnMut(RuleId) -> bool) -> u64 {
        let mut best = verdict::NONE;
        for tree in &self.trees {
            if tree.first() >= best {
                continue;
            }
            let Some((mut node, mut lines)) = tree.top() else {
                continue;
            };
            loop {
                if node.is_page() {
                    (node, lines) = tree.page(node, best);
                }
                if !node.is_cut() {
                    break;
                }
                node = node_at(lines, node.slot(&point.words));
            }
            if node.is_full_leaf() {
                best = first_in_leaf(lines, node, point, best, &mut accept);
            }
        }
        best
    }

    /// The lowest verdict of each packet, stage by stage so that the memory accesses of different packets overlap.
    #[inline]
    pub fn find_burst(
        &self,
        points: &[Point<W, L>],
        best: &mut [u64; BURST],
        mut accept: impl FnMut(usize, RuleId) -> bool,
    ) {
        let mut leaves = Leaves {
            at: [0; BURST],
            nodes: [Node::EMPTY; BURST],
            lines: [&[]; BURST],
            count: 0,
        };
        for (number, tree) in self.trees.iter().enumerate() {
            descend(tree, points, best, &mut leaves);
            if number != 0 {
                leaves.keep_better_than(best);
            }
            for turn in 0..leaves.count.min(BURST) {
                let at = usize::from(leaves.at[turn]) & (BURST - 1);
                let Some(point) = points.get(at) else { break };
                best[at] = first_in_leaf(
                    leaves.lines[at],
                    leaves.nodes[at],
                    point,
                    best[at],
                    |rule| accept(at, rule),
                );
            }
        }
    }

    /// The most that one packet may take: steps down, and boxes compared.
    pub fn worst_path(&self) -> (usize, usize) {
        let add = |a: (usize, usize), b: (usize, usize)| (a.0 + b.0, a.1 + b.1);
        self.trees.iter().map(Tree::worst_path).fold((0, 0), add)
    }

    /// Bytes of all trees.
    pub fn bytes(&self) -> usize {
        self.trees.iter().map(Tree::bytes).sum()
    }
}

/// Where packets are in a tree.
struct Leaves<'a> {
    /// Which packets have reached a leaf with rules.
    at: [u8; BURST],
    count: usize,
    /// The node that each packet is at.
    nodes: [Node; BURST],
    /// The page that it is in.
    lines: [&'a [Line]; BURST],
}

impl Leaves<'_> {
    /// Leaves out those in whose leaf nothing is better than what they have.
    fn keep_better_than(&mut self, best: &[u64; BURST]) {
        let mut kept = 0;
        for turn in 0..self.count.min(BURST) {
            let at = usize::from(self.at[turn]) & (BURST - 1);
            let first = self.lines[at]
                .get(self.nodes[at].base())
                .map_or(verdict::NONE, |line| line.number(0));
            self.at[kept & (BURST - 1)] = self.at[turn];
            kept += usize::from(first < best[at]);
        }
        self.count = kept;
    }
}

/// A packet's place in a burst, to be kept.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "a burst has 64 packets")]
fn packet(at: usize) -> u8 {
    at as u8
}

/// Takes all packets down a tree, a step of each at a time.
#[inline(never)]
fn descend<'a, const W: usize, const L: usize>(
    tree: &'a Tree<W, L>,
    points: &[Point<W, L>],
    best: &[u64; BURST],
    state: &mut Leaves<'a>,
) {
    state.count = 0;
    let Some((root, top)) = tree.top() else {
        return;
    };
    let mut open = [0_u8; BURST];
    let mut asking = 0;
    for (at, best) in best.iter().take(points.len()).enumerate() {
        open[asking & (BURST - 1)] = packet(at);
        asking += usize::from(tree.first() < *best);
    }
    let (mut opened, mut ended) = (0, 0);
    for turn in 0..asking.min(BURST) {
        let at = usize::from(open[turn]) & (BURST - 1);
        let Some(point) = points.get(at) else { break };
        let mut node = root;
        if node.is_cut() {
            node = node_at(top, node.slot(&point.words));
        }
        let mut lines = top;
        if node.is_page() {
            (node, lines) = tree.page(node, best[at]);
        }
        state.nodes[at] = node;
        state.lines[at] = lines;
        let number = packet(at);
        open[opened & (BURST - 1)] = number;
        opened += usize::from(node.is_cut());
        state.at[ended & (BURST - 1)] = number;
        ended += usize::from(node.is_full_leaf());
    }
    while opened != 0 {
        let mut left = 0;
        for turn in 0..opened {
            let at = usize::from(open[turn]) & (BURST - 1);
            let Some(point) = points.get(at) else { break };
            let slot = state.nodes[at].slot(&point.words);
            let mut node = node_at(state.lines[at], slot);
            if node.is_page() {
                (node, state.lines[at]) = tree.page(node, best[at]);
            }
            state.nodes[at] = node;
            let number = packet(at);
            open[left] = number;
            left += usize::from(node.is_cut());
            state.at[ended & (BURST - 1)] = number;
            ended += usize::from(node.is_full_leaf());
        }
        opened = left;
    }
    state.count = ended;
}
