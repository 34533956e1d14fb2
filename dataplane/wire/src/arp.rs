//! ARP for IPv4 over Ethernet (RFC 826): read a message, answer it in place, announce an address (RFC 5227).

use core::net::Ipv4Addr;

use crate::cursor::{Cursor, put, put_u16};
use crate::ethernet::{self, Link, Mac};
use crate::tuple::Address;
use crate::verdict::DropReason;

/// Bytes of an ARP message behind the Ethernet header.
pub const LEN: usize = 28;
/// Bytes of the frames made here: padded to Ethernet's least (without FCS).
pub const FRAME_LEN: usize = 60;

/// What a message asks or says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Who has the target address?
    Request,
    /// The sender has it.
    Reply,
}

/// One ARP message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    /// Request or reply.
    pub operation: Operation,
    /// MAC address of the sender.
    pub sender_mac: Mac,
    /// IP address of the sender; 0.0.0.0 in a probe for a duplicate.
    pub sender: Ipv4Addr,
    /// MAC address of the target; meaningless in a request.
    pub target_mac: Mac,
    /// IP address of the target.
    pub target: Ipv4Addr,
}

/// Hardware type 1 (Ethernet), protocol 0x0800, lengths 6 and 4.
const ETHERNET_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];

/// Reads the ARP message behind a decoded link header.
///
/// `bad_arp`: cut off, not IPv4 over Ethernet, neither request nor reply, or a sender MAC that is a group's.
#[inline]
pub fn parse<C: Cursor>(frame: C, link: &Link) -> Result<Arp, DropReason> {
    read(frame, link.l3_offset).ok_or(DropReason::BadArp)
}

#[inline]
fn read<C: Cursor>(frame: C, at: usize) -> Option<Arp> {
    let kind = frame.read::<6>(at)?;
    let operation = match frame.read_u16(at + 6)? {
        1 => Operation::Request,
        2 => Operation::Reply,
        _ => return None,
    };
    let sender_mac = frame.read::<6>(at + 8)?;
    let sender = Ipv4Addr::read(frame, at + 14)?;
    let target_mac = frame.read::<6>(at + 18)?;
    let target = Ipv4Addr::read(frame, at + 24)?;
    let possible = kind == ETHERNET_IPV4 && !ethernet::is_group(sender_mac);
    possible.then_some(Arp {
        operation,
        sender_mac,
        sender,
        target_mac,
        target,
    })
}

/// The target address alone, for a program that only has to know whom the message is for.
#[inline]
pub fn target<C: Cursor>(frame: C, link: &Link) -> Option<Ipv4Addr> {
    Ipv4Addr::read(frame, link.l3_offset + 24)
}

fn write(bytes: &mut [u8], at: usize, message: &Arp) -> Option<()> {
    put(bytes, at, ETHERNET_IPV4)?;
    put_u16(
        bytes,
        at + 6,
        match message.operation {
            Operation::Request => 1,
            Operation::Reply => 2,
        },
    )?;
    put(bytes, at + 8, message.sender_mac)?;
    put(bytes, at + 14, message.sender.octets())?;
    put(bytes, at + 18, message.target_mac)?;
    put(bytes, at + 24, message.target.octets())
}

/// Turns a request into our reply: the target address is at `own`. The frame keeps its length and tag.
///
/// `None` if the frame does not hold the request.
pub fn answer(frame: &mut [u8], link: &Link, own: Mac) -> Option<()> {
    let request =
        read(&*frame, link.l3_offset).filter(|arp| arp.operation == Operation::Request)?;
    ethernet::set_addresses(frame, request.sender_mac, own)?;
    let reply = Arp {
        operation: Operation::Reply,
        sender_mac: own,
        sender: request.target,
        target_mac: request.sender_mac,
        target: request.sender,
    };
    write(frame, link.l3_offset, &reply)
}

/// Writes a broadcast frame and returns its length.
fn broadcast(out: &mut [u8], message: &Arp) -> Option<usize> {
    let frame = out.get_mut(..FRAME_LEN)?;
    frame.fill(0);
    ethernet::set_addresses(frame, ethernet::BROADCAST, message.sender_mac)?;
    put_u16(frame, 12, ethernet::ARP)?;
    write(frame, ethernet::HEADER_LEN, message)?;
    Some(FRAME_LEN)
}

/// Writes a gratuitous request into `out`: `address` is at `own` now (RFC 5227, section 3). Returns the frame's length,
/// `None` if `out` is shorter than that.
pub fn announcement(out: &mut [u8], own: Mac, address: Ipv4Addr) -> Option<usize> {
    request(out, own, address, address)
}

/// Writes a request into `out`: who has `target`, tell `sender` at `own`. Returns the frame's length.
pub fn request(out: &mut [u8], own: Mac, sender: Ipv4Addr, target: Ipv4Addr) -> Option<usize> {
    let operation = Operation::Request;
    broadcast(
        out,
        &Arp {
            operation,
            sender_mac: own,
            sender,
            target_mac: [0; 6],
            target,
        },
    )
}

#[cfg(test)]
mod tests;
