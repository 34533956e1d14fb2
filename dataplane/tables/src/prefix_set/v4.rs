//! The IPv4 half: a page for each leading 16 bits that has prefixes, and a table for prefixes shorter than that.
//!
//! A page is one allocation of 16-bit words: how many ranges and prefixes, where each range begins (the lower 16 bits), its code,
//! and behind them the prefixes themselves, which only changes read. Thirty ranges, what a million addresses at random make of a
//! page, are within two cache lines.

use std::sync::Arc;

use super::spans::{Changes, Prefix, Ranges, merge};

/// Prefixes of this length and longer are in pages.
const PAGE_LENGTH: u8 = 16;
/// Words in front of a page's ranges: two numbers of 32 bits.
const HEADER: usize = 4;
/// With more ranges a page begins with the number of ranges before each block of 256 addresses.
const INDEXED_FROM: usize = 64;
const INDEX: usize = 256;

type Page = Arc<[u16]>;

/// Pages by the second octet.
type Folder = [Option<Page>; 256];

/// Prefixes shorter than a page.
struct Wide {
    /// In order; a number is the address's upper half.
    prefixes: Box<[Prefix<u16>]>,
    /// Code by upper half.
    codes: Box<[u8]>,
}

/// The set of IPv4 prefixes.
#[derive(Clone)]
pub(super) struct V4 {
    /// By the first octet.
    folders: Box<[Option<Arc<Folder>>]>,
    wide: Option<Arc<Wide>>,
}

impl V4 {
    pub fn new() -> Self {
        Self {
            folders: vec![None; 256].into(),
            wide: None,
        }
    }

    /// Code of the longest prefix that holds `address`.
    #[inline]
    pub fn code(&self, address: u32) -> u8 {
        let [_, _, c, d] = address.to_be_bytes();
        let code = self.page(address).map_or(0, |page| code_in(page, [c, d]));
        match &self.wide {
            Some(wide) if code == 0 => wide.codes[(address >> 16) as usize],
            _ => code,
        }
    }

    #[inline]
    fn page(&self, address: u32) -> Option<&[u16]> {
        let [a, b, ..] = address.to_be_bytes();
        let folder = self.folders[usize::from(a)].as_deref()?;
        folder[usize::from(b)].as_deref()
    }

    /// The set with changes, sharing all other pages, and how many prefixes it has more.
    pub fn with_changes(&self, changes: Changes<'_, u32>) -> (Self, isize) {
        let mut next = self.clone();
        let mut growth = 0;
        let is_wide = |prefix: &&Prefix<u32>| prefix.1 < PAGE_LENGTH;
        let [wide_add, wide_remove] = [changes.add, changes.remove].map(|list| {
            let wide = list.iter().filter(is_wide);
            wide.map(|(first, length)| (upper(*first), *length))
                .collect::<Vec<_>>()
        });
        let wide = Changes {
            add: &wide_add,
            remove: &wide_remove,
        };
        if !wide.is_empty() {
            growth += next.change_wide(wide);
        }
        let [add, remove] = [changes.add, changes.remove].map(|list| {
            list.iter()
                .filter(|prefix| !is_wide(prefix))
                .copied()
                .collect::<Vec<_>>()
        });
        let mut rest = Changes {
            add: &add,
            remove: &remove,
        };
        let mut scratch = Scratch::default();
        while let Some(first) = rest.first() {
            let folder = first >> 24;
            let changes = rest.take_while(|at| at >> 24 == folder);
            growth += next.change_folder(folder as usize, changes, &mut scratch);
        }
        (next, growth)
    }

    fn change_wide(&mut self, changes: Changes<'_, u16>) -> isize {
        let old: &[Prefix<u16>] = self.wide.as_ref().map_or(&[], |wide| &wide.prefixes);
        let prefixes = merge(old.iter().copied(), changes);
        let growth = difference(prefixes.len(), old.len());
        self.wide = (!prefixes.is_empty()).then(|| {
            let mut codes = vec![0; 1 << 16];
            // Outer before inner, so the longest is written last.
            for (first, length) in &prefixes {
                let first = usize::from(*first);
                codes[first..first + (1 << (PAGE_LENGTH - length))].fill(length + 1);
            }
            Arc::new(Wide {
                prefixes: prefixes.into(),
                codes: codes.into(),
            })
        });
        growth
    }

    fn change_folder(
        &mut self,
        at: usize,
        mut rest: Changes<'_, u32>,
        scratch: &mut Scratch,
    ) -> isize {
        let mut folder: Folder = match &self.folders[at] {
            Some(folder) => (**folder).clone(),
            None => [const { None }; 256],
        };
        let mut growth = 0;
        while let Some(first) = rest.first() {
            let page = first >> 16;
            let changes = rest.take_while(|at| at >> 16 == page);
            let slot = &mut folder[(page & 0xff) as usize];
            let old = slot.as_deref();
            let lower = |list: &[Prefix<u32>]| {
                let lower = list.iter().map(|(first, length)| (lower(*first), *length));
                lower.collect::<Vec<_>>()
            };
            let changes = Changes {
                add: &lower(changes.add),
                remove: &lower(changes.remove),
            };
            let prefixes = merge(old.into_iter().flat_map(prefixes_of), changes);
            growth += difference(prefixes.len(), old.map_or(0, |page| counts(page).1));
            *slot = (!prefixes.is_empty()).then(|| scratch.page(&prefixes));
        }
        self.folders[at] = folder.iter().any(Option::is_some).then(|| Arc::new(folder));
        growth
    }

