//! What is looked at before anything else: block and allow sets, and the rate of each source.

use core::net::IpAddr;

use march_tables::SetId;
use march_wire::{DropReason, Verdict};

use crate::decide::{Step, Walk};
use crate::decision::Guarded;
use crate::facts::Facts;

impl Walk<'_> {
    /// Asks the guard of the port that the packet came in on.
    pub(crate) fn guard(&mut self, facts: &Facts) -> Step<()> {
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
