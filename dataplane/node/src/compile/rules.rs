//! The rules in force, in terms of ids.
//!
//! A rule is compiled only on the nodes that it concerns: one that asks for packets from ports of other nodes is left
//! out. Where a port that it sends to is not driven now, nothing can be sent there: a redirect drops, a mirror copies
//! nothing. What has not changed since the last compilation stays the same object, so that nobody has to look at it again.

use std::sync::Arc;

use march_model::{
    ContentHash, EffectiveRule, FieldError, Kind, Match, Name, State, Timestamp,
    Wholeness as Fragment,
};
use march_tables::{
    Action, Criteria, IcmpMessage, Mirror, PortId, PortRange, Redirect, Rule, RuleId, RuleList,
    SourceNat, TcpFlags, Treatment, Vlan, Wholeness,
};

use super::slots::{Ids, NoSlot, Slots};
use super::{FastPort, port_id, wire_prefix};

/// Changes beyond which a list is made anew rather than piece by piece.
const FEW: usize = 1_024;

/// Rules by their numbers, and what they were compiled from.
#[derive(Clone, Debug, Default)]
pub struct CompiledRules {
    source: Option<Source>,
    list: RuleList,
    next_end: Option<Timestamp>,
}

/// All that rules are compiled from.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Source {
    documents: ContentHash,
    ports: Vec<String>,
    /// When the numbers of services, sets and limits moved last.
    numbers: [u64; 3],
    at: Timestamp,
}

impl CompiledRules {
    fn is_of(&self, source: &Source) -> bool {
        self.source.as_ref().is_some_and(|compiled| {
            compiled.documents == source.documents
                && compiled.ports == source.ports
                && compiled.numbers == source.numbers
                && compiled.at <= source.at
                && self.next_end.is_none_or(|end| end > source.at)
        })
    }
}

/// The rules of `state` at `now` and the next moment at which one of them ends. The other ids must be assigned before.
pub(super) fn compile(
    state: &State,
    ports: &[FastPort],
    now: Timestamp,
    ids: &mut Ids,
) -> Result<(RuleList, Option<Timestamp>), Vec<FieldError>> {
    let source = Source {
        documents: state.hash(),
        ports: ports.iter().map(|port| port.name.clone()).collect(),
        numbers: [
            ids.services.version(),
            ids.sets.version(),
            ids.limits.version(),
        ],
        at: now,
    };
    if !ids.compiled_rules.is_of(&source) {
        let effective = state.effective_rules(now);
        let names = Names { ports, ids };
        let compiled: Vec<(&EffectiveRule<'_>, Rule)> = effective
            .rules
            .iter()
            .filter_map(|rule| Some((rule, names.rule(rule).transpose()?)))
            .map(|(rule, compiled)| compiled.map(|compiled| (rule, compiled)))
            .collect::<Result<_, _>>()
            .map_err(|error| vec![error])?;
        let wanted = compiled.iter().map(|(rule, _)| rule.name.to_string());
        ids.rules.assign(wanted).map_err(|(name, error)| {
            let rule = effective.rules.iter().find(|rule| rule.name == name);
            vec![no_slot(rule, error)]
        })?;
        let rules = compiled.into_iter().map(|(_, rule)| rule);
        ids.compiled_rules = CompiledRules {
            list: list(&ids.compiled_rules.list, &ids.rules, rules),
            next_end: effective.next_end,
            source: Some(source),
        };
    }
    Ok((ids.compiled_rules.list.clone(), ids.compiled_rules.next_end))
}

fn no_slot(rule: Option<&EffectiveRule<'_>>, error: NoSlot) -> FieldError {
    let document = rule.map_or_else(String::new, document);
    FieldError::of_document(document, "metadata.name", error.to_string())
}

fn document(rule: &EffectiveRule<'_>) -> String {
    format!("{}/{}", rule.kind, rule.metadata.name)
}

/// Rules at their numbers. What `before` holds and has not changed stays the same object.
fn list(
    before: &RuleList,
    slots: &Slots<String, u32>,
    rules: impl Iterator<Item = Rule>,
) -> RuleList {
    let vacant = Arc::new(Rule::vacant());
    let mut length = 0;
    let mut places: Vec<Option<Arc<Rule>>> = vec![None; before.len()];
    for rule in rules {
        let Some(id) = slots.of(&*rule.name) else {
            continue;
        };
        let at = usize::try_from(id).expect("ids fit into addresses");
        if places.len() <= at {
            places.resize(at + 1, None);
        }
        length = length.max(at + 1);
        let same = before.get(id).filter(|before| ***before == rule);
        places[at] = Some(same.map_or_else(|| Arc::new(rule), Arc::clone));
    }
    places.truncate(length);
    let is_same = |(id, place): &(RuleId, &Option<Arc<Rule>>)| match (before.get(*id), place) {
        (Some(before), Some(rule)) => Arc::ptr_eq(before, rule),
        (Some(before), None) => before.is_vacant(),
        (None, _) => false,
    };
    let changed: Vec<(RuleId, &Option<Arc<Rule>>)> =
        (0..).zip(&places).filter(|place| !is_same(place)).collect();
    if length != before.len() || changed.len() > FEW {
        let rules = places
            .into_iter()
            .map(|place| place.unwrap_or_else(|| Arc::clone(&vacant)));
        return rules.collect();
    }
    let mut list = before.clone();
    for (id, place) in changed {
        let rule = place.as_ref().unwrap_or(&vacant);
        list.set(id, Arc::clone(rule));
    }
    list
}

/// What names in documents stand for on this node.
struct Names<'a> {
    ports: &'a [FastPort],
    ids: &'a Ids,
}

