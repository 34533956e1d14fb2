//! Both conservation equations hold to the frame, whatever the ports, the traffic and the configuration do.

use std::sync::Arc;

use march_pipeline::Now;
use march_port::Port;
use march_port::mem::{Census, Faults, MemConfig, Sink};
use march_tables::Publisher;
use march_wire::DropReason;

use crate::world::{self, Dice, World};

/// What the outside saw of one port.
#[derive(Clone, Copy, Default)]
struct Seen {
    /// Offered to the port, which took it or counted it as missed.
    offered: u64,
    collected: u64,
}

struct Run {
    world: World,
    publisher: Publisher,
    reader: march_tables::Reader,
    dice: Dice,
    seen: [Seen; 2],
    punted: u64,
    now_ms: u32,
}

impl Run {
    fn new(seed: u64) -> Self {
        let publisher = Publisher::new(world::generation(&world::config(), None));
        let memory = MemConfig {
            // Small enough to run dry and full now and then even without the dice.
            buffers: 700,
            rx_ring: 256,
            tx_ring: 64,
            sink: Sink::Keep,
            faults: Faults {
                seed,
                rx_loss: 20_000,
                rx_reorder: 50_000,
                tx_full: 100_000,
                pool_dry: 100_000,
            },
            ..MemConfig::default()
        };
        Self {
            world: World::new(memory, &publisher.current()),
            reader: publisher.reader(),
            publisher,
            dice: Dice(seed | 1),
            seen: [Seen::default(); 2],
            punted: 0,
            // Close to the wrap of the clock.
            now_ms: u32::MAX - 500,
        }
    }

    fn inject(&mut self, port: usize, frame: &[u8]) {
        // Refused frames count as missed: the ring is full, or there is no buffer to receive into.
        let _ = self.world.lcore.ports_mut()[port].inject(frame);
        self.seen[port].offered += 1;
    }

    /// Collects what port `port` sent; port 1's receivers answer some of it.
    fn collect(&mut self, port: usize) {
        while let Some(frame) = self.world.lcore.ports_mut()[port].collect_bytes() {
            self.seen[port].collected += 1;
            let answers = port == 1 && self.dice.below(4) > 0;
            if let Some(answer) = world::turned_around(&frame).filter(|_| answers) {
                self.inject(1, &answer);
            }
        }
    }

    fn turn(&mut self) {
        let now = Now { ms: self.now_ms };
        self.world.lcore.turn(self.reader.load(), now);
        self.world.assert_balanced();
        let held: u64 = (0..2).map(|id| self.world.port(id).held.get()).sum();
        assert_eq!(
            held,
            self.world.lcore.held() as u64,
            "the gauge is the queue"
        );
    }

    fn step(&mut self) {
        for _ in 0..self.dice.below(120) {
            let frame = world::mixed(&mut self.dice);
            self.inject(0, &frame);
        }
        for _ in 0..self.dice.below(3) {
            let port = u16::try_from(self.dice.below(3)).expect("small");
            let _ = self.world.kernel.send(port, &[0x55; 98]);
        }
        if self.dice.below(10) == 0 {
            let config = match self.dice.below(3) {
                0 => world::config(),
                1 => world::resolved(),
                _ => world::changed(),
            };
            let next = world::generation(&config, Some(&self.publisher.current()));
            self.publisher.publish(next);
        }
        self.turn();
        // Now and then nobody collects, and the rings fill.
        if self.dice.below(4) > 0 {
            self.collect(0);
            self.collect(1);
        }
        if self.dice.below(6) == 0 {
            while self.world.punts.receive(|_, _| ()).is_some() {
                self.punted += 1;
            }
        }
        self.now_ms = self
            .now_ms
            .wrapping_add(u32::try_from(self.dice.below(40)).expect("small"));
    }

    /// Lets everything that still moves come to rest, then compares with what the outside saw.
    fn settle(&mut self) {
        for _ in 0..40 {
            self.turn();
            while self.world.lcore.ports_mut()[0].collect_bytes().is_some() {
                self.seen[0].collected += 1;
            }
            while self.world.lcore.ports_mut()[1].collect_bytes().is_some() {
                self.seen[1].collected += 1;
            }
            while self.world.punts.receive(|_, _| ()).is_some() {
                self.punted += 1;
            }
            self.now_ms = self.now_ms.wrapping_add(100);
        }
        assert_eq!(self.world.lcore.held(), 0, "nothing waits for ever");
        for id in 0..2 {
            let lost = self.world.lcore.ports_mut()[id].device_counters().rx_missed;
            let sent = self.world.lcore.ports_mut()[id].sent();
            let port = self.world.port(id);
            assert_eq!(
                port.rx_frames.get() + lost,
                self.seen[id].offered,
                "port {id} received"
            );
            assert_eq!(port.tx_frames.get(), sent, "port {id} sent");
            assert_eq!(
                port.tx_frames.get(),
                self.seen[id].collected,
                "port {id} delivered"
            );
        }
        let counted: u64 = (0..2).map(|id| self.world.port(id).punted.get()).sum();
        assert_eq!(counted, self.punted, "what was punted, the agent got");
        let Census {
            frames,
            free,
            total,
            ..
        } = self.world.lcore.ports_mut()[0].census();
        assert_eq!(
            (frames, free),
            (0, total),
            "every buffer is back in the pool"
        );
    }
}

#[test]
fn both_equations_hold_under_faults_and_generation_flips() {
    let mut totals = [0; DropReason::COUNT];
    let mut forwarded = [0; 2];
    for seed in 1..=6 {
        let mut run = Run::new(seed);
        for _ in 0..400 {
            run.step();
        }
        run.settle();
        for (id, forwarded) in forwarded.iter_mut().enumerate() {
            let port = run.world.port(id);
            *forwarded += port.forwarded.get();
            for reason in DropReason::ALL {
                totals[*reason as usize] += port.drops.of(*reason).get();
            }
        }
        assert!(run.world.port(0).held.get() == 0 && run.world.port(0).answered.get() > 0);
        assert!(
            run.world
                .port(1)
                .originated
                .iter()
                .any(|kind| kind.get() > 0)
        );
        assert!(
            run.world.port(0).originated_lost.get() > 0,
            "the pool ran dry for an originated frame"
        );
        assert_eq!(
            run.publisher.reclaim(),
            0,
            "no retired generation is still held"
        );
    }
    // The run exercised what it claims to.
    assert!(
        forwarded.iter().all(|count| *count > 1_000),
        "{forwarded:?}"
    );
    for reason in [
        DropReason::TxFull,
        DropReason::PuntFull,
        DropReason::NeighbourUnresolved,
        DropReason::RuleDrop,
        DropReason::NoService,
    ] {
        assert!(totals[reason as usize] > 0, "{reason} never happened");
    }
}

#[test]
fn closing_frees_what_is_held() {
    let publisher = Publisher::new(world::generation(&world::config(), None));
    let mut world = World::new(MemConfig::default(), &publisher.current());
    let packet = march_wire::build::PacketBuilder::between("10.9.0.1", "192.0.2.11");
    let frame = world::from_client(packet.udp(4000, 53));
    world.lcore.ports_mut()[0].inject(&frame).expect("room");
    world.lcore.turn(&publisher.current(), Now { ms: 1 });
    assert_eq!(world.port(0).held.get(), 1);
    let traffic = Arc::clone(&world.traffic);
    world.lcore.close();
    assert_eq!(traffic.ports[0].held.get(), 0);
    assert_eq!(
        traffic.ports[0]
            .drops
            .of(DropReason::NeighbourUnresolved)
            .get(),
        1
    );
}
