//! Frames that wait for a next hop.

use std::collections::VecDeque;

use march_tables::PortId;

use crate::context::Now;

/// One waiting frame.
#[derive(Debug)]
pub struct Held<B> {
    /// The frame, unchanged.
    pub frame: B,
    /// Where it came in.
    pub ingress: PortId,
    /// When it stops waiting, milliseconds of the lcore's clock.
    pub deadline_ms: u32,
}

impl<B> Held<B> {
    /// True once the frame has waited long enough.
    pub fn is_late(&self, now: Now) -> bool {
        now.ms.wrapping_sub(self.deadline_ms) < u32::MAX / 2
    }
}

/// The bounded queue of waiting frames of one lcore, oldest first.
#[derive(Debug)]
pub struct HoldQueue<B> {
    frames: VecDeque<Held<B>>,
    capacity: usize,
    wait_ms: u32,
}

impl<B> HoldQueue<B> {
    /// Room for `capacity` frames, each for `wait_ms`. Allocates now and never again.
    #[must_use]
    pub fn new(capacity: usize, wait_ms: u32) -> Self {
        Self {
            frames: VecDeque::with_capacity(capacity),
            capacity,
            wait_ms,
        }
    }

    /// Keeps a frame that just came in. Gives it back if there is no room: it is then to be dropped as
    /// `neighbour_unresolved`.
    pub fn push(&mut self, frame: B, ingress: PortId, now: Now) -> Result<(), B> {
        let deadline_ms = now.ms.wrapping_add(self.wait_ms);
        self.put_back(Held {
            frame,
            ingress,
            deadline_ms,
        })
    }

    /// Keeps a frame that was held before, with its old deadline.
    pub fn put_back(&mut self, held: Held<B>) -> Result<(), B> {
        if self.frames.len() == self.capacity {
            return Err(held.frame);
        }
        self.frames.push_back(held);
        Ok(())
    }

    /// The oldest frame. To try all of them once, call this [`HoldQueue::len`] times.
    pub fn pop(&mut self) -> Option<Held<B>> {
        self.frames.pop_front()
    }

    /// The oldest frame, if its time is over. Frames put back keep their deadline and go to the end, so a frame may
    /// wait for those before it, never longer than once more the time.
    pub fn pop_late(&mut self, now: Now) -> Option<Held<B>> {
        if self.frames.front()?.is_late(now) {
            self.pop()
        } else {
            None
        }
    }

    /// Frames that wait.
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// True where nothing waits.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_bounded_and_first_in_first_out() {
        let mut queue = HoldQueue::new(2, 1_000);
        assert_eq!(queue.push('a', 0, Now { ms: 0 }), Ok(()));
        assert_eq!(queue.push('b', 0, Now { ms: 1 }), Ok(()));
        assert_eq!(queue.push('c', 0, Now { ms: 2 }), Err('c'));
        assert!(queue.pop_late(Now { ms: 999 }).is_none());
        assert_eq!(
            queue.pop_late(Now { ms: 1_000 }).map(|held| held.frame),
            Some('a')
        );
        assert!(queue.pop_late(Now { ms: 1_000 }).is_none());
        assert_eq!(queue.pop().map(|held| held.frame), Some('b'));
        assert!(queue.is_empty());
    }

    #[test]
    fn deadlines_survive_the_wrap_of_the_clock() {
        let mut queue = HoldQueue::new(1, 1_000);
        queue.push((), 0, Now { ms: u32::MAX - 10 }).unwrap();
        assert!(queue.pop_late(Now { ms: u32::MAX }).is_none());
        assert!(queue.pop_late(Now { ms: 989 }).is_some());
    }
}
