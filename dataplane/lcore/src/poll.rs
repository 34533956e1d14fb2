//! The loop.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_queue::ArrayQueue;
use march_pipeline::{
    Counters, Held, HoldQueue, MirrorSink, Now, Originated, Pipeline, ResolveRequest,
};
use march_port::{BURST, Frame, Port};
use march_tables::{Generation, PortId, Reader};
use march_wire::{Buffer, DropReason, Verdict};

use crate::announce::Announcer;
use crate::egress::{Egress, Origin};
use crate::trace::{Trace, Tracing};
use crate::{Clock, FrameReceiver, FrameSender, LcoreCounters};

const _: () = assert!(march_pipeline::BURST == BURST);

/// Frames of the kernel taken per turn, so that a flood from the box itself does not starve the ports.
const KERNEL_PER_TURN: usize = 32;
/// Held frames whose time is over, dropped per turn.
const LATE_PER_TURN: usize = 32;

/// One in so many places of the ring to the kernel is kept for frames with a right to pass.
const PUNTS_KEPT: usize = 4;

/// What an lcore does when nothing comes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Idle {
    /// Polls on. The core is busy all the time; latency is lowest.
    #[default]
    Poll,
    /// Polls on for a while, then gives way to other threads, then sleeps for short times: for machines that have no core
    /// to spare. A frame then waits some 100 microseconds more.
    Relax,
}

/// Empty turns after which [`Idle::Relax`] gives way, and after which it sleeps.
const YIELD_AFTER: u32 = 64;
const NAP_AFTER: u32 = 512;
const NAP: Duration = Duration::from_micros(50);

/// What the agent may ask of a running lcore.
#[derive(Clone, Debug)]
pub enum Command {
    /// End after this turn; held frames are dropped, ports closed.
    Stop,
    /// Set the worst turn back to 0.
    ForgetWorst,
    /// Record packets, in place of the trace before. Keep the trace until the lcore has let go of it, so that no lcore
    /// frees its memory.
    Trace(Arc<Trace>),
}

/// What an lcore is made of, besides its ports.
pub struct Parts {
    /// Decides.
    pub pipeline: Pipeline,
    /// Counts itself.
    pub counters: Arc<LcoreCounters>,
    /// Frames for the kernel.
    pub punts: FrameSender,
    /// Frames from the kernel.
    pub kernel: FrameReceiver,
    /// Next hops that the agent should resolve.
    pub requests: Arc<ArrayQueue<ResolveRequest>>,
    /// Frames that may wait for a next hop, at most.
    pub hold_frames: usize,
    /// How long each may wait, milliseconds.
    pub hold_ms: u32,
}

/// One lcore: its ports, its pipeline, and the frames that it owns.
pub struct Lcore<P: Port> {
    wiring: Wiring<P>,
    pipeline: Pipeline,
    counters: Arc<LcoreCounters>,
    kernel: FrameReceiver,
    requests: Arc<ArrayQueue<ResolveRequest>>,
    announcer: Announcer,
    tracing: Tracing,
    /// Id of the generation of the last turn.
    generation: u64,
    burst: Vec<Frame>,
    verdicts: [Verdict; BURST],
}

/// Where frames go: everything that a verdict touches.
struct Wiring<P: Port> {
    ports: Vec<P>,
    egress: Vec<Egress>,
    counters: Arc<Counters>,
    punts: FrameSender,
    /// Places of that ring that only frames with a right to pass may take.
    punts_kept: usize,
    hold: HoldQueue<Frame>,
}

impl<P: Port> Lcore<P> {
    /// Allocates everything; `ports[i]` is `PortId` `i`. `first` is the generation that runs now: its addresses are the
    /// first to be announced.
    ///
    /// # Panics
    /// If the pipeline's counters have no room for this many ports.
    #[must_use]
    pub fn new(ports: Vec<P>, parts: Parts, first: &Arc<Generation>) -> Self {
        let counters = Arc::clone(parts.pipeline.counters());
        assert!(
            ports.len() <= counters.ports.len(),
            "more ports than counters"
        );
        Self {
            wiring: Wiring {
                egress: ports.iter().map(|_| Egress::new()).collect(),
                ports,
                counters,
                punts_kept: parts.punts.capacity() / PUNTS_KEPT,
                punts: parts.punts,
                hold: HoldQueue::new(parts.hold_frames, parts.hold_ms),
            },
            pipeline: parts.pipeline,
            counters: parts.counters,
            kernel: parts.kernel,
            requests: parts.requests,
            announcer: Announcer::new(first),
            tracing: Tracing::new(),
            generation: 0,
            burst: Vec::with_capacity(BURST),
            verdicts: [Verdict::Punt; BURST],
        }
    }

