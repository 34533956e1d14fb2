//! From a frame's text to bytes, the slow and obvious way.
//!
//! Nothing of the data plane is used here, on purpose: lengths and checksums are computed from scratch over the finished
//! bytes (RFC 1071), so that an incremental update that went wrong shows as a difference. A field that is not written
//! gets the value that makes the frame well-formed; writing it makes it whatever is wanted, however wrong.

mod headers;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::layer::{FrameText, Layer, Value};

use headers::{arp, data, eth, extension, icmp, icmp6, ip4, ip6, tcp, tcp8, udp, vlan};

/// Values that frames may refer to by name.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// `client` -> `02:00:00:00:00:c1` and the like, textual.
    pub values: BTreeMap<String, String>,
}

/// Where a variable stands in an encoded frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Byte offset from the start of the frame.
    pub offset: usize,
    /// Bytes it takes.
    pub width: usize,
    /// The variable's name without `$`; a `*` is named by its position, `*0`, `*1`, ...
    pub name: String,
}

/// Values that variables hold, big-endian bytes of the field. A slot of `*` is keyed by its position: `*0`, `*1`, ...
pub type Bindings = BTreeMap<String, Vec<u8>>;

/// An encoded frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// The bytes; unbound variables are zero.
    pub bytes: Vec<u8>,
    /// Every variable in the frame, bound or not, in order of appearance in the text.
    pub slots: Vec<Slot>,
}

/// Encodes `frame`. `bindings` gives variables their values; what it lacks is left zero and is named in the slots.
pub fn encode(frame: &FrameText, names: &Names, bindings: &Bindings) -> Result<Encoded, String> {
    let (shaping, layers): (Vec<_>, Vec<_>) = frame
        .layers
        .iter()
        .partition(|layer| matches!(layer.name.as_str(), "cut" | "pad"));
    // `*` slots are numbered over the whole frame in reading order, before anything is encoded.
    let mut anonymous = 0;
    let mut numbered = Vec::new();
    for layer in layers {
        let mut layer = layer.clone();
        for value in layer.fields.values_mut() {
            if *value == Value::Any {
                *value = Value::Variable(format!("*{anonymous}"));
                anonymous += 1;
            }
        }
        numbered.push(layer);
    }
    let mut context = Context {
        names,
        bindings,
        slots: Vec::new(),
    };
    let (mut bytes, _) = encode_from(&numbered, Around::None, &mut context)?;
    let mut slots = context.slots;
    for shape in shaping {
        let text = shape.text.as_deref().unwrap_or_default();
        let size: usize = text
            .parse()
            .map_err(|_| format!("`{} {text}` needs a number of bytes", shape.name))?;
        match shape.name.as_str() {
            "cut" => bytes.truncate(size),
            _ if bytes.len() < size => bytes.resize(size, 0),
            _ => {}
        }
    }
    slots.retain(|slot| slot.offset + slot.width <= bytes.len());
    slots.sort_by_key(|slot| slot.offset);
    Ok(Encoded { bytes, slots })
}

struct Context<'a> {
    names: &'a Names,
    bindings: &'a Bindings,
    slots: Vec<Slot>,
}

/// What encloses a layer, as far as checksums need it.
#[derive(Clone, Copy)]
enum Around {
    None,
    V4(Ipv4Addr, Ipv4Addr),
    V6(Ipv6Addr, Ipv6Addr),
}

/// What the enclosing layer must say about its payload.
#[derive(Clone, Copy, Default)]
struct Announce {
    ethertype: Option<u16>,
    protocol: Option<u8>,
}

/// Bytes under construction, with the fields that are variables.
struct Piece<'a, 'b> {
    layer: &'a Layer,
    context: &'b mut Context<'a>,
    used: Vec<&'static str>,
    bytes: Vec<u8>,
    first_slot: usize,
}

impl Piece<'_, '_> {
    /// Appends field `key`, `width` bytes, or `default` if the text does not give it.
    fn field(&mut self, key: &'static str, width: usize, default: u128) -> Result<u128, String> {
        let offset = self.bytes.len();
        let bytes = self.value(key, width, default, offset)?;
        self.bytes.extend_from_slice(&bytes);
        Ok(bytes
            .iter()
            .fold(0, |sum, byte| (sum << 8) | u128::from(*byte)))
    }

