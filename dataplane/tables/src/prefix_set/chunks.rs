//! One half of IPv6: prefixes in order, in chunks of some dozens.
//!
//! IPv6 prefixes crowd behind few leading bits, so what is cut is not the space but the list: whatever the prefixes are, a chunk
//! has [`SMALLEST`] to [`LARGEST`] of them, save where there are not as many.

use std::sync::Arc;

use super::ladder::{Ladder, Word};
use super::spans::{Changes, Open, Prefix, Ranges, merge};

/// A chunk with fewer prefixes joins the one before it if that has room.
const SMALLEST: usize = 15;
/// What a chunk is made with: if none of them touch or nest, they make 121 ranges.
const USUAL: usize = 60;
/// A chunk with more is cut.
const LARGEST: usize = 120;
/// Ranges in a block: a chunk begins with the start of each block, then come the blocks.
const BLOCK: usize = 16;
/// Starts of blocks are filled up to a multiple of this.
const FENCES: usize = 8;

/// A chunk: one allocation of words. Numbers of ranges, prefixes and prefixes around it; the start of each block of ranges; the
/// start of each range; the codes of ranges; then, which only changes read, the prefixes that begin here and those around the
/// chunk's start that begin before it.
type Chunk<K> = Arc<[K]>;

/// Where the parts of a chunk are.
struct Parts {
    ranges: usize,
    prefixes: usize,
    open: usize,
    /// Beginnings of: starts, codes, firsts, lengths, lasts around, lengths around.
    at: [usize; 6],
}

impl Parts {
    fn new<K: Word>(ranges: usize, prefixes: usize, open: usize) -> Self {
        let packed = |octets: usize| octets.div_ceil(K::OCTETS);
        let starts = 1 + fences(ranges);
        let codes = starts + ranges.next_multiple_of(BLOCK);
        let firsts = codes + packed(ranges);
        let lengths = firsts + prefixes;
        let lasts = lengths + packed(prefixes);
        let around = lasts + open;
        Self {
            ranges,
            prefixes,
            open,
            at: [starts, codes, firsts, lengths, lasts, around],
        }
    }

    #[inline]
    fn of<K: Word>(chunk: &[K]) -> Self {
        let [ranges, prefixes, open] = chunk[0].counts();
        Self::new::<K>(ranges, prefixes, open)
    }
}

/// Places for the starts of blocks.
#[inline]
fn fences(ranges: usize) -> usize {
    ranges.div_ceil(BLOCK).next_multiple_of(FENCES)
}

/// Code of the longest prefix that holds `number`, which the chunk's span holds.
#[inline]
fn code_in<K: Word>(chunk: &[K], number: K) -> u8 {
    let [ranges, ..] = chunk[0].counts();
    let fences = fences(ranges);
    let (before, starts) = chunk[1..].split_at(fences);
    let block: usize = before
        .chunks_exact(FENCES)
        .map(|part| number.rank(part))
        .sum();
    // The chunk's own start is the first of both, so neither is 0; what fills up may count for the very last number.
    let last = ranges - 1;
    let block = (block - 1).min(last / BLOCK);
    let within = &starts[block * BLOCK..(block + 1) * BLOCK];
    let at = (block * BLOCK + number.rank(within) - 1).min(last);
    let codes = ranges.next_multiple_of(BLOCK);
    starts[codes + at / K::OCTETS].octet(at % K::OCTETS)
}

fn pairs<K: Word>(
    chunk: &[K],
    count: usize,
    numbers: usize,
    octets: usize,
) -> impl Iterator<Item = (K, u8)> + '_ {
    (0..count).map(move |at| {
        let octet = chunk[octets + at / K::OCTETS].octet(at % K::OCTETS);
        (chunk[numbers + at], octet)
    })
}

/// The prefixes that begin in a chunk.
fn prefixes_of<K: Word>(chunk: &[K]) -> impl Iterator<Item = Prefix<K>> + '_ {
    let Parts { prefixes, at, .. } = Parts::of(chunk);
    pairs(chunk, prefixes, at[2], at[3])
}

/// The prefixes around a chunk's start: last number and length.
fn open_of<K: Word>(chunk: &[K]) -> Open<K> {
    let Parts { open, at, .. } = Parts::of(chunk);
    pairs(chunk, open, at[4], at[5]).collect()
}

