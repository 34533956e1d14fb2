//! What would happen to a packet.

use std::fmt::Write as _;
use std::path::Path;

use march_proto::v1;
use march_proto::v1::explain_query::Packet;

use crate::args::{ExplainArgs, Files, Output, endpoint};
use crate::client::control;
use crate::exit::{Code, Failure};
use crate::output;
use crate::packets;
use crate::table::Table;

/// The largest frame, in bytes.
const MAX_FRAME_BYTES: usize = 9_216;

pub(crate) async fn explain(
    socket: &Path,
    output: Output,
    args: ExplainArgs,
) -> Result<Code, Failure> {
    let (files, prune) = if args.files.is_empty() {
        (Vec::new(), v1::Prune::Unspecified)
    } else {
        crate::apply::read(&Files {
            files: args.files,
            prune: args.prune,
        })?
    };
    let request = |packet| v1::ExplainRequest {
        node: args.node.clone(),
        query: Some(v1::ExplainQuery {
            port: args.port.clone(),
            packet: Some(packet),
            candidate: None,
        }),
        deadline_ms: args.timeout.map_or(0, |time| {
            u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
        }),
        revision: args.revision,
        files: files.clone(),
        prune: prune.into(),
    };
    let mut client = control(socket).await?;
    if let Some(file) = &args.pcap {
        let mut all = Vec::new();
        for frame in packets::read(file, args.limit)? {
            let frame = Packet::Frame(frame);
            let response = client.explain(request(frame)).await?.into_inner();
            all.push(response.explanation.unwrap_or_default());
        }
        output::value(output, &all, || lines(&all))?;
        return Ok(Code::Ok);
    }
    let packet = match &args.frame {
        Some(hex) => Packet::Frame(frame(hex).map_err(usage)?),
        None => Packet::Tuple(tuple(&args.packet, &args.proto).map_err(usage)?),
    };
    let response = client.explain(request(packet)).await?.into_inner();
    let explanation = response.explanation.unwrap_or_default();
    output::value(output, &explanation, || match output {
        Output::Name => format!("{}\n", verdict(&explanation)),
        _ => text(&explanation),
    })?;
    Ok(Code::Ok)
}

/// One line for each packet: its number, what becomes of it, what decided, and what it was.
fn lines(all: &[v1::Explanation]) -> String {
    let mut table = Table::new(&[
        "PACKET", "VERDICT", "PORTS", "RULE", "SERVICE", "BACKEND", "WHAT",
    ]);
    for (number, explanation) in (1_usize..).zip(all) {
        let what = explanation
            .steps
            .iter()
            .find(|step| step.stage == "parse")
            .map(|step| step.detail.clone());
        table.row(vec![
            number.to_string(),
            verdict(explanation),
            ports(explanation),
            explanation.rule.clone(),
            explanation.service.clone(),
            explanation.backend.clone(),
            what.unwrap_or_default(),
        ]);
    }
    table.to_text()
}

fn ports(explanation: &v1::Explanation) -> String {
    match (explanation.ingress.as_str(), explanation.egress.as_str()) {
        ("", "") => String::new(),
        (ingress, "") => ingress.to_owned(),
        (ingress, egress) => format!("{ingress} -> {egress}"),
    }
}

fn usage(message: String) -> Failure {
    Failure::new(Code::Usage, message)
}

/// `drop(no_service)`, `forward` and so on.
fn verdict(explanation: &v1::Explanation) -> String {
    if explanation.reason.is_empty() {
        explanation.verdict.clone()
    } else {
        format!("{}({})", explanation.verdict, explanation.reason)
    }
}

fn text(explanation: &v1::Explanation) -> String {
    let mut text = format!("verdict    {}\n", verdict(explanation));
    let reason = march_wire::DropReason::ALL
        .iter()
        .find(|reason| reason.as_str() == explanation.reason);
    let meaning = reason.map_or("", |reason| reason.help());
    let ports = ports(explanation);
    for (label, value) in [
        ("meaning", meaning),
        ("ports", &ports),
        ("rule", &explanation.rule),
        ("service", &explanation.service),
        ("pool", &explanation.pool),
        ("backend", &explanation.backend),
        ("rewritten", &explanation.rewritten),
        ("tier", &explanation.tier),
    ] {
        if !value.is_empty() {
            let _ = writeln!(text, "{label:<10} {value}");
        }
    }
    let _ = writeln!(
        text,
        "running    revision {}, generation {}",
        explanation.revision, explanation.generation
    );
    for (index, step) in explanation.steps.iter().enumerate() {
        let _ = writeln!(text, "{:>3}. {:<9} {}", index + 1, step.stage, step.detail);
    }
    text
}

