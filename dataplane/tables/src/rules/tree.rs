//! The tree over one part of the rules: a page above and pages below it.
//!
//! The page above only has cuts. Those below are made of the pieces that meet their part of the space, all of them: what is
//! hidden behind another piece now may come out when that one goes.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::bounds::{MOST_COPIES, MOST_STEPS, PAGE};
use super::cut::{Aim, Scratch, choose};
use super::page::{Builder, Lists, Node, Page, Refused, node_at};
use super::space::{Line, Piece, Region};
use super::verdict;

/// The tree.
#[derive(Clone, Debug)]
pub(super) struct Tree<const W: usize, const L: usize> {
    /// Pages by number; the first is the one above.
    pages: Vec<Page>,
    /// What they are made of; nothing for the first.
    sources: Vec<Arc<Source<W>>>,
}

/// What a page is made of.
#[derive(Debug)]
struct Source<const W: usize> {
    region: Region<W>,
    /// In the order in which rules are looked at.
    members: Vec<Piece<W>>,
    /// How many there were when the page above was made.
    at_first: usize,
}

/// A piece that comes or goes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Change<const W: usize> {
    Add(Piece<W>),
    Remove(Piece<W>),
}

impl<const W: usize> Change<W> {
    pub fn piece(&self) -> &Piece<W> {
        match self {
            Self::Add(piece) | Self::Remove(piece) => piece,
        }
    }
}

const AIM: Aim = Aim {
    length: PAGE / 2,
    most_log2: 12,
    thrift: 1.5,
};

/// A page with more members than this many times those that it began with is a reason to make the tree anew.
const MOST_GROWTH: usize = 8;

impl<const W: usize, const L: usize> Default for Tree<W, L> {
    fn default() -> Self {
        Self {
            pages: Vec::new(),
            sources: Vec::new(),
        }
    }
}

impl<const W: usize, const L: usize> Tree<W, L> {
    /// The tree of `pieces`, which are in the order in which rules are looked at.
    pub fn new(pieces: &[Piece<W>]) -> Result<Self, Refused> {
        if pieces.is_empty() {
            return Ok(Self::default());
        }
        let mut growing = Growing {
            pieces,
            builder: Builder::<W, L>::new(pieces),
            scratch: Scratch::default(),
            upper: Vec::new(),
            tree: Self::default(),
        };
        growing.tree.push(
            Page::default(),
            Source {
                region: Region::ALL,
                members: Vec::new(),
                at_first: 0,
            },
        );
        let all: Vec<u32> = (0..).take(pieces.len()).collect();
        let root = growing.node(&all, &Region::ALL, 0, MOST_COPIES * pieces.len())?;
        let Growing {
            upper, mut tree, ..
        } = growing;
        tree.pages[0] = Page {
            root,
            first: pieces[0].verdict,
            lines: table(&upper),
        };
        Ok(tree)
    }

    fn push(&mut self, page: Page, source: Source<W>) {
        self.pages.push(page);
        self.sources.push(Arc::new(source));
    }

    /// The page above; `None` where there are no rules.
    #[inline(always)]
    pub fn top(&self) -> Option<(Node, &[Line])> {
        self.pages.first().map(|page| (page.root, &*page.lines))
    }

    /// The lowest verdict in it.
    #[inline(always)]
    pub fn first(&self) -> u64 {
        self.pages.first().map_or(verdict::NONE, |page| page.first)
    }

    /// The root of a page, and the page; nothing if it has no verdict below `best`.
    #[inline(always)]
    pub fn page(&self, node: Node, best: u64) -> (Node, &[Line]) {
        self.pages
            .get(node.base())
            .map_or((Node::EMPTY, &[]), |page| {
                let root = if page.first < best {
                    page.root
                } else {
                    Node::EMPTY
                };
                (root, &*page.lines)
            })
    }

    /// All pages.
    #[cfg(test)]
    pub fn pages(&self) -> &[Page] {
        &self.pages
    }