/// Puts a chunk together in `words`.
fn write_chunk<K: Word>(
    ranges: &Ranges<K>,
    prefixes: &[Prefix<K>],
    open: &[(K, u8)],
    words: &mut Vec<K>,
) -> Chunk<K> {
    let count = ranges.starts.len();
    let parts = Parts::new::<K>(count, prefixes.len(), open.len());
    words.clear();
    words.push(K::of_counts([parts.ranges, parts.prefixes, parts.open]));
    words.extend(ranges.starts.iter().step_by(BLOCK));
    words.resize(parts.at[0], K::MAX);
    words.extend_from_slice(&ranges.starts);
    words.resize(parts.at[1], K::MAX);
    words.extend(ranges.lengths.chunks(K::OCTETS).map(K::of_octets));
    for list in [prefixes, open] {
        words.extend(list.iter().map(|(number, _)| *number));
        let lengths: Vec<u8> = list.iter().map(|(_, length)| *length).collect();
        words.extend(lengths.chunks(K::OCTETS).map(K::of_octets));
    }
    Chunk::from(&words[..])
}

/// Prefixes over the numbers `K`.
#[derive(Clone)]
pub(super) struct Chunks<K> {
    /// Where each chunk begins; the first begins at 0.
    starts: Ladder<K>,
    chunks: Box<[Chunk<K>]>,
}

/// A chunk of the next set before its ranges are known.
struct Piece<K> {
    start: K,
    content: Content<K>,
}

enum Content<K> {
    Kept(Chunk<K>),
    /// Prefixes, and those around the start if that is known; else they are left open by the piece before.
    Made(Vec<Prefix<K>>, Option<Open<K>>),
}

impl<K: Word> Chunks<K> {
    pub fn new() -> Self {
        Self {
            starts: Ladder::new(Vec::new()),
            chunks: Box::default(),
        }
    }

    /// Code of the longest prefix that holds `number`.
    #[inline]
    pub fn code(&self, number: K) -> u8 {
        self.chunk(number).map_or(0, |chunk| code_in(chunk, number))
    }

    #[inline]
    fn chunk(&self, number: K) -> Option<&[K]> {
        let after = self.starts.rank(number);
        self.chunks.get(after.wrapping_sub(1)).map(|chunk| &**chunk)
    }

    /// The set with changes, sharing all chunks that they do not touch, and how many prefixes it has more.
    pub fn with_changes(&self, changes: Changes<'_, K>) -> (Self, isize) {
        let mut growth = 0;
        let mut pieces = Vec::with_capacity(self.chunks.len() + changes.add.len() / USUAL + 1);
        let mut rest = changes;
        let reach = Reach::new(changes);
        let count = self.chunks.len().max(1);
        for at in 0..count {
            let until = self.starts.get(at + 1);
            let own = rest.take_while(|first| until.is_none_or(|until| first < until));
            let old = self.chunks.get(at);
            let start = self.starts.get(at).unwrap_or(K::ZERO);
            match old {
                Some(chunk) if own.is_empty() && !reach.is_open_at(start) => {
                    let content = Content::Kept(Arc::clone(chunk));
                    pieces.push(Piece { start, content });
                }
                _ => {
                    let prefixes = merge(old.into_iter().flat_map(|chunk| prefixes_of(chunk)), own);
                    let before = old.map_or(0, |chunk| Parts::of(chunk).prefixes);
                    growth += prefixes.len().cast_signed() - before.cast_signed();
                    let open = old.map_or_else(Vec::new, |chunk| open_of(chunk));
                    let open = reach.open_at(start, open);
                    add_pieces(&mut pieces, start, prefixes, open);
                }
            }
        }
        (Self::of_pieces(pieces), growth)
    }

    fn of_pieces(pieces: Vec<Piece<K>>) -> Self {
        let starts: Vec<K> = pieces.iter().map(|piece| piece.start).collect();
        let mut ranges = Ranges::default();
        let mut words = Vec::new();
        let mut left: Open<K> = Vec::new();
        let mut is_empty = true;
        let mut chunks = Vec::with_capacity(pieces.len());
        for (at, piece) in pieces.into_iter().enumerate() {
            let (prefixes, open) = match piece.content {
                Content::Kept(chunk) => {
                    is_empty = false;
                    chunks.push(chunk);
                    continue;
                }
                Content::Made(prefixes, open) => (prefixes, open),
            };
            is_empty &= prefixes.is_empty();
            let mut open = open.unwrap_or(left);
            let around = open.clone();
            let until = starts.get(at + 1).copied();
            ranges.cut(piece.start, until, &mut open, prefixes.iter().copied());
            chunks.push(write_chunk(&ranges, &prefixes, &around, &mut words));
            left = open;
        }
        if is_empty {
            return Self::new();
        }
        Self {
            starts: Ladder::new(starts),
            chunks: chunks.into(),
        }
    }

