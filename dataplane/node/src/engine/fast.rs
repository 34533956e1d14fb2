//! The engine of lcores.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use march_bpf_loader::{AddressSet, Steering};
use march_lcore::{Clock, Idle, LcoreHandle, Machine, SYSFS, interface_node};
use march_pipeline::{Counters, Limits, ResolveRequest};
use march_port::{CountersProbe, DeviceCounters, Port, PortGroup};
use march_tables::{Config, Reader};
use march_wire::DropReason;

use super::dpdk::{self, Eal};
use super::{
    EngineError, IdleChoice, LcoreOptions, PlannedPort, Programs, Resources, steering, xsk,
};
use crate::compile::{FastPort, PeerOffload};
use crate::kernel::Kernel;
use crate::kernel::state::Link;
use crate::ladder::{Family, Tier, VirtualDriver};
use crate::takeover::{Carried, Takeover};
use crate::trace::LcoreClock;
use crate::twin::{self, KernelSide, Pump, PumpCounters, Tap};

/// How long a new generation may take until every lcore runs it.
const GENERATION_PASS: Duration = Duration::from_secs(2);

/// Opened devices and twins; nothing polls yet.
pub struct Prepared {
    /// The ports, by port id.
    pub ports: Vec<FastPort>,
    family: Family,
    group: Group,
    taps: Vec<Arc<Tap>>,
    steering: Vec<Steering>,
    modes: Vec<String>,
}

enum Group {
    AfXdp(PortGroup<march_port::xsk::XskPort>),
    Dpdk(PortGroup<march_port::dpdk::DpdkPort>),
}

/// A running engine of lcores.
#[derive(Debug)]
pub struct FastEngine {
    /// The ports, by port id.
    pub ports: Vec<FastPort>,
    /// What all of them run.
    pub family: Family,
    lcore: Arc<LcoreHandle>,
    clock: Clock,
    pump: Option<Pump>,
    steering: Vec<Steering>,
    published: Option<AddressSet>,
    probes: Vec<CountersProbe>,
    modes: Vec<String>,
}

/// What one port counted, the steering program's part included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortCounts {
    /// Frames received.
    pub rx_packets: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Frames sent.
    pub tx_packets: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Received here, sent rewritten out of some port.
    pub forwarded: u64,
    /// Received here, turned into a reply.
    pub answered: u64,
    /// Received here, given to the kernel.
    pub punted: u64,
    /// Received here, waiting.
    pub held: u64,
    /// Received here, dropped, by reason.
    pub drops: Vec<(DropReason, u64)>,
    /// Sent from here, received on some port.
    pub forwarded_in: u64,
    /// Replies sent from here.
    pub answered_out: u64,
    /// Sent from here of our own accord, by kind.
    pub originated: Vec<(&'static str, u64)>,
    /// What only the device knows.
    pub device: DeviceCounters,
}

/// Opens everything that the ports need, journalling what is taken.
pub async fn prepare(
    planned: &[PlannedPort],
    kernel: &Kernel,
    takeover: &mut Takeover,
    resources: &mut Resources,
) -> Result<Prepared, EngineError> {
    let family = planned
        .first()
        .map_or(Family::Socket, |port| port.tier.family());
    match family {
        Family::AfXdp => prepare_af_xdp(planned, kernel, takeover, &mut resources.programs).await,
        Family::Dpdk => prepare_dpdk(planned, kernel, takeover, &mut resources.eal).await,
        Family::Socket => Err(EngineError::Node(
            "the socket rung has no lcores".to_owned(),
        )),
    }
}

