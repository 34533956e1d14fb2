//! Longest prefix match as disjoint ranges and a binary search.
//!
//! Prefixes nest or are apart, so one sweep cuts them into sorted ranges in which one prefix each is the longest. A
//! lookup is a binary search over the ranges' starts; in a large table it begins with those that share the address's
//! leading 16 bits. It serves first packets; an established flow remembers the answer.

use march_wire::tuple::IpPrefix;

use crate::number::Number;

/// Ranges from which on the leading bits are indexed: the index takes 256 KB.
const INDEXED_FROM: usize = 1024;

/// Maps every address of one family to the value of its longest prefix.
#[derive(Debug)]
pub(crate) struct Lpm<N, V> {
    /// First address of each range, ascending; the first one is 0.
    starts: Box<[N]>,
    values: Box<[V]>,
    /// By leading bits: how many starts have lower ones. 65 537 of them, or none in a small table.
    index: Box<[u32]>,
}

/// A prefix as a range of numbers.
struct Span<N, V> {
    first: N,
    last: N,
    value: V,
}

impl<N: Number, V: Copy + PartialEq> Lpm<N, V> {
    /// Builds from (prefix, value) pairs, `default` where nothing matches. Of equal prefixes the first wins; those of
    /// the other family are left out.
    pub(crate) fn new(prefixes: impl Iterator<Item = (IpPrefix, V)>, default: V) -> Self {
        let mut spans: Vec<Span<N, V>> = prefixes
            .filter_map(|(prefix, value)| {
                let (first, last) = N::range(prefix)?;
                Some(Span { first, last, value })
            })
            .collect();
        // Outer before inner; the sort is stable, so of equals the first given comes first.
        spans.sort_by(|a, b| a.first.cmp(&b.first).then(b.last.cmp(&a.last)));
        spans.dedup_by(|later, earlier| (later.first, later.last) == (earlier.first, earlier.last));

        let mut ranges = Ranges {
            starts: vec![N::ZERO],
            values: vec![default],
        };
        let mut open: Vec<(N, V)> = Vec::new();
        for span in spans {
            close(&mut open, Some(span.first), default, &mut ranges);
            ranges.push(span.first, span.value);
            open.push((span.last, span.value));
        }
        close(&mut open, None, default, &mut ranges);
        Self {
            index: index(&ranges.starts),
            starts: ranges.starts.into(),
            values: ranges.values.into(),
        }
    }

    /// The value of the longest prefix that holds `address`.
    #[inline]
    pub(crate) fn get(&self, address: N) -> V {
        let top = usize::from(address.top());
        let (from, to) = match (self.index.get(top), self.index.get(top + 1)) {
            (Some(from), Some(to)) => (*from as usize, *to as usize),
            _ => (0, self.starts.len()),
        };
        let near = &self.starts[from..to];
        // The very first start is 0, so at least one is not above the address.
        let after = from + near.partition_point(|start| *start <= address);
        self.values[after - 1]
    }
}

fn index<N: Number>(starts: &[N]) -> Box<[u32]> {
    if starts.len() < INDEXED_FROM {
        return Box::default();
    }
    let below = |top: u32| starts.partition_point(|start| u32::from(start.top()) < top);
    (0..=1 << 16)
        .map(|top| u32::try_from(below(top)).expect("fewer ranges than addresses of IPv4"))
        .collect()
}

struct Ranges<N, V> {
    starts: Vec<N>,
    values: Vec<V>,
}

impl<N: Number, V: Copy + PartialEq> Ranges<N, V> {
    fn push(&mut self, start: N, value: V) {
        if self.starts.last() == Some(&start) {
            self.starts.pop();
            self.values.pop();
        }
        if self.values.last() != Some(&value) {
            self.starts.push(start);
            self.values.push(value);
        }
    }
}

/// Ends the open spans that end before `next` (all of them if there is none); what is around each goes on behind it.
fn close<N: Number, V: Copy + PartialEq>(
    open: &mut Vec<(N, V)>,
    next: Option<N>,
    default: V,
    ranges: &mut Ranges<N, V>,
) {
    while let Some((last, _)) = open.last().copied() {
        if next.is_some_and(|next| next <= last) {
            return;
        }
        open.pop();
        let around = open.last().map_or(default, |(_, value)| *value);
        if let Some(start) = last.next() {
            ranges.push(start, around);
        }
    }
}
