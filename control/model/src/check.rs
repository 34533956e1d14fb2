//! What must hold across the documents of a set.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use crate::address_set::AddressSet;
use crate::document::{Document, Spec};
use crate::error::FieldError;
use crate::mapping::Mapping;
use crate::name::{Key, Kind, Name};
use crate::pool::Pool;
use crate::port::{KERNEL_EPHEMERAL_PORTS, Port, TierChoice};
use crate::rate_limit::RateLimit;
use crate::references::MAX_RULES;
use crate::rule::Rule;
use crate::scalar::{Family, PortRange, Prefix, Transport};
use crate::service::Service;

/// How many documents of a kind but Rule, and how many backends over all pools, a set may have: their numbers in the
/// data plane are 16 bits wide, and the highest means "none".
pub const MAX_PER_KIND: usize = 65_534;

/// How long the canonical texts of a set may be together, in bytes: a node is sent all of them in one message.
pub const MAX_SET_BYTES: usize = 64 << 20;

/// What the checks found.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub errors: Vec<Finding>,
    pub warnings: Vec<Finding>,
}

/// One error or warning, still without its place in a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub key: Key,
    pub path: String,
    pub message: String,
    /// The document that is missing, if that is what is wrong; several where any of them would do.
    pub missing: Vec<Key>,
}

impl Finding {
    /// Without a place in a file.
    pub fn into_error(self) -> FieldError {
        FieldError::of_document(self.key.to_string(), &self.path, self.message)
    }
}

/// The documents of a set, sorted.
pub(crate) type Documents = BTreeMap<Key, Arc<Document>>;

/// Checks a whole set.
pub(crate) fn check(documents: &Documents) -> Findings {
    let mut check = Check::new(documents);
    check.counts();
    check.size(documents, MAX_SET_BYTES);
    check.services_overlap();
    check.service_pools();
    check.backends_and_vips();
    check.interfaces();
    check.tiers();
    check.nat();
    check.references();
    check.mappings();
    check.findings
}

/// The documents of a set by kind, each sorted by name, and what was found.
pub(crate) struct Check<'a> {
    pub(crate) documents: &'a Documents,
    pub(crate) ports: Vec<(&'a Key, &'a Port)>,
    services: Vec<(&'a Key, &'a Service)>,
    pools: BTreeMap<&'a Name, (&'a Key, &'a Pool)>,
    pub(crate) rules: Vec<(&'a Key, &'a Rule)>,
    pub(crate) sets: Vec<(&'a Key, &'a AddressSet)>,
    pub(crate) limits: BTreeMap<&'a Name, &'a RateLimit>,
    pub(crate) mappings: Vec<(&'a Key, &'a Mapping)>,
    pub(crate) vips: Vips<'a>,
    /// For how many more names that lead nowhere a nearer one is looked for.
    pub(crate) hints_left: u32,
    pub(crate) findings: Findings,
}

/// How many names that lead nowhere get a "did you mean".
const HINTS: u32 = 200;
/// How many services that overlap are told apart; one more error says that there are others.
const OVERLAPS: usize = 200;

/// Services by transport and prefix, each with its port range in order.
pub(crate) type Vips<'a> = BTreeMap<(Transport, Prefix), Vec<(PortRange, &'a Key)>>;

impl<'a> Check<'a> {
    pub(crate) fn new(documents: &'a Documents) -> Self {
        let mut check = Self {
            documents,
            ports: Vec::new(),
            services: Vec::new(),
            pools: BTreeMap::new(),
            rules: Vec::new(),
            sets: Vec::new(),
            limits: BTreeMap::new(),
            mappings: Vec::new(),
            vips: BTreeMap::new(),
            hints_left: HINTS,
            findings: Findings::default(),
        };
        for (key, document) in documents {
            match document.spec() {
                Spec::Port(port) => check.ports.push((key, port)),
                Spec::Service(service) => check.services.push((key, service)),
                Spec::Pool(pool) => {
                    check.pools.insert(&key.name, (key, pool));
                }
                Spec::Rule(rule) => check.rules.push((key, rule)),
                Spec::AddressSet(set) => check.sets.push((key, set)),
                Spec::RateLimit(limit) => {
                    check.limits.insert(&key.name, limit);
                }
                Spec::Mapping(mapping) => check.mappings.push((key, mapping)),
            }
        }
        for (key, service) in &check.services {
            check
                .vips
                .entry((service.protocol, service.address))
                .or_default()
                .push((service.port, key));
        }
        for ranges in check.vips.values_mut() {
            ranges.sort();
        }
        check
    }