async fn prepare_af_xdp(
    planned: &[PlannedPort],
    kernel: &Kernel,
    takeover: &mut Takeover,
    programs: &mut Programs,
) -> Result<Prepared, EngineError> {
    let links = planned
        .iter()
        .map(|port| link_of(port, kernel))
        .collect::<Result<Vec<Link>, _>>()?;
    let macs: Vec<[u8; 6]> = links.iter().map(|link| link.mac).collect();
    let opened = xsk::open(planned, &macs, programs)?;
    let mut taps = Vec::with_capacity(planned.len());
    for (port, link) in planned.iter().zip(&links) {
        takeover.stop_forwarding(&port.interface)?;
        takeover
            .hear_all_multicast(&port.interface, link.index)
            .await?;
        let (tap, _) = twin::create(&kernel.handle, &port.interface, link.mac, link.mtu).await?;
        taps.push(Arc::new(tap));
    }
    let ports = planned
        .iter()
        .zip(&links)
        .map(|(port, link)| fast_port(port, link, link.index))
        .collect();
    Ok(Prepared {
        ports,
        family: Family::AfXdp,
        group: Group::AfXdp(opened.group),
        taps,
        steering: opened.steering,
        modes: opened.modes,
    })
}

/// Devices first, so that one that does not open leaves its interface untouched; then what each interface carries moves to
/// its twin.
async fn prepare_dpdk(
    planned: &[PlannedPort],
    kernel: &Kernel,
    takeover: &mut Takeover,
    eal: &mut Eal,
) -> Result<Prepared, EngineError> {
    let mut links = Vec::with_capacity(planned.len());
    let mut carried = Vec::with_capacity(planned.len());
    for port in planned {
        if port.tier == Tier::DpdkVirtual(VirtualDriver::Tap) {
            // DPDK makes the interface.
            links.push(None);
            carried.push(Carried::default());
            continue;
        }
        let link = link_of(port, kernel)?;
        if port.tier == Tier::Dpdk {
            carried.push(takeover.take_addresses(&port.interface, link.index).await?);
            dpdk::take_device(port, &link, takeover, eal)?;
        } else {
            carried.push(Carried::default());
        }
        links.push(Some(link));
    }
    let opened = dpdk::open(planned, eal)?;
    let mut taps = Vec::with_capacity(planned.len());
    let mut ports = Vec::with_capacity(planned.len());
    for (index, port) in planned.iter().enumerate() {
        let device = &opened.devices[index];
        let mtu = links[index].as_ref().map_or(1500, |link| link.mtu);
        let link = Link {
            index: 0,
            name: port.interface.clone(),
            mac: device.mac,
            mtu: mtu.min(device.max_mtu),
            is_up: true,
            has_carrier: true,
            is_ethernet: true,
        };
        if let (Tier::DpdkVirtual(VirtualDriver::AfPacket | VirtualDriver::AfXdp), Some(original)) =
            (&port.tier, &links[index])
        {
            carried[index] = takeover
                .take_addresses(&port.interface, original.index)
                .await?;
            takeover.silence(&port.interface, original.index).await?;
        }
        let (tap, carrier) =
            twin::create(&kernel.handle, &port.interface, link.mac, link.mtu).await?;
        takeover.put_on(&carried[index], carrier).await?;
        taps.push(Arc::new(tap));
        ports.push(fast_port(port, &link, carrier));
    }
    Ok(Prepared {
        ports,
        family: Family::Dpdk,
        group: Group::Dpdk(opened.group),
        taps,
        steering: Vec::new(),
        modes: opened
            .devices
            .into_iter()
            .map(|device| device.driver)
            .collect(),
    })
}

fn link_of(port: &PlannedPort, kernel: &Kernel) -> Result<Link, EngineError> {
    let state = kernel.mirror.read();
    let link = state.link_named(&port.interface).cloned();
    let link = link.ok_or_else(|| {
        EngineError::port(port, format!("there is no interface {}", port.interface))
    })?;
    if !link.is_up {
        let reason = format!(
            "interface {} is down; bring it up: ip link set {} up",
            port.interface, port.interface
        );
        return Err(EngineError::port(port, reason));
    }
    Ok(link)
}

fn fast_port(port: &PlannedPort, link: &Link, carrier: u32) -> FastPort {
    let is_wire = port.tier == Tier::Dpdk
        || Path::new(&format!("/sys/class/net/{}/device", port.interface)).exists();
    FastPort {
        name: port.name.clone(),
        interface: port.interface.clone(),
        carrier,
        mac: link.mac,
        mtu: u16::try_from(link.mtu).unwrap_or(u16::MAX),
        nat_addresses: port.nat_addresses.clone(),
        nat_ports: port.nat_ports,
        peer_offload: if is_wire {
            PeerOffload::Impossible
        } else {
            PeerOffload::Possible
        },
    }
}

