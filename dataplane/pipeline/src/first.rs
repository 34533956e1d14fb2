//! The first packet of a flow: rules by priority, service, backend, translation.

use march_flow::{Direction, Flow, FlowState, Key, Opening};
use march_tables::{
    AddressKind, AdjacencyId, AdjacencyState, Backend, BackendId, Mode, NONE, PortId, Redirect,
    RuleId, Service, ServiceId, SourceNat, TreatmentId,
};
use march_wire::parse::L4;
use march_wire::tuple::{Address, FiveTuple};
use march_wire::{Buffer, DropReason, Verdict, icmp, ip, tcp};

use crate::context::{Context, Shared};
use crate::guard::Admission;
use crate::judge::{self, Bound, Judgement};
use crate::nat::{Numbered, Source, next_source};
use crate::next_hop::{resolve, resolve_on};
use crate::rewrite::IpVersion;
use crate::side::Side;
use crate::slow::{Step, Transit, expired, raw_ports, reject, reset};

/// A source that can never send, or that is one of our own.
pub(crate) fn refuse_martian<A: Address>(context: &Context<'_>, src: A) -> Step<()> {
    if src.is_possible_source() && context.generation.local.kind(src) == AddressKind::NotLocal {
        Ok(())
    } else {
        Err(Verdict::Drop(DropReason::MartianSource))
    }
}

/// Ends that no packet in transit can have.
pub(crate) fn refuse_unroutable<F: IpVersion>(transit: &Transit<'_, F>) -> Step<()> {
    if !transit.dst.is_possible_destination() || transit.dst.is_link_local() {
        return Err(Verdict::Drop(DropReason::MartianDestination));
    }
    if transit.src.is_link_local() {
        return Err(Verdict::Drop(DropReason::MartianSource));
    }
    Ok(())
}

/// What is to become of a first packet, but for the flow itself.
pub(crate) struct Prospect<F: IpVersion> {
    /// Under which key answers would come.
    pub reverse: Key<F::Pair>,
    service: ServiceId,
    backend: BackendId,
    /// Where it goes, if no backend says.
    hop: AdjacencyId,
    source: Source,
    pub state: FlowState,
    treatment: TreatmentId,
    opening: Opening,
}

/// Why there is no flow to be.
pub(crate) enum Refusal {
    /// Just this.
    Verdict(Verdict),
    /// A segment that cannot open: answered with RST.
    Reset,
    /// A rule refuses it: answered if it may be.
    Reject,
    /// Out of hops: answered with time exceeded.
    Expired,
    /// Its service bounds what clients open, which only its own turn can say: nothing was looked at beyond that.
    Later,
}

/// When a first packet is decided about.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Before those ahead of it are carried out.
    Ahead,
    /// When all of those are.
    Now,
}

impl From<Verdict> for Refusal {
    fn from(verdict: Verdict) -> Self {
        Self::Verdict(verdict)
    }
}

impl From<DropReason> for Refusal {
    fn from(reason: DropReason) -> Self {
        Self::Verdict(Verdict::Drop(reason))
    }
}

/// What comes of a first packet.
type Outcome<F> = Result<Prospect<F>, Refusal>;

/// What was decided ahead of a first packet's turn.
pub(crate) struct Ahead<F: IpVersion> {
    /// The rule that decided; counted when the packet has its turn, and not if it then has a flow.
    rule: Option<RuleId>,
    pub outcome: Outcome<F>,
}

/// Where a packet goes: where it is addressed to, or where a rule says instead.
struct Course<F: IpVersion> {
    dst: F::Address,
    dst_port: u16,
    /// The port on whose link it is, or [`NONE`] where routes say.
    egress: PortId,
    treatment: TreatmentId,
    opening: Opening,
}

