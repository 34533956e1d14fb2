//! An lcore allocates nothing after start, and frees nothing either.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use march_pipeline::Now;
use march_port::mem::{Faults, MemConfig, Sink};
use march_tables::{Guard, Publisher};
use march_wire::DropReason;

use crate::flood::guarded;
use crate::world::{self, Dice, World};

/// The system's allocator, counting what this thread asks of it.
struct Counting;

thread_local! {
    static CALLS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    // A thread that is ending has no counter any more, and nobody looks.
    let _ = CALLS.try_with(|calls| calls.set(calls.get() + 1));
}

// SAFETY: every call is passed on unchanged to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's contract is the same.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count();
        // SAFETY: the caller's contract is the same.
        unsafe { System.dealloc(pointer, layout) }
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's contract is the same.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn calls() -> u64 {
    CALLS.with(Cell::get)
}

#[test]
fn the_counter_counts() {
    let before = calls();
    drop(std::hint::black_box(Box::new(1_u8)));
    assert_eq!(calls() - before, 2);
}

#[test]
fn no_turn_allocates_or_frees() {
    let mut publisher = Publisher::new(world::generation(&world::config(), None));
    let mut reader = publisher.reader();
    let memory = MemConfig {
        sink: Sink::Keep,
        faults: Faults {
            seed: 3,
            rx_loss: 5_000,
            tx_full: 50_000,
            pool_dry: 50_000,
            ..Faults::default()
        },
        ..MemConfig::default()
    };
    let mut world = World::new(memory, &publisher.current());
    let mut dice = Dice(7);
    let mut now_ms = 0;
    for turn in 0..3_000 {
        for _ in 0..dice.below(100) {
            let frame = world::mixed(&mut dice);
            let _ = world.lcore.ports_mut()[0].inject(&frame);
        }
        let _ = world.kernel.send(1, &[0x55; 98]);
        if turn % 20 == 0 {
            let config = match turn / 20 % 3 {
                0 => world::changed(),
                1 => guarded(
                    world::resolved(),
                    Guard {
                        block: vec![0],
                        allow: Vec::new(),
                        per_source: Some(1),
                    },
                ),
                _ => world::config(),
            };
            let next = world::generation(&config, Some(&publisher.current()));
            publisher.publish(next);
        }

        let before = calls();
        world.lcore.turn(reader.load(), Now { ms: now_ms });
        assert_eq!(calls(), before, "turn {turn} used the allocator");

        while let Some(frame) = world.lcore.ports_mut()[1].collect_bytes() {
            if let Some(answer) = world::turned_around(&frame) {
                let _ = world.lcore.ports_mut()[1].inject(&answer);
            }
        }
        while world.lcore.ports_mut()[0].collect_bytes().is_some() {}
        while world.punts.receive(|_, _| ()).is_some() {}
        while world.requests.pop().is_some() {}
        now_ms += u32::try_from(dice.below(20)).expect("small");
    }
    world.assert_balanced();
    // It was no idle run: flows came and went, frames were held, answered, punted, announced.
    let flows = &world.traffic.flows;
    assert!(
        flows.created.get() > 1_000 && flows.expired.get() > 100,
        "{flows:?}"
    );
    for id in 0..2 {
        assert!(world.port(id).forwarded.get() > 1_000, "port {id}");
        assert!(
            world
                .port(id)
                .originated
                .iter()
                .all(|kind| kind.get() > 0 || id == 0)
        );
    }
    assert!(world.port(0).answered.get() > 100 && world.port(0).punted.get() > 100);
    assert!(world.counters.resolve_requests.get() > 0);
    assert!(world.port(0).drops.of(DropReason::Blocked).get() > 100);
    assert!(world.traffic.sources.tracked.get() > 2);
}