    /// The most steps and the most boxes that one packet may take.
    pub fn worst_path(&self) -> (usize, usize) {
        let below = |node: Node| {
            let page = &self.pages[node.base()];
            page.worst_path(page.root, &|_| (0, 0))
        };
        let top = self.pages.first();
        top.map_or((0, 0), |top| top.worst_path(top.root, &below))
    }

    /// Bytes of it.
    pub fn bytes(&self) -> usize {
        let lines: usize = self.pages.iter().map(Page::bytes).sum();
        let source = |source: &Arc<Source<W>>| {
            size_of_val(&*source.members) + size_of::<Source<W>>() + 2 * size_of::<usize>()
        };
        let sources: usize = self.sources.iter().map(source).sum();
        let each = size_of::<Page>() + size_of::<Arc<Source<W>>>();
        lines + sources + self.pages.len() * each
    }

    /// The tree with some pieces more and some less; pages that none of them meets are shared.
    pub fn update(&self, changes: &[Change<W>]) -> Result<Self, Refused> {
        let Some((root, _)) = self.top() else {
            return Self::new(&after(&[], changes));
        };
        let mut touched = Touched {
            pages: BTreeMap::new(),
            empty: BTreeMap::new(),
        };
        for change in changes {
            self.touch(root, None, &Region::ALL, change, &mut touched);
        }
        let mut next = self.clone();
        let added = changes
            .iter()
            .filter(|change| matches!(change, Change::Add(_)));
        let first = added.map(|change| change.piece().verdict).min();
        // Lower than any of those that are left, if those were removed: less is skipped than could be.
        next.pages[0].first = self.pages[0].first.min(first.unwrap_or(verdict::NONE));
        let mut is_worn = false;
        for (number, changes) in &touched.pages {
            let source = &self.sources[*number];
            let members = after(&source.members, changes);
            is_worn |= members.len() > MOST_GROWTH * source.at_first.max(PAGE);
            next.pages[*number] = page::<W, L>(&members, &source.region)?;
            next.sources[*number] = Arc::new(Source {
                region: source.region,
                members,
                at_first: source.at_first,
            });
        }
        if !touched.empty.is_empty() {
            next.fill(touched.empty)?;
        }
        if is_worn {
            return Self::new(&next.members());
        }
        Ok(next)
    }

    /// Makes pages for slots that had none.
    fn fill(&mut self, empty: BTreeMap<usize, (Region<W>, Vec<Change<W>>)>) -> Result<(), Refused> {
        let mut lines = self.pages[0].lines.to_vec();
        for (slot, (region, changes)) in empty {
            let members = after(&[], &changes);
            let node = Node::page(self.pages.len());
            self.push(
                page::<W, L>(&members, &region)?,
                Source {
                    region,
                    at_first: members.len(),
                    members,
                },
            );
            lines[slot / 4].set_number(slot, node.0);
        }
        self.pages[0].lines = lines.into();
        Ok(())
    }

    /// Notes a change with every page that it meets below `node`, which is in a slot of the page above unless it is the root.
    fn touch(
        &self,
        node: Node,
        slot: Option<usize>,
        region: &Region<W>,
        change: &Change<W>,
        touched: &mut Touched<W>,
    ) {
        if node.is_page() {
            touched.pages.entry(node.base()).or_default().push(*change);
            return;
        }
        if node.is_cut() {
            let cut = node.as_cut();
            cut.each_slot(change.piece(), |at| {
                if cut.is_possible(region, at) {
                    let slot = node.base() + at;
                    let below = node_at(&self.pages[0].lines, slot);
                    self.touch(below, Some(slot), &cut.part(region, at), change, touched);
                }
            });
            return;
        }
        let slot = slot.expect("only a slot is empty: a tree without rules has no page above");
        let (_, changes) = touched.empty.entry(slot).or_insert((*region, Vec::new()));
        changes.push(*change);
    }

