//! What the node reports about itself, once a second and at every scrape.

use std::collections::BTreeMap;

use march_pipeline::{Counter, TrafficCounters};
use march_proto::v1::{
    BackendTelemetry, DropTelemetry, FlowTelemetry, LcoreTelemetry, NamedCount, PortTelemetry,
    ServiceTelemetry, SourceTelemetry, Telemetry, TierReason,
};
use march_socket::TierReading;
use march_wire::DropReason;

use crate::compile::{AdminStates, Compiled};
use crate::engine::{Engine, FastEngine};
use crate::health::TargetState;
use crate::kernel::KernelState;
use crate::ports::{PortStatus, PortStatuses};

/// Everything that a report is made of.
#[derive(Debug)]
pub struct Sources<'a> {
    /// What runs.
    pub engine: &'a Engine,
    /// What was compiled last.
    pub compiled: Option<&'a Compiled>,
    /// The ports and what became of them.
    pub statuses: &'a PortStatuses,
    /// What the operator wants of backends.
    pub admin: &'a AdminStates,
    /// The prober's table.
    pub targets: &'a [TargetState],
    /// The kernel's view.
    pub kernel: &'a KernelState,
    /// Flows that fit.
    pub flow_capacity: u64,
}

/// The report; the caller fills in revision, hash and generation.
#[must_use]
pub fn telemetry(sources: &Sources<'_>) -> Telemetry {
    let mut report = Telemetry {
        ports: ports(sources),
        ..Telemetry::default()
    };
    match sources.engine {
        Engine::Idle => report.backends = backends(sources, |_| Traffic::default()),
        Engine::Fast(engine) => {
            let traffic = &engine.lcore().traffic;
            report.services = services(sources, |index| {
                traffic
                    .services
                    .get(index)
                    .map(Traffic::of)
                    .unwrap_or_default()
            });
            report.backends = backends(sources, |slot| {
                traffic
                    .backends
                    .get(usize::from(slot))
                    .map(Traffic::of)
                    .unwrap_or_default()
            });
            report.drops = drops(engine);
            report.lcores = vec![lcore(engine)];
            report.flows = Some(FlowTelemetry {
                live: sum(&traffic.flows.live),
                capacity: sources.flow_capacity,
                created: traffic.flows.created.get(),
                expired: traffic.flows.expired.get(),
                evicted: traffic.flows.evicted.get(),
                embryonic: sum(&traffic.flows.embryonic),
                embryonic_capacity: sum(&traffic.flows.embryonic_capacity),
                embryonic_evicted: traffic.flows.embryonic_evicted.get(),
                flood_mode: sum(&traffic.flows.flood_mode),
            });
            report.sources = Some(SourceTelemetry {
                tracked: traffic.sources.tracked.get(),
                capacity: traffic.sources.capacity.get(),
                evicted: traffic.sources.evicted.get(),
            });
            let tier = engine.family.to_string();
            for service in &mut report.services {
                service.tier.clone_from(&tier);
            }
        }
        Engine::Socket(engine) => {
            let reading = engine.read();
            socket(sources, &engine.ports, &reading, &mut report);
        }
    }
    report
}

/// Both families together.
fn sum(counters: &[Counter; 2]) -> u64 {
    counters.iter().map(Counter::get).sum()
}

fn ports(sources: &Sources<'_>) -> Vec<PortTelemetry> {
    sources
        .statuses
        .iter()
        .map(|(name, status)| {
            let mut port = described(name, status, sources.kernel);
            if let Engine::Fast(engine) = sources.engine
                && let Some(index) = engine.ports.iter().position(|port| port.name == *name)
            {
                count(&mut port, engine, index);
            }
            port
        })
        .collect()
}

fn described(name: &str, status: &PortStatus, kernel: &KernelState) -> PortTelemetry {
    let link = kernel.link_named(&status.interface);
    let placement = &status.placement;
    PortTelemetry {
        name: name.to_owned(),
        interface: status.interface.clone(),
        tier: placement
            .tier
            .as_ref()
            .map_or_else(|| "none".to_owned(), ToString::to_string),
        reasons: placement
            .passed
            .iter()
            .map(|passed| TierReason {
                tier: passed.tier.to_string(),
                why: passed.why.clone(),
            })
            .collect(),
        state: match link {
            Some(link) if placement.tier.is_some() && !(link.is_up && link.has_carrier) => {
                "down".to_owned()
            }
            _ => placement.state.as_str().to_owned(),
        },
        mac: link.map(|link| mac_text(link.mac)).unwrap_or_default(),
        mtu: link.map_or(0, |link| link.mtu),
        ..PortTelemetry::default()
    }
}