    /// Every prefix, in order.
    pub fn iter(&self) -> impl Iterator<Item = Prefix<K>> + '_ {
        self.chunks.iter().flat_map(|chunk| prefixes_of(chunk))
    }

    /// Chunks that are the same ones, and how many there are.
    #[cfg(test)]
    pub fn shared_with(&self, other: &Self) -> (usize, usize) {
        let is_other =
            |chunk: &&Chunk<K>| other.chunks.iter().any(|other| Arc::ptr_eq(other, chunk));
        (
            self.chunks.iter().filter(is_other).count(),
            self.chunks.len(),
        )
    }

    /// Memory in use, bytes; what two sets share counts for both.
    pub fn memory_bytes(&self) -> usize {
        // An `Arc` counts in two words in front of what it holds.
        const COUNTS: usize = 2 * size_of::<usize>();
        let chunks = self.chunks.iter();
        let chunks: usize = chunks.map(|chunk| size_of_val(&**chunk) + COUNTS).sum();
        chunks + self.starts.memory_bytes() + size_of_val(&*self.chunks)
    }
}

/// Puts a chunk's prefixes behind the pieces that are there: cut if they are many, into the last one if they are few.
fn add_pieces<K: Word>(
    pieces: &mut Vec<Piece<K>>,
    start: K,
    mut prefixes: Vec<Prefix<K>>,
    open: Open<K>,
) {
    if prefixes.len() < SMALLEST
        && let Some(last) = pieces.last_mut()
    {
        match &mut last.content {
            Content::Made(before, _) if before.len() + prefixes.len() <= LARGEST => {
                before.append(&mut prefixes);
                return;
            }
            Content::Kept(chunk) if Parts::of(chunk).prefixes + prefixes.len() <= LARGEST => {
                let joined = prefixes_of(chunk).chain(prefixes).collect();
                last.content = Content::Made(joined, Some(open_of(chunk)));
                return;
            }
            _ => {}
        }
    }
    if prefixes.len() <= LARGEST {
        let content = Content::Made(prefixes, Some(open));
        pieces.push(Piece { start, content });
        return;
    }
    let (mut start, mut open) = (start, Some(open));
    let mut rest = &prefixes[..];
    while !rest.is_empty() {
        // Prefixes that begin at one number stay together: a chunk begins with all of its start.
        let cut = rest.get(USUAL).map_or(rest.len(), |(at, _)| {
            rest.partition_point(|(first, _)| first < at)
        });
        let cut = match cut {
            0 => rest.partition_point(|(first, _)| *first == rest[0].0),
            cut => cut,
        };
        let (piece, behind) = rest.split_at(cut);
        let content = Content::Made(piece.to_vec(), open.take());
        pieces.push(Piece { start, content });
        rest = behind;
        if let Some((first, _)) = rest.first() {
            start = *first;
        }
    }
}

/// Changed prefixes as they cover chunks that begin behind their first number.
struct Reach<'a, K> {
    changes: Changes<'a, K>,
    /// For each of `changes.add`, then of `changes.remove`: the highest last number up to there.
    furthest: [Vec<K>; 2],
}

impl<'a, K: Word> Reach<'a, K> {
    fn new(changes: Changes<'a, K>) -> Self {
        let furthest = [changes.add, changes.remove].map(|list| {
            let mut most = K::ZERO;
            let lasts = list.iter().map(|(first, length)| first.last(*length));
            lasts
                .map(|last| {
                    most = most.max(last);
                    most
                })
                .collect()
        });
        Self { changes, furthest }
    }

    /// Whether one of them begins before `start` and ends there or behind.
    fn is_open_at(&self, start: K) -> bool {
        let lists = [self.changes.add, self.changes.remove];
        lists.iter().zip(&self.furthest).any(|(list, furthest)| {
            let before = list.partition_point(|(first, _)| *first < start);
            before > 0 && furthest[before - 1] >= start
        })
    }

    /// The prefixes around `start` that begin before it, once those around it now are changed.
    fn open_at(&self, start: K, now: Open<K>) -> Open<K> {
        if !self.is_open_at(start) {
            return now;
        }
        let around = |list: &[Prefix<K>]| {
            let before = list.partition_point(|(first, _)| *first < start);
            let around = list[..before]
                .iter()
                .map(|(first, length)| (first.last(*length), *length));
            around
                .filter(|(last, _)| *last >= start)
                .collect::<Vec<_>>()
        };
        let removed = around(self.changes.remove);
        let mut open = around(self.changes.add);
        let kept = now.into_iter().filter(|prefix| !removed.contains(prefix));
        open.extend(kept);
        // All of them hold the same number, so a longer one is an inner one.
        open.sort_unstable_by_key(|(_, length)| *length);
        open.dedup();
        open
    }
}
