//! A decision of the reference, told.

use core::fmt::Write as _;
use core::net::{IpAddr, SocketAddr};

use march_policy::{
    AddressOwner, Arrival, BackendUse, Counter, Decision, Guarded, LimitUse, Mirrored, Observed,
    Parsed, Policy, RuleUse, Towards, Translated,
};
use march_tables::{Action, BackendState, LimitUnit, Mode, PortId, Redirect, SetId, Stance};
use march_wire::{DropReason, Packet, Verdict};

use super::{Names, Station, describe};

/// Every station of a decision, and whose they are.
pub(super) fn tell(
    policy: &Policy,
    arrival: &Arrival<'_>,
    decision: &Decision,
    observed: &Observed<'_>,
) -> (Vec<Station>, Names) {
    let mut teller = Teller {
        policy,
        decision,
        stations: Vec::new(),
        names: Names::default(),
    };
    teller.tell(arrival);
    teller.say("verdict", teller.verdict(observed));
    if !decision.agrees(observed) {
        let reference = Observed {
            verdict: decision.verdict,
            frame: &decision.frame,
        };
        let said = teller.verdict(&reference);
        teller.say(
            "internal",
            format!("the data plane disagrees: by its definition the verdict is \"{said}\""),
        );
    }
    (teller.stations, teller.names)
}

struct Teller<'a> {
    policy: &'a Policy,
    decision: &'a Decision,
    stations: Vec<Station>,
    names: Names,
}

