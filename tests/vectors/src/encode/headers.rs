//! One function for each kind of header: its fields, from the text or filled in from what it stands around.

use super::{Announce, Around, Piece, Value, ones_sum, place_sum, transport_sum};

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_IPV6: u16 = 0x86dd;

pub(super) fn eth(piece: &mut Piece<'_, '_>, inner: Announce) -> Result<Announce, String> {
    piece.field("dst", 6, 0)?;
    piece.field("src", 6, 0)?;
    piece.field("type", 2, u128::from(inner.ethertype.unwrap_or(0xffff)))?;
    Ok(Announce::default())
}

pub(super) fn vlan(piece: &mut Piece<'_, '_>, inner: Announce) -> Result<Announce, String> {
    let control = (piece.number("pcp", 0)? << 13) | piece.number("id", 0)?;
    piece
        .bytes
        .extend_from_slice(&u16::try_from(control).unwrap_or(u16::MAX).to_be_bytes());
    piece.field("type", 2, u128::from(inner.ethertype.unwrap_or(0xffff)))?;
    Ok(Announce {
        ethertype: Some(ETHERTYPE_VLAN),
        protocol: None,
    })
}

pub(super) fn ip4(
    piece: &mut Piece<'_, '_>,
    inner: Announce,
    payload_len: usize,
) -> Result<Announce, String> {
    let options = piece.hex("opts")?;
    let header_len = 20 + options.len().next_multiple_of(4);
    let words = piece.number("ihl", header_len as u64 / 4)?;
    let version = piece.number("ver", 4)?;
    piece
        .bytes
        .push(u8::try_from((version << 4) | (words & 15)).unwrap_or(u8::MAX));
    piece.field("tos", 1, 0)?;
    piece.field("len", 2, (header_len + payload_len) as u128)?;
    piece.field("id", 2, 0)?;
    if matches!(
        piece.layer.fields.get("flags"),
        Some(Value::Variable(_) | Value::Any)
    ) {
        piece.field("flags", 2, 0)?;
    } else {
        let word = fragment_word(piece)?;
        piece.bytes.extend_from_slice(&word.to_be_bytes());
    }
    piece.field("ttl", 1, 64)?;
    piece.field("proto", 1, u128::from(inner.protocol.unwrap_or(253)))?;
    let sum_at = piece.bytes.len();
    piece.bytes.extend_from_slice(&[0, 0]);
    piece.field("src", 4, 0)?;
    piece.field("dst", 4, 0)?;
    piece.bytes.extend_from_slice(&options);
    piece.bytes.resize(header_len, 0);
    let sum = !ones_sum(&piece.bytes, 0);
    place_sum(piece, sum_at, sum)?;
    Ok(Announce {
        ethertype: Some(ETHERTYPE_IPV4),
        protocol: Some(4),
    })
}

/// Flags and fragment offset; `frag` is in bytes.
fn fragment_word(piece: &mut Piece<'_, '_>) -> Result<u16, String> {
    let offset = u16::try_from(piece.number("frag", 0)? / 8).unwrap_or(0x1fff);
    let flags = match piece.word("flags").as_deref() {
        Some("df") => 0x4000,
        Some("mf") => 0x2000,
        Some("evil") => 0x8000,
        Some(other) => return Err(format!("`flags={other}`: df, mf or evil")),
        None => 0,
    };
    Ok(flags | offset)
}

pub(super) fn ip6(
    piece: &mut Piece<'_, '_>,
    inner: Announce,
    payload_len: usize,
) -> Result<Announce, String> {
    let word = (piece.number("ver", 6)? << 28)
        | (piece.number("tc", 0)? << 20)
        | piece.number("flow", 0)?;
    piece
        .bytes
        .extend_from_slice(&u32::try_from(word).unwrap_or(u32::MAX).to_be_bytes());
    piece.field("len", 2, payload_len as u128)?;
    piece.field("next", 1, u128::from(inner.protocol.unwrap_or(59)))?;
    piece.field("hop", 1, 64)?;
    piece.field("src", 16, 0)?;
    piece.field("dst", 16, 0)?;
    Ok(Announce {
        ethertype: Some(ETHERTYPE_IPV6),
        protocol: Some(41),
    })
}

