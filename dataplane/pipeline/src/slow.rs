//! The slow path of one frame: everything that is not an established flow's plain packet.

use march_flow::{Direction, Flow, FlowHandle, FlowState, Flows, Key, Opening, tcp};
use march_tables::{AddressKind, Adjacency, AdjacencyId, NONE, PortId, Subject};
use march_wire::ethernet::{self, Link};
use march_wire::parse::{Fragment, IpPacket, L4};
use march_wire::tuple::{Address, FiveTuple};
use march_wire::{Buffer, DropReason, Family, Verdict, arp as wire_arp, icmp, ip, nd};

use crate::context::{Context, Shared};
use crate::first::Ahead;
use crate::judge::Bound;
use crate::next_hop::next_hop;
use crate::rewrite::{Change, IpVersion, rewrite_l4, udp_mask};
use crate::side::{Side, end_handshake, traffic_of};
use crate::treat::treat;

/// A verdict reached early: the `Err` side of the slow path's steps.
pub(crate) type Step<T> = Result<T, Verdict>;

/// ARP: requests for our addresses are answered here, the rest is the kernel's.
pub(crate) fn arp<B: Buffer>(context: &Context<'_>, frame: &mut B, link: &Link) -> Verdict {
    let message = match wire_arp::parse(frame.bytes(), link) {
        Ok(message) => message,
        Err(reason) => return Verdict::Drop(reason),
    };
    let ours = matches!(
        context.generation.local.kind(message.target),
        AddressKind::Vip | AddressKind::Nat
    );
    if ours && message.operation == wire_arp::Operation::Request {
        return match wire_arp::answer(frame.bytes_mut(), link, context.port.mac) {
            Some(()) => Verdict::Answer {
                port: context.ingress,
            },
            None => Verdict::Drop(DropReason::BadArp),
        };
    }
    Verdict::Punt
}

/// Link protocols are the kernel's, if they are for this box.
pub(crate) fn other<B: Buffer>(context: &Context<'_>, frame: &B) -> Verdict {
    match to_us(context, frame) {
        Ok(_) => Verdict::Punt,
        Err(verdict) => verdict,
    }
}

/// How a frame got here: to the port's own MAC address, or to a group.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    Unicast,
    Group,
}

fn to_us<B: Buffer>(context: &Context<'_>, frame: &B) -> Step<Reach> {
    match ethernet::destination(frame.bytes()) {
        Some(mac) if mac == context.port.mac => Ok(Reach::Unicast),
        Some(mac) if ethernet::is_group(mac) => Ok(Reach::Group),
        _ => Err(Verdict::Drop(DropReason::WrongMac)),
    }
}

/// One IP packet on its way: what was parsed, and its addresses.
pub(crate) struct Transit<'a, F: IpVersion> {
    pub packet: &'a IpPacket,
    pub src: F::Address,
    pub dst: F::Address,
    pub kind: AddressKind,
}

impl<F: IpVersion> Transit<'_, F> {
    /// The key under which the packet's flow is found: ports, an echo identifier twice, or nothing but addresses.
    pub fn key(&self) -> Key<F::Pair> {
        let ports = match self.packet.l4 {
            L4::Icmp { id, .. } => raw_ports(id, id),
            _ => {
                let (src, dst) = self.packet.ports();
                raw_ports(src, dst)
            }
        };
        Key {
            addresses: F::pair(self.src, self.dst),
            ports,
            protocol: self.packet.protocol,
        }
    }

    pub fn tuple(&self) -> FiveTuple<F::Address> {
        let (src_port, dst_port) = self.packet.ports();
        FiveTuple {
            src: self.src,
            dst: self.dst,
            src_port,
            dst_port,
            protocol: self.packet.protocol,
        }
    }

    /// What rules look at.
    pub fn subject(&self, ingress: PortId) -> Subject<F::Address> {
        Subject::of_parts(self.packet, self.tuple(), ingress)
    }

    /// Of what rules are asked about it.
    pub fn bound(&self) -> Bound {
        match self.kind {
            AddressKind::Vip => Bound::Service,
            _ => Bound::Transit,
        }
    }

    /// What a flow that it opens remembers of it.
    pub fn opening(&self, ingress: PortId) -> Opening {
        let Subject {
            vlan,
            dscp,
            tcp_flags,
            ..
        } = self.subject(ingress);
        Opening::new(ingress, vlan, dscp, tcp_flags)
    }

    pub fn tcp_flags(&self) -> Option<u8> {
        match self.packet.l4 {
            L4::Tcp { flags, .. } => Some(flags),
            _ => None,
        }
    }
}

