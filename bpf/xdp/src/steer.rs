//! Whose frame it is: the decision, free of maps and actions.

use core::net::{Ipv4Addr, Ipv6Addr};

use march_bpf_abi::{AddressEntry, AddressKey, ROLE_KERNEL, ROLE_NAT, ROLE_TRANSIT, ROLE_VIP};
use march_wire::parse::{self, Fragment, IpPacket, L4};
use march_wire::tuple::Address;
use march_wire::{Cursor, DropReason, arp, ethernet, ip, nd};

/// What becomes of a frame.
pub enum Decision {
    /// The kernel's.
    Pass,
    /// For the data plane's socket.
    Redirect(Unbound),
    /// Nobody's, or impossible.
    Drop(DropReason),
}

/// What becomes of a redirected frame while no socket is bound.
pub enum Unbound {
    /// The address is the kernel's too.
    Pass,
    /// The kernel would answer for an address that is not its own.
    Drop,
}

/// The published addresses.
pub trait Addresses: Copy {
    /// The entry of the longest prefix that holds the key; no roles if there is none.
    fn find(&self, bits: u32, key: AddressKey) -> AddressEntry;
}

const OURS_ALONE: u32 = ROLE_VIP | ROLE_NAT;

/// True for a VIP or a dedicated NAT address: the kernel must not see its frames.
#[inline(always)]
fn is_ours_alone(entry: AddressEntry) -> bool {
    entry.roles & OURS_ALONE != 0 && entry.roles & ROLE_KERNEL == 0
}

/// Decides about one frame that arrived at a port with this MAC address.
#[inline(always)]
pub fn decide<C: Cursor, S: Addresses>(frame: C, own: ethernet::Mac, addresses: S) -> Decision {
    // One protocol after another instead of one enum of them all: merging the variants' fields makes the compiler shift
    // registers whose content does not matter, and the verifier refuses that for a pointer.
    let link = match ethernet::link(frame) {
        Ok(link) => link,
        Err(reason) => return Decision::Drop(reason),
    };
    match link.ethertype {
        ethernet::IPV4 => match parse::ipv4_plain(frame, link) {
            Ok(Some(packet)) => ipv4(frame, &packet, own, addresses),
            Ok(None) => unusual(frame, link, |dst: Ipv4Addr| {
                addresses.find(AddressKey::V4_BITS, AddressKey::v4(dst.octets()))
            }),
            Err(reason) => Decision::Drop(reason),
        },
        ethernet::IPV6 => match parse::ipv6_plain(frame, link) {
            Ok(Some(packet)) => ipv6(frame, &packet, own, addresses),
            Ok(None) => unusual(frame, link, |dst: Ipv6Addr| {
                addresses.find(AddressKey::V6_BITS, AddressKey::v6(dst.octets()))
            }),
            Err(reason) => Decision::Drop(reason),
        },
        ethernet::ARP => match arp::parse(frame, &link) {
            Ok(message) => {
                let key = AddressKey::v4(message.target.octets());
                neighbour(addresses.find(AddressKey::V4_BITS, key))
            }
            Err(reason) => Decision::Drop(reason),
        },
        _ => match reach(frame, own) {
            Reach::Elsewhere => Decision::Drop(DropReason::WrongMac),
            Reach::Here | Reach::Group => Decision::Pass,
        },
    }
}

/// A packet with options or extension headers. Few, and the verifier would follow every path that they can take, so they
/// are judged in userspace, which punts what is the kernel's; link protocols to groups (IGMP, MLD) go straight there.
#[inline(always)]
fn unusual<A: Address, C: Cursor>(
    frame: C,
    link: ethernet::Link,
    find: impl FnOnce(A) -> AddressEntry,
) -> Decision {
    let Some(dst) = A::read(frame, link.l3_offset + A::SRC_OFFSET + A::LEN) else {
        return Decision::Drop(DropReason::Runt);
    };
    if ethernet::destination(frame).is_some_and(ethernet::is_group) || dst.is_group() {
        Decision::Pass
    } else if find(dst).roles & ROLE_KERNEL != 0 {
        Decision::Redirect(Unbound::Pass)
    } else {
        Decision::Redirect(Unbound::Drop)
    }
}

