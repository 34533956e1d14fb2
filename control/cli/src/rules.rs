//! The table of rules: what they say, where they run, how often they matched.

use std::collections::{BTreeMap, BTreeSet};

use march_model::{Kind, Placed, Rule, Spec, execution_place};
use march_proto::v1;

use crate::args::Width;
use crate::get::View;
use crate::history::utc;
use crate::listing::{fit, list};
use crate::table::Table;

/// How often rules and mappings matched, over the nodes that answered.
#[derive(Debug, Default)]
pub(crate) struct Hits {
    by_name: BTreeMap<String, Hit>,
    /// Whether every connected node answered: without, a rule that seems unused may not be.
    pub is_whole: bool,
    /// Whether any node was there to answer.
    pub has_nodes: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Hit {
    hits: u64,
    last_unix_ms: u64,
}

impl Hits {
    /// Sums up what nodes answered; says on standard error which did not.
    pub fn new(nodes: Vec<v1::NodeRuleHits>) -> Self {
        let mut all = Self {
            is_whole: true,
            has_nodes: !nodes.is_empty(),
            ..Self::default()
        };
        for node in nodes {
            if !node.error.is_empty() {
                eprintln!("node {}: no rule hits: {}", node.node, node.error);
                all.is_whole = false;
            }
            for hit in node.rules {
                let sum = all.by_name.entry(hit.rule).or_default();
                sum.hits += hit.hits;
                sum.last_unix_ms = sum.last_unix_ms.max(hit.last_hit_unix_ms);
            }
        }
        all
    }

    /// The names of what matched.
    pub fn used(&self) -> BTreeSet<&str> {
        self.by_name.keys().map(String::as_str).collect()
    }

    fn cells(&self, name: &str) -> [String; 2] {
        match self.by_name.get(name) {
            Some(hit) => [hit.hits.to_string(), utc(hit.last_unix_ms / 1000)],
            None => ["0".to_owned(), String::new()],
        }
    }
}

pub(crate) fn table(view: &View, hits: &Hits, width: Width) -> Table {
    let headings = vec![
        "NAME",
        "PRIORITY",
        "ACTION",
        "PROTOCOL",
        "SOURCES",
        "SOURCE PORTS",
        "DESTINATIONS",
        "PORTS",
        "HITS",
        "LAST HIT",
        "ALSO",
        "TREATMENT",
        "ENDS",
        "RUNS IN",
        "WHY",
    ];
    let mut table = Table::new(&fit(headings, 9, width));
    let mut rules: Vec<(&str, &Rule)> = view
        .of_kind(Kind::Rule)
        .filter_map(|(name, spec)| match spec {
            Spec::Rule(rule) => Some((name, rule)),
            _ => None,
        })
        .collect();
    rules.sort_by_key(|(name, rule)| (rule.priority, *name));
    for (name, rule) in rules {
        let matches = &rule.matches;
        let place = execution_place(Placed::Rule(rule));
        let [hits, last] = hits.cells(name);
        let cells = vec![
            name.to_owned(),
            rule.priority.to_string(),
            action(rule),
            any(matches.protocol.iter().map(ToString::to_string).collect()),
            any(side(
                &matches.sources,
                &matches.source_sets,
                &matches.not_source_sets,
            )),
            any(list(&matches.source_ports)),
            any(side(
                &matches.destinations,
                &matches.destination_sets,
                &matches.not_destination_sets,
            )),
            any(list(&matches.ports)),
            hits,
            last,
            criteria(rule),
            treatment(rule),
            rule.expires_at
                .map_or_else(String::new, |end| end.to_string()),
            place.words(),
            place.reason,
        ];
        table.row(fit(cells, 9, width));
    }
    table
}

fn any(text: String) -> String {
    if text.is_empty() {
        "any".to_owned()
    } else {
        text
    }
}

/// Prefixes, `@set`s and `!@set`s of one side.
fn side(prefixes: &[impl ToString], sets: &[impl ToString], not_sets: &[impl ToString]) -> String {
    let prefixes = prefixes.iter().map(ToString::to_string);
    let sets = sets.iter().map(|set| format!("@{}", set.to_string()));
    let not_sets = not_sets.iter().map(|set| format!("!@{}", set.to_string()));
    let all: Vec<String> = prefixes.chain(sets).chain(not_sets).collect();
    all.join(",")
}

/// One field of a document in its canonical form, without quotes.
fn field(rule: &Rule, path: &[&str]) -> Option<String> {
    let mut value = &serde_json::to_value(rule).ok()?;
    for step in path {
        value = value.get(step)?;
    }
    Some(value.to_string().replace('"', ""))
}

fn action(rule: &Rule) -> String {
    match field(rule, &["redirect"]) {
        Some(target) => format!("{} {target}", rule.action),
        None => rule.action.to_string(),
    }
}

fn named(rule: &Rule, paths: &[(&str, &[&str])]) -> String {
    let parts: Vec<String> = paths
        .iter()
        .filter_map(|(label, path)| Some(format!("{label} {}", field(rule, path)?)))
        .collect();
    parts.join(", ")
}

fn criteria(rule: &Rule) -> String {
    named(
        rule,
        &[
            ("icmp", &["match", "icmp"]),
            ("flags", &["match", "tcpFlags"]),
            ("dscp", &["match", "dscp"]),
            ("in", &["match", "ingress"]),
            ("vlan", &["match", "vlans"]),
            ("fragment", &["match", "fragment"]),
        ],
    )
}

fn treatment(rule: &Rule) -> String {
    named(
        rule,
        &[
            ("mark", &["mark"]),
            ("mirror", &["mirror"]),
            ("limit", &["rateLimit"]),
            ("source", &["sourceNat"]),
        ],
    )
}
