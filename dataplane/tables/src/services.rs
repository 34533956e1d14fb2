//! The service map: which service, if any, a destination belongs to.

use core::net::IpAddr;
use std::sync::Arc;

use march_wire::tuple::{Address, IpPrefix};

use crate::keyed::KeyedMap;
use crate::{BuildError, NONE, PoolId, ServiceId};

/// How a service's packets are rewritten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Source and destination: backends see an address of ours and need nothing.
    #[default]
    FullNat,
    /// Destination only: backends see the client and route back through us.
    Nat,
}

/// What decides on the backend of a new flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Affinity {
    /// Both addresses, both ports and the protocol.
    #[default]
    FiveTuple,
    /// The source address alone.
    SourceIp,
}

/// How long a silent flow is remembered, milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Timeouts {
    /// TCP before the handshake is complete.
    pub syn_ms: u32,
    /// TCP established.
    pub established_ms: u32,
    /// TCP after the first FIN.
    pub closing_ms: u32,
    /// UDP.
    pub udp_ms: u32,
    /// ICMP queries.
    pub icmp_ms: u32,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            syn_ms: 30_000,
            established_ms: 3_600_000,
            closing_ms: 60_000,
            udp_ms: 60_000,
            icmp_ms: 10_000,
        }
    }
}

/// Bounds on what clients may open. The default is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ServiceLimits {
    /// New flows per second over all lcores of the node, with as many at once; beyond it `new_connection_rate`. 0: no bound.
    pub new_per_second: u32,
    /// TCP handshakes that may be under way at once, per lcore; beyond it `half_open_limit`. 0: no bound.
    pub half_open: u32,
}

/// One service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Name, for reports.
    pub name: Box<str>,
    /// VIP: an address or a prefix.
    pub address: IpPrefix,
    /// 6 (TCP) or 17 (UDP).
    pub protocol: u8,
    /// Lowest port.
    pub first_port: u16,
    /// Highest port, included.
    pub last_port: u16,
    /// Its backends.
    pub pool: PoolId,
    /// How packets are rewritten.
    pub mode: Mode,
    /// What decides on the backend.
    pub affinity: Affinity,
    /// How long silent flows live.
    pub timeouts: Timeouts,
    /// What clients may open.
    pub limits: ServiceLimits,
}

impl Service {
    /// A place without a service: it keeps the ids of those behind it, which flows and counters remember.
    #[must_use]
    pub fn vacant() -> Self {
        Self {
            name: Box::default(),
            address: IpPrefix::host(IpAddr::V4(core::net::Ipv4Addr::UNSPECIFIED)),
            protocol: 0,
            first_port: 0,
            last_port: 0,
            pool: NONE,
            mode: Mode::default(),
            affinity: Affinity::default(),
            timeouts: Timeouts::default(),
            limits: ServiceLimits::default(),
        }
    }

    /// True for a place without a service: it has no name.
    pub fn is_vacant(&self) -> bool {
        self.name.is_empty()
    }

    fn is_exact(&self) -> bool {
        self.address.is_host() && self.first_port == self.last_port
    }
}

/// Every service, and how to find one.
#[derive(Debug)]
pub struct Services {
    services: Arc<[Service]>,
    /// One address, one port.
    exact: KeyedMap<(IpAddr, u8, u16), ServiceId>,
    /// Prefixes and port ranges, longest prefix first; few.
    wide: Box<[ServiceId]>,
}

impl Services {
    /// Compiles services; fails when two claim the same address, protocol and port with equally long prefixes.
    pub(crate) fn new(services: &Arc<[Service]>) -> Result<Self, BuildError> {
        refuse_overlap(services)?;
        let mut exact = KeyedMap::default();
        let mut wide: Vec<ServiceId> = Vec::new();
        for (id, service) in (0..).zip(&**services) {
            if service.is_vacant() {
                continue;
            }
            if service.is_exact() {
                let key = (
                    service.address.address(),
                    service.protocol,
                    service.first_port,
                );
                exact.insert(key, id);
            } else {
                wide.push(id);
            }
        }
        wide.sort_by_key(|id| core::cmp::Reverse(services[usize::from(*id)].address.length()));
        Ok(Self {
            services: Arc::clone(services),
            exact,
            wide: wide.into(),
        })
    }

    /// The service that `destination`, `protocol` and `port` belong to. An exact one wins over a wide one, a longer
    /// prefix over a shorter one.
    #[inline]
    pub fn lookup<A: Address>(&self, destination: A, protocol: u8, port: u16) -> Option<ServiceId> {
        let address: IpAddr = destination.into();
        if let Some(id) = self.exact.get(&(address, protocol, port)) {
            return Some(*id);
        }
        self.wide.iter().copied().find(|id| {
            let service = &self.services[usize::from(*id)];
            service.protocol == protocol
                && service.first_port <= port
                && port <= service.last_port
                && service.address.contains(address)
        })
    }

    /// The service. Panics if `id` is not one that [`Services::lookup`] of the same generation returned.
    #[inline]
    pub fn get(&self, id: ServiceId) -> &Service {
        &self.services[usize::from(id)]
    }

    /// How many places there are, vacant ones included; ids are below it.
    pub fn len(&self) -> usize {
        self.services.len()
    }

    /// Whether there is no place at all.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty()
    }

    pub(crate) fn source(&self) -> &Arc<[Service]> {
        &self.services
    }
}

