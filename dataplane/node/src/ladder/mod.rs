//! Which tier a port runs, and why not a higher one.
//!
//! [`Facts`] are gathered from the machine; [`assess`] turns them into an answer for every rung, purely, so that every
//! reason is tested; [`agree`] finds the one fast tier that the ports of the node share.

mod assess;
mod facts;
mod guard;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

pub use assess::{Assessment, Limits, assess};
pub use facts::{Facts, LinkFacts, PciFacts};
pub use guard::{Taking, guard_below, guarded_links, ssh_client, ssh_client_of_caller};

/// A tier, from the top.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// DPDK on a real device.
    Dpdk,
    /// DPDK on a virtual device of this driver: for tests, never chosen by `auto`.
    DpdkVirtual(VirtualDriver),
    /// `AF_XDP` sockets and the steering program.
    AfXdp,
    /// The kernel's stack.
    Socket,
}

/// DPDK's virtual devices that stand on a kernel interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum VirtualDriver {
    /// A packet socket on the interface.
    AfPacket,
    /// DPDK's own use of `AF_XDP` on the interface.
    AfXdp,
    /// A TAP interface that DPDK makes; the interface must not exist before.
    Tap,
}

impl VirtualDriver {
    /// DPDK's name for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            VirtualDriver::AfPacket => "net_af_packet",
            VirtualDriver::AfXdp => "net_af_xdp",
            VirtualDriver::Tap => "net_tap",
        }
    }
}

impl Tier {
    /// Whether lcores drive the port.
    #[must_use]
    pub fn is_fast(&self) -> bool {
        *self != Tier::Socket
    }

    /// Which engine drives it: ports of one node can differ in the device but not in this.
    #[must_use]
    pub fn family(&self) -> Family {
        match self {
            Tier::Dpdk | Tier::DpdkVirtual(_) => Family::Dpdk,
            Tier::AfXdp => Family::AfXdp,
            Tier::Socket => Family::Socket,
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Tier::Dpdk => formatter.write_str("dpdk"),
            Tier::DpdkVirtual(driver) => write!(formatter, "dpdk({})", driver.as_str()),
            Tier::AfXdp => formatter.write_str("af_xdp"),
            Tier::Socket => formatter.write_str("socket"),
        }
    }
}

/// Tiers whose ports can exchange frames without a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// One DPDK mempool.
    Dpdk,
    /// One UMEM.
    AfXdp,
    /// The kernel's stack.
    Socket,
}

impl fmt::Display for Family {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Family::Dpdk => "dpdk",
            Family::AfXdp => "af_xdp",
            Family::Socket => "socket",
        })
    }
}

impl FromStr for Family {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "dpdk" => Ok(Family::Dpdk),
            "af_xdp" => Ok(Family::AfXdp),
            "socket" => Ok(Family::Socket),
            _ => Err(format!(
                "`{text}` is not a tier; write dpdk, af_xdp or socket"
            )),
        }
    }
}

/// What a port asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// The highest that works.
    Auto,
    /// This one or none.
    Exactly(Tier),
}

impl FromStr for Request {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Request::Exactly(match text {
            "auto" => return Ok(Request::Auto),
            "dpdk" => Tier::Dpdk,
            "af_xdp" => Tier::AfXdp,
            "socket" => Tier::Socket,
            "dpdk(net_af_packet)" => Tier::DpdkVirtual(VirtualDriver::AfPacket),
            "dpdk(net_af_xdp)" => Tier::DpdkVirtual(VirtualDriver::AfXdp),
            "dpdk(net_tap)" => Tier::DpdkVirtual(VirtualDriver::Tap),
            _ => {
                return Err(format!(
                    "this node cannot run `{text}`; it knows auto, dpdk, af_xdp, socket and, for tests, \
                     dpdk(net_af_packet), dpdk(net_af_xdp), dpdk(net_tap)"
                ));
            }
        }))
    }
}

/// A rung that was passed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passed {
    /// The tier.
    pub tier: Tier,
    /// Why, in words a person can act on.
    pub why: String,
}

/// The state of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortState {
    /// It runs its tier.
    Up,
    /// Its interface does not exist.
    Missing,
    /// It cannot or may not run what it asks for; the reasons say why. The others go on.
    Refused,
}

impl PortState {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            PortState::Up => "up",
            PortState::Missing => "missing",
            PortState::Refused => "refused",
        }
    }
}

/// The ladder's answer for one port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// What it runs; `None` when missing or refused.
    pub tier: Option<Tier>,
    /// What it does not run, from the top, and why.
    pub passed: Vec<Passed>,
    /// Its state.
    pub state: PortState,
}

/// Finds one tier family that the fast ports of the node share, and each port's place in it.
///
/// The highest family that every port able to be driven fast can run wins. If they have none in common, the family that
/// most can run wins, the higher one at a tie, and the others are refused with that reason. Ports that no fast tier can
/// have (missing, refused, or `socket` by request) do not hold the others back.
#[must_use]
pub fn agree(assessments: &BTreeMap<String, Assessment>) -> BTreeMap<String, Placement> {
    let votes = |family: Family| {
        assessments
            .values()
            .filter(|assessment| {
                assessment
                    .possible
                    .iter()
                    .any(|tier| tier.family() == family)
            })
            .count()
    };
    let fast = [Family::Dpdk, Family::AfXdp];
    let able: BTreeSet<&String> = assessments
        .iter()
        .filter(|(_, assessment)| assessment.possible.iter().any(Tier::is_fast))
        .map(|(name, _)| name)
        .collect();
    let common = fast
        .into_iter()
        .find(|family| !able.is_empty() && votes(*family) == able.len());
    let most = fast
        .into_iter()
        .rev()
        .max_by_key(|family| votes(*family))
        .filter(|family| votes(*family) > 0);
    let chosen = common.or(most);
    assessments
        .iter()
        .map(|(name, assessment)| (name.clone(), place(assessment, chosen)))
        .collect()
}

