//! The pages over loopback, and the format by an independent reading of it.

use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use core::time::Duration;
use std::collections::BTreeMap;

use march_proto::v1::{DropTelemetry, FlowTelemetry, LcoreTelemetry, NamedCount, SourceTelemetry};
use march_socket::{BackendReading, ServiceReading};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::health::{Check, Probe, ProbeTarget};

const LOOPBACK: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

fn snapshot() -> Snapshot {
    let mut drops = [0; DropReason::COUNT];
    drops[DropReason::TableFull as usize] = 9;
    Snapshot {
        telemetry: Telemetry {
            ports: vec![port("lan0"), port("wan\"0\\")],
            services: vec![ServiceTelemetry {
                name: "web".into(),
                packets: 21,
                tier: "af_xdp".into(),
                active_flows: 4,
                half_open: 3,
                ..ServiceTelemetry::default()
            }],
            backends: vec![BackendTelemetry {
                pool: "web".into(),
                address: "2001:db8::1".into(),
                port: 8080,
                bytes: 31,
                admin: "drain".into(),
                ..BackendTelemetry::default()
            }],
            drops: vec![DropTelemetry {
                port: "lan0".into(),
                reason: "rule_drop".into(),
                packets: 5,
            }],
            lcores: vec![LcoreTelemetry {
                lcore: 1,
                busy_cycles: 70,
                idle_cycles: 30,
                ..LcoreTelemetry::default()
            }],
            flows: Some(FlowTelemetry {
                live: 6,
                capacity: 100,
                created: 8,
                expired: 2,
                evicted: 3,
                embryonic: 4,
                embryonic_capacity: 50,
                embryonic_evicted: 5,
                flood_mode: 1,
            }),
            sources: Some(SourceTelemetry {
                tracked: 9,
                capacity: 64,
                evicted: 1,
            }),
            generation: 12,
            revision: 7,
            ..Telemetry::default()
        },
        targets: vec![target_state()],
        socket: Some(TierReading {
            generation: 12,
            listeners: 3,
            connections: 2,
            udp_sessions: 1,
            accept_errors: 0,
            drops,
            services: vec![ServiceReading {
                name: "web".into(),
                accepted: 44,
                active: 2,
                bytes_in: 45,
                bytes_out: 46,
                drops,
            }],
            backends: vec![BackendReading {
                slot: 2,
                address: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)),
                port: 80,
                accepted: 0,
                active: 0,
                bytes_in: 0,
                bytes_out: 0,
                connect_errors: 17,
            }],
        }),
        is_connected: true,
        troubles: Vec::new(),
    }
}

fn port(name: &str) -> PortTelemetry {
    PortTelemetry {
        name: name.into(),
        interface: "eth1".into(),
        tier: "af_xdp".into(),
        state: "up".into(),
        rx_packets: 100,
        held: 3,
        originated: vec![NamedCount {
            name: "arp".into(),
            count: 11,
        }],
        ..PortTelemetry::default()
    }
}

fn target_state() -> TargetState {
    TargetState {
        target: ProbeTarget {
            pool: "web".into(),
            slot: 0,
            address: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)),
            port: 80,
            check: Check {
                probe: Probe::Tcp,
                interval: Duration::from_secs(1),
                timeout: Duration::from_secs(1),
                rise: 1,
                fall: 1,
            },
        },
        health: Health::Unhealthy,
        reason: "refused".into(),
        rtt: Some(Duration::from_micros(1500)),
        successes: 1,
        failures: 2,
        changes: 1,
    }
}

/// Reads the text by the rules of the format and returns every sample by its name with labels.
fn read(text: &str) -> BTreeMap<String, f64> {
    let mut samples = BTreeMap::new();
    let mut family = String::new();
    let mut kind = String::new();
    let mut seen = Vec::new();
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, words) = help.split_once(' ').expect("HELP has text");
            assert!(words.ends_with('.'), "{line}");
            assert!(
                !seen.contains(&name.to_owned()),
                "{name} stands in two blocks"
            );
            seen.push(name.to_owned());
            name.clone_into(&mut family);
        } else if let Some(kinds) = line.strip_prefix("# TYPE ") {
            let (name, word) = kinds.split_once(' ').expect("TYPE has a type");
            assert_eq!(name, family, "TYPE follows HELP");
            word.clone_into(&mut kind);
        } else {
            let (key, value) = line.rsplit_once(' ').expect("name and value");
            let name = key.split('{').next().expect("a name");
            assert_eq!(name, family, "sample outside its block");
            assert!(name.starts_with("marchproxy_"), "{name}");
            assert!(
                name.bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte == b'_'),
                "{name}"
            );
            assert_eq!(name.ends_with("_total"), kind == "counter", "{name}");
            let value = value.parse().expect("a number");
            assert_eq!(samples.insert(key.to_owned(), value), None, "{key} twice");
        }
    }
    samples
}

