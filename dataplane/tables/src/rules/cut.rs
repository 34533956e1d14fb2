//! Where to cut: by which bits of which word the pieces at hand are told apart best.
//!
//! A cut looks at `1 << log2` consecutive bits of a word, anywhere in it: high bits for prefixes that are far apart, low ones
//! for hosts of one network or for single ports. Each value of the bits is a slot, and a piece goes into every slot that it
//! may have a point in.

use super::space::{Piece, Region, full, width};

/// A window of bits of one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    pub word: usize,
    pub shift: u32,
    pub log2: u32,
}

impl Cut {
    /// How many slots there are.
    pub fn slots(self) -> usize {
        1 << self.log2
    }

    /// This cut, then those with fewer and fewer of its bits, the higher ones.
    pub fn narrower(self) -> impl Iterator<Item = Self> {
        (0..self.log2).map(move |less| Self {
            word: self.word,
            shift: self.shift + less,
            log2: self.log2 - less,
        })
    }

    fn mask(self) -> u32 {
        (1 << self.log2) - 1
    }

    /// The slots of an interval: first and last, the last behind the first if it wraps, or all of them.
    #[inline]
    fn span(self, lowest: u32, highest: u32) -> Span {
        let (first, last) = (lowest >> self.shift, highest >> self.shift);
        if last - first >= self.mask() {
            return Span::All;
        }
        Span::From(first & self.mask(), last & self.mask())
    }

    /// Calls `put` with each slot that a piece may have a point in.
    #[inline]
    pub fn each_slot<const W: usize>(self, piece: &Piece<W>, mut put: impl FnMut(usize)) {
        match self.span(piece.lowest[self.word], piece.highest[self.word]) {
            Span::All => (0..self.slots()).for_each(put),
            Span::From(first, last) => {
                let mut slot = first;
                loop {
                    put(slot as usize);
                    if slot == last {
                        return;
                    }
                    slot = (slot + 1) & self.mask();
                }
            }
        }
    }

    /// The part of a region that a slot is.
    #[expect(clippy::cast_possible_truncation, reason = "fewer slots than 2^16")]
    pub fn part<const W: usize>(self, region: &Region<W>, slot: usize) -> Region<W> {
        let mut part = *region;
        let bits = self.mask() << self.shift;
        part.known[self.word] |= bits;
        part.value[self.word] = part.value[self.word] & !bits | (slot as u32) << self.shift;
        part
    }

    /// Whether a slot has a point of the region: its bits are not known to be others.
    #[expect(clippy::cast_possible_truncation, reason = "fewer slots than 2^16")]
    pub fn is_possible<const W: usize>(self, region: &Region<W>, slot: usize) -> bool {
        let known = region.known[self.word] >> self.shift & self.mask();
        let value = region.value[self.word] >> self.shift & self.mask();
        (slot as u32 ^ value) & known == 0
    }
}

enum Span {
    All,
    From(u32, u32),
}

/// Room for the numbers of a choice, kept from one to the next.
#[derive(Default)]
pub(super) struct Scratch {
    counts: Vec<i32>,
    /// Of the sample: which pieces hold all of the region in every word but the one at hand.
    closers: Vec<bool>,
    /// First and last number of each slot that is still open; others are behind each other.
    ends: Vec<(u32, u32)>,
}

/// What a cut would do.
#[derive(Clone, Copy, Debug)]
struct Outcome {
    /// Pieces per slot that a packet of the average piece finds.
    length: f64,
    /// Places taken per piece.
    copies: f64,
}

/// What is wanted of a cut.
#[derive(Clone, Copy, Debug)]
pub(super) struct Aim {
    /// Pieces per slot that need no further cut.
    pub length: usize,
    /// Most bits.
    pub most_log2: u32,
    /// What a copy is worth against a shorter list: the exponent.
    pub thrift: f64,
}

/// Lists longer than this are judged by a part of them.
const SAMPLE: usize = 1024;

/// Pieces times slots up to which it is counted which pieces end a slot's list. Longer lists are cut again anyway; with them
/// an adversarial set of 100 000 rules took minutes.
const MOST_CLOSING: usize = 1 << 14;

/// A cut has to be worth its step: what the score must gain, as a logarithm.
const LEAST_GAIN: f64 = 0.15;

/// The best cut; `None` if none makes the lists shorter.
pub(super) fn choose<const W: usize>(
    pieces: &[Piece<W>],
    list: &[u32],
    region: &Region<W>,
    aim: &Aim,
    scratch: &mut Scratch,
) -> Option<Cut> {
    let step = list.len().div_ceil(SAMPLE);
    let sample: Vec<u32> = list.iter().copied().step_by(step).collect();
    let wanted = (list.len() / aim.length).max(1).ilog2() + 1;
    let wanted = wanted.clamp(1, aim.most_log2);
    // Slots that are judged must be fewer than the sample, or everything looks well spread.
    let judged = wanted.min(sample.len().ilog2().max(1) + 1);
    let mut best: Option<(f64, Cut)> = None;
    for word in 0..W {
        let differs = varying(pieces, &sample, word) & !region.known[word];
        if differs == 0 {
            continue;
        }
        scratch.closers.clear();
        let closers = sample.iter().map(|at| {
            let piece = &pieces[*at as usize];
            piece.is_exact() && piece.covers_but(region, word)
        });
        scratch.closers.extend(closers);
        for log2 in [judged, judged.div_ceil(2)] {
            let log2 = log2.min(width::<W>(word));
            for shift in 0..=width::<W>(word) - log2 {
                let cut = Cut { word, shift, log2 };
                if differs & (cut.mask() << shift) == 0 {
                    continue;
                }
                consider(pieces, &sample, region, cut, aim, step, scratch, &mut best);
            }
        }
    }
    let (_, found) = best?;
    // More bits above and below the best window, if the whole list was too long to be judged by so few slots.
    let mut grown = found;
    while grown.log2 < wanted {
        let up = grown.shift + grown.log2 < width::<W>(grown.word);
        if !up && grown.shift == 0 {
            break;
        }
        grown.log2 += 1;
        if grown.shift > 0
            && (!up || region.known[grown.word] >> (grown.shift + grown.log2 - 1) & 1 == 1)
        {
            grown.shift -= 1;
        }
    }
    Some(grown)
}

