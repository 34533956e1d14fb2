//! Rules of one family in order, searched sixteen at a time.

use super::RuleMatch;
use super::entry::{Entry, Probe};
use crate::RuleId;
use crate::number::Number;

/// Rules in one block. The four comparisons over sixteen lanes become vector instructions.
const LANES: usize = 16;

/// The covers of sixteen rules, coarsely: what refuses most rules for most packets.
#[derive(Debug)]
#[repr(align(64))]
struct Block<C> {
    destination_first: [C; LANES],
    destination_last: [C; LANES],
    source_first: [C; LANES],
    source_last: [C; LANES],
}

impl<C: Copy + Ord> Block<C> {
    /// A bit for each lane whose covers hold the addresses.
    #[inline]
    fn candidates(&self, source: C, destination: C) -> u32 {
        let mut mask = 0;
        for lane in 0..LANES {
            let is_candidate = (self.destination_first[lane] <= destination)
                & (destination <= self.destination_last[lane])
                & (self.source_first[lane] <= source)
                & (source <= self.source_last[lane]);
            mask |= u32::from(is_candidate) << lane;
        }
        mask
    }
}

/// The rules, first to be looked at first.
#[derive(Debug)]
pub(super) struct List<N: Number> {
    blocks: Box<[Block<N::Coarse>]>,
    entries: Box<[Entry<N>]>,
}

impl<N: Number> List<N> {
    pub fn new(entries: impl Iterator<Item = Entry<N>>) -> Self {
        let entries: Box<[Entry<N>]> = entries.collect();
        let block = |rules: &[Entry<N>]| {
            // A lane without a rule: the first is behind the last, so that nothing is in it.
            let mut block = Block {
                destination_first: [N::COARSE_MAX; LANES],
                destination_last: [N::COARSE_ZERO; LANES],
                source_first: [N::COARSE_MAX; LANES],
                source_last: [N::COARSE_ZERO; LANES],
            };
            for (lane, rule) in rules.iter().enumerate() {
                block.destination_first[lane] = rule.destination.first.coarse();
                block.destination_last[lane] = rule.destination.last.coarse();
                block.source_first[lane] = rule.source.first.coarse();
                block.source_last[lane] = rule.source.last.coarse();
            }
            block
        };
        Self {
            blocks: entries.chunks(LANES).map(block).collect(),
            entries,
        }
    }

    /// The first rule that matches and that `accept` does not refuse: it is asked about rules with criteria only.
    #[inline]
    pub fn first_match(
        &self,
        probe: &Probe<N>,
        accept: impl Fn(RuleId) -> bool,
    ) -> Option<RuleMatch> {
        let (source, destination) = (probe.source.coarse(), probe.destination.coarse());
        for (block, rules) in self.blocks.iter().zip(self.entries.chunks(LANES)) {
            let mut candidates = block.candidates(source, destination);
            while candidates != 0 {
                let rule = rules.get(candidates.trailing_zeros() as usize)?;
                if rule.matches(probe) && (rule.is_complete || accept(rule.rule)) {
                    return Some(RuleMatch {
                        rule: rule.rule,
                        action: rule.action,
                        treatment: rule.treatment,
                    });
                }
                candidates &= candidates - 1;
            }
        }
        None
    }
}
