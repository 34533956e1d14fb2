//! DPDK ports over virtual devices, under the common suite and by themselves. One EAL for the whole binary; devices are
//! attached by each test, in a network namespace of its own thread where they need one.
#![cfg(feature = "dpdk")]
#![allow(
    clippy::cast_possible_truncation,
    reason = "small numbers of the tests' own"
)]

mod support;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use march_dpdk::{Eal, EalConfig, Memory, Mempool, MempoolConfig, PortNumber, Promiscuous, sys};
use march_port::dpdk::{DpdkConfig, DpdkPort};
use march_port::{BURST, Frame, Port, PortError};
use march_wire::Buffer;
use support::namespace;
use support::raw::RawSocket;
use support::suite::{self, Cabled, number_of, numbered, until};

/// The EAL of this process, in huge pages where the machine has some to spare.
fn eal() -> &'static Eal {
    static EAL: OnceLock<Eal> = OnceLock::new();
    EAL.get_or_init(|| {
        let meminfo = std::fs::read_to_string("/proc/meminfo").expect("/proc is mounted");
        let free = meminfo
            .lines()
            .find_map(|line| line.strip_prefix("HugePages_Free:"))
            .expect("a count of huge pages");
        let has_huge_pages = free.trim().parse::<u32>().expect("a number") >= 200;
        let memory = if has_huge_pages {
            Memory::HugePages
        } else {
            Memory::Ordinary { megabytes: 512 }
        };
        let file_prefix = format!("march-port-test-{}", std::process::id());
        Eal::init(&EalConfig {
            file_prefix,
            memory,
            ..EalConfig::default()
        })
        .expect("the EAL starts")
    })
}

/// A number that no other test of this process has.
fn unique() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn config() -> DpdkConfig {
    DpdkConfig {
        name: format!("pool{}", unique()),
        ..DpdkConfig::default()
    }
}

fn attach(driver: &str, arguments: &str) -> PortNumber {
    let device = format!("{driver}{}{arguments}", unique());
    eal()
        .attach(&device)
        .unwrap_or_else(|error| panic!("{device}: {error}"))
}

fn two_ports(numbers: [PortNumber; 2], config: &DpdkConfig) -> [DpdkPort; 2] {
    let group = DpdkPort::group(eal(), &numbers, config).expect("virtual devices");
    group.into_ports().try_into().expect("two ports")
}

/// Ports of `net_ring`: what one sends, the same one receives, so each is its own far end.
struct Rings {
    ports: [DpdkPort; 2],
    looped: Vec<Frame>,
}

impl Rings {
    fn new() -> Self {
        let numbers = [attach("net_ring", ""), attach("net_ring", "")];
        Self {
            ports: two_ports(numbers, &config()),
            looped: Vec::with_capacity(BURST),
        }
    }
}

impl Cabled for Rings {
    type P = DpdkPort;
    fn ports(&mut self) -> &mut [DpdkPort; 2] {
        &mut self.ports
    }
    fn send(&mut self, port: usize, frame: &[u8]) {
        let mut own = self.ports[port].allocate().expect("a pool that is not dry");
        assert!(own.resize(frame.len()));
        own.bytes_mut().copy_from_slice(frame);
        assert_eq!(self.ports[port].tx_burst(&mut vec![own]), 1);
    }
    fn receive(&mut self, port: usize) -> Option<Vec<u8>> {
        if self.looped.is_empty() {
            self.ports[port].rx_burst(&mut self.looped);
            self.looped.reverse();
        }
        let frame = self.looped.pop()?;
        let bytes = frame.bytes().to_vec();
        self.ports[port].free(frame);
        Some(bytes)
    }
    fn frames_out(&mut self) -> usize {
        self.ports[0].buffers_out() as usize
    }
}

#[test]
fn net_ring_conforms() {
    let mut rings = Rings::new();
    assert_eq!(rings.ports[0].device().driver(), "net_ring");
    suite::receives_the_same_bytes(&mut rings);
    suite::forwards_between_ports_in_place(&mut rings);
    suite::prepend_and_resize_reach_the_wire(&mut rings);
    suite::allocated_frames_are_sent(&mut rings);
    suite::a_full_ring_leaves_the_rest_in_order(&mut rings, 2000);
}

#[test]
fn a_million_frames_leak_nothing() {
    suite::never_leaks(&mut Rings::new(), 1_000_000, 128);
}

/// Ports that a kernel interface is behind; a packet socket at the far end.
struct Kernel {
    ports: [DpdkPort; 2],
    far: [RawSocket; 2],
    /// Buffers in descriptors while nothing moves.
    resting: u32,
}

impl Kernel {
    fn new(numbers: [PortNumber; 2], far: [&str; 2], config: &DpdkConfig) -> Self {
        let ports = two_ports(numbers, config);
        let resting = ports[0].buffers_out();
        Self {
            ports,
            far: far.map(RawSocket::open),
            resting,
        }
    }

