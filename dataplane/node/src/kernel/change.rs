//! Changes to the kernel's network state. Each is idempotent: asking for what is already so succeeds.

use std::net::IpAddr;
use std::process::Stdio;

use futures::StreamExt;
use rtnetlink::Handle;
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage,
    NetlinkPayload,
};
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::decode::OWN_PROTOCOL;
use super::mirror::{dump, within};
use super::{KernelError, Prefix};

const EEXIST: i32 = 17;
const ESRCH: i32 = 3;
const EADDRNOTAVAIL: i32 = 99;
const ENODEV: i32 = 19;
const ENOENT: i32 = 2;

/// Sends a request and waits until the kernel has done it.
pub async fn ask(
    handle: &Handle,
    what: &str,
    request: RouteNetlinkMessage,
    flags: u16,
) -> Result<(), KernelError> {
    within(what, exchange(handle, what, request, flags)).await
}

async fn exchange(
    handle: &Handle,
    what: &str,
    request: RouteNetlinkMessage,
    flags: u16,
) -> Result<(), KernelError> {
    let mut message = NetlinkMessage::from(request);
    message.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
    let mut answers = handle
        .clone()
        .request(message)
        .map_err(|error| KernelError::netlink(what, &error))?;
    while let Some(answer) = answers.next().await {
        if let NetlinkPayload::Error(error) = answer.payload
            && error.code.is_some()
        {
            return Err(KernelError::Refused {
                what: what.to_owned(),
                error: error.to_io(),
            });
        }
    }
    Ok(())
}

fn unless(result: Result<(), KernelError>, harmless: &[i32]) -> Result<(), KernelError> {
    match result {
        Err(error)
            if error
                .raw_os_error()
                .is_some_and(|code| harmless.contains(&code)) =>
        {
            Ok(())
        }
        other => other,
    }
}

/// Adds the silent route that keeps the kernel from answering for `prefix` while the data plane owns it.
pub async fn add_blackhole(handle: &Handle, prefix: Prefix) -> Result<(), KernelError> {
    let what = format!("add blackhole route {prefix}");
    let request = RouteNetlinkMessage::NewRoute(blackhole(prefix));
    unless(
        ask(handle, &what, request, NLM_F_CREATE | NLM_F_EXCL).await,
        &[EEXIST],
    )
}

/// Takes it away again.
pub async fn remove_blackhole(handle: &Handle, prefix: Prefix) -> Result<(), KernelError> {
    let what = format!("remove blackhole route {prefix}");
    unless(
        ask(
            handle,
            &what,
            RouteNetlinkMessage::DelRoute(blackhole(prefix)),
            0,
        )
        .await,
        &[ESRCH, ENOENT],
    )
}

fn blackhole(prefix: Prefix) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family_of(prefix.address);
    message.header.destination_prefix_length = prefix.len;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::from(OWN_PROTOCOL);
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::BlackHole;
    message
        .attributes
        .push(RouteAttribute::Destination(RouteAddress::from(
            prefix.address,
        )));
    message
}

fn family_of(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    }
}

/// The addresses of one interface, complete enough to be put back.
pub async fn addresses_of(handle: &Handle, link: u32) -> Result<Vec<AddressMessage>, KernelError> {
    let answers = dump(
        handle,
        RouteNetlinkMessage::GetAddress(AddressMessage::default()),
    )
    .await?;
    Ok(answers
        .into_iter()
        .filter_map(|answer| match answer {
            RouteNetlinkMessage::NewAddress(address) if address.header.index == link => {
                Some(address)
            }
            _ => None,
        })
        .collect())
}

