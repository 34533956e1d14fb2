//! Rules that never decide, because one that is looked at before them matches all that they match.
//!
//! Pairs of rules are compared, not unions: a rule that several others cover together is not found. What is found is
//! exact but for the contents of address sets, which count by name. Work is bounded; where that was not enough for every
//! pair, the last finding says so.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use crate::check::{Check, Documents, Finding};
use crate::effective::{Directory, is_approved};
use crate::matches::Match;
use crate::name::{Key, Name};
use crate::rule::{Action, Rule};
use crate::scalar::{Family, PortRange, Prefix};

/// Comparisons and look-ups over all rules.
const WORK: usize = 30_000_000;
/// How many rules are named; one more finding says how many others there are.
const NAMED: usize = 100;
/// A rule with more pairs of source and destination prefixes is found by its destinations alone.
const PAIRS: usize = 64;

/// A rule and the document that it is of.
struct Candidate<'a> {
    key: &'a Key,
    /// Which part of a mapping; empty for a Rule.
    part: String,
    rule: Cow<'a, Rule>,
}

/// Warnings about rules that never decide.
pub(crate) fn shadowed(documents: &Documents) -> Vec<Finding> {
    let check = Check::new(documents);
    let mut rules = candidates(&check, documents);
    rules.sort_by(|a, b| {
        let place = (a.rule.priority, &a.key.name, &a.part);
        place.cmp(&(b.rule.priority, &b.key.name, &b.part))
    });
    let mut index = Index::default();
    let mut work = WORK;
    let mut found = Vec::new();
    let mut more = 0_usize;
    let mut looked_at = 0;
    for (at, candidate) in rules.iter().enumerate() {
        if work == 0 {
            break;
        }
        looked_at = at + 1;
        match index.cover(&rules, at, &mut work) {
            // What it covers is covered by the other too.
            Some(before) if found.len() < NAMED => found.push(finding(candidate, &rules[before])),
            Some(_) => more += 1,
            None => index.insert(at, &candidate.rule.matches),
        }
    }
    let last = rules.last();
    if let (true, Some(last)) = (more > 0 || looked_at < rules.len(), last) {
        let mut words = Vec::new();
        if more > 0 {
            words.push(format!("{more} more rules never decide"));
        }
        if looked_at < rules.len() {
            words.push(format!(
                "not all pairs were looked at: {looked_at} of {} rules were compared with those before them",
                rules.len()
            ));
        }
        found.push(Finding {
            key: last.key.clone(),
            path: String::new(),
            message: words.join("; "),
            missing: Vec::new(),
        });
    }
    found
}

fn candidates<'a>(check: &Check<'a>, documents: &'a Documents) -> Vec<Candidate<'a>> {
    let of_rule = |(key, rule): &(&'a Key, &'a Rule)| Candidate {
        key,
        part: String::new(),
        rule: Cow::Borrowed(*rule),
    };
    let mut rules: Vec<Candidate<'_>> = check.rules.iter().map(of_rule).collect();
    let directory = Directory::of(documents);
    let mut work = usize::MAX;
    for (key, mapping) in check.mappings.iter().filter(|(_, one)| is_approved(one)) {
        let parts = directory.expand(mapping, &mut work).unwrap_or_default();
        rules.extend(parts.into_iter().map(|(part, rule)| Candidate {
            key,
            part,
            rule: Cow::Owned(rule),
        }));
    }
    rules
}

fn finding(candidate: &Candidate<'_>, before: &Candidate<'_>) -> Finding {
    let what = if candidate.part.is_empty() {
        String::new()
    } else {
        format!("its part {} ", candidate.part)
    };
    let does = match before.rule.action {
        action if action == candidate.rule.action => "does the same".to_owned(),
        Action::Allow => "allows it".to_owned(),
        Action::Drop => "drops it".to_owned(),
        Action::Reject => "rejects it".to_owned(),
        Action::Count => "counts it, which ends the search".to_owned(),
        Action::Punt => "gives it to the kernel".to_owned(),
        Action::Redirect => "redirects it".to_owned(),
    };
    Finding {
        key: candidate.key.clone(),
        path: "spec.match".to_owned(),
        message: format!(
            "{what}never decides: {} (priority {}) is looked at before, matches all of it and {does}",
            before.key, before.rule.priority
        ),
        missing: Vec::new(),
    }
}