impl Prepared {
    /// Starts the lcore. `reader` must already show a generation with these ports.
    pub fn run(
        self,
        options: &LcoreOptions,
        reader: Reader,
        traffic: Arc<Counters>,
    ) -> Result<FastEngine, EngineError> {
        let settings = settings(options, &self.ports)?;
        let clock = settings.clock;
        let (lcore, probes) = match self.group {
            Group::AfXdp(group) => start(settings, group, reader, traffic)?,
            Group::Dpdk(group) => start(settings, group, reader, traffic)?,
        };
        let lcore = Arc::new(lcore);
        let side = match self.family {
            Family::Dpdk => KernelSide::Sends,
            Family::AfXdp | Family::Socket => KernelSide::OnlyReceives,
        };
        let pump = Pump::start(self.taps, Arc::clone(&lcore), side)
            .map_err(|error| EngineError::Node(format!("no thread for the twins: {error}")))?;
        Ok(FastEngine {
            ports: self.ports,
            family: self.family,
            lcore,
            clock,
            pump: Some(pump),
            steering: self.steering,
            published: None,
            probes,
            modes: self.modes,
        })
    }
}

fn start<P: Port + 'static>(
    settings: march_lcore::Settings,
    group: PortGroup<P>,
    reader: Reader,
    traffic: Arc<Counters>,
) -> Result<(LcoreHandle, Vec<CountersProbe>), EngineError> {
    let probes = group.ports().iter().map(Port::counters_probe).collect();
    let lcore = march_lcore::start(settings, group, reader, traffic)
        .map_err(|error| EngineError::Node(error.to_string()))?;
    Ok((lcore, probes))
}

fn settings(
    options: &LcoreOptions,
    ports: &[FastPort],
) -> Result<march_lcore::Settings, EngineError> {
    use std::hash::{BuildHasher, RandomState};
    let sysfs = Path::new(SYSFS);
    let machine = Machine::discover(sysfs).map_err(|error| EngineError::Node(error.to_string()))?;
    let node = ports
        .iter()
        .find_map(|port| interface_node(sysfs, &port.interface));
    let cpus = if options.cpus.is_empty() {
        machine.rank(node, &[])
    } else {
        options.cpus.clone()
    };
    let first = cpus
        .first()
        .and_then(|id| machine.cpus.iter().find(|cpu| cpu.id == *id));
    let has_own_core = first.is_some_and(|cpu| cpu.is_isolated) || machine.cpus.len() > 3;
    let idle = match options.idle {
        IdleChoice::Poll => Idle::Poll,
        IdleChoice::Auto if has_own_core => Idle::Poll,
        IdleChoice::Auto | IdleChoice::Relax => Idle::Relax,
    };
    let secret = RandomState::new();
    Ok(march_lcore::Settings {
        cpus,
        idle,
        pipeline: march_pipeline::Settings {
            flows4: options.flows4,
            flows6: options.flows6,
            sources: options.sources,
            seed: (secret.hash_one(0_u8), secret.hash_one(1_u8)),
        },
        hold_frames: 512,
        hold_ms: 1_000,
        ring_frames: 1_024,
        requests: 256,
        clock: Clock::calibrate(),
    })
}

/// Room for what an lcore counts.
#[must_use]
pub fn counter_limits() -> Limits {
    Limits::default()
}

impl FastEngine {
    /// Tells the steering programs what changed in `config` and, the first time, puts them on their interfaces.
    ///
    /// Takes milliseconds where something changed. Call it once the lcores run the generation of `config`.
    pub fn steer(&mut self, config: &Config) -> Result<(), EngineError> {
        if self.steering.is_empty() {
            return Ok(());
        }
        let set = steering::address_set(config);
        if self.published.as_ref() == Some(&set) {
            return Ok(());
        }
        for (index, program) in self.steering.iter_mut().enumerate() {
            let failed = |reason: String| EngineError::Port {
                port: self.ports[index].name.clone(),
                reason,
            };
            program
                .publish(&set)
                .map_err(|error| failed(error.to_string()))?;
            if program.attached().is_none() {
                let attached = program
                    .attach(&self.ports[index].interface)
                    .map_err(|error| failed(error.to_string()))?;
                self.modes[index] = format!("{}, {}", attached.mode.as_str(), self.modes[index]);
                if let Some(why) = &attached.native_refusal {
                    let interface = &self.ports[index].interface;
                    tracing::warn!(
                        event = "engine.xdp_generic",
                        interface,
                        why,
                        "the driver has no native XDP"
                    );
                }
            }
        }
        self.published = Some(set);
        Ok(())
    }