    /// Every prefix: the wide ones, then the others, in order.
    pub fn iter(&self) -> impl Iterator<Item = (u32, u8)> + '_ {
        let wide = self.wide.iter().flat_map(|wide| wide.prefixes.iter());
        let wide = wide.map(|(first, length)| (u32::from(*first) << 16, *length));
        wide.chain(self.pages().flat_map(|(number, page)| {
            prefixes_of(page).map(move |(first, length)| (number << 16 | u32::from(first), length))
        }))
    }

    fn pages(&self) -> impl Iterator<Item = (u32, &[u16])> {
        (0_u32..)
            .zip(&self.folders)
            .filter_map(|(a, folder)| Some((a, folder.as_ref()?)))
            .flat_map(|(a, folder)| {
                (0_u32..)
                    .zip(folder.iter())
                    .filter_map(move |(b, page)| Some((a << 8 | b, page.as_deref()?)))
            })
    }

    /// Pages that are the same ones.
    #[cfg(test)]
    pub fn shared_with(&self, other: &Self) -> usize {
        let other: std::collections::HashMap<u32, *const u16> = other
            .pages()
            .map(|(number, page)| (number, page.as_ptr()))
            .collect();
        self.pages()
            .filter(|(number, page)| other.get(number) == Some(&page.as_ptr()))
            .count()
    }

    /// Memory in use, bytes; what two sets share counts for both.
    pub fn memory_bytes(&self) -> usize {
        // An `Arc` counts in two words in front of what it holds.
        const COUNTS: usize = 2 * size_of::<usize>();
        let folders = self.folders.iter().flatten().count() * (size_of::<Folder>() + COUNTS);
        let pages: usize = self
            .pages()
            .map(|(_, page)| size_of_val(page) + COUNTS)
            .sum();
        let wide = self.wide.as_ref().map_or(0, |wide| {
            wide.codes.len() + size_of_val(&*wide.prefixes) + COUNTS
        });
        size_of_val(&*self.folders) + folders + pages + wide
    }
}

const fn upper(address: u32) -> u16 {
    (address >> 16) as u16
}

#[expect(clippy::cast_possible_truncation, reason = "the lower half")]
const fn lower(address: u32) -> u16 {
    address as u16
}

fn difference(new: usize, old: usize) -> isize {
    new.cast_signed() - old.cast_signed()
}

/// Ranges and prefixes of a page.
#[inline]
fn counts(page: &[u16]) -> (usize, usize) {
    let number = |at: usize| usize::from(page[at]) | usize::from(page[at + 1]) << 16;
    (number(0), number(2))
}

/// Code of the longest prefix of the page that holds the address whose last two octets these are.
#[inline]
fn code_in(page: &[u16], address: [u8; 2]) -> u8 {
    let (ranges, _) = counts(page);
    let number = u16::from_be_bytes(address);
    if ranges <= INDEXED_FROM {
        let starts = &page[HEADER..HEADER + ranges];
        let at = starts.iter().filter(|start| **start <= number).count();
        return packed(&page[HEADER + ranges..], at.wrapping_sub(1));
    }
    let block = usize::from(address[0]);
    let starts = HEADER + INDEX;
    let before = usize::from(page[HEADER + block]);
    let until = match block {
        255 => ranges,
        _ => usize::from(page[HEADER + block + 1]),
    };
    let near = &page[starts + before..starts + until];
    let at = before + near.partition_point(|start| *start <= number);
    // The first range begins at 0, so one at least is not above the address.
    packed(&page[starts + ranges..], at.wrapping_sub(1))
}

/// The octet at `at`, two to a word.
#[inline]
fn packed(words: &[u16], at: usize) -> u8 {
    words[at / 2].to_le_bytes()[at % 2]
}

fn pack(octets: &[u8], words: &mut Vec<u16>) {
    words.extend(octets.chunks(2).map(|pair| match *pair {
        [low, high] => u16::from_le_bytes([low, high]),
        _ => u16::from(pair[0]),
    }));
}

fn prefixes_of(page: &[u16]) -> impl Iterator<Item = Prefix<u16>> + '_ {
    let (ranges, prefixes) = counts(page);
    let index = if ranges > INDEXED_FROM { INDEX } else { 0 };
    let behind = &page[HEADER + index + ranges + ranges.div_ceil(2)..];
    let (firsts, lengths) = behind.split_at(prefixes);
    (0..prefixes).map(move |at| (firsts[at], packed(lengths, at)))
}

/// What pages are put together in.
#[derive(Default)]
struct Scratch {
    ranges: Ranges<u16>,
    words: Vec<u16>,
    octets: Vec<u8>,
}

impl Scratch {
    fn page(&mut self, prefixes: &[Prefix<u16>]) -> Page {
        let mut open = Vec::new();
        self.ranges
            .cut(0, None, &mut open, prefixes.iter().copied());
        let Ranges { starts, lengths } = &self.ranges;
        let words = &mut self.words;
        words.clear();
        for count in [starts.len(), prefixes.len()] {
            let count = u32::try_from(count).expect("a page has at most 2^17 prefixes");
            words.extend([lower(count), upper(count)]);
        }
        if starts.len() > INDEXED_FROM {
            words.extend((0..=u8::MAX).map(|block| {
                let first = u16::from(block) << 8;
                let before = starts.partition_point(|start| *start < first);
                // All of 65 536 ranges are before no block: the last one has 256 of them.
                u16::try_from(before).expect("fewer ranges before a block than addresses")
            }));
        }
        words.extend_from_slice(starts);
        pack(lengths, words);
        words.extend(prefixes.iter().map(|(first, _)| *first));
        self.octets.clear();
        self.octets
            .extend(prefixes.iter().map(|(_, length)| *length));
        pack(&self.octets, words);
        Page::from(&words[..])
    }
}
