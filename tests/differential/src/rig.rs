//! Both sides, side by side.

use core::fmt::Write as _;
use std::sync::Arc;

use march_pipeline::{Counters, Limits, MirrorSink, Now, Pipeline, Settings};
use march_policy::{
    Arrival, Chance, Counter, Decision, Mirrored, Observed, Policy, PrefixLists, State,
};
use march_tables::{Generation, PortId, build};
use march_wire::{Buffer, Packet, Verdict, parse};

use crate::buffer::Memory;
use crate::config::World;
use crate::mutant::Mutation;
use crate::tally;

/// What the two do not agree about, told at length.
#[derive(Clone, Debug)]
pub struct Difference(pub String);

impl core::fmt::Display for Difference {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// The data plane and the reference, given the same.
pub struct Rig {
    pipeline: Pipeline,
    counters: Arc<Counters>,
    generation: Generation,
    policy: Policy,
    state: State,
    mutation: Option<Mutation>,
    now_ms: u32,
    /// The burst before, for reports.
    last: Vec<Decision>,
}

/// Copies that were asked for.
#[derive(Default)]
struct Copies(Vec<(PortId, Vec<u8>)>);

impl MirrorSink for Copies {
    fn copy(&mut self, port: PortId, frame: &[u8]) -> bool {
        self.0.push((port, frame.to_vec()));
        true
    }
}

/// Flows that fit, of each family: more than an episode opens.
const FLOWS: usize = 512;

impl Rig {
    /// Both sides of a world, nothing remembered.
    #[must_use]
    pub fn new(world: &World, mutation: Option<Mutation>, now_ms: u32, seed: u64) -> Self {
        let limits = Limits {
            ports: 8,
            services: 8,
            backends: 40,
            rules: 32,
        };
        let counters = Arc::new(Counters::new(limits));
        let settings = Settings {
            flows4: FLOWS,
            flows6: FLOWS,
            sources: 1024,
            seed: (seed, !seed),
        };
        let pipeline =
            Pipeline::new(settings, Arc::clone(&counters)).expect("memory for a small table");
        Self {
            pipeline,
            counters,
            generation: generation(world, mutation, None),
            policy: Policy::new(&world.config, sets(world)),
            state: State::new(),
            mutation,
            now_ms,
            last: Vec::new(),
        }
    }

    /// What the reference remembers.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Both sides get another configuration.
    pub fn change(&mut self, world: &World) {
        let before = self.policy.config().clone();
        self.state.on_change(&before, &world.config);
        self.policy = Policy::after(&self.policy, &world.config, sets(world));
        self.generation = generation(world, self.mutation, Some(&self.generation));
    }

    /// Time passes, too little for a flow to end.
    pub fn wait(&mut self, ms: u32) {
        self.now_ms = self.now_ms.wrapping_add(ms);
    }

    /// Time passes, and what was silent for too long ends.
    pub fn wait_and_sweep(&mut self, ms: u32) {
        // A whole round of the sweep is owed after two seconds.
        self.wait(ms.max(2_000));
        for _ in 0..2 * FLOWS {
            self.pipeline
                .expire(&self.generation, Now { ms: self.now_ms });
        }
        self.state.on_time(&self.policy, self.now_ms);
    }

    /// Frames that come in together. Each is decided by both sides, and everything is compared.
    pub fn burst(
        &mut self,
        ingress: PortId,
        frames: &[Vec<u8>],
    ) -> Result<Vec<Verdict>, Difference> {
        let mut buffers: Vec<Memory> = frames.iter().map(|frame| Memory::of(frame)).collect();
        let mut verdicts = vec![Verdict::Punt; frames.len()];
        let mut copies = Copies::default();
        let now = Now { ms: self.now_ms };
        self.pipeline.process(
            &self.generation,
            now,
            ingress,
            &mut buffers,
            &mut verdicts,
            &mut copies,
        );
        self.pipeline.take_requests().for_each(drop);
        let mut expected = Vec::new();
        self.last.clear();
        for ((frame, buffer), verdict) in frames.iter().zip(&buffers).zip(&verdicts) {
            let arrival = Arrival {
                now_ms: self.now_ms,
                ingress,
                frame,
            };
            let observed = Observed {
                verdict: *verdict,
                frame: buffer.bytes(),
            };
            let decision = self.policy.follow(&mut self.state, arrival, &observed);
            if !decision.agrees(&observed) {
                return Err(self.tell(arrival, &decision, *verdict, buffer.bytes()));
            }
            if let Some(Mirrored::Copied(port, copy)) = &decision.mirrored {
                expected.push((*port, copy.clone()));
            }
            self.last.push(decision);
        }
        expected.sort();
        copies.0.sort();
        if expected != copies.0 {
            return Err(Difference(format!(
                "copies: {expected:02x?}, the data plane made {:02x?}",
                copies.0
            )));
        }
        Ok(verdicts)
    }

