//! The program on a real interface: a veth pair in a network namespace of the test's own. Needs root and iproute2.

use std::process::Command;
use std::time::{Duration, Instant};

use march_bpf_loader::{AddressSet, Counters, LoaderError, Mode, Steering};
use march_wire::DropReason;
use march_wire::build::PacketBuilder;
use rustix::fd::OwnedFd;
use rustix::net::{AddressFamily, SendFlags, SocketType, netdevice};

const PORT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

fn ip(arguments: &str) {
    let output = Command::new("ip")
        .args(arguments.split(' '))
        .output()
        .expect("iproute2");
    assert!(
        output.status.success(),
        "ip {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A namespace with a veth pair `port` and `peer`, this thread in it. The namespace goes when the thread is done.
fn veth_pair() {
    // SAFETY: only the calling thread's network namespace changes.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }.expect("root");
    ip(
        "link add port address 02:00:00:00:00:02 type veth peer name peer address 02:00:00:00:00:01",
    );
    for interface in ["port", "peer"] {
        ip(&format!("link set {interface} up"));
    }
}

/// A packet socket on `peer`, to send whole frames.
fn sender() -> OwnedFd {
    rustix::net::socket(AddressFamily::PACKET, SocketType::RAW, None).expect("root")
}

fn send(socket: &OwnedFd, frame: &[u8]) {
    let index = netdevice::name_to_index(socket, "peer").unwrap();
    let index = i32::try_from(index).unwrap();
    let address = packet::Address::new(index);
    let sent = rustix::net::sendto(socket, frame, SendFlags::empty(), &address).unwrap();
    assert_eq!(sent, frame.len());
}

mod packet {
    //! `struct sockaddr_ll` of `packet(7)`.
    use rustix::net::addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque};

    #[repr(C)]
    pub struct Address {
        family: u16,
        protocol: u16,
        index: i32,
        hardware: u16,
        kind: u8,
        len: u8,
        mac: [u8; 8],
    }

    const _: () = assert!(size_of::<Address>() == 20);

    impl Address {
        pub fn new(index: i32) -> Address {
            Address {
                family: 17,
                protocol: 0,
                index,
                hardware: 0,
                kind: 0,
                len: 6,
                mac: [0; 8],
            }
        }
    }

    // SAFETY: the pointer and length are those of a `sockaddr_ll`, alive for the whole call.
    unsafe impl SocketAddrArg for Address {
        unsafe fn with_sockaddr<R>(
            &self,
            f: impl FnOnce(*const SocketAddrOpaque, SocketAddrLen) -> R,
        ) -> R {
            f(std::ptr::from_ref(self).cast(), 20)
        }
    }
}

/// Polls the counters until they satisfy `done`.
fn wait_for(steering: &Steering, done: impl Fn(&Counters) -> bool) -> Counters {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let counters = steering.counters().unwrap();
        if done(&counters) {
            return counters;
        }
        assert!(Instant::now() < deadline, "still {counters:?}");
        std::thread::yield_now();
    }
}

#[test]
fn frames_on_a_veth_pair_are_decided_and_counted() {
    veth_pair();
    let mut steering = Steering::load().unwrap();
    steering.set_mac(PORT_MAC).unwrap();
    let set = AddressSet {
        kernel: vec!["192.0.2.1".parse().unwrap()],
        vips: vec!["198.51.100.10".parse().unwrap()],
        ..AddressSet::default()
    };
    steering.publish(&set).unwrap();
    let attached = steering.attach("port").unwrap();
    assert_eq!(
        (attached.mode, attached.native_refusal.as_deref()),
        (Mode::Native, None)
    );

    let socket = sender();
    let to = |dst: &str| {
        PacketBuilder::between("192.0.2.7", dst)
            .macs(PEER_MAC, PORT_MAC)
            .udp(1, 2)
            .build()
    };
    let before = steering.counters().unwrap();
    for _ in 0..3 {
        send(&socket, &to("198.51.100.10"));
        send(&socket, &to("203.0.113.5"));
    }
    let dropped = |counters: &Counters, reason| {
        counters.dropped(reason).packets - before.dropped(reason).packets
    };
    let after = wait_for(&steering, |counters| {
        dropped(counters, DropReason::NoSocket) == 3
            && dropped(counters, DropReason::NoService) == 3
    });
    // The kernel's own chatter on a fresh link may have been passed meanwhile; the sum holds nevertheless.
    let drops: u64 = after.drops().map(|(_, tally)| tally.packets).sum();
    assert_eq!(
        after.seen.packets,
        after.passed.packets + after.redirected.packets + drops
    );

    let passed = after.passed.packets;
    send(&socket, &to("192.0.2.1"));
    wait_for(&steering, |counters| counters.passed.packets > passed);

    steering.detach().unwrap();
    let mut again = Steering::load().unwrap();
    again.attach("port").expect("the interface is free again");
}

#[test]
fn a_foreign_program_is_named_and_stays() {
    veth_pair();
    let mut first = Steering::load().unwrap();
    first.attach("port").unwrap();
    let mut second = Steering::load().unwrap();
    let Err(LoaderError::Foreign {
        interface,
        name,
        id,
    }) = second.attach("port")
    else {
        panic!("a second program took the interface");
    };
    assert_eq!(
        (interface.as_str(), name.as_str(), id),
        ("port", "steer", first.program_id().unwrap())
    );
    assert!(matches!(
        first.attach("peer"),
        Err(LoaderError::Twice { .. })
    ));
    // Dropping gives the interface back.
    drop(first);
    second.attach("port").unwrap();
    assert!(matches!(
        Steering::load().unwrap().attach("none"),
        Err(LoaderError::Interface { .. })
    ));
}

#[test]
fn sockets_are_refused_beyond_the_queues_and_if_they_are_none() {
    let mut steering = Steering::load().unwrap();
    let socket = sender();
    assert!(matches!(
        steering.register_socket(256, &socket),
        Err(LoaderError::Queue { queue: 256, .. })
    ));
    assert!(matches!(
        steering.register_socket(0, &socket),
        Err(LoaderError::Socket { queue: 0, .. })
    ));
}
