//! Whether a frame is the expected one, and if not, where it differs in words that a person can act on.

use std::fmt::Write as _;

use crate::encode::{Bindings, encode};
use crate::layer::FrameText;
use crate::vector::Fixture;

/// Checks `actual` against `expected`. Variables met for the first time take their value from `actual` (within their
/// constraint) and stay in `bindings`; then the expected frame is encoded again, checksums and all, and compared byte
/// by byte. The error is a readable difference.
pub fn matches(
    expected: &FrameText,
    actual: &[u8],
    fixture: &Fixture,
    bindings: &mut Bindings,
) -> Result<(), String> {
    bindings.retain(|name, _| !name.starts_with('*'));
    let template = encode(expected, &fixture.names, bindings)?;
    for slot in &template.slots {
        if bindings.contains_key(&slot.name) {
            continue;
        }
        let Some(bytes) = actual.get(slot.offset..slot.offset + slot.width) else {
            break;
        };
        if let Some(constraint) = fixture.variables.get(&slot.name)
            && !constraint.allows(bytes, &fixture.names)
        {
            return Err(format!(
                "${} at byte {} is {}, outside {constraint:?}",
                slot.name,
                slot.offset,
                hex(bytes)
            ));
        }
        if let Some(other) = twin(fixture, bindings, &slot.name, bytes) {
            return Err(format!(
                "${} at byte {} is {}, which is ${other}'s",
                slot.name,
                slot.offset,
                hex(bytes)
            ));
        }
        bindings.insert(slot.name.clone(), bytes.to_vec());
    }
    let wanted = encode(expected, &fixture.names, bindings)?.bytes;
    if wanted == actual {
        return Ok(());
    }
    Err(difference(&wanted, actual))
}

/// A variable that must be distinct from `name` and already has this value.
fn twin<'a>(
    fixture: &'a Fixture,
    bindings: &Bindings,
    name: &str,
    bytes: &[u8],
) -> Option<&'a String> {
    fixture
        .distinct
        .iter()
        .filter(|group| group.iter().any(|member| member == name))
        .flatten()
        .find(|other| *other != name && bindings.get(*other).is_some_and(|value| value == bytes))
}

/// Both frames side by side where they differ, sixteen bytes a line, fields named as far as the headers are usual.
pub fn difference(expected: &[u8], actual: &[u8]) -> String {
    let mut text = String::new();
    if expected.len() != actual.len() {
        let _ = writeln!(
            text,
            "length: expected {}, actual {}",
            expected.len(),
            actual.len()
        );
    }
    let names = field_names(expected);
    let mut last = "";
    for offset in 0..expected.len().min(actual.len()) {
        if expected[offset] == actual[offset] {
            continue;
        }
        let field = names
            .iter()
            .rev()
            .find(|(start, _)| *start <= offset)
            .map_or("", |(_, name)| *name);
        if field == last {
            continue;
        }
        last = field;
        let _ = writeln!(
            text,
            "first difference of {field}: byte {offset}, expected {:02x}, actual {:02x}",
            expected[offset], actual[offset]
        );
    }
    for (row, start) in (0..expected.len().max(actual.len()))
        .step_by(16)
        .enumerate()
    {
        let slice =
            |bytes: &[u8]| hex(&bytes[start.min(bytes.len())..(start + 16).min(bytes.len())]);
        let (left, right) = (slice(expected), slice(actual));
        let mark = if left == right { ' ' } else { '!' };
        let _ = writeln!(text, "{mark} {:04x}  {left:<47}  {right}", row * 16);
    }
    text
}

/// Where the usual fields start in this frame, ascending.
fn field_names(frame: &[u8]) -> Vec<(usize, &'static str)> {
    let mut names = vec![
        (0, "Ethernet destination"),
        (6, "Ethernet source"),
        (12, "Ethernet type"),
    ];
    let mut at = 12;
    if frame.get(12..14) == Some(&[0x81, 0x00]) {
        names.push((14, "VLAN tag"));
        at = 16;
    }
    let l3 = at + 2;
    match frame.get(at..l3) {
        Some([0x08, 0x00]) => {
            for (offset, name) in [
                (0, "IPv4 version and header length"),
                (1, "IPv4 TOS"),
                (2, "IPv4 total length"),
                (4, "IPv4 identification"),
                (6, "IPv4 fragment word"),
                (8, "IPv4 TTL"),
                (9, "IPv4 protocol"),
                (10, "IPv4 header checksum"),
                (12, "IPv4 source"),
                (16, "IPv4 destination"),
            ] {
                names.push((l3 + offset, name));
            }
            let header_len = frame.get(l3).map_or(20, |byte| usize::from(byte & 15) * 4);
            let protocol = frame.get(l3 + 9).copied().unwrap_or(0);
            transport_names(&mut names, l3 + header_len, protocol);
        }
        Some([0x86, 0xdd]) => {
            for (offset, name) in [
                (0, "IPv6 version, class, flow"),
                (4, "IPv6 payload length"),
                (6, "IPv6 next header"),
                (7, "IPv6 hop limit"),
                (8, "IPv6 source"),
                (24, "IPv6 destination"),
            ] {
                names.push((l3 + offset, name));
            }
            let protocol = frame.get(l3 + 6).copied().unwrap_or(0);
            transport_names(&mut names, l3 + 40, protocol);
        }
        _ => names.push((l3, "payload")),
    }
    names
}