/// Two port numbers as they stand in a packet.
pub(crate) fn raw_ports(src: u16, dst: u16) -> u32 {
    let ([a, b], [c, d]) = (src.to_be_bytes(), dst.to_be_bytes());
    u32::from_ne_bytes([a, b, c, d])
}

/// The reverse of [`raw_ports`].
pub(crate) fn port_numbers(raw: u32) -> (u16, u16) {
    let [a, b, c, d] = raw.to_ne_bytes();
    (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))
}

impl<F: IpVersion> Side<F> {
    /// Decides about one IP packet.
    pub fn packet<B: Buffer>(
        &mut self,
        shared: &mut Shared,
        context: &Context<'_>,
        frame: &mut B,
        packet: &IpPacket,
        ahead: Option<Ahead<F>>,
    ) -> Verdict {
        self.decide(shared, context, frame, packet, ahead)
            .unwrap_or_else(|verdict| verdict)
    }

    fn decide<B: Buffer>(
        &mut self,
        shared: &mut Shared,
        context: &Context<'_>,
        frame: &mut B,
        packet: &IpPacket,
        ahead: Option<Ahead<F>>,
    ) -> Step<Verdict> {
        let reach = to_us(context, frame)?;
        let (src, dst) = packet
            .addresses::<F::Address, _>(frame.bytes())
            .ok_or(Verdict::Drop(DropReason::Runt))?;
        if reach == Reach::Group || dst.is_group() {
            return solicitation(context, frame, packet).unwrap_or(Ok(Verdict::Punt));
        }
        let kind = context.generation.local.kind(dst);
        if kind == AddressKind::Kernel {
            return Ok(Verdict::Punt);
        }
        if let Some(answer) = solicitation(context, frame, packet) {
            return answer;
        }
        let transit = Transit::<F> {
            packet,
            src,
            dst,
            kind,
        };
        if packet.fragment != Fragment::None {
            return match kind {
                AddressKind::KernelNat => Ok(Verdict::Punt),
                AddressKind::Vip | AddressKind::NotLocal => {
                    Self::fragment(shared, context, frame, &transit)
                }
                AddressKind::Kernel | AddressKind::Nat => Err(Verdict::Drop(DropReason::Fragment)),
            };
        }
        if let L4::Icmp { kind: message, .. } = packet.l4 {
            if ip::is_icmp_error(packet.family, message) {
                crate::first::refuse_martian(context, src)?;
                return self.icmp_error(shared, context, frame, &transit);
            }
            if icmp::is_echo_request(packet) && matches!(kind, AddressKind::Vip | AddressKind::Nat)
            {
                crate::first::refuse_martian(context, src)?;
                return answer_echo(shared, context, frame, packet);
            }
        }
        if let Some(handle) = self.flows.find(&transit.key()) {
            match self.known(shared, context, frame, &transit, handle)? {
                Some(verdict) => return Ok(verdict),
                None => self.remove(handle.index, &shared.counters),
            }
        }
        self.first(shared, context, frame, &transit, ahead)
    }

    /// A packet of a known flow. `None`: the flow is over and the packet opens a new one on the same ports.
    fn known<B: Buffer>(
        &mut self,
        shared: &mut Shared,
        context: &Context<'_>,
        frame: &mut B,
        transit: &Transit<'_, F>,
        handle: FlowHandle,
    ) -> Step<Option<Verdict>> {
        let mut state = self.flows.flow(handle.index).state;
        if let Some(flags) = transit.tcp_flags() {
            match tcp::step(state, handle.direction, tcp::Event::of(flags)) {
                tcp::Step::To(next) => state = next,
                tcp::Step::Restart => return Ok(None),
            }
        }
        self.renew(shared, context, handle.index)?;
        let flow = self.flows.flow(handle.index);
        let backend = context.generation.backend(flow.backend);
        if flow.backend != NONE && !backend.is_some_and(|backend| backend.state.keeps_flows()) {
            self.remove(handle.index, &shared.counters);
            return reset(
                shared,
                context,
                frame,
                transit.packet,
                DropReason::BackendGone,
            )
            .map(Some);
        }
        let flow = *self.flows.flow(handle.index);
        let way = self.way(handle);
        let cleared = Self::clear(shared, context, frame, transit, &flow, way)?;
        let moved = (handle, state);
        let verdict = self.transmit(shared, context, frame, transit, moved, &cleared);
        Ok(Some(verdict))
    }