    fn af_packet() -> Self {
        namespace::enter();
        namespace::veth("p0", "far0");
        namespace::veth("p1", "far1");
        let numbers = [
            attach("net_af_packet", ",iface=p0"),
            attach("net_af_packet", ",iface=p1"),
        ];
        Self::new(numbers, ["far0", "far1"], &config())
    }
}

impl Cabled for Kernel {
    type P = DpdkPort;
    fn ports(&mut self) -> &mut [DpdkPort; 2] {
        &mut self.ports
    }
    fn send(&mut self, port: usize, frame: &[u8]) {
        self.far[port].send(frame);
    }
    fn receive(&mut self, port: usize) -> Option<Vec<u8>> {
        self.far[port].receive()
    }
    fn frames_out(&mut self) -> usize {
        self.ports[0].buffers_out().saturating_sub(self.resting) as usize
    }
}

#[test]
fn net_af_packet_conforms() {
    let mut kernel = Kernel::af_packet();
    suite::receives_the_same_bytes(&mut kernel);
    suite::forwards_between_ports_in_place(&mut kernel);
    suite::prepend_and_resize_reach_the_wire(&mut kernel);
    suite::allocated_frames_are_sent(&mut kernel);
    suite::never_leaks(&mut kernel, 50_000, 64);
}

#[test]
fn net_tap_conforms() {
    namespace::enter();
    let numbers = [
        attach("net_tap", ",iface=tap0"),
        attach("net_tap", ",iface=tap1"),
    ];
    let config = DpdkConfig {
        rx_descriptors: 256,
        ..config()
    };
    let mut kernel = Kernel::new(numbers, ["tap0", "tap1"], &config);
    suite::receives_the_same_bytes(&mut kernel);
    suite::forwards_between_ports_in_place(&mut kernel);
    suite::prepend_and_resize_reach_the_wire(&mut kernel);
}

#[test]
fn net_af_xdp_conforms() {
    namespace::enter();
    namespace::own_bpf_file_system();
    namespace::veth("p0", "far0");
    namespace::veth("p1", "far1");
    let numbers = [
        attach("net_af_xdp", ",iface=p0,busy_budget=0"),
        attach("net_af_xdp", ",iface=p1,busy_budget=0"),
    ];
    let config = config();
    let mut kernel = Kernel::new(numbers, ["far0", "far1"], &config);
    // This driver takes sent buffers back at a later transmission, so of them only a bound can be known.
    kernel.resting += 2 * u32::from(config.tx_descriptors);
    suite::receives_the_same_bytes(&mut kernel);
    suite::forwards_between_ports_in_place(&mut kernel);
    suite::prepend_and_resize_reach_the_wire(&mut kernel);
    suite::never_leaks(&mut kernel, 50_000, 64);
}

#[test]
fn net_null_moves_whole_bursts() {
    let numbers = [attach("net_null", ",size=60"), attach("net_null", "")];
    let [mut left, mut right] = two_ports(numbers, &config());
    let mut burst = Vec::with_capacity(BURST);
    for _ in 0..1000 {
        assert_eq!(left.rx_burst(&mut burst), BURST);
        assert!(
            burst
                .iter()
                .all(|frame| frame.len() == 60 && frame.headroom() == 128)
        );
        assert_eq!(right.tx_burst(&mut burst), BURST);
    }
    assert_eq!(left.device().stats().rx_packets, 64_000);
    assert_eq!(right.device().stats().tx_packets, 64_000);
    assert_eq!(left.buffers_out(), 0);
}

#[test]
fn net_pcap_reads_a_capture_and_writes_one() {
    let directory =
        std::env::temp_dir().join(format!("march-port-{}-{}", std::process::id(), unique()));
    std::fs::create_dir_all(&directory).expect("a directory for captures");
    let (input, output) = (directory.join("in.pcap"), directory.join("out.pcap"));
    let mut capture = vec![
        0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0,
    ];
    for number in 0..5u32 {
        let frame = numbered(number, 64);
        capture.extend([[0u8; 4], [0; 4], 64u32.to_le_bytes(), 64u32.to_le_bytes()].concat());
        capture.extend(frame);
    }
    std::fs::write(&input, &capture).expect("a capture");
    let files = format!(",rx_pcap={},tx_pcap={}", input.display(), output.display());
    let number = attach("net_pcap", &files);
    let mut port = DpdkPort::group(eal(), &[number], &config())
        .expect("net_pcap")
        .into_ports()
        .remove(0);
    let mut burst = Vec::with_capacity(BURST);
    until("the capture's frames", || {
        port.rx_burst(&mut burst);
        burst.len() == 5
    });
    assert!(
        burst
            .iter()
            .enumerate()
            .all(|(number, frame)| frame.bytes() == numbered(number as u32, 64))
    );
    burst[0].bytes_mut()[63] = 0xaa;
    assert_eq!(port.tx_burst(&mut burst), 5);
    drop(port);
    let written = std::fs::read(&output).expect("the capture that was written");
    assert_eq!(written.len(), capture.len());
    assert_eq!(written[24 + 16 + 63], 0xaa);
    assert_eq!(
        &written[24 + 16 + 80..24 + 16 + 80 + 64],
        &numbered(1, 64)[..]
    );
    std::fs::remove_dir_all(&directory).expect("captures removed");
}