    /// The bytes of field `key`; a variable's place is remembered as `offset`.
    fn value(
        &mut self,
        key: &'static str,
        width: usize,
        default: u128,
        offset: usize,
    ) -> Result<Vec<u8>, String> {
        self.used.push(key);
        match self.layer.fields.get(key) {
            None => Ok(default.to_be_bytes()[16 - width..].to_vec()),
            Some(Value::Any) => unreachable!("anonymous variables were numbered"),
            Some(Value::Variable(name)) => {
                self.context.slots.push(Slot {
                    offset,
                    width,
                    name: name.clone(),
                });
                let bound = self.context.bindings.get(name);
                match bound {
                    Some(bytes) if bytes.len() == width => Ok(bytes.clone()),
                    Some(bytes) => Err(format!(
                        "${name} holds {} bytes, `{key}` has {width}",
                        bytes.len()
                    )),
                    None => Ok(vec![0; width]),
                }
            }
            Some(Value::Text(text)) => {
                let resolved = self.context.names.values.get(text).unwrap_or(text);
                parse_literal(resolved, width).ok_or_else(|| {
                    format!(
                        "`{key}={text}` in layer `{}` is not a value of {width} bytes",
                        self.layer.name
                    )
                })
            }
        }
    }

    /// A number that is not stored as whole bytes at one place (flags, nibbles): literal only.
    fn number(&mut self, key: &'static str, default: u64) -> Result<u64, String> {
        let bytes = self.value(key, 8, u128::from(default), usize::MAX)?;
        Ok(bytes
            .iter()
            .fold(0, |sum, byte| (sum << 8) | u64::from(*byte)))
    }

    /// A word that is not a number, like `sum=bad` or `flags=SA`.
    fn word(&mut self, key: &'static str) -> Option<String> {
        self.used.push(key);
        match self.layer.fields.get(key) {
            Some(Value::Text(text)) => Some(text.clone()),
            _ => None,
        }
    }

    /// Hex digits of field `key`, empty if absent.
    fn hex(&mut self, key: &'static str) -> Result<Vec<u8>, String> {
        self.word(key)
            .map_or(Ok(Vec::new()), |text| parse_hex(&text))
    }

    /// Ends the layer: every field must have been understood; slots of the layer become relative to its start.
    fn finish(self) -> Result<Vec<u8>, String> {
        for key in self.layer.fields.keys() {
            if !self.used.contains(&key.as_str()) {
                return Err(format!("layer `{}` has no field `{key}`", self.layer.name));
            }
        }
        debug_assert!(self.first_slot <= self.context.slots.len());
        Ok(self.bytes)
    }
}

/// Encodes `layers[0]` and everything inside it; slot offsets come out relative to the first byte returned.
fn encode_from<'a>(
    layers: &'a [Layer],
    around: Around,
    context: &mut Context<'a>,
) -> Result<(Vec<u8>, Announce), String> {
    let Some((layer, inner)) = layers.split_first() else {
        return Ok((Vec::new(), Announce::default()));
    };
    let around_inner = match layer.name.as_str() {
        "ip4" => addresses4(layer, context)?,
        "ip6" => addresses6(layer, context)?,
        "eth" | "vlan" => Around::None,
        _ => around,
    };
    let before = context.slots.len();
    let (payload, announce) = encode_from(inner, around_inner, context)?;
    let first_slot = context.slots.len();
    let mut piece = Piece {
        layer,
        context,
        used: Vec::new(),
        bytes: Vec::new(),
        first_slot,
    };
    let mine = match layer.name.as_str() {
        "eth" => eth(&mut piece, announce)?,
        "vlan" => vlan(&mut piece, announce)?,
        "ip4" => ip4(&mut piece, announce, payload.len())?,
        "ip6" => ip6(&mut piece, announce, payload.len())?,
        "hopopts" | "dstopts" | "routing" | "fragment" => extension(&mut piece, announce)?,
        "tcp" => tcp(&mut piece, &payload, around_inner)?,
        "tcp8" => tcp8(&mut piece)?,
        "udp" => udp(&mut piece, &payload, around_inner)?,
        "icmp" => icmp(&mut piece, &payload)?,
        "icmp6" => icmp6(&mut piece, &payload, around_inner)?,
        "arp" => arp(&mut piece)?,
        "data" => data(&mut piece)?,
        "hex" => {
            piece.bytes = parse_hex(layer.text.as_deref().unwrap_or_default())?;
            Announce::default()
        }
        other => return Err(format!("there is no layer `{other}`")),
    };
    let mut bytes = piece.finish()?;
    let shift = bytes.len();
    for slot in &mut context.slots[before..first_slot] {
        slot.offset += shift;
    }
    bytes.extend_from_slice(&payload);
    Ok((bytes, mine))
}

fn addresses4<'a>(layer: &'a Layer, context: &mut Context<'a>) -> Result<Around, String> {
    let mut peek = peek(layer, context);
    let (source, destination) = (peek.value("src", 4, 0, 0)?, peek.value("dst", 4, 0, 0)?);
    unpeek(peek);
    let array = |bytes: Vec<u8>| Ipv4Addr::from(<[u8; 4]>::try_from(bytes).expect("width asked"));
    Ok(Around::V4(array(source), array(destination)))
}