pub(super) fn extension(piece: &mut Piece<'_, '_>, inner: Announce) -> Result<Announce, String> {
    let protocol = match piece.layer.name.as_str() {
        "hopopts" => 0,
        "routing" => 43,
        "fragment" => 44,
        _ => 60,
    };
    piece.field("next", 1, u128::from(inner.protocol.unwrap_or(59)))?;
    match protocol {
        44 => {
            piece.bytes.push(0);
            let word = (piece.number("offset", 0)? & !7) | piece.number("more", 0)?;
            piece
                .bytes
                .extend_from_slice(&u16::try_from(word).unwrap_or(u16::MAX).to_be_bytes());
            piece.field("id", 4, 1)?;
        }
        43 => {
            piece.field("len", 1, 2)?;
            piece.field("type", 1, 0)?;
            piece.field("left", 1, 1)?;
            piece.bytes.extend_from_slice(&[0; 4]);
            piece.field("via", 16, 0)?;
        }
        _ => {
            // PadN fills the eight bytes unless other options are written.
            let mut options = piece.hex("opts")?;
            if options.is_empty() {
                options = vec![1, 4, 0, 0, 0, 0];
            }
            options.resize((options.len() + 2).next_multiple_of(8) - 2, 0);
            piece.field("len", 1, (options.len() as u128 + 2) / 8 - 1)?;
            piece.bytes.extend_from_slice(&options);
        }
    }
    Ok(Announce {
        ethertype: None,
        protocol: Some(protocol),
    })
}

fn tcp_flags(text: &str) -> Result<u8, String> {
    text.chars().try_fold(0, |bits, letter| {
        let bit = match letter {
            'F' => 0x01,
            'S' => 0x02,
            'R' => 0x04,
            'P' => 0x08,
            'A' => 0x10,
            'U' => 0x20,
            'E' => 0x40,
            'C' => 0x80,
            '-' => 0,
            _ => return Err(format!("`flags={text}`: letters of FSRPAUEC, or -")),
        };
        Ok(bits | bit)
    })
}

pub(super) fn tcp(
    piece: &mut Piece<'_, '_>,
    payload: &[u8],
    around: Around,
) -> Result<Announce, String> {
    let options = piece.hex("opts")?;
    let header_len = 20 + options.len().next_multiple_of(4);
    piece.field("sport", 2, 0)?;
    piece.field("dport", 2, 0)?;
    piece.field("seq", 4, 1000)?;
    piece.field("ack", 4, 0)?;
    let words = piece.number("off", header_len as u64 / 4)?;
    piece
        .bytes
        .push(u8::try_from((words & 15) << 4).unwrap_or(u8::MAX));
    let flags = tcp_flags(piece.word("flags").as_deref().unwrap_or("A"))?;
    piece.bytes.push(flags);
    piece.field("win", 2, 65535)?;
    let sum_at = piece.bytes.len();
    piece.bytes.extend_from_slice(&[0, 0]);
    piece.field("urg", 2, 0)?;
    piece.bytes.extend_from_slice(&options);
    piece.bytes.resize(header_len, 0);
    transport_sum(piece, sum_at, payload, around, 6)?;
    Ok(Announce {
        ethertype: None,
        protocol: Some(6),
    })
}

/// The first eight bytes of a TCP header: what an ICMP error must quote, at least.
pub(super) fn tcp8(piece: &mut Piece<'_, '_>) -> Result<Announce, String> {
    piece.field("sport", 2, 0)?;
    piece.field("dport", 2, 0)?;
    piece.field("seq", 4, 1000)?;
    Ok(Announce {
        ethertype: None,
        protocol: Some(6),
    })
}