impl<F: IpVersion> Side<F> {
    /// A packet without a flow.
    pub fn first<B: Buffer>(
        &mut self,
        shared: &mut Shared,
        context: &Context<'_>,
        frame: &mut B,
        transit: &Transit<'_, F>,
        ahead: Option<Ahead<F>>,
    ) -> Step<Verdict> {
        // What was decided ahead was looked at then.
        if ahead.is_none() {
            refuse_martian(context, transit.src)?;
        }
        match transit.kind {
            AddressKind::Kernel => Ok(Verdict::Punt),
            AddressKind::KernelNat if !Self::is_translated(context, transit) => Ok(Verdict::Punt),
            AddressKind::KernelNat | AddressKind::Nat => {
                if Self::is_translated(context, transit) {
                    reset(shared, context, frame, transit.packet, DropReason::NoFlow)
                } else {
                    Err(Verdict::Drop(DropReason::NoService))
                }
            }
            AddressKind::Vip | AddressKind::NotLocal => {
                let Ahead { rule, outcome } = match ahead {
                    Some(ahead) => ahead,
                    None => {
                        let judged = Self::judge(context, transit)?;
                        Self::foresee(shared, context, transit, judged, Turn::Now)
                    }
                };
                judge::count(&shared.counters, rule);
                match outcome {
                    Err(Refusal::Verdict(verdict)) => Err(verdict),
                    Err(Refusal::Reset) => {
                        reset(shared, context, frame, transit.packet, DropReason::NoFlow)
                    }
                    Err(Refusal::Reject) => reject(shared, context, frame, transit.packet),
                    Err(Refusal::Expired) => expired(shared, context, frame, transit.packet),
                    Err(Refusal::Later) => unreachable!("this is its turn"),
                    Ok(prospect) => self.open(shared, context, frame, transit, &prospect),
                }
            }
        }
    }

    /// A fragment for a service or in transit: rules are asked, and what they let through is not reassembled here.
    pub fn fragment<B: Buffer>(
        shared: &mut Shared,
        context: &Context<'_>,
        frame: &mut B,
        transit: &Transit<'_, F>,
    ) -> Step<Verdict> {
        refuse_martian(context, transit.src)?;
        let (judgement, rule) = Self::judge(context, transit)?;
        judge::count(&shared.counters, rule);
        match judgement {
            Judgement::Punt => Ok(Verdict::Punt),
            Judgement::Reject => reject(shared, context, frame, transit.packet),
            Judgement::Drop(reason) => Err(Verdict::Drop(reason)),
            Judgement::Pass(_) | Judgement::Redirect(..) => {
                Err(Verdict::Drop(DropReason::Fragment))
            }
        }
    }

    /// What the rules say of a packet for a service's address or for somebody else's.
    fn judge(context: &Context<'_>, transit: &Transit<'_, F>) -> Step<(Judgement, Option<RuleId>)> {
        let bound = transit.bound();
        if bound == Bound::Transit {
            refuse_unroutable(transit)?;
        }
        let subject = transit.subject(context.ingress);
        Ok(judge::ask(context.generation, &subject, bound))
    }

    /// What is to become of a first packet, before it is carried out.
    pub fn foresee(
        shared: &mut Shared,
        context: &Context<'_>,
        transit: &Transit<'_, F>,
        (judgement, rule): (Judgement, Option<RuleId>),
        turn: Turn,
    ) -> Ahead<F> {
        let outcome = Self::prospect(shared, context, transit, judgement, turn);
        Ahead { rule, outcome }
    }

    /// True where the destination port is one that a NAT pool with this address hands out.
    fn is_translated(context: &Context<'_>, transit: &Transit<'_, F>) -> bool {
        if !matches!(transit.packet.l4, L4::Tcp { .. } | L4::Udp { .. }) {
            return false;
        }
        let (_, port) = transit.packet.ports();
        context.generation.ports.iter().any(|table| {
            let pool = F::nat(table);
            pool.first_port <= port
                && port <= pool.last_port
                && pool.addresses.contains(&transit.dst)
        })
    }

