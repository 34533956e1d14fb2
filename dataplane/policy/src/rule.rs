//! Which rule decides about a packet, and what it says.

use core::net::IpAddr;

use march_tables::{
    Action, PortId, PortRange, Redirect, Rule, RuleId, SetId, Stance, TcpFlags, Treatment, Vlan,
    Wholeness,
};
use march_wire::parse::Fragment;
use march_wire::tuple::IpPrefix;
use march_wire::{DropReason, Verdict};

use crate::decide::{Step, Walk};
use crate::decision::{Counter, RuleUse};
use crate::facts::{Facts, ICMP, ICMPV6, TCP, Tuple, UDP};
use crate::flows::Opening;
use crate::policy::Policy;
use crate::sets::AddressSets;

/// What rules see of a packet, or of the packet that opened a flow.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// Addresses, protocol, ports.
    pub tuple: Tuple,
    /// Where it came in.
    pub ingress: PortId,
    /// VLAN identifier.
    pub vlan: Option<u16>,
    /// Code point.
    pub dscp: u8,
    /// Flags of the TCP header, if there is one.
    pub tcp_flags: Option<u8>,
    /// Type and code of the ICMP header, if there is one.
    pub icmp: Option<(u8, u8)>,
    /// Whether it is whole.
    pub fragment: Fragment,
}

impl Seen {
    pub(crate) fn packet(facts: &Facts, ingress: PortId) -> Self {
        Self {
            tuple: facts.tuple,
            ingress,
            vlan: facts.vlan,
            dscp: facts.dscp,
            tcp_flags: facts.tcp_flags,
            icmp: facts.icmp,
            fragment: facts.packet.fragment,
        }
    }

    /// A flow's opening packet: what opened it was whole.
    pub(crate) fn opening(opening: &Opening) -> Self {
        Self {
            tuple: opening.tuple,
            ingress: opening.ingress,
            vlan: opening.vlan,
            dscp: opening.dscp,
            tcp_flags: opening.tcp_flags,
            icmp: opening.icmp,
            fragment: Fragment::None,
        }
    }
}

/// Whether a packet is what a rule describes. A field that the rule does not give is met by anything.
#[must_use]
pub fn matches(rule: &Rule, sets: &dyn AddressSets, seen: &Seen) -> bool {
    let criteria = &rule.criteria;
    let Tuple { src, dst, .. } = seen.tuple;
    side(
        sets,
        &rule.sources,
        &criteria.source_sets,
        &criteria.not_source_sets,
        src,
    ) && side(
        sets,
        &rule.destinations,
        &criteria.destination_sets,
        &criteria.not_destination_sets,
        dst,
    ) && rule
        .protocol
        .is_none_or(|protocol| protocol == seen.tuple.protocol)
        && port(&rule.source_ports, seen, seen.tuple.src_port)
        && port(&rule.ports, seen, seen.tuple.dst_port)
        && icmp(rule, seen)
        && criteria.tcp_flags.is_none_or(|wanted| flags(wanted, seen))
        && (criteria.dscp == 0 || criteria.dscp >> seen.dscp & 1 == 1)
        && (criteria.ingress.is_empty() || criteria.ingress.contains(&seen.ingress))
        && vlan(&criteria.vlans, seen.vlan)
        && criteria
            .fragment
            .is_none_or(|wanted| wholeness(wanted, seen.fragment))
}

/// One end: in a prefix or in a set, if any of either is given, and in none of the sets that it must not be in.
fn side(
    sets: &dyn AddressSets,
    prefixes: &[IpPrefix],
    of: &[SetId],
    not_of: &[SetId],
    address: IpAddr,
) -> bool {
    let is_in = |set: &SetId| sets.longest(*set, address).is_some();
    let says_nothing = prefixes.is_empty() && of.is_empty();
    let is_meant = says_nothing
        || prefixes.iter().any(|prefix| prefix.contains(address))
        || of.iter().any(is_in);
    is_meant && !not_of.iter().any(is_in)
}

/// A port list is met by TCP and UDP only, and by a later fragment never: its ports are not known.
fn port(ranges: &[PortRange], seen: &Seen, port: u16) -> bool {
    let is_known = matches!(seen.tuple.protocol, TCP | UDP) && seen.fragment != Fragment::Later;
    ranges.is_empty()
        || (is_known
            && ranges
                .iter()
                .any(|range| range.first <= port && port <= range.last))
}

/// ICMP in IPv4, `ICMPv6` in IPv6; nothing else meets a list of messages.
fn icmp(rule: &Rule, seen: &Seen) -> bool {
    let messages = &rule.criteria.icmp;
    let own = if seen.tuple.src.is_ipv4() {
        ICMP
    } else {
        ICMPV6
    };
    messages.is_empty()
        || (seen.tuple.protocol == own
            && seen.icmp.is_some_and(|(kind, code)| {
                let is = |code_wanted: Option<u8>| code_wanted.is_none_or(|wanted| wanted == code);
                messages
                    .iter()
                    .any(|message| message.kind == kind && is(message.code))
            }))
}

