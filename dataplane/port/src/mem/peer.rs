//! The far end of a memory port's cable, for a test on another thread.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes of one slot: the largest frame that fits through the cable.
const SLOT: usize = 2048;

/// The other end of one memory port: what it sends, the port receives, and the other way round. May be on any thread;
/// nothing here allocates after construction, so an lcore under a counting allocator stays silent.
#[derive(Clone, Debug)]
pub struct MemPeer(Arc<Cable>);

#[derive(Debug)]
struct Cable {
    to_port: Mutex<Slots>,
    from_port: Mutex<Slots>,
}

/// A bounded queue of frames by value.
#[derive(Debug)]
struct Slots {
    bytes: Box<[[u8; SLOT]]>,
    used: VecDeque<(usize, usize)>,
    free: Vec<usize>,
}

impl Slots {
    fn new(count: usize) -> Self {
        Self {
            bytes: vec![[0; SLOT]; count].into_boxed_slice(),
            used: VecDeque::with_capacity(count),
            free: (0..count).rev().collect(),
        }
    }

    fn push(&mut self, frame: &[u8]) -> bool {
        if frame.len() > SLOT {
            return false;
        }
        let Some(slot) = self.free.pop() else {
            return false;
        };
        self.bytes[slot][..frame.len()].copy_from_slice(frame);
        self.used.push_back((slot, frame.len()));
        true
    }

    fn pop<R>(&mut self, take: impl FnOnce(&[u8]) -> R) -> Option<R> {
        let (slot, len) = self.used.pop_front()?;
        let taken = take(&self.bytes[slot][..len]);
        self.free.push(slot);
        Some(taken)
    }
}

fn lock(slots: &Mutex<Slots>) -> MutexGuard<'_, Slots> {
    slots.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MemPeer {
    pub(super) fn new(slots: usize) -> Self {
        Self(Arc::new(Cable {
            to_port: Mutex::new(Slots::new(slots)),
            from_port: Mutex::new(Slots::new(slots)),
        }))
    }

    /// Sends one frame towards the port. `false` if the cable is full or the frame larger than 2048 bytes.
    #[must_use]
    pub fn send(&self, frame: &[u8]) -> bool {
        lock(&self.0.to_port).push(frame)
    }

    /// The oldest frame that the port sent and nobody took yet.
    pub fn receive(&self) -> Option<Vec<u8>> {
        lock(&self.0.from_port).pop(<[u8]>::to_vec)
    }

    /// Frames that the port sent and nobody took yet.
    pub fn waiting(&self) -> usize {
        lock(&self.0.from_port).used.len()
    }

    /// Frames sent towards the port that it did not receive yet.
    pub fn unread(&self) -> usize {
        lock(&self.0.to_port).used.len()
    }

    pub(super) fn next_for_port<R>(&self, take: impl FnOnce(&[u8]) -> R) -> Option<R> {
        lock(&self.0.to_port).pop(take)
    }

    pub(super) fn deliver(&self, frame: &[u8]) -> bool {
        lock(&self.0.from_port).push(frame)
    }
}
