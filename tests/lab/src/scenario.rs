//! What the lab finds out, one scenario at a time.
//!
//! A scenario gets the sandbox to itself, starts the [`crate::lab::Lab`] that it needs, and returns findings. `lab list` shows all of them.

mod backends;
mod control;
mod counting;
mod explained;
mod faults;
mod flood;
mod host;
mod policy;
mod rules;
mod traffic;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::findings::Findings;
use crate::lab::Lab;
use crate::sandbox::Afterwards;
use crate::tier::Tier;
use crate::topology::Offloads;

/// What a scenario starts from.
#[derive(Clone, Copy)]
pub enum Start {
    /// A lab that carries traffic.
    Carrying(Offloads, fn(&mut Lab, &mut Findings) -> Result<()>),
    /// Network and servers only; the scenario starts the product as it needs it.
    Bare(fn(&mut Lab, &mut Findings) -> Result<()>),
}

/// One scenario.
pub struct Scenario {
    /// Its word on the command line.
    pub name: &'static str,
    /// What it finds out.
    pub about: &'static str,
    /// The tiers that it makes sense on.
    pub tiers: &'static [Tier],
    /// What it starts from and what it does.
    pub start: Start,
}

const EVERY: &[Tier] = &[Tier::Dpdk, Tier::AfXdp, Tier::Socket, Tier::Kernel];
const PRODUCT: &[Tier] = &Tier::PRODUCT;
const FAST: &[Tier] = &[Tier::Dpdk, Tier::AfXdp];
const AF_XDP: &[Tier] = &[Tier::AfXdp];
const SOCKET: &[Tier] = &[Tier::Socket];

use Offloads::{Off, On};
use Start::{Bare, Carrying};

/// Every scenario, in the order in which they are run.
pub const ALL: &[Scenario] = &[
    Scenario {
        name: "http",
        about: "curl through v4, v6 and routed VIPs: answers, spread, a large body intact",
        tiers: EVERY,
        start: Carrying(Off, traffic::http),
    },
    Scenario {
        name: "udp",
        about: "datagrams through v4 and v6 VIPs: answers, spread, flows stay",
        tiers: EVERY,
        start: Carrying(Off, traffic::udp),
    },
    Scenario {
        name: "stream",
        about: "long TCP connections through v4 and v6 VIPs",
        tiers: EVERY,
        start: Carrying(Off, traffic::stream),
    },
    Scenario {
        name: "iperf",
        about: "throughput of one TCP connection, v4 and v6, and answered datagrams per second",
        tiers: EVERY,
        start: Carrying(Off, traffic::throughput),
    },
    Scenario {
        name: "ping",
        about: "the ports' own addresses answer, and so do the VIPs",
        tiers: EVERY,
        start: Carrying(Off, traffic::ping),
    },
    Scenario {
        name: "backend_killed",
        about: "a server dies under load: new connections avoid it",
        tiers: PRODUCT,
        start: Carrying(Off, backends::killed),
    },
    Scenario {
        name: "backend_drained",
        about: "a backend is drained under load: connections finish, none is new",
        tiers: PRODUCT,
        start: Carrying(Off, backends::drained),
    },
    Scenario {
        name: "backend_offline",
        about: "a backend is taken offline under load: its connections end at once",
        tiers: FAST,
        start: Carrying(Off, backends::offline),
    },
    Scenario {
        name: "denied",
        about: "a denied client is refused and its drop reason is visible",
        tiers: FAST,
        start: Carrying(Off, policy::denied),
    },
    Scenario {
        name: "explain",
        about: "explain tells what would happen, and that is what happens",
        tiers: FAST,
        start: Carrying(Off, policy::explain),
    },
    Scenario {
        name: "transit",
        about: "transit is denied until a rule allows it",
        tiers: FAST,
        start: Carrying(Off, policy::transit),
    },
    Scenario {
        name: "rule_added",
        about: "a new rule ends a flow that it denies",
        tiers: FAST,
        start: Carrying(Off, policy::rule_added),
    },
    Scenario {
        name: "rule_actions",
        about: "reject, redirect, count, mark and mirror: seen by client and backends; hits and unused rules",
        tiers: FAST,
        start: Carrying(Off, rules::actions),
    },
    Scenario {
        name: "mappings",
        about: "services denied by default: a mapping opens them once it is approved",
        tiers: FAST,
        start: Carrying(Off, rules::mappings),
    },
    Scenario {
        name: "guarded",
        about: "a blocked source is dropped before all else, a limited rule lets through what its limit says",
        tiers: FAST,
        start: Carrying(Off, rules::guarded),
    },
    Scenario {
        name: "syn_flood",
        about: "SYNs from invented addresses beside one real client: connections go on, tables stay in bounds, then all is as before",
        tiers: FAST,
        start: Carrying(Off, flood::syn_flood),
    },
    Scenario {
        name: "explained_then_sent",
        about: "1000 random packets explained, then sent: the same verdict, reason, egress and destination",
        tiers: FAST,
        start: Carrying(Off, explained::sent_as_explained),
    },
    Scenario {
        name: "large_set",
        about: "a set of a million prefixes, changed by one prefix under load",
        tiers: AF_XDP,
        start: Carrying(Off, rules::large_set),
    },
    Scenario {
        name: "conservation",
        about: "every frame of a mixed and malformed run is accounted for, per port",
        tiers: FAST,
        start: Carrying(Off, counting::conservation),
    },
    Scenario {
        name: "offloads",
        about: "peers with offloads on: repaired or counted, never forwarded broken",
        tiers: FAST,
        start: Carrying(On, counting::offloads),
    },
    Scenario {
        name: "daemon_killed",
        about: "kill -9 marchd under load: nothing lost; restart: no push, same generation",
        tiers: PRODUCT,
        start: Carrying(Off, control::daemon_killed),
    },
    Scenario {
        name: "node_alone",
        about: "kill -9 marchdp with marchd down: it forwards from last-good",
        tiers: PRODUCT,
        start: Carrying(Off, control::node_alone),
    },
    Scenario {
        name: "config_changes",
        about: "100 revisions under load, nothing lost",
        tiers: AF_XDP,
        start: Carrying(Off, control::config_changes),
    },
    Scenario {
        name: "same_again",
        about: "the same documents again: no revision, no push",
        tiers: SOCKET,
        start: Carrying(Off, control::same_again),
    },
    Scenario {
        name: "bad_input",
        about: "broken documents: each refused by name, nothing half-applied, traffic goes on",
        tiers: AF_XDP,
        start: Carrying(Off, faults::bad_input),
    },
    Scenario {
        name: "missing_nic",
        about: "a port whose interface does not exist is named; the rest forwards",
        tiers: AF_XDP,
        start: Carrying(Off, faults::missing_nic),
    },
    Scenario {
        name: "full_disk",
        about: "a full disk under the database: a clear error, nothing half-applied, traffic goes on",
        tiers: SOCKET,
        start: Carrying(Off, faults::full_disk),
    },
    Scenario {
        name: "truncated_last_good",
        about: "a truncated last-good file is refused by name and the daemon's copy is taken",
        tiers: SOCKET,
        start: Carrying(Off, faults::truncated_last_good),
    },
    Scenario {
        name: "no_bpf",
        about: "without CAP_BPF: auto says why af_xdp was passed over and runs the socket tier",
        tiers: SOCKET,
        start: Bare(faults::no_bpf),
    },
    Scenario {
        name: "no_hugepages",
        about: "without huge pages: auto says why dpdk was passed over and runs af_xdp",
        tiers: AF_XDP,
        start: Bare(faults::no_hugepages),
    },
    Scenario {
        name: "given_back",
        about: "addresses and routes are given back after a stop and after kill -9",
        tiers: PRODUCT,
        start: Carrying(Off, host::given_back),
    },
    Scenario {
        name: "default_route",
        about: "the interface of the default route is refused without --force",
        tiers: AF_XDP,
        start: Bare(host::default_route),
    },
];