    /// Records packets from now on; what [`Command::Trace`] asks of a running lcore.
    pub fn trace(&mut self, trace: Arc<Trace>) {
        self.tracing.start(trace);
    }

    /// The ports, for a simulation that injects and collects frames between turns.
    pub fn ports_mut(&mut self) -> &mut [P] {
        &mut self.wiring.ports
    }

    /// Polls until the agent says stop.
    pub fn run(
        mut self,
        mut reader: Reader,
        clock: &Clock,
        idle: Idle,
        commands: &ArrayQueue<Command>,
    ) {
        let mut from = clock.cycles();
        let mut empty_turns: u32 = 0;
        loop {
            match commands.pop() {
                Some(Command::Stop) => break,
                Some(Command::ForgetWorst) => self.counters.worst_turn_cycles.set(0),
                Some(Command::Trace(trace)) => self.trace(trace),
                None => {}
            }
            let moved = self.turn(reader.load(), clock.now(from));
            if moved == 0 {
                empty_turns = empty_turns.saturating_add(1);
                if idle == Idle::Relax {
                    relax(empty_turns, &self.counters);
                }
            } else {
                empty_turns = 0;
            }
            let to = clock.cycles();
            self.count_turn(moved, to.wrapping_sub(from));
            from = to;
        }
        self.close();
    }

    /// One turn: every port once, and everything that waits. Returns how many frames it received from ports and kernel.
    pub fn turn(&mut self, generation: &Arc<Generation>, now: Now) -> usize {
        if generation.id != self.generation {
            self.on_generation(generation, now);
        }
        let mut moved = 0;
        for port in 0..self.wiring.ports.len() {
            moved += self.receive(generation, now, port);
        }
        moved += self.take_from_kernel();
        self.wiring.drop_late(now);
        if !self.announcer.is_quiet() {
            self.announce(now);
        }
        self.wiring.flush();
        self.pipeline.expire(generation, now);
        self.ask_agent();
        moved
    }

    /// Frames that the lcore owns between turns: those that wait for a next hop.
    pub fn held(&self) -> usize {
        self.wiring.hold.len()
    }

    /// Drops what waits and closes the ports.
    pub fn close(mut self) {
        while let Some(held) = self.wiring.hold.pop() {
            self.wiring.give_up(held);
        }
    }

    /// One burst of one port.
    #[inline]
    fn receive(&mut self, generation: &Generation, now: Now, port: usize) -> usize {
        let count = self.wiring.ports[port].rx_burst(&mut self.burst);
        self.counters.polled(count);
        if count == 0 {
            return 0;
        }
        let bytes: usize = self.burst.iter().map(Frame::len).sum();
        let own = &self.wiring.counters.ports[port];
        own.rx_frames.add(count as u64);
        own.rx_bytes.add(bytes as u64);

        let ingress = port_id(port);
        let verdicts = &mut self.verdicts[..count];
        let sink = &mut self.wiring;
        if self.tracing.is_on() {
            self.tracing.before(ingress, &self.burst);
        }
        self.pipeline
            .process(generation, now, ingress, &mut self.burst, verdicts, sink);
        if self.tracing.is_on() {
            self.tracing
                .after(generation.id, now, ingress, &self.burst, verdicts);
        }
        let mut frames = self.burst.drain(..);
        let mut next = 0;
        for run in verdicts.chunk_by(|a, b| a == b) {
            let frames = frames.by_ref().take(run.len());
            let first = next;
            next += run.len();
            match run[0] {
                Verdict::Forward { port } => {
                    let origin = Origin::Forwarded(ingress);
                    self.wiring.queue_run(frames, run.len(), port, origin);
                }
                Verdict::Punt => {
                    for (index, frame) in (first..).zip(frames) {
                        let kept = if self.pipeline.has_right_to_pass(index) {
                            0
                        } else {
                            self.wiring.punts_kept
                        };
                        self.wiring.punt(frame, ingress, kept);
                    }
                }
                verdict => {
                    for frame in frames {
                        self.wiring.dispatch(frame, verdict, ingress, now);
                    }
                }
            }
        }
        count
    }