pub(super) fn udp(
    piece: &mut Piece<'_, '_>,
    payload: &[u8],
    around: Around,
) -> Result<Announce, String> {
    piece.field("sport", 2, 0)?;
    piece.field("dport", 2, 0)?;
    piece.field("len", 2, (8 + payload.len()) as u128)?;
    piece.bytes.extend_from_slice(&[0, 0]);
    transport_sum(piece, 6, payload, around, 17)?;
    if piece.bytes[6..8] == [0, 0] && !piece.layer.fields.contains_key("sum") {
        piece.bytes[6..8].copy_from_slice(&[0xff, 0xff]);
    }
    Ok(Announce {
        ethertype: None,
        protocol: Some(17),
    })
}

pub(super) fn icmp(piece: &mut Piece<'_, '_>, payload: &[u8]) -> Result<Announce, String> {
    icmp_header(piece)?;
    let sum = !ones_sum(&[&piece.bytes, payload].concat(), 0);
    place_sum(piece, 2, sum)?;
    Ok(Announce {
        ethertype: None,
        protocol: Some(1),
    })
}

pub(super) fn icmp6(
    piece: &mut Piece<'_, '_>,
    payload: &[u8],
    around: Around,
) -> Result<Announce, String> {
    icmp_header(piece)?;
    for key in ["target", "address"] {
        if piece.layer.fields.contains_key(key) {
            piece.field(key, 16, 0)?;
        }
    }
    // Source or target link-layer address option (RFC 4861, 4.6.1).
    for (key, kind) in [("sll", 1), ("tll", 2)] {
        if piece.layer.fields.contains_key(key) {
            piece.bytes.extend_from_slice(&[kind, 1]);
            piece.field(key, 6, 0)?;
        }
    }
    transport_sum(piece, 2, payload, around, 58)?;
    Ok(Announce {
        ethertype: None,
        protocol: Some(58),
    })
}

/// Type, code, checksum (zero for now) and the four bytes that mean something else in every type.
fn icmp_header(piece: &mut Piece<'_, '_>) -> Result<(), String> {
    piece.field("type", 1, 0)?;
    piece.field("code", 1, 0)?;
    piece.bytes.extend_from_slice(&[0, 0]);
    if piece.layer.fields.contains_key("rest") {
        piece.field("rest", 4, 0)?;
    } else if piece.layer.name == "icmp6" && piece.layer.fields.contains_key("mtu") {
        piece.field("mtu", 4, 0)?;
    } else if piece.layer.fields.contains_key("mtu") {
        piece.bytes.extend_from_slice(&[0, 0]);
        piece.field("mtu", 2, 0)?;
    } else {
        piece.field("id", 2, 0)?;
        piece.field("seq", 2, 0)?;
    }
    Ok(())
}

pub(super) fn arp(piece: &mut Piece<'_, '_>) -> Result<Announce, String> {
    piece.field("htype", 2, 1)?;
    piece.field("ptype", 2, u128::from(ETHERTYPE_IPV4))?;
    piece.field("hlen", 1, 6)?;
    piece.field("plen", 1, 4)?;
    piece.field("op", 2, 1)?;
    piece.field("sha", 6, 0)?;
    piece.field("spa", 4, 0)?;
    piece.field("tha", 6, 0)?;
    piece.field("tpa", 4, 0)?;
    Ok(Announce {
        ethertype: Some(ETHERTYPE_ARP),
        protocol: None,
    })
}

/// `data "text"` or `data N` for N bytes of a recognisable pattern.
pub(super) fn data(piece: &mut Piece<'_, '_>) -> Result<Announce, String> {
    let text = piece.layer.text.as_deref().unwrap_or_default();
    piece.bytes = if let Some(quoted) = text.strip_prefix('"').and_then(|t| t.strip_suffix('"')) {
        quoted.as_bytes().to_vec()
    } else {
        let len: usize = text
            .parse()
            .map_err(|_| format!("`data {text}`: a quoted text or a number of bytes"))?;
        (b'a'..=b'z').cycle().take(len).collect()
    };
    Ok(Announce::default())
}
