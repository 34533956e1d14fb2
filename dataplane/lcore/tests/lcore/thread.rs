//! The lcore on its own thread, under the agent's control.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use march_lcore::{Clock, Command, Idle, LcoreError, LcoreHandle, Machine, SYSFS, Settings, start};
use march_pipeline::{Counters, Limits};
use march_port::mem::{MemConfig, MemPeer, MemPort};
use march_tables::Publisher;
use march_wire::build::PacketBuilder;

use crate::world;

fn settings(idle: Idle) -> Settings {
    let machine = Machine::discover(Path::new(SYSFS)).expect("a machine");
    Settings {
        cpus: machine.rank(None, &[]),
        idle,
        pipeline: world::settings(),
        hold_frames: 64,
        hold_ms: world::HOLD_MS,
        ring_frames: 64,
        requests: 64,
        clock: Clock::calibrate(),
    }
}

fn started(settings: Settings, publisher: &Publisher) -> (LcoreHandle, Vec<MemPeer>) {
    let (group, peers) = MemPort::group_with_peers(2, MemConfig::default(), 256);
    let traffic = Arc::new(Counters::new(Limits::default()));
    let lcore = start(settings, group, publisher.reader(), traffic).expect("an lcore");
    (lcore, peers)
}

/// Polls until `condition` gives something; panics after a time that no healthy run needs.
fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(
            start.elapsed() < Duration::from_secs(30),
            "{what} did not happen"
        );
        std::thread::yield_now();
    }
}

#[test]
fn forwards_switches_generation_and_stops() {
    let mut publisher = Publisher::new(world::generation(&world::config(), None));
    let (lcore, peers) = started(settings(Idle::Relax), &publisher);
    assert!(lcore.is_running());
    eventually("the first generation", || {
        (lcore.counters.generation.get() == 1).then_some(())
    });

    let request = PacketBuilder::between("10.9.0.1", "192.0.2.10")
        .udp(4000, 53)
        .payload(b"who");
    assert!(peers[0].send(&world::from_client(request)));
    let is_ours = |frame: &Vec<u8>| frame.windows(3).any(|part| part == b"who");
    let forwarded = eventually("the request", || peers[1].receive().filter(is_ours));
    let answer = world::turned_around(&forwarded).expect("a UDP packet");
    assert!(peers[1].send(&answer));
    let returned = eventually("the answer", || peers[0].receive().filter(is_ours));
    assert_eq!(
        returned[26..34],
        [192, 0, 2, 10, 10, 9, 0, 1],
        "from the VIP to the client"
    );

    let next = world::generation(&world::changed(), Some(&publisher.current()));
    publisher.publish(next);
    eventually("the second generation", || {
        (lcore.counters.generation.get() == 2).then_some(())
    });
    eventually("its release", || (publisher.reclaim() == 0).then_some(()));

    assert!(lcore.command(Command::ForgetWorst));
    eventually("a nap", || (lcore.counters.naps.get() > 0).then_some(()));
    assert!(lcore.counters.busy_cycles.get() > 0 && lcore.counters.idle_cycles.get() > 0);
    lcore.stop().expect("a clean end");
}

#[test]
fn runs_on_the_cpu_that_it_was_given() {
    let publisher = Publisher::new(world::generation(&world::config(), None));
    // The worst choice, which no other test's lcore is pinned to where there are two CPUs.
    let mut settings = settings(Idle::Poll);
    settings.cpus.drain(..settings.cpus.len() - 1);
    let cpu = settings.cpus[0];
    let (lcore, _peers) = started(settings, &publisher);
    assert_eq!(lcore.cpu, cpu);
    // The kernel's view of this process's thread of that name.
    let tasks = std::fs::read_dir("/proc/self/task").expect("threads");
    let allowed: Vec<String> = tasks
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("status")).ok())
        .filter(|status| status.contains("Name:\tlcore"))
        .filter_map(|status| {
            let line = status
                .lines()
                .find(|line| line.starts_with("Cpus_allowed_list:"))?;
            Some(line.split_whitespace().nth(1)?.to_owned())
        })
        .collect();
    assert!(
        allowed.contains(&lcore.cpu.to_string()),
        "{allowed:?} has no {}",
        lcore.cpu
    );
}

#[test]
fn says_why_it_does_not_run() {
    let publisher = Publisher::new(world::generation(&world::config(), None));
    let nowhere = Settings {
        cpus: vec![1023, 5000],
        ..settings(Idle::Relax)
    };
    let group = MemPort::group(2, MemConfig::default());
    let traffic = Arc::new(Counters::new(Limits::default()));
    let error =
        start(nowhere, group, publisher.reader(), Arc::clone(&traffic)).expect_err("no such CPU");
    assert!(
        matches!(&error, LcoreError::Pin(cpus) if *cpus == [1023, 5000]),
        "{error}"
    );

    let few = Limits {
        ports: 1,
        ..Limits::default()
    };
    let group = MemPort::group(2, MemConfig::default());
    let error = start(
        settings(Idle::Relax),
        group,
        publisher.reader(),
        Arc::new(Counters::new(few)),
    )
    .expect_err("too many ports");
    assert!(
        error.to_string().starts_with("2 ports are more than the 1"),
        "{error}"
    );
}

#[test]
fn dropping_the_handle_stops_the_lcore() {
    let publisher = Publisher::new(world::generation(&world::config(), None));
    let (lcore, _peers) = started(settings(Idle::Relax), &publisher);
    let traffic = Arc::downgrade(&lcore.traffic);
    drop(lcore);
    assert!(
        traffic.upgrade().is_none(),
        "the thread is gone, and with it the last user"
    );
}
