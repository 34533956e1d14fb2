//! What a match is worth, in 64 bits: the lower one wins.
//!
//! From the top: 32 bits of rank, 20 bits of rule, the action without its parameters, and whether more has to be looked at.

use crate::{Action, RuleId};

/// No match: above every other.
pub(super) const NONE: u64 = u64::MAX;

const RULE_SHIFT: u32 = 12;
const RULE_MASK: u64 = (1 << 20) - 1;
const CONDITIONAL: u64 = 1 << 3;
const TREATED: u64 = 1 << 4;
const KIND_MASK: u64 = 7;

const _: () = assert!(super::MAX_RULES as u64 == RULE_MASK + 1);

/// Packs. `is_conditional`: the box is wider than the rule. `is_treated`: the rule has a treatment.
pub(super) fn pack(rank: u32, rule: RuleId, action: Action, flags: Flags) -> u64 {
    let kind = match action {
        Action::Allow => 0,
        Action::Drop => 1,
        Action::Reject => 2,
        Action::Count => 3,
        Action::Punt => 4,
        Action::Redirect(_) => 5,
    };
    u64::from(rank) << 32
        | u64::from(rule) << RULE_SHIFT
        | kind
        | if flags.is_conditional { CONDITIONAL } else { 0 }
        | if flags.is_treated { TREATED } else { 0 }
}

/// What else there is to a rule.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Flags {
    /// What is in the box may still not match: the whole rule must be asked.
    pub is_conditional: bool,
    /// It has a treatment.
    pub is_treated: bool,
}

/// Which rule.
#[inline]
pub(super) fn rule(verdict: u64) -> RuleId {
    (verdict >> RULE_SHIFT & RULE_MASK) as RuleId
}

/// Whether the rule must be asked.
#[inline]
pub(super) fn is_conditional(verdict: u64) -> bool {
    verdict & CONDITIONAL != 0
}

/// Its action without parameters: a number from 0.
#[inline]
pub(super) fn kind(verdict: u64) -> u64 {
    verdict & KIND_MASK
}

/// Whether the rule says more than the verdict: it redirects, or has a treatment.
#[inline]
pub(super) fn needs_source(verdict: u64) -> bool {
    verdict & (TREATED | KIND_MASK) > 4
}
