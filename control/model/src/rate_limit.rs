//! `RateLimit`: a rate with a burst, and who shares it.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use crate::name::shorten;
use crate::place::{Fields, Place};
use crate::scalar::{whole_number, words};

/// The most packets per second, and in one burst.
pub const MAX_PACKETS: u64 = 1_000_000_000;
/// The most bits per second.
pub const MAX_BITS: u64 = 1_000_000_000_000;
/// The most bytes in one burst: a second at [`MAX_BITS`].
pub const MAX_BURST_BYTES: u64 = MAX_BITS / 8;
/// A burst below this never lets a full Ethernet frame pass, bytes.
const FULL_FRAME_BYTES: u64 = 1_514;

/// The spec of a `RateLimit`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RateLimit {
    /// Who shares one bucket.
    pub per: Scope,
    /// With `per: source`, how long the prefixes are whose addresses count as one source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix_length: Option<PrefixLengths>,
    /// What is counted, and how much of it per second over all lcores of a node.
    #[serde(flatten)]
    pub rate: Rate,
    /// What may come at once: packets, or bytes where bits are counted.
    pub burst: u64,
}

/// Who shares one bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All that the limit is put on.
    Shared,
    /// Each source prefix.
    Source,
    /// Each service; transit shares one.
    Service,
}

words!(Scope, "who shares a limit", Shared "shared", Source "source", Service "service");

/// Lengths of the prefixes whose addresses count as one source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct PrefixLengths {
    /// For IPv4, 1 to 32.
    pub v4: u8,
    /// For IPv6, 1 to 128.
    pub v6: u8,
}

impl Default for PrefixLengths {
    /// One address, and the network that one site has at least (RFC 6177).
    fn default() -> Self {
        Self { v4: 32, v6: 64 }
    }
}

/// What is counted, and how much of it per second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Rate {
    /// Packets, 1 to [`MAX_PACKETS`].
    Packets(u64),
    /// Bits of the frame from its Ethernet header on, 1 to [`MAX_BITS`].
    #[serde(serialize_with = "bits_as_text")]
    Bits(u64),
}

impl fmt::Display for Rate {
    /// With the unit: `10000 packets/s`, `100Mbit/s`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Packets(number) => write!(formatter, "{number} packets/s"),
            Self::Bits(number) => write!(formatter, "{}/s", Bits(*number)),
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn bits_as_text<S: Serializer>(bits: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&Bits(*bits))
}

/// Bits per second, written with the largest unit that leaves a whole number.
struct Bits(u64);

const MULTIPLES: [(char, u64); 4] = [
    ('T', 1_000_000_000_000),
    ('G', 1_000_000_000),
    ('M', 1_000_000),
    ('k', 1_000),
];

impl fmt::Display for Bits {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match MULTIPLES
            .iter()
            .find(|(_, multiple)| self.0.is_multiple_of(*multiple))
        {
            Some((letter, multiple)) => write!(formatter, "{}{letter}bit", self.0 / multiple),
            None => write!(formatter, "{}bit", self.0),
        }
    }
}

/// A whole number from 1 to `most`, with `k`, `M`, `G` or `T` (powers of 1000) and `unit` behind it if wanted.
fn quantity(text: &str, unit: &str, most: u64, example: &str) -> Result<u64, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, rest) = text.split_at(digits);
    let rest = match rest.strip_suffix(unit) {
        Some(rest) if !unit.is_empty() => rest,
        _ => rest,
    };
    let multiple = match rest {
        "" => Some(1),
        letter => MULTIPLES
            .iter()
            .find(|(known, _)| letter.eq_ignore_ascii_case(known.encode_utf8(&mut [0; 4])))
            .map(|(_, multiple)| *multiple),
    };
    let is_digits = !number.is_empty() && (number == "0" || !number.starts_with('0'));
    let (Some(multiple), true) = (multiple, is_digits) else {
        return Err(format!(
            "`{}` is not a whole number, with k, M, G or T behind it if wanted, such as {example}",
            shorten(text)
        ));
    };
    // Too many digits for 64 bits are too many for any bound.
    let value = whole_number(number)
        .unwrap_or(u64::MAX)
        .saturating_mul(multiple);
    match value {
        0 => Err(format!(
            "`{text}`: nothing would ever pass; write at least 1, or a rule with `action: drop`"
        )),
        value if value > most => Err(format!("`{}` is above {most}", shorten(text))),
        value => Ok(value),
    }
}

