//! A build in a process of its own, where it can be stopped: on the adversarial sets `rte_acl` may fail after half a minute or
//! still be at it after five, and a build that takes all memory takes only its own process with it.

use std::io::Read as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use march_tables::Config;
use march_wire::tuple::Family;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::acl::Acl;
use super::case::Case;
use super::ours::{self, Tables};
use super::set::{Order, Profile};

/// Sets of this size on, if adversarial, are attempted first.
const LARGE: usize = 50_000;

/// Bytes that a process of this benchmark may allocate.
const MOST_BYTES: u64 = 12 << 30;

/// What is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Subject {
    /// The product's classifier.
    Ours4,
    /// The same of an IPv6 set.
    Ours6,
    /// The yardstick.
    RteAcl,
}

impl Subject {
    fn name(self) -> &'static str {
        match self {
            Self::Ours4 => "ours4",
            Self::Ours6 => "ours6",
            Self::RteAcl => "rte-acl",
        }
    }

    /// The family of its sets.
    pub fn family(self) -> Family {
        match self {
            Self::Ours4 | Self::RteAcl => Family::V4,
            Self::Ours6 => Family::V6,
        }
    }
}

/// Why there is no classifier.
#[derive(Debug)]
pub struct BuildFailure {
    /// What it said, or what became of it.
    pub why: String,
    /// Seconds until then.
    pub seconds: f64,
}

/// A build that takes more memory than this ends its process and nothing else.
pub fn bound_memory() -> anyhow::Result<()> {
    let given = getrlimit(Resource::Data).maximum;
    let limit = Rlimit {
        current: Some(given.map_or(MOST_BYTES, |given| given.min(MOST_BYTES))),
        maximum: given,
    };
    setrlimit(Resource::Data, limit).context("a bound on memory")
}

/// Whether it is not known of a set that both sides build it.
pub fn is_doubtful(profile: Profile, rules: usize) -> bool {
    rules >= LARGE && matches!(profile, Profile::Hard1 | Profile::Hard2)
}

/// Attempts a build of which it is not known whether it ends well; `None` if it does, in time, or if there is no doubt.
pub fn attempt(
    subject: Subject,
    profile: Profile,
    rules: usize,
    order: Order,
    patience: Duration,
) -> anyhow::Result<Option<BuildFailure>> {
    if !is_doubtful(profile, rules) {
        return Ok(None);
    }
    let mut child = Command::new(std::env::current_exe()?)
        .args(["rules", "--attempt", subject.name()])
        .args(["--sets", profile.name(), "--order", order.name()])
        .args(["--sizes", &rules.to_string()])
        .stdout(Stdio::piped())
        .spawn()?;
    let start = Instant::now();
    let failure = |why: String, seconds| Ok(Some(BuildFailure { why, seconds }));
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if start.elapsed() > patience {
            child.kill()?;
            child.wait()?;
            return failure("stopped".to_owned(), patience.as_secs_f64());
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    if !status.success() {
        let gigabytes = MOST_BYTES >> 30;
        let why = format!("{status}, {gigabytes} GiB of memory allowed");
        return failure(why, start.elapsed().as_secs_f64());
    }
    let mut said = String::new();
    let mut output = child.stdout.take().context("a pipe")?;
    output.read_to_string(&mut said)?;
    match said.trim_end().split_once(' ') {
        Some((seconds, "built")) if seconds.parse::<f64>().is_ok() => Ok(None),
        Some((seconds, why)) => failure(why.to_owned(), seconds.parse()?),
        None => bail!("the attempt said {said:?}"),
    }
}

/// The process of its own: says how one build went.
pub fn say(subject: Subject, case: &Case) -> anyhow::Result<()> {
    let start = Instant::now();
    let failure = if subject == Subject::RteAcl {
        Acl::build(&super::start_dpdk()?, &case.filters)?.err()
    } else {
        let list = ours::rules(&case.filters, case.family);
        let refused = Tables::new(Config::default(), &list).err();
        refused.map(|refused| BuildFailure {
            why: refused.to_string(),
            seconds: start.elapsed().as_secs_f64(),
        })
    };
    match failure {
        Some(BuildFailure { why, seconds }) => println!("{seconds:.1} {why}"),
        None => println!("{:.1} built", start.elapsed().as_secs_f64()),
    }
    Ok(())
}
