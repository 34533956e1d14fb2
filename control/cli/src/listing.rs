//! Tables of documents, nodes and backends.

use march_model::{AddressSet, Kind, Rate, Spec};
use march_proto::v1;
use serde_json::Value;

use crate::args::Width;
use crate::get::{View, cell};
use crate::rules::{self, Hits};
use crate::table::Table;

/// Keeps the first cells of a narrow table, all of a wide one.
pub(crate) fn fit<T>(mut cells: Vec<T>, narrow: usize, width: Width) -> Vec<T> {
    if width == Width::Narrow {
        cells.truncate(narrow);
    }
    cells
}

pub(crate) fn table(view: &View, hits: &Hits, kind: Kind, width: Width) -> Table {
    match kind {
        Kind::Port => ports(view, width),
        Kind::Service => services(view, width),
        Kind::Pool => pools(view, width),
        Kind::Rule => rules::table(view, hits, width),
        Kind::AddressSet => address_sets(view, width),
        Kind::RateLimit => rate_limits(view),
        Kind::Mapping => mappings(view, width),
    }
}

fn ports(view: &View, width: Width) -> Table {
    let headings = vec![
        "NAME",
        "NODE",
        "INTERFACE",
        "ASKED",
        "TIER",
        "STATE",
        "PASSED OVER",
        "MODE",
        "MTU",
        "RX",
        "TX",
        "DROPPED",
        "NAT",
    ];
    let mut table = Table::new(&fit(headings, 7, width));
    for (name, spec) in view.of_kind(Kind::Port) {
        let Spec::Port(port) = spec else { continue };
        let live = view
            .port_telemetry(&port.node, name)
            .cloned()
            .unwrap_or_default();
        // Neighbours with one reason share it.
        let reasons: Vec<String> = live
            .reasons
            .chunk_by(|a, b| a.why == b.why)
            .filter_map(|same| {
                let tiers: Vec<&str> = same.iter().map(|reason| reason.tier.as_str()).collect();
                Some(format!("{}: {}", tiers.join(", "), same.first()?.why))
            })
            .collect();
        let nat: Vec<String> = port.nat.addresses.iter().map(ToString::to_string).collect();
        let cells = vec![
            name.to_owned(),
            port.node.to_string(),
            port.interface.to_string(),
            port.tier.to_string(),
            live.tier.clone(),
            live.state.clone(),
            reasons.join("; "),
            live.mode.clone(),
            count(u64::from(live.mtu)),
            live.rx_packets.to_string(),
            live.tx_packets.to_string(),
            live.dropped.to_string(),
            format!(
                "{} ports {}",
                if nat.is_empty() {
                    "own address".to_owned()
                } else {
                    nat.join(",")
                },
                port.nat.ports
            ),
        ];
        table.row(fit(cells, 7, width));
    }
    table
}

fn count(number: u64) -> String {
    if number == 0 {
        String::new()
    } else {
        number.to_string()
    }
}

fn services(view: &View, width: Width) -> Table {
    let headings = vec![
        "NAME",
        "ADDRESS",
        "PORT",
        "PROTOCOL",
        "POOL",
        "MODE",
        "FLOWS",
        "AFFINITY",
        "NEW FLOWS",
        "PACKETS",
        "BYTES",
        "TIER",
    ];
    let mut table = Table::new(&fit(headings, 7, width));
    for (name, spec) in view.of_kind(Kind::Service) {
        let Spec::Service(service) = spec else {
            continue;
        };
        let mut sum = v1::ServiceTelemetry::default();
        let mut tiers: Vec<&str> = Vec::new();
        for (_, telemetry) in view.telemetry() {
            for live in telemetry.services.iter().filter(|live| live.name == name) {
                sum.active_flows += live.active_flows;
                sum.new_flows += live.new_flows;
                sum.packets += live.packets + live.reply_packets;
                sum.bytes += live.bytes + live.reply_bytes;
                tiers.push(&live.tier);
            }
        }
        tiers.sort_unstable();
        tiers.dedup();
        let cells = vec![
            name.to_owned(),
            service.address.to_string(),
            service.port.to_string(),
            service.protocol.to_string(),
            service.pool.to_string(),
            service.mode.to_string(),
            sum.active_flows.to_string(),
            service.affinity.to_string(),
            sum.new_flows.to_string(),
            sum.packets.to_string(),
            sum.bytes.to_string(),
            tiers.join(","),
        ];
        table.row(fit(cells, 7, width));
    }
    table
}

fn pools(view: &View, width: Width) -> Table {
    let headings = vec![
        "NAME",
        "ALGORITHM",
        "BACKENDS",
        "UP",
        "CHECK",
        "INTERVAL",
        "TIMEOUT",
        "RISE",
        "FALL",
    ];
    let mut table = Table::new(&fit(headings, 5, width));
    for (name, spec) in view.of_kind(Kind::Pool) {
        let Spec::Pool(pool) = spec else { continue };
        let up: Vec<String> = view
            .telemetry()
            .map(|(node, telemetry)| {
                let is_up = |live: &&v1::BackendTelemetry| {
                    live.pool == name && matches!(live.health.as_str(), "up" | "unchecked")
                };
                format!(
                    "{node}: {}",
                    telemetry.backends.iter().filter(is_up).count()
                )
            })
            .collect();
        let check = pool.health_check.as_ref();
        let kind = check.map(|check| match &check.probe {
            march_model::Probe::Tcp => "tcp".to_owned(),
            march_model::Probe::Http { path, .. } => format!("http {path}"),
        });
        let text = |value: Option<String>| value.unwrap_or_default();
        let cells = vec![
            name.to_owned(),
            pool.algorithm.to_string(),
            pool.backends.len().to_string(),
            up.join(", "),
            text(kind),
            text(check.map(|check| check.interval.to_string())),
            text(check.map(|check| check.timeout.to_string())),
            text(check.map(|check| check.rise.to_string())),
            text(check.map(|check| check.fall.to_string())),
        ];
        table.row(fit(cells, 5, width));
    }
    table
}

