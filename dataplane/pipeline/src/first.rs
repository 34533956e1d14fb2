//! The first packet of a flow: rules by priority, service, backend, translation.

use march_flow::{Direction, Flow, FlowState, Key};
use march_tables::{Action, AddressKind, Backend, BackendId, Mode, NONE, NatPool, Service};
use march_wire::parse::L4;
use march_wire::tuple::{Address, FiveTuple};
use march_wire::{Buffer, DropReason, Verdict, icmp, tcp};

use crate::context::{Context, Shared};
use crate::rewrite::IpVersion;
use crate::side::Side;
use crate::slow::{Step, Transit, expired, raw_ports, reset, resolve};

/// Source ports tried before giving up. With 95 of 100 in use, all fail once in 700 times.
const NAT_TRIES: u64 = 128;

/// Steps of a walk over tuples. A prime beyond any number of tuples divides none, so that a walk visits all of them;
/// near the golden section of 2^64, so that neighbours in time are no neighbours in ports.
const NAT_STEP: u64 = 0x9e37_79b9_7f4a_7bb9;

/// What the rules say: for a service what no rule denies goes, for transit only what a rule allows.
pub(crate) fn rule_allows<A: Address>(
    shared: &Shared,
    context: &Context<'_>,
    tuple: &FiveTuple<A>,
    is_transit: bool,
) -> Step<()> {
    let matched = context.generation.rules.classify(tuple, context.ingress);
    if let Some(counter) =
        matched.and_then(|matched| shared.counters.rules.get(usize::from(matched.rule)))
    {
        counter.add(1);
    }
    match matched.map(|matched| matched.action) {
        Some(Action::Drop) => Err(Verdict::Drop(DropReason::RuleDrop)),
        Some(Action::Allow) => Ok(()),
        None if is_transit => Err(Verdict::Drop(DropReason::NoService)),
        None => Ok(()),
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

impl<F: IpVersion> Side<F> {
    /// A packet without a flow.
    pub fn first<B: Buffer>(
        &mut self,
        shared: &mut Shared,
        context: &Context<'_>,
        frame: &mut B,
        transit: &Transit<'_, F>,
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
            AddressKind::Vip => self.first_to_service(shared, context, frame, transit),
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

    fn first_to_service<B: Buffer>(
        &mut self,
        shared: &mut Shared,
        context: &Context<'_>,
        frame: &mut B,
        transit: &Transit<'_, F>,
    ) -> Step<Verdict> {
        let tuple = transit.tuple();
        rule_allows(shared, context, &tuple, false)?;
        let generation = context.generation;
        let id = generation
            .services
            .lookup(transit.dst, tuple.protocol, tuple.dst_port)
            .ok_or(Verdict::Drop(DropReason::NoService))?;
        if transit
            .tcp_flags()
            .is_some_and(|flags| !tcp::is_opening(flags))
        {
            return reset(shared, context, frame, transit.packet, DropReason::NoFlow);
        }
        if transit.packet.ttl <= 1 {
            return expired(shared, context, frame, transit.packet);
        }
        let service = generation.services.get(id);
        let (slot, backend) = choose::<F>(shared, context, service, &tuple)?;
        let reverse = self.reverse_key(shared, context, service, backend, &tuple)?;
        let state = match transit.packet.l4 {
            L4::Tcp { .. } => FlowState::SynSent,
            _ => FlowState::Datagram,
        };
        let mut flow = Self::flow(context, &tuple, reverse, state);
        flow.service = id;
        flow.backend = slot;
        self.open(shared, context, frame, transit, flow)
    }

    /// Under which key the backend's answers will come, and so what the backend will see.
    fn reverse_key(
        &self,
        shared: &mut Shared,
        context: &Context<'_>,
        service: &Service,
        backend: &Backend,
        tuple: &FiveTuple<F::Address>,
    ) -> Step<Key<F::Pair>> {
        let address =
            F::Address::from_ip(backend.address).ok_or(Verdict::Drop(DropReason::NoBackend))?;
        let port = if backend.port == 0 {
            tuple.dst_port
        } else {
            backend.port
        };
        let answers_to = |client, client_port| Key {
            addresses: F::pair(address, client),
            ports: raw_ports(port, client_port),
            protocol: tuple.protocol,
        };
        // The egress port, and so the NAT pool, is known once the next hop is.
        let known = context.generation.adjacency(backend.adjacency);
        let egress = match known {
            Some(adjacency) if adjacency.state == march_tables::AdjacencyState::Resolved => {
                adjacency.port
            }
            _ => {
                let hop = resolve::<F>(shared, context, address)?;
                context
                    .generation
                    .adjacency(hop)
                    .ok_or(Verdict::Drop(DropReason::NoRoute))?
                    .port
            }
        };
        match service.mode {
            Mode::Nat => self.unused(answers_to(tuple.src, tuple.src_port)),
            Mode::FullNat => {
                let pool = context
                    .generation
                    .port(egress)
                    .map(F::nat)
                    .ok_or(Verdict::Drop(DropReason::NoRoute))?;
                shared.nat_salt = shared
                    .nat_salt
                    .wrapping_mul(0x5851_f42d_4c95_7f2d)
                    .wrapping_add(0x1405_7b7e_f767_814f);
                let salt = shared.nat_salt >> 16;
                free_tuple(pool, salt, |source, source_port| {
                    let key = answers_to(source, source_port);
                    self.unused(key).ok()
                })
                .ok_or(Verdict::Drop(DropReason::NatExhausted))
            }
        }
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
        let tuple = transit.tuple();
        rule_allows(shared, context, &tuple, true)?;
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

    fn flow(
        context: &Context<'_>,
        tuple: &FiveTuple<F::Address>,
        reverse: Key<F::Pair>,
        state: FlowState,
    ) -> Flow<F::Pair> {
        let forward = Key {
            addresses: F::pair(tuple.src, tuple.dst),
            ports: raw_ports(tuple.src_port, tuple.dst_port),
            protocol: tuple.protocol,
        };
        let mut flow = Flow::new(forward, reverse, state, context.now.ms);
        flow.epoch = context.generation.epoch;
        flow.next_hop = [NONE; 2];
        flow
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

/// Walks the pool's (address, port) pairs from a pseudo-random one on, in steps that visit all of them, until `is_free`
/// gives something.
fn free_tuple<A: Copy, T>(
    pool: &NatPool<A>,
    salt: u64,
    is_free: impl Fn(A, u16) -> Option<T>,
) -> Option<T> {
    let ports = u64::from(pool.last_port.checked_sub(pool.first_port)?) + 1;
    let tuples = ports * pool.addresses.len() as u64;
    if tuples == 0 {
        return None;
    }
    let step = NAT_STEP % tuples;
    let mut at = salt % tuples;
    for _ in 0..NAT_TRIES.min(tuples) {
        let address = *pool.addresses.get(usize::try_from(at / ports).ok()?)?;
        let port = pool.first_port + u16::try_from(at % ports).ok()?;
        if let Some(found) = is_free(address, port) {
            return Some(found);
        }
        at = (at + step) % tuples;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
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
                let seen = RefCell::new(HashSet::new());
                let none: Option<()> = free_tuple(&pool, salt, |address, port| {
                    assert!((first_port..=last_port).contains(&port));
                    seen.borrow_mut().insert((address, port));
                    None
                });
                assert_eq!(none, None);
                let visited = seen.borrow().len() as u64;
                assert_eq!(
                    visited,
                    NAT_TRIES.min(tuples),
                    "{addresses} x {first_port}-{last_port}"
                );
            }
        }
    }
}
