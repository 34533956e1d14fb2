//! Packet vectors: frames in, verdicts, frames and counters out, the same set for every tier.
//!
//! What it is: the text format of `data/*.vec` ([`vector`]), an encoder of its own ([`encode`]) that shares no code with
//! the data plane, and the comparison ([`compare`]).
//!
//! What it is not: a generator of expectations. What must come out is written by hand from the specification and never
//! recorded from a run.
//!
//! Entry points: [`vector::Suite::shipped`] for the set, [`rig::Rig::run`] to run it over a tier; `tests/` has one run per
//! tier.
//!
//! Tiers: [`mem`], [`af_xdp`], [`dpdk`].
#![deny(unsafe_code)]

pub mod af_xdp;
pub mod compare;
pub mod config;
pub mod dpdk;
pub mod encode;
pub mod layer;
pub mod link;
pub mod mem;
pub mod rig;
pub mod vector;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::vector::{Outcome, Step, Suite};

    #[test]
    fn the_shipped_set_reads_and_covers() {
        let suite = Suite::shipped().unwrap_or_else(|error| panic!("{error}"));
        assert!(
            suite.vectors.len() >= 250,
            "{} vectors",
            suite.vectors.len()
        );
        let mut reasons = BTreeSet::new();
        for vector in &suite.vectors {
            for step in &vector.steps {
                if let Step::Frame {
                    outcome: Outcome::Drop(word),
                    ..
                } = step
                {
                    assert!(
                        march_wire::DropReason::ALL
                            .iter()
                            .any(|reason| reason.as_str() == word),
                        "{}: `{word}` is no drop reason",
                        vector.name
                    );
                    reasons.insert(word.as_str());
                }
            }
        }
        assert!(reasons.len() >= 32, "{reasons:?}");
    }
}
