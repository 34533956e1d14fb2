//! A packet without a flow: may it open one, and where does that lead?

use core::net::IpAddr;

use march_tables::{
    Affinity, Mode, NatPool, PoolBackend, PortId, Redirect, Service, ServiceId, SourceNat,
};
use march_wire::tuple::FiveTuple;
use march_wire::{DropReason, Verdict};

use crate::answer::Problem;
use crate::decide::{Step, Walk};
use crate::decision::{AddressOwner, BackendUse, Counter, FlowUse, Hop, ServiceUse};
use crate::facts::{
    ACK, Facts, ICMP, ICMPV6, SYN, TCP, Tuple, UDP, is_link_local, is_possible_destination,
    is_possible_source,
};
use crate::flows::{Direction, Flow, Life, Opening, Way};
use crate::policy::Policy;
use crate::rule::{Pass, Towards};

impl Walk<'_> {
    pub(crate) fn first(&mut self, facts: &Facts, owner: AddressOwner) -> Step<Verdict> {
        self.refuse_martian(facts)?;
        let Tuple { dst, dst_port, .. } = facts.tuple;
        let is_translated = facts.has_ports() && self.policy.is_translated(dst, dst_port);
        match (owner, is_translated) {
            (AddressOwner::Kernel, _) | (AddressOwner::KernelAndNat, false) => Ok(Verdict::Punt),
            (AddressOwner::KernelAndNat | AddressOwner::Nat, true) => {
                Ok(self.reset(facts, DropReason::NoFlow))
            }
            (AddressOwner::Nat, false) => Err(Verdict::Drop(DropReason::NoService)),
            (AddressOwner::Service, _) => {
                let pass = self.judge_packet(facts, Towards::Service)?;
                self.pass(facts, pass, Towards::Service)
            }
            (AddressOwner::Nobody, _) => {
                Self::refuse_martian_transit(facts)?;
                let pass = self.judge_packet(facts, Towards::Transit)?;
                self.pass(facts, pass, Towards::Transit)
            }
        }
    }

    /// A source that can never send, or that is one of our own.
    pub(crate) fn refuse_martian(&self, facts: &Facts) -> Step<()> {
        let src = facts.tuple.src;
        if is_possible_source(src) && self.policy.owner(src) == AddressOwner::Nobody {
            Ok(())
        } else {
            Err(Verdict::Drop(DropReason::MartianSource))
        }
    }

    /// Addresses that mean nothing beyond a link.
    pub(crate) fn refuse_martian_transit(facts: &Facts) -> Step<()> {
        let Tuple { src, dst, .. } = facts.tuple;
        if !is_possible_destination(dst) || is_link_local(dst) {
            return Err(Verdict::Drop(DropReason::MartianDestination));
        }
        if is_link_local(src) {
            return Err(Verdict::Drop(DropReason::MartianSource));
        }
        Ok(())
    }

    fn pass(&mut self, facts: &Facts, pass: Pass, towards: Towards) -> Step<Verdict> {
        let Tuple {
            dst,
            dst_port,
            protocol,
            ..
        } = facts.tuple;
        match (pass.redirect, towards) {
            (Some(Redirect::Service(id)), _) => self.lead_to_service(facts, id, pass),
            (None, Towards::Service) => {
                let id = self.policy.service_at(dst, protocol, dst_port);
                self.lead_to_service(facts, id.ok_or(Verdict::Drop(DropReason::NoService))?, pass)
            }
            (Some(Redirect::Address { .. } | Redirect::Port(_)), _) | (None, Towards::Transit) => {
                self.through(facts, pass)
            }
        }
    }

    /// To a backend of a service: the one that the destination names, or the one that a rule redirects to.
    fn lead_to_service(&mut self, facts: &Facts, id: ServiceId, pass: Pass) -> Step<Verdict> {
        let policy = self.policy;
        let service = policy
            .service(id)
            .ok_or(Verdict::Drop(DropReason::NoService))?;
        let placed = crate::place::place_of_service(service);
        self.told.service = Some(ServiceUse {
            service: id,
            mode: service.mode,
            placed,
        });
        let is_same_family = service.address.address().is_ipv4() == facts.is_ipv4();
        if !is_same_family || service.protocol != facts.tuple.protocol {
            return Err(Verdict::Drop(DropReason::UnsupportedProtocol));
        }
        if !can_open(facts) {
            return Err(self.reset(facts, DropReason::NoFlow));
        }
        self.refuse_last_hop(facts)?;
        self.admit(id, facts.tuple.protocol)?;

        let backend = self.choose(service, facts)?;
        let asked = facts.tuple.dst_port;
        let served = (service.first_port..=service.last_port).contains(&asked);
        let service_port = if served { asked } else { service.first_port };
        let port = if backend.port == 0 {
            service_port
        } else {
            backend.port
        };
        self.told.backend = Some(BackendUse {
            slot: backend.slot,
            address: backend.address,
            port,
            state: backend.state,
        });
        let hop = self.hop_to(backend.address)?;
        // What answers look like when they come in, but for whom they are sent to.
        let answers = Tuple {
            src: backend.address,
            src_port: port,
            dst: facts.tuple.src,
            dst_port: facts.tuple.src_port,
            protocol: facts.tuple.protocol,
        };
        let reverse = match service.mode {
            Mode::Nat => self.unused(answers)?,
            Mode::FullNat => self.translated(hop.port, answers)?,
        };
        let way = Way::Service {
            service: id,
            backend: backend.slot,
            redirected: pass.redirect.is_some(),
        };
        let life = if facts.tuple.protocol == TCP {
            Life::SynSent
        } else {
            Life::Datagram
        };
        self.open(facts, reverse, way, life, pass)
    }

    /// Through the box to another host.
    fn through(&mut self, facts: &Facts, pass: Pass) -> Step<Verdict> {
        let towards = destination(facts.key, pass.redirect)
            .ok_or(Verdict::Drop(DropReason::UnsupportedProtocol))?;
        let life = match (facts.tcp_flags, facts.icmp) {
            (Some(_), _) if !can_open(facts) => return Err(Verdict::Drop(DropReason::NoFlow)),
            (Some(_), _) => Life::SynSent,
            (None, Some(_)) if facts.is_echo_request() => Life::Echo,
            (None, Some(_)) => return Err(Verdict::Drop(DropReason::UnsupportedProtocol)),
            (None, None) => Life::Datagram,
        };
        self.refuse_last_hop(facts)?;
        let hop = match pass.redirect {
            Some(Redirect::Port(port)) => self.hop_on(port, towards.dst)?,
            _ => self.hop_to(towards.dst)?,
        };
        let source_nat = pass.treatment.source_nat;
        let reverse = match source_nat {
            SourceNat::Keep => self.unused(towards.swapped())?,
            SourceNat::Masquerade => self.translated(hop.port, towards.swapped())?,
        };
        let way = Way::Transit {
            redirect: pass.redirect,
            source_nat,
        };
        self.open(facts, reverse, way, life, pass)
    }

    fn refuse_last_hop(&mut self, facts: &Facts) -> Step<()> {
        if facts.packet.ttl > 1 {
            return Ok(());
        }
        Err(self.answer_error(facts, Problem::TimeExceeded, DropReason::TtlExpired))
    }

    /// The backend of a new flow: by the hash of what the service's affinity says, or the one whose turn it is.
    fn choose(&self, service: &Service, facts: &Facts) -> Step<PoolBackend> {
        let nobody = Verdict::Drop(DropReason::NoBackend);
        let policy = self.policy;
        let pool = policy.pool(service.pool).ok_or(nobody)?;
        let hash = hash(service.affinity, facts.tuple);
        // A backend without a port of its own keeps the service's.
        let is_turn = |backend: &&PoolBackend| {
            self.chance.backend.is_some_and(|(address, port)| {
                backend.address == address && (backend.port == port || backend.port == 0)
            })
        };
        let exact =
            |backend: &&PoolBackend| self.chance.backend == Some((backend.address, backend.port));
        let by_turn = || {
            let takers = || Policy::takers(pool);
            takers()
                .find(exact)
                .or_else(|| takers().find(is_turn))
                .or_else(|| takers().next())
        };
        let backend = match pool.algorithm {
            march_tables::Algorithm::Maglev => {
                let slot = policy.by_hash(service.pool, hash).ok_or(nobody)?;
                policy.backend(slot)
            }
            march_tables::Algorithm::RoundRobin => by_turn(),
        };
        let same_family = |backend: &&PoolBackend| backend.address.is_ipv4() == facts.is_ipv4();
        backend.filter(same_family).copied().ok_or(nobody)
    }

    /// The key, if no flow has it: two flows whose answers look the same cannot be told apart.
    fn unused(&self, key: Tuple) -> Step<Tuple> {
        match self.state.find(key) {
            None => Ok(key),
            Some(_) => Err(Verdict::Drop(DropReason::NatExhausted)),
        }
    }

    /// Answers' key with an address and port (or identifier) of the egress port's pool in it: one that no flow has or, failing
    /// that, that of a flow which is over or whose handshake is not done; that flow makes room if the packet goes.
    fn translated(&self, egress: PortId, answers: Tuple) -> Step<Tuple> {
        let offers = self.offers(egress, answers);
        let is_free = |key: &Tuple| self.state.find(*key).is_none();
        let observed = self.chance.source.map(|source| sent_to(answers, source));
        let observed = observed.filter(|key| offers.contains(key));
        let free = observed.filter(is_free);
        if let Some(key) = free.or_else(|| offers.iter().copied().find(is_free)) {
            return Ok(key);
        }
        let is_over = |key: &Tuple| {
            let found = self.state.flow_of(*key);
            found.is_some_and(|(flow, _)| flow.life == Life::Closed || flow.life.is_half_open())
        };
        let over = observed.into_iter().chain(offers).find(is_over);
        over.ok_or(Verdict::Drop(DropReason::NatExhausted))
    }

    /// Every key that answers could have by a port's pool.
    fn offers(&self, egress: PortId, answers: Tuple) -> Vec<Tuple> {
        let Some(table) = self.policy.port(egress) else {
            return Vec::new();
        };
        let (addresses, ports): (Vec<IpAddr>, _) = if answers.src.is_ipv4() {
            let NatPool {
                addresses,
                first_port,
                last_port,
            } = &table.nat4;
            (
                addresses.iter().map(|address| (*address).into()).collect(),
                *first_port..=*last_port,
            )
        } else {
            let NatPool {
                addresses,
                first_port,
                last_port,
            } = &table.nat6;
            (
                addresses.iter().map(|address| (*address).into()).collect(),
                *first_port..=*last_port,
            )
        };
        let each = |address: &IpAddr| {
            let keys = ports.clone().map(|port| sent_to(answers, (*address, port)));
            keys.collect::<Vec<_>>()
        };
        addresses.iter().flat_map(each).collect()
    }

    /// Where a packet to `destination` goes next. No way there: dropped. Not resolved: it waits.
    pub(crate) fn hop_to(&mut self, destination: IpAddr) -> Step<Hop> {
        let (port, address) = self
            .policy
            .next_hop(destination)
            .ok_or(Verdict::Drop(DropReason::NoRoute))?;
        self.hop_on(port, address)
    }

    /// The neighbour with this address on a port's link.
    pub(crate) fn hop_on(&mut self, port: PortId, address: IpAddr) -> Step<Hop> {
        if self.policy.port(port).is_none() {
            return Err(Verdict::Drop(DropReason::NoRoute));
        }
        let hop = Hop {
            port,
            address,
            mac: self.policy.mac_of(port, address),
        };
        self.told.hop = Some(hop);
        match hop.mac {
            Some(_) => Ok(hop),
            None => Err(Verdict::Hold),
        }
    }

    /// Sends the packet on and, if it goes, remembers how.
    fn open(
        &mut self,
        facts: &Facts,
        reverse: Tuple,
        way: Way,
        life: Life,
        pass: Pass,
    ) -> Step<Verdict> {
        let flow = Flow {
            forward: facts.key,
            reverse,
            life,
            last_seen_ms: self.arrival.now_ms,
            way,
            treatment: pass.treatment,
            opening: Opening {
                tuple: facts.tuple,
                ingress: self.arrival.ingress,
                vlan: facts.vlan,
                dscp: facts.dscp,
                tcp_flags: facts.tcp_flags,
                icmp: facts.icmp,
            },
            judged_under: self.state.policy,
        };
        let verdict = self.send(facts, &flow, Direction::Forward)?;
        if let Some((id, _)) = self.state.find(reverse) {
            self.forget(id);
            self.move_counter(Counter::FlowsEvicted, 1);
        }
        self.state.insert(flow);
        self.move_counter(Counter::FlowsCreated, 1);
        if let Way::Service {
            service, backend, ..
        } = way
        {
            self.move_counter(Counter::ServiceFlowsCreated(service), 1);
            self.move_counter(Counter::ServiceFlows(service), 1);
            self.move_counter(Counter::BackendFlowsCreated(backend), 1);
            self.move_counter(Counter::BackendFlows(backend), 1);
        }
        if self.told.flow == FlowUse::None {
            self.told.way = Some(way);
        }
        Ok(verdict)
    }
}

