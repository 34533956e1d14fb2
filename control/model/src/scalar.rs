//! The small values inside documents: durations, port ranges, prefixes, protocols.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use crate::name::{serialize_as_text, shorten};

/// A time span in milliseconds, never zero; written with a unit: `500ms`, `2s`, `5m`, `1h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DurationMs(u32);

impl DurationMs {
    /// A constant of the model.
    pub(crate) const fn of(milliseconds: u32) -> Self {
        assert!(milliseconds > 0, "a duration is never zero");
        Self(milliseconds)
    }

    /// Milliseconds, at least 1.
    pub const fn as_millis(self) -> u32 {
        self.0
    }

    /// The same as a standard duration.
    pub const fn as_duration(self) -> std::time::Duration {
        std::time::Duration::from_millis(self.0 as u64)
    }
}

/// Units from the largest, so that the canonical form is the shortest.
const UNITS: [(&str, u32); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

impl FromStr for DurationMs {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let unit_ms = UNITS
            .iter()
            .find(|(word, _)| *word == unit)
            .map(|(_, ms)| *ms);
        let (Some(unit_ms), Some(number)) = (unit_ms, whole_number(number)) else {
            return Err(format!(
                "`{}` is not a duration: a whole number and a unit, such as 500ms, 2s, 5m or 1h",
                shorten(text)
            ));
        };
        let total_ms = number.saturating_mul(u64::from(unit_ms));
        match u32::try_from(total_ms) {
            Ok(0) => Err(format!("`{text}`: a duration of zero")),
            Ok(total_ms) if total_ms <= 7 * 24 * 3_600_000 => Ok(Self(total_ms)),
            _ => Err(format!("`{}` is longer than 168h", shorten(text))),
        }
    }
}

impl fmt::Display for DurationMs {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |&&(_, ms): &&(&str, u32)| self.0.is_multiple_of(ms);
        let (unit, ms) = UNITS
            .iter()
            .find(fits)
            .expect("every number is whole milliseconds");
        write!(formatter, "{}{unit}", self.0 / ms)
    }
}

/// Digits without sign, space or leading zero.
pub(crate) fn whole_number(text: &str) -> Option<u64> {
    let is_plain = !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_digit())
        && (text == "0" || !text.starts_with('0'));
    if is_plain { text.parse().ok() } else { None }
}

/// A transport port number, 1 to 65535.
pub(crate) fn port_number(text: &str) -> Result<u16, String> {
    match whole_number(text) {
        Some(0) => Err("port 0 cannot be used on the wire; ports are 1 to 65535".to_owned()),
        Some(number) => u16::try_from(number).map_err(|_| format!("port {number} is above 65535")),
        None => Err(format!("`{}` is not a port number", shorten(text))),
    }
}

/// A range of transport ports, both ends in it; `first` is at least 1 and at most `last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// A constant of the model.
    pub(crate) const fn of(first: u16, last: u16) -> Self {
        assert!(
            first > 0 && first <= last,
            "a port range is ordered and starts at 1 or more"
        );
        Self { first, last }
    }

    /// The lowest port.
    pub const fn first(self) -> u16 {
        self.first
    }

    /// The highest port.
    pub const fn last(self) -> u16 {
        self.last
    }

    /// Whether every port of `other` is in it.
    pub const fn covers(self, other: PortRange) -> bool {
        self.first <= other.first && other.last <= self.last
    }

    /// The ports that are in both.
    pub fn intersection(self, other: PortRange) -> Option<PortRange> {
        self.overlaps(other).then(|| PortRange {
            first: self.first.max(other.first),
            last: self.last.min(other.last),
        })
    }

    /// Whether a port is in both.
    pub const fn overlaps(self, other: PortRange) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

impl FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (first, last) = match text.split_once('-') {
            Some((first, last)) => (port_number(first.trim())?, port_number(last.trim())?),
            None => (port_number(text)?, port_number(text)?),
        };
        if first > last {
            return Err(format!("`{text}` runs backwards; write {last}-{first}"));
        }
        Ok(Self { first, last })
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(formatter, "{}", self.first)
        } else {
            write!(formatter, "{}-{}", self.first, self.last)
        }
    }
}

