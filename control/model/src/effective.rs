//! The rules that are in force at a moment: those of Rule documents, and those that approved mappings stand for.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use crate::address_set::AddressSet;
use crate::check::Documents;
use crate::document::{Document, Metadata, Spec};
use crate::mapping::{ApprovalState, COLLECTION_LABEL, Endpoint, Mapping};
use crate::matches::Match;
use crate::name::{Kind, Name};
use crate::pool::Pool;
use crate::rule::{Action, Rule, SourceNat};
use crate::scalar::{PortRange, Prefix, Protocol, Transport};
use crate::service::Service;
use crate::state::State;
use crate::time::Timestamp;

/// Services looked at, and addresses, names and port ranges written while mappings become rules, over all of them.
pub(crate) const MAX_MAPPING_WORK: usize = 4_000_000;

/// A rule in force.
#[derive(Clone, Debug)]
pub struct EffectiveRule<'a> {
    /// Unique: the document's name or, for a mapping, that and what part of it this is, such as `office/tcp:443`.
    pub name: Cow<'a, str>,
    /// The kind of document that it comes from: Rule or Mapping.
    pub kind: Kind,
    /// Of that document.
    pub metadata: &'a Metadata,
    /// What it says.
    pub rule: Cow<'a, Rule>,
}

/// The rules in force at a moment.
#[derive(Clone, Debug)]
pub struct EffectiveRules<'a> {
    /// Those of Rule documents, then those of mappings, each sorted by name.
    pub rules: Vec<EffectiveRule<'a>>,
    /// The next moment at which one of them ends.
    pub next_end: Option<Timestamp>,
}

impl State {
    /// The rules in force at `now`: without those that ended, and with those that approved mappings stand for.
    pub fn effective_rules(&self, now: Timestamp) -> EffectiveRules<'_> {
        let mut next_end: Option<Timestamp> = None;
        let mut note = |end: Option<Timestamp>| {
            let ends = [next_end, end].into_iter().flatten();
            next_end = ends.min();
        };
        let mut rules = Vec::new();
        for (metadata, rule) in self.rules().filter(|(_, rule)| rule.is_effective(now)) {
            note(rule.expires_at);
            rules.push(EffectiveRule {
                name: Cow::Borrowed(metadata.name.as_str()),
                kind: Kind::Rule,
                metadata,
                rule: Cow::Borrowed(rule),
            });
        }
        let mut mappings = self
            .mappings()
            .filter(|(_, mapping)| mapping.is_effective(now))
            .peekable();
        if mappings.peek().is_some() {
            let directory = Directory::new(self.documents());
            let mut work = usize::MAX;
            for (metadata, mapping) in mappings {
                note(mapping.expires_at);
                let parts = directory
                    .expand(mapping, &mut work)
                    .expect("no work is too much for a set that was checked");
                rules.extend(parts.into_iter().map(|(part, rule)| EffectiveRule {
                    name: Cow::Owned(format!("{}/{part}", metadata.name)),
                    kind: Kind::Mapping,
                    metadata,
                    rule: Cow::Owned(rule),
                }));
            }
        }
        EffectiveRules { rules, next_end }
    }
}

/// What mappings name, by name and by collection.
pub(crate) struct Directory<'a> {
    sets: BTreeMap<&'a Name, &'a AddressSet>,
    services: BTreeMap<&'a Name, &'a Service>,
    pools: BTreeMap<&'a Name, &'a Pool>,
    collections: BTreeMap<&'a str, Collection<'a>>,
}

#[derive(Default)]
struct Collection<'a> {
    sets: Vec<&'a Name>,
    services: Vec<&'a Service>,
}

/// Who may: prefixes and names of sets; none of both: nobody.
enum Who {
    Everybody,
    Members(BTreeSet<Prefix>, BTreeSet<Name>),
}

/// Mappings that stand for more than a node can hold.
#[derive(Debug)]
pub(crate) struct TooMuch;

impl<'a> Directory<'a> {
    pub fn of(documents: &'a Documents) -> Self {
        Self::new(documents.values().map(AsRef::as_ref))
    }

    fn new(documents: impl Iterator<Item = &'a Document>) -> Self {
        let mut directory = Self {
            sets: BTreeMap::new(),
            services: BTreeMap::new(),
            pools: BTreeMap::new(),
            collections: BTreeMap::new(),
        };
        for document in documents {
            let Metadata { name, labels, .. } = document.metadata();
            let mut collection = labels
                .get(COLLECTION_LABEL)
                .map(|label| directory.collections.entry(label.as_str()).or_default());
            match document.spec() {
                Spec::AddressSet(set) => {
                    directory.sets.insert(name, set);
                    if let Some(collection) = &mut collection {
                        collection.sets.push(name);
                    }
                }
                Spec::Service(service) => {
                    directory.services.insert(name, service);
                    if let Some(collection) = &mut collection {
                        collection.services.push(service);
                    }
                }
                Spec::Pool(pool) => {
                    directory.pools.insert(name, pool);
                }
                Spec::Port(_) | Spec::Rule(_) | Spec::RateLimit(_) | Spec::Mapping(_) => {}
            }
        }
        directory
    }

