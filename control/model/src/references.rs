//! What rules, mappings and guards name must be there, and be of use.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use crate::address_set::{AddressSet, MAX_PREFIXES};
use crate::check::{Check, Finding};
use crate::effective::{Directory, MAX_MAPPING_WORK, is_approved, part};
use crate::mapping::{Endpoint, Mapping};
use crate::name::{Key, Kind, Name};
use crate::port::Port;
use crate::rate_limit::Scope;
use crate::rule::{Redirect, Rule, SourceNat};
use crate::scalar::{Prefix, Protocol, Transport};

/// How many rules a set may have, those that approved mappings stand for included: a node counts each.
pub const MAX_RULES: usize = 131_072;

impl<'a> Check<'a> {
    pub(crate) fn references(&mut self) {
        self.guards();
        let nat: HashMap<IpAddr, &'a Key> = self
            .ports
            .iter()
            .flat_map(|(key, port)| port.nat.addresses.iter().map(move |one| (*one, *key)))
            .collect();
        let nodes: BTreeSet<&Name> = self.ports.iter().map(|(_, port)| &port.node).collect();
        for (key, rule) in self.rules.clone() {
            self.rule_names(key, rule);
            self.rule_redirect(key, rule, &nat);
            self.rule_masquerade(key, rule);
            self.rule_nodes(key, rule, nodes.len());
        }
        self.set_sizes();
    }

    /// Notes that a name of some kind leads nowhere. Looking for what may have been meant is bounded.
    fn missing(&mut self, key: &Key, path: &str, kinds: &[Kind], name: &Name) {
        let mut hint = String::new();
        if self.hints_left > 0 {
            self.hints_left -= 1;
            let names = self
                .documents
                .keys()
                .filter(|key| kinds.contains(&key.kind));
            hint = crate::suggest::did_you_mean(name.as_str(), names.map(|key| key.name.as_str()));
        }
        let words: Vec<&str> = kinds.iter().map(|kind| kind.words()).collect();
        let missing = kinds.iter().map(|kind| Key {
            kind: *kind,
            name: name.clone(),
        });
        self.findings.errors.push(Finding {
            key: key.clone(),
            path: path.to_owned(),
            message: format!(
                "there is no {} `{name}`{hint}",
                crate::suggest::either(&words)
            ),
            missing: missing.collect(),
        });
    }

    fn need(&mut self, key: &Key, path: &str, kind: Kind, name: &Name) {
        let wanted = Key {
            kind,
            name: name.clone(),
        };
        if !self.documents.contains_key(&wanted) {
            self.missing(key, path, &[kind], name);
        }
    }

    pub(crate) fn pool_is_missing(&mut self, key: &Key, pool: &Name) {
        self.missing(key, "spec.pool", &[Kind::Pool], pool);
    }

    fn guards(&mut self) {
        for (key, Port { guard, .. }) in self.ports.clone() {
            for (path, sets) in [
                ("spec.guard.block", &guard.block),
                ("spec.guard.allow", &guard.allow),
            ] {
                for set in sets {
                    self.need(key, path, Kind::AddressSet, set);
                }
            }
            let Some(name) = &guard.per_source else {
                continue;
            };
            let path = "spec.guard.perSource";
            match self.limits.get(name) {
                None => self.missing(key, path, &[Kind::RateLimit], name),
                Some(limit) if limit.per != Scope::Source => {
                    let message = format!(
                        "RateLimit/{name} is `per: {}`; a guard needs one with `per: source`",
                        limit.per
                    );
                    self.error(key, path, message);
                }
                Some(_) => {}
            }
        }
    }

    fn rule_names(&mut self, key: &Key, rule: &Rule) {
        let matches = &rule.matches;
        for (path, kind, names) in [
            (
                "spec.match.sourceSets",
                Kind::AddressSet,
                &matches.source_sets,
            ),
            (
                "spec.match.notSourceSets",
                Kind::AddressSet,
                &matches.not_source_sets,
            ),
            (
                "spec.match.destinationSets",
                Kind::AddressSet,
                &matches.destination_sets,
            ),
            (
                "spec.match.notDestinationSets",
                Kind::AddressSet,
                &matches.not_destination_sets,
            ),
            ("spec.match.ingress", Kind::Port, &matches.ingress),
        ] {
            for name in names {
                self.need(key, path, kind, name);
            }
        }
        if let Some(limit) = &rule.rate_limit {
            self.need(key, "spec.rateLimit", Kind::RateLimit, limit);
        }
        if let Some(mirror) = &rule.mirror {
            self.need(key, "spec.mirror.port", Kind::Port, &mirror.port);
        }
        match &rule.redirect {
            Some(Redirect::Service(name)) => {
                self.need(key, "spec.redirect.service", Kind::Service, name);
            }
            Some(Redirect::Port(name)) => self.need(key, "spec.redirect.port", Kind::Port, name),
            Some(Redirect::Address { .. }) | None => {}
        }
    }

