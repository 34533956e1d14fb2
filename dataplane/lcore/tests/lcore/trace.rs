//! What a trace records of live packets.

use std::sync::Arc;

use march_lcore::{Trace, TraceFilter, TraceRecord};
use march_pipeline::Now;
use march_port::mem::MemConfig;
use march_tables::Publisher;
use march_wire::build::PacketBuilder;
use march_wire::{DropReason, Verdict};

use crate::world::{self, World};

struct Scene {
    world: World,
    publisher: Publisher,
}

impl Scene {
    /// Every next hop is known, so that nothing waits.
    fn new() -> Self {
        let publisher = Publisher::new(world::generation(&world::resolved(), None));
        let world = World::new(MemConfig::default(), &publisher.current());
        Self { world, publisher }
    }

    fn trace(&mut self, filter: &str, count: u32) -> Arc<Trace> {
        let filter = TraceFilter::parse(filter, |_| None).expect("a filter");
        let trace = Trace::new(filter, count);
        self.world.lcore.trace(Arc::clone(&trace));
        trace
    }

    /// A datagram to a service, and one to nobody.
    fn send(&mut self, source_port: u16) {
        for destination in ["192.0.2.10", "203.0.113.200"] {
            let packet = PacketBuilder::between("10.9.0.1", destination).udp(source_port, 53);
            self.world.lcore.ports_mut()[0]
                .inject(&world::from_client(packet))
                .expect("room");
        }
    }

    fn turn(&mut self) {
        self.world
            .lcore
            .turn(&self.publisher.current(), Now { ms: 7 });
        self.world.assert_balanced();
    }
}

fn read(trace: &Trace) -> Vec<TraceRecord> {
    core::iter::from_fn(|| {
        let record = trace.next()?;
        let copy = *record;
        trace.give_back(record);
        Some(copy)
    })
    .collect()
}

#[test]
fn packets_are_shown_before_and_after_and_in_both_directions() {
    let mut scene = Scene::new();
    let trace = scene.trace("host 10.9.0.1 port 4000 forward", 100);
    scene.send(4000);
    scene.turn();
    let sent = core::iter::from_fn(|| scene.world.lcore.ports_mut()[1].collect_bytes())
        .find(|frame| world::turned_around(frame).is_some())
        .expect("the datagram went on");
    let [there] = read(&trace)[..] else {
        panic!("one record")
    };
    assert_eq!(there.verdict, Verdict::Forward { port: 1 });
    assert_eq!((there.ingress, there.at_ms), (0, 7));
    assert_eq!(there.after.bytes(), sent, "as it left");
    assert_ne!(there.before.bytes(), there.after.bytes());

    let answer = world::turned_around(&sent).expect("UDP");
    scene.world.lcore.ports_mut()[1]
        .inject(&answer)
        .expect("room");
    scene.turn();
    // Only as it leaves does the answer name the client.
    let [back] = read(&trace)[..] else {
        panic!("one record")
    };
    assert_eq!(
        (back.ingress, back.verdict),
        (1, Verdict::Forward { port: 0 })
    );
    assert_eq!(back.before.bytes(), answer);
}

#[test]
fn a_trace_ends_by_itself_and_leaves_no_trace() {
    let mut scene = Scene::new();
    let trace = scene.trace("drop no_service", 2);
    for source_port in 0..5 {
        scene.send(5000 + source_port);
    }
    scene.turn();
    let records = read(&trace);
    assert_eq!(records.len(), 2);
    assert!(
        records
            .iter()
            .all(|record| record.verdict == Verdict::Drop(DropReason::NoService))
    );
    assert!(trace.is_over());
    assert_eq!(
        Arc::strong_count(&trace),
        1,
        "the lcore has let go of it as soon as it was over"
    );
    scene.send(6000);
    scene.turn();
    assert!(read(&trace).is_empty());
}

#[test]
fn what_finds_no_room_is_counted() {
    let mut scene = Scene::new();
    let trace = scene.trace("", 10_000);
    for burst in 0..10 {
        for source_port in 0..30 {
            scene.send(1000 + 100 * burst + source_port);
        }
        scene.turn();
        while scene.world.lcore.ports_mut()[1].collect_bytes().is_some() {}
    }
    let records = read(&trace).len() as u64;
    assert_eq!(records + trace.lost(), 600);
    assert!(trace.lost() > 0 && !trace.is_over());
}
