//! Content as a tree of chunks: made, edited, compared and looked into.

use std::collections::BTreeSet;
use std::net::IpAddr;

use march_model::{ContentHash, Family, Prefix};

use crate::chunk::{self, Chunk, Chunks, ContentError, Span};
use crate::cut::{self, Cutter};

/// What a set holds, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    /// The hash of the root.
    pub root: ContentHash,
    /// How many prefixes there are.
    pub prefixes: usize,
}

/// New content and the chunks that it needs besides those that were there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edited {
    /// What it is now.
    pub content: Content,
    /// Chunks that the content before did not have.
    pub chunks: Vec<Chunk>,
    /// How many prefixes it has that were not in it.
    pub added: usize,
    /// How many prefixes went.
    pub removed: usize,
}

/// What leads from one content to another; both sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// What only the second has.
    pub added: Vec<Prefix>,
    /// What only the first has.
    pub removed: Vec<Prefix>,
}

/// The content of these prefixes, in any order, each as often as it likes.
#[must_use]
pub fn build(mut prefixes: Vec<Prefix>) -> Edited {
    prefixes.sort_unstable();
    prefixes.dedup();
    let mut leaves = Leaves::default();
    leaves.take(&prefixes);
    let added = prefixes.len();
    Edited {
        added,
        removed: 0,
        ..leaves.finish(&BTreeSet::new())
    }
}

/// The content that `root` becomes with `add` and without `remove`; what is in both stays or comes. Reads the leaves
/// around the edits, and the lists of leaves.
pub fn edit(
    chunks: &dyn Chunks,
    root: &ContentHash,
    add: &[Prefix],
    remove: &[Prefix],
) -> Result<Edited, ContentError> {
    let before = Listing::read(chunks, root)?;
    let add: BTreeSet<Prefix> = add.iter().copied().collect();
    let remove: BTreeSet<Prefix> = remove.iter().copied().collect();
    let mut edits: Vec<Prefix> = add.union(&remove).copied().collect();
    let mut leaves = Leaves::default();
    let (mut added, mut removed) = (0, 0);
    edits.reverse();
    for (index, span) in before.leaves.iter().enumerate() {
        let end = before.leaves.get(index + 1).map(|next| next.first);
        let mut here = Vec::new();
        while let Some(prefix) = edits.pop_if(|prefix| end.is_none_or(|end| *prefix < end)) {
            here.push(prefix);
        }
        if here.is_empty() && leaves.is_at_cut() {
            leaves.keep(*span);
            continue;
        }
        let mut prefixes = Vec::new();
        chunk::read_leaf(&span.hash, &chunks.read(&span.hash)?, &mut prefixes)?;
        let count = prefixes.len();
        prefixes.retain(|prefix| here.binary_search(prefix).is_err() || add.contains(prefix));
        removed += count - prefixes.len();
        let count = prefixes.len();
        prefixes.extend(here.iter().filter(|prefix| add.contains(prefix)));
        prefixes.sort_unstable();
        prefixes.dedup();
        added += prefixes.len() - count;
        leaves.take(&prefixes);
    }
    // Only of a set that was empty something is left.
    edits.reverse();
    edits.retain(|prefix| add.contains(prefix));
    added += edits.len();
    leaves.take(&edits);
    let known = before.hashes().collect();
    Ok(Edited {
        added,
        removed,
        ..leaves.finish(&known)
    })
}

/// What leads from one content to another. Reads the leaves that only one of them has.
pub fn difference(
    chunks: &dyn Chunks,
    from: &ContentHash,
    to: &ContentHash,
) -> Result<Difference, ContentError> {
    let (from, to) = (Listing::read(chunks, from)?, Listing::read(chunks, to)?);
    let (before, after) = (from.without(chunks, &to)?, to.without(chunks, &from)?);
    Ok(Difference {
        added: only(&after, &before),
        removed: only(&before, &after),
    })
}

/// What is in the first of two sorted lists only.
fn only(first: &[Prefix], second: &[Prefix]) -> Vec<Prefix> {
    let mut others = second.iter().peekable();
    let mut only = Vec::new();
    for prefix in first {
        while others.next_if(|other| *other < prefix).is_some() {}
        if others.peek() != Some(&prefix) {
            only.push(*prefix);
        }
    }
    only
}

/// Every leaf in order: its name and how many prefixes it has.
pub fn walk(
    chunks: &dyn Chunks,
    root: &ContentHash,
) -> Result<Vec<(ContentHash, usize)>, ContentError> {
    let listing = Listing::read(chunks, root)?;
    let leaves = listing.leaves.iter();
    Ok(leaves.map(|span| (span.hash, size(span))).collect())
}

