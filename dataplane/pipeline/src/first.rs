//! The first packet of a flow: rules by priority, service, backend, translation.

use march_flow::{Direction, Flow, FlowState, Key};
use march_tables::{
    Action, AddressKind, AdjacencyState, Backend, BackendId, Mode, NatPool, PortId, Service,
    ServiceId, Subject,
};
use march_wire::parse::L4;
use march_wire::tuple::{Address, FiveTuple};
use march_wire::{Buffer, DropReason, Verdict, icmp, ip, tcp};

use crate::context::{Context, Shared};
use crate::rewrite::IpVersion;
use crate::side::Side;
use crate::slow::{Step, Transit, expired, port_numbers, raw_ports, reset, resolve};

/// Source ports tried before giving up. With 95 of 100 in use, all fail once in 700 times.
const NAT_TRIES: u64 = 128;

/// Steps of a walk over tuples. A prime beyond any number of tuples divides none, so that a walk visits all of them;
/// near the golden section of 2^64, so that neighbours in time are no neighbours in ports.
const NAT_STEP: u64 = 0x9e37_79b9_7f4a_7bb9;

/// What the rules say: for a service what no rule denies goes, for transit only what a rule allows.
pub(crate) fn rule_allows<A: Address>(
    shared: &Shared,
    context: &Context<'_>,
    subject: &Subject<A>,
    is_transit: bool,
) -> Step<()> {
    let matched = context.generation.rules.classify(subject);
    if let Some(counter) = matched.and_then(|matched| {
        shared
            .counters
            .rules
            .get(usize::try_from(matched.rule).ok()?)
    }) {
        counter.add(1);
    }
    match matched.map(|matched| matched.action) {
        Some(Action::Drop | Action::Reject) => Err(Verdict::Drop(DropReason::RuleDrop)),
        Some(Action::Punt) => Err(Verdict::Punt),
        Some(Action::Redirect(_)) => Err(Verdict::Drop(DropReason::UnsupportedProtocol)),
        Some(Action::Allow) => Ok(()),
        None | Some(Action::Count) if is_transit => Err(Verdict::Drop(DropReason::NoService)),
        None | Some(Action::Count) => Ok(()),
    }
}

/// A source that can never send, or that is one of our own.
pub(crate) fn refuse_martian<A: Address>(context: &Context<'_>, src: A) -> Step<()> {
    if src.is_possible_source() && context.generation.local.kind(src) == AddressKind::NotLocal {
        Ok(())
    } else {
        Err(Verdict::Drop(DropReason::MartianSource))
    }
}

/// What is to become of a service's first packet, but for the flow itself.
pub(crate) struct Prospect<F: IpVersion> {
    /// Under which key answers would come.
    reverse: Key<F::Pair>,
    service: ServiceId,
    backend: BackendId,
    mode: Mode,
    /// Whose NAT pool the key is from.
    egress: PortId,
    state: FlowState,
}

/// Why there is no flow to be.
pub(crate) enum Refusal {
    /// Just this.
    Verdict(Verdict),
    /// A segment that cannot open: answered with RST.
    Reset,
    /// Out of hops: answered with time exceeded.
    Expired,
}

impl From<Verdict> for Refusal {
    fn from(verdict: Verdict) -> Self {
        Self::Verdict(verdict)
    }
}