fn addresses6<'a>(layer: &'a Layer, context: &mut Context<'a>) -> Result<Around, String> {
    let mut peek = peek(layer, context);
    let (source, destination) = (peek.value("src", 16, 0, 0)?, peek.value("dst", 16, 0, 0)?);
    unpeek(peek);
    let array = |bytes: Vec<u8>| Ipv6Addr::from(<[u8; 16]>::try_from(bytes).expect("width asked"));
    Ok(Around::V6(array(source), array(destination)))
}

fn peek<'a, 'b>(layer: &'a Layer, context: &'b mut Context<'a>) -> Piece<'a, 'b> {
    let first_slot = context.slots.len();
    Piece {
        layer,
        context,
        used: Vec::new(),
        bytes: Vec::new(),
        first_slot,
    }
}

/// Forgets the slots that peeking made; the layer makes them again when it is encoded.
fn unpeek(
    Piece {
        context,
        first_slot,
        ..
    }: Piece<'_, '_>,
) {
    context.slots.truncate(first_slot);
}

/// A checksum with the pseudo-header of what encloses it (RFC 9293 3.1, RFC 768, RFC 8200 8.1).
fn transport_sum(
    piece: &mut Piece<'_, '_>,
    at: usize,
    payload: &[u8],
    around: Around,
    protocol: u8,
) -> Result<(), String> {
    let len = piece.bytes.len() + payload.len();
    let mut pseudo = Vec::new();
    match around {
        Around::None => {}
        Around::V4(source, destination) => {
            pseudo.extend_from_slice(&source.octets());
            pseudo.extend_from_slice(&destination.octets());
            pseudo.extend_from_slice(&[0, protocol]);
            pseudo.extend_from_slice(&u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes());
        }
        Around::V6(source, destination) => {
            pseudo.extend_from_slice(&source.octets());
            pseudo.extend_from_slice(&destination.octets());
            pseudo.extend_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes());
            pseudo.extend_from_slice(&[0, 0, 0, protocol]);
        }
    }
    let pseudo = ones_sum(&pseudo, 0);
    if piece.word("sum").as_deref() == Some("partial") {
        piece.bytes[at..at + 2].copy_from_slice(&pseudo.to_be_bytes());
        return Ok(());
    }
    let sum = !ones_sum(&[&piece.bytes, payload].concat(), pseudo);
    place_sum(piece, at, sum)
}

/// Writes a checksum: the right one, a wrong one (`sum=bad`, or `sum=+N` for one that is off by N and that an
/// incremental update must leave off by N), or what the text says.
fn place_sum(piece: &mut Piece<'_, '_>, at: usize, right: u16) -> Result<(), String> {
    let word = piece.word("sum");
    let off_by = word
        .as_deref()
        .and_then(|text| text.strip_prefix('+'))
        .and_then(|text| parse_literal(text, 2));
    let bytes = match word.as_deref() {
        Some(_) if off_by.is_some() => ones_sum(&off_by.unwrap_or_default(), right)
            .to_be_bytes()
            .to_vec(),
        Some("bad") => (right ^ 0x5555).to_be_bytes().to_vec(),
        _ => piece.value("sum", 2, u128::from(right), at)?,
    };
    piece.bytes[at..at + 2].copy_from_slice(&bytes);
    Ok(())
}

/// One's-complement sum of 16-bit words (RFC 1071), an odd last byte padded with zero.
fn ones_sum(bytes: &[u8], start: u16) -> u16 {
    let mut sum = u32::from(start);
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([
            pair[0],
            pair.get(1).copied().unwrap_or(0),
        ]));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).expect("folded at every step")
}

/// Pairs of hex digits, spaces allowed.
fn parse_hex(text: &str) -> Result<Vec<u8>, String> {
    let digits: Vec<u32> = text
        .chars()
        .filter(|letter| !letter.is_whitespace())
        .map(|letter| letter.to_digit(16))
        .collect::<Option<_>>()
        .ok_or_else(|| format!("`{text}` is not hex"))?;
    if !digits.len().is_multiple_of(2) {
        return Err(format!("`{text}` has an odd number of digits"));
    }
    Ok(digits
        .chunks(2)
        .map(|pair| u8::try_from(pair[0] << 4 | pair[1]).expect("two digits"))
        .collect())
}

