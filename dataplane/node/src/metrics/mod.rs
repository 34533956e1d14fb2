//! Prometheus metrics and the health page of a node.
//!
//! **What it is.** `GET /metrics` (text exposition format 0.0.4) and `GET /healthz`, on loopback only: there is no
//! authentication. The numbers are those that the telemetry towards the control daemon carries, so `marchctl stats` and
//! a graph never disagree.
//!
//! **What it is not.** A registry: nothing counts here. A scrape asks for a [`Snapshot`] and writes it down, so neither an
//! lcore nor the socket tier knows that metrics exist. The text is written by hand because it is all there is to the
//! format; a library would add a registry whose state has to be kept equal to counters that exist already.
//!
//! **Invariants.** Every family has HELP and TYPE and stands in one block; counters end in `_total`; units are base units.
//! Labels name documents, drop reasons, lcores and backends, never flows or clients. Requests are bounded in size, time
//! and number.

mod exposition;
mod server;

pub use server::{MetricsServer, ServeError, serve};

use march_proto::v1::{BackendTelemetry, PortTelemetry, ServiceTelemetry, Telemetry};
use march_socket::TierReading;
use march_wire::DropReason;

use self::exposition::{Exposition, Kind};
use crate::health::{Health, TargetState};

/// Everything that one scrape shows.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// What the control daemon is told about once a second.
    pub telemetry: Telemetry,
    /// The prober's table.
    pub targets: Vec<TargetState>,
    /// The socket tier, if it runs.
    pub socket: Option<TierReading>,
    /// Whether the session with the control daemon stands.
    pub is_connected: bool,
    /// Why this node does not forward as configured, in words; empty when all is well. A missing daemon is none: the
    /// node forwards without it.
    pub troubles: Vec<String>,
}

