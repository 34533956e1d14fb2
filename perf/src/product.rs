//! The product's pipeline under the benchmark's traffic: configuration, live flows, one pass over the buffers.

use std::net::{IpAddr, Ipv4Addr};
use std::ptr::NonNull;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use crossbeam_queue::ArrayQueue;
use march_lcore::{Clock, Lcore, LcoreCounters, Parts, frame_ring};
use march_pipeline::{Counters, Limits, NoMirror, Now, Pipeline, Settings};
use march_port::Port;
use march_tables::{Action, PortRange};
use march_tables::{
    Affinity, Algorithm, BackendState, Config, Generation, MirroredNeighbour, MirroredRoute, Mode,
    NatPool, PartialChecksums, PoolBackend, PoolConfig, PortTable, Reader, RouteTarget, Rule,
    RuleList, Service, Timeouts,
};
use march_wire::tuple::IpPrefix;
use march_wire::{Buffer, Verdict};

use crate::clock::Random;
use crate::traffic::{self, BUFFERS, Buffers, FRAME_LEN, OUR_MAC, Tuple};

/// Ports of the configuration.
const WAN: u16 = 0;
const LAN: u16 = 1;
/// Frames that go through the pipeline at once.
const BURST: usize = 64;
/// Service addresses; each has a TCP and a UDP service, so that there are as many services as the floor counts.
const VIPS: u32 = 32;
const BACKENDS: u32 = 64;
const FIRST_VIP: u32 = 0xc000_0200;
const FIRST_BACKEND: u32 = 0x0b00_0001;
const FIRST_NAT: u32 = 0x0c00_0001;
const NAT_ADDRESSES: u32 = 8;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// Milliseconds that flows live without packets where they are not meant to end.
pub const KEPT_MS: u32 = 3_600_000;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// What the backend's side of a flow looks like: enough to make a reply.
#[derive(Clone, Copy, Default)]
struct Outside {
    nat: u32,
    backend: u32,
    nat_port: u16,
}

impl Outside {
    /// What a forwarded first packet says.
    fn of(line: &traffic::Line) -> Self {
        Self {
            nat: u32::from_be_bytes([line[26], line[27], line[28], line[29]]),
            backend: u32::from_be_bytes([line[30], line[31], line[32], line[33]]),
            nat_port: u16::from_be_bytes([line[34], line[35]]),
        }
    }
}

/// A frame of the benchmark's buffers, of the size and shape of a port's frame.
pub struct Frame {
    data: NonNull<u8>,
    line: u64,
    len: u32,
    headroom: u16,
    tailroom: u16,
}

/// Bytes in front of a frame.
const HEADROOM: u16 = 128;
/// Bytes behind a frame of [`FRAME_LEN`].
const TAILROOM: u16 = 1_900;

impl Buffer for Frame {
    #[inline]
    fn bytes(&self) -> &[u8] {
        // SAFETY: `data` and `len` lie inside one buffer, zeroed at first, and only this frame refers to it (`frames`).
        unsafe { std::slice::from_raw_parts(self.data.as_ptr(), self.len as usize) }
    }

    #[inline]
    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and `&mut self` is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.data.as_ptr(), self.len as usize) }
    }

    fn headroom(&self) -> usize {
        usize::from(self.headroom)
    }

    fn tailroom(&self) -> usize {
        usize::from(self.tailroom)
    }

    fn prepend(&mut self, _: usize) -> bool {
        // Nothing in this traffic grows.
        false
    }

    fn resize(&mut self, len: usize) -> bool {
        len == self.len as usize
    }

    #[inline]
    fn prefetch(&self) {
        crate::memory::prefetch(self.data.as_ptr());
    }
}

/// The pipeline with its flows.
pub struct Product {
    pipeline: Pipeline,
    counters: Arc<Counters>,
    generation: Arc<Generation>,
    clock: Clock,
    flows: Vec<Outside>,
    frames: Vec<Frame>,
    sent: Vec<(u64, u32, u32)>,
    verdicts: [Verdict; BURST],
    /// Frames that were not forwarded.
    pub lost: u64,
}

fn tcp_or_udp(id: u32) -> u8 {
    if id & 1 == 0 { TCP } else { UDP }
}

/// What the client of flow `id` sends.
pub fn request(id: u32) -> Tuple {
    Tuple {
        source: 0x0d00_0000 | (id >> 6),
        destination: FIRST_VIP + (id >> 1) % VIPS,
        source_port: 1024 + (id & 63) as u16 * 512,
        destination_port: 80,
        protocol: tcp_or_udp(id),
    }
}