/// Only TCP has flags, and only where its header is.
fn flags(wanted: TcpFlags, seen: &Seen) -> bool {
    seen.tcp_flags
        .is_some_and(|flags| flags & wanted.mask == wanted.value)
}

fn vlan(wanted: &[Vlan], tag: Option<u16>) -> bool {
    let is = |vlan: &Vlan| match (*vlan, tag) {
        (Vlan::Untagged, None) => true,
        (Vlan::Ids(first, last), Some(id)) => first <= id && id <= last,
        (Vlan::Untagged, Some(_)) | (Vlan::Ids(..), None) => false,
    };
    wanted.is_empty() || wanted.iter().any(is)
}

fn wholeness(wanted: Wholeness, fragment: Fragment) -> bool {
    match wanted {
        Wholeness::Whole => fragment == Fragment::None,
        Wholeness::Fragment => matches!(fragment, Fragment::First | Fragment::Later),
        Wholeness::First => fragment == Fragment::First,
        Wholeness::Later => fragment == Fragment::Later,
    }
}

/// For what the packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Towards {
    /// An address of a service.
    Service,
    /// Another host.
    Transit,
}

/// What lets a packet go on: the rule's treatment, and where it is sent instead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pass {
    pub treatment: Treatment,
    pub redirect: Option<Redirect>,
}

/// What keeps it from going on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Dropped, or for the kernel.
    As(Verdict),
    /// Dropped and answered.
    Rejected,
}

impl Policy {
    /// The first rule, by priority and then by name, that describes what is seen.
    pub(crate) fn first_match(&self, seen: &Seen) -> Option<(RuleId, &Rule)> {
        self.rules()
            .find(|(_, rule)| matches(rule, &*self.sets, seen))
    }
}

impl Walk<'_> {
    /// Asks the rules and, where none decides, the default of the port that the packet came in on.
    pub(crate) fn judge(&mut self, seen: &Seen, towards: Towards) -> Result<Pass, Refused> {
        let policy = self.policy;
        let matched = policy.first_match(seen);
        if let Some((id, rule)) = matched {
            self.move_counter(Counter::RuleHits(id), 1);
            self.told.rule = Some(RuleUse::Matched {
                rule: id,
                name: rule.name.clone(),
                priority: rule.priority,
                mapping: rule.mapping.clone(),
                action: rule.action,
                treatment: rule.treatment,
                placed: crate::place::place_of_rule(rule),
            });
        }
        let treatment = matched.map(|(_, rule)| rule.treatment).unwrap_or_default();
        match matched.map(|(_, rule)| rule.action) {
            Some(Action::Allow) => Ok(Pass {
                treatment,
                redirect: None,
            }),
            Some(Action::Redirect(redirect)) => Ok(Pass {
                treatment,
                redirect: Some(redirect),
            }),
            Some(Action::Drop) => Err(Refused::As(Verdict::Drop(DropReason::RuleDrop))),
            Some(Action::Punt) => Err(Refused::As(Verdict::Punt)),
            Some(Action::Reject) => Err(Refused::Rejected),
            Some(Action::Count) | None => {
                self.default_of(seen.ingress, towards)?;
                Ok(Pass {
                    treatment,
                    redirect: None,
                })
            }
        }
    }

    /// What the port does with what no rule decides about.
    fn default_of(&mut self, ingress: PortId, towards: Towards) -> Result<(), Refused> {
        let unmatched = self
            .policy
            .port(ingress)
            .map(|port| port.unmatched)
            .unwrap_or_default();
        let (stance, reason) = match towards {
            Towards::Service => (unmatched.services, DropReason::DefaultDeny),
            Towards::Transit => (unmatched.transit, DropReason::NoService),
        };
        match self.told.rule {
            Some(RuleUse::Matched { .. }) => self.told.default_after_count = Some(stance),
            _ => {
                self.told.rule = Some(RuleUse::Default {
                    ingress,
                    stance,
                    towards,
                });
            }
        }
        match stance {
            Stance::Allow => Ok(()),
            Stance::Deny => Err(Refused::As(Verdict::Drop(reason))),
        }
    }

    /// [`Walk::judge`] for a packet that is here: a rejected one is answered.
    pub(crate) fn judge_packet(&mut self, facts: &Facts, towards: Towards) -> Step<Pass> {
        let seen = Seen::packet(facts, self.arrival.ingress);
        self.judge(&seen, towards).map_err(|refused| match refused {
            Refused::As(verdict) => verdict,
            Refused::Rejected => self.reject(facts),
        })
    }
}
