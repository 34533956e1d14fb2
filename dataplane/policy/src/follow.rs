//! Deciding beside the data plane: with its choices where it may choose, and with a word on whether the two agree.

use march_tables::Algorithm;
use march_wire::{L4, Packet, Verdict, parse};

use crate::decide::{Arrival, Chance};
use crate::decision::Decision;
use crate::flows::State;
use crate::policy::Policy;

/// What a data plane did with a frame.
#[derive(Clone, Copy, Debug)]
pub struct Observed<'a> {
    /// Its verdict.
    pub verdict: Verdict,
    /// The frame afterwards.
    pub frame: &'a [u8],
}

impl Decision {
    /// Whether the data plane did just this.
    #[must_use]
    pub fn agrees(&self, observed: &Observed<'_>) -> bool {
        self.verdict == observed.verdict && self.frame == observed.frame
    }
}

impl Chance {
    /// What the data plane chose, read from what left. A rewrite moves nothing, so both ends are where they were.
    #[must_use]
    pub fn of(before: &[u8], after: &[u8]) -> Self {
        let Ok(Packet::Ip(packet)) = parse(before) else {
            return Self::default();
        };
        let word = |at: usize| {
            let bytes = after.get(packet.l4_offset + at..)?.first_chunk::<2>()?;
            Some(u16::from_be_bytes(*bytes))
        };
        let (src_port, dst_port) = match packet.l4 {
            L4::Tcp { .. } | L4::Udp { .. } => (word(0), word(2)),
            L4::Icmp { .. } => (word(4), word(4)),
            L4::Other => (None, None),
        };
        let ends = packet.ip_addresses(after);
        Self {
            source: ends.map(|(src, _)| (src, src_port.unwrap_or(0))),
            backend: ends.map(|(_, dst)| (dst, dst_port.unwrap_or(0))),
        }
    }
}

impl Policy {
    /// Decides as [`Policy::decide`] does, with what the data plane chose. Whose turn it was does not show in a packet that did not
    /// go: then each backend that takes turns is tried.
    pub fn follow(
        &self,
        state: &mut State,
        arrival: Arrival<'_>,
        observed: &Observed<'_>,
    ) -> Decision {
        let pools = &self.config().pools;
        let by_turns = || {
            pools
                .iter()
                .filter(|pool| pool.algorithm == Algorithm::RoundRobin)
        };
        let shows = matches!(observed.verdict, Verdict::Forward { .. });
        if shows || by_turns().next().is_none() {
            let chance = Chance::of(arrival.frame, observed.frame);
            return self.decide(state, arrival, chance);
        }
        let before = state.clone();
        let first = self.decide(state, arrival, Chance::default());
        if first.agrees(observed) {
            return first;
        }
        for backend in by_turns().flat_map(|pool| &pool.backends) {
            let chance = Chance {
                source: None,
                backend: Some((backend.address, backend.port)),
            };
            let mut tried = before.clone();
            let decision = self.decide(&mut tried, arrival, chance);
            if decision.agrees(observed) {
                *state = tried;
                return decision;
            }
        }
        first
    }
}
