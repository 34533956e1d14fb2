//! What rules ask for the packets of a flow that they let through: a limit, copies, a mark.
//!
//! In this order, once the packet is known to leave (hops left, next hop resolved, small enough): the limit, which may drop it;
//! the copy of it as it came in; then the rewrite and the mark. What is held or answered is neither charged nor copied.

use march_flow::{Direction, Flow, FlowHandle, FlowState, FlowTable, SourceKey};
use march_tables::{Generation, Limit, LimitScope, Mirror, NONE, Treatment};
use march_wire::{Buffer, DropReason, Verdict};

use crate::BURST;
use crate::burst::{Stage, Staged, departure, send};
use crate::context::{Now, Shared};
use crate::judge;
use crate::mirror::{MirrorSink, count_lost};
use crate::policer::Charge;
use crate::rewrite::{IpVersion, L3};

/// What is left to do for a packet that is within its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Due {
    mark: Option<u8>,
    /// A copy is due.
    mirror: Option<Mirror>,
}

impl Due {
    /// The DSCP to write into a packet of this direction: only the opener's are what the rule matched.
    pub fn mark_for(self, direction: Direction) -> Option<u8> {
        self.mark.filter(|_| direction == Direction::Forward)
    }
}

/// Charges a packet of `flow` that leaves, `len` bytes as it came in.
fn charge<F: IpVersion>(
    shared: &mut Shared,
    generation: &Generation,
    now: Now,
    flow: &Flow<F::Pair>,
    (len, bucket): (usize, Option<SourceKey>),
) -> Result<Due, DropReason> {
    let Treatment {
        mark,
        mirror,
        limit,
        ..
    } = judge::treatment(generation, flow.treatment);
    let known = limit.and_then(|id| Some((id, generation.limits.get(usize::from(id))?)));
    if let Some(limit) = known {
        let (source, _) = F::addresses(flow.key(Direction::Forward).addresses);
        let charge = Charge {
            source,
            service: flow.service,
            len,
            bucket,
        };
        let Shared {
            policers, sources, ..
        } = shared;
        if !policers.admit(sources, limit, &charge, now) {
            return Err(DropReason::RateLimited);
        }
    }
    let mirror = mirror.filter(|mirror| {
        let admitted = shared
            .mirrors
            .admit(generation, flow.treatment, *mirror, now);
        count_lost(&shared.counters, mirror.port, !admitted);
        admitted
    });
    Ok(Due { mark, mirror })
}

/// Charges a packet of the slow path and keeps a copy of it, which is sent if the packet then is.
pub(crate) fn treat<F: IpVersion>(
    shared: &mut Shared,
    generation: &Generation,
    now: Now,
    flow: &Flow<F::Pair>,
    bytes: &[u8],
) -> Result<Due, DropReason> {
    let due = charge::<F>(shared, generation, now, flow, (bytes.len(), None))?;
    if let Some(mirror) = due.mirror {
        shared.mirrors.keep(mirror, bytes);
    }
    Ok(due)
}

/// What treated flows' packets are sent through after the hot path has left them.
pub(crate) struct Treated<'a, F: IpVersion, S> {
    pub stage: &'a Stage<F::Pair>,
    pub flows: &'a mut FlowTable<F::Pair>,
    pub shared: &'a mut Shared,
    pub generation: &'a Generation,
    pub now: Now,
    pub sink: &'a mut S,
}

impl<F: IpVersion, S: MirrorSink> Treated<'_, F, S> {
    /// Sends the packets of `left` (a bit for each frame) that only wait for their treatment; returns what is left then.
    #[inline(never)]
    pub fn forward<B: Buffer>(
        &mut self,
        mut left: u64,
        frames: &mut [B],
        verdicts: &mut [Verdict],
    ) -> u64 {
        let stage = self.stage;
        let mut buckets = [None; BURST];
        let by_source = |limit: &Limit| matches!(limit.scope, LimitScope::Source { .. });
        let is_fetching = self.generation.limits.iter().any(by_source);
        for packet in stage.packets().iter().filter(|_| is_fetching) {
            if left >> packet.frame & 1 == 1
                && let Some(bucket) = buckets.get_mut(usize::from(packet.frame))
            {
                *bucket = self.bucket(packet);
            }
        }
        for packet in stage.packets() {
            if left >> packet.frame & 1 == 0 {
                continue;
            }
            let index = usize::from(packet.frame);
            let (Some(frame), Some(verdict)) = (frames.get_mut(index), verdicts.get_mut(index))
            else {
                continue;
            };
            let bucket = buckets.get(index).copied().flatten();
            if let Some(done) = self.one(packet, frame.bytes_mut(), bucket) {
                *verdict = done;
                left &= !(1 << packet.frame);
            }
        }
        left
    }

    /// Fetches the bucket of the source that a packet's limit counts: with many sources it is far away.
    fn bucket(&self, packet: &Staged<F::Pair>) -> Option<SourceKey> {
        let handle = self
            .flows
            .verify(packet.candidate, packet.hash, &packet.key)?;
        let flow = self.flows.flow(handle.index);
        let id = judge::treatment(self.generation, flow.treatment).limit?;
        let limit = self.generation.limits.get(usize::from(id))?;
        let LimitScope::Source { .. } = limit.scope else {
            return None;
        };
        let (source, _) = F::addresses(flow.key(Direction::Forward).addresses);
        let key = self.shared.sources.key(id, limit.scope, source);
        self.shared.sources.prefetch(key);
        Some(key)
    }

    /// `None` for anything that needs a second thought.
    fn one(
        &mut self,
        packet: &Staged<F::Pair>,
        bytes: &mut [u8],
        bucket: Option<SourceKey>,
    ) -> Option<Verdict> {
        let FlowHandle { index, direction } =
            self.flows
                .verify(packet.candidate, packet.hash, &packet.key)?;
        let flow = self.flows.flow_mut(index);
        let steady = matches!(flow.state, FlowState::Established | FlowState::Datagram)
            && packet.flags & march_flow::tcp::TRANSITION_FLAGS == 0
            && flow.epoch == self.generation.epoch
            && flow.treatment != NONE;
        if !steady {
            return None;
        }
        let adjacency = departure(flow, direction, packet.ip_len, self.generation)?;
        let (generation, now) = (self.generation, self.now);
        let due = match charge::<F>(self.shared, generation, now, flow, (bytes.len(), bucket)) {
            Ok(due) => due,
            Err(reason) => return Some(Verdict::Drop(reason)),
        };
        if let Some(mirror) = due.mirror {
            let sent = self.sink.copy(mirror.port, bytes);
            count_lost(&self.shared.counters, mirror.port, !sent);
        }
        let counters = &self.shared.counters;
        let port = send::<F>(
            packet, flow, direction, adjacency, counters, self.now, bytes,
        )?;
        if let Some(dscp) = due.mark_for(direction) {
            let marked = F::mark(bytes, L3, dscp);
            debug_assert!(marked, "a recognised packet is as long as its headers");
        }
        Some(Verdict::Forward { port })
    }
}