    pub(crate) fn error(&mut self, key: &Key, path: impl Into<String>, message: String) {
        self.findings.errors.push(Finding {
            key: key.clone(),
            path: path.into(),
            message,
            missing: Vec::new(),
        });
    }

    pub(crate) fn warning(&mut self, key: &Key, path: impl Into<String>, message: String) {
        self.findings.warnings.push(Finding {
            key: key.clone(),
            path: path.into(),
            message,
            missing: Vec::new(),
        });
    }

    pub(crate) fn service(&self, name: &Name) -> Option<&'a Service> {
        let at = self
            .services
            .binary_search_by(|(key, _)| key.name.cmp(name))
            .ok()?;
        Some(self.services[at].1)
    }

    fn counts(&mut self) {
        let backends: usize = self
            .pools
            .values()
            .map(|(_, pool)| pool.backends.len())
            .sum();
        let last_pool = self
            .pools
            .values()
            .next_back()
            .map(|(key, _)| (*key).clone());
        if let (true, Some(key)) = (backends > MAX_PER_KIND, last_pool) {
            self.error(
                &key,
                "spec.backends",
                format!("{backends} backends over all pools; at most {MAX_PER_KIND} fit"),
            );
        }
        for (kind, count, limit) in [
            (Kind::Port, self.ports.len(), MAX_PER_KIND),
            (Kind::Service, self.services.len(), MAX_PER_KIND),
            (Kind::Pool, self.pools.len(), MAX_PER_KIND),
            (Kind::Rule, self.rules.len(), MAX_RULES),
            (Kind::AddressSet, self.sets.len(), MAX_PER_KIND),
            (Kind::RateLimit, self.limits.len(), MAX_PER_KIND),
            (Kind::Mapping, self.mappings.len(), MAX_PER_KIND),
        ] {
            if count > limit {
                let name = "all".parse().expect("a valid name");
                self.error(
                    &Key { kind, name },
                    "",
                    format!("{count} documents of kind {kind}; at most {limit} fit"),
                );
            }
        }
    }

    fn size(&mut self, documents: &Documents, limit: usize) {
        let length = |document: &Arc<Document>| document.canonical().len();
        let total: usize = documents.values().map(length).sum();
        let largest = documents
            .iter()
            .max_by_key(|(_, document)| length(document));
        if let (true, Some((key, document))) = (total > limit, largest) {
            let message = format!(
                "the set has {total} bytes, at most {limit} fit; this is the largest document, with {} bytes",
                length(document)
            );
            self.error(key, "", message);
        }
    }

    /// An address, transport and port belongs to one service, whatever the prefix lengths.
    fn services_overlap(&mut self) {
        let mut found = Vec::new();
        let lengths: BTreeSet<u8> = self
            .vips
            .keys()
            .map(|(_, prefix)| prefix.length())
            .collect();
        for ((transport, prefix), ranges) in &self.vips {
            let mut widest: Option<&(PortRange, &Key)> = None;
            for range in ranges {
                if let Some(before) = widest
                    && before.0.last() >= range.0.first()
                {
                    found.push((*prefix, *transport, before, range));
                }
                if widest.is_none_or(|before| before.0.last() < range.0.last()) {
                    widest = Some(range);
                }
            }
            for length in lengths
                .iter()
                .take_while(|length| **length < prefix.length())
            {
                let Some(around) = self.vips.get(&(*transport, prefix.widen(*length))) else {
                    continue;
                };
                found.extend(ranges.iter().filter_map(|inner| {
                    let outer = overlapping(around, inner.0)?;
                    Some((*prefix, *transport, outer, inner))
                }));
            }
            if found.len() > OVERLAPS {
                break;
            }
        }
        let more = found.len() > OVERLAPS;
        let errors: Vec<_> = found
            .into_iter()
            .take(OVERLAPS)
            .map(
                |(prefix, transport, (first_range, first), (second_range, second))| {
                    let port = first_range.first().max(second_range.first());
                    let message = format!(
                        "{transport} {prefix} port {port} is used twice, by {first} and by {second}"
                    );
                    ((*second).clone(), message)
                },
            )
            .collect();
        let last = errors.last().map(|(key, _)| key.clone());
        for (key, message) in errors {
            self.error(&key, "spec.address", message);
        }
        if let (true, Some(key)) = (more, last) {
            let message = format!("more services overlap than these {OVERLAPS}");
            self.error(&key, "", message);
        }
    }

    fn service_pools(&mut self) {
        for (key, service) in self.services.clone() {
            let Some((pool_key, pool)) = self.pools.get(&service.pool) else {
                self.pool_is_missing(key, &service.pool);
                continue;
            };
            let family = service.address.family();
            let other = pool
                .backends
                .iter()
                .find(|backend| Family::of(backend.address) != family);
            if let Some(backend) = other {
                let message = format!(
                    "the service's address is {family}, but {pool_key} has backend {} ({})",
                    backend.endpoint(),
                    Family::of(backend.address)
                );
                self.error(key, "spec.pool", message);
            }
        }
    }

    /// The service whose VIP holds an address, with its transport.
    pub(crate) fn vip_of(&self, address: IpAddr) -> Option<(Transport, &'a Key)> {
        self.vips_of(address)
            .next()
            .map(|(transport, (_, key))| (transport, *key))
    }

    fn vips_of(&self, address: IpAddr) -> impl Iterator<Item = (Transport, &(PortRange, &'a Key))> {
        let full: Prefix = address
            .to_string()
            .parse()
            .unwrap_or_else(|_| unreachable!("an address is a prefix"));
        [Transport::Tcp, Transport::Udp]
            .into_iter()
            .flat_map(move |transport| {
                (0..=full.length()).rev().flat_map(move |length| {
                    let ranges = self.vips.get(&(transport, full.widen(length)));
                    ranges
                        .into_iter()
                        .flatten()
                        .map(move |range| (transport, range))
                })
            })
    }

    fn backends_and_vips(&mut self) {
        let mut errors = Vec::new();
        for (key, pool) in self.pools.values() {
            for (index, backend) in pool.backends.iter().enumerate() {
                if let Some((_, service)) = self.vip_of(backend.address) {
                    let message = format!(
                        "backend {} is the address of {service}: the service would send to itself",
                        backend.endpoint()
                    );
                    errors.push((
                        (*key).clone(),
                        format!("spec.backends[{index}].address"),
                        message,
                    ));
                }
            }
        }
        for (key, path, message) in errors {
            self.error(&key, path, message);
        }
    }

    fn interfaces(&mut self) {
        let mut seen: HashMap<(&Name, &str), &Key> = HashMap::new();
        let mut errors = Vec::new();
        for (key, port) in &self.ports {
            let place = (&port.node, port.interface.as_str());
            if let Some(first) = seen.insert(place, key) {
                let message = format!(
                    "interface {} of node {} is used twice, by {first} and by {key}",
                    place.1, place.0
                );
                errors.push(((*key).clone(), message));
            }
        }
        for (key, message) in errors {
            self.error(&key, "spec.interface", message);
        }
    }

    /// Frames move between the fast ports of a node without being copied, so all of them run one tier.
    fn tiers(&mut self) {
        let mut asked: HashMap<&Name, (bool, &Key)> = HashMap::new();
        let mut errors = Vec::new();
        for (key, port) in &self.ports {
            let is_dpdk = match port.tier {
                TierChoice::Dpdk | TierChoice::DpdkVirtual(_) => true,
                TierChoice::AfXdp => false,
                TierChoice::Auto | TierChoice::Socket => continue,
            };
            let (first_is_dpdk, first) = *asked.entry(&port.node).or_insert((is_dpdk, key));
            if first_is_dpdk != is_dpdk {
                let message = format!(
                    "{key} asks for {} and {first} for another fast tier; the ports of node {} run one",
                    port.tier, port.node
                );
                errors.push(((*key).clone(), message));
            }
        }
        for (key, message) in errors {
            self.error(&key, "spec.tier", message);
        }
    }

    fn nat(&mut self) {
        let mut seen: HashMap<IpAddr, Vec<(PortRange, &Key)>> = HashMap::new();
        let backends: HashMap<IpAddr, &Key> = self
            .pools
            .values()
            .flat_map(|(key, pool)| pool.backends.iter().map(|backend| (backend.address, *key)))
            .collect();
        let mut errors = Vec::new();
        let mut warnings = Vec::new();
        for (key, port) in &self.ports {
            let range = port.nat.ports;
            if range.overlaps(KERNEL_EPHEMERAL_PORTS) {
                let message = format!(
                    "NAT ports {range} overlap {KERNEL_EPHEMERAL_PORTS}, the kernel's default ephemeral range: unless \
                     net.ipv4.ip_local_port_range of node {} is elsewhere, its own connections can break",
                    port.node
                );
                warnings.push(((*key).clone(), message));
            }
            for (index, address) in port.nat.addresses.iter().enumerate() {
                let mut refuse = |message: String| {
                    errors.push((
                        (*key).clone(),
                        format!("spec.nat.addresses[{index}]"),
                        message,
                    ));
                };
                let users = seen.entry(*address).or_default();
                if let Some((other, first)) = users.iter().find(|(other, _)| other.overlaps(range))
                {
                    refuse(format!(
                        "NAT address {address} with ports {range} is used by {first} too, with ports {other}"
                    ));
                }
                users.push((range, key));
                if let Some((_, (vip_ports, service))) = self
                    .vips_of(*address)
                    .find(|(_, (ports, _))| ports.overlaps(range))
                {
                    refuse(format!(
                        "NAT address {address} with ports {range} overlaps {service}, ports {vip_ports}"
                    ));
                }
                if let Some(pool) = backends.get(address) {
                    refuse(format!("NAT address {address} is a backend of {pool}"));
                }
            }
        }
        for (key, path, message) in errors {
            self.error(&key, path, message);
        }
        for (key, message) in warnings {
            self.warning(&key, "spec.nat.ports", message);
        }
    }
}

