//! Which entry came first: a list through an array, so that any entry leaves it in one step.

/// No entry.
const NIL: u32 = u32::MAX;

#[derive(Clone, Copy)]
struct Link {
    before: u32,
    after: u32,
}

/// Entries in the order in which they came.
pub(crate) struct Order {
    links: Box<[Link]>,
    first: u32,
    last: u32,
}

impl Order {
    /// For entries 0 to `capacity` - 1, none of which is there yet. Allocates everything now.
    pub fn new(capacity: usize) -> Self {
        let unlinked = Link {
            before: NIL,
            after: NIL,
        };
        Self {
            links: vec![unlinked; capacity].into(),
            first: NIL,
            last: NIL,
        }
    }

    /// The entry that came before all others.
    #[inline]
    pub fn first(&self) -> Option<u32> {
        (self.first != NIL).then_some(self.first)
    }

    /// An entry comes.
    #[inline]
    pub fn push(&mut self, entry: u32) {
        let before = core::mem::replace(&mut self.last, entry);
        self.links[entry as usize] = Link { before, after: NIL };
        match before {
            NIL => self.first = entry,
            _ => self.links[before as usize].after = entry,
        }
    }

    /// An entry that is there leaves.
    #[inline]
    pub fn remove(&mut self, entry: u32) {
        let Link { before, after } = self.links[entry as usize];
        match before {
            NIL => self.first = after,
            _ => self.links[before as usize].after = after,
        }
        match after {
            NIL => self.last = before,
            _ => self.links[after as usize].before = before,
        }
    }

    /// Memory in use, bytes.
    pub fn memory_bytes(&self) -> usize {
        size_of_val(&*self.links)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    proptest::proptest! {
        #[test]
        fn agrees_with_a_queue(steps in proptest::collection::vec((0_u32..8, proptest::bool::ANY), 0..200)) {
            let mut order = Order::new(8);
            let mut queue = VecDeque::new();
            for (entry, comes) in steps {
                let at = queue.iter().position(|other| *other == entry);
                match (at, comes) {
                    (None, true) => {
                        order.push(entry);
                        queue.push_back(entry);
                    }
                    (Some(at), false) => {
                        order.remove(entry);
                        queue.remove(at);
                    }
                    _ => {}
                }
                proptest::prop_assert_eq!(order.first(), queue.front().copied());
            }
            while let Some(first) = order.first() {
                proptest::prop_assert_eq!(Some(first), queue.pop_front());
                order.remove(first);
            }
            proptest::prop_assert!(queue.is_empty());
        }
    }
}
