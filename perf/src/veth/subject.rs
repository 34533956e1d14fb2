//! What is measured: the kernel's forwarding, testpmd, and our lcore, each in the subject's namespace.

use std::net::{IpAddr, Ipv4Addr};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use march_bpf_loader::{AddressSet, NatAddress, Steering};
use march_lcore::{Clock, Idle, LcoreHandle, Settings};
use march_pipeline::{Counters, Limits};
use march_port::xsk::{XskConfig, XskPort, XskTarget};
use march_tables::{
    Affinity, Algorithm, BackendState, Config, MirroredNeighbour, MirroredRoute, Mode, NatPool,
    PartialChecksums, PoolBackend, PoolConfig, PortTable, Publisher, RouteTarget, Service,
    Timeouts,
};
use march_wire::tuple::IpPrefix;

use crate::clock::to_f64;

use super::lab::{Lab, MAC_G0, MAC_R0, MAC_R1, MAC_S0, Place, run};

/// The core that the subject runs on; the generator has core 0.
pub const CORE: usize = 1;

/// Nice value of the generator and of every subject: the machine may have other work.
pub const NICE: i32 = -20;

/// Something that forwards from `r0` to `r1`.
pub trait Subject {
    /// How it is called in the results.
    fn name(&self) -> &str;
    /// Seconds of its core that it worked so far, waiting for frames not included; `None` if it does not say.
    fn busy(&self) -> Option<f64>;
}

/// nftables: destination NAT to the backend, masquerade towards it. Receive processing is a thread on [`CORE`].
pub struct Kernel<'a> {
    lab: &'a Lab,
    thread: u32,
}

impl<'a> Kernel<'a> {
    /// Turns it on.
    pub fn start(lab: &'a Lab) -> anyhow::Result<Self> {
        let r = lab.name(Place::Subject);
        run(
            "ip",
            &format!("netns exec {r} sysctl -qw net.ipv4.ip_forward=1"),
        )?;
        lab.nft(
            Place::Subject,
            "table ip nat {\n chain pre {\n  type nat hook prerouting priority -100;\n  ip daddr 192.0.2.10 udp dport 80 dnat to 10.9.1.2:8080\n }\n chain post {\n  type nat hook postrouting priority 100;\n  oifname \"r1\" masquerade\n }\n}\n",
        )?;
        set_threaded(lab, "1")?;
        let thread = napi_thread("r0")?;
        run("taskset", &format!("-pc {CORE} {thread}"))?;
        run("renice", &format!("-n {NICE} -p {thread}"))?;
        Ok(Self { lab, thread })
    }
}

fn set_threaded(lab: &Lab, value: &str) -> anyhow::Result<()> {
    let r = lab.name(Place::Subject);
    let script = format!("echo {value} > /sys/class/net/r0/threaded");
    let status = std::process::Command::new("ip")
        .args(["netns", "exec", &r, "sh", "-c", &script])
        .status()?;
    ensure!(status.success(), "threaded NAPI of r0");
    Ok(())
}

/// The kernel thread that receives for an interface. Interfaces of the same name in other namespaces have one too: it is
/// the newest.
fn napi_thread(interface: &str) -> anyhow::Result<u32> {
    let prefix = format!("napi/{interface}-");
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc")? {
            let path = entry?.path();
            let name = std::fs::read_to_string(path.join("comm")).unwrap_or_default();
            if name.starts_with(&prefix) {
                found.extend(
                    path.file_name()
                        .and_then(|pid| pid.to_str()?.parse::<u32>().ok()),
                );
            }
        }
        if let Some(thread) = found.into_iter().max() {
            return Ok(thread);
        }
        ensure!(Instant::now() < deadline, "no thread {prefix}*");
        std::thread::yield_now();
    }
}

impl Subject for Kernel<'_> {
    fn name(&self) -> &'static str {
        "kernel nftables DNAT + masquerade"
    }

    fn busy(&self) -> Option<f64> {
        let text = std::fs::read_to_string(format!("/proc/{}/schedstat", self.thread)).ok()?;
        let nanoseconds: f64 = text.split_whitespace().next()?.parse().ok()?;
        Some(nanoseconds / 1e9)
    }
}

impl Drop for Kernel<'_> {
    fn drop(&mut self) {
        // The namespace may be half gone; the next subject finds out.
        let _ = set_threaded(self.lab, "0");
        let _ = self.lab.nft(Place::Subject, "flush ruleset\n");
    }
}

/// `dpdk-testpmd` in io mode over `net_af_xdp`, copying.
pub struct Testpmd(Child);

impl Testpmd {
    /// Starts it and waits until it polls.
    pub fn start(lab: &Lab) -> anyhow::Result<Self> {
        let vdev = |number: u32| format!("--vdev=net_af_xdp{number},iface=r{number},force_copy=1");
        let script = format!(
            "mount -t bpf bpf /sys/fs/bpf; exec dpdk-testpmd -l 0,{CORE} --in-memory --no-pci --no-telemetry --file-prefix=mperf{} {} {} -- --forward-mode=io --auto-start --burst=64 --no-lsc-interrupt --stats-period=60 --total-num-mbufs=16384",
            std::process::id(),
            vdev(0),
            vdev(1)
        );
        let child = lab
            .command(Place::Subject, "sh")
            .args(["-c", &script])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("dpdk-testpmd")?;
        Ok(Self(child))
    }
}

impl Subject for Testpmd {
    fn name(&self) -> &'static str {
        "testpmd io over net_af_xdp, copy"
    }

    fn busy(&self) -> Option<f64> {
        None
    }
}