/// A TCP segment opens with SYN and without ACK; anything else may always.
fn can_open(facts: &Facts) -> bool {
    facts
        .tcp_flags
        .is_none_or(|flags| flags & SYN != 0 && flags & ACK == 0)
}

/// Answers that are sent to this source. An echo has one identifier in place of both ports, and other protocols have nothing there.
fn sent_to(answers: Tuple, (address, number): (IpAddr, u16)) -> Tuple {
    let (src_port, dst_port) = match answers.protocol {
        TCP | UDP => (answers.src_port, number),
        ICMP | ICMPV6 => (number, number),
        _ => (0, 0),
    };
    Tuple {
        dst: address,
        src_port,
        dst_port,
        ..answers
    }
}

fn has_ports(protocol: u8) -> bool {
    matches!(protocol, TCP | UDP)
}

/// A packet's ends after a redirect of its destination; `None` across families.
pub(crate) fn destination(key: Tuple, redirect: Option<Redirect>) -> Option<Tuple> {
    match redirect {
        Some(Redirect::Address { address, .. }) if address.is_ipv4() != key.src.is_ipv4() => None,
        Some(Redirect::Address { address, port }) if port != 0 && has_ports(key.protocol) => {
            Some(Tuple {
                dst: address,
                dst_port: port,
                ..key
            })
        }
        Some(Redirect::Address { address, .. }) => Some(Tuple {
            dst: address,
            ..key
        }),
        _ => Some(key),
    }
}

/// The hash that every tier and node balances by, of the packet as the client sent it.
fn hash(affinity: Affinity, tuple: Tuple) -> u64 {
    let Tuple {
        src,
        dst,
        src_port,
        dst_port,
        protocol,
    } = tuple;
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => affinity.hash(&FiveTuple {
            src,
            dst,
            src_port,
            dst_port,
            protocol,
        }),
        (IpAddr::V6(src), IpAddr::V6(dst)) => affinity.hash(&FiveTuple {
            src,
            dst,
            src_port,
            dst_port,
            protocol,
        }),
        _ => 0,
    }
}
