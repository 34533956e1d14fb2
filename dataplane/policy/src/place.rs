//! Where a rule or a service is carried out. Computed from what it needs, never configured.

use march_tables::{Action, Mode, Redirect, Rule, Service, SourceNat};

/// Where something is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// By the lcores, packet by packet.
    FastPath,
    /// By listeners on the kernel's stack, stream by stream.
    SlowPath,
}

impl Place {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::FastPath => "fast path",
            Self::SlowPath => "slow path",
        }
    }
}

/// A place, and why there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Where.
    pub place: Place,
    /// The need that decided, in words.
    pub why: &'static str,
}

const fn fast(why: &'static str) -> Placed {
    Placed {
        place: Place::FastPath,
        why,
    }
}

/// Where a rule is carried out.
#[must_use]
pub fn place_of_rule(rule: &Rule) -> Placed {
    match rule.action {
        Action::Drop => fast("drop needs headers only"),
        Action::Reject => fast("reject needs headers only: the answer is made from the packet"),
        Action::Punt => fast("punt hands the packet to the kernel as it is"),
        Action::Redirect(Redirect::Service(_) | Redirect::Address { .. }) => {
            fast("redirect rewrites addresses and ports")
        }
        Action::Redirect(Redirect::Port(_)) => fast("redirect chooses the egress port"),
        Action::Allow | Action::Count if rule.treatment.source_nat == SourceNat::Masquerade => {
            fast("masquerade rewrites the source")
        }
        Action::Allow | Action::Count if !rule.treatment.is_plain() => {
            fast("mark, mirror and limits need headers and lengths only")
        }
        Action::Allow => fast("allow needs headers only"),
        Action::Count => fast("count needs headers only"),
    }
}

/// Where a service is carried out, on a port that a fast tier drives.
#[must_use]
pub fn place_of_service(service: &Service) -> Placed {
    match service.mode {
        Mode::FullNat => fast("full_nat rewrites both addresses, packet by packet"),
        Mode::Nat => fast("nat rewrites the destination, packet by packet"),
    }
}