/// A number of packets.
struct Packets(u64);

impl FromStr for Packets {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        quantity(text, "", MAX_PACKETS, "10000 or 64k").map(Self)
    }
}

impl RateLimit {
    pub(crate) fn decode(place: &Place<'_>) -> Option<Self> {
        let mut fields = place.mapping()?;
        let per = fields.optional("per", Scope::Shared, Place::parse);
        let prefix_length = fields.optional("prefixLength", None, |lengths| {
            PrefixLengths::decode(lengths).map(Some)
        });
        if let (Some(Scope::Shared | Scope::Service), Some(Some(_))) = (per, prefix_length) {
            fields.error(
                "prefixLength",
                "only a limit with `per: source` has prefix lengths".to_owned(),
            );
        }
        let rate = Rate::decode(&mut fields);
        let burst = match rate {
            Some(Rate::Bits(bits)) => fields.optional("burst", bits.div_ceil(8), |burst| {
                burst.parse_with(|text| quantity(text, "B", MAX_BURST_BYTES, "64k (bytes)"))
            }),
            Some(Rate::Packets(packets)) => fields.optional("burst", packets, |burst| {
                burst.parse::<Packets>().map(|packets| packets.0)
            }),
            None => fields.optional("burst", 0, |_| None),
        };
        if let (Some(Rate::Bits(_)), Some(burst)) = (rate, burst)
            && burst < FULL_FRAME_BYTES
        {
            let message = format!(
                "a burst of {burst} bytes is less than one full frame ({FULL_FRAME_BYTES} bytes), which would never pass"
            );
            fields.warning("burst", message);
        }
        fields.finish();
        let per = per?;
        Some(Self {
            per,
            prefix_length: match per {
                Scope::Source => Some(prefix_length?.unwrap_or_default()),
                Scope::Shared | Scope::Service => None,
            },
            rate: rate?,
            burst: burst?,
        })
    }
}

impl Rate {
    /// `packets` or `bits`: one of them must be there, and not both.
    fn decode(fields: &mut Fields<'_, '_>) -> Option<Self> {
        let packets = fields.optional("packets", None, |rate| {
            rate.parse::<Packets>().map(|packets| Some(packets.0))
        });
        let bits = fields.optional("bits", None, |rate| {
            rate.parse_with(|text| quantity(text, "bit", MAX_BITS, "100Mbit"))
                .map(Some)
        });
        match (packets, bits) {
            (Some(Some(packets)), Some(None)) => Some(Self::Packets(packets)),
            (Some(None), Some(Some(bits))) => Some(Self::Bits(bits)),
            (Some(None), Some(None)) => {
                let message = "the rate is missing: write `packets` or `bits`, per second";
                fields.error("packets", message.to_owned());
                None
            }
            (Some(Some(_)), Some(Some(_))) => {
                let message = "a limit counts packets or bits, not both; make two";
                fields.error("bits", message.to_owned());
                None
            }
            _ => None,
        }
    }
}

impl PrefixLengths {
    fn decode(place: &Place<'_>) -> Option<Self> {
        let default = Self::default();
        let mut fields = place.mapping()?;
        let v4 = fields.optional("v4", default.v4, |length| length.number(1, 32));
        let v6 = fields.optional("v6", default.v6, |length| length.number(1, 128));
        fields.finish();
        Some(Self { v4: v4?, v6: v6? })
    }
}
