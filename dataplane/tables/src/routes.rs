//! The kernel's routes, mirrored.

use core::net::IpAddr;
use std::sync::Arc;

use march_wire::tuple::{Address, IpPrefix};

use crate::lpm::Lpm;
use crate::neighbours::Neighbours;
use crate::{AdjacencyId, MirroredRoute, PortId, RouteTarget};

/// Where a destination is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Through this next hop, resolved or not.
    Via(AdjacencyId),
    /// On this port's link: the destination itself is the next hop, see [`Neighbours::get`].
    Connected(PortId),
    /// The kernel drops it.
    Blackhole,
    /// The kernel has no route.
    Missing,
}

/// Longest prefix match over the mirrored routes, both families.
#[derive(Debug)]
pub struct Routes {
    v4: Lpm<Route>,
    v6: Lpm<Route>,
    /// What this was built from, to see whether the next generation can share it.
    source: Arc<[MirroredRoute]>,
}

impl Routes {
    /// Compiles routes; `neighbours` must know every gateway in them.
    pub(crate) fn new(source: &Arc<[MirroredRoute]>, neighbours: &Neighbours) -> Self {
        let compile = |route: &MirroredRoute| {
            let value = match route.target {
                RouteTarget::Via { port, gateway } => neighbours
                    .find(port, gateway)
                    .map_or(Route::Missing, Route::Via),
                RouteTarget::Connected { port } => Route::Connected(port),
                RouteTarget::Blackhole => Route::Blackhole,
            };
            (route.prefix, value)
        };
        let (v4, v6): (Vec<(IpPrefix, Route)>, Vec<_>) = source
            .iter()
            .map(compile)
            .partition(|(prefix, _)| prefix.address().is_ipv4());
        Self {
            v4: Lpm::new(&v4, Route::Missing),
            v6: Lpm::new(&v6, Route::Missing),
            source: Arc::clone(source),
        }
    }

    /// The route of the longest prefix that holds `destination`.
    #[inline]
    pub fn lookup<A: Address>(&self, destination: A) -> Route {
        self.find(destination.into())
    }

    #[inline]
    pub(crate) fn find(&self, destination: IpAddr) -> Route {
        match destination {
            IpAddr::V4(address) => self.v4.get(address.to_number()),
            IpAddr::V6(address) => self.v6.get(address.to_number()),
        }
    }

    pub(crate) fn source(&self) -> &Arc<[MirroredRoute]> {
        &self.source
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::{Ipv4Addr, Ipv6Addr};
    use proptest::prelude::*;

    fn routes(list: &[(IpPrefix, Route)]) -> Lpm<Route> {
        Lpm::new(list, Route::Missing)
    }

    /// What the lookup must say: the first of the longest prefixes that hold the address.
    fn naive(list: &[(IpPrefix, Route)], address: IpAddr) -> Route {
        let mut best: Option<(u8, Route)> = None;
        for (prefix, route) in list {
            if prefix.contains(address) && best.is_none_or(|(length, _)| prefix.length() > length) {
                best = Some((prefix.length(), *route));
            }
        }
        best.map_or(Route::Missing, |(_, route)| route)
    }

    fn route() -> impl Strategy<Value = Route> {
        prop_oneof![
            (0_u16..50).prop_map(Route::Via),
            (0_u16..4).prop_map(Route::Connected),
            Just(Route::Blackhole),
        ]
    }

    /// Few distinct bits, so that prefixes nest and repeat.
    fn v4_prefix() -> impl Strategy<Value = IpPrefix> {
        (any::<u32>(), 0_u8..=32, any::<bool>()).prop_map(|(bits, length, narrow)| {
            let bits = if narrow { bits & 0xff00_00ff } else { bits };
            IpPrefix::containing(Ipv4Addr::from(bits).into(), length).expect("a length of IPv4")
        })
    }

    fn v6_prefix() -> impl Strategy<Value = IpPrefix> {
        (any::<u8>(), any::<u8>(), 0_u8..=128).prop_map(|(high, low, length)| {
            let bits = u128::from(high) << 120 | u128::from(low);
            IpPrefix::containing(Ipv6Addr::from(bits).into(), length).expect("a length of IPv6")
        })
    }

    proptest! {
        #[test]
        fn v4_agrees_with_a_linear_search(
            list in prop::collection::vec((v4_prefix(), route()), 0..40),
            probes in prop::collection::vec(any::<u32>(), 20),
        ) {
            let table = routes(&list);
            // Edges of every prefix, one beyond each, and random ones.
            let edges = list.iter().flat_map(|(prefix, _)| {
                let (first, last) = crate::lpm::range(*prefix);
                let below = first.saturating_sub(1);
                [first, last, below, (last + 1).min(u128::from(u32::MAX))]
            });
            for bits in edges.chain(probes.into_iter().map(u128::from)) {
                let address = Ipv4Addr::from_number(bits);
                prop_assert_eq!(table.get(bits), naive(&list, address.into()));
            }
        }

        #[test]
        fn v6_agrees_with_a_linear_search(list in prop::collection::vec((v6_prefix(), route()), 0..40)) {
            let table = routes(&list);
            for (prefix, _) in &list {
                let (first, last) = crate::lpm::range(*prefix);
                for bits in [first, last, first.wrapping_sub(1), last.wrapping_add(1)] {
                    let got = table.get(bits);
                    prop_assert_eq!(got, naive(&list, Ipv6Addr::from(bits).into()));
                }
            }
        }
    }
}
