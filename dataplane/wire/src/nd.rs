//! Neighbour discovery for IPv6 (RFC 4861): solicitations and advertisements, with the checks of section 7.1.

use core::net::Ipv6Addr;

use crate::buffer::Buffer;
use crate::checksum::{self, L4Checksum};
use crate::cursor::{Cursor, put, put_u16};
use crate::ethernet::{self, Mac};
use crate::ip;
use crate::parse::{Fragment, IpPacket, L4};
use crate::tuple::{Address, Family};
use crate::verdict::DropReason;

/// ICMPv6 type of a neighbour solicitation.
pub const SOLICITATION: u8 = 135;
/// ICMPv6 type of a neighbour advertisement.
pub const ADVERTISEMENT: u8 = 136;
/// Bytes of the frame that [`announcement`] writes.
pub const FRAME_LEN: usize = ethernet::HEADER_LEN + 40 + MESSAGE_LEN;

/// An advertisement with one link-layer address option.
const MESSAGE_LEN: usize = 32;
const SOURCE_LINK_ADDRESS: u8 = 1;
const TARGET_LINK_ADDRESS: u8 = 2;
/// How many options are read before the message is refused.
const OPTIONS_MAX: usize = 16;

const ROUTER: u8 = 0x80;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: Mac = [0x33, 0x33, 0, 0, 0, 1];

/// Who has the target address?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Solicitation {
    /// Who asks; `::` in a probe for a duplicate.
    pub sender: Ipv6Addr,
    /// The address asked for.
    pub target: Ipv6Addr,
    /// The sender's MAC address, if it said so.
    pub sender_mac: Option<Mac>,
}

/// The target address is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advertisement {
    /// The address advertised.
    pub target: Ipv6Addr,
    /// Its MAC address, if it said so.
    pub target_mac: Option<Mac>,
    /// The sender is a router.
    pub is_router: bool,
    /// It answers a solicitation.
    pub is_solicited: bool,
    /// It replaces what was known.
    pub overrides: bool,
}

/// A neighbour discovery message that passed every check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Neighbour {
    /// Type 135.
    Solicitation(Solicitation),
    /// Type 136.
    Advertisement(Advertisement),
}

/// True if the packet is a solicitation or an advertisement, whether valid or not.
#[inline]
pub const fn is_neighbour(packet: &IpPacket) -> bool {
    matches!(packet.family, Family::V6)
        && matches!(
            packet.l4,
            L4::Icmp {
                kind: SOLICITATION | ADVERTISEMENT,
                ..
            }
        )
}

/// The target address of a message that [`is_neighbour`], unchecked: whom it is about.
#[inline]
pub fn target<C: Cursor>(frame: C, packet: &IpPacket) -> Option<Ipv6Addr> {
    Ipv6Addr::read(frame, packet.l4_offset + 8).filter(|_| packet.l4_offset + 24 <= packet.end)
}

/// Reads a message that [`is_neighbour`].
///
/// `bad_arp` unless: hop limit 255, code 0, checksum right, at least 24 bytes, target no multicast, every option with a
/// length, a duplicate probe sent to a solicited-node group without a link-layer address, a solicitation from one station
/// and not from a group.
pub fn parse(frame: &[u8], packet: &IpPacket) -> Result<Neighbour, DropReason> {
    read(frame, packet).ok_or(DropReason::BadArp)
}

fn read(frame: &[u8], packet: &IpPacket) -> Option<Neighbour> {
    let L4::Icmp { kind, code: 0, .. } = packet.l4 else {
        return None;
    };
    let trusted = is_neighbour(packet)
        && packet.ttl == ip::LINK_TTL
        && packet.fragment == Fragment::None
        && checksum::l4_state(frame, packet) == L4Checksum::Valid;
    let target = target(frame, packet).filter(|target| trusted && !target.is_multicast())?;
    let (sender, receiver) = packet.addresses::<Ipv6Addr, _>(frame)?;
    if kind == SOLICITATION {
        let LinkAddress(sender_mac) = link_address(frame, packet, SOURCE_LINK_ADDRESS)?;
        let probe_is_fair = is_solicited_node(receiver) && sender_mac.is_none();
        if sender.is_any() && !probe_is_fair {
            return None;
        }
        // The answer goes there: one frame must not become one for every station of the link.
        let asks_from = sender_mac.or_else(|| ethernet::source(frame))?;
        if sender.is_multicast() || ethernet::is_group(asks_from) {
            return None;
        }
        return Some(Neighbour::Solicitation(Solicitation {
            sender,
            target,
            sender_mac,
        }));
    }
    let flags = frame.read_u8(packet.l4_offset + 4)?;
    let is_solicited = flags & SOLICITED != 0;
    if is_solicited && receiver.is_multicast() {
        return None;
    }
    let LinkAddress(target_mac) = link_address(frame, packet, TARGET_LINK_ADDRESS)?;
    Some(Neighbour::Advertisement(Advertisement {
        target,
        target_mac,
        is_router: flags & ROUTER != 0,
        is_solicited,
        overrides: flags & OVERRIDE != 0,
    }))
}

