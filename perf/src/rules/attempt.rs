//! A build by `rte_acl` in a process of its own, where it can be stopped: on the adversarial sets it may fail after half a
//! minute or still be at it after five, with gigabytes in use.

use std::io::Read as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use march_dpdk::Eal;

use super::acl::{Acl, BuildFailure};
use super::case::Case;
use super::set::{Order, Profile};

/// Sets of this size on, if adversarial, are attempted first.
const LARGE: usize = 50_000;

/// Whether the build of a set is attempted in a process of its own first.
pub fn is_doubtful(profile: Profile, rules: usize) -> bool {
    matches!(profile, Profile::Hard1 | Profile::Hard2) && rules >= LARGE
}

/// Attempts the build; `None` if it succeeds in time.
pub fn attempt(
    profile: Profile,
    rules: usize,
    order: Order,
    patience: Duration,
) -> anyhow::Result<Option<BuildFailure>> {
    let order = match order {
        Order::Narrow => "narrow",
        Order::Random => "random",
    };
    let mut child = Command::new(std::env::current_exe()?)
        .args(["rules", "--side", "yardstick", "--sets", profile.name()])
        .args(["--sizes", &rules.to_string(), "--order", order])
        .stdout(Stdio::piped())
        .spawn()?;
    let start = Instant::now();
    while child.try_wait()?.is_none() {
        if start.elapsed() > patience {
            child.kill()?;
            child.wait()?;
            return Ok(Some(BuildFailure {
                code: None,
                seconds: patience.as_secs_f64(),
            }));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    ensure!(child.wait()?.success(), "the attempt failed");
    let mut said = String::new();
    let mut output = child.stdout.take().context("a pipe")?;
    output.read_to_string(&mut said)?;
    let words: Vec<&str> = said.split_whitespace().collect();
    match words[..] {
        ["failed", code, seconds] => Ok(Some(BuildFailure {
            code: Some(code.parse()?),
            seconds: seconds.parse()?,
        })),
        ["built"] => Ok(None),
        _ => anyhow::bail!("the attempt said {said:?}"),
    }
}

/// The process of its own: says how one build went.
pub fn say(eal: &Eal, case: &Case) -> anyhow::Result<()> {
    match Acl::build(eal, &case.filters)? {
        Ok(_) => println!("built"),
        Err(BuildFailure { code, seconds }) => {
            println!("failed {} {seconds:.1}", code.unwrap_or(0));
        }
    }
    Ok(())
}