    /// Service or destination, next hop, and the key under which answers would come if no flow has it.
    fn prospect(
        shared: &mut Shared,
        context: &Context<'_>,
        transit: &Transit<'_, F>,
        judgement: Judgement,
        turn: Turn,
    ) -> Outcome<F> {
        let opening = transit.opening(context.ingress);
        let services = &context.generation.services;
        let tuple = transit.tuple();
        let (dst, dst_port) = (tuple.dst, tuple.dst_port);
        let course = |dst, dst_port, egress, treatment, opening| Course::<F> {
            dst,
            dst_port,
            egress,
            treatment,
            opening,
        };
        match judgement {
            Judgement::Punt => Err(Verdict::Punt.into()),
            Judgement::Reject => Err(Refusal::Reject),
            Judgement::Drop(reason) => Err(reason.into()),
            Judgement::Pass(treatment) if transit.kind == AddressKind::Vip => {
                let id = services
                    .lookup(tuple.dst, tuple.protocol, tuple.dst_port)
                    .ok_or(DropReason::NoService)?;
                let course = course(dst, dst_port, NONE, treatment, opening);
                Self::to_service(shared, context, transit, id, &course, turn)
            }
            Judgement::Pass(treatment) => {
                let course = course(dst, dst_port, NONE, treatment, opening);
                Self::through(shared, context, transit, &course)
            }
            Judgement::Redirect(Redirect::Service(id), treatment) => {
                let port = redirected::<F>(context, &tuple, id)?;
                let course = course(dst, port, NONE, treatment, opening.redirected(NONE));
                Self::to_service(shared, context, transit, id, &course, turn)
            }
            Judgement::Redirect(Redirect::Address { address, port }, treatment) => {
                let dst = F::Address::from_ip(address).ok_or(DropReason::UnsupportedProtocol)?;
                let has_ports = matches!(tuple.protocol, ip::TCP | ip::UDP);
                let dst_port = if has_ports && port != 0 {
                    port
                } else {
                    dst_port
                };
                let opening = opening.redirected(NONE);
                let course = course(dst, dst_port, NONE, treatment, opening);
                Self::through(shared, context, transit, &course)
            }
            Judgement::Redirect(Redirect::Port(egress), treatment) => {
                let opening = opening.redirected(egress);
                let course = course(dst, dst_port, egress, treatment, opening);
                Self::through(shared, context, transit, &course)
            }
        }
    }

    /// To a backend of a service, which is reached at the course's port.
    fn to_service(
        shared: &mut Shared,
        context: &Context<'_>,
        transit: &Transit<'_, F>,
        id: ServiceId,
        course: &Course<F>,
        turn: Turn,
    ) -> Outcome<F> {
        if transit
            .tcp_flags()
            .is_some_and(|flags| !tcp::is_opening(flags))
        {
            return Err(Refusal::Reset);
        }
        if transit.packet.ttl <= 1 {
            return Err(Refusal::Expired);
        }
        let service = context.generation.services.get(id);
        if Admission::is_asked(service) {
            if turn == Turn::Ahead {
                return Err(Refusal::Later);
            }
            let counters = &shared.counters;
            shared.admission.admit(id, service, counters, context.now)?;
        }
        let tuple = transit.tuple();
        let (slot, backend) = choose::<F>(shared, context, service, &tuple)?;
        let address = F::Address::from_ip(backend.address).ok_or(DropReason::NoBackend)?;
        // The egress port, and so the NAT pool, is known once the next hop is.
        let known = context.generation.adjacency(backend.adjacency);
        let egress = match known {
            Some(adjacency) if adjacency.state == AdjacencyState::Resolved => adjacency.port,
            _ => port_of(context, resolve::<F>(shared, context, address)?)?,
        };
        let port = if backend.port == 0 {
            course.dst_port
        } else {
            backend.port
        };
        let (source, client) = match service.mode {
            Mode::Nat => (Source::Kept, (tuple.src, tuple.src_port)),
            Mode::FullNat => (
                Source::PoolOf(egress),
                next_source::<F>(shared, context, egress, tuple.protocol, (address, port))?,
            ),
        };
        Ok(Prospect {
            reverse: Key {
                addresses: F::pair(address, client.0),
                ports: raw_ports(port, client.1),
                protocol: tuple.protocol,
            },
            service: id,
            backend: slot,
            hop: NONE,
            source,
            state: if tuple.protocol == ip::TCP {
                FlowState::SynSent
            } else {
                FlowState::Datagram
            },
            treatment: course.treatment,
            opening: course.opening,
        })
    }

    /// Through this box to somebody behind it.
    fn through(
        shared: &mut Shared,
        context: &Context<'_>,
        transit: &Transit<'_, F>,
        course: &Course<F>,
    ) -> Outcome<F> {
        let state = match transit.packet.l4 {
            L4::Tcp { flags, .. } if !tcp::is_opening(flags) => {
                return Err(DropReason::NoFlow.into());
            }
            L4::Tcp { .. } => FlowState::SynSent,
            L4::Icmp { .. } if icmp::is_echo_request(transit.packet) => FlowState::Echo,
            L4::Icmp { .. } => return Err(DropReason::UnsupportedProtocol.into()),
            L4::Udp { .. } | L4::Other => FlowState::Datagram,
        };
        if transit.packet.ttl <= 1 {
            return Err(Refusal::Expired);
        }
        // A frame that has to wait leaves no flow behind.
        let hop = if course.egress == NONE {
            resolve::<F>(shared, context, course.dst)?
        } else {
            resolve_on::<F>(shared, context, course.egress, course.dst)?
        };
        let key = transit.key();
        let numbered = Numbered::of(key.protocol, state);
        let treatment = judge::treatment(context.generation, course.treatment);
        let (source, src) = match treatment.source_nat {
            SourceNat::Keep => {
                let (near, _) = crate::slow::port_numbers(key.ports);
                (Source::Kept, (transit.src, near))
            }
            SourceNat::Masquerade => {
                let egress = port_of(context, hop)?;
                let far = (course.dst, course.dst_port);
                let chosen = next_source::<F>(shared, context, egress, key.protocol, far)?;
                (Source::PoolOf(egress), chosen)
            }
        };
        Ok(Prospect {
            reverse: Key {
                addresses: F::pair(course.dst, src.0),
                ports: numbered.raw(course.dst_port, src.1),
                protocol: key.protocol,
            },
            service: NONE,
            backend: NONE,
            hop,
            source,
            state,
            treatment: course.treatment,
            opening: course.opening,
        })
    }