    /// Direction of a flow's packet, and the port that a rule sends it out of or [`NONE`]. Only transit asks how it was opened.
    pub fn way(&self, handle: FlowHandle) -> (Direction, PortId) {
        let FlowHandle { index, direction } = handle;
        let is_pinned = direction == Direction::Forward && self.flows.flow(index).service == NONE;
        let egress = if is_pinned {
            self.flows.opening(index).egress
        } else {
            NONE
        };
        (direction, egress)
    }

    /// Whether a packet of `flow` may leave, and by what: it has hops left, its next hop is resolved, it fits, and its limit is not
    /// reached. Only then it is charged; the flow is not touched.
    pub fn clear<B: Buffer>(
        shared: &mut Shared,
        context: &Context<'_>,
        frame: &mut B,
        transit: &Transit<'_, F>,
        flow: &Flow<F::Pair>,
        (direction, egress): (Direction, PortId),
    ) -> Step<Cleared> {
        let packet = transit.packet;
        if packet.ttl <= 1 {
            return Err(expired(shared, context, frame, packet)?);
        }
        let hop = next_hop::<F>(shared, context, flow, (direction, egress))?;
        let adjacency = *context
            .generation
            .adjacency(hop)
            .ok_or(Verdict::Drop(DropReason::NoRoute))?;
        if packet.ip_len() > usize::from(adjacency.mtu) {
            return Err(too_big(shared, context, frame, packet, adjacency.mtu)?);
        }
        let mark = if flow.treatment == NONE {
            None
        } else {
            treat::<F>(shared, context.generation, context.now, flow, frame.bytes())
                .map_err(Verdict::Drop)?
                .mark_for(direction)
        };
        Ok(Cleared {
            hop,
            adjacency,
            mark,
        })
    }

    /// Sends a packet that may leave on as its flow says, and lets the flow know of it.
    pub fn transmit<B: Buffer>(
        &mut self,
        shared: &mut Shared,
        context: &Context<'_>,
        frame: &mut B,
        transit: &Transit<'_, F>,
        (handle, state): (FlowHandle, FlowState),
        cleared: &Cleared,
    ) -> Verdict {
        let packet = transit.packet;
        let Cleared {
            hop,
            adjacency,
            mark,
        } = *cleared;
        let flow = *self.flows.flow(handle.index);
        let side = handle.direction.index();
        let bytes = frame.bytes_mut();
        let change = Change::of(&flow, handle.direction);
        let rewritten = match packet.l4 {
            L4::Tcp { .. } | L4::Udp { .. } => {
                rewrite_l4(bytes, packet.l4_offset, udp_mask(packet.protocol), &change)
            }
            L4::Icmp { .. } => {
                !flow.is_translated() || F::rewrite_echo(bytes, packet.l4_offset, &change)
            }
            L4::Other => true,
        } && F::rewrite_ip(bytes, packet.l3_offset, &change)
            && mark.is_none_or(|dscp| F::mark(bytes, packet.l3_offset, dscp));
        debug_assert!(rewritten, "the parser saw all of the headers");
        if let Some(macs) = bytes.get_mut(..12) {
            macs.copy_from_slice(&adjacency.rewrite);
        }
        let len = bytes.len();
        let flow = self.flows.flow_mut(handle.index);
        if flow.state.is_embryonic() && !state.is_embryonic() {
            end_handshake(flow.service, &shared.counters);
        }
        flow.state = state;
        flow.next_hop[side] = hop;
        flow.count(
            handle.direction,
            u32::try_from(len).unwrap_or(u32::MAX),
            context.now.ms,
        );
        for traffic in traffic_of(flow, &shared.counters) {
            traffic.count(side, len as u64);
        }
        // What ended before it was established is no use in the large table.
        if state == FlowState::Established && Flows::<F::Pair>::is_embryonic(handle.index) {
            self.promote(handle.index, &shared.counters, context.now);
        }
        Verdict::Forward {
            port: adjacency.port,
        }
    }
}

/// What a packet that may leave leaves by.
#[derive(Clone, Copy)]
pub(crate) struct Cleared {
    hop: AdjacencyId,
    adjacency: Adjacency,
    /// DSCP to write.
    mark: Option<u8>,
}