    /// Says which generation runs, and tries again what waited for one.
    #[cold]
    fn on_generation(&mut self, generation: &Arc<Generation>, now: Now) {
        self.generation = generation.id;
        self.counters.generation.set(generation.id);
        self.announcer.on_generation(generation);
        for _ in 0..self.wiring.hold.len() {
            let Some(mut held) = self.wiring.hold.pop() else {
                break;
            };
            let mut verdict = [Verdict::Hold];
            let frame = core::slice::from_mut(&mut held.frame);
            let (ingress, sink) = (held.ingress, &mut self.wiring);
            if self.tracing.is_on() {
                self.tracing.before(ingress, frame);
            }
            self.pipeline
                .process(generation, now, ingress, frame, &mut verdict, sink);
            if self.tracing.is_on() {
                self.tracing
                    .after(generation.id, now, ingress, frame, &verdict);
            }
            self.wiring.dispatch_held(held, verdict[0], now);
        }
    }

    /// What the kernel sends by way of its twin of the port.
    #[inline]
    fn take_from_kernel(&mut self) -> usize {
        let mut taken = 0;
        while taken < KERNEL_PER_TURN && !self.kernel.is_empty() {
            let wiring = &mut self.wiring;
            let _: Option<()> = self
                .kernel
                .receive(|port, bytes| wiring.send_for_kernel(port, bytes));
            taken += 1;
        }
        taken
    }

    #[cold]
    fn announce(&mut self, now: Now) {
        let Wiring {
            ports,
            egress,
            counters,
            ..
        } = &mut self.wiring;
        self.announcer.step(now, ports, |ports, port, frame| {
            let queue = &mut egress[port];
            if queue.is_full() {
                queue.flush(&mut ports[port], port_id(port), counters);
            }
            queue.push(frame, Origin::Originated(Originated::Gratuitous));
        });
    }

    /// Hands requests for next hops to the agent; what does not fit is asked again by a later packet.
    #[inline]
    fn ask_agent(&mut self) {
        for request in self.pipeline.take_requests() {
            let counter = match self.requests.push(request) {
                Ok(()) => &self.counters.resolve_requests,
                Err(_) => &self.counters.resolve_lost,
            };
            counter.add(1);
        }
    }

    #[inline]
    fn count_turn(&self, moved: usize, cycles: u64) {
        self.counters.turns.add(1);
        if moved == 0 {
            self.counters.idle_cycles.add(cycles);
        } else {
            self.counters.busy_cycles.add(cycles);
            if cycles > self.counters.worst_turn_cycles.get() {
                self.counters.worst_turn_cycles.set(cycles);
            }
        }
    }
}

impl<P: Port> Wiring<P> {
    /// Moves one received frame to where its verdict says.
    #[inline]
    fn dispatch(&mut self, frame: Frame, verdict: Verdict, ingress: PortId, now: Now) {
        match verdict {
            Verdict::Forward { port } => self.queue(frame, port, Origin::Forwarded(ingress)),
            Verdict::Answer { port } => self.queue(frame, port, Origin::Answered(ingress)),
            Verdict::Drop(reason) => self.discard(frame, ingress, reason),
            Verdict::Punt => self.punt(frame, ingress, self.punts_kept),
            Verdict::Hold => self.hold(frame, ingress, now),
        }
    }

    /// The same for a frame that had been held. If it must wait on, it keeps its place in time.
    fn dispatch_held(&mut self, held: Held<Frame>, verdict: Verdict, now: Now) {
        let ingress = held.ingress;
        let gauge = &self.counters.ports[usize::from(ingress)].held;
        if verdict != Verdict::Hold {
            gauge.subtract(1);
            self.dispatch(held.frame, verdict, ingress, now);
        } else if let Err(frame) = self.hold.put_back(held) {
            gauge.subtract(1);
            self.discard(frame, ingress, DropReason::NeighbourUnresolved);
        }
    }

    /// Puts `count` frames with one origin into the egress queue of `port`: the common case, in one go.
    #[inline]
    fn queue_run(
        &mut self,
        frames: impl Iterator<Item = Frame>,
        count: usize,
        port: PortId,
        origin: Origin,
    ) {
        match self.egress.get_mut(usize::from(port)) {
            Some(egress) if egress.room() >= count => egress.push_run(frames, count, origin),
            _ => frames.for_each(|frame| self.queue(frame, port, origin)),
        }
    }