    pub fn service(&self, name: &Name) -> Option<&'a Service> {
        self.services.get(name).copied()
    }

    pub fn set(&self, name: &Name) -> Option<&'a AddressSet> {
        self.sets.get(name).copied()
    }

    /// Whether a collection has anything that could be a source, and a destination.
    pub fn has_members(&self, collection: &str) -> (bool, bool) {
        self.collections
            .get(collection)
            .map_or((false, false), |found| {
                let services = !found.services.is_empty();
                (services || !found.sets.is_empty(), services)
            })
    }

    /// The rules that a mapping stands for once approved, each with its part of the name.
    pub fn expand(
        &self,
        mapping: &Mapping,
        work: &mut usize,
    ) -> Result<Vec<(String, Rule)>, TooMuch> {
        let (sources, source_sets) = match self.sources(mapping, work)? {
            Who::Everybody => (BTreeSet::new(), BTreeSet::new()),
            // Nobody in it: no rule, which is not the same as a rule for everybody.
            Who::Members(prefixes, sets) if prefixes.is_empty() && sets.is_empty() => {
                return Ok(Vec::new());
            }
            Who::Members(prefixes, sets) => (prefixes, sets),
        };
        let parts = self.destinations(mapping, work)?;
        let rule = |(transport, ports): (Transport, Vec<PortRange>), to: BTreeSet<Prefix>| {
            let words: Vec<String> = ports.iter().map(ToString::to_string).collect();
            let part = format!("{transport}:{}", words.join(","));
            let matches = Match {
                sources: sources.iter().copied().collect(),
                source_sets: source_sets.iter().cloned().collect(),
                destinations: to.into_iter().collect(),
                protocol: Some(Protocol::from(transport)),
                ports,
                ..Match::default()
            };
            let rule = Rule {
                priority: mapping.priority,
                expires_at: mapping.expires_at,
                matches,
                action: Action::Allow,
                redirect: None,
                mark: None,
                mirror: None,
                rate_limit: None,
                source_nat: SourceNat::Keep,
            };
            (part, rule)
        };
        // Every part has a list of its own.
        let listed = sources.len().saturating_add(source_sets.len());
        spend(work, parts.len().saturating_mul(listed))?;
        Ok(parts.into_iter().map(|(key, to)| rule(key, to)).collect())
    }

    fn sources(&self, mapping: &Mapping, work: &mut usize) -> Result<Who, TooMuch> {
        let (mut prefixes, mut sets) = (BTreeSet::new(), BTreeSet::new());
        for endpoint in &mapping.sources {
            let mut services: &[&Service] = &[];
            let named;
            match endpoint {
                Endpoint::All => return Ok(Who::Everybody),
                Endpoint::Collection(label) => {
                    if let Some(collection) = self.collections.get(&**label) {
                        spend(work, collection.sets.len())?;
                        sets.extend(collection.sets.iter().copied().cloned());
                        services = &collection.services;
                    }
                }
                Endpoint::Named(name) if self.sets.contains_key(name) => {
                    sets.insert(name.clone());
                }
                Endpoint::Named(name) => {
                    named = self.service(name);
                    services = named.as_slice();
                }
            }
            for service in services {
                let backends = self.pools.get(&service.pool).map(|pool| &pool.backends);
                let backends = backends.into_iter().flatten();
                for backend in backends {
                    spend(work, 1)?;
                    prefixes.insert(Prefix::host(backend.address));
                }
            }
        }
        Ok(Who::Members(prefixes, sets))
    }

    /// Addresses of the services that the mapping names, by protocol and ports.
    #[expect(clippy::type_complexity, reason = "used in one place")]
    fn destinations(
        &self,
        mapping: &Mapping,
        work: &mut usize,
    ) -> Result<BTreeMap<(Transport, Vec<PortRange>), BTreeSet<Prefix>>, TooMuch> {
        let mut parts: BTreeMap<_, BTreeSet<Prefix>> = BTreeMap::new();
        let ranges = mapping.ports.len().saturating_add(1);
        let mut take = |service: &Service| {
            spend(work, ranges)?;
            if let Some(part) = part(mapping, service) {
                parts.entry(part).or_default().insert(service.address);
            }
            Ok(())
        };
        for endpoint in &mapping.destinations {
            match endpoint {
                Endpoint::All => self.services.values().copied().try_for_each(&mut take)?,
                Endpoint::Collection(label) => self
                    .collections
                    .get(&**label)
                    .into_iter()
                    .flat_map(|collection| collection.services.iter().copied())
                    .try_for_each(&mut take)?,
                Endpoint::Named(name) => self.service(name).into_iter().try_for_each(&mut take)?,
            }
        }
        Ok(parts)
    }
}

/// What a mapping opens of a service: its protocol, and those of its ports that the mapping names.
pub(crate) fn part(mapping: &Mapping, service: &Service) -> Option<(Transport, Vec<PortRange>)> {
    if !mapping.protocols.is_empty() && !mapping.protocols.contains(&service.protocol) {
        return None;
    }
    let ports: Vec<PortRange> = if mapping.ports.is_empty() {
        vec![service.port]
    } else {
        let clip = |ports: &PortRange| ports.intersection(service.port);
        mapping.ports.iter().filter_map(clip).collect()
    };
    (!ports.is_empty()).then_some((service.protocol, ports))
}

fn spend(work: &mut usize, amount: usize) -> Result<(), TooMuch> {
    *work = work.checked_sub(amount).ok_or(TooMuch)?;
    Ok(())
}

/// Whether a mapping stands for rules now or may until it ends.
pub(crate) fn is_approved(mapping: &Mapping) -> bool {
    mapping.approval.state == ApprovalState::Approved
}
