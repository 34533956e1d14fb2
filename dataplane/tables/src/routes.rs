//! The kernel's routes, mirrored.

use core::net::IpAddr;
use std::sync::Arc;

use march_wire::tuple::Address;

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
    v4: Lpm<u32, Route>,
    v6: Lpm<u128, Route>,
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
        Self {
            v4: Lpm::new(source.iter().map(compile), Route::Missing),
            v6: Lpm::new(source.iter().map(compile), Route::Missing),
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
            IpAddr::V4(address) => self.v4.get(address.into()),
            IpAddr::V6(address) => self.v6.get(address.into()),
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
    use march_wire::tuple::IpPrefix;
    use proptest::prelude::*;

    use crate::number::Number;

    fn routes<N: Number>(list: &[(IpPrefix, Route)]) -> Lpm<N, Route> {
        Lpm::new(list.iter().copied(), Route::Missing)
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

    /// The edges of every prefix, and the addresses on either side of them.
    fn edges<N: Number>(list: &[(IpPrefix, Route)], before: impl Fn(N) -> N) -> Vec<N> {
        let ranges = list.iter().filter_map(|(prefix, _)| N::range(*prefix));
        ranges
            .flat_map(|(first, last)| [first, last, before(first), last.next().unwrap_or(last)])
            .collect()
    }

    proptest! {
        #[test]
        fn v4_agrees_with_a_linear_search(
            list in prop::collection::vec((v4_prefix(), route()), 0..40),
            probes in prop::collection::vec(any::<u32>(), 20),
        ) {
            let table = routes::<u32>(&list);
            for bits in edges(&list, |first: u32| first.saturating_sub(1)).into_iter().chain(probes) {
                prop_assert_eq!(table.get(bits), naive(&list, Ipv4Addr::from(bits).into()));
            }
        }

        #[test]
        fn v6_agrees_with_a_linear_search(list in prop::collection::vec((v6_prefix(), route()), 0..40)) {
            let table = routes::<u128>(&list);
            for bits in edges(&list, |first: u128| first.saturating_sub(1)) {
                prop_assert_eq!(table.get(bits), naive(&list, Ipv6Addr::from(bits).into()));
            }
        }
    }

    #[test]
    fn a_large_table_agrees_too() {
        // Enough ranges for the index by leading bits; prefixes shorter and longer than those.
        let list: Vec<(IpPrefix, Route)> = (0..1500_u32)
            .flat_map(|number| {
                let bits = number.wrapping_mul(0x9e37_79b9);
                let length = u8::try_from(8 + number % 25).expect("a length");
                let v4 = IpPrefix::containing(Ipv4Addr::from(bits).into(), length);
                let wide = u128::from(bits) << 96 | u128::from(number);
                let v6 = IpPrefix::containing(Ipv6Addr::from(wide).into(), 4 * length);
                let route = Route::Via(u16::try_from(number).expect("small"));
                [v4, v6].map(|prefix| (prefix.expect("a length"), route))
            })
            .collect();
        let table = routes::<u32>(&list);
        for bits in edges(&list, |first: u32| first.saturating_sub(1)) {
            assert_eq!(table.get(bits), naive(&list, Ipv4Addr::from(bits).into()));
        }
        let table = routes::<u128>(&list);
        for bits in edges(&list, |first: u128| first.saturating_sub(1)) {
            assert_eq!(table.get(bits), naive(&list, Ipv6Addr::from(bits).into()));
        }
    }
}
