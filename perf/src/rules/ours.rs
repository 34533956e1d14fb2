//! The product's side: generations built as the agent builds them, and lookups in the running one.

use std::sync::Arc;
use std::time::Instant;

use march_tables::{BuildError, Config, Generation, Rule, RuleList, RuleMatch, Rules, Subject};
use march_wire::tuple::{Address, Family};

use super::filter::{Filter, Packet};
use crate::clock::Random;

/// Packets that a lcore brings to the classifier at once, at most.
pub const BURST: usize = 64;

/// [`single`] or [`burst`].
pub type Lookup<A> = fn(&Rules, &[Subject<A>], &mut [Option<RuleMatch>]);

/// Priorities have room for one more rule between each two.
const STRIDE: u32 = 10;

/// A running generation and what it was built from.
pub struct Tables {
    config: Config,
    generation: Generation,
    /// Seconds that the first build took.
    pub build_seconds: f64,
    /// Heap bytes that the first build left.
    pub bytes: u64,
}

/// The rules of a set, in the order of the filters.
pub fn rules(filters: &[Filter], family: Family) -> RuleList {
    (0..)
        .zip(filters)
        .map(|(number, filter)| filter.rule(family, number, number * STRIDE))
        .collect()
}

impl Tables {
    /// Compiles `rules`, with `base` around them.
    ///
    /// # Errors
    /// The set is refused.
    pub fn new(base: Config, rules: &RuleList) -> Result<Self, BuildError> {
        let config = Config {
            rules: rules.clone(),
            ..base
        };
        let before = heap_bytes();
        let start = Instant::now();
        let generation = march_tables::build(&config, None)?;
        Ok(Self {
            build_seconds: start.elapsed().as_secs_f64(),
            bytes: heap_bytes().saturating_sub(before),
            config,
            generation,
        })
    }

    /// The configured rules, by id.
    pub fn list(&self) -> &RuleList {
        &self.config.rules
    }

    /// The classifier.
    pub fn rules(&self) -> &Rules {
        &self.generation.rules
    }

    /// Builds the next generation, with other rules, as for a new revision; milliseconds. Freeing the old one is not
    /// part of it: that is done later, by whoever reclaims.
    ///
    /// # Errors
    /// The set is refused with this change, and what ran goes on.
    fn change(&mut self, rules: &RuleList) -> Result<f64, BuildError> {
        let before = self.config.clone();
        self.config.rules = rules.clone();
        self.config.revision += 1;
        let start = Instant::now();
        let built = march_tables::build(&self.config, Some(&self.generation));
        let elapsed = start.elapsed();
        let next = built.inspect_err(|_| self.config = before)?;
        self.generation = next;
        Ok(elapsed.as_secs_f64() * 1_000.0)
    }
}

/// What changes of one rule cost, milliseconds each.
#[derive(Default)]
pub struct Changes {
    /// The whole build: ports, services, pools, routes, rules.
    pub push: Vec<f64>,
    /// The same with nothing but rules.
    pub alone: Vec<f64>,
    /// How many were refused.
    pub refused: usize,
    /// Putting the rule into the list of rules, before the build.
    pub list: Vec<f64>,
}

/// Changes one rule at a time: modified, removed, another added in its place, over and over. Ends after `count` changes, or
/// after `seconds` and one of each kind.
///
/// `filters` follows: a removed rule is `None`. `push` and `alone` see the same changes.
pub fn change_one_by_one(
    [push, alone]: [&mut Tables; 2],
    filters: &mut [Option<Filter>],
    spare: &[Filter],
    family: Family,
    (count, seconds): (usize, u64),
) -> Changes {
    let mut random = Random::new(0xc4a2);
    let mut changes = Changes::default();
    let start = Instant::now();
    let mut at = 0;
    for (number, other) in spare.iter().cycle().enumerate().take(count) {
        if number >= 3 && start.elapsed().as_secs() >= seconds {
            break;
        }
        if number % 3 == 0 {
            at = random.below(filters.len() as u64) as usize;
        }
        let changed = match number % 3 {
            0 => filters[at].map(|filter| with_ports_of(filter, other)),
            1 => None,
            _ => Some(*other),
        };
        let id = at as u32;
        let rule = Arc::new(match changed {
            Some(filter) => filter.rule(family, id, id * STRIDE),
            None => Rule::vacant(),
        });
        let made = Instant::now();
        let mut rules = push.config.rules.clone();
        rules.set(id, rule);
        changes.list.push(made.elapsed().as_secs_f64() * 1_000.0);
        match (push.change(&rules), alone.change(&rules)) {
            (Ok(push), Ok(alone)) => {
                changes.push.push(push);
                changes.alone.push(alone);
                filters[at] = changed;
            }
            (Err(_), Err(_)) => changes.refused += 1,
            _ => unreachable!("whether rules fit does not depend on what else there is"),
        }
    }
    changes
}

fn with_ports_of(filter: Filter, other: &Filter) -> Filter {
    Filter {
        ports: other.ports,
        source_ports: other.source_ports,
        protocol: other.protocol,
        ..filter
    }
}

/// What the classifier is asked for each packet of a trace.
pub fn subjects<A: Address>(packets: &[Packet]) -> Vec<Subject<A>> {
    packets.iter().map(Packet::subject).collect()
}

/// One packet after another.
#[inline]
pub fn single<A: Address>(
    rules: &Rules,
    subjects: &[Subject<A>],
    results: &mut [Option<RuleMatch>],
) {
    for (subject, result) in subjects.iter().zip(results) {
        *result = rules.classify(subject);
    }
}

/// A burst at a time.
#[inline]
pub fn burst<A: Address>(
    rules: &Rules,
    subjects: &[Subject<A>],
    results: &mut [Option<RuleMatch>],
) {
    rules.classify_burst(subjects, results);
}

/// What a way to look up says about all of a trace: rule numbers plus one, 0 for none.
pub fn verdicts<A: Address>(rules: &Rules, subjects: &[Subject<A>], lookup: Lookup<A>) -> Vec<u32> {
    let mut results = vec![None; subjects.len()];
    for (subjects, results) in subjects.chunks(BURST).zip(results.chunks_mut(BURST)) {
        lookup(rules, subjects, results);
    }
    let number = |decided: &Option<RuleMatch>| decided.map_or(0, |decided| decided.rule + 1);
    results.iter().map(number).collect()
}

/// Bytes of this process's heap that are in use.
fn heap_bytes() -> u64 {
    // SAFETY: reads the allocator's statistics.
    let info = unsafe { libc::mallinfo2() };
    (info.uordblks + info.hblkhd) as u64
}
