//! `churn`: the packet rate of a million live flows while backends come, go and change, ten times a second.
//!
//! The pipeline runs in memory on one core and looks for the running generation before each burst, as an lcore does; the
//! generations are built on the other core through [`march_tables::build`] and handed over by a [`Publisher`], as the agent
//! does. Stretches without and with changes by turns; rates are means, so that a stall at a swap counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;
use march_tables::{BackendState, Config, Generation, Publisher};

use crate::clock::{self, Random, percentile, to_f64, tsc, tsc_per_ns};
use crate::product::{self, Product};
use crate::traffic::{BUFFERS, Buffers};

/// What the benchmark is asked to do.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Live flows.
    #[arg(long, default_value_t = 1_000_000)]
    flows: u32,
    /// Backend changes per second.
    #[arg(long, default_value_t = 10)]
    changes: u32,
    /// Seconds of each stretch.
    #[arg(long, default_value_t = 2)]
    seconds: u64,
    /// Pairs of stretches, without changes and with.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Core of the pipeline.
    #[arg(long, default_value_t = 1)]
    core: usize,
    /// Core of the agent that builds generations.
    #[arg(long, default_value_t = 0)]
    agent_core: usize,
}

/// One stretch.
struct Stretch {
    /// Packets per microsecond in the pipeline's own time.
    rate: f64,
    /// The longest pass over all buffers, microseconds.
    longest_us: f64,
    /// Generations that the pipeline went through.
    generations: u64,
    /// Milliseconds of each build.
    builds: Vec<f64>,
}

/// Runs it; the last line on stdout is the summary.
pub fn run(options: &Options) -> anyhow::Result<()> {
    clock::settle(options.core);
    let rate = tsc_per_ns();
    let mut buffers = Buffers::new()?;
    let mut product = Product::with_flows(options.flows, &mut buffers)?;
    let mut agent = Agent::new(product.generation().clone());
    let judged = product.generation().policy_epoch;
    println!(
        "# {} flows, {} backend changes per second: added, weight, drained, back, removed",
        options.flows, options.changes
    );
    let mut kept = Vec::new();
    for round in 0..options.rounds {
        let mut stretch = |changes| {
            measure(
                options,
                changes,
                rate,
                &mut product,
                &mut buffers,
                &mut agent,
            )
        };
        // Which comes first alternates: what warms up or wears on would count for one side.
        let (steady, mut churn) = if round % 2 == 0 {
            (stretch(0)?, stretch(options.changes)?)
        } else {
            let churn = stretch(options.changes)?;
            (stretch(0)?, churn)
        };
        kept.push(churn.rate / steady.rate);
        println!(
            "round {}: steady {:.2} Mpps (longest pass {:.0} us), with changes {:.2} Mpps (longest pass {:.0} us), kept {:.3}; {} generations, built in {:.2} ms each",
            round + 1,
            steady.rate,
            steady.longest_us,
            churn.rate,
            churn.longest_us,
            churn.rate / steady.rate,
            churn.generations,
            percentile(&mut churn.builds, 50)
        );
        let wanted = options.seconds * u64::from(options.changes);
        ensure!(
            churn.generations + 1 >= wanted,
            "{} generations in {} s are too few",
            churn.generations,
            options.seconds
        );
    }
    ensure!(
        product.lost == 0,
        "{} frames were not forwarded",
        product.lost
    );
    ensure!(
        product.generation().policy_epoch == judged,
        "changes of backends had the rules asked again"
    );
    println!("churn: kept={:.3}", percentile(&mut kept, 50));
    Ok(())
}

/// A stretch with `changes` per second.
fn measure(
    options: &Options,
    changes: u32,
    rate: f64,
    product: &mut Product,
    buffers: &mut Buffers,
    agent: &mut Agent,
) -> anyhow::Result<Stretch> {
    let mut reader = agent.publisher.reader();
    let first = reader.load().id;
    let is_over = AtomicBool::new(false);
    let mut random = Random::new(0x5eed + first);
    let mut ticks = Vec::new();
    let builds = std::thread::scope(|scope| {
        let agent = scope.spawn(|| {
            clock::pin(options.agent_core);
            agent.change(changes, &is_over)
        });
        let start = Instant::now();
        while start.elapsed().as_secs() < options.seconds {
            product.refill(buffers, &mut random);
            let from = tsc();
            product.pass_following(&mut reader);
            ticks.push(tsc() - from);
        }
        is_over.store(true, Ordering::Relaxed);
        agent.join().expect("the agent ends when it is told")
    })?;
    let us = |ticks: u64| to_f64(ticks) / rate / 1_000.0;
    let packets = to_f64((ticks.len() * BUFFERS) as u64);
    Ok(Stretch {
        rate: packets / us(ticks.iter().sum()),
        longest_us: us(ticks.iter().copied().max().unwrap_or(0)),
        generations: product.generation().id - first,
        builds,
    })
}

/// Who changes backends and publishes what that makes.
struct Agent {
    config: Config,
    publisher: Publisher,
    /// Changes so far.
    number: usize,
}

impl Agent {
    fn new(running: Generation) -> Self {
        Self {
            config: product::config(product::KEPT_MS),
            publisher: Publisher::new(running),
            number: 0,
        }
    }

    /// Changes a backend so many times a second until told to stop; milliseconds of each build.
    fn change(&mut self, per_second: u32, is_over: &AtomicBool) -> anyhow::Result<Vec<f64>> {
        let mut builds = Vec::new();
        let Some(pause) = Duration::from_secs(1).checked_div(per_second) else {
            return Ok(builds);
        };
        let mut next = Instant::now();
        while !is_over.load(Ordering::Relaxed) {
            self.change_once();
            let start = Instant::now();
            let running = self.publisher.current();
            let generation = march_tables::build(&self.config, Some(&running))?;
            drop(running);
            self.publisher.publish(generation);
            builds.push(start.elapsed().as_secs_f64() * 1_000.0);
            next += pause;
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        Ok(builds)
    }

    /// The next of five kinds of change, over and over.
    fn change_once(&mut self) {
        let mut pools = self.config.pools.to_vec();
        let backends = &mut pools[0].backends;
        let other = self.number / 5 % (backends.len() - 1);
        match self.number % 5 {
            0 => backends.push(product::spare_backend()),
            1 => backends.last_mut().expect("the one that was added").weight = 3,
            2 => backends[other].state = BackendState::Draining,
            3 => backends[other].state = BackendState::Active,
            _ => drop(backends.pop()),
        }
        self.number += 1;
        self.config.pools = Arc::from(pools);
        self.config.revision += 1;
    }
}