    /// Redirected packets are not judged again, so chains of redirects cannot be; what is left are targets that would
    /// lead back here.
    fn rule_redirect(&mut self, key: &Key, rule: &Rule, nat: &HashMap<IpAddr, &'a Key>) {
        match &rule.redirect {
            Some(Redirect::Address { address, .. }) => {
                let path = "spec.redirect.address";
                if let Some((_, service)) = self.vip_of(*address) {
                    let message = format!(
                        "{address} is the address of {service}: the packet would come back here; write \
                         `redirect: {{ service: {} }}`",
                        service.name
                    );
                    self.error(key, path, message);
                } else if let Some(port) = nat.get(address) {
                    let message = format!(
                        "{address} is a NAT address of {port}: the packet would come back here"
                    );
                    self.error(key, path, message);
                }
            }
            Some(Redirect::Service(name)) => {
                let Some(service) = self.service(name) else {
                    return;
                };
                let path = "spec.redirect.service";
                let protocol = Protocol::from(service.protocol);
                let found = match rule.matches.protocol {
                    Some(asked) if asked != protocol => Some(format!(
                        "Service/{name} is {protocol}, and the rule matches {asked} only"
                    )),
                    Some(_) => None,
                    None => {
                        let message = format!(
                            "Service/{name} is {protocol}; what else the rule matches is dropped as unsupported_protocol"
                        );
                        self.warning(key, path, message);
                        None
                    }
                };
                if let Some(message) = found {
                    self.error(key, path, message);
                }
            }
            Some(Redirect::Port(_)) | None => {}
        }
    }

    /// Only transit is masqueraded, and what is sent to a VIP is never transit.
    fn rule_masquerade(&mut self, key: &Key, rule: &Rule) {
        if rule.source_nat != SourceNat::Masquerade {
            return;
        }
        let to_vip = rule
            .matches
            .destinations
            .iter()
            .find_map(|prefix| Some((*prefix, self.vip_around(*prefix)?)));
        if let Some((prefix, service)) = to_vip {
            let message = format!(
                "only transit is masqueraded, and {prefix} is the address of {service}, which translates by its own mode"
            );
            self.error(key, "spec.sourceNat", message);
        }
    }