impl Serialize for PortRange {
    /// A number for one port, `first-last` for more.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.first == self.last {
            serializer.serialize_u16(self.first)
        } else {
            serializer.collect_str(self)
        }
    }
}

/// An address prefix without host bits. A plain address is the prefix of its full length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

impl Prefix {
    /// The prefix of one address.
    pub const fn host(address: IpAddr) -> Self {
        Self {
            address,
            length: Family::of(address).address_bits(),
        }
    }

    /// A prefix from its parts; `None` if the length is beyond the family's bits, or host bits are set.
    #[must_use]
    pub fn new(address: IpAddr, length: u8) -> Option<Prefix> {
        let prefix = Prefix { address, length };
        let is_whole = length <= prefix.family().address_bits() && prefix.widen(length) == prefix;
        is_whole.then_some(prefix)
    }

    /// The first address of the prefix.
    pub const fn address(self) -> IpAddr {
        self.address
    }

    /// Its length in bits, up to 32 or 128.
    pub const fn length(self) -> u8 {
        self.length
    }

    /// Whether every address of `other` is in it.
    pub fn covers(self, other: Prefix) -> bool {
        self.length <= other.length && self.contains(other.address)
    }

    /// The whole address in the low bits, shifted so that both families compare from bit 127 down.
    pub(crate) fn bits(self) -> u128 {
        address_bits(self.address)
    }

    /// 4 or 6.
    pub const fn family(self) -> Family {
        Family::of(self.address)
    }

    /// Whether the address is in it; addresses of the other family never are.
    pub fn contains(self, address: IpAddr) -> bool {
        Family::of(address) == self.family()
            && (address_bits(address) ^ self.bits()) & mask(self.length) == 0
    }

    /// The enclosing prefix of this length, which is not longer than its own.
    #[must_use]
    pub fn widen(self, length: u8) -> Prefix {
        let bits = self.bits() & mask(length.min(self.length));
        let address = match self.address {
            IpAddr::V4(_) => {
                IpAddr::V4(u32::try_from(bits >> 96).expect("32 bits are left").into())
            }
            IpAddr::V6(_) => IpAddr::V6(bits.into()),
        };
        Prefix {
            address,
            length: length.min(self.length),
        }
    }
}

fn address_bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)) << 96,
        IpAddr::V6(v6) => v6.into(),
    }
}

fn mask(length: u8) -> u128 {
    if length == 0 {
        0
    } else {
        u128::MAX << (128 - u32::from(length.min(128)))
    }
}

impl FromStr for Prefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address = parse_address(address)?;
        let full = Family::of(address).address_bits();
        let length = match length.map(whole_number) {
            None => full,
            Some(Some(length)) if length <= u64::from(full) => {
                u8::try_from(length).expect("at most 128")
            }
            Some(_) => {
                return Err(format!(
                    "`{}`: the prefix length must be 0 to {full}",
                    shorten(text)
                ));
            }
        };
        let prefix = Prefix { address, length };
        let network = prefix.widen(length);
        if network == prefix {
            Ok(prefix)
        } else {
            Err(format!(
                "`{text}` has host bits set; write {}/{length} for the network or {address} for the one address",
                network.address
            ))
        }
    }
}

impl fmt::Display for Prefix {
    /// A plain address when it is only one.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.length == self.family().address_bits() {
            write!(formatter, "{}", self.address)
        } else {
            write!(formatter, "{}/{}", self.address, self.length)
        }
    }
}

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        }
    }

    const fn address_bits(self) -> u8 {
        match self {
            Family::V4 => 32,
            Family::V6 => 128,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        })
    }
}

/// An address in its own family: IPv4-mapped IPv6 is refused, because it never stands for what it says.
pub(crate) fn parse_address(text: &str) -> Result<IpAddr, String> {
    let address: IpAddr = text
        .parse()
        .map_err(|_| format!("`{}` is not an IPv4 or IPv6 address", shorten(text)))?;
    if let IpAddr::V6(v6) = address
        && let Some(v4) = v6.to_ipv4_mapped()
    {
        return Err(format!("`{text}` is an IPv4-mapped address; write {v4}"));
    }
    Ok(address)
}