/// The prefixes of one leaf, sorted.
pub fn prefixes_of(chunks: &dyn Chunks, leaf: &ContentHash) -> Result<Vec<Prefix>, ContentError> {
    let mut prefixes = Vec::new();
    chunk::read_leaf(leaf, &chunks.read(leaf)?, &mut prefixes)?;
    Ok(prefixes)
}

/// Every chunk of these contents. What they share is read once.
pub fn reachable(
    chunks: &dyn Chunks,
    roots: &[ContentHash],
) -> Result<BTreeSet<ContentHash>, ContentError> {
    let mut seen = BTreeSet::new();
    for root in roots {
        if !seen.insert(*root) {
            continue;
        }
        for branch in chunk::read_root(root, &chunks.read(root)?)? {
            if seen.insert(branch.hash) {
                let leaves = chunk::read_branch(&branch.hash, &chunks.read(&branch.hash)?)?;
                seen.extend(leaves.into_iter().map(|leaf| leaf.hash));
            }
        }
    }
    Ok(seen)
}

/// How many prefixes a content has, from the bytes of its root.
pub fn count(root: &ContentHash, bytes: &[u8]) -> Result<usize, ContentError> {
    Ok(chunk::read_root(root, bytes)?.iter().map(size).sum())
}

/// The chunks that are not here and whose names are known: the root, or else branches, or else leaves. None when the
/// content is whole.
pub fn lacking(chunks: &dyn Chunks, root: &ContentHash) -> Result<Vec<ContentHash>, ContentError> {
    let spans = match chunks.read(root) {
        Ok(bytes) => chunk::read_root(root, &bytes)?,
        Err(ContentError::Missing { hash }) => return Ok(vec![hash]),
        Err(error) => return Err(error),
    };
    let (mut branches, mut leaves) = (Vec::new(), BTreeSet::new());
    for span in &spans {
        match chunks.read(&span.hash) {
            Ok(bytes) => {
                let below = chunk::read_branch(&span.hash, &bytes)?;
                leaves.extend(below.into_iter().map(|leaf| leaf.hash));
            }
            Err(ContentError::Missing { hash }) => branches.push(hash),
            Err(error) => return Err(error),
        }
    }
    if branches.is_empty() {
        leaves.retain(|leaf| !chunks.has(leaf));
        branches.extend(leaves);
    }
    Ok(branches)
}

/// The longest prefix that holds the address.
pub fn longest(
    chunks: &dyn Chunks,
    root: &ContentHash,
    address: IpAddr,
) -> Result<Option<Prefix>, ContentError> {
    let listing = Listing::read(chunks, root)?;
    let (full, first_bit) = match address {
        IpAddr::V4(_) => (32, 96),
        IpAddr::V6(_) => (128, 0),
    };
    let host = Prefix::new(address, full).expect("an address is a prefix");
    let number = |address: IpAddr| match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => address.into(),
    };
    // What holds the address holds every prefix between itself and the address too, so what stands before the place of
    // the address says how long it may be at most.
    let mut bound = host;
    loop {
        let Some(found) = listing.last_up_to(chunks, bound)? else {
            return Ok(None);
        };
        if found.family() != Family::of(address) {
            return Ok(None);
        }
        if found.contains(address) {
            return Ok(Some(found));
        }
        let apart = (number(found.address()) ^ number(address)).leading_zeros() - first_bit;
        let shared = u8::try_from(apart)
            .expect("at most 128")
            .min(found.length());
        bound = host.widen(shared);
    }
}

/// Every leaf of a content, and the branches that list them.
struct Listing {
    root: ContentHash,
    branches: Vec<ContentHash>,
    leaves: Vec<Span>,
}

impl Listing {
    fn read(chunks: &dyn Chunks, root: &ContentHash) -> Result<Self, ContentError> {
        let spans = chunk::read_root(root, &chunks.read(root)?)?;
        let mut listing = Self {
            root: *root,
            branches: Vec::with_capacity(spans.len()),
            leaves: Vec::new(),
        };
        for span in spans {
            let leaves = chunk::read_branch(&span.hash, &chunks.read(&span.hash)?)?;
            listing.branches.push(span.hash);
            listing.leaves.extend(leaves);
        }
        Ok(listing)
    }

    fn hashes(&self) -> impl Iterator<Item = ContentHash> {
        let leaves = self.leaves.iter().map(|leaf| leaf.hash);
        let root = std::iter::once(self.root);
        root.chain(self.branches.iter().copied()).chain(leaves)
    }

