//! First packets, decided about before any of them is carried out.

use march_flow::Flows;
use march_tables::{AddressKind, Subject};
use march_wire::{Buffer, IpPacket, ip};

use crate::BURST;
use crate::context::{Context, Shared};
use crate::first::{Refusal, Turn, refuse_martian, refuse_unroutable};
use crate::judge;
use crate::rewrite::IpVersion;
use crate::side::Side;
use crate::slow::Transit;

/// First packets of a burst, gathered to ask rules about all at once. Room for a burst; empty between calls.
pub(crate) struct Asked<F: IpVersion> {
    firsts: Vec<First>,
    subjects: Vec<Subject<F::Address>>,
}

/// One of them.
struct First {
    /// Its place in the burst.
    frame: usize,
    packet: IpPacket,
    kind: AddressKind,
}

impl<F: IpVersion> Asked<F> {
    /// Allocates the room.
    pub fn new() -> Self {
        Self {
            firsts: Vec::with_capacity(BURST),
            subjects: Vec::with_capacity(BURST),
        }
    }
}

impl<F: IpVersion> Default for Asked<F> {
    /// Without room: what stands in while the other is in use.
    fn default() -> Self {
        Self {
            firsts: Vec::new(),
            subjects: Vec::new(),
        }
    }
}

impl<F: IpVersion> Side<F> {
    /// Decides about first packets before any of them is carried out, so that rules are asked about all of them at once and the
    /// cache misses of their flows overlap. `mask` has a bit for each recognised frame that has no flow to go on with.
    pub fn look_ahead<B: Buffer>(
        &mut self,
        shared: &mut Shared,
        context: &Context<'_>,
        mask: u64,
        frames: &[B],
    ) {
        self.fetch_handshakes(mask);
        let mut asked = core::mem::take(&mut self.asked);
        self.gather(&mut asked, context, mask, frames);
        let mut matches = [None; BURST];
        let matches = &mut matches[..asked.subjects.len()];
        let rules = &context.generation.rules;
        rules.classify_burst(&asked.subjects, matches);
        let mut found = 0;
        for ((first, subject), matched) in asked.firsts.iter().zip(&asked.subjects).zip(matches) {
            let transit = Transit::<F> {
                packet: &first.packet,
                src: subject.tuple.src,
                dst: subject.tuple.dst,
                kind: first.kind,
            };
            let judged = judge::told(
                context.generation,
                subject.ingress,
                transit.bound(),
                *matched,
            );
            let ahead = Self::foresee(shared, context, &transit, judged, Turn::Ahead);
            if matches!(ahead.outcome, Err(Refusal::Later)) {
                continue;
            }
            if let Ok(prospect) = &ahead.outcome {
                self.flows.prefetch(&prospect.reverse);
                self.flows.prefetch_free(found, prospect.state);
                found += 1;
            }
            if let Some(place) = self.ahead.get_mut(first.frame) {
                *place = Some(ahead);
            }
        }
        self.asked = asked;
    }

    /// Fetches what the packets of handshakes under way will touch: the small table is not looked into before.
    fn fetch_handshakes(&self, mask: u64) {
        let left = || {
            let packets = self.stage.packets().iter();
            packets.filter(|packet| mask >> packet.frame & 1 == 1 && packet.key.protocol == ip::TCP)
        };
        for packet in left() {
            self.flows.prefetch_embryonic(packet.hash);
        }
        for packet in left() {
            self.flows.probe_embryonic(packet.hash);
        }
    }

    /// The packets of a burst that rules are to be asked about.
    fn gather<B: Buffer>(
        &self,
        asked: &mut Asked<F>,
        context: &Context<'_>,
        mut mask: u64,
        frames: &[B],
    ) {
        asked.firsts.clear();
        asked.subjects.clear();
        let mut moving = 0;
        while mask != 0 {
            let index = mask.trailing_zeros() as usize;
            mask &= mask - 1;
            let Some(frame) = frames.get(index) else {
                continue;
            };
            let Some(packet) = F::recognised(frame.bytes()) else {
                continue;
            };
            let Some((src, dst)) = packet.addresses::<F::Address, _>(frame.bytes()) else {
                continue;
            };
            let kind = context.generation.local.kind(dst);
            let transit = Transit::<F> {
                packet: &packet,
                src,
                dst,
                kind,
            };
            let may_open = matches!(kind, AddressKind::Vip | AddressKind::NotLocal)
                && refuse_martian(context, src).is_ok()
                && (kind == AddressKind::Vip || refuse_unroutable(&transit).is_ok());
            if !may_open {
                continue;
            }
            match self.flows.find(&transit.key()) {
                Some(handle) if Flows::<F::Pair>::is_embryonic(handle.index) => {
                    self.flows.prefetch_promotion(handle.index, moving);
                    moving += 1;
                }
                Some(_) => {}
                None => {
                    asked.subjects.push(transit.subject(context.ingress));
                    asked.firsts.push(First {
                        frame: index,
                        packet,
                        kind,
                    });
                }
            }
        }
    }
}