fn place(assessment: &Assessment, chosen: Option<Family>) -> Placement {
    let mut passed = assessment.passed.clone();
    if assessment.is_missing {
        return Placement {
            tier: None,
            passed,
            state: PortState::Missing,
        };
    }
    let tier = match chosen {
        // Beside fast ports, a port at the socket rung is only the kernel's own interface.
        Some(family) => assessment
            .possible
            .iter()
            .find(|tier| tier.family() == family)
            .or_else(|| {
                assessment
                    .possible
                    .iter()
                    .find(|tier| !tier.is_fast() && assessment.is_explicit)
            }),
        None => assessment.possible.first(),
    };
    for other in &assessment.possible {
        let is_above = tier.is_none_or(|tier| other < tier);
        if let (true, Some(family)) = (is_above, chosen) {
            let why = if other.is_fast() {
                format!(
                    "the ports of one node share one fast tier, and the others can only share {family}"
                )
            } else {
                format!("the services of this node run in {family} on its other ports")
            };
            passed.push(Passed {
                tier: other.clone(),
                why,
            });
        }
    }
    passed.sort_by(|a, b| a.tier.cmp(&b.tier));
    let state = if tier.is_some() {
        PortState::Up
    } else {
        PortState::Refused
    };
    Placement {
        tier: tier.cloned(),
        passed,
        state,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn can(tiers: &[Tier]) -> Assessment {
        Assessment {
            possible: tiers.to_vec(),
            passed: Vec::new(),
            is_missing: false,
            is_explicit: false,
        }
    }

    fn agreed(ports: &[(&str, Assessment)]) -> BTreeMap<String, Placement> {
        agree(
            &ports
                .iter()
                .map(|(name, assessment)| ((*name).to_owned(), assessment.clone()))
                .collect(),
        )
    }

    #[test]
    fn the_highest_tier_that_all_share_wins_and_the_others_say_why_not() {
        let both = can(&[Tier::Dpdk, Tier::AfXdp, Tier::Socket]);
        let placements = agreed(&[("a", both.clone()), ("b", both.clone())]);
        assert!(
            placements
                .values()
                .all(|placement| placement.tier == Some(Tier::Dpdk))
        );

        let placements = agreed(&[("a", both), ("b", can(&[Tier::AfXdp, Tier::Socket]))]);
        assert!(
            placements
                .values()
                .all(|placement| placement.tier == Some(Tier::AfXdp))
        );
        assert_eq!(placements["a"].passed[0].tier, Tier::Dpdk);
        assert!(
            placements["a"].passed[0]
                .why
                .contains("share one fast tier")
        );
    }

    #[test]
    fn a_missing_or_refused_port_does_not_hold_the_others_back() {
        let missing = Assessment {
            is_missing: true,
            ..can(&[])
        };
        let placements = agreed(&[
            ("a", can(&[Tier::AfXdp, Tier::Socket])),
            ("b", missing),
            ("c", can(&[Tier::Socket])),
        ]);
        assert_eq!(placements["a"].tier, Some(Tier::AfXdp));
        assert_eq!(placements["b"].state, PortState::Missing);
        assert_eq!(placements["c"].state, PortState::Refused);
        assert!(placements["c"].passed[0].why.contains("run in af_xdp"));
    }

    #[test]
    fn ports_without_a_common_tier_follow_the_most() {
        let virtual_only = can(&[Tier::DpdkVirtual(VirtualDriver::AfPacket)]);
        let placements = agreed(&[
            ("a", can(&[Tier::AfXdp])),
            ("b", can(&[Tier::AfXdp])),
            ("c", virtual_only),
        ]);
        assert_eq!(placements["a"].tier, Some(Tier::AfXdp));
        assert_eq!(placements["c"].state, PortState::Refused);
    }

    #[test]
    fn without_any_fast_port_the_socket_rung_is_left() {
        let placements = agreed(&[("a", can(&[Tier::Socket]))]);
        assert_eq!(placements["a"].tier, Some(Tier::Socket));
        assert_eq!(placements["a"].state, PortState::Up);
    }

    #[test]
    fn tiers_read_as_they_are_written() {
        for text in [
            "dpdk",
            "af_xdp",
            "socket",
            "dpdk(net_af_packet)",
            "dpdk(net_af_xdp)",
            "dpdk(net_tap)",
        ] {
            match text.parse::<Request>() {
                Ok(Request::Exactly(tier)) => assert_eq!(tier.to_string(), text),
                other => panic!("{text}: {other:?}"),
            }
        }
        assert_eq!("auto".parse::<Request>(), Ok(Request::Auto));
        assert!("dpdk(net_null)".parse::<Request>().is_err());
    }
}
