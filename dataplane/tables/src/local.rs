//! Which addresses are ours, and whose: the kernel's, a service's, or a NAT pool's.

use core::net::IpAddr;
use std::collections::HashSet;
use std::sync::Arc;

use march_wire::tuple::{Address, IpPrefix};

use crate::keyed::KeyedMap;
use crate::{PortId, PortTable, RouteTarget, Service};

/// Whose an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AddressKind {
    /// Somebody else's.
    NotLocal,
    /// The kernel's.
    Kernel,
    /// The kernel's, and in a NAT pool: a port decides whose a packet is.
    KernelNat,
    /// A service's; we answer ARP, ND and echo for it.
    Vip,
    /// Only a NAT pool's; we answer ARP, ND and echo for it.
    Nat,
}

/// An address to announce (gratuitous ARP, unsolicited neighbour advertisement) from a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Announcement {
    /// From where.
    pub port: PortId,
    /// What for.
    pub address: IpAddr,
}

/// Addresses of this node.
#[derive(Debug, Default)]
pub struct LocalAddresses {
    kinds: KeyedMap<IpAddr, AddressKind>,
    /// VIPs that are prefixes; few.
    prefixes: Box<[IpPrefix]>,
    announcements: Box<[Announcement]>,
    /// The kernel's, as given, to see whether the next generation can share all of this.
    source: Arc<[IpAddr]>,
}

impl LocalAddresses {
    pub(crate) fn new(config: &crate::Config) -> Self {
        let mut kinds: KeyedMap<IpAddr, AddressKind> = KeyedMap::default();
        let mut prefixes: Vec<IpPrefix> = Vec::new();
        for service in config
            .services
            .iter()
            .filter(|service| !service.is_vacant())
        {
            if service.address.is_host() {
                kinds.insert(service.address.address(), AddressKind::Vip);
            } else {
                prefixes.push(service.address);
            }
        }
        // A NAT address that is a service's too is the service's: replies find their flow before anybody asks.
        let is_vip = |address: &IpAddr| prefixes.iter().any(|prefix| prefix.contains(*address));
        for address in config.ports.iter().flat_map(nat_addresses) {
            if !is_vip(&address) {
                kinds.entry(address).or_insert(AddressKind::Nat);
            }
        }
        // Even where a service names the address too: answers to translated flows come there.
        let nat: HashSet<IpAddr> = config.ports.iter().flat_map(nat_addresses).collect();
        for address in &*config.local {
            let kind = if nat.contains(address) {
                AddressKind::KernelNat
            } else {
                AddressKind::Kernel
            };
            kinds.insert(*address, kind);
        }
        prefixes.sort_by_key(|prefix| (prefix.address(), prefix.length()));
        prefixes.dedup();
        let announcements = announcements(config, &kinds);
        Self {
            kinds,
            prefixes: prefixes.into(),
            announcements,
            source: Arc::clone(&config.local),
        }
    }

    pub(crate) fn source(&self) -> &Arc<[IpAddr]> {
        &self.source
    }

    /// Whose `address` is. A kernel address stays the kernel's even where a service names it too.
    #[inline]
    pub fn kind<A: Address>(&self, address: A) -> AddressKind {
        let address: IpAddr = address.into();
        if let Some(kind) = self.kinds.get(&address) {
            return *kind;
        }
        if self.prefixes.iter().any(|prefix| prefix.contains(address)) {
            return AddressKind::Vip;
        }
        AddressKind::NotLocal
    }

    /// What to announce, sorted. A VIP goes out of every port that is connected to its network, or of every port if
    /// none is; a dedicated NAT address out of its own port. Prefix VIPs are answered for, not announced.
    pub fn announcements(&self) -> &[Announcement] {
        &self.announcements
    }
}

fn nat_addresses(port: &PortTable) -> impl Iterator<Item = IpAddr> {
    let v4 = port.nat4.addresses.iter().copied().map(IpAddr::from);
    v4.chain(port.nat6.addresses.iter().copied().map(IpAddr::from))
}

fn announcements(
    config: &crate::Config,
    kinds: &KeyedMap<IpAddr, AddressKind>,
) -> Box<[Announcement]> {
    let is_kind = |address: &IpAddr, kind| kinds.get(address) == Some(&kind);
    let mut list = Vec::new();
    let vip = |service: &Service| {
        let address = service.address.address();
        (!service.is_vacant() && service.address.is_host() && is_kind(&address, AddressKind::Vip))
            .then_some(address)
    };
    for address in config.services.iter().filter_map(vip) {
        let connected = config.routes.iter().filter_map(|route| match route.target {
            RouteTarget::Connected { port } if route.prefix.contains(address) => Some(port),
            _ => None,
        });
        let before = list.len();
        list.extend(connected.map(|port| Announcement { port, address }));
        if list.len() == before {
            let ports = (0..).zip(&*config.ports);
            list.extend(ports.map(|(port, _)| Announcement { port, address }));
        }
    }
    for (port, table) in (0..).zip(&*config.ports) {
        let dedicated = nat_addresses(table).filter(|address| is_kind(address, AddressKind::Nat));
        list.extend(dedicated.map(|address| Announcement { port, address }));
    }
    list.sort_unstable();
    list.dedup();
    list.into()
}