/// A MAC address, an IP address, or a number (decimal or 0x), as `width` bytes.
pub(crate) fn parse_literal(text: &str, width: usize) -> Option<Vec<u8>> {
    match width {
        1 => {
            if let Some(number) = protocol_number(text) {
                return Some(vec![number]);
            }
        }
        4 if text.contains('.') => return Some(text.parse::<Ipv4Addr>().ok()?.octets().to_vec()),
        16 => return Some(text.parse::<Ipv6Addr>().ok()?.octets().to_vec()),
        6 => {
            let parts: Vec<u8> = text
                .split(':')
                .map(|part| u8::from_str_radix(part, 16).ok())
                .collect::<Option<_>>()?;
            return (parts.len() == 6).then_some(parts);
        }
        _ => {}
    }
    let number: u64 = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok()?,
        None => text.parse().ok()?,
    };
    let bytes = number.to_be_bytes();
    let fits = bytes[..8 - width].iter().all(|byte| *byte == 0);
    fits.then(|| bytes[8 - width..].to_vec())
}

fn protocol_number(text: &str) -> Option<u8> {
    match text {
        "icmp" => Some(1),
        "tcp" => Some(6),
        "udp" => Some(17),
        "icmp6" => Some(58),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{PacketBuilder, TcpHeader};

    fn bytes(text: &str) -> Vec<u8> {
        let frame = FrameText::parse(text).unwrap();
        encode(&frame, &Names::default(), &Bindings::new())
            .unwrap()
            .bytes
    }

    const MACS: &str = "eth src=02:00:00:00:00:01 dst=02:00:00:00:00:02";

    #[test]
    fn udp_over_ipv4_agrees_with_etherparse() {
        let mut expected = Vec::new();
        PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
            .ipv4([198, 51, 100, 7], [192, 0, 2, 10], 64)
            .udp(4000, 53)
            .write(&mut expected, b"hello")
            .unwrap();
        let text = format!(
            "{MACS} / ip4 src=198.51.100.7 dst=192.0.2.10 flags=df / udp sport=4000 dport=53 / data \"hello\""
        );
        assert_eq!(bytes(&text), expected);
    }

    #[test]
    fn tcp_over_tagged_ipv6_agrees_with_etherparse() {
        let source: Ipv6Addr = "2001:db8::1".parse().unwrap();
        let destination: Ipv6Addr = "2001:db8::2".parse().unwrap();
        let mut header = TcpHeader::new(1024, 443, 7, 512);
        header.syn = true;
        let mut expected = Vec::new();
        PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
            .single_vlan(100.try_into().unwrap())
            .ipv6(source.octets(), destination.octets(), 9)
            .tcp_header(header)
            .write(&mut expected, b"abc")
            .unwrap();
        let text = format!(
            "{MACS} / vlan id=100 / ip6 src=2001:db8::1 dst=2001:db8::2 hop=9 / tcp sport=1024 dport=443 seq=7 win=512 flags=S / data 3"
        );
        assert_eq!(bytes(&text), expected);
    }

    #[test]
    fn echo_agrees_with_etherparse() {
        let mut expected = Vec::new();
        PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
            .ipv6(
                "fd00::1".parse::<Ipv6Addr>().unwrap().octets(),
                "fd00::2".parse::<Ipv6Addr>().unwrap().octets(),
                64,
            )
            .icmpv6_echo_request(5, 6)
            .write(&mut expected, b"ping")
            .unwrap();
        let text = format!(
            "{MACS} / ip6 src=fd00::1 dst=fd00::2 / icmp6 type=128 id=5 seq=6 / data \"ping\""
        );
        assert_eq!(bytes(&text), expected);
    }

    #[test]
    fn slots_say_where_variables_are() {
        let frame = FrameText::parse(&format!(
            "{MACS} / ip4 src=1.1.1.1 dst=2.2.2.2 ttl=* / udp sport=$p dport=9 / data \"xy\""
        ))
        .unwrap();
        let encoded = encode(&frame, &Names::default(), &Bindings::new()).unwrap();
        let places: Vec<_> = encoded
            .slots
            .iter()
            .map(|s| (s.offset, s.width, s.name.clone()))
            .collect();
        assert_eq!(places, [(22, 1, "*0".to_owned()), (34, 2, "p".to_owned())]);
    }

    #[test]
    fn wrong_on_purpose() {
        let good = bytes(&format!(
            "{MACS} / ip4 src=1.1.1.1 dst=2.2.2.2 / tcp / data 4"
        ));
        let bad = bytes(&format!(
            "{MACS} / ip4 src=1.1.1.1 dst=2.2.2.2 sum=bad / tcp / data 4"
        ));
        assert_ne!(good[24..26], bad[24..26]);
        assert_eq!(good[26..], bad[26..]);
        assert_eq!(bytes(&format!("{MACS} / ip4 / cut 17")).len(), 17);
        assert_eq!(bytes(&format!("{MACS} / ip4 ihl=3"))[14], 0x43);
    }

    #[test]
    fn unknown_words_are_refused() {
        let frame = FrameText::parse("eth colour=1").unwrap();
        let error = encode(&frame, &Names::default(), &Bindings::new()).unwrap_err();
        assert_eq!(error, "layer `eth` has no field `colour`");
    }
}