    fn vip_around(&self, prefix: Prefix) -> Option<&'a Key> {
        [Transport::Tcp, Transport::Udp]
            .iter()
            .find_map(|transport| {
                (0..=prefix.length()).find_map(|length| {
                    let services = self.vips.get(&(*transport, prefix.widen(length)))?;
                    services.first().map(|(_, key)| *key)
                })
            })
    }

    /// A packet leaves by a port of the node that it came in at.
    fn rule_nodes(&mut self, key: &Key, rule: &Rule, nodes: usize) {
        let targets = [
            (
                "spec.mirror.port",
                rule.mirror.as_ref().map(|mirror| &mirror.port),
            ),
            (
                "spec.redirect.port",
                match &rule.redirect {
                    Some(Redirect::Port(port)) => Some(port),
                    _ => None,
                },
            ),
        ];
        for (path, target) in targets {
            let Some((name, node)) = target.and_then(|name| Some((name, self.node_of(name)?)))
            else {
                continue;
            };
            let ingress = &rule.matches.ingress;
            let elsewhere = ingress
                .iter()
                .find(|port| self.node_of(port).is_some_and(|other| other != node));
            if let Some(port) = elsewhere {
                let message = format!(
                    "Port/{name} is of node {node}, and Port/{port}, where packets may come in, of another"
                );
                self.error(key, path, message);
            } else if ingress.is_empty() && nodes > 1 {
                let message = format!(
                    "Port/{name} is of node {node}, and there are other nodes; name in `match.ingress` the ports of {node} \
                     where the packets come in"
                );
                self.error(key, path, message);
            }
        }
    }

    fn node_of(&self, port: &Name) -> Option<&'a Name> {
        let at = self
            .ports
            .binary_search_by(|(key, _)| key.name.cmp(port))
            .ok()?;
        Some(&self.ports[at].1.node)
    }

    fn set_sizes(&mut self) {
        let total: u64 = self.sets.iter().map(|(_, set)| set.len() as u64).sum();
        let largest = self.sets.iter().max_by_key(|(_, set)| set.len());
        if let (true, Some((key, set))) = (total > MAX_PREFIXES, largest) {
            let path = match set {
                AddressSet::Prefixes(_) => "spec.prefixes",
                AddressSet::Content(_) => "spec.content.prefixes",
            };
            let message = format!(
                "all sets together have {total} prefixes, at most {MAX_PREFIXES} fit; this is the largest set, with {}",
                set.len()
            );
            let key = (*key).clone();
            self.error(&key, path, message);
        }
    }

    pub(crate) fn mappings(&mut self) {
        let directory = Directory::of(self.documents);
        let mut work = MAX_MAPPING_WORK;
        let mut rules = self.rules.len();
        let mut is_over = false;
        for (key, mapping) in self.mappings.clone() {
            self.mapping_names(key, mapping, &directory);
            if is_over || !is_approved(mapping) {
                continue;
            }
            let count = directory
                .expand(mapping, &mut work)
                .map(|parts| parts.len());
            rules = rules.saturating_add(count.as_ref().copied().unwrap_or(0));
            let message = match count {
                Err(_) => format!(
                    "the mappings up to this one name more than {MAX_MAPPING_WORK} addresses, sets, services and ports together"
                ),
                Ok(_) if rules > MAX_RULES => format!(
                    "with the mappings up to this one there are {rules} rules; at most {MAX_RULES} fit"
                ),
                Ok(_) => continue,
            };
            is_over = true;
            self.error(key, "spec.destinations", message);
        }
    }

    fn mapping_names(&mut self, key: &Key, mapping: &Mapping, directory: &Directory<'_>) {
        for endpoint in &mapping.sources {
            let path = "spec.sources";
            match endpoint {
                Endpoint::All => {}
                Endpoint::Collection(label) if directory.has_members(label).0 => {}
                Endpoint::Collection(label) => {
                    let message = format!(
                        "no AddressSet or Service has the label `collection: {label}`, so this adds nobody"
                    );
                    self.warning(key, path, message);
                }
                Endpoint::Named(name) => match (directory.set(name), directory.service(name)) {
                    (Some(_), Some(_)) => {
                        let message =
                            format!("`{name}` is an AddressSet and a Service; rename one of them");
                        self.error(key, path, message);
                    }
                    (None, None) => {
                        self.missing(key, path, &[Kind::AddressSet, Kind::Service], name);
                    }
                    _ => {}
                },
            }
        }
        for endpoint in &mapping.destinations {
            let path = "spec.destinations";
            match endpoint {
                Endpoint::All => {}
                Endpoint::Collection(label) if directory.has_members(label).1 => {}
                Endpoint::Collection(label) => {
                    let message = format!(
                        "no Service has the label `collection: {label}`, so this opens nothing"
                    );
                    self.warning(key, path, message);
                }
                Endpoint::Named(name) => match directory.service(name) {
                    None if directory.set(name).is_some() => {
                        let message =
                            format!("`{name}` is an AddressSet; a mapping leads to services");
                        self.error(key, path, message);
                    }
                    None => self.missing(key, path, &[Kind::Service], name),
                    Some(service) if part(mapping, service).is_none() => {
                        let message = format!(
                            "the mapping's protocols and ports leave nothing of Service/{name}, {} port {}",
                            service.protocol, service.port
                        );
                        self.error(key, path, message);
                    }
                    Some(_) => {}
                },
            }
        }
    }
}

impl Kind {
    /// What a person calls one of it.
    fn words(self) -> &'static str {
        match self {
            Kind::Port => "port",
            Kind::Service => "service",
            Kind::Pool => "pool",
            Kind::Rule => "rule",
            Kind::AddressSet => "address set",
            Kind::RateLimit => "rate limit",
            Kind::Mapping => "mapping",
        }
    }
}