    /// The prefixes of the leaves that the other has not.
    fn without(&self, chunks: &dyn Chunks, other: &Self) -> Result<Vec<Prefix>, ContentError> {
        let others: BTreeSet<ContentHash> = other.leaves.iter().map(|leaf| leaf.hash).collect();
        let mut prefixes = Vec::new();
        for leaf in self
            .leaves
            .iter()
            .filter(|leaf| !others.contains(&leaf.hash))
        {
            chunk::read_leaf(&leaf.hash, &chunks.read(&leaf.hash)?, &mut prefixes)?;
        }
        Ok(prefixes)
    }

    /// The last prefix that is not above `bound`.
    fn last_up_to(
        &self,
        chunks: &dyn Chunks,
        bound: Prefix,
    ) -> Result<Option<Prefix>, ContentError> {
        let behind = self.leaves.partition_point(|leaf| leaf.first <= bound);
        let Some(leaf) = behind.checked_sub(1).map(|index| &self.leaves[index]) else {
            return Ok(None);
        };
        let prefixes = prefixes_of(chunks, &leaf.hash)?;
        let behind = prefixes.partition_point(|prefix| *prefix <= bound);
        Ok(behind.checked_sub(1).map(|index| prefixes[index]))
    }
}

fn size(span: &Span) -> usize {
    usize::try_from(span.count).expect("32 bits fit")
}

/// Leaves being made, in order.
#[derive(Debug)]
struct Leaves {
    spans: Vec<Span>,
    made: Vec<Chunk>,
    open: Vec<Prefix>,
    cutter: Cutter,
}

impl Default for Leaves {
    fn default() -> Self {
        Self {
            spans: Vec::new(),
            made: Vec::new(),
            open: Vec::new(),
            cutter: Cutter::new(cut::LEAF),
        }
    }
}

impl Leaves {
    /// Whether a leaf begins here.
    fn is_at_cut(&self) -> bool {
        self.open.is_empty()
    }

    /// A leaf that stays as it is.
    fn keep(&mut self, span: Span) {
        debug_assert!(self.is_at_cut());
        self.spans.push(span);
    }

    /// Prefixes that follow, sorted.
    fn take(&mut self, prefixes: &[Prefix]) {
        for prefix in prefixes {
            let is_other_family = |last: &Prefix| last.family() != prefix.family();
            if self.open.last().is_some_and(is_other_family) {
                self.close();
                self.cutter.on_cut();
            }
            self.open.push(*prefix);
            if self.cutter.is_end(number_of(*prefix)) {
                self.close();
            }
        }
    }

    fn close(&mut self) {
        let Some(&first) = self.open.first() else {
            return;
        };
        let leaf = chunk::leaf(&self.open);
        let count = u32::try_from(self.open.len()).expect("a leaf is bounded");
        self.open.clear();
        self.spans.push(Span {
            hash: leaf.hash,
            count,
            first,
        });
        self.made.push(leaf);
    }

    /// The branches and the root above the leaves; chunks with known names are left out.
    fn finish(mut self, known: &BTreeSet<ContentHash>) -> Edited {
        self.close();
        let mut cutter = Cutter::new(cut::BRANCH);
        let is_end = |span: &Span| {
            let start = span.hash.as_bytes().first_chunk().expect("32 bytes");
            cutter.is_end(u64::from_be_bytes(*start))
        };
        let ends: Vec<bool> = self.spans.iter().map(is_end).collect();
        let mut branches = Vec::new();
        let mut rest = &self.spans[..];
        let mut ends = &ends[..];
        while !rest.is_empty() {
            let length = ends
                .iter()
                .position(|end| *end)
                .map_or(rest.len(), |at| at + 1);
            let (here, behind) = rest.split_at(length);
            (rest, ends) = (behind, &ends[length..]);
            let branch = chunk::branch(here);
            branches.push(Span {
                hash: branch.hash,
                count: here.iter().map(|span| span.count).sum(),
                first: here[0].first,
            });
            self.made.push(branch);
        }
        let root = chunk::root(&branches);
        let content = Content {
            root: root.hash,
            prefixes: branches.iter().map(size).sum(),
        };
        self.made.push(root);
        self.made.retain(|chunk| !known.contains(&chunk.hash));
        Edited {
            content,
            chunks: self.made,
            added: 0,
            removed: 0,
        }
    }
}

fn number_of(prefix: Prefix) -> u64 {
    let address = match prefix.address() {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => address.into(),
    };
    cut::number_of(address, prefix.length())
}

#[cfg(test)]
mod tests;