/// Neighbour solicitation for one of our addresses, answered; `None` for anything else.
fn solicitation<B: Buffer>(
    context: &Context<'_>,
    frame: &mut B,
    packet: &IpPacket,
) -> Option<Step<Verdict>> {
    if !nd::is_neighbour(packet) {
        return None;
    }
    let target = nd::target(frame.bytes(), packet)?;
    if !matches!(
        context.generation.local.kind(target),
        AddressKind::Vip | AddressKind::Nat
    ) {
        return None;
    }
    Some(match nd::parse(frame.bytes(), packet) {
        Err(reason) => Err(Verdict::Drop(reason)),
        // Somebody else claims our address: the kernel's log is the place to see it.
        Ok(nd::Neighbour::Advertisement(_)) => Ok(Verdict::Punt),
        Ok(nd::Neighbour::Solicitation(asked)) => {
            if nd::answer(frame, packet, &asked, context.port.mac) {
                Ok(Verdict::Answer {
                    port: context.ingress,
                })
            } else {
                Err(Verdict::Drop(DropReason::BadArp))
            }
        }
    })
}

fn answer_echo<B: Buffer>(
    shared: &mut Shared,
    context: &Context<'_>,
    frame: &mut B,
    packet: &IpPacket,
) -> Step<Verdict> {
    if !shared.answers.echoes.take(context.now.ms) {
        return Err(Verdict::Drop(DropReason::IcmpRateLimited));
    }
    match icmp::answer_echo(frame.bytes_mut(), packet, context.port.mac) {
        Some(()) => Ok(Verdict::Answer {
            port: context.ingress,
        }),
        None => Err(Verdict::Drop(DropReason::BadIcmp)),
    }
}

/// Ends a connection that cannot go on: RST for TCP, `reason` for all else and beyond the rate.
pub(crate) fn reset<B: Buffer>(
    shared: &mut Shared,
    context: &Context<'_>,
    frame: &mut B,
    packet: &IpPacket,
    reason: DropReason,
) -> Step<Verdict> {
    // A RST is never answered, so it takes none of what there is for others.
    let is_answerable = matches!(packet.l4, L4::Tcp { flags, .. } if flags & march_wire::tcp::RST == 0)
        && packet.fragment == Fragment::None;
    let answered = is_answerable
        && shared.answers.resets.take(context.now.ms)
        && march_wire::tcp::answer_with_reset(frame, packet, context.port.mac);
    if answered {
        Ok(Verdict::Answer {
            port: context.ingress,
        })
    } else {
        Err(Verdict::Drop(reason))
    }
}

/// Refused by a rule: RST for TCP, "administratively prohibited" for all else, and beyond the rate of either nothing.
pub(crate) fn reject<B: Buffer>(
    shared: &mut Shared,
    context: &Context<'_>,
    frame: &mut B,
    packet: &IpPacket,
) -> Step<Verdict> {
    const REASON: DropReason = DropReason::RuleDrop;
    if packet.protocol == ip::TCP {
        return reset(shared, context, frame, packet, REASON);
    }
    let problem = icmp::Problem::Prohibited;
    answer_error(shared, context, frame, packet, problem, REASON)
}

/// TTL or hop limit ran out: time exceeded, from the port's own address.
pub(crate) fn expired<B: Buffer>(
    shared: &mut Shared,
    context: &Context<'_>,
    frame: &mut B,
    packet: &IpPacket,
) -> Step<Verdict> {
    answer_error(
        shared,
        context,
        frame,
        packet,
        icmp::Problem::TimeExceeded,
        DropReason::TtlExpired,
    )
}

fn too_big<B: Buffer>(
    shared: &mut Shared,
    context: &Context<'_>,
    frame: &mut B,
    packet: &IpPacket,
    mtu: u16,
) -> Step<Verdict> {
    answer_error(
        shared,
        context,
        frame,
        packet,
        icmp::Problem::TooBig { mtu },
        DropReason::TooBig,
    )
}

fn answer_error<B: Buffer>(
    shared: &mut Shared,
    context: &Context<'_>,
    frame: &mut B,
    packet: &IpPacket,
    problem: icmp::Problem,
    reason: DropReason,
) -> Step<Verdict> {
    let source = match packet.family {
        Family::V4 => context.port.address4.map(core::net::IpAddr::V4),
        Family::V6 => context.port.address6.map(core::net::IpAddr::V6),
    };
    let Some(source) = source else {
        return Err(Verdict::Drop(reason));
    };
    if !icmp::may_answer_with_error(frame.bytes(), packet, problem)
        || !shared.answers.errors.take(context.now.ms)
    {
        return Err(Verdict::Drop(reason));
    }
    if icmp::answer_with_error(frame, packet, problem, source, context.port.mac) {
        Ok(Verdict::Answer {
            port: context.ingress,
        })
    } else {
        Err(Verdict::Drop(reason))
    }
}