    /// Puts a frame into the egress queue of `port`.
    fn queue(&mut self, frame: Frame, port: PortId, origin: Origin) {
        let at = usize::from(port);
        if let (Some(egress), Some(device)) = (self.egress.get_mut(at), self.ports.get_mut(at)) {
            if egress.is_full() {
                egress.flush(device, port, &self.counters);
            }
            egress.push(frame, origin);
            return;
        }
        // A generation may name a port that this lcore does not drive (yet).
        match origin {
            Origin::Forwarded(ingress) | Origin::Answered(ingress) => {
                self.discard(frame, ingress, DropReason::NoRoute);
            }
            Origin::Originated(_) => self.free(frame),
        }
    }

    /// Hands a frame to the kernel if that leaves `kept` places of the ring free.
    #[cold]
    fn punt(&mut self, frame: Frame, ingress: PortId, kept: usize) {
        if self.punts.send_leaving(kept, ingress, frame.bytes()) {
            self.counters.ports[usize::from(ingress)].punted.add(1);
            self.free(frame);
        } else {
            self.discard(frame, ingress, DropReason::PuntFull);
        }
    }

    #[cold]
    fn hold(&mut self, frame: Frame, ingress: PortId, now: Now) {
        match self.hold.push(frame, ingress, now) {
            Ok(()) => self.counters.ports[usize::from(ingress)].held.add(1),
            Err(frame) => self.discard(frame, ingress, DropReason::NeighbourUnresolved),
        }
    }

    /// Drops held frames whose time is over.
    #[inline]
    fn drop_late(&mut self, now: Now) {
        for _ in 0..LATE_PER_TURN {
            let Some(held) = self.hold.pop_late(now) else {
                break;
            };
            self.give_up(held);
        }
    }

    /// Drops a frame that waited in vain.
    fn give_up(&mut self, held: Held<Frame>) {
        self.counters.ports[usize::from(held.ingress)]
            .held
            .subtract(1);
        self.discard(held.frame, held.ingress, DropReason::NeighbourUnresolved);
    }

    /// Copies a frame of the kernel into a buffer of the port and queues it.
    fn send_for_kernel(&mut self, port: PortId, bytes: &[u8]) {
        let Some(device) = self.ports.get_mut(usize::from(port)) else {
            return;
        };
        match copy_of(bytes, device) {
            Some(frame) => self.queue(frame, port, Origin::Originated(Originated::Kernel)),
            None => self.counters.ports[usize::from(port)]
                .originated_lost
                .add(1),
        }
    }

    /// Drops and counts a received frame.
    #[inline]
    fn discard(&mut self, frame: Frame, ingress: PortId, reason: DropReason) {
        self.counters.ports[usize::from(ingress)].drop(reason);
        self.free(frame);
    }

    /// All ports share a pool: any of them takes the buffer back.
    #[inline]
    fn free(&mut self, frame: Frame) {
        self.ports[0].free(frame);
    }

    /// Transmits what every port has queued, then lets the port do its own work.
    #[inline]
    fn flush(&mut self) {
        for ((id, device), egress) in (0..).zip(&mut self.ports).zip(&mut self.egress) {
            if !egress.is_empty() {
                egress.flush(device, id, &self.counters);
            }
            device.poll();
        }
    }
}

impl<P: Port> MirrorSink for Wiring<P> {
    fn copy(&mut self, port: PortId, frame: &[u8]) -> bool {
        let device = self.ports.get_mut(usize::from(port));
        let Some(copy) = device.and_then(|device| copy_of(frame, device)) else {
            return false;
        };
        self.queue(copy, port, Origin::Originated(Originated::Mirror));
        true
    }
}

/// The bytes in a frame of the port's own; `None` if it has none to spare.
fn copy_of<P: Port>(bytes: &[u8], device: &mut P) -> Option<Frame> {
    let mut frame = device.allocate()?;
    if frame.resize(bytes.len()) {
        frame.bytes_mut().copy_from_slice(bytes);
        return Some(frame);
    }
    device.free(frame);
    None
}

/// The id of a position in the group; [`Lcore::new`] has checked that it fits.
#[inline]
fn port_id(at: usize) -> PortId {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "there are fewer ports than ids"
    )]
    let id = at as PortId;
    id
}

/// Gives way when nothing came for a while.
#[cold]
fn relax(empty_turns: u32, counters: &LcoreCounters) {
    if empty_turns > NAP_AFTER {
        counters.naps.add(1);
        std::thread::sleep(NAP);
    } else if empty_turns > YIELD_AFTER {
        std::thread::yield_now();
    } else {
        core::hint::spin_loop();
    }
}