    /// Remembers the decision and sends the packet on. A packet that does not get away leaves no flow behind and ends none.
    fn open<B: Buffer>(
        &mut self,
        shared: &mut Shared,
        context: &Context<'_>,
        frame: &mut B,
        transit: &Transit<'_, F>,
        prospect: &Prospect<F>,
    ) -> Step<Verdict> {
        let key = transit.key();
        let Prospect { state, source, .. } = *prospect;
        let numbered = Numbered::of(key.protocol, state);
        let (reverse, victim) = self.settle(shared, context, prospect.reverse, source, numbered)?;
        let mut flow = Flow::new(key, reverse, state, context.now.ms);
        flow.epoch = context.generation.epoch;
        flow.service = prospect.service;
        flow.backend = prospect.backend;
        flow.next_hop[0] = prospect.hop;
        flow.treatment = judge::lasting(context.generation, prospect.treatment);
        let way = (Direction::Forward, prospect.opening.egress);
        let cleared = Self::clear(shared, context, frame, transit, &flow, way)?;
        if let Some(index) = victim {
            self.remove(index, &shared.counters);
            shared.counters.flows.evicted.add(1);
        }
        let handle = self
            .insert(flow, &shared.counters, context.now)
            .ok_or(Verdict::Drop(DropReason::TableFull))?;
        debug_assert_eq!(handle.direction, Direction::Forward);
        self.flows.set_opening(handle.index, prospect.opening);
        self.count_created(handle.index, &shared.counters);
        let moved = (handle, state);
        Ok(self.transmit(shared, context, frame, transit, moved, &cleared))
    }
}

/// The port by which a packet that a rule sends to a service reaches it.
fn redirected<F: IpVersion>(
    context: &Context<'_>,
    tuple: &FiveTuple<F::Address>,
    id: ServiceId,
) -> Result<u16, DropReason> {
    let services = &context.generation.services;
    if usize::from(id) >= services.len() || services.get(id).is_vacant() {
        return Err(DropReason::NoService);
    }
    let service = services.get(id);
    let is_same_family = F::Address::from_ip(service.address.address()).is_some();
    if !is_same_family || service.protocol != tuple.protocol {
        return Err(DropReason::UnsupportedProtocol);
    }
    let keeps_port = (service.first_port..=service.last_port).contains(&tuple.dst_port);
    Ok(if keeps_port {
        tuple.dst_port
    } else {
        service.first_port
    })
}

/// The port that a next hop is behind.
fn port_of(context: &Context<'_>, hop: AdjacencyId) -> Step<PortId> {
    let adjacency = context.generation.adjacency(hop);
    adjacency
        .map(|adjacency| adjacency.port)
        .ok_or(Verdict::Drop(DropReason::NoRoute))
}

/// The backend of a new flow.
fn choose<'a, F: IpVersion>(
    shared: &mut Shared,
    context: &Context<'a>,
    service: &Service,
    tuple: &FiveTuple<F::Address>,
) -> Step<(BackendId, &'a Backend)> {
    const NOBODY: Verdict = Verdict::Drop(DropReason::NoBackend);
    let pool = context.generation.pool(service.pool).ok_or(NOBODY)?;
    let cursor = shared
        .cursors
        .get_mut(usize::from(service.pool))
        .ok_or(NOBODY)?;
    let slot = pool
        .choose(service.affinity.hash(tuple), cursor)
        .ok_or(NOBODY)?;
    let backend = context.generation.backend(slot).ok_or(NOBODY)?;
    Ok((slot, backend))
}