    /// Every piece once, in the order in which rules are looked at.
    fn members(&self) -> Vec<Piece<W>> {
        let members = self.sources.iter().flat_map(|source| &source.members);
        let mut members: Vec<Piece<W>> = members.copied().collect();
        members.sort_unstable_by_key(|piece| (piece.verdict, piece.lowest, piece.highest));
        members.dedup();
        members
    }
}

/// What changes meet.
struct Touched<const W: usize> {
    /// By page.
    pages: BTreeMap<usize, Vec<Change<W>>>,
    /// By slot of the page above that has no page.
    empty: BTreeMap<usize, (Region<W>, Vec<Change<W>>)>,
}

/// The members with changes.
fn after<const W: usize>(members: &[Piece<W>], changes: &[Change<W>]) -> Vec<Piece<W>> {
    let is_removed = |piece: &Piece<W>| {
        let is_it = |change: &Change<W>| matches!(change, Change::Remove(other) if other == piece);
        changes.iter().any(is_it)
    };
    let mut next: Vec<Piece<W>> = members
        .iter()
        .filter(|piece| !is_removed(piece))
        .copied()
        .collect();
    for change in changes {
        if let Change::Add(piece) = change {
            let at = next.partition_point(|other| other.verdict <= piece.verdict);
            next.insert(at, *piece);
        }
    }
    next
}

fn page<const W: usize, const L: usize>(
    members: &[Piece<W>],
    region: &Region<W>,
) -> Result<Page, Refused> {
    let all: Vec<u32> = (0..).take(members.len()).collect();
    Builder::<W, L>::new(members).page(&all, region)
}

/// Nodes, four to a line.
fn table(nodes: &[Node]) -> Arc<[Line]> {
    let line = |nodes: &[Node]| {
        let mut line = Line::ZERO;
        for (at, node) in nodes.iter().enumerate() {
            line.set_number(at, node.0);
        }
        line
    };
    nodes.chunks(4).map(line).collect()
}

/// A tree that is being made.
struct Growing<'a, const W: usize, const L: usize> {
    pieces: &'a [Piece<W>],
    builder: Builder<'a, W, L>,
    scratch: Scratch,
    /// Slots of the page above.
    upper: Vec<Node>,
    tree: Tree<W, L>,
}

impl<const W: usize, const L: usize> Growing<'_, W, L> {
    /// The node of a list; all pages below it may have this many members together.
    fn node(
        &mut self,
        list: &[u32],
        region: &Region<W>,
        depth: usize,
        budget: usize,
    ) -> Result<Node, Refused> {
        if list.is_empty() {
            return Ok(Node::EMPTY);
        }
        let cut = if list.len() > PAGE && depth < MOST_STEPS {
            choose(self.pieces, list, region, &AIM, &mut self.scratch)
        } else {
            None
        };
        let affordable = cut.and_then(|cut| {
            let lists = |cut| (cut, Lists::of(self.pieces, list, cut));
            let mut all = cut.narrower().map(lists);
            all.find(|(_, lists)| lists.len() <= budget)
        });
        let Some((cut, lists)) = affordable else {
            let page = self.builder.page(list, region)?;
            let source = Source {
                region: *region,
                members: list.iter().map(|at| self.pieces[*at as usize]).collect(),
                at_first: list.len(),
            };
            self.tree.push(page, source);
            return Ok(Node::page(self.tree.pages.len() - 1));
        };
        let base = self.upper.len();
        self.upper
            .resize(base + cut.slots().next_multiple_of(4), Node::EMPTY);
        for slot in 0..cut.slots() {
            if cut.is_possible(region, slot) {
                let below = lists.slot(slot);
                let share = budget * below.len() / lists.len();
                let node = self.node(below, &cut.part(region, slot), depth + 1, share)?;
                self.upper[base + slot] = node;
            }
        }
        Ok(Node::cut(cut, base))
    }
}