/// What a side of a rule may be, as far as the index knows it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Side<'a> {
    Any,
    Prefix(Prefix),
    Set(&'a Name),
    /// One of too many to be listed.
    Many,
}

/// Protocol and destination ports, as far as the index knows them.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Class {
    protocol: Option<u8>,
    ports: Ports,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Ports {
    Any,
    One(u16),
    Ranges,
}

type Bucket = HashMap<Class, Vec<usize>>;

/// The sides that occur in one role, so that most enclosing prefixes need not be looked up.
struct Known<'a> {
    sides: HashSet<Side<'a>>,
    /// By family and prefix length.
    lengths: [[bool; 129]; 2],
}

impl Default for Known<'_> {
    fn default() -> Self {
        Self {
            sides: HashSet::new(),
            lengths: [[false; 129]; 2],
        }
    }
}

impl<'a> Known<'a> {
    fn note(&mut self, side: Side<'a>) {
        if let Side::Prefix(prefix) = side {
            self.lengths[prefix.family() as usize][usize::from(prefix.length())] = true;
        }
        self.sides.insert(side);
    }

    /// The known sides that a rule with these prefixes and sets can be in: around its first one, and `Any`.
    fn around(&self, prefixes: &[Prefix], sets: &'a [Name]) -> Vec<Side<'a>> {
        let mut sides = vec![Side::Any, Side::Many];
        match (prefixes.first(), sets.first()) {
            _ if is_any(prefixes, sets) => {}
            (Some(prefix), _) => {
                let lengths = &self.lengths[prefix.family() as usize];
                sides.extend(
                    (0..=prefix.length())
                        .filter(|length| lengths[usize::from(*length)])
                        .map(|length| Side::Prefix(prefix.widen(length))),
                );
            }
            (None, Some(set)) => sides.push(Side::Set(set)),
            (None, None) => {}
        }
        sides.retain(|side| self.sides.contains(side));
        sides
    }
}

/// Rules by destination, source, protocol and ports, so that only those are compared that can cover another.
#[derive(Default)]
struct Index<'a> {
    buckets: HashMap<(Side<'a>, Side<'a>), Bucket>,
    destinations: Known<'a>,
    sources: Known<'a>,
}

impl<'a> Index<'a> {
    fn insert(&mut self, at: usize, matches: &'a Match) {
        let destinations = sides(&matches.destinations, &matches.destination_sets);
        let mut sources = sides(&matches.sources, &matches.source_sets);
        if destinations.len().saturating_mul(sources.len()) > PAIRS {
            sources = vec![Side::Many];
        }
        let protocol = matches.protocol.map(crate::Protocol::number);
        for destination in &destinations {
            self.destinations.note(*destination);
            for source in &sources {
                self.sources.note(*source);
                let bucket = self.buckets.entry((*destination, *source)).or_default();
                for ports in ports(&matches.ports) {
                    bucket
                        .entry(Class { protocol, ports })
                        .or_default()
                        .push(at);
                }
            }
        }
    }

    /// A rule before this one that covers it.
    fn cover(&self, rules: &'a [Candidate<'_>], at: usize, work: &mut usize) -> Option<usize> {
        let rule = &*rules[at].rule;
        let matches = &rule.matches;
        let destinations = self
            .destinations
            .around(&matches.destinations, &matches.destination_sets);
        let sources = self.sources.around(&matches.sources, &matches.source_sets);
        let classes = classes(matches);
        for destination in &destinations {
            for source in &sources {
                *work = work.saturating_sub(1);
                let Some(bucket) = self.buckets.get(&(*destination, *source)) else {
                    continue;
                };
                let lists = classes.iter().filter_map(|class| bucket.get(class));
                for before in lists.flatten() {
                    *work = work.checked_sub(1)?;
                    if covers(&rules[*before].rule, rule) {
                        return Some(*before);
                    }
                }
            }
        }
        None
    }
}

