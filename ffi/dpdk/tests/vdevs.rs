//! The owning types over virtual devices. One EAL for the whole binary.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use march_dpdk::{
    DpdkError, Eal, EalConfig, EthConfig, EthPort, HEADROOM, Mbuf, Memory, Mempool, MempoolConfig,
    Promiscuous, register_thread,
};

fn eal() -> &'static Eal {
    static EAL: OnceLock<Eal> = OnceLock::new();
    EAL.get_or_init(|| Eal::init(&config()).expect("the EAL starts"))
}

fn config() -> EalConfig {
    let file_prefix = format!("march-dpdk-test-{}", std::process::id());
    let vdevs = vec!["net_null90,size=100".to_owned()];
    EalConfig {
        file_prefix,
        vdevs,
        memory: Memory::Ordinary { megabytes: 256 },
        ..EalConfig::default()
    }
}

fn pool(buffers: u32) -> Mempool {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("pool{}", NEXT.fetch_add(1, Ordering::Relaxed));
    Mempool::create(
        eal(),
        &MempoolConfig {
            name,
            buffers,
            cache: 0,
            ..MempoolConfig::default()
        },
    )
    .expect("a pool")
}

fn burst() -> [Option<Mbuf>; 32] {
    [const { None }; 32]
}

#[test]
fn the_eal_starts_once() {
    eal();
    assert_eq!(
        Eal::init(&config()).expect_err("the second time"),
        DpdkError::AlreadyInitialised
    );
    let number = eal()
        .port_by_name("net_null90")
        .expect("the device of the arguments");
    assert!(eal().ports().contains(&number));
}

#[test]
fn unknown_devices_are_refused_with_the_reason() {
    let refused = eal().attach("net_nosuch0").expect_err("no such driver");
    assert!(
        matches!(&refused, DpdkError::Call { call: "rte_dev_probe", subject, .. } if subject == "net_nosuch0"),
        "{refused}"
    );
    let refused = eal().port_by_name("nothing").expect_err("no such device");
    assert_eq!(
        refused.to_string(),
        "rte_eth_dev_get_port_by_name (nothing): No such device (error 19)"
    );
}

#[test]
fn a_pool_hands_out_what_it_has_and_gets_it_back() {
    let pool = pool(7);
    let mut out: Vec<Mbuf> = core::iter::from_fn(|| pool.allocate()).collect();
    assert_eq!((out.len(), pool.available(), pool.buffers()), (7, 0, 7));
    out.truncate(3);
    assert_eq!(pool.available(), 4);
    drop(out);
    assert_eq!(pool.available(), 7);
    let name = MempoolConfig {
        name: "twice".into(),
        buffers: 7,
        cache: 0,
        ..MempoolConfig::default()
    };
    let _first = Mempool::create(eal(), &name).expect("the first of its name");
    let refused = Mempool::create(eal(), &name).expect_err("the name is taken");
    assert!(refused.to_string().contains("File exists"), "{refused}");
}

#[test]
fn a_buffer_outlives_the_handle_of_its_pool() {
    let only = pool(3);
    let mut buffer = only.allocate().expect("a buffer");
    drop(only);
    assert!(buffer.set_window(HEADROOM, 4));
    buffer.bytes_mut().copy_from_slice(b"kept");
    assert_eq!(buffer.bytes(), b"kept");
}

#[test]
fn windows_stay_inside_their_buffer() {
    let pool = pool(1);
    let mut buffer = pool.allocate().expect("a buffer");
    assert_eq!(
        (buffer.headroom(), buffer.len(), buffer.tailroom()),
        (HEADROOM, 0, 2048)
    );
    assert!(buffer.is_empty() && buffer.is_sound());
    assert!(buffer.set_window(HEADROOM, 100));
    buffer.bytes_mut()[0] = 9;
    assert!(buffer.prepend(28));
    assert_eq!(
        (buffer.headroom(), buffer.len(), buffer.bytes()[28]),
        (HEADROOM - 28, 128, 9)
    );
    assert!(!buffer.prepend(HEADROOM));
    assert!(buffer.adjust(28));
    assert_eq!(
        (buffer.headroom(), buffer.len(), buffer.bytes()[0]),
        (HEADROOM, 100, 9)
    );
    assert!(!buffer.adjust(101));
    assert!(!buffer.set_window(HEADROOM, 2049));
    assert!(!buffer.set_window(u16::MAX, u16::MAX));
    assert_eq!(buffer.len(), 100);
}

#[test]
fn a_port_is_configured_polled_and_comes_back_after_it_was_closed() {
    let pool = pool(2047);
    for _ in 0..3 {
        let number = eal().attach("net_ring91").expect("a device");
        let port = EthPort::open(eal(), number, &EthConfig::default(), &pool).expect("a port");
        assert_eq!(
            (port.driver(), port.name().as_str()),
            ("net_ring", "net_ring91")
        );
        assert!(port.link().expect("a link").is_up);
        port.set_promiscuous(Promiscuous::On).expect("net_ring can");
        assert_eq!(port.promiscuous(), Promiscuous::On);
        assert_eq!(port.mtu().expect("an MTU"), 1500);
        assert_eq!(eal().attach("net_ring91").expect("it is there"), number);
        let again = EthPort::open(eal(), number, &EthConfig::default(), &pool)
            .expect_err("it has an owner");
        assert_eq!(again, DpdkError::PortTaken { port: number.get() });
        let mut queue = port.take_queue(0).expect("the first time");
        assert!(port.take_queue(0).is_none() && port.take_queue(1).is_none());
        let mut mbufs = burst();
        for place in &mut mbufs[..5] {
            let mut buffer = pool.allocate().expect("a buffer");
            assert!(buffer.set_window(HEADROOM, 60));
            *place = Some(buffer);
        }
        assert_eq!(queue.tx_burst(&mut mbufs[..5]), 5);
        assert!(mbufs.iter().all(Option::is_none));
        assert_eq!(queue.rx_burst(&mut mbufs), 5);
        assert!(
            mbufs[..5]
                .iter()
                .flatten()
                .all(|mbuf| mbuf.len() == 60 && mbuf.is_sound())
        );
        let stats = port.stats();
        assert_eq!(
            (stats.tx_packets, stats.rx_packets, stats),
            (5, 5, queue.stats())
        );
        port.stop().expect("stops");
        drop(port);
        drop(queue);
        assert!(!eal().ports().contains(&number));
    }
    assert_eq!(pool.available(), 2047);
}

#[test]
fn more_queues_than_the_device_has_are_refused() {
    let number = eal().attach("net_null92").expect("a device");
    let config = EthConfig {
        queues: 2000,
        ..EthConfig::default()
    };
    let refused = EthPort::open(eal(), number, &config, &pool(63)).expect_err("too many queues");
    assert!(
        matches!(
            refused,
            DpdkError::Capacity {
                what: "receive queues",
                wanted: 2000,
                ..
            }
        ),
        "{refused}"
    );
}

#[test]
fn threads_of_ours_get_a_number_once() {
    eal();
    // SAFETY: reads a thread-local integer.
    let number = || unsafe { march_dpdk::sys::march_lcore_id() };
    assert_eq!(number(), march_dpdk::sys::MARCH_LCORE_NONE);
    let registration = register_thread().expect("a number");
    let ours = number();
    assert_ne!(ours, march_dpdk::sys::MARCH_LCORE_NONE);
    drop(register_thread().expect("already known"));
    assert_eq!(number(), ours, "the inner one is not its to end");
    drop(registration);
    assert_eq!(number(), march_dpdk::sys::MARCH_LCORE_NONE);
}
