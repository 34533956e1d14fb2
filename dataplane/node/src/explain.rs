//! Answers `explain`: what the policy's definition says of a packet under a generation, and the pipeline run once beside it.

use std::net::{IpAddr, SocketAddr};

use march_pipeline::Station;
use march_proto::v1::explain_query::Packet as Asked;
use march_proto::v1::{ExplainQuery, ExplainStep, Explanation, PacketTuple};
use march_tables::{Generation, PortId, Route};
use march_wire::build::PacketBuilder;
use march_wire::{Packet, Verdict, parse};

use crate::compile::{FastPort, port_id};

/// MAC address of the invented sender: locally administered.
const STRANGER: [u8; 6] = [2, 0, 0, 0, 0, 1];
const TCP_SYN: u8 = 2;

/// What would happen to the packet of `query`; an error says in words why there is no answer.
pub fn explain(
    query: &ExplainQuery,
    generation: &Generation,
    ports: &[FastPort],
    tier: &str,
) -> Result<Explanation, String> {
    let packet = query.packet.as_ref().ok_or("the query names no packet")?;
    let ingress = if query.port.is_empty() {
        likely_ingress(packet, generation, ports).unwrap_or(0)
    } else {
        port_id(ports, &query.port)
            .ok_or_else(|| format!("this node drives no port `{}`", query.port))?
    };
    let port = ports
        .get(usize::from(ingress))
        .ok_or("this node drives no port, so no packet arrives on one")?;
    let frame = match packet {
        Asked::Frame(frame) => frame.clone(),
        Asked::Tuple(tuple) => frame_of(tuple, port.mac)?,
    };
    let told =
        march_pipeline::explain(generation, ingress, &frame).map_err(|error| error.to_string())?;
    let (verdict, reason, egress) = words(told.verdict);
    let names = told.names;
    Ok(Explanation {
        verdict: verdict.to_owned(),
        reason,
        ingress: port.name.clone(),
        egress: egress
            .and_then(|id| ports.get(usize::from(id)))
            .map(|port| port.name.clone())
            .unwrap_or_default(),
        service: names.service,
        rule: names.rule,
        pool: names.pool,
        backend: names.backend,
        rewritten: if matches!(told.verdict, Verdict::Forward { .. }) {
            tuple_text(&told.frame)
        } else {
            String::new()
        },
        tier: tier.to_owned(),
        revision: generation.revision,
        generation: generation.id,
        steps: told.stations.into_iter().map(step).collect(),
    })
}

/// The port by which a packet most likely comes: the one that a frame is addressed to, else the one towards its source.
fn likely_ingress(packet: &Asked, generation: &Generation, ports: &[FastPort]) -> Option<PortId> {
    let source = match packet {
        Asked::Frame(frame) => {
            let to = frame.first_chunk::<6>()?;
            let addressed = ports.iter().position(|port| port.mac == *to);
            if let Some(port) = addressed {
                return PortId::try_from(port).ok();
            }
            ends(frame)?.0.ip()
        }
        Asked::Tuple(tuple) => tuple.source.parse().ok()?,
    };
    let route = match source {
        IpAddr::V4(source) => generation.routes.lookup(source),
        IpAddr::V6(source) => generation.routes.lookup(source),
    };
    match route {
        Route::Connected(port) => Some(port),
        Route::Via(id) => generation.neighbours.key(id).map(|(port, _)| port),
        Route::Blackhole | Route::Missing => None,
    }
}

fn step(station: Station) -> ExplainStep {
    ExplainStep {
        stage: station.stage.to_owned(),
        detail: station.said,
    }
}

/// Verdict and drop reason in words, and the egress port if there is one.
pub(crate) fn words(verdict: Verdict) -> (&'static str, String, Option<PortId>) {
    match verdict {
        Verdict::Forward { port } => ("forward", String::new(), Some(port)),
        Verdict::Answer { port } => ("answer", String::new(), Some(port)),
        Verdict::Punt => ("punt", String::new(), None),
        Verdict::Hold => ("hold", String::new(), None),
        Verdict::Drop(reason) => ("drop", reason.as_str().to_owned(), None),
    }
}

fn frame_of(tuple: &PacketTuple, mac: [u8; 6]) -> Result<Vec<u8>, String> {
    let address = |text: &str| {
        text.parse::<IpAddr>()
            .map_err(|_| format!("`{text}` is not an IP address"))
    };
    let port = |number: u32| u16::try_from(number).map_err(|_| format!("{number} is not a port"));
    let (source, destination) = (address(&tuple.source)?, address(&tuple.destination)?);
    if source.is_ipv4() != destination.is_ipv4() {
        return Err(format!(
            "{source} and {destination} are not of one address family"
        ));
    }
    let (from, to) = (port(tuple.source_port)?, port(tuple.destination_port)?);
    let packet = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => PacketBuilder::new(source, destination),
        (IpAddr::V6(source), IpAddr::V6(destination)) => PacketBuilder::new(source, destination),
        _ => return Err("the addresses are not of one family".to_owned()),
    };
    let packet = packet.macs(STRANGER, mac);
    let packet = match tuple.protocol.as_str() {
        "tcp" => packet.tcp(from, to, TCP_SYN),
        "udp" => packet.udp(from, to),
        "icmp" => packet.icmp(8, 0, 1 << 16),
        "icmpv6" => packet.icmp(128, 0, 1 << 16),
        other => {
            return Err(format!(
                "`{other}` is not a protocol; write tcp, udp, icmp or icmpv6"
            ));
        }
    };
    Ok(packet.build())
}