async fn request(server: &MetricsServer, request: &[u8]) -> (String, String) {
    let mut stream = TcpStream::connect(server.address()).await.expect("listens");
    stream.write_all(request).await.expect("sent");
    stream.shutdown().await.expect("FIN");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answered");
    let (head, body) = answer.split_once("\r\n\r\n").expect("head and body");
    assert!(
        head.contains(&format!("Content-Length: {}", body.len())),
        "{head}"
    );
    (head.to_owned(), body.to_owned())
}

/// Samples of the page of [`snapshot`].
const SCRAPED: &[(&str, f64)] = &[
    ("marchproxy_node_generation", 12.0),
    ("marchproxy_node_revision", 7.0),
    ("marchproxy_node_connected", 1.0),
    (r#"marchproxy_port_rx_packets_total{port="lan0"}"#, 100.0),
    (
        r#"marchproxy_port_rx_packets_total{port="wan\"0\\"}"#,
        100.0,
    ),
    (r#"marchproxy_port_held_packets{port="lan0"}"#, 3.0),
    (
        r#"marchproxy_port_originated_total{port="lan0",kind="arp"}"#,
        11.0,
    ),
    (
        r#"marchproxy_drops_total{port="lan0",reason="rule_drop"}"#,
        5.0,
    ),
    (
        r#"marchproxy_drops_total{port="lan0",reason="no_service"}"#,
        0.0,
    ),
    (
        r#"marchproxy_service_packets_total{service="web",tier="af_xdp"}"#,
        21.0,
    ),
    (
        r#"marchproxy_service_flows{service="web",tier="af_xdp"}"#,
        4.0,
    ),
    (
        r#"marchproxy_backend_bytes_total{pool="web",backend="[2001:db8::1]:8080"}"#,
        31.0,
    ),
    (
        r#"marchproxy_backend_admin_info{pool="web",backend="[2001:db8::1]:8080",admin="drain"}"#,
        1.0,
    ),
    (
        r#"marchproxy_backend_healthy{pool="web",backend="10.0.0.1:80"}"#,
        0.0,
    ),
    (
        r#"marchproxy_backend_health_unknown{pool="web",backend="10.0.0.1:80"}"#,
        0.0,
    ),
    (
        r#"marchproxy_health_probes_total{pool="web",backend="10.0.0.1:80",outcome="failure"}"#,
        2.0,
    ),
    (
        r#"marchproxy_health_probe_rtt_seconds{pool="web",backend="10.0.0.1:80"}"#,
        0.0015,
    ),
    (
        r#"marchproxy_service_half_open{service="web",tier="af_xdp"}"#,
        3.0,
    ),
    ("marchproxy_flows", 6.0),
    ("marchproxy_flows_embryonic", 4.0),
    ("marchproxy_flow_embryonic_capacity", 50.0),
    (r#"marchproxy_flows_evicted_total{table="flows"}"#, 3.0),
    (r#"marchproxy_flows_evicted_total{table="embryonic"}"#, 5.0),
    ("marchproxy_flood_mode", 1.0),
    ("marchproxy_sources_tracked", 9.0),
    ("marchproxy_source_capacity", 64.0),
    ("marchproxy_sources_evicted_total", 1.0),
    ("marchproxy_flow_capacity", 100.0),
    (
        r#"marchproxy_lcore_cycles_total{lcore="1",state="busy"}"#,
        70.0,
    ),
    (
        r#"marchproxy_lcore_cycles_total{lcore="1",state="idle"}"#,
        30.0,
    ),
    ("marchproxy_socket_listeners", 3.0),
    (r#"marchproxy_socket_drops_total{reason="table_full"}"#, 9.0),
    (r#"marchproxy_socket_accepted_total{service="web"}"#, 44.0),
    (
        r#"marchproxy_socket_bytes_total{service="web",direction="out"}"#,
        46.0,
    ),
    (
        r#"marchproxy_socket_connect_errors_total{backend="10.0.0.1:80",slot="2"}"#,
        17.0,
    ),
];

#[tokio::test]
async fn a_scrape_shows_what_was_counted() {
    let server = serve(LOOPBACK, snapshot).await.expect("serves");
    let (head, body) = request(&server, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains("text/plain; version=0.0.4"), "{head}");
    let samples = read(&body);
    for (key, value) in SCRAPED {
        assert_eq!(samples.get(*key), Some(value), "{key}");
    }
    let drops = samples
        .keys()
        .filter(|key| key.starts_with("marchproxy_drops_total{port=\"lan0\""));
    assert_eq!(
        drops.count(),
        DropReason::COUNT,
        "every reason, counted or not"
    );
}

#[tokio::test]
async fn an_empty_node_is_readable_too() {
    let samples = read(&Snapshot::default().to_text());
    assert_eq!(samples.get("marchproxy_node_generation"), Some(&0.0));
    assert_eq!(
        samples.get("marchproxy_socket_listeners"),
        None,
        "no socket tier runs"
    );
}

#[tokio::test]
async fn the_health_page_says_what_is_wrong() {
    let (troubles, read) = tokio::sync::watch::channel(Vec::new());
    let server = serve(LOOPBACK, move || Snapshot {
        troubles: read.borrow().clone(),
        ..snapshot()
    });
    let server = server.await.expect("serves");
    let question = b"GET /healthz?verbose HTTP/1.1\r\n\r\n";
    assert_eq!(request(&server, question).await.1, "ok\n");
    troubles.send_replace(vec!["port lan0: interface eth1 is missing".to_owned()]);
    let (head, body) = request(&server, question).await;
    assert!(head.starts_with("HTTP/1.1 503"), "{head}");
    assert_eq!(body, "port lan0: interface eth1 is missing\n");
}

#[tokio::test]
async fn what_is_not_a_page_is_refused() {
    let server = serve(LOOPBACK, snapshot).await.expect("serves");
    let huge = [b"GET /metrics HTTP/1.1\r\nx: ".as_slice(), &[b'x'; 7_000]].concat();
    for (question, status) in [
        (b"GET / HTTP/1.1\r\n\r\n".as_slice(), "404"),
        (b"GET /metricsx HTTP/1.1\r\n\r\n", "404"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", "405"),
        (b"GET /metrics HTTP/1.1\r\n", "400"),
        (b"\r\n\r\n", "400"),
        (b"", "400"),
        (&huge, "400"),
    ] {
        let (head, _) = request(&server, question).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
    }
}

#[tokio::test]
async fn more_clients_than_places_are_all_served() {
    let server = serve(LOOPBACK, snapshot).await.expect("serves");
    let mut idle = Vec::new();
    for _ in 0..8 {
        idle.push(
            TcpStream::connect(server.address())
                .await
                .expect("connects"),
        );
    }
    let questions = (0..40).map(|_| request(&server, b"GET /healthz HTTP/1.1\r\n\r\n"));
    for question in questions {
        assert_eq!(question.await.1, "ok\n");
    }
}

#[tokio::test]
async fn only_loopback_is_served_on() {
    let outside = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let error = serve(outside, snapshot)
        .await
        .expect_err("no authentication");
    assert_eq!(
        error.to_string(),
        "metrics address 0.0.0.0:0 is not a loopback address"
    );
    let first = serve(LOOPBACK, snapshot).await.expect("serves");
    let error = serve(first.address(), snapshot).await.expect_err("in use");
    assert!(
        error.to_string().contains(&first.address().to_string()),
        "{error}"
    );
}

#[tokio::test]
async fn dropping_the_server_closes_it() {
    let server = serve(LOOPBACK, snapshot).await.expect("serves");
    let address = server.address();
    drop(server);
    let closed = async { while TcpStream::connect(address).await.is_ok() {} };
    tokio::time::timeout(Duration::from_mins(1), closed)
        .await
        .expect("refuses");
}