/// The scenario with this name.
pub fn find(name: &str) -> Option<&'static Scenario> {
    ALL.iter().find(|scenario| scenario.name == name)
}

/// Runs a scenario on a tier, in the sandbox.
pub fn run(scenario: &Scenario, tier: Tier, afterwards: Afterwards) -> Findings {
    let mut findings = Findings::default();
    let (lab, steps) = match scenario.start {
        Carrying(offloads, steps) => (Lab::start(tier, offloads), steps),
        Bare(steps) => (Lab::bare(tier, Off), steps),
    };
    let outcome = lab.and_then(|mut lab| {
        let outcome = finish(&mut lab, &mut findings, steps);
        leave(lab, afterwards);
        outcome
    });
    if let Err(error) = outcome {
        findings.failure(format!("{} on {tier}", scenario.name), &error);
    }
    findings
}

/// Ends what runs in the lab, or lets it run on.
fn leave(lab: Lab, afterwards: Afterwards) {
    match afterwards {
        Afterwards::CleanUp => drop(lab),
        Afterwards::Keep => std::mem::forget(lab),
    }
}

/// A scenario of the tour and what it found.
#[derive(Debug, Serialize, Deserialize)]
pub struct Toured {
    /// Name of the scenario.
    pub scenario: String,
    /// What it found.
    pub findings: Findings,
}

/// What the tour shows, in this order, as far as a tier has it.
const TOUR: [&str; 9] = [
    "http",
    "udp",
    "ping",
    "backend_killed",
    "backend_drained",
    "denied",
    "explain",
    "conservation",
    "iperf",
];

/// Starts one lab and goes through [`TOUR`] in it, telling what it does. The kernel is only there to be compared with.
pub fn tour(tier: Tier, afterwards: Afterwards) -> Vec<Toured> {
    let words = if tier == Tier::Kernel {
        &["iperf"][..]
    } else {
        &TOUR
    };
    println!(
        "  starting: {}",
        if tier == Tier::Kernel {
            "network, servers"
        } else {
            "network, servers, marchd, marchdp; marchctl apply"
        }
    );
    let mut toured = Vec::new();
    let mut lab = match Lab::start(tier, Off) {
        Ok(lab) => lab,
        Err(error) => {
            let mut findings = Findings::default();
            findings.failure("start", &error);
            return vec![Toured {
                scenario: "lab".to_owned(),
                findings,
            }];
        }
    };
    for scenario in words.iter().filter_map(|word| find(word)) {
        let Carrying(Off, steps) = scenario.start else {
            continue;
        };
        if !scenario.tiers.contains(&tier) {
            continue;
        }
        println!("  {}: {}", scenario.name, scenario.about);
        let mut findings = Findings::default();
        if let Err(error) = finish(&mut lab, &mut findings, steps) {
            findings.failure("finished", &error);
        }
        toured.push(Toured {
            scenario: scenario.name.to_owned(),
            findings,
        });
    }
    leave(lab, afterwards);
    toured
}

/// Runs the steps. Whatever they found bad is followed by the end of the daemons' logs.
fn finish(
    lab: &mut Lab,
    findings: &mut Findings,
    steps: fn(&mut Lab, &mut Findings) -> Result<()>,
) -> Result<()> {
    let outcome = steps(lab, findings);
    if (outcome.is_err() || !findings.all_good()) && lab.has_product() {
        println!("{}", lab.product().logs());
    }
    outcome
}
