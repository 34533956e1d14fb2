//! The rarer conditions of a rule: ICMP messages, TCP flags, DSCP, VLANs, fragments.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use crate::name::shorten;
use crate::place::Place;
use crate::scalar::{whole_number, words};

/// ICMP or `ICMPv6` messages of one type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct IcmpMessage {
    /// Type.
    #[serde(rename = "type")]
    pub kind: u8,
    /// Code; none: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<u8>,
}

impl fmt::Display for IcmpMessage {
    /// `type` or `type/code`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.kind)?;
        self.code
            .map_or(Ok(()), |code| write!(formatter, "/{code}"))
    }
}

impl IcmpMessage {
    pub(crate) fn decode(place: &Place<'_>) -> Option<Self> {
        let mut fields = place.mapping()?;
        let kind = fields.required("type", |kind| kind.number(0, u8::MAX));
        let code = fields.optional("code", None, |code| code.number(0, u8::MAX).map(Some));
        fields.finish();
        Some(Self {
            kind: kind?,
            code: code?,
        })
    }

    /// Whether every message that is `other` is this too.
    pub(crate) fn covers(self, other: Self) -> bool {
        self.kind == other.kind && (self.code.is_none() || self.code == other.code)
    }
}

/// A TCP flag, in order of its bit in the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TcpFlag {
    /// No more data.
    Fin,
    /// Synchronize.
    Syn,
    /// Reset.
    Rst,
    /// Push.
    Psh,
    /// The acknowledgement number counts.
    Ack,
    /// The urgent pointer counts.
    Urg,
    /// ECN echo.
    Ece,
    /// Congestion window reduced.
    Cwr,
}

words!(TcpFlag, "a TCP flag", Fin "fin", Syn "syn", Rst "rst", Psh "psh", Ack "ack", Urg "urg", Ece "ece", Cwr "cwr");

impl TcpFlag {
    /// Its bit in the header's byte of flags.
    pub const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// How TCP flags must be. Those that are in neither list may be either; at least one is in one, none in both.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub struct TcpFlags {
    /// These must be set; sorted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub set: Vec<TcpFlag>,
    /// These must not be; sorted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub clear: Vec<TcpFlag>,
}

impl TcpFlags {
    /// The flags that are looked at, as in the header.
    pub fn mask(&self) -> u8 {
        self.value() | bits(&self.clear)
    }

    /// What those must be.
    pub fn value(&self) -> u8 {
        bits(&self.set)
    }

    pub(crate) fn decode(place: &Place<'_>) -> Option<Self> {
        let mut fields = place.mapping()?;
        let set = fields.optional("set", Vec::new(), |list| list.set("flag", Place::parse));
        let clear = fields.optional("clear", Vec::new(), |list| list.set("flag", Place::parse));
        fields.finish();
        let flags = Self {
            set: set?,
            clear: clear?,
        };
        if let Some(flag) = flags.set.iter().find(|flag| flags.clear.contains(flag)) {
            place.error(format!(
                "the flag {flag} cannot be both set and clear, so nothing can match"
            ));
        }
        if flags.mask() == 0 {
            place.error("name at least one flag in `set` or `clear`".to_owned());
        }
        Some(flags)
    }
}

fn bits(flags: &[TcpFlag]) -> u8 {
    flags.iter().fold(0, |bits, flag| bits | flag.bit())
}

/// A differentiated services code point, 0 to 63: by number, or by name for those that have one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dscp(u8);

/// Names of code points (RFC 2474, 2597, 3246, 5865, 8622).
const CODE_POINTS: [(&str, u8); 23] = [
    ("cs0", 0),
    ("le", 1),
    ("cs1", 8),
    ("af11", 10),
    ("af12", 12),
    ("af13", 14),
    ("cs2", 16),
    ("af21", 18),
    ("af22", 20),
    ("af23", 22),
    ("cs3", 24),
    ("af31", 26),
    ("af32", 28),
    ("af33", 30),
    ("cs4", 32),
    ("af41", 34),
    ("af42", 36),
    ("af43", 38),
    ("cs5", 40),
    ("va", 44),
    ("ef", 46),
    ("cs6", 48),
    ("cs7", 56),
];

