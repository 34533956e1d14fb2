//! Netlink messages to [`Change`]s. Messages that do not concern the mirror decode to nothing.

use std::net::IpAddr;

use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteType, RouteVia,
};

use super::state::{
    Change, Hop, KernelRoute, Link, LocalAddress, Merge, Neighbour, Prefix, RouteAction, RouteKey,
    RouteOrigin,
};

/// The route protocol number that marks routes installed by this program.
pub const OWN_PROTOCOL: u8 = 209;

/// IPv6 routes without a metric of their own get this from the kernel.
pub const DEFAULT_METRIC_V6: u32 = 1024;

/// Decodes one message; `merge` comes from its netlink flags.
#[must_use]
pub fn decode(message: &RouteNetlinkMessage, merge: Merge) -> Option<Change> {
    match message {
        RouteNetlinkMessage::NewLink(link) if !is_bridge_port(link) => {
            Some(Change::Link(decode_link(link)))
        }
        RouteNetlinkMessage::DelLink(link) if !is_bridge_port(link) => {
            Some(Change::LinkGone(link.header.index))
        }
        RouteNetlinkMessage::NewAddress(address) => decode_address(address).map(Change::Address),
        RouteNetlinkMessage::DelAddress(address) => {
            decode_address(address).map(Change::AddressGone)
        }
        RouteNetlinkMessage::NewRoute(route) => {
            decode_route(route).map(|(key, route)| Change::Route(key, route, merge))
        }
        RouteNetlinkMessage::DelRoute(route) => {
            decode_route(route).map(|(key, route)| Change::RouteGone(key, route))
        }
        RouteNetlinkMessage::NewNeighbour(neighbour) => decode_neighbour(neighbour)
            .map(|(link, address, neighbour)| Change::Neighbour(link, address, neighbour)),
        RouteNetlinkMessage::DelNeighbour(neighbour) => decode_neighbour(neighbour)
            .map(|(link, address, _)| Change::NeighbourGone(link, address)),
        _ => None,
    }
}

fn is_bridge_port(link: &LinkMessage) -> bool {
    link.header.interface_family == AddressFamily::Bridge
}

fn decode_link(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mac: [0; 6],
        mtu: 0,
        is_up: message.header.flags.contains(LinkFlags::Up),
        has_carrier: message.header.flags.contains(LinkFlags::LowerUp),
        is_ethernet: message.header.link_layer_type == LinkLayerType::Ether,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Address(bytes) => link.mac = mac_of(bytes).unwrap_or_default(),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            _ => {}
        }
    }
    link
}

fn decode_address(message: &AddressMessage) -> Option<LocalAddress> {
    // On a point-to-point link IFA_ADDRESS is the peer and IFA_LOCAL the address itself.
    let mut address = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(local) => {
                address = Some(*local);
                break;
            }
            AddressAttribute::Address(either) => address = Some(*either),
            _ => {}
        }
    }
    Some(LocalAddress {
        link: message.header.index,
        address: address?,
        prefix_len: message.header.prefix_len,
    })
}

fn decode_route(message: &RouteMessage) -> Option<(RouteKey, KernelRoute)> {
    let family = message.header.address_family;
    let action = match message.header.kind {
        RouteType::Unicast => RouteAction::Forward(Vec::new()),
        RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit => RouteAction::Discard,
        _ => return None,
    };
    if !is_main_table(message) || is_cloned(message) {
        return None;
    }
    let mut destination = match family {
        AddressFamily::Inet => IpAddr::from([0; 4]),
        AddressFamily::Inet6 => IpAddr::from([0; 16]),
        _ => return None,
    };
    let mut metric = 0;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip_of(address)?,
            RouteAttribute::Priority(priority) => metric = *priority,
            _ => {}
        }
    }
    let key = RouteKey {
        prefix: Prefix::new(destination, message.header.destination_prefix_length),
        metric,
    };
    let action = match action {
        RouteAction::Forward(_) => RouteAction::Forward(hops_of(message)),
        discard @ RouteAction::Discard => discard,
    };
    let origin = if u8::from(message.header.protocol) == OWN_PROTOCOL {
        RouteOrigin::Own
    } else {
        RouteOrigin::System
    };
    Some((key, KernelRoute { action, origin }))
}

fn is_main_table(message: &RouteMessage) -> bool {
    let table = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Table(table) => Some(*table),
            _ => None,
        });
    table.unwrap_or(u32::from(message.header.table)) == u32::from(RouteHeader::RT_TABLE_MAIN)
}

/// Exceptions and redirects learned by the kernel for one destination are not routes of the table.
fn is_cloned(message: &RouteMessage) -> bool {
    message
        .header
        .flags
        .contains(rtnetlink::packet_route::route::RouteFlags::Cloned)
        || message.header.protocol == RouteProtocol::IcmpRedirect
}

fn hops_of(message: &RouteMessage) -> Vec<Hop> {
    for attribute in &message.attributes {
        if let RouteAttribute::MultiPath(next_hops) = attribute {
            return next_hops
                .iter()
                .map(|next_hop| Hop {
                    gateway: gateway_of(&next_hop.attributes),
                    link: next_hop.interface_index,
                })
                .collect();
        }
    }
    let link = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Oif(link) => Some(*link),
            _ => None,
        });
    link.map(|link| Hop {
        gateway: gateway_of(&message.attributes),
        link,
    })
    .into_iter()
    .collect()
}

fn gateway_of(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(address) => ip_of(address),
        RouteAttribute::Via(RouteVia::Inet(address)) => Some(IpAddr::V4(*address)),
        RouteAttribute::Via(RouteVia::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    })
}

fn ip_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

fn decode_neighbour(message: &NeighbourMessage) -> Option<(u32, IpAddr, Neighbour)> {
    if !matches!(
        message.header.family,
        AddressFamily::Inet | AddressFamily::Inet6
    ) {
        return None;
    }
    let mut address = None;
    let mut mac = None;
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => {
                address = Some(IpAddr::V4(*v4));
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => {
                address = Some(IpAddr::V6(*v6));
            }
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = mac_of(bytes),
            _ => {}
        }
    }
    let is_usable = matches!(
        message.header.state,
        NeighbourState::Reachable
            | NeighbourState::Stale
            | NeighbourState::Delay
            | NeighbourState::Probe
            | NeighbourState::Permanent
            | NeighbourState::Noarp
    );
    let neighbour = Neighbour {
        mac: mac.filter(|_| is_usable),
        has_failed: message.header.state == NeighbourState::Failed,
    };
    Some((message.header.ifindex, address?, neighbour))
}

fn mac_of(bytes: &[u8]) -> Option<[u8; 6]> {
    bytes.try_into().ok()
}
