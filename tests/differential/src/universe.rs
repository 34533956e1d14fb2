//! The few addresses and ports that everything happens between.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use march_wire::tuple::IpPrefix;

use crate::dice::Dice;

/// One of the two families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Either family.
pub fn version(dice: &mut Dice) -> Version {
    dice.pick(&[Version::V4, Version::V4, Version::V6])
}

fn v4(text: [u8; 4]) -> IpAddr {
    Ipv4Addr::from(text).into()
}

fn v6(network: u16, host: u16) -> IpAddr {
    Ipv6Addr::new(0x2001, 0xdb8, network, 0, 0, 0, 0, host).into()
}

/// Who opens.
#[must_use]
pub fn clients(version: Version) -> Vec<IpAddr> {
    match version {
        Version::V4 => vec![
            v4([198, 51, 100, 1]),
            v4([198, 51, 100, 2]),
            v4([198, 51, 100, 5]),
            v4([198, 51, 100, 130]),
            v4([203, 0, 113, 7]),
            v4([10, 0, 1, 50]),
        ],
        Version::V6 => vec![
            v6(0x64, 1),
            v6(0x64, 2),
            v6(0x64, 0x105),
            v6(0x71, 7),
            v6(1, 0x50),
        ],
    }
}

/// Hosts behind the box, and some beyond it.
#[must_use]
pub fn hosts(version: Version) -> Vec<IpAddr> {
    match version {
        Version::V4 => vec![
            v4([10, 0, 1, 11]),
            v4([10, 0, 1, 12]),
            v4([10, 0, 2, 21]),
            v4([10, 0, 2, 22]),
            v4([203, 0, 113, 7]),
            v4([10, 9, 0, 1]),
            v4([172, 16, 0, 1]),
        ],
        Version::V6 => vec![
            v6(1, 0x11),
            v6(1, 0x12),
            v6(2, 0x21),
            v6(2, 0x22),
            v6(0x71, 7),
            v6(9, 1),
        ],
    }
}

/// Where services are.
#[must_use]
pub fn vips(version: Version) -> Vec<IpAddr> {
    match version {
        Version::V4 => vec![
            v4([192, 0, 2, 10]),
            v4([192, 0, 2, 11]),
            v4([192, 0, 2, 33]),
        ],
        Version::V6 => vec![v6(0xf, 0x10), v6(0xf, 0x11), v6(0xf, 0x21)],
    }
}

/// A service's address that is a prefix; the last of [`vips`] is in it.
#[must_use]
pub fn wide_vip(version: Version) -> IpPrefix {
    let (address, length) = match version {
        Version::V4 => (v4([192, 0, 2, 32]), 30),
        Version::V6 => (v6(0xf, 0x20), 126),
    };
    IpPrefix::containing(address, length).expect("a length of the family")
}

/// An address of the box on a port's link, which the kernel has.
#[must_use]
pub fn own(version: Version, port: u16) -> IpAddr {
    match (version, port) {
        (Version::V4, 0) => v4([198, 51, 100, 254]),
        (Version::V4, 1) => v4([10, 0, 1, 254]),
        (Version::V4, _) => v4([10, 0, 2, 254]),
        (Version::V6, 0) => v6(0x64, 0xfe),
        (Version::V6, 1) => v6(1, 0xfe),
        (Version::V6, _) => v6(2, 0xfe),
    }
}

/// An address for translation that the kernel does not have.
#[must_use]
pub fn dedicated(version: Version) -> IpAddr {
    match version {
        Version::V4 => v4([192, 0, 2, 200]),
        Version::V6 => v6(0xf, 0x200),
    }
}

/// The router on the link of port 0.
#[must_use]
pub fn gateway(version: Version) -> IpAddr {
    match version {
        Version::V4 => v4([198, 51, 100, 253]),
        Version::V6 => v6(0x64, 0xfd),
    }
}

/// Addresses that no packet may have at an end, or only within a link.
#[must_use]
pub fn impossible(version: Version) -> Vec<IpAddr> {
    match version {
        Version::V4 => vec![
            v4([127, 0, 0, 1]),
            v4([0, 0, 0, 0]),
            v4([240, 0, 0, 1]),
            v4([224, 0, 0, 5]),
            v4([255, 255, 255, 255]),
            v4([169, 254, 1, 1]),
        ],
        Version::V6 => vec![
            Ipv6Addr::LOCALHOST.into(),
            Ipv6Addr::UNSPECIFIED.into(),
            Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).into(),
            Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1).into(),
            Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped().into(),
        ],
    }
}

/// Any address of the world.
pub fn any(dice: &mut Dice, version: Version) -> IpAddr {
    match dice.below(12) {
        0..4 => dice.pick(&clients(version)),
        4..7 => dice.pick(&hosts(version)),
        7..10 => dice.pick(&vips(version)),
        10 => {
            let port = dice.from_to(0, 2);
            own(version, port)
        }
        _ => dedicated(version),
    }
}

/// A prefix around an address of the world: prefixes nest.
pub fn prefix(dice: &mut Dice, version: Version) -> IpPrefix {
    let lengths: &[u8] = match version {
        Version::V4 => &[0, 8, 16, 23, 24, 25, 28, 30, 31, 32, 32, 32],
        Version::V6 => &[0, 32, 47, 48, 64, 119, 120, 124, 127, 128, 128],
    };
    let address = match dice.below(3) {
        0 => dice.pick(&clients(version)),
        1 => dice.pick(&vips(version)),
        _ => any(dice, version),
    };
    IpPrefix::containing(address, dice.pick(lengths)).expect("a length of the family")
}

/// Destination ports.
pub const SERVED: [u16; 9] = [53, 79, 80, 81, 443, 8000, 8001, 8003, 8004];
/// Source ports.
pub const EPHEMERAL: [u16; 5] = [1023, 1024, 40_000, 40_001, 65_535];
/// The ports that translation uses.
pub const TRANSLATED: (u16, u16) = (20_000, 20_015);

/// MAC address of a port.
#[must_use]
pub fn mac(port: u16) -> [u8; 6] {
    let [high, low] = port.to_be_bytes();
    [2, 0, 0, 0, high, 0x10 + low]
}
