//! Handing a generation to the lcores and taking the old one back.
//!
//! The agent publishes one pointer. Each lcore holds a [`Reader`] and looks once per loop, which costs one relaxed load
//! while nothing changes. The publisher keeps every retired generation until it is the only owner, so the memory is
//! freed by whoever calls [`Publisher::reclaim`] (the agent), never on a lcore.

use std::sync::Arc;

use arc_swap::{ArcSwap, Cache};

use crate::Generation;

/// A lcore's view: call `load` once per loop.
pub type Reader = Cache<Arc<ArcSwap<Generation>>, Arc<Generation>>;

/// The agent's end. One per node; not `Clone`.
#[derive(Debug)]
pub struct Publisher {
    running: Arc<ArcSwap<Generation>>,
    retired: Vec<Arc<Generation>>,
}

impl Publisher {
    /// Starts with `first` running.
    #[must_use]
    pub fn new(first: Generation) -> Self {
        Self {
            running: Arc::new(ArcSwap::from_pointee(first)),
            retired: Vec::new(),
        }
    }

    /// A reader for one lcore. It sees every generation published after, at its next `load`.
    #[must_use]
    pub fn reader(&self) -> Reader {
        Cache::new(Arc::clone(&self.running))
    }

    /// The generation that was published last.
    #[must_use]
    pub fn current(&self) -> Arc<Generation> {
        self.running.load_full()
    }

    /// Makes `next` the running generation and retires the one before; frees what no lcore uses any more.
    pub fn publish(&mut self, next: Generation) {
        let old = self.running.swap(Arc::new(next));
        self.retired.push(old);
        self.reclaim();
    }

    /// Frees retired generations that nobody else holds and returns how many are still held.
    ///
    /// A retired generation is no longer reachable through the pointer, so a count of one cannot grow again.
    pub fn reclaim(&mut self) -> usize {
        self.retired
            .retain(|generation| Arc::strong_count(generation) > 1);
        self.retired.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generation(id: u64) -> Generation {
        Generation {
            id,
            ..Generation::empty()
        }
    }

    #[test]
    fn a_retired_generation_lives_until_its_reader_moved_on() {
        let mut publisher = Publisher::new(generation(1));
        let mut reader = publisher.reader();
        assert_eq!(reader.load().id, 1);
        let weak = Arc::downgrade(&publisher.current());

        publisher.publish(generation(2));
        assert_eq!(
            publisher.reclaim(),
            1,
            "the reader still holds generation 1"
        );
        assert!(weak.upgrade().is_some());

        assert_eq!(reader.load().id, 2);
        assert!(weak.upgrade().is_some(), "moving on must not free");
        assert_eq!(publisher.reclaim(), 0);
        assert!(weak.upgrade().is_none(), "the publisher frees");
    }

    #[test]
    fn readers_on_other_threads_never_free() {
        let mut publisher = Publisher::new(generation(1));
        let mut reader = publisher.reader();
        let lcore = std::thread::spawn(move || {
            let mut last = 0;
            while last < 200 {
                let id = reader.load().id;
                assert!(id >= last, "generations never go back");
                last = id;
            }
        });
        for id in 2..=200 {
            publisher.publish(generation(id));
        }
        lcore.join().expect("the reader saw the last generation");
        assert_eq!(publisher.reclaim(), 0);
    }
}