    /// Waits until no lcore decides by a generation older than `id`. False if that took too long.
    pub async fn wait_for_generation(&self, id: u64) -> bool {
        let deadline = Instant::now() + GENERATION_PASS;
        while self.lcore.counters.generation.get() < id {
            if Instant::now() > deadline || !self.lcore.is_running() {
                return false;
            }
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        true
    }

    /// Next hops that packets wait for, by the interface that carries the port in the kernel.
    pub fn take_requests(&self) -> Vec<(u32, std::net::IpAddr)> {
        let mut requests = Vec::new();
        while let Some(ResolveRequest { port, address }) = self.lcore.requests.pop() {
            if let Some(port) = self.ports.get(usize::from(port)) {
                requests.push((port.carrier, address));
            }
        }
        requests
    }

    /// The lcore.
    #[must_use]
    pub fn lcore(&self) -> &LcoreHandle {
        &self.lcore
    }

    /// The lcore's time, as it is now.
    #[must_use]
    pub fn lcore_clock(&self) -> LcoreClock {
        LcoreClock::read(self.clock.now(self.clock.cycles()).ms)
    }

    /// What the twins lost.
    #[must_use]
    pub fn pump_counters(&self) -> Option<&PumpCounters> {
        self.pump.as_ref().map(Pump::counters)
    }

    /// Detail of the tier of port `index`.
    #[must_use]
    pub fn mode(&self, index: usize) -> &str {
        self.modes.get(index).map_or("", String::as_str)
    }

    /// What port `index` counted.
    #[must_use]
    pub fn counts(&self, index: usize) -> PortCounts {
        let Some(port) = self.lcore.traffic.ports.get(index) else {
            return PortCounts::default();
        };
        let mut counts = PortCounts {
            rx_packets: port.rx_frames.get(),
            rx_bytes: port.rx_bytes.get(),
            tx_packets: port.tx_frames.get(),
            tx_bytes: port.tx_bytes.get(),
            forwarded: port.forwarded.get(),
            answered: port.answered.get(),
            punted: port.punted.get(),
            held: port.held.get(),
            drops: DropReason::ALL
                .iter()
                .map(|reason| (*reason, port.drops.of(*reason).get()))
                .collect(),
            forwarded_in: port.forwarded_in.get(),
            answered_out: port.tx_answered.get(),
            originated: march_pipeline::Originated::ALL
                .iter()
                .map(|kind| (kind.as_str(), port.originated[*kind as usize].get()))
                .collect(),
            device: self
                .probes
                .get(index)
                .map(CountersProbe::read)
                .unwrap_or_default(),
        };
        if let Some(Ok(program)) = self.steering.get(index).map(Steering::counters) {
            counts.rx_packets += program.passed.packets;
            counts.rx_bytes += program.passed.bytes;
            counts.punted += program.passed.packets;
            for ((_, dropped), (_, tally)) in counts.drops.iter_mut().zip(program.drops()) {
                *dropped += tally.packets;
                counts.rx_packets += tally.packets;
                counts.rx_bytes += tally.bytes;
            }
        }
        counts
    }

    /// Stops polling and closes everything. What was taken is given back by the takeover.
    pub fn stop(mut self) {
        for program in &mut self.steering {
            if let Err(error) = program.detach() {
                tracing::error!(event = "engine.detach_failed", %error, "the XDP program stays until this process ends");
            }
        }
        // The pump holds the lcore's rings, so it goes first.
        self.pump = None;
        if let Some(lcore) = Arc::into_inner(self.lcore)
            && let Err(error) = lcore.stop()
        {
            tracing::error!(event = "engine.lcore_panicked", %error, "an lcore had ended by a bug");
        }
    }
}