/// The routes through one interface that its addresses alone would not bring back, in every table but `local`.
pub async fn routes_through(handle: &Handle, link: u32) -> Result<Vec<RouteMessage>, KernelError> {
    let mut found = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        for answer in dump(handle, RouteNetlinkMessage::GetRoute(request)).await? {
            if let RouteNetlinkMessage::NewRoute(route) = answer
                && uses_link(&route, link)
                && route.header.table != LOCAL_TABLE
                && route.header.protocol != RouteProtocol::Kernel
                && matches!(route.header.kind, RouteType::Unicast)
            {
                found.push(route);
            }
        }
    }
    // A gateway must be reachable before its route is accepted: on-link routes first, then the more specific ones.
    found.sort_by_key(|route| {
        (
            has_gateway(route),
            std::cmp::Reverse(route.header.destination_prefix_length),
        )
    });
    Ok(found)
}

const LOCAL_TABLE: u8 = 255;

fn uses_link(route: &RouteMessage, link: u32) -> bool {
    route.attributes.iter().any(|attribute| match attribute {
        RouteAttribute::Oif(index) => *index == link,
        RouteAttribute::MultiPath(hops) => hops.iter().any(|hop| hop.interface_index == link),
        _ => false,
    })
}

fn has_gateway(route: &RouteMessage) -> bool {
    route.attributes.iter().any(|attribute| {
        matches!(
            attribute,
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) | RouteAttribute::MultiPath(_)
        )
    })
}

/// Puts an address on the interface `link`, whatever interface it was read from.
pub async fn add_address(
    handle: &Handle,
    address: &AddressMessage,
    link: u32,
) -> Result<(), KernelError> {
    use rtnetlink::packet_route::address::AddressFlags;
    let mut message = address.clone();
    message.header.index = link;
    message
        .attributes
        .retain(|attribute| !matches!(attribute, AddressAttribute::Label(_)));
    if message.header.family == AddressFamily::Inet6 {
        // It has been in use here all along: no second duplicate address detection.
        message.header.flags |= AddressHeaderFlags::Nodad;
        for attribute in &mut message.attributes {
            if let AddressAttribute::Flags(flags) = attribute {
                *flags |= AddressFlags::Nodad;
                flags.remove(AddressFlags::Tentative);
            }
        }
    }
    let what = format!(
        "add address {} to interface {link}",
        describe_address(&message)
    );
    let request = RouteNetlinkMessage::NewAddress(message);
    unless(
        ask(handle, &what, request, NLM_F_CREATE | NLM_F_EXCL).await,
        &[EEXIST],
    )
}

/// Takes an address off the interface that it was read from.
pub async fn remove_address(handle: &Handle, address: &AddressMessage) -> Result<(), KernelError> {
    let what = format!("remove address {}", describe_address(address));
    let request = RouteNetlinkMessage::DelAddress(address.clone());
    unless(
        ask(handle, &what, request, 0).await,
        &[EADDRNOTAVAIL, ENODEV],
    )
}

/// `192.0.2.1/24`, for people.
#[must_use]
pub fn describe_address(address: &AddressMessage) -> String {
    let text = address
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            AddressAttribute::Local(ip) | AddressAttribute::Address(ip) => Some(ip.to_string()),
            _ => None,
        });
    format!("{}/{}", text.unwrap_or_default(), address.header.prefix_len)
}

/// Installs a route with the interface `from` replaced by `to`.
pub async fn add_route(
    handle: &Handle,
    route: &RouteMessage,
    from: u32,
    to: u32,
) -> Result<(), KernelError> {
    let mut message = route.clone();
    message.header.flags = rtnetlink::packet_route::route::RouteFlags::empty();
    message
        .attributes
        .retain(|attribute| !matches!(attribute, RouteAttribute::CacheInfo(_)));
    let mut is_multipath = false;
    for attribute in &mut message.attributes {
        match attribute {
            RouteAttribute::Oif(index) if *index == from => *index = to,
            RouteAttribute::MultiPath(hops) => {
                is_multipath = true;
                for hop in hops.iter_mut() {
                    hop.flags = rtnetlink::packet_route::route::RouteNextHopFlags::empty();
                    if hop.interface_index == from {
                        hop.interface_index = to;
                    }
                }
            }
            _ => {}
        }
    }
    let what = format!("add route {}", describe_route(&message));
    let flags = if is_multipath {
        NLM_F_CREATE | NLM_F_REPLACE
    } else {
        NLM_F_CREATE | NLM_F_EXCL
    };
    unless(
        ask(handle, &what, RouteNetlinkMessage::NewRoute(message), flags).await,
        &[EEXIST],
    )
}

