//! Source translation: which address and port of a pool a new flow gets.

use std::hash::{DefaultHasher, Hasher};
use std::net::IpAddr;

use march_flow::{FlowState, Key};
use march_tables::{NatPool, PortId};
use march_wire::{DropReason, Verdict, ip};

use crate::context::{Context, Shared};
use crate::rewrite::IpVersion;
use crate::side::Side;
use crate::slow::{Step, port_numbers, raw_ports};

/// Sources tried in their turn, of which long connections may hold some.
const TURN_TRIES: usize = 8;

/// Sources tried anywhere before giving up. With 95 of 100 in use, all fail once in 700 times.
const NAT_TRIES: u64 = 128;

/// Counters of turns: many more than there are backends, so that few share one. A power of two.
const TURNS: usize = 4_096;

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

/// Whose turn it is, by the far end. A pool's sources are used one after the other, so that each rests as long as it can: a
/// server that closed a connection remembers it for a minute and may refuse the next one between the same ends. Only TCP has
/// that memory: all else gets any source, which nobody outside can foretell. A forged answer to a question that this box
/// translated must still guess the port.
pub(crate) struct Turns {
    by_far_end: Box<[u32]>,
    secret: (u64, u64),
    drawn: u64,
}

impl Turns {
    /// Each begins somewhere else.
    pub fn new(seed: (u64, u64)) -> Self {
        let mut salt = seed.0 ^ seed.1;
        let starts = (0..TURNS).map(|_| {
            salt = salt
                .wrapping_mul(0x5851_f42d_4c95_7f2d)
                .wrapping_add(0x1405_7b7e_f767_814f);
            u32::try_from(salt >> 32).unwrap_or_default()
        });
        Self {
            by_far_end: starts.collect(),
            secret: seed,
            drawn: 0,
        }
    }

    /// The next turn towards this far end.
    fn next(&mut self, protocol: u8, far: IpAddr, port: u16) -> u32 {
        if protocol != ip::TCP {
            return self.draw();
        }
        let bits = match far {
            IpAddr::V4(address) => u64::from(address.to_bits()),
            IpAddr::V6(address) => {
                let bits = address.to_bits();
                u64::try_from(bits >> 64 ^ bits & u128::from(u64::MAX)).unwrap_or_default()
            }
        };
        let hash = (bits ^ u64::from(port) << 40).wrapping_mul(NAT_STEP) >> 32;
        let place = usize::try_from(hash).unwrap_or_default() % TURNS;
        self.by_far_end.get_mut(place).map_or(0, |turn| {
            *turn = turn.wrapping_add(1);
            *turn
        })
    }

    /// Any number: a keyed hash of how many there were.
    fn draw(&mut self) -> u32 {
        self.drawn = self.drawn.wrapping_add(1);
        let mut hasher = DefaultHasher::new();
        for word in [self.secret.0, self.secret.1, self.drawn] {
            hasher.write_u64(word);
        }
        u32::try_from(hasher.finish() >> 32).unwrap_or_default()
    }
}

impl<F: IpVersion> Side<F> {
    /// The answers' key: the one given or, where that is taken and the source is ours to choose, one of the next in turn or any
    /// other. If all that were tried are taken, a connection that is over or whose handshake is not done is to make room: its index
    /// comes with the key.
    pub fn settle(
        &self,
        shared: &mut Shared,
        context: &Context<'_>,
        reverse: Key<F::Pair>,
        source: Source,
        numbered: Numbered,
    ) -> Step<(Key<F::Pair>, Option<u32>)> {
        if self.flows.find(&reverse).is_none() {
            return Ok((reverse, None));
        }
        // Two flows whose answers look the same cannot be told apart.
        let Source::PoolOf(egress) = source else {
            return Err(Verdict::Drop(DropReason::NatExhausted));
        };
        let (address, _) = F::addresses(reverse.addresses);
        let (far, salt) = port_numbers(reverse.ports);
        let mut over = None;
        let pool = context.generation.port(egress).map(F::nat);
        let pool = pool.ok_or(Verdict::Drop(DropReason::NatExhausted))?;
        let turns = &mut shared.turns;
        let protocol = reverse.protocol;
        let in_turn =
            std::iter::from_fn(|| nat_tuple(pool, turns.next(protocol, address.into(), far)));
        let anywhere = nat_tuples(pool, salt.into());
        for (source, near) in in_turn.take(TURN_TRIES).chain(anywhere) {
            let key = Key {
                addresses: F::pair(address, source),
                ports: numbered.raw(far, near),
                ..reverse
            };
            let Some(handle) = self.flows.find(&key) else {
                return Ok((key, None));
            };
            let state = self.flows.flow(handle.index).state;
            if over.is_none() && (state == FlowState::Closed || state.is_embryonic()) {
                over = Some((handle.index, key));
            }
        }
        let (index, key) = over.ok_or(Verdict::Drop(DropReason::NatExhausted))?;
        Ok((key, Some(index)))
    }
}

