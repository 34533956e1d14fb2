//! `AF_XDP` ports over veth, in a network namespace of the test's own, under the common suite and by themselves.
#![cfg(feature = "xsk")]

mod support;

use march_port::xsk::{BusyPoll, CopyMode, Layout, XskConfig, XskMode, XskPort, XskTarget};
use march_port::{BURST, Frame, Port, PortError};
use march_wire::Buffer;
use support::namespace;
use support::raw::RawSocket;
use support::redirect::Redirect;
use support::suite::{self, Cabled, until};

/// Two `AF_XDP` ports; a packet socket at the far end of each.
struct Veths {
    ports: [XskPort; 2],
    far: [RawSocket; 2],
    _programs: [Redirect; 2],
}

fn target(interface: &str) -> XskTarget {
    XskTarget {
        interface: interface.to_owned(),
        queue: 0,
    }
}

fn open(interfaces: [&str; 2], config: &XskConfig) -> ([XskPort; 2], [Redirect; 2]) {
    let programs = interfaces.map(Redirect::attach);
    let group = XskPort::group(&interfaces.map(target), config).expect("AF_XDP over veth");
    for (port, program) in group.ports().iter().zip(&programs) {
        program.set(port.queue(), port.socket());
    }
    (group.into_ports().try_into().expect("two ports"), programs)
}

fn cabled(config: &XskConfig) -> Veths {
    namespace::enter();
    namespace::veth("p0", "far0");
    namespace::veth("p1", "far1");
    let (ports, programs) = open(["p0", "p1"], config);
    Veths {
        ports,
        far: ["far0", "far1"].map(RawSocket::open),
        _programs: programs,
    }
}

impl Cabled for Veths {
    type P = XskPort;
    fn ports(&mut self) -> &mut [XskPort; 2] {
        &mut self.ports
    }
    fn send(&mut self, port: usize, frame: &[u8]) {
        self.far[port].send(frame);
    }
    fn receive(&mut self, port: usize) -> Option<Vec<u8>> {
        self.far[port].receive()
    }
    fn frames_out(&mut self) -> usize {
        self.ports[0].census().frames
    }
}

#[test]
fn conforms() {
    let mut veths = cabled(&XskConfig::default());
    assert_eq!(
        veths.ports[0].layout(),
        Layout::Coloured,
        "copy mode takes chunks of any size"
    );
    suite::receives_the_same_bytes(&mut veths);
    suite::forwards_between_ports_in_place(&mut veths);
    suite::prepend_and_resize_reach_the_wire(&mut veths);
    suite::allocated_frames_are_sent(&mut veths);
}

#[test]
fn conforms_with_more_headroom_and_busy_polling() {
    let busy_poll = Some(BusyPoll {
        budget: 64,
        idle_us: 20,
    });
    let mut veths = cabled(&XskConfig {
        headroom: 320,
        busy_poll,
        mode: CopyMode::Copy,
        ..XskConfig::default()
    });
    suite::receives_the_same_bytes(&mut veths);
    suite::forwards_between_ports_in_place(&mut veths);
    suite::prepend_and_resize_reach_the_wire(&mut veths);
}

#[test]
fn a_full_ring_leaves_the_rest_in_order() {
    let mut veths = cabled(&XskConfig {
        tx_ring: 64,
        ..XskConfig::default()
    });
    suite::a_full_ring_leaves_the_rest_in_order(&mut veths, 500);
}

/// The far ends are `AF_XDP` ports as well: fast enough for a million frames, and a second user of everything here.
struct BackToBack {
    ports: [XskPort; 2],
    far: [XskPort; 2],
    outgoing: Vec<Frame>,
    incoming: Vec<Frame>,
    _programs: [[Redirect; 2]; 2],
}

impl Cabled for BackToBack {
    type P = XskPort;
    fn ports(&mut self) -> &mut [XskPort; 2] {
        &mut self.ports
    }
    fn send(&mut self, port: usize, frame: &[u8]) {
        let mut own = self.far[port].allocate().expect("a pool that is not dry");
        assert!(own.resize(frame.len()));
        own.bytes_mut().copy_from_slice(frame);
        self.outgoing.push(own);
        if self.outgoing.len() == BURST {
            self.far[port].tx_burst(&mut self.outgoing);
            self.far[port].poll();
        }
    }
    fn receive(&mut self, port: usize) -> Option<Vec<u8>> {
        if self.incoming.is_empty() {
            self.far[port].poll();
            self.far[port].rx_burst(&mut self.incoming);
            self.incoming.reverse();
        }
        let frame = self.incoming.pop()?;
        let bytes = frame.bytes().to_vec();
        self.far[port].free(frame);
        Some(bytes)
    }
    fn frames_out(&mut self) -> usize {
        self.ports[0].census().frames + self.far[0].census().frames
    }
    fn settle(&mut self) {
        self.far[0].tx_burst(&mut self.outgoing);
        self.far[0].poll();
    }
}