/// `10.0.0.0/8`, for people.
#[must_use]
pub fn describe_route(route: &RouteMessage) -> String {
    let text = route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(ip)) => Some(ip.to_string()),
            RouteAttribute::Destination(RouteAddress::Inet6(ip)) => Some(ip.to_string()),
            _ => None,
        });
    text.map_or_else(
        || "default".to_owned(),
        |text| format!("{text}/{}", route.header.destination_prefix_length),
    )
}

/// Whether a link takes part in ARP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arp {
    /// The kernel answers and asks.
    On,
    /// It does neither.
    Off,
}

/// Turns ARP of a link on or off.
pub async fn set_arp(handle: &Handle, link: u32, arp: Arp) -> Result<(), KernelError> {
    let value = match arp {
        Arp::On => LinkFlags::empty(),
        Arp::Off => LinkFlags::Noarp,
    };
    set_flag(handle, link, LinkFlags::Noarp, value).await
}

/// Whether ARP is on.
pub async fn arp_of(handle: &Handle, link: u32) -> Result<Arp, KernelError> {
    let is_off = flags_of(handle, link).await?.contains(LinkFlags::Noarp);
    Ok(if is_off { Arp::Off } else { Arp::On })
}

/// Which multicast frames a link's device lets in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Multicast {
    /// All.
    All,
    /// Those of the groups that the kernel is in.
    Joined,
}

/// Sets which multicast frames come in.
pub async fn set_multicast(
    handle: &Handle,
    link: u32,
    multicast: Multicast,
) -> Result<(), KernelError> {
    let value = match multicast {
        Multicast::All => LinkFlags::Allmulti,
        Multicast::Joined => LinkFlags::empty(),
    };
    set_flag(handle, link, LinkFlags::Allmulti, value).await
}

/// Which multicast frames come in.
pub async fn multicast_of(handle: &Handle, link: u32) -> Result<Multicast, KernelError> {
    let is_all = flags_of(handle, link).await?.contains(LinkFlags::Allmulti);
    Ok(if is_all {
        Multicast::All
    } else {
        Multicast::Joined
    })
}

async fn set_flag(
    handle: &Handle,
    link: u32,
    flag: LinkFlags,
    value: LinkFlags,
) -> Result<(), KernelError> {
    let mut message = LinkMessage::default();
    message.header.index = link;
    message.header.change_mask = flag;
    message.header.flags = value;
    let what = format!("set {flag:?} of interface {link}");
    ask(handle, &what, RouteNetlinkMessage::SetLink(message), 0).await
}

async fn flags_of(handle: &Handle, link: u32) -> Result<LinkFlags, KernelError> {
    let answers = dump(handle, RouteNetlinkMessage::GetLink(LinkMessage::default())).await?;
    let found = answers.into_iter().find_map(|answer| match answer {
        RouteNetlinkMessage::NewLink(message) if message.header.index == link => {
            Some(message.header.flags)
        }
        _ => None,
    });
    found.ok_or_else(|| KernelError::NoInterface(format!("with index {link}")))
}

/// Gives a link its hardware address and MTU, then brings it up.
pub async fn bring_up(
    handle: &Handle,
    link: u32,
    mac: [u8; 6],
    mtu: u32,
) -> Result<(), KernelError> {
    let mut message = LinkMessage::default();
    message.header.index = link;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message
        .attributes
        .push(LinkAttribute::Address(mac.to_vec()));
    message.attributes.push(LinkAttribute::Mtu(mtu));
    ask(
        handle,
        &format!("bring up interface {link}"),
        RouteNetlinkMessage::SetLink(message),
        0,
    )
    .await
}