impl Snapshot {
    /// The snapshot in the text exposition format.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut out = Exposition::default();
        self.write_node(&mut out);
        write_ports(&mut out, &self.telemetry.ports);
        self.write_drops(&mut out);
        write_services(&mut out, &self.telemetry.services);
        write_backends(&mut out, &self.telemetry.backends);
        write_targets(&mut out, &self.targets);
        self.write_flows(&mut out);
        self.write_sources(&mut out);
        self.write_lcores(&mut out);
        if let Some(socket) = &self.socket {
            write_socket(&mut out, socket);
        }
        out.into_text()
    }

    /// The text of the health page; `Err` if something is wrong.
    fn health_page(&self) -> Result<String, String> {
        if self.troubles.is_empty() {
            return Ok("ok\n".to_owned());
        }
        Err(self.troubles.join("\n") + "\n")
    }

    fn write_node(&self, out: &mut Exposition) {
        let version = env!("CARGO_PKG_VERSION");
        out.family(
            "node_info",
            Kind::Gauge,
            "The agent that answers; always 1.",
        )
        .sample(&[("version", version)], 1);
        out.family(
            "node_generation",
            Kind::Gauge,
            "Generation that runs; counts up on this node.",
        )
        .sample(&[], self.telemetry.generation);
        out.family(
            "node_revision",
            Kind::Gauge,
            "Revision that the running generation was built from.",
        )
        .sample(&[], self.telemetry.revision);
        out.family(
            "node_connected",
            Kind::Gauge,
            "1 while the session with the control daemon stands.",
        )
        .sample(&[], u64::from(self.is_connected));
        let troubles = self.troubles.len() as u64;
        out.family(
            "node_troubles",
            Kind::Gauge,
            "Things that keep this node from forwarding as configured.",
        )
        .sample(&[], troubles);
    }

    fn write_drops(&self, out: &mut Exposition) {
        let help =
            "Frames dropped, by ingress port and reason; docs/drop-reasons.md explains each.";
        let mut family = out.family("drops_total", Kind::Counter, help);
        for port in &self.telemetry.ports {
            for reason in DropReason::ALL {
                let counted = self
                    .telemetry
                    .drops
                    .iter()
                    .filter(|drop| drop.port == port.name && drop.reason == reason.as_str());
                let packets = counted.map(|drop| drop.packets).sum();
                family.sample(
                    &[("port", &port.name), ("reason", reason.as_str())],
                    packets,
                );
            }
        }
    }

    fn write_flows(&self, out: &mut Exposition) {
        let Some(flows) = self.telemetry.flows else {
            return;
        };
        out.family(
            "flows",
            Kind::Gauge,
            "Flows remembered now, over all lcores.",
        )
        .sample(&[], flows.live);
        out.family(
            "flow_capacity",
            Kind::Gauge,
            "Flows that the tables can remember.",
        )
        .sample(&[], flows.capacity);
        out.family("flows_created_total", Kind::Counter, "Flows begun.")
            .sample(&[], flows.created);
        out.family(
            "flows_expired_total",
            Kind::Counter,
            "Flows forgotten after their timeout.",
        )
        .sample(&[], flows.expired);
        let help =
            "Flows, and handshakes by themselves, that were forgotten to make room for others.";
        let mut family = out.family("flows_evicted_total", Kind::Counter, help);
        family.sample(&[("table", "flows")], flows.evicted);
        family.sample(&[("table", "embryonic")], flows.embryonic_evicted);
        let help = "TCP handshakes that are not done, in a table of their own.";
        out.family("flows_embryonic", Kind::Gauge, help)
            .sample(&[], flows.embryonic);
        let help = "TCP handshakes that this table can remember.";
        out.family("flow_embryonic_capacity", Kind::Gauge, help)
            .sample(&[], flows.embryonic_capacity);
        let help = "Address families whose table of handshakes got half full and is not yet below a quarter: handshakes get 3 s.";
        out.family("flood_mode", Kind::Gauge, help)
            .sample(&[], flows.flood_mode);
    }

    /// Who is followed for guards and for limits by source.
    fn write_sources(&self, out: &mut Exposition) {
        let Some(sources) = self.telemetry.sources else {
            return;
        };
        let help = "Places in use of the table of sources, for guards and for limits by source.";
        out.family("sources_tracked", Kind::Gauge, help)
            .sample(&[], sources.tracked);
        out.family(
            "source_capacity",
            Kind::Gauge,
            "Places of the table of sources.",
        )
        .sample(&[], sources.capacity);
        let help = "Sources forgotten before they had their full allowance again.";
        out.family("sources_evicted_total", Kind::Counter, help)
            .sample(&[], sources.evicted);
    }

    fn write_lcores(&self, out: &mut Exposition) {
        let lcores = &self.telemetry.lcores;
        let help =
            "TSC cycles of the polling loop; busy: the poll brought frames, idle: it brought none.";
        let mut family = out.family("lcore_cycles_total", Kind::Counter, help);
        for lcore in lcores {
            let name = lcore.lcore.to_string();
            family.sample(&[("lcore", &name), ("state", "busy")], lcore.busy_cycles);
            family.sample(&[("lcore", &name), ("state", "idle")], lcore.idle_cycles);
        }
        let mut family = out.family(
            "lcore_bursts_total",
            Kind::Counter,
            "Bursts that held frames.",
        );
        for lcore in lcores {
            family.sample(&[("lcore", &lcore.lcore.to_string())], lcore.bursts);
        }
        let mut family = out.family(
            "lcore_packets_total",
            Kind::Counter,
            "Frames taken in bursts.",
        );
        for lcore in lcores {
            family.sample(&[("lcore", &lcore.lcore.to_string())], lcore.packets);
        }
    }
}

/// A counter of something that has a name: family, help, and how to read it.
type Column<T> = (&'static str, &'static str, fn(&T) -> u64);

/// One counter family per column, one sample per row.
fn write_counters<'a, T>(
    out: &mut Exposition,
    rows: &'a [T],
    columns: &[Column<T>],
    labels: impl Fn(&'a T) -> Vec<(&'static str, String)>,
) {
    for (name, help, read) in columns {
        let mut family = out.family(name, Kind::Counter, help);
        for row in rows {
            let owned = labels(row);
            let borrowed: Vec<_> = owned
                .iter()
                .map(|(name, value)| (*name, value.as_str()))
                .collect();
            family.sample(&borrowed, read(row));
        }
    }
}

/// Ingress: rx = forwarded + answered + punted + held + drops. Egress: tx = `forwarded_in` + `answered_out` + originated.
const PORT_COUNTERS: &[Column<PortTelemetry>] = &[
    ("port_rx_packets_total", "Frames received.", |port| {
        port.rx_packets
    }),
    (
        "port_rx_bytes_total",
        "Bytes received, Ethernet header included.",
        |port| port.rx_bytes,
    ),
    ("port_tx_packets_total", "Frames sent.", |port| {
        port.tx_packets
    }),
    (
        "port_tx_bytes_total",
        "Bytes sent, Ethernet header included.",
        |port| port.tx_bytes,
    ),
    (
        "port_forwarded_total",
        "Frames received here and forwarded.",
        |port| port.forwarded,
    ),
    (
        "port_answered_total",
        "Frames received here and answered here.",
        |port| port.answered,
    ),
    (
        "port_punted_total",
        "Frames received here and given to the kernel.",
        |port| port.punted,
    ),
    (
        "port_dropped_total",
        "Frames received here and dropped, for any reason.",
        |port| port.dropped,
    ),
    (
        "port_forwarded_in_total",
        "Frames sent here that another port, or this one, received.",
        |port| port.forwarded_in,
    ),
    (
        "port_answered_out_total",
        "Answers of our own sent here.",
        |port| port.answered_out,
    ),
];

