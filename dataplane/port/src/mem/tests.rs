use super::*;

fn two_ports(config: MemConfig) -> (MemPort, MemPort) {
    let mut ports = MemPort::group(2, config).into_ports().into_iter();
    (ports.next().unwrap(), ports.next().unwrap())
}

#[test]
fn a_full_receive_ring_and_a_dry_pool_are_told_apart_and_counted() {
    let (mut port, _other) = two_ports(MemConfig {
        buffers: 4,
        rx_ring: 3,
        ..MemConfig::default()
    });
    for _ in 0..3 {
        port.inject(&[1; 60]).unwrap();
    }
    assert_eq!(port.inject(&[1; 60]), Err(InjectError::RingFull));
    let mut burst = Vec::with_capacity(BURST);
    assert_eq!(port.rx_burst(&mut burst), 3);
    port.inject(&[1; 60]).unwrap();
    assert_eq!(port.inject(&[1; 60]), Err(InjectError::PoolDry));
    assert_eq!(port.device_counters().rx_missed, 2);
    assert_eq!(port.counters_probe().read().rx_missed, 2);
    for frame in burst {
        port.free(frame);
    }
    assert_eq!(
        port.inject(&[0; 2000]),
        Err(InjectError::TooLong { len: 2000 })
    );
    assert_eq!(
        port.census(),
        Census {
            total: 4,
            free: 3,
            device: 0,
            frames: 1
        }
    );
}

#[test]
fn faults_lose_reorder_and_refuse_but_never_leak() {
    let faults = Faults {
        seed: 3,
        rx_loss: 100_000,
        rx_reorder: 100_000,
        tx_full: 300_000,
        pool_dry: 500_000,
    };
    let (mut left, mut right) = two_ports(MemConfig {
        faults,
        ..MemConfig::default()
    });
    let (mut burst, mut received) = (Vec::with_capacity(BURST), Vec::new());
    let mut short = 0;
    for round in 0..200u32 {
        for number in 0..10 {
            left.inject(&(round * 10 + number).to_be_bytes()).unwrap();
        }
        left.rx_burst(&mut burst);
        while !burst.is_empty() {
            let waiting = burst.len();
            short += u32::from(right.tx_burst(&mut burst) < waiting);
        }
        while let Some(bytes) = right.collect_bytes() {
            received.push(u32::from_be_bytes(bytes.try_into().unwrap()));
        }
    }
    let lost = left.device_counters().rx_missed;
    assert_eq!(received.len() as u64 + lost, 2000);
    assert!((100..400).contains(&lost), "{lost} lost of 2000 at 10 %");
    assert!(short > 20, "a full ring was met {short} times");
    assert!(
        received.windows(2).any(|pair| pair[0] > pair[1]),
        "something was reordered"
    );
    assert_eq!(left.census().frames, 0);
    let dry = (0..100).filter(|_| match left.allocate() {
        Some(frame) => {
            left.free(frame);
            false
        }
        None => true,
    });
    assert!((20..80).contains(&dry.count()));
}

#[test]
fn a_peer_on_another_thread_sees_what_was_sent() {
    let (group, peers) = MemPort::group_with_peers(2, MemConfig::default(), 16);
    assert!(peers[0].send(b"hello"));
    let lcore = std::thread::spawn(move || {
        let mut ports = group.into_ports();
        let mut burst = Vec::with_capacity(BURST);
        assert_eq!(ports[0].rx_burst(&mut burst), 1);
        ports[1].tx_burst(&mut burst);
        ports[1].poll();
        ports[0].census().frames
    });
    assert_eq!(lcore.join().unwrap(), 0);
    assert_eq!(peers[1].receive().as_deref(), Some(&b"hello"[..]));
    assert_eq!((peers[1].receive(), peers[0].unread()), (None, 0));
}

#[test]
fn frames_may_outlive_their_ports() {
    let (mut port, other) = two_ports(MemConfig::default());
    port.inject(b"still here").unwrap();
    let mut burst = Vec::with_capacity(BURST);
    port.rx_burst(&mut burst);
    drop((port, other));
    assert_eq!(burst[0].bytes(), b"still here");
}

#[test]
#[should_panic(expected = "frame of another pool")]
fn a_frame_of_another_pool_is_a_bug() {
    let (mut ours, _) = two_ports(MemConfig::default());
    let (mut theirs, _) = two_ports(MemConfig::default());
    let frame = theirs.allocate().unwrap();
    ours.free(frame);
}

#[test]
fn frames_start_in_many_cache_sets() {
    let (mut port, _other) = two_ports(MemConfig::default());
    let frames: Vec<Frame> = (0..64).map(|_| port.allocate().unwrap()).collect();
    let sets: std::collections::BTreeSet<usize> = frames
        .iter()
        .map(|frame| frame.bytes().as_ptr().addr() / 64 % 64)
        .collect();
    assert_eq!(sets.len(), 64);
    for frame in frames {
        port.free(frame);
    }
}