impl Teller<'_> {
    fn say(&mut self, stage: &'static str, said: String) {
        self.stations.push(Station { stage, said });
    }

    fn tell(&mut self, arrival: &Arrival<'_>) {
        self.parse(arrival.frame);
        self.guard(arrival.ingress);
        self.address();
        self.rule();
        self.service();
        self.limits();
        self.backend();
        self.route();
        self.treatment();
        self.places();
        self.counters();
    }

    fn parse(&mut self, frame: &[u8]) {
        let said = match &self.decision.parsed {
            Parsed::Unread => "no such port".to_owned(),
            Parsed::Refused(reason) => {
                format!("{} bytes: {reason}: {}", frame.len(), reason.help())
            }
            Parsed::Arp => "ARP".to_owned(),
            Parsed::Link(ethertype) => format!("ethertype 0x{ethertype:04x}: a link protocol"),
            Parsed::Ip { .. } => match march_wire::parse(frame) {
                Ok(Packet::Ip(packet)) => describe(frame, &packet),
                _ => String::new(),
            },
        };
        self.say("parse", said);
    }

    fn set_name(&self, set: SetId) -> &str {
        let set = self.policy.config().sets.get(usize::from(set));
        set.map_or("?", |set| &set.name)
    }

    fn guard(&mut self, ingress: PortId) {
        let port = self.policy.port_name(ingress);
        let said = match self.decision.guard {
            None => return,
            Some(Guarded::Unlisted) => format!("no set of {port}'s guard holds the source"),
            Some(Guarded::Allowed { set, length }) => {
                format!(
                    "set \"{}\" allows the source, by a /{length}",
                    self.set_name(set)
                )
            }
            Some(Guarded::Blocked { set, length }) => {
                format!(
                    "set \"{}\" blocks the source, by a /{length}",
                    self.set_name(set)
                )
            }
        };
        self.say("guard", said);
    }

    fn address(&mut self) {
        let Parsed::Ip { tuple, .. } = self.decision.parsed else {
            return;
        };
        let whose = match self.decision.owner {
            None => return,
            Some(AddressOwner::Nobody) => "not local: transit",
            Some(AddressOwner::Kernel) => "an address of the kernel",
            Some(AddressOwner::KernelAndNat) => "an address of the kernel that a NAT pool uses too",
            Some(AddressOwner::Service) => "a service's address",
            Some(AddressOwner::Nat) => "a dedicated NAT address",
        };
        self.say("address", format!("{} is {whose}", tuple.dst));
    }

    fn rule(&mut self) {
        let said = match &self.decision.rule {
            None => return,
            Some(RuleUse::Default {
                ingress,
                stance,
                towards,
            }) => {
                let by_default = self.by_default(*ingress, *towards, *stance);
                format!("no rule matches: {by_default}")
            }
            Some(RuleUse::Matched {
                name,
                priority,
                mapping,
                action,
                ..
            }) => {
                name.as_ref().clone_into(&mut self.names.rule);
                let mut said = format!(
                    "rule \"{name}\" (priority {priority}) says {}",
                    self.action(*action)
                );
                if let Some(mapping) = mapping {
                    mapping.as_ref().clone_into(&mut self.names.mapping);
                    let _ = write!(said, "; it was made from mapping \"{mapping}\"");
                }
                if let Some(stance) = self.decision.default_after_count {
                    let word = match stance {
                        Stance::Allow => "allowed",
                        Stance::Deny => "denied",
                    };
                    let _ = write!(said, "; then {word} by the port's default");
                }
                said
            }
        };
        self.say("rule", said);
    }

    fn by_default(&self, ingress: PortId, towards: Towards, stance: Stance) -> String {
        let what = match towards {
            Towards::Service => "services are",
            Towards::Transit => "transit is",
        };
        let word = match stance {
            Stance::Allow => "allowed",
            Stance::Deny => "denied",
        };
        format!(
            "{what} {word} by the default of {}",
            self.policy.port_name(ingress)
        )
    }

    fn action(&self, action: Action) -> String {
        match action {
            Action::Allow => "allow".to_owned(),
            Action::Drop => "drop".to_owned(),
            Action::Reject => "reject".to_owned(),
            Action::Count => "count".to_owned(),
            Action::Punt => "punt".to_owned(),
            Action::Redirect(Redirect::Service(id)) => {
                let service = self.policy.config().services.get(usize::from(id));
                format!(
                    "redirect to service \"{}\"",
                    service.map_or("?", |service| &service.name)
                )
            }
            Action::Redirect(Redirect::Address { address, port: 0 }) => {
                format!("redirect to {address}")
            }
            Action::Redirect(Redirect::Address { address, port }) => {
                format!("redirect to {}", SocketAddr::new(address, port))
            }
            Action::Redirect(Redirect::Port(port)) => {
                format!("redirect out of {}", self.policy.port_name(port))
            }
        }
    }

    fn service(&mut self) {
        let Parsed::Ip { tuple, .. } = self.decision.parsed else {
            return;
        };
        if let Some(used) = self.decision.service {
            let config = self.policy.config();
            let service = config.services.get(usize::from(used.service));
            let name = service.map_or("?", |service| &service.name);
            let pool = service.and_then(|service| config.pools.get(usize::from(service.pool)));
            name.clone_into(&mut self.names.service);
            pool.map_or("", |pool| &pool.name)
                .clone_into(&mut self.names.pool);
            let mode = match used.mode {
                Mode::FullNat => "full_nat",
                Mode::Nat => "nat",
            };
            self.say("service", format!("\"{name}\", mode {mode}"));
        } else if self.decision.owner == Some(AddressOwner::Service)
            && self.decision.verdict == Verdict::Drop(DropReason::NoService)
        {
            let said = format!(
                "no service at port {} of protocol {}",
                tuple.dst_port, tuple.protocol
            );
            self.say("service", said);
        }
    }

    fn limits(&mut self) {
        for used in &self.decision.limits {
            let said = match *used {
                LimitUse::Configured {
                    limit,
                    left,
                    needed,
                } => {
                    let limit = self.policy.config().limits.get(usize::from(limit));
                    let (name, unit) = limit.map_or(("?", ""), |limit| {
                        let unit = match limit.unit {
                            LimitUnit::Packets => "packets",
                            LimitUnit::Bits => "bits",
                        };
                        (&*limit.name, unit)
                    });
                    format!("\"{name}\" takes {needed} of {left} {unit} that may come at once")
                }
                LimitUse::NewConnections { left } => {
                    format!("the service takes {left} new connections at once")
                }
                LimitUse::HalfOpen { now, most } => {
                    format!("{now} of {most} handshakes are under way")
                }
            };
            self.stations.push(Station {
                stage: "limit",
                said,
            });
        }
    }

    fn backend(&mut self) {
        let pool = self.names.pool.clone();
        let said = match self.decision.backend {
            Some(BackendUse {
                address,
                port,
                state,
                ..
            }) => {
                let state = match state {
                    BackendState::Active => "active",
                    BackendState::Draining => "draining",
                    BackendState::Down => "down",
                    BackendState::Offline => "offline",
                    BackendState::Gone => "gone",
                };
                let place = SocketAddr::new(address, port);
                self.names.backend = place.to_string();
                format!("{place} of pool \"{pool}\", {state}")
            }
            None if self.decision.verdict == Verdict::Drop(DropReason::NoBackend) => {
                format!("pool \"{pool}\" has no backend that takes new flows")
            }
            None => return,
        };
        self.say("backend", said);
    }

    fn route(&mut self) {
        let Some(hop) = self.decision.hop else {
            if self.decision.verdict == Verdict::Drop(DropReason::NoRoute) {
                self.say(
                    "route",
                    "no route leads there, or it leaves by no port of ours".to_owned(),
                );
            }
            return;
        };
        let to: Option<IpAddr> = self
            .decision
            .translated
            .map(|translated| translated.after.dst);
        let via = match to.filter(|to| *to != hop.address) {
            Some(to) => format!("{to} via {}", hop.address),
            None => hop.address.to_string(),
        };
        let mac = match hop.mac {
            Some([a, b, c, d, e, f]) => format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}"),
            None => "MAC address not yet known".to_owned(),
        };
        self.say(
            "route",
            format!("{via} out of {}, {mac}", self.policy.port_name(hop.port)),
        );
    }

    fn treatment(&mut self) {
        if let Some(Translated { before, after, .. }) = self.decision.translated {
            let said = if before == after {
                format!("{before}, as it came")
            } else {
                format!("{before} becomes {after}")
            };
            self.say("rewrite", said);
        }
        if let Some(dscp) = self.decision.marked {
            self.say("mark", format!("DSCP {dscp} is written"));
        }
        match &self.decision.mirrored {
            Some(Mirrored::Copied(port, _)) => {
                self.say(
                    "mirror",
                    format!("a copy goes out of {}", self.policy.port_name(*port)),
                );
            }
            Some(Mirrored::Lost(port)) => {
                let said = format!(
                    "no copy out of {}: beyond the rate",
                    self.policy.port_name(*port)
                );
                self.say("mirror", said);
            }
            None => {}
        }
    }

    /// Where the rule and the service are carried out.
    fn places(&mut self) {
        if let Some(RuleUse::Matched { placed, .. }) = &self.decision.rule {
            let said = format!(
                "the rule: {}, because {}",
                placed.place.as_str(),
                placed.why
            );
            self.say("place", said);
        }
        if let Some(used) = self.decision.service {
            let said = format!(
                "the service: {}, because {}",
                used.placed.place.as_str(),
                used.placed.why
            );
            self.say("place", said);
        }
    }

    /// What moves beside the port's own counters.
    fn counters(&mut self) {
        let mut words: Vec<&str> = Vec::new();
        for moved in &self.decision.counters {
            let word = match moved.counter {
                Counter::RuleHits(_) => "hits of the rule",
                Counter::ServicePackets(..) => "traffic of the service",
                Counter::BackendPackets(..) => "traffic of the backend",
                Counter::FlowsCreated => "flows created",
                Counter::ChecksumsCompleted(_) => "checksums completed",
                Counter::Mirrored(_) => "copies",
                Counter::MirrorLost(_) => "copies lost",
                _ => continue,
            };
            words.push(word);
        }
        if !words.is_empty() {
            self.say("counters", words.join(", "));
        }
    }

    fn verdict(&self, observed: &Observed<'_>) -> String {
        let packet = match march_wire::parse(observed.frame) {
            Ok(Packet::Ip(packet)) => describe(observed.frame, &packet),
            _ => format!("{} bytes", observed.frame.len()),
        };
        match observed.verdict {
            Verdict::Forward { port } => {
                format!("forward out of {} as {packet}", self.policy.port_name(port))
            }
            Verdict::Answer { port } => {
                format!(
                    "answer out of {} with {packet}",
                    self.policy.port_name(port)
                )
            }
            Verdict::Punt => "punt to the kernel".to_owned(),
            Verdict::Hold => "hold until the next hop's MAC address is known".to_owned(),
            Verdict::Drop(reason) => format!("drop: {reason}: {}", reason.help()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use march_policy::{PrefixLists, State};
    use march_tables::{Config, PortTable, Rule, Unmatched};
    use march_wire::build::PacketBuilder;

    use super::*;

    fn policy() -> Policy {
        let port = PortTable {
            name: "wan".into(),
            mac: [2, 0, 0, 0, 0, 2],
            unmatched: Unmatched {
                transit: Stance::Deny,
                ..Unmatched::default()
            },
            ..PortTable::default()
        };
        let rule = Rule {
            name: "office-to-web".into(),
            priority: 1_000,
            mapping: Some("office".into()),
            action: Action::Count,
            ..Rule::vacant()
        };
        let config = Config {
            ports: [port].into(),
            rules: [rule].into(),
            ..Config::default()
        };
        Policy::new(&config, Arc::new(PrefixLists::default()))
    }

    fn told(verdict: Verdict) -> (Vec<Station>, Names) {
        let policy = policy();
        let frame = PacketBuilder::between("198.51.100.1", "203.0.113.1").build();
        let arrival = Arrival {
            now_ms: 0,
            ingress: 0,
            frame: &frame,
        };
        let observed = Observed {
            verdict,
            frame: &frame,
        };
        let decision = policy.follow(&mut State::new(), arrival, &observed);
        tell(&policy, &arrival, &decision, &observed)
    }

    #[test]
    fn a_rule_is_traced_back_to_its_mapping_and_to_the_default_behind_it() {
        let (stations, names) = told(Verdict::Drop(DropReason::NoService));
        assert_eq!(
            (names.rule.as_str(), names.mapping.as_str()),
            ("office-to-web", "office")
        );
        let rule = stations.iter().find(|station| station.stage == "rule");
        let said = &rule.expect("a station of the rule").said;
        for word in [
            "priority 1000",
            "count",
            "mapping \"office\"",
            "denied by the port's default",
        ] {
            assert!(said.contains(word), "{word} in {said}");
        }
        assert!(stations.iter().all(|station| station.stage != "internal"));
    }

    #[test]
    fn a_data_plane_that_does_otherwise_is_not_hidden() {
        let (stations, _) = told(Verdict::Forward { port: 0 });
        let last = stations.last().expect("stations");
        assert_eq!(last.stage, "internal");
        assert!(
            last.said.contains("the data plane disagrees"),
            "{}",
            last.said
        );
        assert!(last.said.contains("no_service"), "{}", last.said);
    }
}