fn reply(id: u32, outside: Outside) -> Tuple {
    Tuple {
        source: outside.backend,
        destination: outside.nat,
        source_port: 8080,
        destination_port: outside.nat_port,
        protocol: tcp_or_udp(id),
    }
}

fn address(value: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(value))
}

fn host(value: u32) -> IpPrefix {
    IpPrefix::new(address(value), 32).expect("32 bits of 32")
}

/// Two ports, services with their pool, routes, neighbours and a few rules.
pub fn config(timeout_ms: u32) -> Config {
    let timeouts = Timeouts {
        syn_ms: timeout_ms,
        established_ms: timeout_ms,
        closing_ms: timeout_ms,
        udp_ms: timeout_ms,
        icmp_ms: timeout_ms,
    };
    let port = |name: &str, nat: Vec<Ipv4Addr>| PortTable {
        name: name.into(),
        mac: OUR_MAC,
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
    let services = (0..VIPS).flat_map(|vip| {
        [TCP, UDP].map(|protocol| Service {
            name: format!("s{vip}-{protocol}").into(),
            address: host(FIRST_VIP + vip),
            protocol,
            first_port: 80,
            last_port: 80,
            pool: 0,
            mode: Mode::FullNat,
            affinity: Affinity::FiveTuple,
            timeouts,
            ..Service::vacant()
        })
    });
    let backends = (0..BACKENDS).map(backend);
    let neighbours = (0..=BACKENDS).map(|backend| MirroredNeighbour {
        port: LAN,
        address: address(FIRST_BACKEND + backend),
        mac: [2, 0, 0, 0, 1, backend as u8],
    });
    let router = MirroredNeighbour {
        port: WAN,
        address: address(0x0900_0001),
        mac: [2, 0, 0, 0, 2, 1],
    };
    let route = |prefix: u32, len: u8, target| MirroredRoute {
        prefix: IpPrefix::new(address(prefix), len).expect("no host bits"),
        target,
    };
    Config {
        revision: 1,
        ports: vec![
            port("wan", Vec::new()),
            port(
                "lan",
                (0..NAT_ADDRESSES)
                    .map(|nat| Ipv4Addr::from(FIRST_NAT + nat))
                    .collect(),
            ),
        ]
        .into(),
        services: services.collect(),
        pools: vec![PoolConfig {
            name: "pool".into(),
            algorithm: Algorithm::Maglev,
            backends: backends.collect(),
        }]
        .into(),
        rules: rules(),
        routes: vec![
            route(0x0b00_0000, 8, RouteTarget::Connected { port: LAN }),
            route(
                0,
                0,
                RouteTarget::Via {
                    port: WAN,
                    gateway: router.address,
                },
            ),
        ]
        .into(),
        neighbours: neighbours.chain([router]).collect(),
        local: vec![].into(),
        ..Config::default()
    }
}

/// Backend `number`; the one after the last of the configuration has a resolved next hop as well.
fn backend(number: u32) -> PoolBackend {
    PoolBackend {
        slot: number as u16,
        address: address(FIRST_BACKEND + number),
        port: 8080,
        weight: 1,
        state: BackendState::Active,
    }
}

/// A backend that the configuration does not have yet.
pub fn spare_backend() -> PoolBackend {
    backend(BACKENDS)
}

/// A few rules that match none of the traffic: first packets have to look.
fn rules() -> RuleList {
    (0..16_u32)
        .map(|number| Rule {
            name: format!("deny-{number}").into(),
            priority: number,
            sources: vec![
                IpPrefix::new(address(0xc612_0000 | number << 8), 24).expect("no host bits"),
            ],
            destinations: Vec::new(),
            source_ports: Vec::new(),
            ports: vec![PortRange {
                first: 1,
                last: 1023,
            }],
            protocol: Some(TCP),
            action: Action::Drop,
            ..Rule::vacant()
        })
        .collect()
}

fn frames(buffers: &mut Buffers) -> Vec<Frame> {
    (0..BUFFERS)
        .map(|index| {
            let line = Buffers::line_of(index);
            Frame {
                data: NonNull::from(buffers.frame_mut(line)).cast(),
                line: line as u64,
                len: FRAME_LEN as u32,
                headroom: HEADROOM,
                tailroom: TAILROOM,
            }
        })
        .collect()
}

impl Product {
    /// A pipeline with room for `flows` flows and none in it. `buffers` must outlive it and be used by nothing else
    /// while [`Product::pass`] or [`Product::create`] run.
    pub fn empty(flows: u32, timeout_ms: u32, buffers: &mut Buffers) -> anyhow::Result<Self> {
        let counters = Arc::new(Counters::new(Limits::default()));
        let settings = Settings {
            flows4: flows as usize,
            flows6: 1024,
            sources: 1_024,
            seed: (0x1234_5678_9abc_def1, 0x0fed_cba9_8765_4321),
        };
        Ok(Self {
            pipeline: Pipeline::new(settings, Arc::clone(&counters)).context("flow memory")?,
            counters,
            generation: Arc::new(march_tables::build(&config(timeout_ms), None)?),
            clock: Clock::calibrate(),
            flows: Vec::new(),
            frames: frames(buffers),
            sent: vec![(0, 0, 0); BUFFERS],
            verdicts: [Verdict::Punt; BURST],
            lost: 0,
        })
    }

    /// The same with `flows` established flows.
    pub fn with_flows(flows: u32, buffers: &mut Buffers) -> anyhow::Result<Self> {
        let mut product = Self::empty(flows, KEPT_MS, buffers)?;
        product.flows = vec![Outside::default(); flows as usize];
        let mut next = 0;
        while next < flows {
            let count = (flows - next).min(BUFFERS as u32);
            product.establish(buffers, next, count);
            next += count;
        }
        ensure!(
            product.lost == 0,
            "{} first packets were not forwarded",
            product.lost
        );
        let live = product.pipeline.flows()[0];
        ensure!(live == flows as usize, "{live} flows live of {flows}");
        Ok(product)
    }

    /// Flows `first..first + count`: first packet, and for TCP the rest of the handshake.
    fn establish(&mut self, buffers: &mut Buffers, first: u32, count: u32) {
        for (index, id) in (first..first + count).enumerate() {
            traffic::write(
                buffers.frame_mut(Buffers::line_of(index)),
                &request(id),
                SYN,
            );
        }
        self.forward(0, count as usize, WAN);
        for (index, id) in (first..first + count).enumerate() {
            let line = buffers.frame_mut(Buffers::line_of(index));
            let outside = Outside::of(line);
            self.flows[id as usize] = outside;
            traffic::write(line, &reply(id, outside), SYN | ACK);
        }
        self.forward(0, count as usize, LAN);
        for (index, id) in (first..first + count).enumerate() {
            traffic::write(
                buffers.frame_mut(Buffers::line_of(index)),
                &request(id),
                ACK,
            );
        }
        self.forward(0, count as usize, WAN);
    }

    /// Fills the buffers with packets of random flows; bursts come from the two ports by turns.
    pub fn refill(&self, buffers: &mut Buffers, random: &mut Random) {
        for index in 0..BUFFERS {
            let id = random.below(self.flows.len() as u64) as u32;
            let tuple = if port_of(index) == WAN {
                request(id)
            } else {
                reply(id, self.flows[id as usize])
            };
            traffic::write(buffers.frame_mut(Buffers::line_of(index)), &tuple, ACK);
        }
    }

    /// Processes every buffer, as an lcore would: clock, burst, verdicts, expiry.
    #[inline(never)]
    pub fn pass(&mut self) {
        for first in (0..BUFFERS).step_by(BURST) {
            self.forward(first, BURST, port_of(first));
        }
    }

    /// The same, with a look for the running generation before each burst.
    #[inline(never)]
    pub fn pass_following(&mut self, reader: &mut Reader) {
        for first in (0..BUFFERS).step_by(BURST) {
            let running = reader.load();
            if running.id != self.generation.id {
                self.generation = Arc::clone(running);
            }
            self.forward(first, BURST, port_of(first));
        }
    }

    /// The generation that runs.
    pub fn generation(&self) -> &Generation {
        &self.generation
    }

    /// Frames `first..first + count` come in on `ingress`.
    fn forward(&mut self, first: usize, count: usize, ingress: u16) {
        let mut done = first;
        while done < first + count {
            let burst = (first + count - done).min(BURST);
            let now = self.clock.now(self.clock.cycles());
            self.burst(done, burst, ingress, now);
            self.pipeline.expire(&self.generation, now);
            done += burst;
        }
    }

    #[inline]
    fn burst(&mut self, first: usize, count: usize, ingress: u16, now: Now) {
        let frames = &mut self.frames[first..first + count];
        let verdicts = &mut self.verdicts[..count];
        self.pipeline.process(
            &self.generation,
            now,
            ingress,
            frames,
            verdicts,
            &mut NoMirror,
        );
        for ((frame, verdict), sent) in frames.iter().zip(verdicts).zip(&mut self.sent[first..]) {
            match verdict {
                Verdict::Forward { port } => *sent = (frame.line, frame.len, u32::from(*port)),
                _ => self.lost += 1,
            }
        }
    }

    /// First packets of flows `first..first + BUFFERS`, written but not yet processed.
    pub fn refill_new(buffers: &mut Buffers, first: u32) {
        for (index, id) in (first..).take(BUFFERS).enumerate() {
            traffic::write(
                buffers.frame_mut(Buffers::line_of(index)),
                &request(id),
                SYN,
            );
        }
    }

    /// Processes the buffers from `start` on, `count` of them, as first packets, while the clock goes on by one millisecond for each burst, so that old
    /// flows end at the rate at which new ones come.
    #[inline(never)]
    pub fn create(&mut self, start: usize, count: usize, start_ms: u32) -> u32 {
        let mut now = Now { ms: start_ms };
        for first in (start..start + count).step_by(BURST) {
            self.burst(first, BURST, WAN, now);
            now.ms = now.ms.wrapping_add(1);
            self.pipeline.expire(&self.generation, now);
        }
        now.ms
    }

    /// The backends' answers to the first packets in all buffers, and then the clients' next packets, written but not yet
    /// processed: of a TCP flow the one that completes the handshake.
    pub fn answer_new(&mut self, buffers: &mut Buffers, first: u32, now_ms: u32) {
        for (index, id) in (first..).take(BUFFERS).enumerate() {
            let line = buffers.frame_mut(Buffers::line_of(index));
            let outside = Outside::of(line);
            traffic::write(line, &reply(id, outside), SYN | ACK);
        }
        for at in (0..BUFFERS).step_by(BURST) {
            self.burst(at, BURST, LAN, Now { ms: now_ms });
        }
        for (index, id) in (first..).take(BUFFERS).enumerate() {
            let line = buffers.frame_mut(Buffers::line_of(index));
            traffic::write(line, &request(id), ACK);
        }
    }

    /// Processes the buffers from `start` on, `count` of them, as they were written by [`Product::answer_new`].
    #[inline(never)]
    pub fn complete(&mut self, start: usize, count: usize, now_ms: u32) {
        for at in (start..start + count).step_by(BURST) {
            self.burst(at, BURST, WAN, Now { ms: now_ms });
        }
    }

    /// Live flows.
    pub fn live(&self) -> usize {
        self.pipeline.flows()[0]
    }

    /// Bytes of flow memory per flow that fits.
    pub fn bytes_per_flow(&self) -> usize {
        self.pipeline.memory_bytes() / self.pipeline.capacity()[0].max(1)
    }

    /// Flows created since the start.
    pub fn flows_made(&self) -> u64 {
        self.counters.flows.created.get()
    }

    /// Flows that had to make room for others.
    pub fn evicted(&self) -> u64 {
        self.counters.flows.evicted.get()
    }
}

/// An lcore with this configuration over two ports, to be turned by hand.
pub fn lcore<P: Port>(
    ports: Vec<P>,
    counters: &Arc<Counters>,
) -> anyhow::Result<(Lcore<P>, Arc<Generation>)> {
    let generation = Arc::new(march_tables::build(&config(KEPT_MS), None)?);
    let settings = Settings {
        flows4: 1 << 16,
        flows6: 1024,
        sources: 1_024,
        seed: (7, 11),
    };
    let (punts, _) = frame_ring(64);
    let (_, kernel) = frame_ring(1);
    let parts = Parts {
        pipeline: Pipeline::new(settings, Arc::clone(counters)).context("flow memory")?,
        counters: Arc::new(LcoreCounters::default()),
        punts,
        kernel,
        requests: Arc::new(ArrayQueue::new(16)),
        hold_frames: 64,
        hold_ms: 1_000,
    };
    Ok((Lcore::new(ports, parts, &generation), generation))
}

fn port_of(index: usize) -> u16 {
    if (index / BURST).is_multiple_of(2) {
        WAN
    } else {
        LAN
    }
}