/// Two services overlap when they have the same prefix, the same protocol and a port in common.
fn refuse_overlap(services: &[Service]) -> Result<(), BuildError> {
    if services.len() >= usize::from(NONE) {
        return Err(BuildError::TooMany {
            what: "services",
            count: services.len(),
        });
    }
    let mut order: Vec<&Service> = services
        .iter()
        .filter(|service| !service.is_vacant())
        .collect();
    order.sort_by_key(|service| {
        let prefix = service.address;
        (
            prefix.address(),
            prefix.length(),
            service.protocol,
            service.first_port,
        )
    });
    // Sorted by first port: the range that reaches furthest so far is the only one that the next can run into.
    let mut furthest: Option<&Service> = None;
    for service in order {
        let same = furthest
            .filter(|other| other.address == service.address && other.protocol == service.protocol);
        if let Some(other) = same.filter(|other| service.first_port <= other.last_port) {
            return Err(BuildError::ServiceOverlap {
                first: other.name.clone(),
                second: service.name.clone(),
            });
        }
        furthest = Some(service);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::{Ipv4Addr, Ipv6Addr};

    #[test]
    fn a_vacant_place_keeps_the_ids_of_the_others() {
        let services: Arc<[Service]> = [
            Service::vacant(),
            service("web", "192.0.2.1/32", 6, (80, 80)),
            Service::vacant(),
        ]
        .into();
        let services = Services::new(&services).expect("vacant places never overlap");
        assert_eq!(services.lookup(Ipv4Addr::new(192, 0, 2, 1), 6, 80), Some(1));
        assert_eq!(services.lookup(Ipv4Addr::UNSPECIFIED, 0, 0), None);
        assert_eq!(services.len(), 3);
    }
    use proptest::prelude::*;

    fn service(name: &str, address: &str, protocol: u8, ports: (u16, u16)) -> Service {
        Service {
            name: name.into(),
            address: address.parse().expect("a prefix"),
            protocol,
            first_port: ports.0,
            last_port: ports.1,
            pool: 0,
            mode: Mode::FullNat,
            affinity: Affinity::FiveTuple,
            timeouts: Timeouts::default(),
            limits: ServiceLimits::default(),
        }
    }

    fn compile(services: &[Service]) -> Result<Services, BuildError> {
        Services::new(&services.into())
    }

    #[test]
    fn the_most_specific_service_wins() {
        let services = compile(&[
            service("net", "192.0.2.0/24", 6, (80, 80)),
            service("range", "192.0.2.10", 6, (8000, 8010)),
            service("exact", "192.0.2.10", 6, (80, 80)),
            service("half", "192.0.2.0/25", 6, (80, 90)),
            service("v6", "2001:db8::/64", 17, (53, 53)),
        ])
        .expect("no overlap");
        let v4 = |last, port| services.lookup(Ipv4Addr::new(192, 0, 2, last), 6, port);
        assert_eq!(v4(10, 80), Some(2));
        assert_eq!(v4(10, 8010), Some(1));
        assert_eq!(v4(10, 8011), None);
        assert_eq!(v4(11, 80), Some(3));
        assert_eq!(v4(200, 80), Some(0));
        assert_eq!(v4(200, 81), None);
        assert_eq!(services.lookup(Ipv4Addr::new(192, 0, 2, 10), 17, 80), None);
        let v6: Ipv6Addr = "2001:db8::53".parse().expect("an address");
        assert_eq!(services.lookup(v6, 17, 53), Some(4));
        assert_eq!(&*services.get(4).name, "v6");
    }

    #[test]
    fn an_overlap_names_both() {
        let pairs = [
            (
                service("a", "192.0.2.1", 6, (80, 80)),
                service("b", "192.0.2.1", 6, (80, 80)),
            ),
            (
                service("a", "192.0.2.1", 6, (80, 80)),
                service("b", "192.0.2.1", 6, (70, 90)),
            ),
            (
                service("a", "2001:db8::/64", 17, (1, 9)),
                service("b", "2001:db8::/64", 17, (9, 10)),
            ),
        ];
        for (first, second) in pairs {
            let error = compile(&[first, second]).expect_err("an overlap");
            let message = error.to_string();
            assert!(
                message.contains("\"a\"") && message.contains("\"b\""),
                "{message}"
            );
        }
        let apart = [
            service("a", "192.0.2.1", 6, (80, 80)),
            service("b", "192.0.2.1", 17, (80, 80)),
            service("c", "192.0.2.1", 6, (81, 90)),
            service("d", "192.0.2.0/31", 6, (80, 80)),
        ];
        assert!(compile(&apart).is_ok());
    }

    proptest! {
        #[test]
        fn agrees_with_a_linear_search(
            list in prop::collection::vec((0_u32..8, 28_u8..=32, 0_u16..20, 0_u16..4), 0..12),
            probes in prop::collection::vec((0_u32..20, 0_u16..24), 30),
        ) {
            let list: Vec<Service> = list.into_iter().map(|(address, length, port, width)| {
                let address = IpAddr::from(Ipv4Addr::from(address));
                Service {
                    address: IpPrefix::containing(address, length).expect("a length of IPv4"),
                    ..service("any", "0.0.0.0/0", 17, (port, port + width))
                }
            }).collect();
            // Overlapping lists are refused: nothing to look up.
            if let Ok(services) = compile(&list) {
                for (address, port) in probes {
                    let address = Ipv4Addr::from(address);
                    let naive = (0..).zip(&list)
                        .filter(|(_, service)| service.address.contains(address)
                            && (service.first_port..=service.last_port).contains(&port))
                        .max_by_key(|(_, service)| service.address.length())
                        .map(|(id, _): (u16, _)| id);
                    prop_assert_eq!(services.lookup(address, 17, port), naive);
                }
            }
        }
    }
}
