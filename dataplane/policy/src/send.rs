//! Sending a packet on as its flow says.

use core::net::IpAddr;

use march_tables::{Redirect, SourceNat};
use march_wire::{DropReason, Verdict};

use crate::answer::Problem;
use crate::decide::{Step, Walk};
use crate::decision::{BackendUse, Counter, Hop, Translated};
use crate::facts::Facts;
use crate::flows::{Direction, Flow, Way};
use crate::rewrite::rewrite;

impl Walk<'_> {
    /// One packet of a flow. Nothing is remembered but what limits count: the caller does that once it went.
    pub(crate) fn send(
        &mut self,
        facts: &Facts,
        flow: &Flow,
        direction: Direction,
    ) -> Step<Verdict> {
        if facts.packet.ttl <= 1 {
            return Err(self.answer_error(facts, Problem::TimeExceeded, DropReason::TtlExpired));
        }
        let hop = self.hop_of(flow, direction)?;
        let mtu = self.policy.port(hop.port).map_or(0, |port| port.mtu);
        if facts.packet.ip_len() > usize::from(mtu) {
            return Err(self.answer_error(facts, Problem::TooBig(mtu), DropReason::TooBig));
        }
        if let Some(limit) = flow.treatment.limit {
            self.charge(
                limit,
                flow.forward.src,
                flow.service(),
                DropReason::RateLimited,
            )?;
        }
        if let Some(mirror) = flow.treatment.mirror {
            self.mirror(flow.treatment, mirror);
        }
        let (before, after) = (flow.incoming(direction), flow.outgoing(direction));
        // Only packets of the direction that the rule matched are marked.
        let mark = flow
            .treatment
            .mark
            .filter(|_| direction == Direction::Forward);
        rewrite(&mut self.told.frame, &facts.packet, before, after, mark);
        self.put_macs(&hop);
        self.told.marked = mark;
        self.told.translated = Some(Translated {
            before,
            after,
            source_nat: source_nat(flow),
        });
        self.tell_backend(flow);
        self.count_traffic(flow, direction);
        Ok(Verdict::Forward { port: hop.port })
    }

    /// Where packets of a direction go next.
    pub(crate) fn hop_of(&mut self, flow: &Flow, direction: Direction) -> Step<Hop> {
        let destination: IpAddr = flow.outgoing(direction).dst;
        match (flow.way, direction) {
            (
                Way::Transit {
                    redirect: Some(Redirect::Port(port)),
                    ..
                },
                Direction::Forward,
            ) => self.hop_on(port, destination),
            _ => self.hop_to(destination),
        }
    }

    pub(crate) fn put_macs(&mut self, hop: &Hop) {
        let own = self
            .policy
            .port(hop.port)
            .map(|port| port.mac)
            .unwrap_or_default();
        let macs = [hop.mac.unwrap_or_default(), own].concat();
        self.told.frame[..12].copy_from_slice(&macs);
    }

    fn tell_backend(&mut self, flow: &Flow) {
        let backend = flow.backend().and_then(|slot| self.policy.backend(slot));
        if let Some(backend) = backend {
            self.told.backend = Some(BackendUse {
                slot: backend.slot,
                address: flow.reverse.src,
                port: flow.reverse.src_port,
                state: backend.state,
            });
        }
    }

    fn count_traffic(&mut self, flow: &Flow, direction: Direction) {
        let Way::Service {
            service, backend, ..
        } = flow.way
        else {
            return;
        };
        let side = direction.index();
        let bytes = i64::try_from(self.told.frame.len()).unwrap_or(i64::MAX);
        self.move_counter(Counter::ServicePackets(service, side), 1);
        self.move_counter(Counter::ServiceBytes(service, side), bytes);
        self.move_counter(Counter::BackendPackets(backend, side), 1);
        self.move_counter(Counter::BackendBytes(backend, side), bytes);
    }
}

/// Whether the source that leaves is one of ours.
fn source_nat(flow: &Flow) -> SourceNat {
    if flow.reverse.dst == flow.forward.src && flow.reverse.dst_port == flow.forward.src_port {
        SourceNat::Keep
    } else {
        SourceNat::Masquerade
    }
}
