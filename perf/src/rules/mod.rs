//! `rules`: the rule classifier next to DPDK's `rte_acl`, on the same generated sets and the same trace, by turns.
//!
//! Before anything is timed, every packet of a trace gets the same rule from both, and a sample the rule that a search from
//! the front finds; after the changes of single rules the same sample is asked again.

mod acl;
mod attempt;
mod case;
mod filter;
mod ours;
mod report;
mod set;
mod sys;
mod turns;
mod worst;

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::Context as _;
use march_dpdk::{Eal, EalConfig, Memory};
use march_tables::Config;
use march_wire::tuple::{Address, Family};

use acl::{Acl, Keys};
use attempt::{BuildFailure, Subject};
use case::{Case, TRACE};
use filter::Filter;
use ours::{BURST, Tables};
use report::{Figures, Line};
use set::{Order, Profile};
use turns::Timer;

use crate::clock::{percentile, tsc_per_ns};
use crate::product;

/// Seconds after which changes of one set end, however many there were.
const CHANGE_SECONDS: u64 = 10;

/// What the benchmark is asked to do.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Kinds of sets.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Profile::ALL)]
    sets: Vec<Profile>,
    /// Rules in a set.
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 10_000, 100_000])]
    sizes: Vec<usize>,
    /// Order of the rules of a set.
    #[arg(long, value_enum, default_value_t = Order::Narrow)]
    order: Order,
    /// Turns of each side.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Milliseconds of a turn.
    #[arg(long, default_value_t = 100)]
    turn_ms: u64,
    /// Changes of one rule, per set.
    #[arg(long, default_value_t = 300)]
    changes: usize,
    /// Seconds that either side has to build an adversarial set of 50 000 rules or more.
    #[arg(long, default_value_t = 60)]
    patience_s: u64,
    /// Core to run on.
    #[arg(long, default_value_t = 1)]
    core: usize,
    /// Which side to run.
    #[arg(long, value_enum, default_value_t = Side::Both)]
    side: Side,
    /// Only say whether the sets can be built.
    #[arg(long, value_enum, hide = true)]
    attempt: Option<Subject>,
}

/// A side of the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Side {
    /// The product and `rte_acl`, by turns.
    Both,
    /// The product alone, without DPDK.
    Product,
}

/// Runs it; the last line on stdout is the summary.
pub fn run(options: &Options) -> anyhow::Result<()> {
    crate::clock::settle(options.core);
    attempt::bound_memory()?;
    let sets = || {
        let sizes = options.sizes.iter();
        sizes.flat_map(|rules| options.sets.iter().map(|profile| (*profile, *rules)))
    };
    if let Some(subject) = options.attempt {
        return sets().try_for_each(|(profile, rules)| {
            let case = Case::new(profile, subject.family(), rules, options.order);
            attempt::say(subject, &case)
        });
    }
    let eal = match options.side {
        Side::Both => Some(start_dpdk()?),
        Side::Product => None,
    };
    let timer = Timer {
        rate: tsc_per_ns(),
        turn_ms: options.turn_ms,
        rounds: options.rounds,
    };
    println!(
        "# {}, TSC {:.3} GHz, {TRACE} headers, ours in bursts of {BURST}, {:?} order",
        march_dpdk::version(),
        timer.rate,
        options.order
    );
    let (mut lines, mut refused) = (Vec::new(), Vec::new());
    for (profile, rules) in sets() {
        let case = Case::new(profile, Family::V4, rules, options.order);
        let Some(tables) = compile(&case, profile, Subject::Ours4, options)? else {
            if !attempt::is_doubtful(profile, rules) {
                refused.push(rules);
            }
            continue;
        };
        let yardstick = match &eal {
            Some(eal) => Some(build_acl(eal, &case, profile, options)?),
            None => None,
        };
        let line = measure::<Ipv4Addr>(&case, tables, yardstick, timer, options.changes)?;
        line.print();
        lines.push(line);
    }
    println!("# IPv6, ours alone");
    for (profile, rules) in sets() {
        let case = Case::new(profile, Family::V6, rules, options.order);
        if let Some(tables) = compile(&case, profile, Subject::Ours6, options)? {
            measure::<Ipv6Addr>(&case, tables, None, timer, options.changes)?.print();
        }
    }
    println!("{}", report::summary(&lines, &refused));
    Ok(())
}

fn start_dpdk() -> anyhow::Result<Eal> {
    Eal::init(&EalConfig {
        file_prefix: format!("march-perf-{}", std::process::id()),
        memory: Memory::HugePages,
        cpu: Some(0),
        // Without it DPDK does not look up 32 packets at once.
        extra: vec!["--force-max-simd-bitwidth=512".to_owned()],
        ..EalConfig::default()
    })
    .context("rte_acl needs the EAL")
}

/// Ours over a set; says so if it is refused or cannot be built.
fn compile(
    case: &Case,
    profile: Profile,
    subject: Subject,
    options: &Options,
) -> anyhow::Result<Option<Tables>> {
    if let Some(failure) = attempt_first(subject, case, profile, options)? {
        let BuildFailure { why, seconds } = failure;
        println!(
            "{:<10} ours: not built, {why} after {seconds:.1} s",
            case.name
        );
        return Ok(None);
    }
    let list = ours::rules(&case.filters, case.family);
    let built = Tables::new(Config::default(), &list);
    Ok(built
        .inspect_err(|refused| println!("{:<10} ours: refused, {refused}", case.name))
        .ok())
}

