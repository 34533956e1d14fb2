//! The pipeline: both families, the burst, and what the lcore calls between bursts.

use std::sync::Arc;

use march_flow::Key;
use march_tables::{Generation, PartialChecksums, PortGuard, PortId, PortTable};
use march_wire::{Buffer, DropReason, Family, IpPacket, Packet, Verdict, fast};

use crate::BURST;
use crate::burst::{Staged, forward};
use crate::context::{Context, Now, ResolveRequest, Shared};
use crate::counters::Counters;
use crate::guard::{
    Admission, Claim, PuntShare, Screened, Sources, claim_of, screen_staged, screen_unrecognised,
};
use crate::limit::Answers;
use crate::mirror::{MirrorSink, Mirrors};
use crate::nat::Turns;
use crate::policer::Policers;
use crate::rewrite::{IpVersion, V4, V6, udp_mask};
use crate::side::Side;
use crate::treat::Treated;

/// What a pipeline is built with.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// IPv4 flows that fit: about 95 bytes each.
    pub flows4: usize,
    /// IPv6 flows that fit: about 160 bytes each.
    pub flows6: usize,
    /// Sources whose rates are followed at once: 32 to 64 bytes each. Beyond it those nearest to their full allowance are forgotten.
    pub sources: usize,
    /// Secret of the flow hash; draw it from the system's random source.
    pub seed: (u64, u64),
}

/// The packet path of one lcore.
pub struct Pipeline {
    v4: Side<V4>,
    v6: Side<V6>,
    shared: Shared,
    /// When the sweep last ran, and the fraction of an entry that it still owes: settled flows of both families, then embryonic.
    swept_ms: u32,
    owed: [u64; 4],
    /// Frames of the last burst that have a right to pass if they are the kernel's, a bit each.
    with_right: u64,
}

/// One whole round of the sweep takes this long: what a timeout may be late by.
const SWEEP_ROUND_MS: u64 = 2_000;

/// Entries looked at in one call at most, so that a late sweep does not delay a burst.
const SWEEP_BUDGET: usize = 256;

impl Pipeline {
    /// Allocates everything. Call it on the lcore's own pinned thread: flow memory then comes from its NUMA node.
    pub fn new(settings: Settings, counters: Arc<Counters>) -> std::io::Result<Self> {
        Ok(Self {
            v4: Side::new(settings.flows4, settings.seed)?,
            v6: Side::new(settings.flows6, (settings.seed.1, settings.seed.0))?,
            shared: Shared {
                counters,
                cursors: vec![0; usize::from(u16::MAX)].into(),
                resolve: Vec::with_capacity(BURST),
                answers: Answers::default(),
                mirrors: Mirrors::new(),
                policers: Policers::new(settings.seed)?,
                sources: Sources::new(settings.sources, settings.seed)?,
                admission: Admission::new(),
                punts: PuntShare::new(),
                turns: Turns::new(settings.seed),
            },
            swept_ms: 0,
            owed: [0; 4],
            with_right: 0,
        })
    }