fn write_ports(out: &mut Exposition, ports: &[PortTelemetry]) {
    let mut family = out.family(
        "port_info",
        Kind::Gauge,
        "A port and the tier that it runs; always 1.",
    );
    for port in ports {
        let labels = [
            ("port", port.name.as_str()),
            ("interface", port.interface.as_str()),
            ("tier", port.tier.as_str()),
            ("mode", port.mode.as_str()),
        ];
        family.sample(&labels, 1);
    }
    let mut family = out.family("port_up", Kind::Gauge, "1 while the port runs.");
    for port in ports {
        family.sample(&[("port", &port.name)], u64::from(port.state == "up"));
    }
    write_counters(out, ports, PORT_COUNTERS, |port| {
        vec![("port", port.name.clone())]
    });
    let mut family = out.family(
        "port_held_packets",
        Kind::Gauge,
        "Frames that wait for a neighbour's address now.",
    );
    for port in ports {
        family.sample(&[("port", &port.name)], port.held);
    }
    let help = "Frames sent here that no received frame caused directly, by kind.";
    let mut family = out.family("port_originated_total", Kind::Counter, help);
    for port in ports {
        for kind in &port.originated {
            family.sample(&[("port", &port.name), ("kind", &kind.name)], kind.count);
        }
    }
}

const SERVICE_COUNTERS: &[Column<ServiceTelemetry>] = &[
    (
        "service_packets_total",
        "Packets from clients.",
        |service| service.packets,
    ),
    ("service_bytes_total", "Bytes from clients.", |service| {
        service.bytes
    }),
    (
        "service_reply_packets_total",
        "Packets to clients.",
        |service| service.reply_packets,
    ),
    (
        "service_reply_bytes_total",
        "Bytes to clients.",
        |service| service.reply_bytes,
    ),
    ("service_flows_created_total", "Flows begun.", |service| {
        service.new_flows
    }),
];

fn write_services(out: &mut Exposition, services: &[ServiceTelemetry]) {
    write_counters(out, services, SERVICE_COUNTERS, |service| {
        vec![
            ("service", service.name.clone()),
            ("tier", service.tier.clone()),
        ]
    });
    let help = "TCP handshakes that are not done now.";
    let mut family = out.family("service_half_open", Kind::Gauge, help);
    for service in services {
        let labels = [
            ("service", service.name.as_str()),
            ("tier", service.tier.as_str()),
        ];
        family.sample(&labels, service.half_open);
    }
    let mut family = out.family("service_flows", Kind::Gauge, "Flows now.");
    for service in services {
        let labels = [
            ("service", service.name.as_str()),
            ("tier", service.tier.as_str()),
        ];
        family.sample(&labels, service.active_flows);
    }
}

const BACKEND_COUNTERS: &[Column<BackendTelemetry>] = &[
    (
        "backend_packets_total",
        "Packets to the backend.",
        |backend| backend.packets,
    ),
    ("backend_bytes_total", "Bytes to the backend.", |backend| {
        backend.bytes
    }),
    (
        "backend_reply_packets_total",
        "Packets from the backend.",
        |backend| backend.reply_packets,
    ),
    (
        "backend_reply_bytes_total",
        "Bytes from the backend.",
        |backend| backend.reply_bytes,
    ),
    ("backend_flows_created_total", "Flows begun.", |backend| {
        backend.new_flows
    }),
];

/// How a backend is named in labels: `address:port`, brackets around IPv6.
fn backend_name(address: &str, port: u32) -> String {
    if address.contains(':') {
        format!("[{address}]:{port}")
    } else {
        format!("{address}:{port}")
    }
}

fn write_backends(out: &mut Exposition, backends: &[BackendTelemetry]) {
    let labels = |backend: &BackendTelemetry| {
        let name = backend_name(&backend.address, backend.port);
        vec![("pool", backend.pool.clone()), ("backend", name)]
    };
    write_counters(out, backends, BACKEND_COUNTERS, labels);
    let mut family = out.family("backend_flows", Kind::Gauge, "Flows now.");
    for backend in backends {
        let name = backend_name(&backend.address, backend.port);
        family.sample(
            &[("pool", &backend.pool), ("backend", &name)],
            backend.active_flows,
        );
    }
    let help = "What the operator said of the backend: enabled, drain or offline; always 1.";
    let mut family = out.family("backend_admin_info", Kind::Gauge, help);
    for backend in backends {
        let name = backend_name(&backend.address, backend.port);
        let labels = [
            ("pool", backend.pool.as_str()),
            ("backend", name.as_str()),
            ("admin", &backend.admin),
        ];
        family.sample(&labels, 1);
    }
}