/// `rte_acl` over a set, or why not.
fn build_acl(
    eal: &Eal,
    case: &Case,
    profile: Profile,
    options: &Options,
) -> anyhow::Result<Result<Acl, BuildFailure>> {
    match attempt_first(Subject::RteAcl, case, profile, options)? {
        Some(failure) => Ok(Err(failure)),
        None => Acl::build(eal, &case.filters),
    }
}

fn attempt_first(
    subject: Subject,
    case: &Case,
    profile: Profile,
    options: &Options,
) -> anyhow::Result<Option<BuildFailure>> {
    let patience = Duration::from_secs(options.patience_s);
    attempt::attempt(
        subject,
        profile,
        case.filters.len(),
        options.order,
        patience,
    )
}

/// Everything about one set.
fn measure<A: Address>(
    case: &Case,
    mut alone: Tables,
    acl: Option<Result<Acl, BuildFailure>>,
    timer: Timer,
    changes: usize,
) -> anyhow::Result<Line> {
    let subjects = ours::subjects::<A>(&case.trace);
    let verdicts = case.verdicts(alone.rules(), &subjects)?;
    let mut figures = Figures {
        bytes: alone.bytes,
        build_seconds: alone.build_seconds,
        decided_by_own: case.own_share(&verdicts),
        ..Figures::default()
    };
    let (times, yardstick) = match acl {
        Some(Ok(mut acl)) => {
            let keys = Keys::new(&case.trace);
            case.check_acl(&mut acl, &keys, &verdicts)?;
            let (times, yardstick) = timer.both(alone.rules(), &subjects, &mut acl, &keys);
            (times, Some(Ok(yardstick)))
        }
        Some(Err(failure)) => (timer.alone(alone.rules(), &subjects), Some(Err(failure))),
        None => (timer.alone(alone.rules(), &subjects), None),
    };
    (figures.single_ns, figures.burst_ns) = (times.single_ns, times.burst_ns);
    slowest::<A>(case, &alone, timer, &mut figures);
    change::<A>(case, &mut alone, changes, &mut figures)?;
    Ok(Line {
        name: case.name.clone(),
        rules: case.filters.len(),
        figures,
        yardstick,
    })
}

/// What a stream of the slowest packets costs.
fn slowest<A: Address>(case: &Case, tables: &Tables, timer: Timer, figures: &mut Figures) {
    let found = worst::search::<A>(tables.rules(), &case.filters, &case.trace);
    let subjects = ours::subjects::<A>(&found.stream);
    let times = timer.alone(tables.rules(), &subjects);
    figures.worst_single = times.single_ns / figures.single_ns;
    figures.worst_burst = times.burst_ns / figures.burst_ns;
    figures.worst_packet = found.packet_ratio;
    let path = tables.rules().worst_path();
    figures.worst_path = (path.steps, path.boxes);
}

/// Changes of single rules, and whether what they leave decides as it should.
fn change<A: Address>(
    case: &Case,
    alone: &mut Tables,
    count: usize,
    figures: &mut Figures,
) -> anyhow::Result<()> {
    let mut push = Tables::new(product::config(1_000), alone.list())?;
    let mut filters: Vec<Option<Filter>> = case.filters.iter().copied().map(Some).collect();
    let mut changes = ours::change_one_by_one(
        [&mut push, alone],
        &mut filters,
        &case.spare,
        case.family,
        (count, CHANGE_SECONDS),
    );
    figures.changes = changes.push.len();
    figures.refused = changes.refused;
    figures.change_ms = [50, 100].map(|percent| percentile(&mut changes.push, percent));
    figures.alone_ms = [50, 100].map(|percent| percentile(&mut changes.alone, percent));
    figures.list_ms = percentile(&mut changes.list, 50);
    case.check_sample::<A>(push.rules(), &filters)?;
    case.check_sample::<A>(alone.rules(), &filters)
}

#[cfg(test)]
mod tests {
    use super::*;
    use acl::Algorithm;

    #[test]
    fn every_side_means_the_same_by_a_set() {
        let eal = Eal::init(&EalConfig {
            file_prefix: format!("march-perf-test-{}", std::process::id()),
            memory: Memory::Ordinary { megabytes: 128 },
            ..EalConfig::default()
        })
        .unwrap();
        for profile in Profile::ALL {
            let case = Case::new(profile, Family::V4, 200, Order::Random);
            let list = ours::rules(&case.filters, case.family);
            let tables = Tables::new(Config::default(), &list).unwrap();
            let subjects = ours::subjects::<Ipv4Addr>(&case.trace);
            let verdicts = case.verdicts(tables.rules(), &subjects).unwrap();
            let mut acl = Acl::build(&eal, &case.filters).unwrap().unwrap();
            assert!(acl.choose(Algorithm::Avx2));
            let keys = Keys::new(&case.trace);
            case.check_acl(&mut acl, &keys, &verdicts).unwrap();
            assert!(case.own_share(&verdicts) > 0.1);
        }
    }

    #[test]
    fn changes_of_single_rules_leave_what_was_asked_for() {
        for family in [Family::V4, Family::V6] {
            let case = Case::new(Profile::Fw, family, 200, Order::Narrow);
            let list = ours::rules(&case.filters, family);
            let mut alone = Tables::new(Config::default(), &list).unwrap();
            let mut figures = Figures::default();
            match family {
                Family::V4 => change::<Ipv4Addr>(&case, &mut alone, 100, &mut figures).unwrap(),
                Family::V6 => change::<Ipv6Addr>(&case, &mut alone, 100, &mut figures).unwrap(),
            }
            assert_eq!(figures.changes, 100);
            // The check itself notices what is wrong.
            let nothing = vec![None; 200];
            assert!(
                case.check_sample::<Ipv4Addr>(alone.rules(), &nothing)
                    .is_err()
            );
        }
    }
}