    /// What this pipeline counts.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.shared.counters
    }

    /// Live flows: IPv4, IPv6.
    pub fn flows(&self) -> [usize; 2] {
        [self.v4.flows.len(), self.v6.flows.len()]
    }

    /// Flows that fit: IPv4, IPv6.
    pub fn capacity(&self) -> [usize; 2] {
        [self.v4.flows.capacity(), self.v6.flows.capacity()]
    }

    /// Bytes of the flow tables.
    pub fn memory_bytes(&self) -> usize {
        self.v4.flows.memory_bytes() + self.v6.flows.memory_bytes()
    }

    /// Decides about up to [`BURST`] frames that came in on `ingress`, rewriting those that go on. `verdicts[i]` is about
    /// `frames[i]`; both have the same length. `sink` gets the copies that rules ask for.
    pub fn process<B: Buffer, S: MirrorSink>(
        &mut self,
        generation: &Generation,
        now: Now,
        ingress: PortId,
        frames: &mut [B],
        verdicts: &mut [Verdict],
        sink: &mut S,
    ) {
        assert!(
            frames.len() <= BURST && frames.len() == verdicts.len(),
            "a burst is at most {BURST} frames"
        );
        let Some(port) = generation.port(ingress) else {
            // The port left the configuration while frames were on their way.
            verdicts.fill(Verdict::Drop(DropReason::NoService));
            return;
        };
        if port.partial_checksums == PartialChecksums::Possible {
            self.complete_checksums(ingress, frames);
        }
        let mut left = Left {
            other: self.stage(port, frames),
            v4: 0,
            v6: 0,
        };
        self.with_right = 0;
        if let Some(guard) = generation.guard(ingress) {
            let screened = self.screen(guard, port, left.other, now, frames, verdicts);
            left.other &= !screened.dropped;
            self.with_right = screened.allowed;
        }
        let has_treatments = !generation.treatments.is_empty();
        if !self.v4.stage.packets().is_empty() {
            self.v4.stage.probe(self.v4.flows.settled());
            left.v4 = forward::<V4, B>(
                &self.v4.stage,
                self.v4.flows.settled_mut(),
                generation,
                &self.shared.counters,
                now,
                frames,
                verdicts,
            );
            if left.v4 != 0 && has_treatments {
                left.v4 = Treated::<V4, S> {
                    stage: &self.v4.stage,
                    flows: self.v4.flows.settled_mut(),
                    shared: &mut self.shared,
                    generation,
                    now,
                    sink,
                }
                .forward(left.v4, frames, verdicts);
            }
        }
        if !self.v6.stage.packets().is_empty() {
            self.v6.stage.probe(self.v6.flows.settled());
            left.v6 = forward::<V6, B>(
                &self.v6.stage,
                self.v6.flows.settled_mut(),
                generation,
                &self.shared.counters,
                now,
                frames,
                verdicts,
            );
            if left.v6 != 0 && has_treatments {
                left.v6 = Treated::<V6, S> {
                    stage: &self.v6.stage,
                    flows: self.v6.flows.settled_mut(),
                    shared: &mut self.shared,
                    generation,
                    now,
                    sink,
                }
                .forward(left.v6, frames, verdicts);
            }
        }
        if left.all() != 0 {
            let context = Context {
                generation,
                ingress,
                port,
                now,
            };
            self.process_slow(&context, left, frames, verdicts, sink);
        }
    }

    /// First stage: sorts frames into the two families' stages; returns a bit for each that neither recognised.
    #[inline]
    fn stage<B: Buffer>(&mut self, port: &PortTable, frames: &[B]) -> u64 {
        const MAC_MASK: u64 = 0x0000_ffff_ffff_ffff;
        let [a, b, c, d, e, f] = port.mac;
        let own = u64::from_le_bytes([a, b, c, d, e, f, 0, 0]);
        self.v4.stage.clear();
        self.v6.stage.clear();
        let mut slow = 0u64;
        for (index, frame) in (0u8..).zip(frames) {
            if let Some(next) = frames.get(usize::from(index) + 4) {
                next.prefetch();
            }
            let bytes = frame.bytes();
            let to_us = bytes
                .first_chunk::<8>()
                .is_some_and(|head| u64::from_le_bytes(*head) & MAC_MASK == own);
            if !to_us {
                slow |= 1 << index;
            } else if let Some(packet) = fast::v4(bytes) {
                let key = Key {
                    addresses: march_flow::Ipv4Pair(packet.addresses),
                    ports: packet.ports,
                    protocol: packet.protocol,
                };
                self.v4.stage.push(
                    self.v4.flows.settled(),
                    staged(key, u32::from(packet.ip_len), packet.tcp_flags, index),
                );
            } else if let Some(packet) = fast::v6(bytes) {
                let ([a, b], [c, d]) = (packet.src, packet.dst);
                let key = Key {
                    addresses: march_flow::Ipv6Pair([a, b, c, d]),
                    ports: packet.ports,
                    protocol: packet.protocol,
                };
                self.v6.stage.push(
                    self.v6.flows.settled(),
                    staged(key, packet.ip_len, packet.tcp_flags, index),
                );
            } else {
                slow |= 1 << index;
            }
        }
        slow
    }

    /// Everything that the fast path left, in the order in which it came.
    #[cold]
    #[inline(never)]
    fn process_slow<B: Buffer, S: MirrorSink>(
        &mut self,
        context: &Context<'_>,
        left: Left,
        frames: &mut [B],
        verdicts: &mut [Verdict],
        sink: &mut S,
    ) {
        if left.v4 & left.v4.wrapping_sub(1) != 0 {
            self.v4
                .look_ahead(&mut self.shared, context, left.v4, frames);
        }
        if left.v6 & left.v6.wrapping_sub(1) != 0 {
            self.v6
                .look_ahead(&mut self.shared, context, left.v6, frames);
        }
        let mut bits = left.all();
        while bits != 0 {
            let index = bits.trailing_zeros() as usize;
            bits &= bits - 1;
            let (Some(frame), Some(verdict)) = (frames.get_mut(index), verdicts.get_mut(index))
            else {
                continue;
            };
            let parsed = if left.v4 >> index & 1 == 1 {
                recognised(V4::recognised(frame.bytes()), frame)
            } else if left.v6 >> index & 1 == 1 {
                recognised(V6::recognised(frame.bytes()), frame)
            } else {
                march_wire::parse(frame.bytes())
            };
            *verdict = match parsed {
                Ok(packet) => match self.slow(context, frame, &packet, index) {
                    Verdict::Punt => self.punt(context.now, &packet, index),
                    verdict => verdict,
                },
                Err(reason) => Verdict::Drop(reason),
            };
            if matches!(verdict, Verdict::Forward { .. }) {
                self.shared.mirrors.send(sink, &self.shared.counters);
            } else {
                self.shared.mirrors.forget();
            }
        }
    }

    fn slow<B: Buffer>(
        &mut self,
        context: &Context<'_>,
        frame: &mut B,
        packet: &Packet,
        index: usize,
    ) -> Verdict {
        match packet {
            Packet::Arp(link) => crate::slow::arp(context, frame, link),
            Packet::Other(_) => crate::slow::other(context, frame),
            Packet::Ip(packet) => match packet.family {
                Family::V4 => {
                    let ahead = self.v4.ahead.get_mut(index).and_then(Option::take);
                    self.v4
                        .packet(&mut self.shared, context, frame, packet, ahead)
                }
                Family::V6 => {
                    let ahead = self.v6.ahead.get_mut(index).and_then(Option::take);
                    self.v6
                        .packet(&mut self.shared, context, frame, packet, ahead)
                }
            },
        }
    }

    /// The guard of the port that the burst came in on.
    #[inline(never)]
    fn screen<B: Buffer>(
        &mut self,
        guard: &PortGuard,
        port: &PortTable,
        unrecognised: u64,
        now: Now,
        frames: &[B],
        verdicts: &mut [Verdict],
    ) -> Screened {
        let sources = &mut self.shared.sources;
        let mut screened =
            screen_staged::<V4, B>(guard, &mut self.v4.stage, sources, now, frames, verdicts);
        screened |=
            screen_staged::<V6, B>(guard, &mut self.v6.stage, sources, now, frames, verdicts);
        if unrecognised != 0 {
            let mac = port.mac;
            screened |=
                screen_unrecognised(guard, mac, unrecognised, sources, now, frames, verdicts);
        }
        screened
    }

    /// A frame for the kernel: of strangers' there may be too many.
    fn punt(&mut self, now: Now, packet: &Packet, index: usize) -> Verdict {
        let bit = 1 << index;
        let claim = claim_of(packet);
        if claim == Claim::Right {
            self.with_right |= bit;
        }
        let is_bound = claim == Claim::Stranger && self.with_right & bit == 0;
        if !is_bound || self.shared.punts.take(now) {
            Verdict::Punt
        } else {
            Verdict::Drop(DropReason::PuntRate)
        }
    }

    /// Whether a punted frame of the last burst may have the part of the ring to the kernel that is kept for links, their
    /// neighbours and allowed sources.
    #[inline]
    pub fn has_right_to_pass(&self, index: usize) -> bool {
        self.with_right >> (index % BURST) & 1 == 1
    }

    /// Frames of a local peer may carry checksums that its hardware was to finish.
    #[cold]
    #[inline(never)]
    fn complete_checksums<B: Buffer>(&mut self, ingress: PortId, frames: &mut [B]) {
        let mut completed = 0;
        for frame in frames {
            if let Ok(Packet::Ip(packet)) = march_wire::parse(frame.bytes()) {
                completed += u64::from(
                    march_wire::checksum::complete_partial(frame.bytes_mut(), &packet).is_some(),
                );
            }
        }
        if completed > 0
            && let Some(port) = self.shared.counters.ports.get(usize::from(ingress))
        {
            port.checksums_completed.add(completed);
        }
    }

    /// Removes flows whose time is over, a few entries per call: one whole round takes two seconds. Call it once per
    /// loop, with frames or without.
    pub fn expire(&mut self, generation: &Generation, now: Now) {
        let elapsed_ms = u64::from(now.ms.wrapping_sub(self.swept_ms));
        if elapsed_ms > 0 {
            self.swept_ms = now.ms;
            let (v4, v6) = (&self.v4.flows, &self.v6.flows);
            let capacities = [
                v4.capacity(),
                v6.capacity(),
                v4.embryonic().capacity(),
                v6.embryonic().capacity(),
            ];
            for (owed, capacity) in self.owed.iter_mut().zip(capacities) {
                let round = capacity as u64 * SWEEP_ROUND_MS;
                *owed = (*owed + elapsed_ms * capacity as u64).min(round);
            }
            let counters = &self.shared.counters;
            self.v4.watch(counters);
            self.v6.watch(counters);
            let table = self.shared.sources.table();
            counters.sources.tracked.set(table.tracked() as u64);
            counters.sources.capacity.set(table.capacity() as u64);
            counters.sources.evicted.set(table.evicted());
        }
        let [settled4, settled6, embryonic4, embryonic6] =
            [0, 1, 2, 3].map(|index| self.budget(index));
        let counters = &self.shared.counters;
        self.v4
            .expire([settled4, embryonic4], generation, counters, now);
        self.v6
            .expire([settled6, embryonic6], generation, counters, now);
    }

    /// How many entries the sweep owes now, at most [`SWEEP_BUDGET`] at once.
    fn budget(&mut self, index: usize) -> usize {
        let Some(owed) = self.owed.get_mut(index) else {
            return 0;
        };
        let entries = (*owed / SWEEP_ROUND_MS).min(SWEEP_BUDGET as u64);
        *owed -= entries * SWEEP_ROUND_MS;
        usize::try_from(entries).unwrap_or(SWEEP_BUDGET)
    }

    /// Next hops that frames wait for, since the last call. Never more than fit without allocating.
    pub fn take_requests(&mut self) -> impl Iterator<Item = ResolveRequest> + '_ {
        self.shared.resolve.drain(..)
    }
}

/// Frames that the fast path left, a bit each: recognised by the parse stage of a family, or by neither.
#[derive(Clone, Copy)]
struct Left {
    other: u64,
    v4: u64,
    v6: u64,
}

impl Left {
    #[inline]
    fn all(self) -> u64 {
        self.other | self.v4 | self.v6
    }
}

/// A packet that the parse stage recognised needs no second check.
fn recognised<B: Buffer>(packet: Option<IpPacket>, frame: &B) -> Result<Packet, DropReason> {
    let packet = packet.map(Packet::Ip).ok_or(DropReason::Runt);
    debug_assert_eq!(
        packet,
        march_wire::parse(frame.bytes()),
        "both parsers say the same"
    );
    packet
}

#[inline]
fn staged<P: Default>(key: Key<P>, ip_len: u32, flags: u8, frame: u8) -> Staged<P> {
    let udp_mask = udp_mask(key.protocol);
    Staged {
        key,
        udp_mask,
        ip_len,
        flags,
        frame,
        hash: 0,
        candidate: march_flow::Candidate::MISS,
    }
}

#[cfg(test)]
mod tests;
