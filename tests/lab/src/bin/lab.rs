//! One scenario of the lab, or one of the servers and clients that scenarios start.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use march_lab::sandbox::{self, Afterwards};
use march_lab::tier::Tier;
use march_lab::{flood, frames, load, scenario, servers};

/// End-to-end scenarios in network namespaces
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Show every scenario and the tiers that it runs on
    List,
    /// Run scenarios on a tier, each in namespaces of its own
    Run {
        /// dpdk, `af_xdp`, socket or kernel
        #[arg(long)]
        tier: Tier,
        /// A scenario of `list`
        scenario: String,
        /// Leave everything running and say how to look around
        #[arg(long)]
        keep: bool,
    },
    /// Go through the tour on a tier, all in one lab
    Tour {
        /// dpdk, `af_xdp`, socket or kernel
        #[arg(long)]
        tier: Tier,
        /// Write the findings to this file, as JSON
        #[arg(long)]
        findings: Option<PathBuf>,
        /// Leave everything running and say how to look around
        #[arg(long)]
        keep: bool,
    },
    /// The echo servers of a backend (runs until it is ended)
    Serve {
        /// What the answers begin with
        name: String,
    },
    /// A load client: reports as JSON, ends when its standard input closes
    Load(load::Plan),
    /// Send odd frames from a packet socket
    Frames {
        /// Where to
        interface: String,
        /// How often each
        #[arg(long, default_value_t = 1)]
        times: u32,
    },
    /// Send SYNs from invented addresses (runs until it is ended)
    Flood {
        /// Where to
        interface: String,
        /// Whom to
        target: std::net::Ipv4Addr,
        /// SYNs per second
        #[arg(long, default_value_t = 1000)]
        per_second: u32,
    },
    /// Send the frames of a file, a line of hexadecimal digits each, from a packet socket
    Replay {
        /// Where to
        interface: String,
        /// The file
        file: PathBuf,
        /// Frames per second, at most
        #[arg(long, default_value_t = 1000)]
        per_second: u32,
    },
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Action::List => {
            for scenario in scenario::ALL {
                let tiers: Vec<&str> = scenario.tiers.iter().map(|tier| tier.word()).collect();
                println!(
                    "{:<20} {} ({})",
                    scenario.name,
                    scenario.about,
                    tiers.join(", ")
                );
            }
            Ok(())
        }
        Action::Run {
            tier,
            scenario,
            keep,
        } => {
            return sandbox::run(afterwards(keep), || run(&scenario, tier, afterwards(keep)));
        }
        Action::Tour {
            tier,
            findings,
            keep,
        } => {
            return sandbox::run(afterwards(keep), || {
                tour(tier, findings.as_deref(), afterwards(keep))
            });
        }
        Action::Serve { name } => servers::serve(&name),
        Action::Load(plan) => load::run(&plan),
        Action::Frames { interface, times } => frames::send_all(&interface, times),
        Action::Flood {
            interface,
            target,
            per_second,
        } => flood::run(&interface, target, per_second),
        Action::Replay {
            interface,
            file,
            per_second,
        } => frames::replay(&interface, &file, per_second),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn afterwards(keep: bool) -> Afterwards {
    if keep {
        Afterwards::Keep
    } else {
        Afterwards::CleanUp
    }
}

fn tour(tier: Tier, file: Option<&Path>, afterwards: Afterwards) -> Result<bool> {
    let toured = scenario::tour(tier, afterwards);
    if let Some(file) = file {
        std::fs::write(file, serde_json::to_vec(&toured)?)?;
    }
    Ok(toured.iter().all(|toured| toured.findings.all_good()))
}

fn run(name: &str, tier: Tier, afterwards: Afterwards) -> Result<bool> {
    let scenario =
        scenario::find(name).with_context(|| format!("no scenario `{name}`; see `lab list`"))?;
    println!("{name} on {tier}: {}", scenario.about);
    Ok(scenario::run(scenario, tier, afterwards).all_good())
}