#[test]
fn a_million_frames_leak_nothing() {
    namespace::enter();
    namespace::veth("p0", "far0");
    namespace::veth("p1", "far1");
    let (ports, near_programs) = open(["p0", "p1"], &XskConfig::default());
    let (far, far_programs) = open(["far0", "far1"], &XskConfig::default());
    let (outgoing, incoming) = (Vec::with_capacity(BURST), Vec::with_capacity(BURST));
    let mut both = BackToBack {
        ports,
        far,
        outgoing,
        incoming,
        _programs: [near_programs, far_programs],
    };
    suite::never_leaks(&mut both, 1_000_000, 128);
}

#[test]
fn zero_copy_is_tried_and_its_refusal_told() {
    namespace::enter();
    namespace::veth("p0", "far0");
    let group = XskPort::group(&[target("p0")], &XskConfig::default()).expect("copy mode at least");
    assert_eq!(
        group.ports()[0].mode(),
        XskMode::Copy,
        "veth has no zero-copy"
    );
    let reason = group.ports()[0]
        .copy_reason()
        .expect("a reason for copying")
        .to_owned();
    assert!(
        reason.contains("bind with zero-copy") && reason.contains("p0"),
        "{reason}"
    );
    drop(group);
    let insisting = XskConfig {
        mode: CopyMode::ZeroCopy,
        ..XskConfig::default()
    };
    let refused = XskPort::group(&[target("p0")], &insisting).expect_err("veth has no zero-copy");
    assert!(
        matches!(
            refused,
            PortError::Socket {
                step: "bind with zero-copy",
                queue: 0,
                ..
            }
        ),
        "{refused}"
    );
}

#[test]
fn what_cannot_be_opened_is_named() {
    namespace::enter();
    namespace::veth("p0", "far0");
    let refused = |target: XskTarget, config: XskConfig| {
        XskPort::group(&[target], &config)
            .expect_err("refused")
            .to_string()
    };
    assert!(refused(target("nosuch"), XskConfig::default()).contains("no interface `nosuch`"));
    let queue = XskTarget {
        interface: "p0".to_owned(),
        queue: 9,
    };
    assert!(refused(queue, XskConfig::default()).contains("`p0` queue 9"));
    let odd_ring = XskConfig {
        rx_ring: 100,
        ..XskConfig::default()
    };
    assert!(refused(target("p0"), odd_ring).contains("rx_ring = 100"));
    let no_headroom = XskConfig {
        headroom: 64,
        ..XskConfig::default()
    };
    assert!(refused(target("p0"), no_headroom).contains("headroom = 64"));
}

#[test]
fn a_queue_is_free_again_after_its_port_is_gone() {
    namespace::enter();
    namespace::veth("p0", "far0");
    for _ in 0..3 {
        let group =
            XskPort::group(&[target("p0")], &XskConfig::default()).expect("the queue is free");
        let probe = group.ports()[0].counters_probe();
        drop(group);
        assert_eq!(probe.read(), march_port::DeviceCounters::default());
    }
}

#[test]
fn frames_that_nobody_takes_are_counted_as_missed() {
    let config = XskConfig {
        rx_ring: 64,
        frames_per_port: 512,
        ..XskConfig::default()
    };
    let mut veths = cabled(&config);
    for number in 0..500 {
        veths.far[0].send(&suite::numbered(number, 60));
    }
    let probe = veths.ports[0].counters_probe();
    until("losses counted", || probe.read().rx_missed + 64 >= 500);
    assert_eq!(veths.ports[0].device_counters().rx_missed, 500 - 64);
    let mut burst = Vec::with_capacity(BURST);
    assert_eq!(veths.ports[0].rx_burst(&mut burst), 64);
    for frame in burst {
        veths.ports[0].free(frame);
    }
}

#[test]
fn frames_too_large_for_a_chunk_are_counted_as_errors() {
    let mut veths = cabled(&XskConfig::default());
    let largest = veths.ports[0].largest_frame() as usize;
    assert!(largest >= 1518, "{largest} bytes hold an ordinary frame");
    for end in ["p0", "far0"] {
        namespace::ip(&["link", "set", end, "mtu", "3000"]);
    }
    veths.far[0].send(&suite::numbered(1, largest + 1));
    veths.far[0].send(&suite::numbered(2, largest));
    let mut burst = Vec::with_capacity(BURST);
    until("the frame that fits", || {
        veths.ports[0].rx_burst(&mut burst) == 1
    });
    assert_eq!(burst[0].bytes(), suite::numbered(2, largest));
    let counters = veths.ports[0].device_counters();
    assert_eq!((counters.rx_errors, counters.rx_missed), (1, 0));
    veths.ports[0].free(burst.remove(0));
}

#[test]
fn frames_too_short_to_send_are_counted_and_freed() {
    let mut veths = cabled(&XskConfig::default());
    let mut frames: Vec<Frame> = [0, 13, 60]
        .map(|len| {
            let mut frame = veths.ports[0].allocate().expect("a frame");
            assert!(frame.resize(len));
            frame.bytes_mut().fill(0x88);
            frame
        })
        .into();
    assert_eq!(veths.ports[0].tx_burst(&mut frames), 3);
    let mut received = None;
    until("the good one", || {
        veths.ports[0].poll();
        received = veths.far[0].receive();
        received.is_some()
    });
    assert_eq!(received, Some(vec![0x88; 60]));
    assert_eq!(veths.ports[0].device_counters().tx_errors, 2);
    assert_eq!(veths.ports[0].census().frames, 0);
}