fn tuple(words: &[String], protocol: &str) -> Result<v1::PacketTuple, String> {
    let joined = words.join(" ");
    let ends: Vec<&str> = joined
        .split_whitespace()
        .filter(|word| !matches!(*word, "->" | "to"))
        .collect();
    let &[source, destination] = ends.as_slice() else {
        return Err(
            "give a source and a destination, such as 203.0.113.9:40000 192.0.2.10:80".to_owned(),
        );
    };
    let ((source, source_port), (destination, destination_port)) =
        (endpoint(source)?, endpoint(destination)?);
    if source.is_ipv4() != destination.is_ipv4() {
        return Err("source and destination are of different families".to_owned());
    }
    let has_ports = matches!(protocol, "tcp" | "udp");
    if has_ports && (source_port == 0 || destination_port == 0) {
        let example = std::net::SocketAddr::new(source, 40_000);
        return Err(format!(
            "{protocol} needs a port on both sides, such as {example}"
        ));
    }
    if !has_ports && (source_port != 0 || destination_port != 0) {
        return Err(format!("{protocol} has no ports"));
    }
    if source.is_ipv4() && protocol == "icmpv6" || source.is_ipv6() && protocol == "icmp" {
        return Err(format!("{protocol} is not for these addresses"));
    }
    Ok(v1::PacketTuple {
        source: source.to_string(),
        destination: destination.to_string(),
        protocol: protocol.to_owned(),
        source_port: source_port.into(),
        destination_port: destination_port.into(),
    })
}

/// Bytes from hexadecimal, as tools print it: spaces, colons and line ends between the digits are left out.
fn frame(text: &str) -> Result<Vec<u8>, String> {
    let is_separator = |c: char| c.is_whitespace() || c == ':' || c == '-';
    let digits: Option<Vec<u8>> = text
        .chars()
        .filter(|c| !is_separator(*c))
        .map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect();
    let digits = digits.ok_or("a frame is given in hexadecimal digits")?;
    if digits.len() % 2 != 0 {
        return Err("the frame has an odd number of hexadecimal digits".to_owned());
    }
    let bytes: Vec<u8> = digits
        .chunks_exact(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect();
    if bytes.len() < 14 || bytes.len() > MAX_FRAME_BYTES {
        return Err(format!(
            "a frame has 14 to {MAX_FRAME_BYTES} bytes, this one {}",
            bytes.len()
        ));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &[&str], protocol: &str) -> Result<v1::PacketTuple, String> {
        tuple(
            &words.iter().map(ToString::to_string).collect::<Vec<_>>(),
            protocol,
        )
    }

    #[test]
    fn tuples_are_read_with_or_without_an_arrow() {
        let plain = read(&["203.0.113.9:40000", "192.0.2.10:80"], "tcp").unwrap();
        assert_eq!(
            (plain.source.as_str(), plain.source_port),
            ("203.0.113.9", 40_000)
        );
        assert_eq!(
            (plain.destination.as_str(), plain.destination_port),
            ("192.0.2.10", 80)
        );
        assert_eq!(
            read(&["203.0.113.9:40000 -> 192.0.2.10:80"], "tcp").unwrap(),
            plain
        );
        assert_eq!(
            read(&["203.0.113.9:40000", "to", "192.0.2.10:80"], "tcp").unwrap(),
            plain
        );
        let six = read(&["[2001:db8::9]:5353", "[2001:db8::10]:53"], "udp").unwrap();
        assert_eq!(
            (six.destination.as_str(), six.destination_port),
            ("2001:db8::10", 53)
        );
        assert_eq!(
            read(&["203.0.113.9", "192.0.2.10"], "icmp")
                .unwrap()
                .source_port,
            0
        );
        for (words, protocol) in [
            (vec!["203.0.113.9:1"], "tcp"),
            (vec!["203.0.113.9", "192.0.2.10:80"], "tcp"),
            (vec!["203.0.113.9:1", "[2001:db8::1]:1"], "tcp"),
            (vec!["203.0.113.9:1", "192.0.2.10:80"], "icmp"),
            (vec!["203.0.113.9", "192.0.2.10"], "icmpv6"),
        ] {
            read(&words, protocol).unwrap_err();
        }
    }

    #[test]
    fn frames_are_read_as_tools_print_them() {
        assert_eq!(
            frame("00:01 0203-0405 060708090a0b0c0d").unwrap(),
            (0..14).collect::<Vec<u8>>()
        );
        for text in ["00", "0", "zz", &"00".repeat(9_217)] {
            frame(text).unwrap_err();
        }
    }
}
