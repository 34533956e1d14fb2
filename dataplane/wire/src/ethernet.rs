//! Ethernet: the 14-byte header, one optional 802.1Q tag, and in-place edits of the two.

use crate::cursor::{Cursor, put};
use crate::verdict::DropReason;

/// Bytes of an untagged Ethernet header.
pub const HEADER_LEN: usize = 14;
/// Bytes that one 802.1Q tag adds.
pub const TAG_LEN: usize = 4;
/// `EtherType` of IPv4.
pub const IPV4: u16 = 0x0800;
/// `EtherType` of ARP.
pub const ARP: u16 = 0x0806;
/// `EtherType` of IPv6.
pub const IPV6: u16 = 0x86dd;
/// `EtherType` of an 802.1Q tag.
pub const VLAN: u16 = 0x8100;
/// `EtherType` of an 802.1ad service tag.
pub const SERVICE_VLAN: u16 = 0x88a8;

/// A MAC address in wire order.
pub type Mac = [u8; 6];

/// The address that every station listens to.
pub const BROADCAST: Mac = [0xff; 6];

/// True if the group bit is set: multicast or broadcast.
#[inline]
pub const fn is_group(mac: Mac) -> bool {
    mac[0] & 1 == 1
}

/// What the link layer says of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// `EtherType` of the payload; below 0x600 it is an 802.3 length.
    pub ethertype: u16,
    /// Where the payload begins: 14, or 18 behind a tag.
    pub l3_offset: usize,
    /// Tag control information of the 802.1Q tag: priority (3 bits), DEI, VLAN id (12 bits).
    pub vlan: Option<u16>,
}

/// Decodes the Ethernet header and at most one tag.
///
/// Drops: `runt` if a header is cut off, `qinq` for a second tag or a service tag.
#[inline]
pub fn link<C: Cursor>(frame: C) -> Result<Link, DropReason> {
    let outer = frame.read_u16(12).ok_or(DropReason::Runt)?;
    match outer {
        VLAN => {
            let [tci_high, tci_low, type_high, type_low] =
                frame.read::<4>(HEADER_LEN).ok_or(DropReason::Runt)?;
            let ethertype = u16::from_be_bytes([type_high, type_low]);
            if ethertype == VLAN || ethertype == SERVICE_VLAN {
                return Err(DropReason::QinQ);
            }
            let vlan = Some(u16::from_be_bytes([tci_high, tci_low]));
            Ok(Link {
                ethertype,
                l3_offset: HEADER_LEN + TAG_LEN,
                vlan,
            })
        }
        SERVICE_VLAN => Err(DropReason::QinQ),
        ethertype => Ok(Link {
            ethertype,
            l3_offset: HEADER_LEN,
            vlan: None,
        }),
    }
}

/// The destination MAC address.
#[inline]
pub fn destination<C: Cursor>(frame: C) -> Option<Mac> {
    frame.read(0)
}

/// The source MAC address.
#[inline]
pub fn source<C: Cursor>(frame: C) -> Option<Mac> {
    frame.read(6)
}

/// Writes both addresses; `None` and no change if the frame is shorter than that.
#[inline]
pub fn set_addresses(frame: &mut [u8], destination: Mac, source: Mac) -> Option<()> {
    let [d0, d1, d2, d3, d4, d5] = destination;
    let [s0, s1, s2, s3, s4, s5] = source;
    put(frame, 0, [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5])
}

/// Sends a frame back to where it came from. Its new source is `own`, never a copied group address.
#[inline]
pub fn turn_around(frame: &mut [u8], own: Mac) -> Option<()> {
    let back_to = source(&*frame)?;
    set_addresses(frame, back_to, own)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(rest: &[u8]) -> std::vec::Vec<u8> {
        let mut bytes = std::vec![1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
        bytes.extend_from_slice(rest);
        bytes
    }

    #[test]
    fn untagged_tagged_and_double_tagged() {
        let plain = Link {
            ethertype: IPV4,
            l3_offset: 14,
            vlan: None,
        };
        assert_eq!(link(frame(&[8, 0]).as_slice()), Ok(plain));
        let tagged = Link {
            ethertype: IPV6,
            l3_offset: 18,
            vlan: Some(0x2064),
        };
        assert_eq!(
            link(frame(&[0x81, 0, 0x20, 0x64, 0x86, 0xdd]).as_slice()),
            Ok(tagged)
        );
        for inner in [[0x81, 0], [0x88, 0xa8]] {
            let double = frame(&[0x81, 0, 0, 1, inner[0], inner[1], 0, 2, 8, 0]);
            assert_eq!(link(double.as_slice()), Err(DropReason::QinQ));
        }
        assert_eq!(
            link(frame(&[0x88, 0xa8, 0, 1, 8, 0]).as_slice()),
            Err(DropReason::QinQ)
        );
    }

    #[test]
    fn every_prefix_is_a_runt() {
        let bytes = frame(&[0x81, 0, 0, 1, 8, 0]);
        for len in 0..bytes.len() {
            assert_eq!(link(&bytes[..len]), Err(DropReason::Runt), "{len} bytes");
        }
    }

    #[test]
    fn turning_around_uses_our_own_address() {
        let mut bytes = frame(&[8, 0]);
        turn_around(&mut bytes, [0xaa; 6]).unwrap();
        assert_eq!(
            bytes[..12],
            [7, 8, 9, 10, 11, 12, 0xaa, 0xaa, 0xaa, 0xaa, 0xaa, 0xaa]
        );
        assert_eq!(turn_around(&mut bytes[..11], [0; 6]), None);
    }
}
