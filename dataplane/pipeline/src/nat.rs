//! Source translation: which address and port of a pool a new flow gets.

use march_flow::{FlowState, Key};
use march_tables::{NatPool, PortId};
use march_wire::{DropReason, Verdict, ip};

use crate::context::{Context, Shared};
use crate::rewrite::IpVersion;
use crate::side::Side;
use crate::slow::{Step, port_numbers, raw_ports};

/// Source ports tried before giving up. With 95 of 100 in use, all fail once in 700 times.
const NAT_TRIES: u64 = 128;

/// Steps of a walk over tuples. A prime beyond any number of tuples divides none, so that a walk visits all of them;
/// near the golden section of 2^64, so that neighbours in time are no neighbours in ports.
const NAT_STEP: u64 = 0x9e37_79b9_7f4a_7bb9;

/// Whose address a flow's packets leave with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The opener's.
    Kept,
    /// One of this port's pool.
    PoolOf(PortId),
}

/// What tells the flows of one source apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Numbered {
    /// TCP and UDP: a port on either side.
    Ports,
    /// ICMP echo: one identifier for both.
    Identifier,
    /// Nothing but addresses.
    Not,
}

impl Numbered {
    /// How flows of this protocol, begun in `state`, are told apart.
    pub fn of(protocol: u8, state: FlowState) -> Self {
        match (protocol, state) {
            (ip::TCP | ip::UDP, _) => Self::Ports,
            (_, FlowState::Echo) => Self::Identifier,
            _ => Self::Not,
        }
    }

    /// The ports of the answers' key, as in [`Key::ports`]: the far end's, and ours (or the identifier).
    pub fn raw(self, far: u16, near: u16) -> u32 {
        match self {
            Self::Ports => raw_ports(far, near),
            Self::Identifier => raw_ports(near, near),
            Self::Not => 0,
        }
    }
}

impl<F: IpVersion> Side<F> {
    /// The answers' key: the one given or, where that is taken and the source is ours to choose, another. If all that were tried
    /// are taken, a connection that is over or whose handshake is not done makes room.
    pub fn settle(
        &mut self,
        shared: &Shared,
        context: &Context<'_>,
        reverse: Key<F::Pair>,
        source: Source,
        numbered: Numbered,
    ) -> Step<Key<F::Pair>> {
        if self.flows.find(&reverse).is_none() {
            return Ok(reverse);
        }
        // Two flows whose answers look the same cannot be told apart.
        let Source::PoolOf(egress) = source else {
            return Err(Verdict::Drop(DropReason::NatExhausted));
        };
        let (address, _) = F::addresses(reverse.addresses);
        let (far, salt) = port_numbers(reverse.ports);
        let mut over = None;
        let pool = context.generation.port(egress).map(F::nat);
        for (source, near) in pool
            .into_iter()
            .flat_map(|pool| nat_tuples(pool, salt.into()))
        {
            let key = Key {
                addresses: F::pair(address, source),
                ports: numbered.raw(far, near),
                ..reverse
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
}

/// A source out of the port's pool; which one is left to chance.
pub(crate) fn any_source<F: IpVersion>(
    shared: &mut Shared,
    context: &Context<'_>,
    egress: PortId,
) -> Step<(F::Address, u16)> {
    let pool = context.generation.port(egress).map(F::nat);
    let salt = shared.next_salt();
    pool.and_then(|pool| nat_tuples(pool, salt).next())
        .ok_or(Verdict::Drop(DropReason::NatExhausted))
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
