//! A few hundred packets through one world, with time passing and configurations changing in between.

use std::collections::{BTreeMap, BTreeSet};

use march_policy::{State, Tuple};
use march_wire::quote::{self, QuotedL4};
use march_wire::{L4, Packet, Verdict, parse};

use crate::config::World;
use crate::dice::Dice;
use crate::frames::{self, Incoming};
use crate::mutant::Mutation;
use crate::rig::{Difference, Rig};

/// Steps of an episode: a burst, a change, or time.
const STEPS: usize = 400;
/// Frames that come in together, at most.
const TOGETHER: usize = 12;

/// What an episode went through.
#[derive(Clone, Debug, Default)]
pub struct Course {
    /// Packets that both sides decided about.
    pub packets: u64,
    /// How many ended how.
    pub verdicts: BTreeMap<String, u64>,
}

impl Course {
    /// Adds another.
    pub fn add(&mut self, other: Self) {
        self.packets += other.packets;
        for (verdict, count) in other.verdicts {
            *self.verdicts.entry(verdict).or_default() += count;
        }
    }
}

/// Runs the episode of a seed; the data plane gets what `mutation` makes of each configuration.
pub fn run(seed: u64, mutation: Option<Mutation>) -> Result<Course, Difference> {
    let mut course = Course::default();
    match attempt(seed, mutation, Counting::Seldom, &mut course) {
        Ok(()) => Ok(course),
        Err(_) => {
            // Once more with all counters compared after every step, for the first difference that shows anywhere.
            let mut again = Course::default();
            let difference = attempt(seed, mutation, Counting::Always, &mut again).err();
            let text = difference
                .map(|difference| difference.0)
                .unwrap_or_default();
            Err(Difference(format!(
                "seed {seed:#x}, packet {}: {text}",
                again.packets
            )))
        }
    }
}

/// When counters are compared.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Counting {
    Seldom,
    Always,
}

fn attempt(
    seed: u64,
    mutation: Option<Mutation>,
    counting: Counting,
    course: &mut Course,
) -> Result<(), Difference> {
    let mut dice = Dice::new(seed);
    let mut world = World::new(&mut dice);
    // Clocks wrap.
    let start_ms = if dice.percent(20) {
        u32::MAX - 5_000
    } else {
        1_000_000
    };
    let mut rig = Rig::new(&world, mutation, start_ms, dice.bits());
    for step in 0..STEPS {
        match dice.below(100) {
            0..5 => {
                world.change(&mut dice);
                rig.change(&world);
            }
            5..13 => rig.wait(dice.pick(&[1, 2, 5, 20, 100, 900])),
            13 => rig.wait_and_sweep(dice.pick(&[2_000, 11_000, 31_000, 61_000])),
            _ => {
                let (ingress, frames) = burst(&mut dice, &world, rig.state());
                let verdicts = rig.burst(ingress, &frames)?;
                course.packets += frames.len() as u64;
                for verdict in verdicts {
                    *course.verdicts.entry(word(verdict)).or_default() += 1;
                }
            }
        }
        if counting == Counting::Always || step % 50 == 49 {
            rig.compare_counters()?;
        }
    }
    rig.compare_counters()
}

fn word(verdict: Verdict) -> String {
    match verdict {
        Verdict::Forward { .. } => "forward".to_owned(),
        Verdict::Answer { .. } => "answer".to_owned(),
        Verdict::Punt => "punt".to_owned(),
        Verdict::Hold => "hold".to_owned(),
        Verdict::Drop(reason) => format!("drop {reason}"),
    }
}

/// One frame or some. Those that come in together are of different flows, and nothing but flows is used up by them: the data plane
/// does not say in which order it looks at them.
fn burst(dice: &mut Dice, world: &World, state: &State) -> (u16, Vec<Vec<u8>>) {
    let Incoming { ingress, frame } = frames::frame(dice, state);
    let more = if world.config.limits.is_empty() && dice.percent(40) {
        dice.below(TOGETHER)
    } else {
        0
    };
    let mut seen: BTreeSet<Tuple> = identity(&frame, state).into_iter().collect();
    let mut frames = vec![frame];
    for _ in 0..more {
        let Incoming { frame, .. } = frames::frame_on(dice, state, ingress);
        let ids = identity(&frame, state);
        if ids.iter().all(|id| !seen.contains(id)) {
            seen.extend(ids);
            frames.push(frame);
        }
    }
    (ingress, frames)
}

/// What a frame could find or open: by its own ends, and by those of what it quotes.
fn identity(frame: &[u8], state: &State) -> Vec<Tuple> {
    let Ok(Packet::Ip(packet)) = parse(frame) else {
        return Vec::new();
    };
    let Some((src, dst)) = packet.ip_addresses(frame) else {
        return Vec::new();
    };
    let (src_port, dst_port) = match packet.l4 {
        L4::Icmp { id, .. } => (id, id),
        _ => packet.ports(),
    };
    let own = Tuple {
        src,
        dst,
        src_port,
        dst_port,
        protocol: packet.protocol,
    };
    let mut all = vec![own];
    if let Ok(quote) = quote::parse(frame, &packet) {
        let (src_port, dst_port) = match quote.l4 {
            QuotedL4::Icmp { id, .. } => (id, id),
            _ => quote.ports(),
        };
        let v4 = quote
            .addresses::<core::net::Ipv4Addr, _>(frame)
            .map(|(a, b)| (a.into(), b.into()));
        let v6 = quote
            .addresses::<core::net::Ipv6Addr, _>(frame)
            .map(|(a, b)| (a.into(), b.into()));
        if let Some((dst, src)) = v4.or(v6) {
            all.push(Tuple {
                src,
                dst,
                src_port: dst_port,
                dst_port: src_port,
                protocol: quote.protocol,
            });
        }
    }
    let flow = |tuple: Tuple| state.flow_of(tuple).map_or(tuple, |(flow, _)| flow.forward);
    all.into_iter().map(flow).collect()
}
