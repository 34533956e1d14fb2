//! Generated rules: criteria that the packets of the world really meet.

use core::net::IpAddr;

use march_tables::{
    Action, Config, Criteria, IcmpMessage, Mirror, PortRange, Redirect, Rule, RuleList, SourceNat,
    TcpFlags, Treatment, Vlan, Wholeness,
};
use march_wire::tuple::IpPrefix;

use crate::config::{LIMITS, PORTS, SETS};
use crate::dice::Dice;
use crate::pending::{Feature, is_there};
use crate::universe::{self, EPHEMERAL, SERVED, Version, hosts};

/// How many rules there are at most.
pub const MOST: usize = 16;

/// A list of rules, some places vacant.
pub fn rules(dice: &mut Dice, config: &Config) -> RuleList {
    let count = dice.below(MOST + 1);
    let rules: Vec<Rule> = (0..count).map(|id| rule(dice, id, config)).collect();
    rules.into_iter().collect()
}

/// Replaces one rule.
pub fn change_one(dice: &mut Dice, config: &mut Config) {
    let mut rules: Vec<Rule> = config.rules.iter().map(|rule| Rule::clone(rule)).collect();
    if !rules.is_empty() {
        let at = dice.below(rules.len());
        rules[at] = rule(dice, at, config);
    }
    config.rules = rules.into_iter().collect();
}

fn rule(dice: &mut Dice, id: usize, config: &Config) -> Rule {
    if dice.percent(5) {
        return Rule::vacant();
    }
    let version = universe::version(dice);
    let action = action(dice, config);
    Rule {
        // Names in another order than ids, priorities that tie.
        name: format!("rule{:02}", (id * 7) % MOST).into(),
        priority: u32::from(dice.from_to(1, 5)) * 10,
        mapping: dice.percent(10).then(|| "mapping".into()),
        sources: prefixes(dice, version, 35),
        destinations: prefixes(dice, version, 35),
        source_ports: ranges(dice, 12, &EPHEMERAL),
        ports: ranges(dice, 25, &SERVED),
        protocol: dice
            .percent(30)
            .then(|| dice.pick(&[6, 6, 6, 17, 17, 1, 58, 50, 132])),
        criteria: criteria(dice),
        action,
        treatment: treatment(dice, action, config),
    }
}

fn prefixes(dice: &mut Dice, version: Version, percent: usize) -> Vec<IpPrefix> {
    if !dice.percent(percent) {
        return Vec::new();
    }
    let other = universe::version(dice);
    let versions = [version, version, other];
    (0..=dice.below(3))
        .map(|_| {
            let version = dice.pick(&versions);
            universe::prefix(dice, version)
        })
        .collect()
}

fn ranges(dice: &mut Dice, percent: usize, around: &[u16]) -> Vec<PortRange> {
    if !dice.percent(percent) {
        return Vec::new();
    }
    (0..=dice.below(3))
        .map(|_| {
            let (a, b) = (dice.pick(around), dice.pick(around));
            match dice.below(4) {
                0 if is_there(Feature::Headless) => PortRange::ALL,
                1 => PortRange { first: a, last: a },
                _ => PortRange {
                    first: a.min(b),
                    last: a.max(b),
                },
            }
        })
        .collect()
}

