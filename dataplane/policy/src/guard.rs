//! What is looked at before anything else: block and allow sets, and the rate of each source.

use core::net::IpAddr;

use march_tables::SetId;
use march_wire::{DropReason, Verdict};

use crate::decide::{Step, Walk};
use crate::decision::Guarded;
use crate::facts::{ACK, Facts, SYN};
use crate::limit::Taken;

/// Packets for the kernel that strangers may send, per second and at once.
const STRANGERS_PER_SECOND: u64 = 20_000;
const STRANGERS_AT_ONCE: u64 = 2_000;

impl Walk<'_> {
    /// Asks the guard of the port that the packet came in on. What a link needs to work at all is never held up: neighbour
    /// discovery that no router let through.
    pub(crate) fn guard(&mut self, facts: &Facts) -> Step<()> {
        if facts.is_neighbour() && facts.packet.ttl == u8::MAX {
            return Ok(());
        }
        let guard = &self.port.guard;
        if guard.block.is_empty() && guard.allow.is_empty() && guard.per_source.is_none() {
            return Ok(());
        }
        let source = facts.tuple.src;
        let said = self.listed(&guard.block, &guard.allow, source);
        self.told.guard = Some(said);
        match (said, guard.per_source) {
            (Guarded::Blocked { .. }, _) => Err(Verdict::Drop(DropReason::Blocked)),
            (Guarded::Allowed { .. }, _) | (_, None) => Ok(()),
            (Guarded::Unlisted, Some(limit)) => {
                self.charge(limit, source, None, DropReason::SourceRate)
            }
        }
    }

    /// The bound on what of the kernel's traffic strangers may have. What comes from an allowed source, from the link itself (no router
    /// lets a hop limit of 255 through) or belongs to something that the box began or agreed to is not bound.
    pub(crate) fn punt(&mut self, facts: &Facts) -> Verdict {
        let is_allowed = matches!(self.told.guard, Some(Guarded::Allowed { .. }));
        let is_agreed = match (facts.tcp_flags, facts.icmp) {
            (Some(flags), _) => flags & (SYN | ACK) != SYN,
            (None, Some((0, _))) if facts.is_ipv4() => true,
            (None, Some((129, _))) if !facts.is_ipv4() => true,
            _ => facts.is_icmp_error(),
        };
        if is_allowed || is_agreed || facts.packet.ttl == u8::MAX {
            return Verdict::Punt;
        }
        let now_ms = self.arrival.now_ms;
        match self
            .state
            .strangers
            .take(STRANGERS_PER_SECOND, STRANGERS_AT_ONCE, now_ms, 1)
        {
            Taken::Had(_) => Verdict::Punt,
            Taken::Lacked(_) => Verdict::Drop(DropReason::PuntRate),
        }
    }

    /// Of the sets that hold the source, the one with the longest prefix decides; between equals the one that allows.
    fn listed(&self, block: &[SetId], allow: &[SetId], source: IpAddr) -> Guarded {
        let longest = |sets: &[SetId]| {
            let holding = sets
                .iter()
                .filter_map(|set| Some((self.policy.sets.longest(*set, source)?, *set)));
            holding.max_by_key(|(length, _)| *length)
        };
        match (longest(block), longest(allow)) {
            (Some((blocked, set)), Some((allowed, _))) if blocked > allowed => Guarded::Blocked {
                set,
                length: blocked,
            },
            (_, Some((length, set))) => Guarded::Allowed { set, length },
            (Some((length, set)), None) => Guarded::Blocked { set, length },
            (None, None) => Guarded::Unlisted,
        }
    }
}
