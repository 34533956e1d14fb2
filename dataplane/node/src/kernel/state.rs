//! What the kernel says about this network namespace, as plain data: no sockets, no tasks.
//!
//! [`KernelState::apply`] folds one [`Change`] in and says whether anything that forwarding depends on moved, so that a
//! neighbour going from reachable to stale with the same MAC address costs nobody a new generation.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The kernel's interface index.
    pub index: u32,
    /// Interface name.
    pub name: String,
    /// Hardware address, all zero where the link has none.
    pub mac: [u8; 6],
    /// Largest L3 packet in bytes.
    pub mtu: u32,
    /// Administratively up.
    pub is_up: bool,
    /// Carrier present.
    pub has_carrier: bool,
    /// Its frames are Ethernet's.
    pub is_ethernet: bool,
}

/// An address of this namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LocalAddress {
    /// Interface that carries it.
    pub link: u32,
    /// The address.
    pub address: IpAddr,
    /// Length of its on-link prefix in bits.
    pub prefix_len: u8,
}

/// A prefix in canonical form: host bits are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    /// Network address.
    pub address: IpAddr,
    /// Length in bits.
    pub len: u8,
}

impl Prefix {
    /// The prefix with `len` bits of `address`; the rest is cleared.
    #[must_use]
    pub fn new(address: IpAddr, len: u8) -> Self {
        let address = match address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX
                    .checked_shl(32 - u32::from(len.min(32)))
                    .unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask))
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX
                    .checked_shl(128 - u32::from(len.min(128)))
                    .unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask))
            }
        };
        Self { address, len }
    }

    /// The prefix that holds exactly `address`.
    #[must_use]
    pub fn host(address: IpAddr) -> Self {
        Self {
            address,
            len: if address.is_ipv4() { 32 } else { 128 },
        }
    }

    /// Whether `address` lies inside.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4()
            && Prefix::new(address, self.len).address == self.address
    }
}

impl std::fmt::Display for Prefix {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}/{}", self.address, self.len)
    }
}

/// One way out of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hop {
    /// Next router; `None` when the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// Outgoing interface.
    pub link: u32,
}

/// What a route does with a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteAction {
    /// Send to the first of these that is usable.
    Forward(Vec<Hop>),
    /// Discard: blackhole, unreachable or prohibit.
    Discard,
}

/// Routes are told apart by destination and metric; lower metrics win.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteKey {
    /// Destination.
    pub prefix: Prefix,
    /// Kernel priority of the route.
    pub metric: u32,
}

/// A route of the main table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelRoute {
    /// What it does.
    pub action: RouteAction,
    /// The data plane's own (the blackhole of a VIP), not to be mirrored back.
    pub origin: RouteOrigin,
}

/// Who installed a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteOrigin {
    /// The kernel, the operator, or a routing daemon.
    System,
    /// This program.
    Own,
}

/// A neighbour entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Its hardware address while the kernel considers it usable.
    pub mac: Option<[u8; 6]>,
    /// Whether the kernel has given up on it.
    pub has_failed: bool,
}

/// One message from the kernel, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A link appeared or changed.
    Link(Link),
    /// A link is gone, and everything on it.
    LinkGone(u32),
    /// An address appeared.
    Address(LocalAddress),
    /// An address is gone.
    AddressGone(LocalAddress),
    /// A route was added or, with [`Merge::Replace`], took the place of what had the same key.
    Route(RouteKey, KernelRoute, Merge),
    /// A route, or some of its hops, are gone.
    RouteGone(RouteKey, KernelRoute),
    /// A neighbour appeared or changed.
    Neighbour(u32, IpAddr, Neighbour),
    /// A neighbour entry is gone.
    NeighbourGone(u32, IpAddr),
}

/// How a route joins what has the same key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merge {
    /// Its hops join those already there.
    Append,
    /// It stands alone.
    Replace,
}

/// What a change meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// Nothing that forwarding depends on.
    None,
    /// Forwarding state moved.
    Changed,
    /// Forwarding state moved, and the kernel drops IPv4 routes without telling: read them again.
    ChangedRoutesUnknown,
}

/// The mirror.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelState {
    /// By interface index.
    pub links: BTreeMap<u32, Link>,
    /// Addresses of the whole namespace.
    pub addresses: BTreeSet<LocalAddress>,
    /// Main table, both families.
    pub routes: BTreeMap<RouteKey, KernelRoute>,
    /// By interface and address.
    pub neighbours: BTreeMap<(u32, IpAddr), Neighbour>,
}