/// What was decided ahead of a first packet's turn.
pub(crate) type Ahead<F> = Result<Prospect<F>, Refusal>;

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
        refuse_martian(context, transit.src)?;
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
            AddressKind::Vip => self.first_to_service(shared, context, frame, transit, ahead),
            AddressKind::NotLocal => self.first_in_transit(shared, context, frame, transit),
        }
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

    /// Decides about a service's first packets before any of them is carried out, so that the cache misses of their
    /// flows overlap. `mask` has a bit for each recognised frame that has no flow to go on with.
    pub fn look_ahead<B: Buffer>(
        &mut self,
        shared: &mut Shared,
        context: &Context<'_>,
        mut mask: u64,
        frames: &[B],
    ) {
        let mut found = 0;
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
            if kind != AddressKind::Vip
                || refuse_martian(context, src).is_err()
                || self.flows.find(&transit.key()).is_some()
            {
                continue;
            }
            let prospect = Self::prospect(shared, context, &transit);
            if let Ok(prospect) = &prospect {
                self.flows.prefetch(self.flows.hash(&prospect.reverse));
                self.flows.prefetch_free(found);
                found += 1;
            }
            if let Some(ahead) = self.ahead.get_mut(index) {
                *ahead = Some(prospect);
            }
        }
    }

    fn first_to_service<B: Buffer>(
        &mut self,
        shared: &mut Shared,
        context: &Context<'_>,
        frame: &mut B,
        transit: &Transit<'_, F>,
        ahead: Option<Ahead<F>>,
    ) -> Step<Verdict> {
        match ahead.unwrap_or_else(|| Self::prospect(shared, context, transit)) {
            Err(Refusal::Verdict(verdict)) => Err(verdict),
            Err(Refusal::Reset) => {
                reset(shared, context, frame, transit.packet, DropReason::NoFlow)
            }
            Err(Refusal::Expired) => expired(shared, context, frame, transit.packet),
            Ok(prospect) => {
                let reverse = self.settle(shared, context, &prospect)?;
                let mut flow = Flow::new(transit.key(), reverse, prospect.state, context.now.ms);
                flow.epoch = context.generation.epoch;
                flow.service = prospect.service;
                flow.backend = prospect.backend;
                self.open(shared, context, frame, transit, flow)
            }
        }
    }

    /// Rules, service, backend, and the key under which the backend's answers would come if no flow has it.
    fn prospect(shared: &mut Shared, context: &Context<'_>, transit: &Transit<'_, F>) -> Ahead<F> {
        let tuple = transit.tuple();
        rule_allows(shared, context, &transit.subject(context.ingress), false)?;
        let id = context
            .generation
            .services
            .lookup(transit.dst, tuple.protocol, tuple.dst_port)
            .ok_or(Verdict::Drop(DropReason::NoService))?;
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
        let (slot, backend) = choose::<F>(shared, context, service, &tuple)?;
        let address =
            F::Address::from_ip(backend.address).ok_or(Verdict::Drop(DropReason::NoBackend))?;
        // The egress port, and so the NAT pool, is known once the next hop is.
        let known = context.generation.adjacency(backend.adjacency);
        let egress = match known {
            Some(adjacency) if adjacency.state == AdjacencyState::Resolved => adjacency.port,
            _ => {
                let hop = resolve::<F>(shared, context, address)?;
                context
                    .generation
                    .adjacency(hop)
                    .ok_or(Verdict::Drop(DropReason::NoRoute))?
                    .port
            }
        };
        let client = match service.mode {
            Mode::Nat => (tuple.src, tuple.src_port),
            Mode::FullNat => {
                let pool = context.generation.port(egress).map(F::nat);
                let salt = shared.next_salt();
                pool.and_then(|pool| nat_tuples(pool, salt).next())
                    .ok_or(Verdict::Drop(DropReason::NatExhausted))?
            }
        };
        let port = if backend.port == 0 {
            tuple.dst_port
        } else {
            backend.port
        };
        Ok(Prospect {
            reverse: Key {
                addresses: F::pair(address, client.0),
                ports: raw_ports(port, client.1),
                protocol: tuple.protocol,
            },
            service: id,
            backend: slot,
            mode: service.mode,
            egress,
            state: if tuple.protocol == ip::TCP {
                FlowState::SynSent
            } else {
                FlowState::Datagram
            },
        })
    }

    /// The answers' key: the one in prospect or, where that is taken and the source is ours to choose, another. If all
    /// that were tried are taken, a connection that is over or whose handshake is not done makes room.
    fn settle(
        &mut self,
        shared: &Shared,
        context: &Context<'_>,
        prospect: &Prospect<F>,
    ) -> Step<Key<F::Pair>> {
        let first = self.unused(prospect.reverse);
        if first.is_ok() || prospect.mode == Mode::Nat {
            return first;
        }
        let (address, _) = F::addresses(prospect.reverse.addresses);
        let (port, salt) = port_numbers(prospect.reverse.ports);
        let mut over = None;
        let pool = context.generation.port(prospect.egress).map(F::nat);
        for (source, source_port) in pool
            .into_iter()
            .flat_map(|pool| nat_tuples(pool, salt.into()))
        {
            let key = Key {
                addresses: F::pair(address, source),
                ports: raw_ports(port, source_port),
                ..prospect.reverse
            };
            let Some(handle) = self.flows.find(&key) else {
                return Ok(key);
            };
            let state = self.flows.flow(handle.index).state;
            if over.is_none() && (state == FlowState::Closed || state.is_embryonic()) {
                over = Some((handle.index, key));
            }
        }
        let (index, key) = over.ok_or(Verdict::Drop(DropReason::NatExhausted))?;
        self.remove(index, &shared.counters);
        shared.counters.flows.evicted.add(1);
        Ok(key)
    }

    /// The key, if no flow has it: two flows whose answers look the same cannot be told apart.
    fn unused(&self, key: Key<F::Pair>) -> Step<Key<F::Pair>> {
        if self.flows.find(&key).is_some() {
            Err(Verdict::Drop(DropReason::NatExhausted))
        } else {
            Ok(key)
        }
    }

    fn first_in_transit<B: Buffer>(
        &mut self,
        shared: &mut Shared,
        context: &Context<'_>,
        frame: &mut B,
        transit: &Transit<'_, F>,
    ) -> Step<Verdict> {
        if !transit.dst.is_possible_destination() || transit.dst.is_link_local() {
            return Err(Verdict::Drop(DropReason::MartianDestination));
        }
        if transit.src.is_link_local() {
            return Err(Verdict::Drop(DropReason::MartianSource));
        }
        rule_allows(shared, context, &transit.subject(context.ingress), true)?;
        let state = match transit.packet.l4 {
            L4::Tcp { flags, .. } if !tcp::is_opening(flags) => {
                return Err(Verdict::Drop(DropReason::NoFlow));
            }
            L4::Tcp { .. } => FlowState::SynSent,
            L4::Icmp { .. } if icmp::is_echo_request(transit.packet) => FlowState::Echo,
            L4::Icmp { .. } => return Err(Verdict::Drop(DropReason::UnsupportedProtocol)),
            L4::Udp { .. } | L4::Other => FlowState::Datagram,
        };
        if transit.packet.ttl <= 1 {
            return expired(shared, context, frame, transit.packet);
        }
        let forward = transit.key();
        let mut flow = Flow::new(
            forward,
            self.unused(forward.swapped())?,
            state,
            context.now.ms,
        );
        flow.epoch = context.generation.epoch;
        // A frame that has to wait leaves no flow behind.
        flow.next_hop[0] = resolve::<F>(shared, context, transit.dst)?;
        self.open(shared, context, frame, transit, flow)
    }

    /// Remembers the decision and sends the packet on.
    fn open<B: Buffer>(
        &mut self,
        shared: &mut Shared,
        context: &Context<'_>,
        frame: &mut B,
        transit: &Transit<'_, F>,
        flow: Flow<F::Pair>,
    ) -> Step<Verdict> {
        let state = flow.state;
        let handle = self
            .insert(flow, &shared.counters, context.now)
            .ok_or(Verdict::Drop(DropReason::TableFull))?;
        debug_assert_eq!(handle.direction, Direction::Forward);
        let verdict = self.transmit(shared, context, frame, transit, handle, state);
        if !matches!(verdict, Ok(Verdict::Forward { .. })) {
            self.remove(handle.index, &shared.counters);
        }
        verdict
    }
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

