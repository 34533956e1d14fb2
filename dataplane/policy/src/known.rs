//! A packet of a flow.

use march_tables::{Redirect, ServiceId, SourceNat};
use march_wire::{DropReason, Verdict};

use crate::decide::{Step, Walk};
use crate::decision::{AddressOwner, Counter, FlowUse};
use crate::facts::{Facts, Tuple};
use crate::first::destination;
use crate::flows::{Direction, Flow, FlowId, Way};
use crate::rule::{Pass, Seen, Towards};
use crate::tcp::{Turn, turn};

impl Walk<'_> {
    /// `None`: the flow is over, and the packet opens a new one on the same ports.
    pub(crate) fn known(
        &mut self,
        facts: &Facts,
        id: FlowId,
        direction: Direction,
    ) -> Step<Option<Verdict>> {
        let mut life = self.state.flow(id).life;
        if let Some(flags) = facts.tcp_flags {
            match turn(life, direction, flags) {
                Turn::Becomes(next) => life = next,
                Turn::OpensAnew => {
                    self.told.flow = FlowUse::Restarted;
                    self.forget(id);
                    return Ok(None);
                }
            }
        }
        self.recheck(id)?;
        let flow = *self.state.flow(id);
        self.told.way = Some(flow.way);
        if let Some(slot) = flow.backend() {
            let backend = self.policy.backend(slot);
            if !backend.is_some_and(|backend| backend.state.keeps_flows()) {
                self.forget(id);
                return Err(self.reset(facts, DropReason::BackendGone));
            }
        }
        let verdict = self.send(facts, &flow, direction)?;
        let now_ms = self.arrival.now_ms;
        let flow = self.state.flow_mut(id);
        flow.life = life;
        flow.last_seen_ms = now_ms;
        Ok(Some(verdict))
    }

    /// If the policy changed since the flow was judged, it is judged again as its opening packet. It may go on if it still goes the
    /// same way: to a service it keeps its backend, and a redirect or a masquerade must be what it was.
    pub(crate) fn recheck(&mut self, id: FlowId) -> Step<()> {
        let flow = *self.state.flow(id);
        if flow.judged_under == self.state.policy {
            self.told.flow = FlowUse::Known(flow.life);
            return Ok(());
        }
        self.move_counter(Counter::FlowsRechecked, 1);
        let allowed = self.judge_again(&Seen::opening(&flow.opening));
        let Some((pass, way)) =
            allowed.and_then(|(pass, leads)| Some((pass, goes_on(&flow, leads)?)))
        else {
            self.forget(id);
            self.told.flow = FlowUse::Ended;
            return Err(Verdict::Drop(DropReason::PolicyChanged));
        };
        if let (
            Way::Service {
                service: before, ..
            },
            Way::Service { service: after, .. },
        ) = (flow.way, way)
            && before != after
        {
            self.move_counter(Counter::ServiceFlows(before), -1);
            self.move_counter(Counter::ServiceFlows(after), 1);
        }
        let policy = self.state.policy;
        let flow = self.state.flow_mut(id);
        flow.judged_under = policy;
        flow.way = way;
        flow.treatment = pass.treatment;
        self.told.flow = FlowUse::Rechecked(flow.life);
        Ok(())
    }

    /// Where the policy of now leads a packet.
    fn judge_again(&mut self, seen: &Seen) -> Option<(Pass, Leads)> {
        let towards = match self.policy.owner(seen.tuple.dst) {
            AddressOwner::Service => Towards::Service,
            AddressOwner::Nobody => Towards::Transit,
            AddressOwner::Kernel | AddressOwner::KernelAndNat | AddressOwner::Nat => return None,
        };
        let pass = self.judge(seen, towards).ok()?;
        let leads = match (pass.redirect, towards) {
            (Some(Redirect::Service(id)), _) => {
                let service = self.policy.service(id)?;
                if service.protocol != seen.tuple.protocol {
                    return None;
                }
                Leads::ToService {
                    service: id,
                    redirected: true,
                }
            }
            (None, Towards::Service) => Leads::ToService {
                service: self.policy.service_at(
                    seen.tuple.dst,
                    seen.tuple.protocol,
                    seen.tuple.dst_port,
                )?,
                redirected: false,
            },
            (redirect, _) => Leads::Through {
                redirect,
                source_nat: pass.treatment.source_nat,
            },
        };
        Some((pass, leads))
    }
}

/// Where a packet is led.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leads {
    ToService {
        service: ServiceId,
        redirected: bool,
    },
    Through {
        redirect: Option<Redirect>,
        source_nat: SourceNat,
    },
}

/// The way on of a flow whose opening packet would now be led to `leads`; `None` if it cannot go on.
fn goes_on(flow: &Flow, leads: Leads) -> Option<Way> {
    match (flow.way, leads) {
        (
            Way::Service {
                service: old,
                backend,
                redirected: was,
            },
            Leads::ToService {
                service,
                redirected,
            },
        ) => {
            let is_same = was == redirected && (!redirected || old == service);
            is_same.then_some(Way::Service {
                service,
                backend,
                redirected,
            })
        }
        (
            Way::Transit {
                redirect,
                source_nat,
            },
            Leads::Through {
                redirect: now,
                source_nat: nat_now,
            },
        ) => {
            let is_same = leads_alike(flow.forward, redirect, now) && source_nat == nat_now;
            let way = Way::Transit {
                redirect: now,
                source_nat,
            };
            is_same.then_some(way)
        }
        _ => None,
    }
}

/// Whether two redirects, or none, send a packet to the same place.
fn leads_alike(key: Tuple, before: Option<Redirect>, now: Option<Redirect>) -> bool {
    match (before, now) {
        (Some(Redirect::Port(before)), Some(Redirect::Port(now))) => before == now,
        (Some(Redirect::Address { .. }), Some(Redirect::Address { .. })) => {
            destination(key, before) == destination(key, now)
        }
        (None, None) => true,
        _ => false,
    }
}