    /// Compares every counter, and how many flows there are.
    pub fn compare_counters(&self) -> Result<(), Difference> {
        let mut found = tally::of(&self.counters);
        let mut text = String::new();
        for (counter, expected) in self.state.counters() {
            // Copies are counted by whoever sends them, and were compared one by one.
            if matches!(counter, Counter::Mirrored(_)) {
                continue;
            }
            let found = found.remove(&counter).unwrap_or(0);
            if found != expected {
                let _ = writeln!(
                    text,
                    "{counter:?}: {expected}, the data plane counts {found}"
                );
            }
        }
        for (counter, found) in found {
            let _ = writeln!(text, "{counter:?}: 0, the data plane counts {found}");
        }
        let of_family = |is_ipv4| {
            let mut flows = self.state.flows().collect::<Vec<_>>();
            flows.retain(|flow| flow.forward.src.is_ipv4() == is_ipv4);
            flows.len()
        };
        let (expected, found) = ([of_family(true), of_family(false)], self.pipeline.flows());
        if expected != found {
            let _ = writeln!(text, "flows: {expected:?}, the data plane has {found:?}");
        }
        if text.is_empty() {
            Ok(())
        } else {
            for decision in &self.last {
                let _ = writeln!(text, "after {decision:?}");
            }
            Err(Difference(text))
        }
    }

    fn tell(
        &self,
        arrival: Arrival<'_>,
        decision: &Decision,
        verdict: Verdict,
        after: &[u8],
    ) -> Difference {
        let mut text = String::new();
        let Arrival {
            now_ms,
            ingress,
            frame,
        } = arrival;
        let _ = writeln!(text, "at {now_ms} ms on port {ingress}: {}", hex(frame));
        let _ = writeln!(text, "  read as {:?}", parse(frame));
        let _ = writeln!(text, "reference: {:?}", decision.verdict);
        let _ = writeln!(text, "  {}", hex(&decision.frame));
        let _ = writeln!(text, "data plane: {verdict:?}");
        let _ = writeln!(text, "  {}", hex(after));
        let shown = Decision {
            frame: Vec::new(),
            ..decision.clone()
        };
        let _ = writeln!(text, "decided by: {shown:?}");
        let chosen = Chance::of(frame, after);
        if let (Some((dst, dst_port)), Some((src, src_port))) = (chosen.source, chosen.backend) {
            let protocol = parse(frame).map_or(0, |packet| match packet {
                Packet::Ip(packet) => packet.protocol,
                _ => 0,
            });
            let answers = march_policy::Tuple {
                src,
                dst,
                src_port,
                dst_port,
                protocol,
            };
            let _ = writeln!(text, "answers would find {:?}", self.state.flow_of(answers));
        }
        for before in &self.last {
            let _ = writeln!(text, "before it in the burst: {before:?}");
        }
        let _ = writeln!(text, "{:?}", self.policy.config().limits);
        let rules = self
            .policy
            .config()
            .rules
            .iter()
            .filter(|rule| !rule.is_vacant());
        for rule in rules {
            let _ = writeln!(text, "{rule:?}");
        }
        Difference(text)
    }
}

fn sets(world: &World) -> Arc<PrefixLists> {
    Arc::new(PrefixLists(world.lists.clone()))
}

fn generation(
    world: &World,
    mutation: Option<Mutation>,
    previous: Option<&Generation>,
) -> Generation {
    let mut config = world.config.clone();
    if let Some(mutation) = mutation {
        mutation.apply(&mut config);
    }
    build(&config, previous).expect("a generated configuration compiles")
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes.iter().take(160) {
        let _ = write!(text, "{byte:02x}");
    }
    let _ = write!(text, " ({} bytes)", bytes.len());
    text
}