impl KernelState {
    /// Folds one change in.
    pub fn apply(&mut self, change: Change) -> Effect {
        match change {
            Change::Link(link) => self.on_link(link),
            Change::LinkGone(index) => self.on_link_gone(index),
            Change::Address(address) => changed(self.addresses.insert(address)),
            Change::AddressGone(address) => {
                if self.addresses.remove(&address) {
                    Effect::ChangedRoutesUnknown
                } else {
                    Effect::None
                }
            }
            Change::Route(key, route, merge) => self.on_route(key, route, merge),
            Change::RouteGone(key, route) => self.on_route_gone(key, &route),
            Change::Neighbour(link, address, neighbour) => {
                changed(self.neighbours.insert((link, address), neighbour) != Some(neighbour))
            }
            Change::NeighbourGone(link, address) => {
                changed(self.neighbours.remove(&(link, address)).is_some())
            }
        }
    }

    /// The link called `name`.
    #[must_use]
    pub fn link_named(&self, name: &str) -> Option<&Link> {
        self.links.values().find(|link| link.name == name)
    }

    /// Addresses of one link.
    pub fn addresses_of(&self, link: u32) -> impl Iterator<Item = &LocalAddress> {
        self.addresses
            .iter()
            .filter(move |address| address.link == link)
    }

    /// Whether `address` belongs to this namespace.
    #[must_use]
    pub fn is_local(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|local| local.address == address)
    }

    /// Longest match for `address`, lowest metric first; the data plane's own routes are not considered.
    #[must_use]
    pub fn route_for(&self, address: IpAddr) -> Option<(&RouteKey, &KernelRoute)> {
        let widest = if address.is_ipv4() { 32 } else { 128 };
        (0..=widest).rev().find_map(|len| {
            let prefix = Prefix::new(address, len);
            let from = RouteKey { prefix, metric: 0 };
            let to = RouteKey {
                prefix,
                metric: u32::MAX,
            };
            self.routes
                .range(from..=to)
                .find(|(_, route)| route.origin == RouteOrigin::System)
        })
    }

    /// Interfaces that carry a default route.
    #[must_use]
    pub fn default_route_links(&self) -> BTreeSet<u32> {
        self.routes
            .iter()
            .filter(|(key, _)| key.prefix.len == 0)
            .filter_map(|(_, route)| match &route.action {
                RouteAction::Forward(hops) => Some(hops.iter().map(|hop| hop.link)),
                RouteAction::Discard => None,
            })
            .flatten()
            .collect()
    }

    fn on_link(&mut self, link: Link) -> Effect {
        let index = link.index;
        let went_down = !link.is_up && self.links.get(&index).is_some_and(|old| old.is_up);
        let is_new = self.links.get(&index) != Some(&link);
        self.links.insert(index, link);
        if went_down {
            return Effect::ChangedRoutesUnknown;
        }
        changed(is_new)
    }

    fn on_link_gone(&mut self, index: u32) -> Effect {
        if self.links.remove(&index).is_none() {
            return Effect::None;
        }
        self.addresses.retain(|address| address.link != index);
        self.neighbours.retain(|(link, _), _| *link != index);
        Effect::ChangedRoutesUnknown
    }

    fn on_route(&mut self, key: RouteKey, mut route: KernelRoute, merge: Merge) -> Effect {
        if merge == Merge::Append
            && let Some(old) = self.routes.get(&key)
            && let (RouteAction::Forward(old_hops), RouteAction::Forward(hops)) =
                (&old.action, &mut route.action)
        {
            let mut union = old_hops.clone();
            union.extend(hops.iter().filter(|hop| !old_hops.contains(hop)));
            *hops = union;
        }
        changed(self.routes.insert(key, route.clone()) != Some(route))
    }

    fn on_route_gone(&mut self, key: RouteKey, gone: &KernelRoute) -> Effect {
        let Some(route) = self.routes.get_mut(&key) else {
            return Effect::None;
        };
        if let (RouteAction::Forward(hops), RouteAction::Forward(gone_hops)) =
            (&mut route.action, &gone.action)
        {
            let before = hops.len();
            hops.retain(|hop| !gone_hops.contains(hop));
            if !hops.is_empty() {
                return changed(hops.len() != before);
            }
        }
        self.routes.remove(&key);
        Effect::Changed
    }
}