fn write_targets(out: &mut Exposition, targets: &[TargetState]) {
    let names: Vec<_> = targets
        .iter()
        .map(|state| {
            backend_name(
                &state.target.address.to_string(),
                u32::from(state.target.port),
            )
        })
        .collect();
    let rows = || targets.iter().zip(&names);
    let help = "1: takes new flows as far as its health check goes (unknown counts as healthy). 0: it does not.";
    let mut family = out.family("backend_healthy", Kind::Gauge, help);
    for (state, name) in rows() {
        let labels = [("pool", &*state.target.pool), ("backend", name)];
        family.sample(&labels, u64::from(state.health.is_usable()));
    }
    let help = "1 until the first decision of the health check.";
    let mut family = out.family("backend_health_unknown", Kind::Gauge, help);
    for (state, name) in rows() {
        let labels = [("pool", &*state.target.pool), ("backend", name)];
        family.sample(&labels, u64::from(state.health == Health::Unknown));
    }
    let mut family = out.family("health_probes_total", Kind::Counter, "Probes by outcome.");
    for (state, name) in rows() {
        for (outcome, count) in [("success", state.successes), ("failure", state.failures)] {
            let labels = [
                ("pool", &*state.target.pool),
                ("backend", name),
                ("outcome", outcome),
            ];
            family.sample(&labels, count);
        }
    }
    let help = "Times that the health check changed sides.";
    let mut family = out.family("health_changes_total", Kind::Counter, help);
    for (state, name) in rows() {
        family.sample(
            &[("pool", &*state.target.pool), ("backend", name)],
            state.changes,
        );
    }
    let help = "How long the last answered probe took.";
    let mut family = out.family("health_probe_rtt_seconds", Kind::Gauge, help);
    for (state, name) in rows() {
        if let Some(rtt) = state.rtt {
            family.seconds(&[("pool", &*state.target.pool), ("backend", name)], rtt);
        }
    }
}

fn write_socket(out: &mut Exposition, socket: &TierReading) {
    for (name, help, value) in [
        (
            "socket_listeners",
            "Sockets of the socket tier that listen.",
            socket.listeners,
        ),
        (
            "socket_connections",
            "TCP connections that the socket tier relays now.",
            socket.connections,
        ),
        (
            "socket_udp_sessions",
            "UDP sessions that the socket tier carries now.",
            socket.udp_sessions,
        ),
    ] {
        out.family(name, Kind::Gauge, help)
            .sample(&[], value as u64);
    }
    let help = "Times that accepting or receiving failed for want of descriptors or memory.";
    out.family("socket_accept_errors_total", Kind::Counter, help)
        .sample(&[], socket.accept_errors);
    let help = "Connections and datagrams that the socket tier refused, by reason.";
    let mut family = out.family("socket_drops_total", Kind::Counter, help);
    for reason in DropReason::ALL {
        family.sample(
            &[("reason", reason.as_str())],
            socket.drops[*reason as usize],
        );
    }
    let help = "Connections and sessions that were given a backend.";
    let mut family = out.family("socket_accepted_total", Kind::Counter, help);
    for service in &socket.services {
        family.sample(&[("service", &service.name)], service.accepted);
    }
    let help = "Payload bytes relayed; in: from clients, out: to clients.";
    let mut family = out.family("socket_bytes_total", Kind::Counter, help);
    for service in &socket.services {
        family.sample(
            &[("service", &service.name), ("direction", "in")],
            service.bytes_in,
        );
        family.sample(
            &[("service", &service.name), ("direction", "out")],
            service.bytes_out,
        );
    }
    let help = "Connections that a backend did not take and datagrams that its host refused.";
    let mut family = out.family("socket_connect_errors_total", Kind::Counter, help);
    // A slot's address alone is no name: two pools may share a backend.
    for backend in socket
        .backends
        .iter()
        .filter(|backend| !backend.address.is_unspecified())
    {
        let name = backend_name(&backend.address.to_string(), u32::from(backend.port));
        let slot = backend.slot.to_string();
        family.sample(
            &[("backend", &name), ("slot", &slot)],
            backend.connect_errors,
        );
    }
}

#[cfg(test)]
mod tests;