/// How a frame got here.
#[derive(PartialEq, Eq)]
enum Reach {
    /// To the port's own MAC address.
    Here,
    /// To a group.
    Group,
    /// To somebody else.
    Elsewhere,
}

#[inline(always)]
fn reach<C: Cursor>(frame: C, own: ethernet::Mac) -> Reach {
    match ethernet::destination(frame) {
        Some(mac) if mac == own => Reach::Here,
        Some(mac) if ethernet::is_group(mac) => Reach::Group,
        _ => Reach::Elsewhere,
    }
}

/// ARP or neighbour discovery about an address.
#[inline(always)]
fn neighbour(target: AddressEntry) -> Decision {
    if is_ours_alone(target) {
        Decision::Redirect(Unbound::Drop)
    } else {
        Decision::Pass
    }
}

#[inline(always)]
fn ipv4<C: Cursor, S: Addresses>(
    frame: C,
    packet: &IpPacket,
    own: ethernet::Mac,
    addresses: S,
) -> Decision {
    let reach = reach(frame, own);
    if reach == Reach::Elsewhere {
        return Decision::Drop(DropReason::WrongMac);
    }
    let Some((_, dst)) = packet.addresses::<Ipv4Addr, C>(frame) else {
        return Decision::Drop(DropReason::Runt);
    };
    if reach == Reach::Group || Address::is_group(dst) {
        return Decision::Pass;
    }
    unicast(
        packet,
        addresses.find(AddressKey::V4_BITS, AddressKey::v4(dst.octets())),
    )
}

#[inline(always)]
fn ipv6<C: Cursor, S: Addresses>(
    frame: C,
    packet: &IpPacket,
    own: ethernet::Mac,
    addresses: S,
) -> Decision {
    let reach = reach(frame, own);
    if reach == Reach::Elsewhere {
        return Decision::Drop(DropReason::WrongMac);
    }
    let Some((_, dst)) = packet.addresses::<Ipv6Addr, C>(frame) else {
        return Decision::Drop(DropReason::Runt);
    };
    if reach == Reach::Group || Address::is_group(dst) {
        if !nd::is_neighbour(packet) {
            return Decision::Pass;
        }
        return match nd::target(frame, packet) {
            Some(target) => {
                neighbour(addresses.find(AddressKey::V6_BITS, AddressKey::v6(target.octets())))
            }
            None => Decision::Pass,
        };
    }
    unicast(
        packet,
        addresses.find(AddressKey::V6_BITS, AddressKey::v6(dst.octets())),
    )
}

/// A packet sent to one address, of which this is known.
#[inline(always)]
fn unicast(packet: &IpPacket, entry: AddressEntry) -> Decision {
    if is_ours_alone(entry) {
        return Decision::Redirect(Unbound::Drop);
    }
    if entry.roles & ROLE_KERNEL != 0 {
        return match entry.roles & ROLE_NAT != 0 && is_translated(packet, entry) {
            true => Decision::Redirect(Unbound::Pass),
            false => Decision::Pass,
        };
    }
    match entry.roles & ROLE_TRANSIT {
        0 => Decision::Drop(DropReason::NoService),
        _ => Decision::Redirect(Unbound::Drop),
    }
}

/// True for a packet that may belong to a translated flow at an address that is the kernel's as well: its port is in the
/// range, or it is an ICMP error.
#[inline(always)]
fn is_translated(packet: &IpPacket, entry: AddressEntry) -> bool {
    if packet.fragment != Fragment::None {
        return false;
    }
    let port = match packet.l4 {
        L4::Tcp { dst_port, .. } | L4::Udp { dst_port, .. } => dst_port,
        // Userspace knows whether what the error quotes is a flow of ours, and punts it otherwise.
        L4::Icmp { kind, .. } => return ip::is_icmp_error(packet.family, kind),
        L4::Other => return false,
    };
    entry.first_port <= port && port <= entry.last_port
}
