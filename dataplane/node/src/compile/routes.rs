//! The kernel's routes, neighbours and addresses, in the terms of ports.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use march_tables::{MirroredNeighbour, MirroredRoute, PortId, RouteTarget};
use march_wire::tuple::IpPrefix;

use super::FastPort;
use crate::kernel::KernelState;
use crate::kernel::state::{Hop, RouteAction, RouteOrigin};

fn port_of(ports: &[FastPort], link: u32) -> Option<PortId> {
    ports
        .iter()
        .position(|port| port.carrier == link)
        .and_then(|index| PortId::try_from(index).ok())
}

/// Main-table routes, the lowest metric of each prefix, the first usable hop of each. A route out of an interface that is
/// no port leads nowhere from here.
pub(super) fn mirrored(kernel: &KernelState, ports: &[FastPort]) -> Vec<MirroredRoute> {
    let mut routes: Vec<MirroredRoute> = Vec::new();
    for (key, route) in &kernel.routes {
        if route.origin == RouteOrigin::Own || is_link_scope(key.prefix.address, key.prefix.len) {
            continue;
        }
        let Ok(prefix) = IpPrefix::containing(key.prefix.address, key.prefix.len) else {
            continue;
        };
        if routes.last().is_some_and(|last| last.prefix == prefix) {
            continue;
        }
        let target = match &route.action {
            RouteAction::Forward(hops) => hops.iter().find_map(|hop| target(hop, kernel, ports)),
            RouteAction::Discard => None,
        };
        routes.push(MirroredRoute {
            prefix,
            target: target.unwrap_or(RouteTarget::Blackhole),
        });
    }
    routes
}

fn target(hop: &Hop, kernel: &KernelState, ports: &[FastPort]) -> Option<RouteTarget> {
    let port = port_of(ports, hop.link)?;
    if !kernel.links.get(&hop.link)?.is_up {
        return None;
    }
    Some(
        hop.gateway
            .map_or(RouteTarget::Connected { port }, |gateway| {
                RouteTarget::Via { port, gateway }
            }),
    )
}

/// Link-local and multicast prefixes exist on every link and route nothing.
fn is_link_scope(address: IpAddr, len: u8) -> bool {
    match address {
        IpAddr::V4(v4) => len > 0 && (v4.is_link_local() || v4.is_multicast()),
        IpAddr::V6(v6) => len > 0 && (v6.is_unicast_link_local() || v6.is_multicast()),
    }
}

/// Resolved neighbours on the ports' links.
pub(super) fn neighbours(kernel: &KernelState, ports: &[FastPort]) -> Vec<MirroredNeighbour> {
    kernel
        .neighbours
        .iter()
        .filter_map(|((link, address), neighbour)| {
            let is_multicast =
                address.is_multicast() || neighbour.mac.is_some_and(|mac| mac[0] & 1 != 0);
            if is_multicast {
                return None;
            }
            Some(MirroredNeighbour {
                port: port_of(ports, *link)?,
                address: *address,
                mac: neighbour.mac?,
            })
        })
        .collect()
}

/// Every address of this namespace, and the broadcast addresses of its subnets.
pub(super) fn local(kernel: &KernelState) -> Vec<IpAddr> {
    let mut addresses: BTreeSet<IpAddr> =
        kernel.addresses.iter().map(|local| local.address).collect();
    let broadcasts = kernel
        .addresses
        .iter()
        .filter_map(|local| match local.address {
            IpAddr::V4(v4) if local.prefix_len < 31 => {
                let host_bits = u32::MAX
                    .checked_shr(u32::from(local.prefix_len))
                    .unwrap_or(0);
                Some(IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() | host_bits)))
            }
            _ => None,
        });
    let broadcasts: Vec<IpAddr> = broadcasts.collect();
    addresses.extend(broadcasts);
    addresses.insert(IpAddr::V4(Ipv4Addr::BROADCAST));
    addresses.into_iter().collect()
}

/// Next hops that will be needed: towards every backend, and every gateway on a port.
pub(super) fn next_hops(
    kernel: &KernelState,
    ports: &[FastPort],
    backends: impl Iterator<Item = IpAddr>,
) -> BTreeSet<(u32, IpAddr)> {
    let mut wanted = BTreeSet::new();
    for address in backends {
        if let Some((_, route)) = kernel.route_for(address)
            && let RouteAction::Forward(hops) = &route.action
            && let Some(hop) = hops.iter().find(|hop| port_of(ports, hop.link).is_some())
        {
            wanted.insert((hop.link, hop.gateway.unwrap_or(address)));
        }
    }
    for route in kernel.routes.values() {
        if let RouteAction::Forward(hops) = &route.action {
            for hop in hops.iter().filter(|hop| port_of(ports, hop.link).is_some()) {
                wanted.extend(hop.gateway.map(|gateway| (hop.link, gateway)));
            }
        }
    }
    wanted
}