impl Names<'_> {
    /// Nothing if the rule cannot concern this node.
    fn rule(&self, effective: &EffectiveRule<'_>) -> Result<Option<Rule>, FieldError> {
        let rule = &*effective.rule;
        let ingress = self.known_ports(&rule.matches.ingress);
        if ingress.is_empty() && !rule.matches.ingress.is_empty() {
            return Ok(None);
        }
        let unknown = |path: &str, name: &Name| {
            FieldError::of_document(document(effective), path, format!("there is no `{name}`"))
        };
        let sets = |path: &str, names: &[Name]| {
            let id = |name: &Name| {
                let known = self.ids.sets.of(name.as_str());
                known.ok_or_else(|| unknown(path, name))
            };
            names.iter().map(id).collect::<Result<Vec<_>, _>>()
        };
        let matches = &rule.matches;
        let criteria = Criteria {
            source_sets: sets("spec.match.sourceSets", &matches.source_sets)?,
            destination_sets: sets("spec.match.destinationSets", &matches.destination_sets)?,
            not_source_sets: sets("spec.match.notSourceSets", &matches.not_source_sets)?,
            not_destination_sets: sets(
                "spec.match.notDestinationSets",
                &matches.not_destination_sets,
            )?,
            ingress,
            ..criteria(matches)
        };
        let limit = match &rule.rate_limit {
            None => None,
            Some(name) => {
                let id = self.ids.limits.of(name.as_str());
                Some(id.ok_or_else(|| unknown("spec.rateLimit", name))?)
            }
        };
        Ok(Some(Rule {
            name: effective.name.as_ref().into(),
            priority: rule.priority,
            mapping: (effective.kind == Kind::Mapping)
                .then(|| effective.metadata.name.as_str().into()),
            sources: prefixes(&matches.sources),
            destinations: prefixes(&matches.destinations),
            source_ports: port_ranges(&matches.source_ports),
            ports: port_ranges(&matches.ports),
            protocol: matches.protocol.map(march_model::Protocol::number),
            criteria,
            action: self
                .action(rule)
                .map_err(|name| unknown("spec.redirect.service", name))?,
            treatment: self.treatment(rule, limit),
        }))
    }

    fn known_ports(&self, names: &[Name]) -> Vec<PortId> {
        names
            .iter()
            .filter_map(|name| port_id(self.ports, name.as_str()))
            .collect()
    }

    /// The action, or the name of a service that is not there.
    fn action<'r>(&self, rule: &'r march_model::Rule) -> Result<Action, &'r Name> {
        use march_model::{Action as Asked, Redirect as To};
        Ok(match (rule.action, &rule.redirect) {
            (Asked::Allow, _) => Action::Allow,
            (Asked::Drop, _) => Action::Drop,
            (Asked::Reject, _) => Action::Reject,
            (Asked::Count, _) => Action::Count,
            (Asked::Punt, _) => Action::Punt,
            (Asked::Redirect, Some(To::Service(name))) => {
                let service = self.ids.services.of(name.as_str());
                Action::Redirect(Redirect::Service(service.ok_or(name)?))
            }
            (Asked::Redirect, Some(To::Address { address, port })) => {
                Action::Redirect(Redirect::Address {
                    address: *address,
                    port: port.unwrap_or(0),
                })
            }
            (Asked::Redirect, Some(To::Port(name))) => port_id(self.ports, name.as_str())
                .map_or(Action::Drop, |port| Action::Redirect(Redirect::Port(port))),
            (Asked::Redirect, None) => unreachable!("a redirect has a target once it is read"),
        })
    }

    fn treatment(&self, rule: &march_model::Rule, limit: Option<u16>) -> Treatment {
        let mirror = |mirror: &march_model::Mirror| {
            Some(Mirror {
                port: port_id(self.ports, mirror.port.as_str())?,
                per_second: mirror.packets_per_second,
            })
        };
        Treatment {
            mark: rule.mark.map(march_model::Dscp::number),
            mirror: rule.mirror.as_ref().and_then(mirror),
            limit,
            source_nat: match rule.source_nat {
                march_model::SourceNat::Keep => SourceNat::Keep,
                march_model::SourceNat::Masquerade => SourceNat::Masquerade,
            },
        }
    }
}