/// The pool's (address, port) pairs from a pseudo-random one on, in steps that visit all of them; [`NAT_TRIES`] at most.
fn nat_tuples<A: Copy>(pool: &NatPool<A>, salt: u64) -> impl Iterator<Item = (A, u16)> + '_ {
    let ports = u64::from(pool.last_port.saturating_sub(pool.first_port)) + 1;
    let tuples = if pool.first_port > pool.last_port {
        0
    } else {
        ports * pool.addresses.len() as u64
    };
    let step = NAT_STEP.checked_rem(tuples).unwrap_or(0);
    let mut at = salt.checked_rem(tuples).unwrap_or(0);
    (0..NAT_TRIES.min(tuples)).filter_map(move |_| {
        let (address, port) = (at / ports, at % ports);
        at = (at + step) % tuples;
        let address = pool.addresses.get(usize::try_from(address).ok()?)?;
        Some((*address, pool.first_port + u16::try_from(port).ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn the_walk_over_nat_ports_never_comes_back_early() {
        for (addresses, first_port, last_port) in [
            (1, 20_000, 32_767),
            (3, 20_000, 32_768),
            (1, 1, 65_535),
            (3, 1, 65_535),
            (3, 7, 9),
            (1, 100, 108),
            (2, 100, 102),
            (1, 9, 9),
        ] {
            let pool = NatPool {
                addresses: (0..addresses).collect(),
                first_port,
                last_port,
            };
            let tuples = u64::from(last_port - first_port + 1) * addresses;
            for salt in [0, 1, u64::MAX] {
                let mut seen = HashSet::new();
                for (address, port) in nat_tuples(&pool, salt) {
                    assert!((first_port..=last_port).contains(&port));
                    seen.insert((address, port));
                }
                let visited = seen.len() as u64;
                assert_eq!(
                    visited,
                    NAT_TRIES.min(tuples),
                    "{addresses} x {first_port}-{last_port}"
                );
            }
        }
    }
}
