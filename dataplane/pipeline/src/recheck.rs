//! Flows that were judged or routed before something changed.
//!
//! The flow's epoch says of when it is. If only routes changed since, its next hops are looked for again and nobody is asked. If
//! the policy did, the rules and services of now judge it as they would judge its opening packet. Where it goes is kept: a flow
//! that would now go elsewhere, or leave with another source, ends, and its next packet opens anew.

use march_flow::{Direction, FlowState};
use march_tables::{AddressKind, NONE, Redirect, ServiceId, SourceNat, Subject, TreatmentId};
use march_wire::parse::Fragment;
use march_wire::tuple::{Address, FiveTuple};
use march_wire::{DropReason, Family, Verdict, ip};

use crate::context::{Context, Shared};
use crate::judge::{self, Bound, Judgement};
use crate::rewrite::IpVersion;
use crate::side::{Side, end_handshake};
use crate::slow::{Step, port_numbers};

/// Type and code of an echo request.
const ECHO: (u8, u8) = (8, 0);
const ECHO_V6: (u8, u8) = (128, 0);

impl<F: IpVersion> Side<F> {
    /// Brings a flow up to date, or ends it.
    pub fn renew(&mut self, shared: &Shared, context: &Context<'_>, index: u32) -> Step<()> {
        let flow = self.flows.flow_mut(index);
        if flow.epoch == context.generation.epoch {
            return Ok(());
        }
        if !context.generation.is_judged(flow.epoch) {
            return self.recheck(shared, context, index);
        }
        flow.next_hop = [NONE; 2];
        flow.epoch = context.generation.epoch;
        Ok(())
    }

    /// The policy changed: judges the flow again.
    fn recheck(&mut self, shared: &Shared, context: &Context<'_>, index: u32) -> Step<()> {
        shared.counters.flows.rechecked.add(1);
        let subject = self.subject(index);
        let kind = context.generation.local.kind(subject.tuple.dst);
        let judgement = match kind {
            AddressKind::Vip => Some(Bound::Service),
            AddressKind::NotLocal => Some(Bound::Transit),
            AddressKind::Kernel | AddressKind::KernelNat | AddressKind::Nat => None,
        }
        .map(|bound| {
            let (judgement, rule) = judge::ask(context.generation, &subject, bound);
            judge::count(&shared.counters, rule);
            (judgement, bound)
        });
        let kept = judgement.and_then(|(judgement, bound)| {
            self.kept(context, index, &subject.tuple, judgement, bound)
        });
        let Some((service, treatment)) = kept else {
            self.remove(index, &shared.counters);
            return Err(Verdict::Drop(DropReason::PolicyChanged));
        };
        // The backend's gauge stays as it is, even for a moment: at 0 its slot may be given to another backend.
        let gauge = |id: u16| shared.counters.services.get(usize::from(id));
        let flow = self.flows.flow_mut(index);
        if let Some(before) = gauge(flow.service) {
            before.flows.subtract(1);
        }
        if let Some(after) = gauge(service) {
            after.flows.add(1);
        }
        if flow.state.is_embryonic() {
            end_handshake(flow.service, &shared.counters);
            if let Some(after) = gauge(service) {
                after.half_open.add(1);
            }
        }
        flow.service = service;
        flow.treatment = judge::lasting(context.generation, treatment);
        flow.next_hop = [NONE; 2];
        flow.epoch = context.generation.epoch;
        Ok(())
    }

    /// The flow's opening packet, as rules saw it.
    fn subject(&self, index: u32) -> Subject<F::Address> {
        let flow = self.flows.flow(index);
        let opening = self.flows.opening(index);
        let key = flow.key(Direction::Forward);
        let (src, dst) = F::addresses(key.addresses);
        let is_echo = flow.state == FlowState::Echo;
        let (src_port, dst_port) = match key.protocol {
            ip::TCP | ip::UDP => port_numbers(key.ports),
            _ => (0, 0),
        };
        Subject {
            tuple: FiveTuple {
                src,
                dst,
                src_port,
                dst_port,
                protocol: key.protocol,
            },
            ingress: opening.ingress,
            vlan: opening.vlan(),
            dscp: opening.dscp,
            tcp_flags: opening.tcp_flags,
            icmp: is_echo.then_some(match F::Address::FAMILY {
                Family::V4 => ECHO,
                Family::V6 => ECHO_V6,
            }),
            fragment: Fragment::None,
        }
    }

    /// The service and the treatment of a flow that goes where it went; `None` where it may not, or would go elsewhere now.
    fn kept(
        &self,
        context: &Context<'_>,
        index: u32,
        tuple: &FiveTuple<F::Address>,
        judgement: Judgement,
        bound: Bound,
    ) -> Option<(ServiceId, TreatmentId)> {
        let flow = self.flows.flow(index);
        let opening = self.flows.opening(index);
        let services = &context.generation.services;
        let is_transit = flow.service == NONE;
        let (goes_on, service, treatment) = match judgement {
            Judgement::Pass(treatment) if bound == Bound::Service => {
                let service = services.lookup(tuple.dst, tuple.protocol, tuple.dst_port)?;
                let goes_on = !is_transit && !opening.is_redirected();
                (goes_on, service, treatment)
            }
            Judgement::Pass(treatment) => (is_transit && !opening.is_redirected(), NONE, treatment),
            Judgement::Redirect(Redirect::Service(id), treatment) => {
                let goes_on = opening.is_redirected() && flow.service == id;
                (goes_on && !is_transit, id, treatment)
            }
            Judgement::Redirect(Redirect::Address { address, port }, treatment) => {
                let wanted = (F::Address::from_ip(address)?, port);
                let goes_on = opening.is_redirected()
                    && is_transit
                    && opening.egress == NONE
                    && self.leads_to(index, wanted);
                (goes_on, NONE, treatment)
            }
            Judgement::Redirect(Redirect::Port(egress), treatment) => {
                let goes_on = opening.is_redirected() && is_transit && opening.egress == egress;
                (goes_on, NONE, treatment)
            }
            Judgement::Punt | Judgement::Reject | Judgement::Drop(_) => return None,
        };
        let source_nat = judge::treatment(context.generation, treatment).source_nat;
        let same_source =
            !is_transit || self.is_masqueraded(index) == (source_nat == SourceNat::Masquerade);
        (goes_on && same_source).then_some((service, treatment))
    }

    /// Whether packets of the opener leave for this address, and for this port (0: the one that they are addressed to).
    fn leads_to(&self, index: u32, (address, port): (F::Address, u16)) -> bool {
        let flow = self.flows.flow(index);
        let (came, leaves) = (
            flow.key(Direction::Forward),
            flow.outgoing(Direction::Forward),
        );
        let (_, dst) = F::addresses(leaves.addresses);
        let (_, asked_port) = port_numbers(came.ports);
        let (_, dst_port) = port_numbers(leaves.ports);
        let wanted_port = if port == 0 { asked_port } else { port };
        let has_ports = matches!(came.protocol, ip::TCP | ip::UDP);
        dst == address && (!has_ports || dst_port == wanted_port)
    }

    /// Whether packets of the opener leave with another source address.
    fn is_masqueraded(&self, index: u32) -> bool {
        let flow = self.flows.flow(index);
        let (came, _) = F::addresses(flow.key(Direction::Forward).addresses);
        let (leaves, _) = F::addresses(flow.outgoing(Direction::Forward).addresses);
        came != leaves
    }
}
