//! What the plane of this node cannot do is refused, with the field that asks for it, and never left out.

use std::collections::BTreeSet;

use march_model::{
    Action, ContentHash, FieldError, Need, Placed, Plane, Prefix, State, Timestamp, execution_place,
};

/// The most that one refusal names.
const MOST: usize = 200;

/// Documents that were looked at last and can run.
#[derive(Clone, Debug, Default)]
pub struct Passed(Option<(ContentHash, Plane)>);

impl Passed {
    /// Refuses what `plane` cannot do of the documents that concern `node`'s traffic.
    pub(super) fn check(
        &mut self,
        state: &State,
        node: &str,
        plane: Plane,
        now: Timestamp,
    ) -> Result<(), Vec<FieldError>> {
        if plane == Plane::FastPath || self.0 == Some((state.hash(), plane)) {
            return Ok(());
        }
        let mut errors = beyond_sockets(state, node, now);
        if errors.is_empty() {
            self.0 = Some((state.hash(), plane));
            return Ok(());
        }
        if errors.len() > MOST {
            let more = errors.len() - MOST;
            errors.truncate(MOST);
            let message = format!("{more} more fields ask for what sockets cannot do");
            errors.push(FieldError::of_document("", "", message));
        }
        Err(errors)
    }
}

fn beyond_sockets(state: &State, node: &str, now: Timestamp) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut refuse = |document: String, needs: &[Need]| {
        errors.extend(needs.iter().map(|need| {
            let why = need.not_in_sockets.unwrap_or_default();
            let message = format!(
                "the ports of node {node} run in the socket tier, which cannot do this ({}): {why}",
                need.what
            );
            FieldError::of_document(document.clone(), need.path, message)
        }));
    };
    for (metadata, port) in state.ports().filter(|(_, port)| port.node.as_str() == node) {
        let place = execution_place(Placed::Port(port));
        refuse(format!("Port/{}", metadata.name), &place.beyond_sockets);
    }
    for (metadata, service) in state.services() {
        let place = execution_place(Placed::Service(service));
        refuse(format!("Service/{}", metadata.name), &place.beyond_sockets);
    }
    let ports: BTreeSet<&str> = state
        .ports()
        .filter(|(_, port)| port.node.as_str() == node)
        .map(|(metadata, _)| metadata.name.as_str())
        .collect();
    let vips: BTreeSet<Prefix> = state
        .services()
        .map(|(_, service)| service.address)
        .collect();
    for effective in state.effective_rules(now).rules {
        let rule = &*effective.rule;
        let ingress = &rule.matches.ingress;
        if !ingress.is_empty() && !ingress.iter().any(|port| ports.contains(port.as_str())) {
            continue;
        }
        let document = format!("{}/{}", effective.kind, effective.metadata.name);
        let mut needs = execution_place(Placed::Rule(rule)).beyond_sockets;
        let leads_through = rule.action == Action::Allow
            && rule.matches.destination_sets.is_empty()
            && !rule.matches.destinations.is_empty()
            && !rule
                .matches
                .destinations
                .iter()
                .any(|to| overlaps(&vips, *to));
        if leads_through {
            needs.push(Need {
                path: "spec.match.destinations",
                what: "allow transit",
                not_in_sockets: Some("nothing passes through sockets but connections to services"),
            });
        }
        refuse(document, &needs);
    }
    errors
}

/// Whether a prefix and one of these have an address in common.
fn overlaps(vips: &BTreeSet<Prefix>, prefix: Prefix) -> bool {
    // Sorted by address and then length, what is in a prefix follows it, and what it is in is one of its ancestors.
    vips.range(prefix..)
        .next()
        .is_some_and(|next| prefix.covers(*next))
        || (0..prefix.length()).any(|length| vips.contains(&prefix.widen(length)))
}