fn changed(is_changed: bool) -> Effect {
    if is_changed {
        Effect::Changed
    } else {
        Effect::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(text: &str) -> IpAddr {
        text.parse().expect("test address")
    }

    fn key(text: &str, len: u8, metric: u32) -> RouteKey {
        RouteKey {
            prefix: Prefix::new(v4(text), len),
            metric,
        }
    }

    fn via(gateways: &[&str]) -> KernelRoute {
        let hops = gateways
            .iter()
            .map(|gateway| Hop {
                gateway: Some(v4(gateway)),
                link: 2,
            })
            .collect();
        KernelRoute {
            action: RouteAction::Forward(hops),
            origin: RouteOrigin::System,
        }
    }

    #[test]
    fn prefix_clears_host_bits_and_matches_its_family_only() {
        let prefix = Prefix::new(v4("10.1.2.3"), 24);
        assert_eq!(prefix.to_string(), "10.1.2.0/24");
        assert!(prefix.contains(v4("10.1.2.255")));
        assert!(!prefix.contains(v4("10.1.3.0")));
        assert!(!Prefix::new(v4("0.0.0.0"), 0).contains(v4("::1")));
        assert!(Prefix::new(v4("::"), 0).contains(v4("2001:db8::1")));
    }

    #[test]
    fn stale_neighbour_with_the_same_mac_changes_nothing() {
        let mut state = KernelState::default();
        let resolved = Neighbour {
            mac: Some([2, 0, 0, 0, 0, 1]),
            has_failed: false,
        };
        assert_eq!(
            state.apply(Change::Neighbour(2, v4("10.0.0.1"), resolved)),
            Effect::Changed
        );
        assert_eq!(
            state.apply(Change::Neighbour(2, v4("10.0.0.1"), resolved)),
            Effect::None
        );
        let failed = Neighbour {
            mac: None,
            has_failed: true,
        };
        assert_eq!(
            state.apply(Change::Neighbour(2, v4("10.0.0.1"), failed)),
            Effect::Changed
        );
    }

    #[test]
    fn hops_join_and_leave_one_by_one() {
        let mut state = KernelState::default();
        let k = key("10.0.0.0", 8, 0);
        state.apply(Change::Route(k, via(&["192.0.2.1"]), Merge::Append));
        state.apply(Change::Route(k, via(&["192.0.2.2"]), Merge::Append));
        assert_eq!(state.routes[&k], via(&["192.0.2.1", "192.0.2.2"]));
        state.apply(Change::RouteGone(k, via(&["192.0.2.1"])));
        assert_eq!(state.routes[&k], via(&["192.0.2.2"]));
        state.apply(Change::RouteGone(k, via(&["192.0.2.2"])));
        assert!(state.routes.is_empty());
        state.apply(Change::Route(k, via(&["192.0.2.1"]), Merge::Append));
        state.apply(Change::Route(k, via(&["192.0.2.9"]), Merge::Replace));
        assert_eq!(state.routes[&k], via(&["192.0.2.9"]));
    }

    #[test]
    fn longest_prefix_then_lowest_metric_wins_and_own_routes_are_skipped() {
        let mut state = KernelState::default();
        state.apply(Change::Route(
            key("0.0.0.0", 0, 0),
            via(&["192.0.2.1"]),
            Merge::Append,
        ));
        state.apply(Change::Route(
            key("10.1.0.0", 16, 20),
            via(&["192.0.2.3"]),
            Merge::Append,
        ));
        state.apply(Change::Route(
            key("10.1.0.0", 16, 10),
            via(&["192.0.2.2"]),
            Merge::Append,
        ));
        let own = KernelRoute {
            action: RouteAction::Discard,
            origin: RouteOrigin::Own,
        };
        state.apply(Change::Route(key("10.1.0.5", 32, 0), own, Merge::Append));
        let (found, route) = state.route_for(v4("10.1.0.5")).expect("a route");
        assert_eq!(found.metric, 10);
        assert_eq!(*route, via(&["192.0.2.2"]));
        assert_eq!(state.default_route_links(), BTreeSet::from([2]));
    }

    #[test]
    fn a_link_going_down_makes_its_routes_unknown() {
        let mut state = KernelState::default();
        let link = Link {
            index: 2,
            name: "eth1".into(),
            mac: [0; 6],
            mtu: 1500,
            is_up: true,
            has_carrier: true,
            is_ethernet: true,
        };
        assert_eq!(state.apply(Change::Link(link.clone())), Effect::Changed);
        assert_eq!(state.apply(Change::Link(link.clone())), Effect::None);
        assert_eq!(
            state.apply(Change::Link(Link {
                is_up: false,
                ..link
            })),
            Effect::ChangedRoutesUnknown
        );
        assert_eq!(
            state.apply(Change::LinkGone(2)),
            Effect::ChangedRoutesUnknown
        );
        assert_eq!(state.apply(Change::LinkGone(2)), Effect::None);
    }
}