impl Drop for Testpmd {
    fn drop(&mut self) {
        let pid = self.0.id().cast_signed();
        // SAFETY: a signal to our own child, which has not been waited for.
        unsafe { libc::kill(pid, libc::SIGINT) };
        let deadline = Instant::now() + Duration::from_secs(5);
        while matches!(self.0.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        // If it has ended already, there is nothing to kill.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Our lcore over `AF_XDP`, copying, full NAT.
pub struct Lcore {
    handle: Option<LcoreHandle>,
    _publisher: Publisher,
    _programs: Vec<Steering>,
    counters: Arc<Counters>,
    cycles_per_ms: f64,
}

impl Lcore {
    /// Starts it in the subject's namespace.
    pub fn start(lab: &Lab) -> anyhow::Result<Self> {
        // Sockets and programs belong to the namespace of the thread that makes them.
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    lab.enter(Place::Subject)?;
                    Self::start_here()
                })
                .join()
                .map_err(|_| anyhow::anyhow!("the thread that starts the lcore panicked"))?
        })
    }

    fn start_here() -> anyhow::Result<Self> {
        let config = config();
        let targets = ["r0", "r1"].map(|interface| XskTarget {
            interface: interface.to_owned(),
            queue: 0,
        });
        let group = XskPort::group(&targets, &XskConfig::default())?;
        let set = AddressSet {
            vips: config
                .services
                .iter()
                .map(|service| service.address)
                .collect(),
            nat: vec![NatAddress {
                address: IpAddr::V4(NAT),
                first_port: 1024,
                last_port: u16::MAX,
            }],
            ..AddressSet::default()
        };
        let mut programs = Vec::new();
        for (port, mac) in group.ports().iter().zip([MAC_R0, MAC_R1]) {
            let mut program = Steering::load()?;
            program.set_mac(mac)?;
            program.publish(&set)?;
            program.register_socket(0, port.socket())?;
            program.attach(port.interface())?;
            programs.push(program);
        }
        let counters = Arc::new(Counters::new(Limits::default()));
        let publisher = Publisher::new(march_tables::build(&config, None)?);
        let clock = Clock::calibrate();
        let settings = Settings {
            cpus: vec![CORE],
            idle: Idle::Poll,
            pipeline: march_pipeline::Settings {
                flows4: 1 << 17,
                flows6: 1024,
                sources: 1_024,
                seed: (3, 5),
            },
            hold_frames: 64,
            hold_ms: 1_000,
            ring_frames: 256,
            requests: 64,
            clock,
        };
        let handle =
            march_lcore::start(settings, group, publisher.reader(), Arc::clone(&counters))?;
        Ok(Self {
            handle: Some(handle),
            _publisher: publisher,
            _programs: programs,
            counters,
            cycles_per_ms: to_f64(clock.cycles_per_ms()),
        })
    }
}

impl Subject for Lcore {
    fn name(&self) -> &'static str {
        "our lcore over AF_XDP, copy, full NAT"
    }

    /// Turns that moved a frame, system calls and whatever interrupted them included.
    fn busy(&self) -> Option<f64> {
        let cycles = self.handle.as_ref()?.counters.busy_cycles.get();
        Some(to_f64(cycles) / self.cycles_per_ms / 1_000.0)
    }
}

impl Drop for Lcore {
    fn drop(&mut self) {
        let port = &self.counters.ports[0];
        let (rx, forwarded, dropped) = (port.rx_frames.get(), port.forwarded.get(), port.dropped());
        println!("#   of {rx} frames received {forwarded} were forwarded, {dropped} dropped");
        if let Some(Err(error)) = self.handle.take().map(LcoreHandle::stop) {
            eprintln!("# {error}");
        }
    }
}

/// A dedicated address: what the kernel of the subject has is not touched.
const NAT: Ipv4Addr = Ipv4Addr::new(10, 9, 1, 77);
const BACKEND: Ipv4Addr = Ipv4Addr::new(10, 9, 1, 2);
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);

fn config() -> Config {
    let port = |name: &str, mac, nat: &[Ipv4Addr]| PortTable {
        name: name.into(),
        mac,
        mtu: 1500,
        nat4: NatPool {
            addresses: nat.into(),
            first_port: 1024,
            last_port: u16::MAX,
        },
        nat6: NatPool::default(),
        address4: None,
        address6: None,
        partial_checksums: PartialChecksums::Never,
        ..PortTable::default()
    };
    let connected = |address: Ipv4Addr, port| MirroredRoute {
        prefix: IpPrefix::containing(IpAddr::V4(address), 24).expect("24 bits of 32"),
        target: RouteTarget::Connected { port },
    };
    let neighbour = |address, port, mac| MirroredNeighbour {
        port,
        address: IpAddr::V4(address),
        mac,
    };
    Config {
        revision: 1,
        ports: vec![port("r0", MAC_R0, &[]), port("r1", MAC_R1, &[NAT])].into(),
        services: vec![Service {
            name: "service".into(),
            address: IpPrefix::host(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10))),
            protocol: 17,
            first_port: 80,
            last_port: 80,
            pool: 0,
            mode: Mode::FullNat,
            affinity: Affinity::FiveTuple,
            timeouts: Timeouts::default(),
            ..Service::vacant()
        }]
        .into(),
        pools: vec![PoolConfig {
            name: "pool".into(),
            algorithm: Algorithm::Maglev,
            backends: vec![PoolBackend {
                slot: 0,
                address: IpAddr::V4(BACKEND),
                port: 8080,
                weight: 1,
                state: BackendState::Active,
            }],
        }]
        .into(),
        rules: vec![].into(),
        routes: vec![connected(CLIENT, 0), connected(BACKEND, 1)].into(),
        neighbours: vec![neighbour(CLIENT, 0, MAC_G0), neighbour(BACKEND, 1, MAC_S0)].into(),
        local: vec![].into(),
        ..Config::default()
    }
}