/// Brings a link up.
pub async fn set_up(handle: &Handle, link: u32) -> Result<(), KernelError> {
    set_flag(handle, link, LinkFlags::Up, LinkFlags::Up).await
}

/// Name of the nftables table that keeps the kernel from seeing what a packet socket already has.
fn drop_table(interface: &str) -> String {
    let safe: String = interface
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
        .collect();
    format!("marchproxy_{safe}")
}

/// Drops everything that arrives on `interface` after packet sockets have had their copy.
pub async fn drop_ingress(interface: &str) -> Result<(), KernelError> {
    let table = drop_table(interface);
    let rules = format!(
        "table netdev {table}\n\
         delete table netdev {table}\n\
         table netdev {table} {{\n\
         chain ingress {{\n\
         type filter hook ingress device \"{interface}\" priority 0; policy drop;\n\
         }}\n\
         }}\n"
    );
    nft(&rules).await
}

/// Ends [`drop_ingress`].
pub async fn allow_ingress(interface: &str) -> Result<(), KernelError> {
    let table = drop_table(interface);
    nft(&format!(
        "table netdev {table}\ndelete table netdev {table}\n"
    ))
    .await
}

async fn nft(rules: &str) -> Result<(), KernelError> {
    use tokio::io::AsyncWriteExt;
    let failed = |reason: String| KernelError::Tool {
        tool: "nft".into(),
        reason,
    };
    let mut child = tokio::process::Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(format!("cannot be started: {error} (package nftables)")))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin
            .write_all(rules.as_bytes())
            .await
            .map_err(|error| failed(error.to_string()))?;
    }
    let output = child
        .wait_with_output()
        .await
        .map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(failed(
        String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    ))
}

/// The index of the interface called `name`, if there is one.
pub async fn index_of(handle: &Handle, name: &str) -> Result<Option<u32>, KernelError> {
    let answers = dump(handle, RouteNetlinkMessage::GetLink(LinkMessage::default())).await?;
    Ok(answers.into_iter().find_map(|answer| match answer {
        RouteNetlinkMessage::NewLink(message) => message
            .attributes
            .iter()
            .any(|attribute| matches!(attribute, LinkAttribute::IfName(found) if found == name))
            .then_some(message.header.index),
        _ => None,
    }))
}

/// The loopback interface always has this index.
pub const LOOPBACK: u32 = 1;

/// What [`add_service_address`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    /// It was not there.
    New,
    /// Somebody had put it there before.
    AlreadyThere,
}

/// Puts a service's address on an interface, for the socket tier.
pub async fn add_service_address(
    handle: &Handle,
    address: IpAddr,
    link: u32,
) -> Result<Added, KernelError> {
    let what = format!("add service address {address} to interface {link}");
    let request = RouteNetlinkMessage::NewAddress(service_address(address, link));
    match ask(handle, &what, request, NLM_F_CREATE | NLM_F_EXCL).await {
        Ok(()) => Ok(Added::New),
        Err(error) if error.raw_os_error() == Some(EEXIST) => Ok(Added::AlreadyThere),
        Err(error) => Err(error),
    }
}

/// Takes it away again.
pub async fn remove_service_address(
    handle: &Handle,
    address: IpAddr,
    link: u32,
) -> Result<(), KernelError> {
    remove_address(handle, &service_address(address, link)).await
}

fn service_address(address: IpAddr, link: u32) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family_of(address);
    message.header.prefix_len = Prefix::host(address).len;
    message.header.index = link;
    if address.is_ipv6() {
        message.header.flags = AddressHeaderFlags::Nodad;
    }
    message.attributes.push(AddressAttribute::Local(address));
    message.attributes.push(AddressAttribute::Address(address));
    message
}