fn criteria(dice: &mut Dice) -> Criteria {
    if !is_there(Feature::Criteria) {
        return Criteria::default();
    }
    let sets: Vec<u16> = (0..SETS).collect();
    let ports: Vec<u16> = (0..PORTS).collect();
    let mut some_sets = |percent| {
        if dice.percent(percent) {
            dice.some(&sets, 2)
        } else {
            Vec::new()
        }
    };
    let (source_sets, destination_sets) = (some_sets(15), some_sets(8));
    let (not_source_sets, not_destination_sets) = (some_sets(10), some_sets(6));
    Criteria {
        source_sets,
        destination_sets,
        not_source_sets,
        not_destination_sets,
        icmp: if dice.percent(6) {
            messages(dice)
        } else {
            Vec::new()
        },
        tcp_flags: dice.percent(8).then(|| {
            let mask = dice.pick(&[2, 16, 18, 19, 63]);
            let value = dice.pick(&[2, 2, 18, 0, 16]) & mask;
            let is_met_by_none = value == 0 && !is_there(Feature::Headless);
            TcpFlags {
                mask: if is_met_by_none { mask | 2 } else { mask },
                value: if is_met_by_none { 2 } else { value },
            }
        }),
        dscp: if dice.percent(8) { dscps(dice) } else { 0 },
        ingress: if dice.percent(10) {
            dice.some(&ports, 1)
        } else {
            Vec::new()
        },
        vlans: if dice.percent(8) {
            vlans(dice)
        } else {
            Vec::new()
        },
        fragment: (is_there(Feature::Fragments) && dice.percent(8)).then(|| {
            dice.pick(&[
                Wholeness::Whole,
                Wholeness::Fragment,
                Wholeness::First,
                Wholeness::Later,
            ])
        }),
    }
}

fn messages(dice: &mut Dice) -> Vec<IcmpMessage> {
    (0..=dice.below(2))
        .map(|_| IcmpMessage {
            kind: dice.pick(&[8, 128, 0, 3, 13]),
            code: dice.pick(&[None, Some(0), Some(1)]),
        })
        .collect()
}

fn dscps(dice: &mut Dice) -> u64 {
    match dice.below(3) {
        0 => 1 | 1 << 46,
        1 => 1 << dice.pick(&[0, 10, 46, 63]),
        _ => dice.bits(),
    }
}

fn vlans(dice: &mut Dice) -> Vec<Vlan> {
    let all = [
        Vlan::Untagged,
        Vlan::Ids(100, 100),
        Vlan::Ids(99, 101),
        Vlan::Ids(0, 4095),
        Vlan::Ids(200, 300),
    ];
    dice.some(&all, 1)
}

fn action(dice: &mut Dice, config: &Config) -> Action {
    match dice.below(20) {
        0..8 => Action::Allow,
        8..11 => Action::Drop,
        11..13 => Action::Count,
        13 => Action::Punt,
        14..16 if is_there(Feature::Reject) => Action::Reject,
        16.. if is_there(Feature::Redirect) => redirect(dice, config),
        _ => Action::Allow,
    }
}

fn redirect(dice: &mut Dice, config: &Config) -> Action {
    let services: Vec<u16> = config.live_services().map(|(id, _)| id).collect();
    Action::Redirect(match dice.below(3) {
        0 if !services.is_empty() => Redirect::Service(dice.pick(&services)),
        1 => Redirect::Port(dice.from_to(0, PORTS - 1)),
        _ => {
            let version = universe::version(dice);
            let address: IpAddr = dice.pick(&hosts(version));
            Redirect::Address {
                address,
                port: dice.pick(&[0, 0, 80, 9000]),
            }
        }
    })
}

/// What the control plane lets through: nothing that is not let through is treated.
fn treatment(dice: &mut Dice, action: Action, config: &Config) -> Treatment {
    if matches!(action, Action::Drop | Action::Reject | Action::Punt) {
        return Treatment::default();
    }
    let mut wants = |feature, percent| is_there(feature) && dice.percent(percent);
    let (mark, mirror) = (wants(Feature::Mark, 15), wants(Feature::Mirror, 10));
    let (limit, masquerade) = (
        wants(Feature::RuleLimits, 15),
        wants(Feature::Masquerade, 20),
    );
    let is_calm = config.limits.is_empty();
    Treatment {
        mark: mark.then(|| dice.pick(&[0, 10, 46, 63])),
        mirror: mirror.then(|| Mirror {
            port: dice.from_to(0, PORTS - 1),
            per_second: if is_calm {
                100_000
            } else {
                dice.pick(&[1, 5, 1_000])
            },
        }),
        limit: (limit && !is_calm).then(|| dice.from_to(0, LIMITS - 1)),
        source_nat: if masquerade {
            SourceNat::Masquerade
        } else {
            SourceNat::Keep
        },
    }
}
