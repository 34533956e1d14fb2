//! The configuration that the lab applies, as documents an operator would write.

use std::fmt::Write as _;

use crate::servers::{HTTP_PORT, IPERF_PORT, TCP_PORT, UDP_PORT};
use crate::tier::Tier;
use crate::topology::{BACKENDS, DENIED4, LAN, ROUTED_VIP4, VIP4, VIP6, WAN, backend4, backend6};

/// Name of the lab's node.
pub const NODE: &str = "node1";
/// Interval of the lab's health checks, in milliseconds.
pub const CHECK_INTERVAL_MS: u64 = 400;
/// Timeout of one check, in milliseconds.
pub const CHECK_TIMEOUT_MS: u64 = 350;
/// Failures in a row that take a backend out.
pub const CHECK_FALL: u64 = 3;
/// Within this time after a backend died the checks must have noticed: `fall` intervals, the last timeout, and one interval for
/// where in the interval it died.
pub const CHECK_BOUND_MS: u64 = (CHECK_FALL + 1) * CHECK_INTERVAL_MS + CHECK_TIMEOUT_MS;

/// One service of the lab: the same for both families.
struct Row {
    name: &'static str,
    port: u16,
    protocol: &'static str,
    backend_port: u16,
    check: &'static str,
}

const ROWS: [Row; 4] = [
    Row {
        name: "web",
        port: 80,
        protocol: "tcp",
        backend_port: HTTP_PORT,
        check: "type: http, path: /healthz",
    },
    Row {
        name: "echo",
        port: 9000,
        protocol: "udp",
        backend_port: UDP_PORT,
        check: "type: tcp",
    },
    Row {
        name: "stream",
        port: 9001,
        protocol: "tcp",
        backend_port: TCP_PORT,
        check: "type: tcp",
    },
    Row {
        name: "iperf",
        port: 5201,
        protocol: "tcp",
        backend_port: IPERF_PORT,
        check: "",
    },
];

/// Everything: ports, services of both families, their pools, and the rule that denies [`DENIED4`].
pub fn all(tier: Tier) -> String {
    [ports(tier.asked_for()), services(), pools(), denial()].concat()
}

/// Everything but the health checks, so that nothing moves unless a client makes it.
pub fn without_checks(tier: Tier) -> String {
    let all = all(tier);
    let lines = all.lines().filter(|line| !line.contains("healthCheck:"));
    lines.flat_map(|line| [line, "\n"]).collect()
}

/// The two ports of the node, both asking for `tier`.
pub fn ports(tier: &str) -> String {
    port("wan", WAN, tier) + &port("lan", LAN, tier)
}

/// One Port document.
pub fn port(name: &str, interface: &str, tier: &str) -> String {
    format!(
        "---\napiVersion: marchproxy/v1\nkind: Port\nmetadata: {{ name: {name} }}\n\
         spec: {{ node: {NODE}, interface: {interface}, tier: {tier:?} }}\n"
    )
}

/// The services of both families.
pub fn services() -> String {
    let mut text = String::new();
    for row in &ROWS {
        text += &service(
            &format!("{}4", row.name),
            &VIP4.to_string(),
            row,
            &format!("{}4", row.name),
        );
        text += &service(
            &format!("{}6", row.name),
            &VIP6.to_string(),
            row,
            &format!("{}6", row.name),
        );
    }
    text + &service("web4-routed", &ROUTED_VIP4.to_string(), &ROWS[0], "web4")
}

fn service(name: &str, address: &str, row: &Row, pool: &str) -> String {
    format!(
        "---\napiVersion: marchproxy/v1\nkind: Service\nmetadata: {{ name: {name} }}\n\
         spec: {{ address: {address:?}, port: {}, protocol: {}, pool: {pool} }}\n",
        row.port, row.protocol
    )
}

fn pools() -> String {
    let mut text = String::new();
    for row in &ROWS {
        text += &pool(row, "4", |index| backend4(index).to_string());
        text += &pool(row, "6", |index| backend6(index).to_string());
    }
    text
}

fn pool(row: &Row, family: &str, address: impl Fn(usize) -> String) -> String {
    // iperf3 takes one client at a time and wants its control and data connections at one server.
    let backends = if row.name == "iperf" {
        1
    } else {
        BACKENDS.len()
    };
    let mut text = format!(
        "---\napiVersion: marchproxy/v1\nkind: Pool\nmetadata: {{ name: {}{family} }}\nspec:\n  algorithm: maglev\n  backends:\n",
        row.name
    );
    for index in 0..backends {
        let _ = writeln!(
            text,
            "    - {{ address: {:?}, port: {} }}",
            address(index),
            row.backend_port
        );
    }
    if !row.check.is_empty() {
        let _ = writeln!(
            text,
            "  healthCheck: {{ {}, interval: {CHECK_INTERVAL_MS}ms, timeout: {CHECK_TIMEOUT_MS}ms, rise: 2, fall: {CHECK_FALL} }}",
            row.check
        );
    }
    text
}

/// The rule that denies [`DENIED4`] everything.
pub fn denial() -> String {
    rule(
        "deny-one-client",
        100,
        &format!("sources: [\"{DENIED4}/32\"]"),
        "drop",
    )
}

/// One Rule document.
pub fn rule(name: &str, priority: u32, matching: &str, action: &str) -> String {
    format!(
        "---\napiVersion: marchproxy/v1\nkind: Rule\nmetadata: {{ name: {name} }}\n\
         spec: {{ priority: {priority}, match: {{ {matching} }}, action: {action} }}\n"
    )
}

/// The echo service's pool over IPv4 with weights: what a scenario changes to make a new revision.
pub fn weighted_echo_pool(weights: [u16; 3]) -> String {
    let mut text = "---\napiVersion: marchproxy/v1\nkind: Pool\nmetadata: { name: echo4 }\nspec:\n  algorithm: maglev\n  backends:\n".to_owned();
    for (index, weight) in weights.iter().enumerate() {
        let _ = writeln!(
            text,
            "    - {{ address: {:?}, port: {UDP_PORT}, weight: {weight} }}",
            backend4(index).to_string()
        );
    }
    let _ = writeln!(
        text,
        "  healthCheck: {{ type: tcp, interval: {CHECK_INTERVAL_MS}ms, timeout: {CHECK_TIMEOUT_MS}ms, rise: 2, fall: {CHECK_FALL} }}"
    );
    text
}
