//! What the XDP program and userspace agree on: names, keys and values of the maps, and the indices of the counters.
//!
//! `no_std`, plain data only. Every type is `repr(C)` without implicit padding, with its size and offsets asserted, so
//! that neither side can drift. Numbers are in the machine's byte order; addresses are wire bytes.
#![no_std]
#![forbid(unsafe_code)]

use core::mem::{offset_of, size_of};
use core::net::IpAddr;

use march_wire::{DropReason, Family, IpPrefix};

/// Name of the program.
pub const PROGRAM: &str = "steer";
/// Array of one map, [`AddressSet`](AddressKey)s by longest prefix: swapped as a whole.
pub const ADDRESSES: &str = "ADDRESSES";
/// Array of one [`PortConfig`].
pub const PORT: &str = "PORT";
/// Per-CPU array of [`Tally`], indexed as [`Slot`] says.
pub const COUNTERS: &str = "COUNTERS";
/// The `AF_XDP` sockets by receive queue.
pub const SOCKETS: &str = "SOCKETS";

/// Receive queues that a port may have.
pub const QUEUES_MAX: u32 = 256;
/// Entries of an address set, at most.
pub const ADDRESSES_MAX: u32 = 1 << 20;

/// The address belongs to the kernel.
pub const ROLE_KERNEL: u32 = 1;
/// Services listen there.
pub const ROLE_VIP: u32 = 2;
/// Flows are translated to it: with [`ROLE_KERNEL`] only the entry's port range, without it all of the address.
pub const ROLE_NAT: u32 = 4;
/// For the entry that covers everything: what is not ours may be routed through.
pub const ROLE_TRANSIT: u32 = 8;

/// Bits of [`AddressKey`] in front of the address.
const FAMILY_BITS: u32 = 32;

/// What an address set is searched by, behind the `u32` prefix length that the kernel wants in front.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct AddressKey {
    /// 4 or 6; 0 in the entry that covers everything.
    pub family: u32,
    /// The address in wire order, IPv4 in the first four bytes, zero beyond the prefix.
    pub address: [u8; 16],
}

const _: () = {
    assert!(size_of::<AddressKey>() == 20);
    assert!(offset_of!(AddressKey, family) == 0);
    assert!(offset_of!(AddressKey, address) == 4);
};

impl AddressKey {
    /// The key of [`AddressKey::EVERYTHING_BITS`] length that matches whatever nothing else does.
    pub const EVERYTHING: AddressKey = AddressKey {
        family: 0,
        address: [0; 16],
    };
    /// The prefix length that goes with [`AddressKey::EVERYTHING`].
    pub const EVERYTHING_BITS: u32 = 0;
    /// The prefix length of a search for one IPv4 address.
    pub const V4_BITS: u32 = FAMILY_BITS + 32;
    /// The prefix length of a search for one IPv6 address.
    pub const V6_BITS: u32 = FAMILY_BITS + 128;

    /// The key of one IPv4 address.
    #[inline]
    pub const fn v4(octets: [u8; 4]) -> AddressKey {
        let [a, b, c, d] = octets;
        let address = [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        AddressKey {
            family: Family::V4 as u32,
            address,
        }
    }

    /// The key of one IPv6 address.
    #[inline]
    pub const fn v6(octets: [u8; 16]) -> AddressKey {
        AddressKey {
            family: Family::V6 as u32,
            address: octets,
        }
    }

    /// The prefix length and key of a block.
    pub fn of(prefix: IpPrefix) -> (u32, AddressKey) {
        let key = match prefix.address() {
            IpAddr::V4(address) => AddressKey::v4(address.octets()),
            IpAddr::V6(address) => AddressKey::v6(address.octets()),
        };
        (FAMILY_BITS + u32::from(prefix.length()), key)
    }
}

/// What is known of an address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct AddressEntry {
    /// `ROLE_*` bits.
    pub roles: u32,
    /// First port of the NAT range, a number.
    pub first_port: u16,
    /// Last port of the NAT range, inclusive.
    pub last_port: u16,
}

const _: () = {
    assert!(size_of::<AddressEntry>() == 8);
    assert!(offset_of!(AddressEntry, roles) == 0);
    assert!(offset_of!(AddressEntry, first_port) == 4);
    assert!(offset_of!(AddressEntry, last_port) == 6);
};

/// What the program knows of its port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct PortConfig {
    /// The port's MAC address.
    pub mac: [u8; 6],
    /// Zero.
    pub reserved: u16,
}

const _: () = {
    assert!(size_of::<PortConfig>() == 8);
    assert!(offset_of!(PortConfig, mac) == 0);
    assert!(offset_of!(PortConfig, reserved) == 6);
};

/// Frames and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Tally {
    /// Frames.
    pub packets: u64,
    /// Bytes from the Ethernet header on, without FCS.
    pub bytes: u64,
}

const _: () = {
    assert!(size_of::<Tally>() == 16);
    assert!(offset_of!(Tally, packets) == 0);
    assert!(offset_of!(Tally, bytes) == 8);
};

/// What a [`Tally`] in the counter map counts. Every frame is counted in `Seen` and in exactly one other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// Every frame.
    Seen,
    /// Given to the kernel: punted.
    Passed,
    /// Given to a socket's redirect.
    Redirected,
    /// Dropped by the program.
    Dropped(DropReason),
}

impl Slot {
    /// Length of the counter map.
    pub const COUNT: usize = 3 + DropReason::COUNT;

    /// Index in the counter map.
    #[inline]
    pub const fn index(self) -> u32 {
        match self {
            Slot::Seen => 0,
            Slot::Passed => 1,
            Slot::Redirected => 2,
            Slot::Dropped(reason) => 3 + reason as u32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_distinct_and_fill_the_map() {
        let mut seen = [false; Slot::COUNT];
        let fixed = [Slot::Seen, Slot::Passed, Slot::Redirected];
        let drops = DropReason::ALL.iter().map(|reason| Slot::Dropped(*reason));
        for slot in fixed.into_iter().chain(drops) {
            let index = slot.index() as usize;
            assert!(!seen[index], "{slot:?}");
            seen[index] = true;
        }
        assert!(seen.iter().all(|&used| used));
    }

    #[test]
    fn keys_of_blocks() {
        let (bits, key) = AddressKey::of("192.0.2.0/24".parse().unwrap());
        assert_eq!((bits, key), (56, AddressKey::v4([192, 0, 2, 0])));
        let (bits, key) = AddressKey::of("2001:db8::1/128".parse().unwrap());
        assert_eq!(bits, AddressKey::V6_BITS);
        assert_eq!(key.address[..4], [0x20, 1, 0x0d, 0xb8]);
        // The same bits in the other family are another key.
        assert_ne!(AddressKey::v4([0; 4]), AddressKey::v6([0; 16]));
    }
}