/// Where a rule is found: under each of its prefixes and sets.
fn sides<'a>(prefixes: &[Prefix], sets: &'a [Name]) -> Vec<Side<'a>> {
    if is_any(prefixes, sets) {
        return vec![Side::Any];
    }
    let prefixes = prefixes.iter().copied().map(Side::Prefix);
    prefixes.chain(sets.iter().map(Side::Set)).collect()
}

fn is_any(prefixes: &[Prefix], sets: &[Name]) -> bool {
    let has_all = |family| {
        prefixes
            .iter()
            .any(|prefix| prefix.length() == 0 && prefix.family() == family)
    };
    (prefixes.is_empty() && sets.is_empty()) || (has_all(Family::V4) && has_all(Family::V6))
}

fn ports(ranges: &[PortRange]) -> Vec<Ports> {
    let one = |range: &PortRange| {
        if range.first() == range.last() {
            Ports::One(range.first())
        } else {
            Ports::Ranges
        }
    };
    let mut ports: Vec<Ports> = ranges.iter().map(one).collect();
    ports.dedup();
    if ports.is_empty() {
        ports.push(Ports::Any);
    }
    ports
}

/// The classes of rules that can cover one with these protocol and ports.
fn classes(matches: &Match) -> Vec<Class> {
    let mut ports = vec![Ports::Any];
    if let Some(first) = matches.ports.first() {
        ports.push(Ports::Ranges);
        ports.push(Ports::One(first.first()));
    }
    let mut protocols = vec![None];
    protocols.extend(matches.protocol.map(|protocol| Some(protocol.number())));
    let class = |protocol| {
        let with = move |ports: &Ports| Class {
            protocol,
            ports: *ports,
        };
        ports.iter().map(with)
    };
    protocols.into_iter().flat_map(class).collect()
}

/// Whether the first matches all that the second does, for as long as the second is there.
fn covers(first: &Rule, second: &Rule) -> bool {
    let outlives = match (first.expires_at, second.expires_at) {
        (None, _) => true,
        (Some(first), Some(second)) => first >= second,
        (Some(_), None) => false,
    };
    let (a, b) = (&first.matches, &second.matches);
    outlives
        && (a.protocol.is_none() || a.protocol == b.protocol)
        && all_in(&a.ports, &b.ports, |a, b| a.covers(*b))
        && all_in(&a.source_ports, &b.source_ports, |a, b| a.covers(*b))
        && holds(
            (&a.destinations, &a.destination_sets),
            (&b.destinations, &b.destination_sets),
        )
        && holds((&a.sources, &a.source_sets), (&b.sources, &b.source_sets))
        && subset(&a.not_source_sets, &b.not_source_sets)
        && subset(&a.not_destination_sets, &b.not_destination_sets)
        && all_in(&a.icmp, &b.icmp, |a, b| a.covers(*b))
        && all_in(&a.dscp, &b.dscp, |a, b| a == b)
        && all_in(&a.ingress, &b.ingress, |a, b| a == b)
        && all_in(&a.vlans, &b.vlans, |a, b| a.covers(*b))
        && a.fragment
            .is_none_or(|a| b.fragment.is_some_and(|b| a.covers(b)))
        && a.tcp_flags.as_ref().is_none_or(|a| {
            b.tcp_flags.as_ref().is_some_and(|b| {
                let seen = a.mask() & b.mask();
                seen == a.mask() && b.value() & seen == a.value()
            })
        })
}

/// Whether every item of the second list is in one of the first; an empty list is everything.
fn all_in<T>(a: &[T], b: &[T], covers: impl Fn(&T, &T) -> bool) -> bool {
    a.is_empty() || (!b.is_empty() && b.iter().all(|b| a.iter().any(|a| covers(a, b))))
}

fn subset(a: &[Name], b: &[Name]) -> bool {
    a.iter().all(|name| b.contains(name))
}

/// Whether prefixes and sets hold all of others.
fn holds(a: (&[Prefix], &[Name]), b: (&[Prefix], &[Name])) -> bool {
    if is_any(a.0, a.1) {
        return true;
    }
    !is_any(b.0, b.1) && b.0.iter().all(|b| a.0.iter().any(|a| a.covers(*b))) && subset(b.1, a.1)
}

#[cfg(test)]
#[path = "shadow/tests.rs"]
mod tests;
