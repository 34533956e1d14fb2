//! What the rules say of a packet: the one place where an action, or a port's default, becomes a decision. First packets,
//! fragments and flows that are judged again all come here.

use march_tables::{
    Action, Generation, NONE, PortId, Redirect, RuleId, RuleMatch, Stance, Subject, Treatment,
    TreatmentId, Unmatched,
};
use march_wire::DropReason;
use march_wire::tuple::Address;

use crate::counters::Counters;

/// Where a packet is addressed to, of what rules are asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bound {
    /// An address of services.
    Service,
    /// Somebody behind this box.
    Transit,
}

/// What is to become of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// Goes where it is addressed to, treated like this.
    Pass(TreatmentId),
    /// Goes elsewhere, treated like this.
    Redirect(Redirect, TreatmentId),
    /// Is the kernel's.
    Punt,
    /// Is refused, with an answer if there may be one.
    Reject,
    /// Is dropped.
    Drop(DropReason),
}

/// Asks the rules.
pub(crate) fn ask<A: Address>(
    generation: &Generation,
    subject: &Subject<A>,
    bound: Bound,
) -> (Judgement, Option<RuleId>) {
    told(
        generation,
        subject.ingress,
        bound,
        generation.rules.classify(subject),
    )
}

/// The same where the rules were asked already.
pub(crate) fn told(
    generation: &Generation,
    ingress: PortId,
    bound: Bound,
    matched: Option<RuleMatch>,
) -> (Judgement, Option<RuleId>) {
    let port = generation.port(ingress);
    let unmatched = port.map(|port| port.unmatched).unwrap_or_default();
    (
        judge(matched, bound, unmatched),
        matched.map(|matched| matched.rule),
    )
}

/// Counts the rule that decided, if one did.
pub(crate) fn count(counters: &Counters, rule: Option<RuleId>) {
    let at = rule.and_then(|rule| usize::try_from(rule).ok());
    if let Some(counter) = at.and_then(|at| counters.rules.get(at)) {
        counter.add(1);
    }
}

/// What a match, or none, means where the port does `unmatched` with the rest.
pub(crate) fn judge(matched: Option<RuleMatch>, bound: Bound, unmatched: Unmatched) -> Judgement {
    let treatment = matched.map_or(NONE, |matched| matched.treatment);
    match matched.map(|matched| matched.action) {
        Some(Action::Allow) => Judgement::Pass(treatment),
        Some(Action::Redirect(redirect)) => Judgement::Redirect(redirect, treatment),
        Some(Action::Drop) => Judgement::Drop(DropReason::RuleDrop),
        Some(Action::Reject) => Judgement::Reject,
        Some(Action::Punt) => Judgement::Punt,
        None | Some(Action::Count) => match (bound, unmatched) {
            (
                Bound::Service,
                Unmatched {
                    services: Stance::Allow,
                    ..
                },
            )
            | (
                Bound::Transit,
                Unmatched {
                    transit: Stance::Allow,
                    ..
                },
            ) => Judgement::Pass(treatment),
            (Bound::Service, _) => Judgement::Drop(DropReason::DefaultDeny),
            (Bound::Transit, _) => Judgement::Drop(DropReason::NoService),
        },
    }
}

/// The treatment of an id; the plain one for [`NONE`].
pub(crate) fn treatment(generation: &Generation, id: TreatmentId) -> Treatment {
    let known = generation.treatments.get(usize::from(id));
    known.copied().unwrap_or_default()
}

/// The id that a flow remembers: [`NONE`] where nothing is to be done for each packet. Translation is not: it is in the flow's
/// keys.
pub(crate) fn lasting(generation: &Generation, id: TreatmentId) -> TreatmentId {
    let Treatment {
        mark,
        mirror,
        limit,
        ..
    } = treatment(generation, id);
    if mark.is_some() || mirror.is_some() || limit.is_some() {
        id
    } else {
        NONE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_action_under_every_default() {
        let matched = |action| {
            Some(RuleMatch {
                rule: 0,
                action,
                treatment: 3,
            })
        };
        let stances = [Stance::Allow, Stance::Deny];
        for (services, transit) in stances.map(|a| stances.map(|b| (a, b))).concat() {
            let unmatched = Unmatched { services, transit };
            for bound in [Bound::Service, Bound::Transit] {
                let (stance, reason) = match bound {
                    Bound::Service => (services, DropReason::DefaultDeny),
                    Bound::Transit => (transit, DropReason::NoService),
                };
                let by_default = |treatment| match stance {
                    Stance::Allow => Judgement::Pass(treatment),
                    Stance::Deny => Judgement::Drop(reason),
                };
                let redirect = Redirect::Port(1);
                for (matched, expected) in [
                    (None, by_default(NONE)),
                    (matched(Action::Count), by_default(3)),
                    (matched(Action::Allow), Judgement::Pass(3)),
                    (matched(Action::Drop), Judgement::Drop(DropReason::RuleDrop)),
                    (matched(Action::Reject), Judgement::Reject),
                    (matched(Action::Punt), Judgement::Punt),
                    (
                        matched(Action::Redirect(redirect)),
                        Judgement::Redirect(redirect, 3),
                    ),
                ] {
                    assert_eq!(judge(matched, bound, unmatched), expected);
                }
            }
        }
    }
}