impl Dscp {
    /// The number, 0 to 63.
    pub const fn number(self) -> u8 {
        self.0
    }

    fn name(self) -> Option<&'static str> {
        let found = CODE_POINTS.iter().find(|(_, number)| *number == self.0);
        found.map(|(name, _)| *name)
    }
}

impl FromStr for Dscp {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some((_, number)) = CODE_POINTS.iter().find(|(name, _)| *name == text) {
            return Ok(Self(*number));
        }
        match whole_number(text) {
            Some(number @ 0..=63) => Ok(Self(u8::try_from(number).expect("at most 63"))),
            Some(number) => Err(format!("DSCP {number} is above 63")),
            None => Err(format!(
                "`{}` is not a DSCP{}; write a number up to 63 or a name: cs0 to cs7, af11 to af43, ef, va or le",
                shorten(text),
                crate::suggest::did_you_mean(text, CODE_POINTS.map(|(name, _)| name))
            )),
        }
    }
}

impl fmt::Display for Dscp {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => formatter.pad(name),
            None => write!(formatter, "{}", self.0),
        }
    }
}

impl Serialize for Dscp {
    /// The name or, where there is none, the number.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.name() {
            Some(name) => serializer.serialize_str(name),
            None => serializer.serialize_u8(self.0),
        }
    }
}

/// The highest VLAN identifier; 4095 is reserved.
const MAX_VLAN: u16 = 4094;

/// What a frame's 802.1Q tag may say. Identifier 0 is a tag that only carries a priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Vlan {
    /// No tag.
    Untagged,
    /// A tag with an identifier from the first to the last, both included.
    Ids(u16, u16),
}

impl Vlan {
    /// Whether every frame that is `other` is this too.
    pub(crate) fn covers(self, other: Self) -> bool {
        match (self, other) {
            (Self::Untagged, Self::Untagged) => true,
            (Self::Ids(first, last), Self::Ids(from, to)) => first <= from && to <= last,
            _ => false,
        }
    }
}

impl FromStr for Vlan {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "untagged" {
            return Ok(Self::Untagged);
        }
        let id = |text: &str| match whole_number(text.trim()) {
            Some(number) if number <= u64::from(MAX_VLAN) => {
                Ok(u16::try_from(number).expect("at most 4094"))
            }
            Some(number) => Err(format!("VLAN {number} is above {MAX_VLAN}")),
            None => Err(format!(
                "`{}` is not a VLAN{}; write a number up to {MAX_VLAN}, a range of them or untagged",
                shorten(text),
                crate::suggest::did_you_mean(text, ["untagged"])
            )),
        };
        let (first, last) = match text.split_once('-') {
            Some((first, last)) => (id(first)?, id(last)?),
            None => (id(text)?, id(text)?),
        };
        if first > last {
            return Err(format!("`{text}` runs backwards; write {last}-{first}"));
        }
        Ok(Self::Ids(first, last))
    }
}

impl fmt::Display for Vlan {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Untagged => formatter.pad("untagged"),
            Self::Ids(first, last) if first == last => write!(formatter, "{first}"),
            Self::Ids(first, last) => write!(formatter, "{first}-{last}"),
        }
    }
}

impl Serialize for Vlan {
    /// A number for one VLAN, text for all else.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Ids(first, last) if first == last => serializer.serialize_u16(*first),
            other => serializer.collect_str(other),
        }
    }
}

/// Whether a packet is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Wholeness {
    /// Not a fragment.
    Whole,
    /// Any fragment.
    Fragment,
    /// The first of several, with the L4 header.
    First,
    /// A later one, without it.
    Later,
}

words!(Wholeness, "a word for fragments", Whole "whole", Fragment "fragment", First "first", Later "later");

impl Wholeness {
    /// Whether every packet that is `other` is this too.
    pub(crate) fn covers(self, other: Self) -> bool {
        self == other || (self == Self::Fragment && matches!(other, Self::First | Self::Later))
    }
}