/// Source and destination of a frame.
fn ends(frame: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let Ok(Packet::Ip(packet)) = parse(frame) else {
        return None;
    };
    let (source, destination) = packet.ip_addresses(frame)?;
    let (from, to) = packet.ports();
    Some((
        SocketAddr::new(source, from),
        SocketAddr::new(destination, to),
    ))
}

fn tuple_text(frame: &[u8]) -> String {
    ends(frame)
        .map(|(source, destination)| format!("{source} -> {destination}"))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use march_proto::v1::PacketTuple;

    use super::*;
    use crate::compile::PeerOffload;

    fn port() -> FastPort {
        FastPort {
            name: "wan0".into(),
            interface: "eth1".into(),
            carrier: 2,
            mac: [2, 0, 0, 0, 0, 2],
            mtu: 1500,
            nat_addresses: Vec::new(),
            nat_ports: (20_000, 32_767),
            peer_offload: PeerOffload::Possible,
        }
    }

    fn query(protocol: &str, source: &str) -> ExplainQuery {
        let tuple = PacketTuple {
            source: source.into(),
            destination: "192.0.2.10".into(),
            protocol: protocol.into(),
            source_port: 40_000,
            destination_port: 80,
        };
        ExplainQuery {
            port: String::new(),
            packet: Some(Asked::Tuple(tuple)),
            candidate: None,
        }
    }

    #[test]
    fn a_packet_for_nobody_is_dropped_with_its_reason() {
        let table = march_tables::PortTable {
            mac: port().mac,
            mtu: 1500,
            ..march_tables::PortTable::default()
        };
        let config = march_tables::Config {
            ports: [table].into(),
            ..march_tables::Config::default()
        };
        let generation = march_tables::build(&config, None).expect("builds");
        let told = explain(
            &query("tcp", "198.51.100.1"),
            &generation,
            &[port()],
            "af_xdp",
        )
        .expect("an answer");
        assert_eq!(
            (told.verdict.as_str(), told.reason.as_str()),
            ("drop", "no_service")
        );
        assert_eq!(told.ingress, "wan0");
        assert!(!told.steps.is_empty());
    }

    #[test]
    fn without_a_port_the_packet_comes_from_where_its_source_is() {
        let lan = FastPort {
            name: "lan0".into(),
            mac: [2, 0, 0, 0, 0, 9],
            ..port()
        };
        let ports = [lan, port()];
        let table = |port: &FastPort| march_tables::PortTable {
            mac: port.mac,
            mtu: 1500,
            ..march_tables::PortTable::default()
        };
        let route = march_tables::MirroredRoute {
            prefix: "198.51.100.0/24".parse().expect("a prefix"),
            target: march_tables::RouteTarget::Connected { port: 1 },
        };
        let config = march_tables::Config {
            ports: ports.iter().map(table).collect(),
            routes: [route].into(),
            ..march_tables::Config::default()
        };
        let generation = march_tables::build(&config, None).expect("builds");
        let ingress = |query: &ExplainQuery| {
            let told = explain(query, &generation, &ports, "af_xdp");
            told.expect("an answer").ingress
        };
        assert_eq!(ingress(&query("tcp", "198.51.100.1")), "wan0");
        assert_eq!(ingress(&query("tcp", "203.0.113.1")), "lan0", "the first");
        let mut frame = query("tcp", "203.0.113.1");
        let to_wan = PacketBuilder::between("203.0.113.1", "192.0.2.10")
            .macs(STRANGER, port().mac)
            .tcp(1, 80, TCP_SYN);
        frame.packet = Some(Asked::Frame(to_wan.build()));
        assert_eq!(ingress(&frame), "wan0", "to whose MAC address it was sent");
    }

    #[test]
    fn a_bad_question_is_answered_in_words() {
        let generation = Generation::empty();
        let error =
            |query: &ExplainQuery| explain(query, &generation, &[port()], "af_xdp").unwrap_err();
        assert!(error(&query("sctp", "198.51.100.1")).contains("sctp"));
        assert!(error(&query("tcp", "2001:db8::1")).contains("address family"));
        assert!(error(&query("tcp", "nonsense")).contains("nonsense"));
        let mut other = query("tcp", "198.51.100.1");
        other.port = "lan7".into();
        assert!(error(&other).contains("lan7"));
        assert!(explain(&query("tcp", "198.51.100.1"), &generation, &[], "socket").is_err());
    }
}