/// The first of some ranges, sorted and apart from each other, that has a port of another.
fn overlapping<'b, 'a>(
    ranges: &'b [(PortRange, &'a Key)],
    other: PortRange,
) -> Option<&'b (PortRange, &'a Key)> {
    let behind = ranges.partition_point(|(range, _)| range.first() <= other.last());
    let nearest = ranges[..behind].last()?;
    // Ranges that overlap each other are an error of their own, so missing one here hides nothing.
    nearest.0.overlaps(other).then_some(nearest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_that_no_message_could_carry_names_its_largest_document() {
        let pool = |name: &str, port: u16| {
            format!(
                "apiVersion: marchproxy/v1\nkind: Pool\nmetadata: {{ name: {name} }}\n\
                 spec: {{ backends: [{{ address: 10.0.0.1, port: {port} }}] }}\n---\n"
            )
        };
        let source = crate::Source {
            name: "a.yaml".to_owned(),
            text: pool("short", 1) + &pool("longest", 8080),
        };
        let documents: Documents = crate::Batch::parse(&[source])
            .documents
            .into_iter()
            .map(|(key, (document, _))| (key, document))
            .collect();
        let total: usize = documents.values().map(|one| one.canonical().len()).sum();
        let mut check = Check::new(&documents);
        check.size(&documents, total);
        assert!(check.findings.errors.is_empty());
        check.size(&documents, total - 1);
        assert_eq!(check.findings.errors.len(), 1);
        assert_eq!(check.findings.errors[0].key.to_string(), "Pool/longest");
    }
}
