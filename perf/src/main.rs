//! `march-perf`: the product next to a yardstick, in one run.
//!
//! Each subcommand measures one thing against a reference in the same minutes on the same cores, because absolute times
//! move from machine to machine. Results go to standard output, the last line is a summary; nothing is asserted on time,
//! but every frame that was measured is checked to be right. `README.md` says how to read the numbers.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "indices, lengths and flow numbers of a benchmark's own making, all far below 2^31"
)]

mod churn;
mod clock;
mod dpdk;
mod floor;
mod memory;
mod pipeline;
mod product;
mod rules;
mod traffic;
mod veth;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(
    name = "march-perf",
    about = "The product next to a yardstick, in one run"
)]
struct Arguments {
    /// What to measure; all of it if nothing is named.
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Nanoseconds per packet of the pipeline in memory, next to the floor.
    Pipeline(pipeline::Options),
    /// Packet rate of live flows while backends change.
    Churn(churn::Options),
    /// Rule lookups and changes of single rules, next to DPDK's `rte_acl`.
    Rules(rules::Options),
    /// Frames per second over DPDK's virtual devices, next to testpmd.
    Dpdk(dpdk::Options),
    /// Frames per second through veth, next to the kernel and to testpmd.
    Veth(veth::Options),
    /// All of them, one after another.
    All,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let _session = clock::Session::prioritise();
    match arguments.command.unwrap_or(Command::All) {
        Command::Pipeline(options) => pipeline::run(&options),
        Command::Churn(options) => churn::run(&options),
        Command::Rules(options) => rules::run(&options),
        Command::Dpdk(options) => dpdk::run(&options),
        Command::Veth(options) => veth::run(&options),
        Command::All => all(),
    }
}

/// Each in a process of its own: what one left in caches, affinity or DPDK's state is not the next one's.
fn all() -> anyhow::Result<()> {
    let program = std::env::current_exe()?;
    for name in ["pipeline", "churn", "rules", "dpdk", "veth"] {
        println!("== {name}");
        let status = std::process::Command::new(&program).arg(name).status()?;
        anyhow::ensure!(status.success(), "{name} failed");
    }
    Ok(())
}
