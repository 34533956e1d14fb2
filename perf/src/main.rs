//! `march-perf`: the product next to a yardstick, in one run.
//!
//! Each subcommand measures one thing against a reference in the same minutes on the same cores, because absolute times
//! move from machine to machine. Results go to standard output, the last line is a summary; nothing is asserted on time,
//! but every frame that was measured is checked to be right. `README.md` says how to read the numbers.

mod clock;
mod floor;
mod memory;
mod pipeline;
mod product;
mod traffic;
mod veth;

use clap::Parser;

#[derive(Debug, Parser)]
#[command(
    name = "march-perf",
    about = "The product next to a yardstick, in one run"
)]
enum Command {
    /// Nanoseconds per packet of the pipeline in memory, next to the floor.
    Pipeline(pipeline::Options),
    /// Frames per second through veth, next to the kernel and to testpmd.
    Veth(veth::Options),
}

fn main() -> anyhow::Result<()> {
    match Command::parse() {
        Command::Pipeline(options) => pipeline::run(&options),
        Command::Veth(options) => veth::run(&options),
    }
}