/// Puts a frame of two buffers into a `net_ring` port's ring.
fn send_in_two_buffers(port: &DpdkPort, pool: &Mempool, lengths: [u16; 2]) {
    let [first, second] = lengths.map(|len| {
        let mut mbuf = pool.allocate().expect("a pool that is not dry");
        assert!(mbuf.set_window(mbuf.headroom(), len));
        mbuf.bytes_mut()
            .copy_from_slice(&numbered(u32::from(len), usize::from(len)));
        mbuf.into_raw().as_ptr()
    });
    // SAFETY: a buffer that this test owns.
    let head = unsafe { &mut *first };
    // Chained as the mbuf's documentation says.
    (head.next, head.nb_segs) = (second, 2);
    head.pkt_len = u32::from(lengths[0]) + u32::from(lengths[1]);
    let mut packet = first;
    // SAFETY: one readable pointer; the port's only queue is this thread's.
    let sent = unsafe { sys::march_tx_burst(port.device().number().get(), 0, &raw mut packet, 1) };
    assert_eq!(sent, 1);
}

#[test]
fn a_frame_of_several_buffers_is_made_one_or_counted() {
    let number = attach("net_ring", "");
    let mut port = DpdkPort::group(eal(), &[number], &config())
        .expect("net_ring")
        .into_ports()
        .remove(0);
    let pool_config = MempoolConfig {
        name: format!("pool{}", unique()),
        buffers: 64,
        cache: 0,
        ..MempoolConfig::default()
    };
    let pool = Mempool::create(eal(), &pool_config).expect("a pool");
    send_in_two_buffers(&port, &pool, [1000, 500]);
    send_in_two_buffers(&port, &pool, [1500, 1400]);
    let mut burst = Vec::with_capacity(BURST);
    assert_eq!(port.rx_burst(&mut burst), 1);
    assert_eq!(
        burst[0].bytes(),
        [numbered(1000, 1000), numbered(500, 500)].concat()
    );
    assert_eq!(
        port.device_counters().rx_errors,
        1,
        "the larger one fits into no buffer"
    );
    port.free(burst.remove(0));
    assert_eq!(pool.available(), 64);
}

#[test]
fn frames_too_short_to_send_are_counted_and_freed() {
    let mut rings = Rings::new();
    let port = &mut rings.ports[0];
    let mut frames: Vec<Frame> = [60, 0, 13, 61]
        .map(|len| {
            let mut frame = port.allocate().expect("a frame");
            assert!(frame.resize(len));
            frame
        })
        .into();
    assert_eq!(port.tx_burst(&mut frames), 4);
    let mut received = Vec::with_capacity(BURST);
    assert_eq!(port.rx_burst(&mut received), 2);
    assert_eq!((received[0].len(), received[1].len()), (60, 61));
    assert_eq!(port.device_counters().tx_errors, 2);
    for frame in received {
        port.free(frame);
    }
    assert_eq!(port.buffers_out(), 0);
}

#[test]
fn headers_spread_over_the_cache_sets() {
    let mut rings = Rings::new();
    let port = &mut rings.ports[0];
    let frames: Vec<Frame> = (0..64).map(|_| port.allocate().expect("a frame")).collect();
    let sets: std::collections::BTreeSet<usize> = frames
        .iter()
        .map(|frame| frame.bytes().as_ptr().addr() / 64 % 64)
        .collect();
    assert!(
        sets.len() > 48,
        "64 frames start in {} of 64 sets",
        sets.len()
    );
    for frame in frames {
        port.free(frame);
    }
}

#[test]
fn what_does_not_fit_the_buffers_is_refused() {
    let number = attach("net_ring", "");
    let jumbo = DpdkConfig {
        mtu: Some(9000),
        ..config()
    };
    let refused = DpdkPort::group(eal(), &[number], &jumbo)
        .expect_err("a 9000-byte frame needs a larger buffer");
    assert!(matches!(refused, PortError::Dpdk(_)));
    assert!(
        refused
            .to_string()
            .contains("2048 bytes of frame per buffer, 9018 were asked for"),
        "{refused}"
    );
    let wider = DpdkConfig {
        frame_room: 9100,
        buffers_per_port: 64,
        promiscuous: Promiscuous::On,
        ..config()
    };
    let group = DpdkPort::group(eal(), &[number], &wider).expect("buffers that are large enough");
    assert_eq!(group.ports()[0].device().promiscuous(), Promiscuous::On);
}

#[test]
fn frames_outlive_their_ports() {
    let mut rings = Rings::new();
    rings.send(0, &numbered(77, 60));
    let mut burst = Vec::with_capacity(BURST);
    assert_eq!(rings.ports[0].rx_burst(&mut burst), 1);
    drop(rings);
    assert_eq!(number_of(burst[0].bytes()), 77);
}
