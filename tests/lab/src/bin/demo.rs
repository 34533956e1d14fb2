//! The tour: the whole product on real packets, tier by tier, and a table of what was seen.
//!
//! Each tier gets a lab of its own (`lab tour`), one after the other. The exit status is 0 only if everything was as it should be.

use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Parser;
use march_lab::findings::Findings;
use march_lab::product;
use march_lab::sandbox;
use march_lab::scenario::Toured;
use march_lab::table::{self, Column};
use march_lab::tier::Tier;

/// The whole product in network namespaces, on real packets, tier by tier
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Leave the lab of the last tier running and say how to look around
    #[arg(long)]
    keep: bool,
    /// Only this tier: dpdk, `af_xdp` or socket
    #[arg(long)]
    tier: Option<Tier>,
}

fn main() -> ExitCode {
    match tour(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn tour(arguments: &Arguments) -> Result<bool> {
    let started = Instant::now();
    // The tier that a kept lab is most worth looking at comes last.
    let tiers = arguments.tier.map_or_else(
        || vec![Tier::Kernel, Tier::Socket, Tier::Dpdk, Tier::AfXdp],
        |tier| vec![tier],
    );
    let (able, unable): (Vec<Tier>, Vec<Tier>) =
        tiers.into_iter().partition(|tier| tier.lacks().is_none());
    let mut columns = Vec::new();
    let mut look_around = String::new();
    for (index, tier) in able.iter().enumerate() {
        println!("\n=== {tier}: {}", tier.about());
        let keep = arguments.keep && index + 1 == able.len();
        columns.push(visit(*tier, keep, &mut look_around)?);
    }
    println!("\n{}", table::render(&columns));
    for tier in unable {
        println!("SKIPPED: tier {tier}: {}", tier.lacks().unwrap_or_default());
    }
    let bad: usize = columns.iter().map(Column::bad).sum();
    let seen: usize = columns.iter().map(Column::checks).sum();
    println!(
        "{seen} checks, {bad} not as they should be, {} s",
        started.elapsed().as_secs()
    );
    print!("{look_around}");
    Ok(bad == 0 && !columns.is_empty())
}

/// One tier's lab in a process of its own, whose progress goes to our output. If it is kept, `look_around` gets the words for it.
fn visit(tier: Tier, keep: bool, look_around: &mut String) -> Result<Column> {
    let results = tempfile::tempdir()?;
    let file = results.path().join("findings.json");
    let mut command = Command::new(product::binary("lab")?);
    command
        .args(["tour", "--tier", tier.word(), "--findings"])
        .arg(&file);
    let words = results.path().join("look-around");
    if keep {
        command.arg("--keep").env(sandbox::LOOK_AROUND, &words);
    }
    let status = command.status()?;
    if keep {
        *look_around = std::fs::read_to_string(&words).unwrap_or_default();
    }
    let toured: Vec<Toured> = match std::fs::read(&file) {
        Ok(bytes) => serde_json::from_slice(&bytes).context("the findings of the lab")?,
        Err(_) => {
            let mut findings = Findings::default();
            findings.check("the lab runs", false, status);
            vec![Toured {
                scenario: "lab".to_owned(),
                findings,
            }]
        }
    };
    Ok(Column { tier, toured })
}