fn address_sets(view: &View, width: Width) -> Table {
    let headings = vec!["NAME", "PREFIXES", "HELD", "CONTENT"];
    let mut table = Table::new(&fit(headings, 3, width));
    for (name, spec) in view.of_kind(Kind::AddressSet) {
        let Spec::AddressSet(set) = spec else {
            continue;
        };
        let (held, content) = match set {
            AddressSet::Prefixes(prefixes) => ("in the document", list(prefixes)),
            AddressSet::Content(content) => ("beside it", content.hash.to_string()),
        };
        let cells = vec![
            name.to_owned(),
            set.len().to_string(),
            held.to_owned(),
            content,
        ];
        table.row(fit(cells, 3, width));
    }
    table
}

fn rate_limits(view: &View) -> Table {
    let mut table = Table::new(&["NAME", "PER", "RATE", "BURST"]);
    for (name, spec) in view.of_kind(Kind::RateLimit) {
        let Spec::RateLimit(limit) = spec else {
            continue;
        };
        let lengths = limit.prefix_length;
        let unit = match limit.rate {
            Rate::Packets(_) => "packets",
            Rate::Bits(_) => "bytes",
        };
        table.row(vec![
            name.to_owned(),
            lengths.map_or_else(
                || limit.per.to_string(),
                |lengths| format!("{} /{} /{}", limit.per, lengths.v4, lengths.v6),
            ),
            limit.rate.to_string(),
            format!("{} {unit}", limit.burst),
        ]);
    }
    table
}

fn mappings(view: &View, width: Width) -> Table {
    let headings = vec![
        "NAME",
        "STATE",
        "SOURCES",
        "DESTINATIONS",
        "PROTOCOLS",
        "PORTS",
        "ENDS",
        "PRIORITY",
        "BY",
        "AT",
        "COMMENT",
    ];
    let mut table = Table::new(&fit(headings, 7, width));
    for (name, spec) in view.of_kind(Kind::Mapping) {
        let Spec::Mapping(mapping) = spec else {
            continue;
        };
        let text = |value: Option<String>| value.unwrap_or_default();
        let cells = vec![
            name.to_owned(),
            mapping.approval.state.to_string(),
            list(&mapping.sources),
            list(&mapping.destinations),
            list(&mapping.protocols),
            list(&mapping.ports),
            text(mapping.expires_at.map(|end| end.to_string())),
            mapping.priority.to_string(),
            text(mapping.approval.by.clone()),
            text(mapping.approval.at.map(|at| at.to_string())),
            text(mapping.comment.clone()),
        ];
        table.row(fit(cells, 7, width));
    }
    table
}

pub(crate) fn list(items: &[impl ToString]) -> String {
    let texts: Vec<String> = items.iter().map(ToString::to_string).collect();
    texts.join(",")
}

pub(crate) fn nodes_table(nodes: &[v1::NodeStatus], width: Width) -> Table {
    let headings = vec![
        "NAME",
        "STATE",
        "REVISION",
        "HEAD",
        "VERSION",
        "PORTS",
        "FLOWS",
        "GENERATION",
        "HEARD",
        "HASH",
        "REFUSED BECAUSE",
    ];
    let mut table = Table::new(&fit(headings, 8, width));
    for node in nodes {
        let telemetry = node.telemetry.clone().unwrap_or_default();
        let tiers: Vec<String> = telemetry
            .ports
            .iter()
            .map(|port| format!("{}={}", port.name, port.tier))
            .collect();
        let flows = telemetry.flows.unwrap_or_default();
        let cells = vec![
            node.node.clone(),
            node.state().word().to_owned(),
            node.running_revision.to_string(),
            node.head_revision.to_string(),
            node.version.clone(),
            tiers.join(","),
            format!("{}/{}", flows.live, flows.capacity),
            count(telemetry.generation),
            format!("{} ms ago", node.silent_ms),
            node.running_hash
                .get(..12)
                .unwrap_or(&node.running_hash)
                .to_owned(),
            node.errors.first().map_or_else(String::new, |error| {
                march_model::FieldError::from(error.clone()).to_string()
            }),
        ];
        table.row(fit(cells, 8, width));
    }
    table
}

pub(crate) fn backends_table(rows: &[Value], width: Width) -> Table {
    let headings = vec![
        "POOL",
        "BACKEND",
        "WEIGHT",
        "ADMIN",
        "NODE",
        "HEALTH",
        "FLOWS",
        "NEW FLOWS",
        "PACKETS",
        "BYTES",
        "LAST PROBE",
    ];
    let mut table = Table::new(&fit(headings, 7, width));
    for row in rows {
        let status = &row["status"];
        let cells = vec![
            cell(&row["pool"]),
            cell(&row["backend"]),
            cell(&row["weight"]),
            cell(&row["admin"]),
            cell(&row["node"]),
            cell(&status["health"]),
            cell(&status["activeFlows"]),
            cell(&status["newFlows"]),
            cell(&status["packets"]),
            cell(&status["bytes"]),
            cell(&status["healthDetail"]),
        ];
        table.row(fit(cells, 7, width));
    }
    table
}