#[expect(clippy::too_many_arguments, reason = "the inner loop of `choose`")]
fn consider<const W: usize>(
    pieces: &[Piece<W>],
    sample: &[u32],
    region: &Region<W>,
    cut: Cut,
    aim: &Aim,
    step: usize,
    scratch: &mut Scratch,
    best: &mut Option<(f64, Cut)>,
) {
    let is_short = sample.len() * cut.slots() <= MOST_CLOSING;
    let outcome = if is_short && scratch.closers.contains(&true) {
        judge_closing(pieces, sample, region, cut, scratch)
    } else {
        judge(pieces, sample, region, cut, scratch)
    };
    #[expect(clippy::cast_precision_loss, reason = "counts of pieces")]
    let (all, aimed) = (sample.len() as f64, aim.length as f64 / step as f64 / 2.0);
    let score = outcome.length.max(aimed).ln() + aim.thrift * outcome.copies.ln();
    if outcome.length < all
        && score < all.ln() - LEAST_GAIN
        && best.is_none_or(|(least, _)| score < least)
    {
        *best = Some((score, cut));
    }
}

/// Bits of a word in which pieces differ from one another, or which an interval leaves open in part.
fn varying<const W: usize>(pieces: &[Piece<W>], list: &[u32], word: usize) -> u32 {
    let mut ends = 0;
    let first = &pieces[list[0] as usize];
    for at in list {
        let piece = &pieces[*at as usize];
        ends |= piece.lowest[word] ^ first.lowest[word];
        ends |= piece.highest[word] ^ first.highest[word];
    }
    if ends == 0 {
        // All intervals are the same one.
        return if first.lowest[word] == 0 && first.highest[word] >= full::<W>(word) {
            0
        } else {
            first.lowest[word] ^ first.highest[word]
        };
    }
    ends | (first.lowest[word] ^ first.highest[word])
}

fn judge<const W: usize>(
    pieces: &[Piece<W>],
    list: &[u32],
    region: &Region<W>,
    cut: Cut,
    scratch: &mut Scratch,
) -> Outcome {
    let slots = cut.slots();
    scratch.counts.clear();
    scratch.counts.resize(slots + 1, 0);
    let counts = &mut scratch.counts;
    for at in list {
        let piece = &pieces[*at as usize];
        match cut.span(piece.lowest[cut.word], piece.highest[cut.word]) {
            Span::All => counts[0] += 1,
            Span::From(first, last) => {
                counts[first as usize] += 1;
                counts[last as usize + 1] -= 1;
                if last < first {
                    counts[0] += 1;
                }
            }
        }
    }
    let known = region.known[cut.word] >> cut.shift & cut.mask();
    let (mut here, mut total, mut squares) = (0_i64, 0_i64, 0_i64);
    for (slot, count) in counts[..slots].iter().enumerate() {
        here += i64::from(*count);
        if known != 0 && !cut.is_possible(region, slot) {
            continue;
        }
        total += here;
        squares += here * here;
    }
    #[expect(clippy::cast_precision_loss, reason = "counts of pieces")]
    let (total, squares, all) = (total.max(1) as f64, squares as f64, list.len() as f64);
    Outcome {
        length: squares / total,
        copies: (total / all).max(1.0),
    }
}

/// The same where some pieces would hold all of a slot: what comes behind them in a slot does not count.
fn judge_closing<const W: usize>(
    pieces: &[Piece<W>],
    list: &[u32],
    region: &Region<W>,
    cut: Cut,
    scratch: &mut Scratch,
) -> Outcome {
    const CLOSED: (u32, u32) = (1, 0);
    let slots = cut.slots();
    let Scratch {
        counts,
        closers,
        ends,
    } = scratch;
    counts.clear();
    counts.resize(slots, 0);
    ends.clear();
    ends.extend((0..slots).map(|slot| {
        if !cut.is_possible(region, slot) {
            return CLOSED;
        }
        let part = cut.part(region, slot);
        let first = part.value[cut.word];
        (first, first | (full::<W>(cut.word) & !part.known[cut.word]))
    }));
    let mut open = ends.iter().filter(|ends| **ends != CLOSED).count();
    let mut seen = 0_u32;
    for (at, is_closer) in list.iter().zip(&*closers) {
        if open == 0 {
            break;
        }
        seen += 1;
        let piece = &pieces[*at as usize];
        let (lowest, highest) = (piece.lowest[cut.word], piece.highest[cut.word]);
        cut.each_slot(piece, |slot| {
            let (first, last) = ends[slot];
            counts[slot] += i32::from(first <= last);
            if *is_closer && first <= last && lowest <= first && last <= highest {
                ends[slot] = CLOSED;
                open -= 1;
            }
        });
    }
    let (mut total, mut squares) = (0_i64, 0_i64);
    for count in &*counts {
        total += i64::from(*count);
        squares += i64::from(*count) * i64::from(*count);
    }
    #[expect(clippy::cast_precision_loss, reason = "counts of pieces")]
    let (total, squares, seen) = (total.max(1) as f64, squares as f64, f64::from(seen));
    Outcome {
        length: squares / total,
        copies: (total / seen).max(1.0),
    }
}
