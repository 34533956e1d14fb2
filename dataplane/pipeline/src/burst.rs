//! The hot path: what an established flow's packet goes through, in stages over the whole burst.

use march_flow::{AddressPair, Candidate, Direction, Flow, FlowHandle, FlowState, FlowTable, Key};
use march_tables::{Adjacency, AdjacencyState, Generation, PortId};
use march_wire::{Buffer, Verdict};

use crate::BURST;
use crate::context::Now;
use crate::counters::Counters;
use crate::rewrite::{Change, IpVersion, rewrite_l4};

/// One recognised packet between two stages.
#[derive(Clone, Copy, Default)]
pub(crate) struct Staged<P> {
    pub key: Key<P>,
    pub hash: u64,
    pub candidate: Candidate,
    /// All ones for UDP, zero for TCP: see [`crate::rewrite::udp_mask`].
    pub udp_mask: u32,
    /// Length of the IP packet.
    pub ip_len: u32,
    /// TCP flags, 0 for UDP.
    pub flags: u8,
    /// Index of the frame in the burst.
    pub frame: u8,
}

/// The recognised packets of one family in one burst.
pub(crate) struct Stage<P> {
    packets: Box<[Staged<P>; BURST]>,
    count: usize,
}

impl<P: AddressPair> Stage<P> {
    pub fn new() -> Self {
        Self {
            packets: Box::new([Staged::default(); BURST]),
            count: 0,
        }
    }

    #[inline]
    pub fn clear(&mut self) {
        self.count = 0;
    }

    /// First stage: remembers a packet, hashes it and fetches its bucket.
    #[inline]
    pub fn push(&mut self, flows: &FlowTable<P>, mut packet: Staged<P>) {
        packet.hash = flows.hash(&packet.key);
        flows.prefetch(packet.hash);
        if let Some(slot) = self.packets.get_mut(self.count) {
            *slot = packet;
            self.count += 1;
        }
    }

    /// Second stage: looks into the buckets and fetches the flows.
    #[inline]
    pub fn probe(&mut self, flows: &FlowTable<P>) {
        for packet in self.packets.iter_mut().take(self.count) {
            packet.candidate = flows.probe(packet.hash);
        }
    }

    /// Forgets the packets of all frames that have no bit in `kept`.
    pub fn keep(&mut self, kept: u64) {
        let mut count = 0;
        for at in 0..self.count {
            let Some(packet) = self.packets.get(at).copied() else {
                break;
            };
            if kept >> packet.frame & 1 == 1
                && let Some(place) = self.packets.get_mut(count)
            {
                *place = packet;
                count += 1;
            }
        }
        self.count = count;
    }

    pub fn packets(&self) -> &[Staged<P>] {
        self.packets.get(..self.count).unwrap_or_default()
    }
}

/// Third stage: rewrites every packet whose flow says all there is to know; returns a bit for each frame that the slow
/// path has to look at.
#[inline]
pub(crate) fn forward<F: IpVersion, B: Buffer>(
    stage: &Stage<F::Pair>,
    flows: &mut FlowTable<F::Pair>,
    generation: &Generation,
    counters: &Counters,
    now: Now,
    frames: &mut [B],
    verdicts: &mut [Verdict],
) -> u64 {
    let mut slow = 0u64;
    for packet in stage.packets() {
        let index = usize::from(packet.frame);
        let (Some(frame), Some(verdict)) = (frames.get_mut(index), verdicts.get_mut(index)) else {
            continue;
        };
        match forward_one::<F>(packet, flows, generation, counters, now, frame.bytes_mut()) {
            Some(port) => *verdict = Verdict::Forward { port },
            None => slow |= 1 << packet.frame,
        }
    }
    slow
}

/// `None` for anything that needs a second thought: no flow, a handshake, another epoch, a treatment, a backend that is leaving,
/// a next hop that is not resolved, a packet too big.
#[inline(always)]
fn forward_one<F: IpVersion>(
    packet: &Staged<F::Pair>,
    flows: &mut FlowTable<F::Pair>,
    generation: &Generation,
    counters: &Counters,
    now: Now,
    bytes: &mut [u8],
) -> Option<PortId> {
    let FlowHandle { index, direction } =
        flows.verify(packet.candidate, packet.hash, &packet.key)?;
    let flow = flows.flow_mut(index);
    let steady = matches!(flow.state, FlowState::Established | FlowState::Datagram)
        & (packet.flags & march_flow::tcp::TRANSITION_FLAGS == 0)
        & flow.is_plain_under(generation.epoch);
    if !steady {
        return None;
    }
    let adjacency = departure(flow, direction, packet.ip_len, generation)?;
    send::<F>(packet, flow, direction, adjacency, counters, now, bytes)
}

/// The next hop of a packet of an up-to-date flow, if the packet can leave at once.
#[inline(always)]
pub(crate) fn departure<'a, P: AddressPair>(
    flow: &Flow<P>,
    direction: Direction,
    ip_len: u32,
    generation: &'a Generation,
) -> Option<&'a Adjacency> {
    let mut next_hop = flow.next_hop;
    if let Some(backend) = generation.backends.get(usize::from(flow.backend)) {
        if !backend.state.keeps_flows() {
            return None;
        }
        next_hop[0] = backend.adjacency;
    }
    let id = next_hop[direction.index()];
    let adjacency = generation.adjacencies.get(usize::from(id))?;
    let can_leave =
        adjacency.state == AdjacencyState::Resolved && ip_len <= u32::from(adjacency.mtu);
    can_leave.then_some(adjacency)
}

/// Rewrites and counts. A recognised packet is as long as its headers: nothing here fails half-way.
#[inline(always)]
pub(crate) fn send<F: IpVersion>(
    packet: &Staged<F::Pair>,
    flow: &mut Flow<F::Pair>,
    direction: Direction,
    adjacency: &Adjacency,
    counters: &Counters,
    now: Now,
    bytes: &mut [u8],
) -> Option<PortId> {
    let change = Change::of(flow, direction);
    if !rewrite_l4(bytes, F::L4, packet.udp_mask, &change)
        || !F::rewrite_ip(bytes, crate::rewrite::L3, &change)
    {
        return None;
    }
    bytes.get_mut(..12)?.copy_from_slice(&adjacency.rewrite);

    let side = direction.index();
    let len = bytes.len();
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a frame is shorter than 64 KiB and some"
    )]
    flow.count(direction, len as u32, now.ms);
    if let Some(service) = counters.services.get(usize::from(flow.service)) {
        service.count(side, len as u64);
    }
    if let Some(backend) = counters.backends.get(usize::from(flow.backend)) {
        backend.count(side, len as u64);
    }
    Some(adjacency.port)
}
