//! Copies of frames as they came in, made before anything in them is changed.

use march_flow::{Rate, TokenBucket};
use march_tables::{Generation, Mirror, NONE, PortId, TreatmentId};

use crate::context::Now;
use crate::counters::Counters;

/// Who sends copies. Called in the middle of a burst: it may neither block nor allocate memory.
pub trait MirrorSink {
    /// Sends a copy of `frame` out of `port`. `false` if it could not: no buffer was free, or there is no such port.
    fn copy(&mut self, port: PortId, frame: &[u8]) -> bool;
}

/// For those who look at verdicts only: every copy is lost.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoMirror;

impl MirrorSink for NoMirror {
    fn copy(&mut self, _port: PortId, _frame: &[u8]) -> bool {
        false
    }
}

/// Longest frame that the slow path can copy, bytes: a jumbo frame and some.
const LONGEST: usize = 10_240;

/// How many copies are made, and the one that the slow path has decided on: it knows only after the rewrite whether the
/// frame goes on.
pub(crate) struct Mirrors {
    /// By treatment: rules with equal treatments share one bound.
    buckets: Box<[TokenBucket]>,
    /// Whose treatments those are: the next policy numbers its own, and its bounds begin anew.
    policy_epoch: u16,
    waiting: Option<Mirror>,
    frame: Vec<u8>,
}

impl Mirrors {
    /// Allocates everything.
    pub fn new() -> Self {
        Self {
            buckets: vec![TokenBucket::default(); usize::from(NONE)].into(),
            policy_epoch: 0,
            waiting: None,
            frame: Vec::with_capacity(LONGEST),
        }
    }

    /// Whether one more copy may be made now.
    pub fn admit(
        &mut self,
        generation: &Generation,
        treatment: TreatmentId,
        mirror: Mirror,
        now: Now,
    ) -> bool {
        if self.policy_epoch != generation.policy_epoch {
            self.policy_epoch = generation.policy_epoch;
            self.buckets.fill(TokenBucket::default());
        }
        let per_second = u64::from(mirror.per_second);
        let rate = Rate::new(per_second, per_second);
        let bucket = self.buckets.get_mut(usize::from(treatment));
        per_second > 0 && bucket.is_some_and(|bucket| bucket.take(&rate, 1, now.ms))
    }

    /// Keeps a frame as it is now, in place of one that was kept before.
    pub fn keep(&mut self, mirror: Mirror, frame: &[u8]) {
        self.frame.clear();
        if frame.len() <= self.frame.capacity() {
            self.frame.extend_from_slice(frame);
        }
        self.waiting = Some(mirror);
    }

    /// Forgets what was kept.
    pub fn forget(&mut self) {
        self.waiting = None;
    }

    /// Sends the copy of the frame that was kept, if one was.
    pub fn send<S: MirrorSink>(&mut self, sink: &mut S, counters: &Counters) {
        if let Some(mirror) = self.waiting.take() {
            let sent = !self.frame.is_empty() && sink.copy(mirror.port, &self.frame);
            count_lost(counters, mirror.port, !sent);
        }
    }
}

/// Counts a copy that was not sent.
pub(crate) fn count_lost(counters: &Counters, port: PortId, is_lost: bool) {
    if is_lost && let Some(port) = counters.ports.get(usize::from(port)) {
        port.mirror_lost.add(1);
    }
}
