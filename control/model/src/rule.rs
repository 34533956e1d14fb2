//! `Rule`: a match and an action.

use serde::Serialize;

use crate::place::Place;
use crate::scalar::{Family, PortRange, Prefix, Protocol, words};

/// The largest number that `priority` takes.
pub const MAX_PRIORITY: u32 = 1_000_000;

/// The spec of a `Rule`. Rules are looked at by priority, lower first, then by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rule {
    /// Lower is looked at first; up to [`MAX_PRIORITY`].
    pub priority: u32,
    /// What it applies to.
    #[serde(rename = "match")]
    pub matches: Match,
    /// What happens.
    pub action: Action,
}

/// What a rule applies to: every field that is given must match. An empty list or absent field matches anything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Match {
    /// Source prefixes, sorted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<Prefix>,
    /// Destination prefixes, sorted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub destinations: Vec<Prefix>,
    /// Source ports, sorted; only with protocol tcp or udp.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub source_ports: Vec<PortRange>,
    /// Destination ports, sorted; only with protocol tcp or udp.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortRange>,
    /// The IP protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// To the service, or through the box as transit.
    Allow,
    /// Dropped, counted as `rule_drop`.
    Drop,
}

words!(Action, "an action", Allow "allow", Drop "drop");

impl Rule {
    pub(crate) fn decode(place: &Place<'_>) -> Option<Self> {
        let mut fields = place.mapping()?;
        let priority = fields.required("priority", |priority| priority.number(0, MAX_PRIORITY));
        let matches = fields.optional("match", Match::default(), Match::decode);
        let action = fields.required("action", Place::parse);
        fields.finish();
        Some(Rule {
            priority: priority?,
            matches: matches?,
            action: action?,
        })
    }
}

impl Match {
    fn decode(place: &Place<'_>) -> Option<Self> {
        let mut fields = place.mapping()?;
        let sources = fields.optional("sources", Vec::new(), |list| {
            list.set("prefix", Place::parse)
        });
        let destinations = fields.optional("destinations", Vec::new(), |list| {
            list.set("prefix", Place::parse)
        });
        let source_ports = fields.optional("sourcePorts", Vec::new(), |list| {
            list.set("port range", Place::parse)
        });
        let ports = fields.optional("ports", Vec::new(), |list| {
            list.set("port range", Place::parse)
        });
        let protocol = fields.optional("protocol", None, |protocol| protocol.parse().map(Some));
        fields.finish();
        let matches = Match {
            sources: sources?,
            destinations: destinations?,
            source_ports: source_ports?,
            ports: ports?,
            protocol: protocol?,
        };
        matches.check(place).then_some(matches)
    }

    /// Refuses matches that can never be true.
    fn check(&self, place: &Place<'_>) -> bool {
        let mut sound = true;
        for (field, ports) in [("sourcePorts", &self.source_ports), ("ports", &self.ports)] {
            if !ports.is_empty() && !self.protocol.is_some_and(Protocol::has_ports) {
                let message = match self.protocol {
                    None => "ports need `protocol: tcp` or `protocol: udp` beside them".to_owned(),
                    Some(protocol) => format!("protocol {protocol} has no ports to match"),
                };
                place.error_at(&format!("{}.{field}", place.path()), message);
                sound = false;
            }
        }
        let has = |list: &[Prefix], family| list.iter().any(|prefix| prefix.family() == family);
        let families = [Family::V4, Family::V6];
        let both_given = !self.sources.is_empty() && !self.destinations.is_empty();
        if both_given
            && !families
                .iter()
                .any(|&f| has(&self.sources, f) && has(&self.destinations, f))
        {
            place.error(
                "sources and destinations are of different families, so nothing can match"
                    .to_owned(),
            );
            sound = false;
        }
        sound
    }
}
