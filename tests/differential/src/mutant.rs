//! Data planes that are wrong on purpose: what a comparison that sees nothing would let pass.

use march_tables::{Action, Config, PortRange, Rule, Stance};
use march_wire::tuple::IpPrefix;

/// One way to be wrong. The data plane gets what it makes of a configuration, the reference the configuration itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// The first two rules of different priority are looked at in the other order.
    SwapPriorities,
    /// A tie of priority goes the other way.
    ReverseTies,
    /// The first port range reaches one port further.
    WidenPorts,
    /// The first prefix is one bit shorter.
    WidenPrefix,
    /// The first set that a source must not be in is forgotten.
    DropNegatedSet,
    /// The first set that a source may be in is another.
    OtherSet,
    /// Code points are not looked at.
    DropDscp,
    /// VLANs are not looked at.
    DropVlan,
    /// Flags are not looked at.
    DropFlags,
    /// ICMP messages are not looked at.
    DropIcmp,
    /// Ports of arrival are not looked at.
    DropIngress,
    /// Fragments are not told apart.
    DropFragment,
    /// What is to be counted is allowed.
    CountAllows,
    /// What is to be rejected is dropped.
    RejectDrops,
    /// Marks are not written.
    DropMark,
    /// Copies are not made.
    DropMirror,
    /// Limits of rules are not kept.
    DropLimit,
    /// Transit goes out under its own address.
    DropMasquerade,
    /// The default of transit is the other one.
    OtherDefault,
    /// Guards let everything in.
    DropGuard,
    /// Services take any number of connections.
    DropServiceLimits,
}

impl Mutation {
    /// All of them.
    pub const ALL: [Self; 21] = [
        Self::SwapPriorities,
        Self::ReverseTies,
        Self::WidenPorts,
        Self::WidenPrefix,
        Self::DropNegatedSet,
        Self::OtherSet,
        Self::DropDscp,
        Self::DropVlan,
        Self::DropFlags,
        Self::DropIcmp,
        Self::DropIngress,
        Self::DropFragment,
        Self::CountAllows,
        Self::RejectDrops,
        Self::DropMark,
        Self::DropMirror,
        Self::DropLimit,
        Self::DropMasquerade,
        Self::OtherDefault,
        Self::DropGuard,
        Self::DropServiceLimits,
    ];

    /// Makes it wrong.
    pub fn apply(self, config: &mut Config) {
        match self {
            Self::OtherDefault => on_ports(config, |port| {
                port.unmatched.transit = match port.unmatched.transit {
                    Stance::Allow => Stance::Deny,
                    Stance::Deny => Stance::Allow,
                };
            }),
            Self::DropGuard => on_ports(config, |port| port.guard = march_tables::Guard::default()),
            Self::DropServiceLimits => {
                let mut services = config.services.to_vec();
                for service in &mut services {
                    service.limits = march_tables::ServiceLimits::default();
                }
                config.services = services.into();
            }
            _ => {
                let mut rules: Vec<Rule> =
                    config.rules.iter().map(|rule| Rule::clone(rule)).collect();
                self.on_rules(&mut rules);
                config.rules = rules.into_iter().collect();
            }
        }
    }

    fn on_rules(self, rules: &mut [Rule]) {
        match self {
            Self::SwapPriorities => swap_priorities(rules),
            Self::ReverseTies => {
                for rule in rules.iter_mut().filter(|rule| !rule.is_vacant()) {
                    rule.name = rule
                        .name
                        .bytes()
                        .map(|byte| char::from(0xff - byte))
                        .collect::<String>()
                        .into();
                }
            }
            Self::WidenPorts => {
                let ranges = rules.iter_mut().flat_map(|rule| &mut rule.ports);
                let widened = ranges.filter(|range| range.last < u16::MAX).take(1);
                widened.for_each(|range: &mut PortRange| range.last += 1);
            }
            Self::WidenPrefix => {
                let prefixes = rules.iter_mut().flat_map(|rule| &mut rule.sources);
                let widened = prefixes.filter(|prefix| prefix.length() > 0).take(1);
                widened.for_each(|prefix| {
                    *prefix = IpPrefix::containing(prefix.address(), prefix.length() - 1)
                        .unwrap_or(*prefix);
                });
            }
            Self::DropNegatedSet => {
                let negated = rules
                    .iter_mut()
                    .map(|rule| &mut rule.criteria.not_source_sets);
                negated
                    .filter(|sets| !sets.is_empty())
                    .take(1)
                    .for_each(|sets| {
                        sets.pop();
                    });
            }
            Self::OtherSet => {
                let sets = rules
                    .iter_mut()
                    .flat_map(|rule| &mut rule.criteria.source_sets);
                sets.take(1)
                    .for_each(|set| *set = (*set + 1) % crate::config::SETS);
            }
            _ => rules.iter_mut().for_each(|rule| self.on_rule(rule)),
        }
    }

    fn on_rule(self, rule: &mut Rule) {
        let criteria = &mut rule.criteria;
        match self {
            Self::DropDscp => criteria.dscp = 0,
            Self::DropVlan => criteria.vlans.clear(),
            Self::DropFlags => criteria.tcp_flags = None,
            Self::DropIcmp => criteria.icmp.clear(),
            Self::DropIngress => criteria.ingress.clear(),
            Self::DropFragment => criteria.fragment = None,
            Self::CountAllows if rule.action == Action::Count => rule.action = Action::Allow,
            Self::RejectDrops if rule.action == Action::Reject => rule.action = Action::Drop,
            Self::DropMark => rule.treatment.mark = None,
            Self::DropMirror => rule.treatment.mirror = None,
            Self::DropLimit => rule.treatment.limit = None,
            Self::DropMasquerade => rule.treatment.source_nat = march_tables::SourceNat::Keep,
            _ => {}
        }
    }
}

fn swap_priorities(rules: &mut [Rule]) {
    let live: Vec<usize> = (0..rules.len())
        .filter(|at| !rules[*at].is_vacant())
        .collect();
    let Some(first) = live.first().copied() else {
        return;
    };
    let other = live
        .iter()
        .copied()
        .find(|at| rules[*at].priority != rules[first].priority);
    if let Some(other) = other {
        let priority = rules[first].priority;
        rules[first].priority = rules[other].priority;
        rules[other].priority = priority;
    }
}

fn on_ports(config: &mut Config, change: impl Fn(&mut march_tables::PortTable)) {
    let mut ports = config.ports.to_vec();
    ports.iter_mut().for_each(change);
    config.ports = ports.into();
}