/// The criteria that name nothing.
fn criteria(matches: &Match) -> Criteria {
    let message = |message: &march_model::IcmpMessage| IcmpMessage {
        kind: message.kind,
        code: message.code,
    };
    let vlan = |vlan: &march_model::Vlan| match *vlan {
        march_model::Vlan::Untagged => Vlan::Untagged,
        march_model::Vlan::Ids(first, last) => Vlan::Ids(first, last),
    };
    let bits = matches
        .dscp
        .iter()
        .fold(0, |bits, dscp| bits | 1 << dscp.number());
    Criteria {
        icmp: matches.icmp.iter().map(message).collect(),
        tcp_flags: matches.tcp_flags.as_ref().map(|flags| TcpFlags {
            mask: flags.mask(),
            value: flags.value(),
        }),
        dscp: bits,
        vlans: matches.vlans.iter().map(vlan).collect(),
        fragment: matches.fragment.map(|fragment| match fragment {
            Fragment::Whole => Wholeness::Whole,
            Fragment::Fragment => Wholeness::Fragment,
            Fragment::First => Wholeness::First,
            Fragment::Later => Wholeness::Later,
        }),
        ..Criteria::default()
    }
}

fn prefixes(list: &[march_model::Prefix]) -> Vec<march_wire::tuple::IpPrefix> {
    // One that was left out would make the rule match more.
    list.iter()
        .map(|one| wire_prefix(*one).expect("a prefix of a document has no host bits"))
        .collect()
}

fn port_ranges(list: &[march_model::PortRange]) -> Vec<PortRange> {
    list.iter()
        .map(|range| PortRange {
            first: range.first(),
            last: range.last(),
        })
        .collect()
}
