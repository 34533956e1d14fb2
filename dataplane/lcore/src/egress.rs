//! Frames on their way out of one port, and what each counts as once it is known whether the ring took it.

use march_pipeline::{Counters, Originated};
use march_port::{Frame, Port};
use march_tables::PortId;
use march_wire::DropReason;

/// Frames that wait for one `tx_burst`, at most.
const CAPACITY: usize = 512;

/// Why a frame leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Received on this port, rewritten.
    Forwarded(PortId),
    /// Received on this port, turned into a reply.
    Answered(PortId),
    /// Nobody's: the box's own.
    Originated(Originated),
}

/// Frames in a row with the same origin.
#[derive(Debug)]
struct Run {
    origin: Origin,
    count: u64,
}

/// One port's frames of this turn. Never grows.
#[derive(Debug)]
pub(crate) struct Egress {
    frames: Vec<Frame>,
    runs: Vec<Run>,
}

impl Egress {
    pub fn new() -> Self {
        Self {
            frames: Vec::with_capacity(CAPACITY),
            runs: Vec::with_capacity(CAPACITY),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    pub fn is_full(&self) -> bool {
        self.room() == 0
    }

    /// Frames that fit still.
    #[inline]
    pub fn room(&self) -> usize {
        CAPACITY - self.frames.len()
    }

    /// Adds a frame; the caller has made sure that there is room.
    pub fn push(&mut self, frame: Frame, origin: Origin) {
        self.push_run(core::iter::once(frame), 1, origin);
    }

    /// Adds `count` frames with the same origin; the caller has made sure that there is room.
    #[inline]
    pub fn push_run(&mut self, frames: impl Iterator<Item = Frame>, count: usize, origin: Origin) {
        debug_assert!(self.room() >= count, "flushed before it is full");
        self.frames.extend(frames);
        let count = count as u64;
        match self.runs.last_mut() {
            Some(run) if run.origin == origin => run.count += count,
            _ => self.runs.push(Run { origin, count }),
        }
    }

    /// Transmits everything on `port`, which has number `id`, and counts it. What the ring does not take, even after
    /// the port was polled to make room, is dropped as `tx_full` where it came in, and freed.
    pub fn flush<P: Port>(&mut self, port: &mut P, id: PortId, counters: &Counters) {
        let offered: u64 = bytes(&self.frames);
        let mut taken = port.tx_burst(&mut self.frames);
        if !self.frames.is_empty() {
            port.poll();
            taken += port.tx_burst(&mut self.frames);
        }
        let own = &counters.ports[usize::from(id)];
        own.tx_frames.add(taken as u64);
        own.tx_bytes.add(offered - bytes(&self.frames));
        let mut left = taken as u64;
        for run in self.runs.drain(..) {
            let sent = run.count.min(left);
            left -= sent;
            count(counters, id, run.origin, sent, run.count - sent);
        }
        for frame in self.frames.drain(..) {
            port.free(frame);
        }
    }
}

fn bytes(frames: &[Frame]) -> u64 {
    frames.iter().map(|frame| frame.len() as u64).sum()
}

/// Counts a run of which `sent` frames left by port `id` and `refused` did not.
fn count(counters: &Counters, id: PortId, origin: Origin, sent: u64, refused: u64) {
    let egress = &counters.ports[usize::from(id)];
    let ingress = match origin {
        Origin::Forwarded(from) => {
            let ingress = &counters.ports[usize::from(from)];
            ingress.forwarded.add(sent);
            egress.forwarded_in.add(sent);
            ingress
        }
        Origin::Answered(from) => {
            let ingress = &counters.ports[usize::from(from)];
            ingress.answered.add(sent);
            egress.tx_answered.add(sent);
            ingress
        }
        Origin::Originated(kind) => {
            egress.originated[kind as usize].add(sent);
            let lost = match kind {
                Originated::Mirror => &egress.mirror_lost,
                Originated::Gratuitous | Originated::Kernel => &egress.originated_lost,
            };
            lost.add(refused);
            return;
        }
    };
    ingress.drops.of(DropReason::TxFull).add(refused);
}