/// The source out of the port's pool whose turn it is towards the far end.
pub(crate) fn next_source<F: IpVersion>(
    shared: &mut Shared,
    context: &Context<'_>,
    egress: PortId,
    protocol: u8,
    (far, port): (F::Address, u16),
) -> Step<(F::Address, u16)> {
    let pool = context.generation.port(egress).map(F::nat);
    let turn = shared.turns.next(protocol, far.into(), port);
    pool.and_then(|pool| nat_tuple(pool, turn))
        .ok_or(Verdict::Drop(DropReason::NatExhausted))
}

/// How many (address, port) pairs a pool has.
fn nat_size<A>(pool: &NatPool<A>) -> u64 {
    let ports = u64::from(pool.last_port) + 1;
    ports.saturating_sub(pool.first_port.into()) * pool.addresses.len() as u64
}

/// The pair at a place below [`nat_size`].
fn nat_at<A: Copy>(pool: &NatPool<A>, at: u64) -> Option<(A, u16)> {
    let ports = u64::from(pool.last_port.checked_sub(pool.first_port)?) + 1;
    let address = pool.addresses.get(usize::try_from(at / ports).ok()?)?;
    let port = u16::try_from(at % ports).ok()?;
    Some((*address, pool.first_port + port))
}

/// The pair whose turn it is: turns in a row visit all pairs of the pool before they come back to one.
fn nat_tuple<A: Copy>(pool: &NatPool<A>, turn: u32) -> Option<(A, u16)> {
    let tuples = nat_size(pool);
    let step = NAT_STEP.checked_rem(tuples)?;
    nat_at(pool, u64::from(turn) % tuples * step % tuples)
}

/// The pairs of the pool from a pseudo-random one on, in steps that visit all of them; [`NAT_TRIES`] at most.
fn nat_tuples<A: Copy>(pool: &NatPool<A>, salt: u64) -> impl Iterator<Item = (A, u16)> + '_ {
    let tuples = nat_size(pool);
    let step = NAT_STEP.checked_rem(tuples).unwrap_or(0);
    let mut at = salt.checked_rem(tuples).unwrap_or(0);
    (0..NAT_TRIES.min(tuples)).filter_map(move |_| {
        let pair = nat_at(pool, at);
        at = (at + step) % tuples;
        pair
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn connections_take_turns_and_nobody_foretells_the_rest() {
        let far = IpAddr::from([192, 0, 2, 1]);
        let draws = |seed, protocol| -> Vec<u32> {
            let mut turns = Turns::new(seed);
            (0..64).map(|_| turns.next(protocol, far, 53)).collect()
        };
        let steps = |turns: &[u32]| -> HashSet<u32> {
            let pairs = turns.windows(2);
            pairs.map(|pair| pair[1].wrapping_sub(pair[0])).collect()
        };
        assert_eq!(steps(&draws((1, 2), ip::TCP)), HashSet::from([1]));
        for protocol in [ip::UDP, ip::ICMP, 50] {
            let drawn = draws((1, 2), protocol);
            assert_eq!(steps(&drawn).len(), 63, "no two steps are alike");
            for other in [(1, 3), (2, 2), (2, 1)] {
                assert_ne!(steps(&drawn), steps(&draws(other, protocol)));
            }
        }
    }

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
            let tuples = nat_size(&pool);
            for start in [0, 1_000_000_007] {
                let turns = start..start + u32::try_from(tuples).expect("some tuples");
                let seen: HashSet<_> = turns.filter_map(|turn| nat_tuple(&pool, turn)).collect();
                assert_eq!(seen.len() as u64, tuples, "each has one turn");
            }
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