fn mac_text(mac: [u8; 6]) -> String {
    let [a, b, c, d, e, f] = mac;
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

fn count(port: &mut PortTelemetry, engine: &FastEngine, index: usize) {
    let counts = engine.counts(index);
    engine.mode(index).clone_into(&mut port.mode);
    port.mac = mac_text(engine.ports[index].mac);
    port.mtu = u32::from(engine.ports[index].mtu);
    port.rx_packets = counts.rx_packets;
    port.rx_bytes = counts.rx_bytes;
    port.tx_packets = counts.tx_packets;
    port.tx_bytes = counts.tx_bytes;
    port.forwarded = counts.forwarded;
    port.answered = counts.answered;
    port.punted = counts.punted;
    port.held = counts.held;
    port.dropped = counts.drops.iter().map(|(_, count)| count).sum();
    port.forwarded_in = counts.forwarded_in;
    port.answered_out = counts.answered_out;
    port.originated = counts
        .originated
        .iter()
        .map(|(name, count)| NamedCount {
            name: (*name).to_owned(),
            count: *count,
        })
        .collect();
}

fn drops(engine: &FastEngine) -> Vec<DropTelemetry> {
    let of_port = |(index, port): (usize, &crate::compile::FastPort)| {
        engine
            .counts(index)
            .drops
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .map(|(reason, packets)| DropTelemetry {
                port: port.name.clone(),
                reason: reason.as_str().to_owned(),
                packets,
            })
            .collect::<Vec<_>>()
    };
    engine.ports.iter().enumerate().flat_map(of_port).collect()
}

fn lcore(engine: &FastEngine) -> LcoreTelemetry {
    let lcore = engine.lcore();
    LcoreTelemetry {
        lcore: 0,
        cpu: u32::try_from(lcore.cpu).unwrap_or(u32::MAX),
        busy_cycles: lcore.counters.busy_cycles.get(),
        idle_cycles: lcore.counters.idle_cycles.get(),
        bursts: lcore.counters.bursts.iter().map(Counter::get).sum(),
        packets: lcore
            .traffic
            .ports
            .iter()
            .map(|port| port.rx_frames.get())
            .sum(),
    }
}

/// Packets and flows of a service or backend, whoever counted them.
#[derive(Default)]
struct Traffic {
    packets: [u64; 2],
    bytes: [u64; 2],
    new_flows: u64,
    active_flows: u64,
    half_open: u64,
}

impl Traffic {
    fn of(counters: &TrafficCounters) -> Self {
        Self {
            packets: [counters.packets[0].get(), counters.packets[1].get()],
            bytes: [counters.bytes[0].get(), counters.bytes[1].get()],
            new_flows: counters.flows_created.get(),
            active_flows: counters.flows.get(),
            half_open: counters.half_open.get(),
        }
    }
}

fn services(sources: &Sources<'_>, traffic: impl Fn(usize) -> Traffic) -> Vec<ServiceTelemetry> {
    let Some(compiled) = sources.compiled else {
        return Vec::new();
    };
    compiled
        .config
        .live_services()
        .map(|(id, service)| {
            let traffic = traffic(usize::from(id));
            ServiceTelemetry {
                name: service.name.to_string(),
                packets: traffic.packets[0],
                bytes: traffic.bytes[0],
                reply_packets: traffic.packets[1],
                reply_bytes: traffic.bytes[1],
                new_flows: traffic.new_flows,
                active_flows: traffic.active_flows,
                half_open: traffic.half_open,
                tier: String::new(),
            }
        })
        .collect()
}

fn backends(sources: &Sources<'_>, traffic: impl Fn(u16) -> Traffic) -> Vec<BackendTelemetry> {
    let Some(compiled) = sources.compiled else {
        return Vec::new();
    };
    let targets: BTreeMap<u16, &TargetState> = sources
        .targets
        .iter()
        .map(|state| (state.target.slot, state))
        .collect();
    compiled
        .backends
        .iter()
        .map(|(slot, key)| {
            let target = targets.get(slot);
            let traffic = traffic(*slot);
            let unchecked = if compiled.checked_pools.contains(&key.pool) {
                "unknown"
            } else {
                "unchecked"
            };
            BackendTelemetry {
                pool: key.pool.clone(),
                address: key.address.to_string(),
                port: u32::from(key.port),
                health: target
                    .map_or(unchecked, |state| state.health.as_str())
                    .to_owned(),
                health_detail: target
                    .map(|state| state.reason.to_string())
                    .unwrap_or_default(),
                admin: sources.admin.of(key).as_str().to_owned(),
                active_flows: traffic.active_flows,
                new_flows: traffic.new_flows,
                packets: traffic.packets[0],
                bytes: traffic.bytes[0],
                reply_packets: traffic.packets[1],
                reply_bytes: traffic.bytes[1],
            }
        })
        .collect()
}

/// The socket tier counts connections and bytes; packets are the kernel's.
fn socket(sources: &Sources<'_>, ports: &[String], reading: &TierReading, report: &mut Telemetry) {
    report.services = services(sources, |index| {
        reading
            .services
            .get(index)
            .map_or_else(Traffic::default, |service| Traffic {
                packets: [0; 2],
                bytes: [service.bytes_in, service.bytes_out],
                new_flows: service.accepted,
                active_flows: service.active,
                half_open: 0,
            })
    });
    for service in &mut report.services {
        "socket".clone_into(&mut service.tier);
    }
    report.backends = backends(sources, |slot| {
        let found = reading.backends.iter().find(|backend| backend.slot == slot);
        found.map_or_else(Traffic::default, |backend| Traffic {
            packets: [0; 2],
            bytes: [backend.bytes_in, backend.bytes_out],
            new_flows: backend.accepted,
            active_flows: backend.active,
            half_open: 0,
        })
    });
    // Which interface a refused connection came by the tier does not know; it is shown at the first port of the rung.
    if let Some(port) = ports.first() {
        report.drops = DropReason::ALL
            .iter()
            .zip(reading.drops)
            .filter(|(_, count)| *count > 0)
            .map(|(reason, packets)| DropTelemetry {
                port: port.clone(),
                reason: reason.as_str().to_owned(),
                packets,
            })
            .collect();
    }
}