/// An address that a host can have and that is routed: for VIPs, NAT addresses and backends.
pub(crate) fn host_address(text: &str) -> Result<IpAddr, String> {
    let address = parse_address(text)?;
    match unusable(address) {
        Some(why) => Err(format!("`{text}` is {why}, which no host answers for")),
        None => Ok(address),
    }
}

/// Why an address cannot be a host's routed address.
pub(crate) fn unusable(address: IpAddr) -> Option<&'static str> {
    let (link_local, broadcast) = match address {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.is_broadcast()),
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), false),
    };
    let table = [
        (address.is_unspecified(), "the unspecified address"),
        (address.is_loopback(), "a loopback address"),
        (address.is_multicast(), "a multicast address"),
        (link_local, "a link-local address"),
        (broadcast, "the broadcast address"),
    ];
    table.into_iter().find(|(is, _)| *is).map(|(_, why)| why)
}

/// The transport of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Transport {
    /// The protocol number in the IP header.
    pub const fn number(self) -> u8 {
        match self {
            Transport::Tcp => 6,
            Transport::Udp => 17,
        }
    }
}

/// An IP protocol in a rule: by number, or by name for those that have one here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Protocol(u8);

const PROTOCOLS: [(&str, u8); 7] = [
    ("tcp", 6),
    ("udp", 17),
    ("icmp", 1),
    ("icmpv6", 58),
    ("esp", 50),
    ("gre", 47),
    ("sctp", 132),
];

impl Protocol {
    /// The protocol number in the IP header.
    pub const fn number(self) -> u8 {
        self.0
    }

    /// TCP.
    pub const TCP: Self = Self(6);

    /// ICMP or `ICMPv6`.
    pub const fn is_icmp(self) -> bool {
        matches!(self.0, 1 | 58)
    }

    /// Whether packets of this family have it: ICMP is of IPv4 only, `ICMPv6` of IPv6.
    pub(crate) const fn is_possible_in(self, family: Family) -> bool {
        match family {
            Family::V4 => self.0 != 58,
            Family::V6 => self.0 != 1,
        }
    }

    /// Whether ports can be matched: TCP and UDP.
    pub const fn has_ports(self) -> bool {
        matches!(self.0, 6 | 17)
    }
}

impl From<Transport> for Protocol {
    fn from(transport: Transport) -> Self {
        Self(transport.number())
    }
}

impl FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some((_, number)) = PROTOCOLS.iter().find(|(name, _)| *name == text) {
            return Ok(Self(*number));
        }
        let number = whole_number(text).and_then(|number| u8::try_from(number).ok());
        number.map(Self).ok_or_else(|| {
            let names = PROTOCOLS.map(|(name, _)| name);
            format!(
                "`{}` is not a protocol{}; write {} or a number up to 255",
                shorten(text),
                crate::suggest::did_you_mean(text, names),
                names.join(", ")
            )
        })
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match PROTOCOLS.iter().find(|(_, number)| *number == self.0) {
            Some((name, _)) => formatter.write_str(name),
            None => write!(formatter, "{}", self.0),
        }
    }
}

serialize_as_text!(DurationMs, Prefix, Protocol);

/// Declares an enum whose values are words in documents.
macro_rules! words {
    ($type:ident, $what:literal, $($variant:ident $word:literal),+) => {
        impl $type {
            /// The word in documents.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl std::str::FromStr for $type {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(format!(
                        "`{}` is not {}{}; write {}",
                        crate::name::shorten(text),
                        $what,
                        crate::suggest::did_you_mean(text, [$($word),+]),
                        crate::suggest::either(&[$($word),+])
                    )),
                }
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.pad(self.as_str())
            }
        }

        crate::name::serialize_as_text!($type);
    };
}
pub(crate) use words;

words!(Transport, "a transport protocol", Tcp "tcp", Udp "udp");
