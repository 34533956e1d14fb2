//! Longest prefix match as disjoint ranges and a binary search.
//!
//! Prefixes nest or are apart, so one sweep cuts them into sorted ranges in which one prefix each is the longest. A
//! lookup is a binary search over the ranges' starts: about twenty steps for a million routes. It serves first packets;
//! an established flow remembers the answer.

use core::net::IpAddr;

use march_wire::tuple::{Address, IpPrefix};

/// Maps every address of one family (as a number, most significant bit first) to the value of its longest prefix.
#[derive(Debug)]
pub(crate) struct Lpm<V> {
    /// First address of each range, ascending; the first one is 0.
    starts: Box<[u128]>,
    values: Box<[V]>,
}

/// A prefix as a range of numbers.
struct Span<V> {
    first: u128,
    last: u128,
    value: V,
}

impl<V: Copy + PartialEq> Lpm<V> {
    /// Builds from (prefix, value) pairs of one family, `default` where nothing matches. Of equal prefixes the first
    /// wins.
    pub(crate) fn new(prefixes: &[(IpPrefix, V)], default: V) -> Self {
        let mut spans: Vec<Span<V>> = prefixes
            .iter()
            .map(|(prefix, value)| {
                let (first, last) = range(*prefix);
                Span {
                    first,
                    last,
                    value: *value,
                }
            })
            .collect();
        // Outer before inner; the sort is stable, so of equals the first given comes first.
        spans.sort_by(|a, b| a.first.cmp(&b.first).then(b.last.cmp(&a.last)));
        spans.dedup_by(|later, earlier| (later.first, later.last) == (earlier.first, earlier.last));

        let mut ranges = Ranges {
            starts: vec![0],
            values: vec![default],
        };
        let mut open: Vec<(u128, V)> = Vec::new();
        for span in spans {
            close(&mut open, Some(span.first), default, &mut ranges);
            ranges.push(span.first, span.value);
            open.push((span.last, span.value));
        }
        close(&mut open, None, default, &mut ranges);
        Self {
            starts: ranges.starts.into(),
            values: ranges.values.into(),
        }
    }

    /// The value of the longest prefix that holds `address`.
    #[inline]
    pub(crate) fn get(&self, address: u128) -> V {
        // The first start is 0, so the partition point is at least 1.
        let after = self.starts.partition_point(|start| *start <= address);
        self.values[after - 1]
    }
}

struct Ranges<V> {
    starts: Vec<u128>,
    values: Vec<V>,
}

impl<V: Copy + PartialEq> Ranges<V> {
    fn push(&mut self, start: u128, value: V) {
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
fn close<V: Copy + PartialEq>(
    open: &mut Vec<(u128, V)>,
    next: Option<u128>,
    default: V,
    ranges: &mut Ranges<V>,
) {
    while let Some((last, _)) = open.last().copied() {
        if next.is_some_and(|next| next <= last) {
            return;
        }
        open.pop();
        let around = open.last().map_or(default, |(_, value)| *value);
        if let Some(start) = last.checked_add(1) {
            ranges.push(start, around);
        }
    }
}

/// First and last address of a prefix as numbers of its family.
pub(crate) fn range(prefix: IpPrefix) -> (u128, u128) {
    let first = match prefix.address() {
        IpAddr::V4(address) => address.to_number(),
        IpAddr::V6(address) => address.to_number(),
    };
    let host_bits = u32::from(prefix.family().bits() - prefix.length());
    let span = u128::MAX.checked_shr(128 - host_bits).unwrap_or(0);
    (first, first | span)
}