fn transport_names(names: &mut Vec<(usize, &'static str)>, at: usize, protocol: u8) {
    let fields: &[(usize, &'static str)] = match protocol {
        6 => &[
            (0, "TCP source port"),
            (2, "TCP destination port"),
            (4, "TCP sequence"),
            (8, "TCP acknowledgement"),
            (12, "TCP offset"),
            (13, "TCP flags"),
            (14, "TCP window"),
            (16, "TCP checksum"),
            (18, "TCP urgent pointer"),
            (20, "TCP options or data"),
        ],
        17 => &[
            (0, "UDP source port"),
            (2, "UDP destination port"),
            (4, "UDP length"),
            (6, "UDP checksum"),
            (8, "UDP data"),
        ],
        1 | 58 => &[
            (0, "ICMP type"),
            (1, "ICMP code"),
            (2, "ICMP checksum"),
            (4, "ICMP rest of header"),
            (8, "ICMP body"),
        ],
        _ => &[(0, "IP payload")],
    };
    names.extend(fields.iter().map(|(offset, name)| (at + offset, *name)));
}

/// Bytes as `aa bb cc`.
pub fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::Names;
    use crate::vector::Constraint;
    use std::collections::BTreeMap;

    fn fixture() -> Fixture {
        Fixture {
            name: "t".to_owned(),
            path: std::path::PathBuf::new(),
            statements: Vec::new(),
            names: Names::default(),
            pieces: BTreeMap::new(),
            variables: BTreeMap::from([("p".to_owned(), Constraint::Range(20000, 30000))]),
            distinct: vec![vec!["p".to_owned(), "q".to_owned()]],
            ports: Vec::new(),
        }
    }

    fn frame(text: &str) -> FrameText {
        FrameText::parse(text).unwrap()
    }

    fn literal(port: u16) -> Vec<u8> {
        let text =
            format!("eth / ip4 src=1.1.1.1 dst=2.2.2.2 ttl=9 / udp sport={port} dport=7 / data 5");
        encode(&frame(&text), &Names::default(), &Bindings::new())
            .unwrap()
            .bytes
    }

    const EXPECTED: &str =
        "eth / ip4 src=1.1.1.1 dst=2.2.2.2 ttl=* / udp sport=$p dport=7 / data 5";

    #[test]
    fn a_variable_binds_once() {
        let (fixture, mut bindings) = (fixture(), Bindings::new());
        let expected = frame(EXPECTED);
        matches(&expected, &literal(20001), &fixture, &mut bindings).unwrap();
        matches(&expected, &literal(20001), &fixture, &mut bindings).unwrap();
        let error = matches(&expected, &literal(20002), &fixture, &mut bindings).unwrap_err();
        assert!(error.contains("UDP source port"), "{error}");
    }

    #[test]
    fn a_variable_keeps_to_its_range() {
        let error = matches(
            &frame(EXPECTED),
            &literal(19999),
            &fixture(),
            &mut Bindings::new(),
        )
        .unwrap_err();
        assert!(error.contains("$p at byte 34"), "{error}");
    }

    #[test]
    fn distinct_variables_differ() {
        let mut fixture = fixture();
        fixture
            .variables
            .insert("q".to_owned(), Constraint::Range(20000, 30000));
        let mut bindings = Bindings::from([("q".to_owned(), 20001_u16.to_be_bytes().to_vec())]);
        let error =
            matches(&frame(EXPECTED), &literal(20001), &fixture, &mut bindings).unwrap_err();
        assert!(error.contains("which is $q's"), "{error}");
        matches(&frame(EXPECTED), &literal(20002), &fixture, &mut bindings).unwrap();
    }

    #[test]
    fn checksums_are_verified_for_the_bound_value() {
        let mut actual = literal(20001);
        actual[41] ^= 1;
        let error =
            matches(&frame(EXPECTED), &actual, &fixture(), &mut Bindings::new()).unwrap_err();
        assert!(error.contains("UDP checksum"), "{error}");
    }
}