/// `ff02::1:ff00:0/104`.
fn is_solicited_node(address: Ipv6Addr) -> bool {
    address.to_bits() >> 24 == Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 0).to_bits() >> 24
}

/// What a message's options say of a MAC address: possibly nothing.
struct LinkAddress(Option<Mac>);

/// Walks all options, and finds the link-layer address of one kind. `None` if an option cannot be.
fn link_address(frame: &[u8], packet: &IpPacket, wanted: u8) -> Option<LinkAddress> {
    let mut at = packet.l4_offset + 24;
    let mut found = None;
    for _ in 0..OPTIONS_MAX {
        if at == packet.end {
            return Some(LinkAddress(found));
        }
        let [kind, units] = frame.read(at)?;
        let len = usize::from(units) * 8;
        if len == 0 || at + len > packet.end {
            return None;
        }
        if kind == wanted && len == 8 {
            found = Some(frame.read(at + 2)?);
        }
        at += len;
    }
    (at == packet.end).then_some(LinkAddress(found))
}

/// Turns a solicitation into our advertisement: the target address is at `own`. A VLAN tag stays.
///
/// A duplicate probe is answered to all nodes (RFC 4862, section 5.4.3). `false` if the frame has no room or does not
/// hold the solicitation.
#[must_use]
pub fn answer(frame: &mut impl Buffer, packet: &IpPacket, asked: &Solicitation, own: Mac) -> bool {
    advertise(frame, packet, asked, own).is_some()
}

fn advertise(
    frame: &mut impl Buffer,
    packet: &IpPacket,
    asked: &Solicitation,
    own: Mac,
) -> Option<()> {
    let is_probe = asked.sender.is_any();
    let back_to = asked
        .sender_mac
        .or_else(|| ethernet::source(frame.bytes()))?;
    let (receiver, mac, flags) = if is_probe {
        (ALL_NODES, ALL_NODES_MAC, OVERRIDE)
    } else {
        (asked.sender, back_to, SOLICITED | OVERRIDE)
    };
    if !frame.resize(packet.l3_offset + 40 + MESSAGE_LEN) {
        return None;
    }
    let bytes = frame.bytes_mut();
    ethernet::set_addresses(bytes, mac, own)?;
    write(bytes, packet.l3_offset, asked.target, receiver, own, flags)
}

/// Writes an IPv6 header and an advertisement of `target` behind a link header.
fn write(
    bytes: &mut [u8],
    l3: usize,
    target: Ipv6Addr,
    receiver: Ipv6Addr,
    own: Mac,
    flags: u8,
) -> Option<()> {
    ip::write_ipv6(
        bytes,
        l3,
        (target, receiver),
        ip::ICMPV6,
        ip::LINK_TTL,
        MESSAGE_LEN,
    )?;
    let at = l3 + 40;
    put(bytes, at, [ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0])?;
    put(bytes, at + 8, target.octets())?;
    put(bytes, at + 24, [TARGET_LINK_ADDRESS, 1])?;
    put(bytes, at + 26, own)?;
    let pseudo = checksum::pseudo_header(target, receiver, ip::ICMPV6, 32);
    let message = checksum::sum(bytes.get(at..at + MESSAGE_LEN)?);
    let complete = !checksum::fold(pseudo + u32::from(message));
    put(bytes, at + 2, complete.to_ne_bytes())
}

/// Writes an unsolicited advertisement to all nodes into `out`: `address` is at `own` now. Returns the frame's length,
/// `None` if `out` is shorter than that.
pub fn announcement(out: &mut [u8], own: Mac, address: Ipv6Addr) -> Option<usize> {
    let frame = out.get_mut(..FRAME_LEN)?;
    ethernet::set_addresses(frame, ALL_NODES_MAC, own)?;
    put_u16(frame, 12, ethernet::IPV6)?;
    write(
        frame,
        ethernet::HEADER_LEN,
        address,
        ALL_NODES,
        own,
        OVERRIDE,
    )?;
    Some(FRAME_LEN)
}

#[cfg(test)]
mod tests;
