//! Sorted prefixes: changes merged into them, and the ranges that a lookup searches cut out of them.

/// The numbers of which prefixes are blocks.
pub(super) trait Key: Copy + Ord {
    /// The lowest.
    const ZERO: Self;
    /// The last number of the block of `length` leading bits that begins here.
    fn last(self, length: u8) -> Self;
    /// The next number, if there is one.
    fn next(self) -> Option<Self>;
}

/// The lower half of an IPv4 address. Lengths are those of the whole address, at least 16.
impl Key for u16 {
    const ZERO: Self = 0;
    fn last(self, length: u8) -> Self {
        self | u16::MAX.checked_shr(u32::from(length) - 16).unwrap_or(0)
    }
    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
}

/// The upper half of an IPv6 address. Lengths up to 64.
impl Key for u64 {
    const ZERO: Self = 0;
    fn last(self, length: u8) -> Self {
        self | u64::MAX.checked_shr(u32::from(length)).unwrap_or(0)
    }
    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
}

/// An IPv6 address.
impl Key for u128 {
    const ZERO: Self = 0;
    fn last(self, length: u8) -> Self {
        self | u128::MAX.checked_shr(u32::from(length)).unwrap_or(0)
    }
    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
}

/// First number and length. In order of these an outer prefix comes before the ones inside it.
pub(super) type Prefix<K> = (K, u8);

/// What is to change, each list in order and without repetition. What is in both is in the set afterwards.
#[derive(Clone, Copy)]
pub(super) struct Changes<'a, K> {
    pub add: &'a [Prefix<K>],
    pub remove: &'a [Prefix<K>],
}

impl<'a, K: Copy> Changes<'a, K> {
    pub fn is_empty(&self) -> bool {
        self.add.is_empty() && self.remove.is_empty()
    }

    /// The lowest number that changes.
    pub fn first(&self) -> Option<K>
    where
        K: Ord,
    {
        let firsts = [self.add.first(), self.remove.first()];
        firsts.into_iter().flatten().map(|(first, _)| *first).min()
    }

    /// Cuts off those at the front for which `is_before` holds.
    pub fn take_while(&mut self, is_before: impl Fn(K) -> bool) -> Changes<'a, K> {
        let cut = |list: &mut &'a [Prefix<K>]| {
            let (front, back) = list.split_at(list.partition_point(|(first, _)| is_before(*first)));
            *list = back;
            front
        };
        Changes {
            add: cut(&mut self.add),
            remove: cut(&mut self.remove),
        }
    }
}

/// `old` without what is removed and with what is added, in order.
pub(super) fn merge<K: Key>(
    old: impl Iterator<Item = Prefix<K>>,
    changes: Changes<'_, K>,
) -> Vec<Prefix<K>> {
    let Changes {
        mut add,
        mut remove,
    } = changes;
    let mut merged = Vec::with_capacity(old.size_hint().0 + add.len());
    for prefix in old {
        let earlier = add.partition_point(|added| *added < prefix);
        merged.extend_from_slice(&add[..earlier]);
        add = &add[earlier..];
        remove = &remove[remove.partition_point(|removed| *removed < prefix)..];
        let is_added = add.first() == Some(&prefix);
        if is_added || remove.first() != Some(&prefix) {
            merged.push(prefix);
        }
        add = &add[usize::from(is_added)..];
    }
    merged.extend_from_slice(add);
    merged
}

/// Prefixes that hold a place, outermost first: last number and length of each.
pub(super) type Open<K> = Vec<(K, u8)>;

/// Ranges in which one prefix each is the longest, in order.
pub(super) struct Ranges<K> {
    /// Where each begins.
    pub starts: Vec<K>,
    /// Length of the longest prefix plus one; 0 where there is none.
    pub lengths: Vec<u8>,
}

impl<K> Default for Ranges<K> {
    fn default() -> Self {
        Self {
            starts: Vec::new(),
            lengths: Vec::new(),
        }
    }
}

impl<K: Key> Ranges<K> {
    /// The ranges from `from` up to before `until` (or the end). `open` holds the prefixes around `from` that begin before it, and
    /// afterwards those around `until`.
    pub fn cut(
        &mut self,
        from: K,
        until: Option<K>,
        open: &mut Open<K>,
        prefixes: impl Iterator<Item = Prefix<K>>,
    ) {
        self.starts.clear();
        self.lengths.clear();
        self.push(from, code(open));
        for (first, length) in prefixes {
            self.close(open, Some(first));
            open.push((first.last(length), length));
            self.push(first, code(open));
        }
        self.close(open, until);
    }

    /// Ends the open prefixes that end before `next` (all of them if there is none); what is around each goes on behind it.
    fn close(&mut self, open: &mut Open<K>, next: Option<K>) {
        while let Some((last, _)) = open.last().copied() {
            if next.is_some_and(|next| next <= last) {
                return;
            }
            open.pop();
            if let Some(start) = last.next()
                && next != Some(start)
            {
                self.push(start, code(open));
            }
        }
    }

    fn push(&mut self, start: K, code: u8) {
        if self.starts.last() == Some(&start) {
            self.starts.pop();
            self.lengths.pop();
        }
        if self.lengths.last() != Some(&code) {
            self.starts.push(start);
            self.lengths.push(code);
        }
    }
}

/// What lookups find inside the innermost open prefix.
fn code<K>(open: &Open<K>) -> u8 {
    open.last().map_or(0, |(_, length)| length + 1)
}
