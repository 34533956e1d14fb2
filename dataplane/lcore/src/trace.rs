//! Watching live packets: what came in, what was decided, what went out.
//!
//! The agent makes a [`Trace`] with all its memory and hands it to the lcore, which fills records as long as the trace
//! wants more. Off, it costs the lcore one predictable branch per burst. On, the head of every frame of a burst is
//! copied before the pipeline sees it; a record is kept where the filter matches the packet as it came or as it left.
//!
//! The trace ends by itself: after so many records, or when its time is over. Records travel through two bounded rings
//! and are used again; where the agent is too slow, packets go unrecorded and are counted.

mod filter;

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::Arc;

use crossbeam_queue::ArrayQueue;
use march_pipeline::Now;
use march_tables::PortId;
use march_wire::{Buffer, Verdict};

use crate::trace::filter::Sight;
use march_port::BURST;

pub use filter::{FilterError, TraceFilter};

/// Bytes of a frame that a record keeps.
pub const HEAD: usize = 192;
/// Records that may wait for the agent.
const WAITING: usize = 256;

/// The first bytes of a frame.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    bytes: [u8; HEAD],
    kept: u8,
    /// Length of the whole frame.
    pub frame_len: u32,
}

const _: () = assert!(HEAD <= u8::MAX as usize);

impl Default for Head {
    fn default() -> Self {
        Self {
            bytes: [0; HEAD],
            kept: 0,
            frame_len: 0,
        }
    }
}

impl Head {
    /// What was kept.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.kept)).unwrap_or_default()
    }

    fn set(&mut self, frame: &[u8]) {
        let kept = frame.len().min(HEAD);
        if let (Some(to), Some(from)) = (self.bytes.get_mut(..kept), frame.get(..kept)) {
            to.copy_from_slice(from);
        }
        self.kept = u8::try_from(kept).unwrap_or(u8::MAX);
        self.frame_len = u32::try_from(frame.len()).unwrap_or(u32::MAX);
    }
}

/// One packet.
#[derive(Clone, Copy, Debug)]
pub struct TraceRecord {
    /// Where it came in.
    pub ingress: PortId,
    /// The lcore's clock, milliseconds, wrapping.
    pub at_ms: u32,
    /// Which generation decided.
    pub generation: u64,
    /// What was decided. A held frame shows up again when its wait is over.
    pub verdict: Verdict,
    /// As it came.
    pub before: Head,
    /// As it left, or was when it was dropped.
    pub after: Head,
}

impl Default for TraceRecord {
    fn default() -> Self {
        Self {
            ingress: 0,
            at_ms: 0,
            generation: 0,
            verdict: Verdict::Punt,
            before: Head::default(),
            after: Head::default(),
        }
    }
}

/// A running trace, shared by the agent and the lcore.
#[derive(Debug)]
pub struct Trace {
    filter: TraceFilter,
    /// Records that the trace still wants.
    wanted: AtomicU32,
    /// Matching packets for which no record was free.
    lost: AtomicU64,
    free: ArrayQueue<Box<TraceRecord>>,
    filled: ArrayQueue<Box<TraceRecord>>,
}

impl Trace {
    /// A trace that ends after `count` records. Allocates all that it will ever need.
    #[must_use]
    pub fn new(filter: TraceFilter, count: u32) -> Arc<Self> {
        let trace = Self {
            filter,
            wanted: AtomicU32::new(count),
            lost: AtomicU64::new(0),
            free: ArrayQueue::new(WAITING),
            filled: ArrayQueue::new(WAITING),
        };
        for _ in 0..WAITING {
            trace.give_back(Box::default());
        }
        Arc::new(trace)
    }

    /// The oldest record that waits. Give it back.
    #[must_use]
    pub fn next(&self) -> Option<Box<TraceRecord>> {
        self.filled.pop()
    }

    /// A record that was read, for use again.
    pub fn give_back(&self, record: Box<TraceRecord>) {
        // There are as many places as records.
        let _ = self.free.push(record);
    }

    /// Ends the trace: the lcore records nothing more.
    pub fn end(&self) {
        self.wanted.store(0, Ordering::Relaxed);
    }

    /// One record less is wanted; none stays none, or a trace that is ended in the middle of a burst would never end.
    fn count(&self) {
        let less = |wanted: u32| wanted.checked_sub(1);
        let _ = self
            .wanted
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// Whether the lcore has recorded all that was wanted. Records may still wait.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.wanted.load(Ordering::Relaxed) == 0
    }

    /// Matching packets for which no record was free.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

/// The lcore's end: the trace that runs, and the heads of the burst at hand.
pub(crate) struct Tracing {
    running: Option<Arc<Trace>>,
    heads: Box<[Head; BURST]>,
    /// A bit for each frame that the filter matched as it came.
    matched: u64,
}

impl Tracing {
    pub fn new() -> Self {
        Self {
            running: None,
            heads: Box::new([Head::default(); BURST]),
            matched: 0,
        }
    }

    /// Runs `trace` from now on, in place of the one before.
    pub fn start(&mut self, trace: Arc<Trace>) {
        self.running = Some(trace);
    }

    #[inline]
    pub fn is_on(&self) -> bool {
        self.running.is_some()
    }

    /// Remembers a burst before the pipeline sees it.
    #[cold]
    pub fn before<B: Buffer>(&mut self, ingress: PortId, frames: &[B]) {
        let Some(trace) = &self.running else {
            return;
        };
        self.matched = 0;
        for (index, (frame, head)) in frames.iter().zip(self.heads.iter_mut()).enumerate() {
            head.set(frame.bytes());
            let sight = Sight::of(frame.bytes());
            self.matched |= u64::from(trace.filter.matches_packet(ingress, &sight)) << index;
        }
    }

    /// Records what became of it.
    #[cold]
    pub fn after<B: Buffer>(
        &mut self,
        generation: u64,
        now: Now,
        ingress: PortId,
        frames: &[B],
        verdicts: &[Verdict],
    ) {
        let Some(trace) = &self.running else {
            return;
        };
        for (index, ((frame, head), verdict)) in frames
            .iter()
            .zip(self.heads.iter())
            .zip(verdicts)
            .enumerate()
        {
            if trace.is_over() {
                break;
            }
            let matched = self.matched >> index & 1 == 1
                || trace
                    .filter
                    .matches_packet(ingress, &Sight::of(frame.bytes()));
            if !matched || !trace.filter.matches_verdict(*verdict) {
                continue;
            }
            let Some(mut record) = trace.free.pop() else {
                trace.lost.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            record.ingress = ingress;
            record.at_ms = now.ms;
            record.generation = generation;
            record.verdict = *verdict;
            record.before = *head;
            record.after.set(frame.bytes());
            trace.count();
            // There are as many places as records.
            let _ = trace.filled.push(record);
        }
        if trace.is_over() {
            // The agent holds the trace until it has read all of it, so nothing is freed here.
            self.running = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_that_is_ended_while_a_record_is_made_stays_ended() {
        let trace = Trace::new(TraceFilter::default(), 2);
        trace.count();
        assert!(!trace.is_over());
        trace.end();
        trace.count();
        assert!(trace.is_over());
    }
}
