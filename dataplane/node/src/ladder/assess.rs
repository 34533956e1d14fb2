//! One port, every rung: can it run there, and if not, why.

use std::collections::BTreeMap;

use super::{Facts, Family, Passed, PciFacts, Request, Tier, VirtualDriver};

/// DPDK needs this much for its pool and rings.
pub const MIN_HUGEPAGE_BYTES: u64 = 64 * 1024 * 1024;

/// Kernel drivers whose devices DPDK 22.11 drives through VFIO with the drivers that are linked in.
const DPDK_KERNEL_DRIVERS: [&str; 12] = [
    "e1000",
    "e1000e",
    "igb",
    "igbvf",
    "igc",
    "ixgbe",
    "ixgbevf",
    "i40e",
    "iavf",
    "ice",
    "vmxnet3",
    "virtio-pci",
];

/// Drivers that share the card with DPDK instead of giving it up.
const SHARED_KERNEL_DRIVERS: [&str; 3] = ["mlx4_core", "mlx5_core", "ena"];

/// What one port can run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assessment {
    /// Tiers that should work, from the top.
    pub possible: Vec<Tier>,
    /// Tiers that do not, from the top, with the reason.
    pub passed: Vec<Passed>,
    /// The interface does not exist.
    pub is_missing: bool,
    /// The port asks for one tier and no other.
    pub is_explicit: bool,
}

/// What is known beyond the facts of the machine.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    /// Highest family that the operator allows on this node.
    pub highest: Option<Family>,
    /// Why the interface is guarded, if it is.
    pub guarded: Option<String>,
    /// Tiers that were tried and did not start, with the error.
    pub failed: BTreeMap<Tier, String>,
}

/// Answers every rung for one port.
#[must_use]
pub fn assess(interface: &str, request: &Request, facts: &Facts, limits: &Limits) -> Assessment {
    let rungs = match request {
        Request::Auto => vec![Tier::Dpdk, Tier::AfXdp, Tier::Socket],
        Request::Exactly(tier) => vec![tier.clone()],
    };
    let mut assessment = Assessment {
        possible: Vec::new(),
        passed: Vec::new(),
        is_missing: facts.link.is_none() && !makes_its_interface(request),
        is_explicit: *request != Request::Auto,
    };
    for tier in rungs {
        let obstacle = if assessment.is_missing {
            Some(format!(
                "there is no interface {interface} on this node; create it or correct spec.interface (ip link shows those \
                 there are)"
            ))
        } else {
            obstacle(interface, &tier, facts, limits)
        };
        match obstacle {
            Some(why) => assessment.passed.push(Passed { tier, why }),
            None => assessment.possible.push(tier),
        }
    }
    assessment
}

fn makes_its_interface(request: &Request) -> bool {
    *request == Request::Exactly(Tier::DpdkVirtual(VirtualDriver::Tap))
}

/// The first thing that keeps a tier from running.
fn obstacle(interface: &str, tier: &Tier, facts: &Facts, limits: &Limits) -> Option<String> {
    if let Some(highest) = limits.highest
        && tier.family() < highest
    {
        return Some(format!("this node was started with --tier-limit {highest}"));
    }
    if tier.is_fast()
        && let Some(why) = &limits.guarded
    {
        return Some(why.clone());
    }
    if let Some(error) = limits.failed.get(tier) {
        return Some(error.clone());
    }
    if tier.is_fast() && facts.link.is_some() && !facts.is_up {
        return Some(format!(
            "interface {interface} is down; bring it up: ip link set {interface} up"
        ));
    }
    match tier {
        Tier::Dpdk => dpdk_obstacle(interface, facts),
        Tier::DpdkVirtual(driver) => virtual_obstacle(*driver, facts),
        Tier::AfXdp => af_xdp_obstacle(interface, facts),
        Tier::Socket => None,
    }
}

fn dpdk_obstacle(interface: &str, facts: &Facts) -> Option<String> {
    let Some(pci) = facts.link.as_ref().and_then(|link| link.pci.as_ref()) else {
        return Some(format!(
            "{interface} is not a PCI network device; DPDK drives real devices only (its virtual devices are for tests and \
             must be asked for by name, such as dpdk(net_af_packet))"
        ));
    };
    driver_obstacle(pci)
        .or_else(|| hugepage_obstacle(facts))
        .or_else(|| vfio_obstacle(pci, facts))
}

fn driver_obstacle(pci: &PciFacts) -> Option<String> {
    let PciFacts {
        address, driver, ..
    } = pci;
    if DPDK_KERNEL_DRIVERS.contains(&driver.as_str()) {
        return None;
    }
    if SHARED_KERNEL_DRIVERS.contains(&driver.as_str()) {
        return Some(format!(
            "device {address} has the kernel driver {driver}, which shares the card with DPDK; that is not supported yet"
        ));
    }
    Some(format!(
        "device {address} has the kernel driver {driver}, for which this build has no DPDK driver"
    ))
}

fn hugepage_obstacle(facts: &Facts) -> Option<String> {
    (facts.free_hugepage_bytes < MIN_HUGEPAGE_BYTES).then(|| {
        format!(
            "{} MB of huge pages are free and DPDK needs {} MB; reserve some: echo 512 > \
             /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages",
            facts.free_hugepage_bytes / (1024 * 1024),
            MIN_HUGEPAGE_BYTES / (1024 * 1024)
        )
    })
}

fn vfio_obstacle(pci: &PciFacts, facts: &Facts) -> Option<String> {
    if !facts.has_vfio {
        return Some(
            "/dev/vfio/vfio does not exist; load the module: modprobe vfio-pci".to_owned(),
        );
    }
    if !pci.has_iommu_group {
        return Some(format!(
            "device {} is in no IOMMU group; enable the IOMMU in the firmware and boot with intel_iommu=on or \
             amd_iommu=on",
            pci.address
        ));
    }
    None
}

fn virtual_obstacle(driver: VirtualDriver, facts: &Facts) -> Option<String> {
    let mut needed = vec![
        ("CAP_NET_ADMIN", facts.may_configure),
        ("CAP_NET_RAW", facts.may_open_raw),
    ];
    if driver == VirtualDriver::AfXdp {
        needed.push(("CAP_BPF", facts.may_load_bpf));
    }
    capability_obstacle(&needed).or_else(|| hugepage_obstacle(facts))
}

fn af_xdp_obstacle(interface: &str, facts: &Facts) -> Option<String> {
    let needed = [
        ("CAP_BPF", facts.may_load_bpf),
        ("CAP_NET_ADMIN", facts.may_configure),
        ("CAP_NET_RAW", facts.may_open_raw),
    ];
    if let Some(obstacle) = capability_obstacle(&needed) {
        return Some(obstacle);
    }
    if let Some(error) = &facts.af_xdp_error {
        return Some(format!(
            "this kernel has no AF_XDP sockets ({error}); it needs CONFIG_XDP_SOCKETS"
        ));
    }
    if facts.link.as_ref().is_some_and(|link| !link.is_ethernet) {
        return Some(format!("{interface} is not an Ethernet interface"));
    }
    None
}

fn capability_obstacle(needed: &[(&'static str, bool)]) -> Option<String> {
    let missing: Vec<&str> = needed
        .iter()
        .filter(|(_, is_there)| !is_there)
        .map(|(name, _)| *name)
        .collect();
    (!missing.is_empty()).then(|| {
        format!(
            "marchdp lacks {}; run it as root or grant it (AmbientCapabilities= in its unit)",
            missing.join(" and ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::super::LinkFacts;
    use super::*;

    fn able() -> Facts {
        Facts {
            link: Some(LinkFacts {
                pci: Some(PciFacts {
                    address: "0000:01:00.0".into(),
                    driver: "ixgbe".into(),
                    has_iommu_group: true,
                }),
                is_ethernet: true,
            }),
            free_hugepage_bytes: 1 << 30,
            has_vfio: true,
            af_xdp_error: None,
            is_up: true,
            may_load_bpf: true,
            may_configure: true,
            may_open_raw: true,
        }
    }

    fn veth() -> Facts {
        Facts {
            link: Some(LinkFacts {
                pci: None,
                is_ethernet: true,
            }),
            ..able()
        }
    }

    fn auto(facts: &Facts) -> Assessment {
        assess("eth1", &Request::Auto, facts, &Limits::default())
    }

    fn why(assessment: &Assessment, tier: &Tier) -> String {
        assessment
            .passed
            .iter()
            .find(|passed| passed.tier == *tier)
            .map(|passed| passed.why.clone())
            .unwrap_or_default()
    }

    #[test]
    fn a_real_device_runs_every_rung() {
        assert_eq!(
            auto(&able()).possible,
            [Tier::Dpdk, Tier::AfXdp, Tier::Socket]
        );
    }

    #[test]
    fn auto_never_takes_a_virtual_device_for_dpdk() {
        let assessment = auto(&veth());
        assert_eq!(assessment.possible, [Tier::AfXdp, Tier::Socket]);
        assert!(why(&assessment, &Tier::Dpdk).contains("not a PCI network device"));
    }

    #[test]
    fn every_obstacle_of_dpdk_is_named() {
        let pci = |change: fn(&mut PciFacts)| {
            let mut facts = able();
            change(
                facts
                    .link
                    .as_mut()
                    .expect("a link")
                    .pci
                    .as_mut()
                    .expect("a device"),
            );
            why(&auto(&facts), &Tier::Dpdk)
        };
        assert!(pci(|pci| pci.driver = "tg3".into()).contains("tg3"));
        assert!(pci(|pci| pci.driver = "mlx5_core".into()).contains("shares the card"));
        assert!(pci(|pci| pci.has_iommu_group = false).contains("IOMMU"));
        let facts = Facts {
            free_hugepage_bytes: 2 << 20,
            ..able()
        };
        assert!(why(&auto(&facts), &Tier::Dpdk).contains("2 MB of huge pages are free"));
        let facts = Facts {
            has_vfio: false,
            ..able()
        };
        assert!(why(&auto(&facts), &Tier::Dpdk).contains("modprobe vfio-pci"));
    }

    #[test]
    fn every_obstacle_of_af_xdp_is_named() {
        let facts = Facts {
            may_load_bpf: false,
            may_configure: false,
            ..veth()
        };
        let assessment = auto(&facts);
        assert_eq!(assessment.possible, [Tier::Socket]);
        assert!(why(&assessment, &Tier::AfXdp).contains("CAP_BPF and CAP_NET_ADMIN"));
        let facts = Facts {
            af_xdp_error: Some("not supported".into()),
            ..veth()
        };
        assert!(why(&auto(&facts), &Tier::AfXdp).contains("CONFIG_XDP_SOCKETS"));
        let facts = Facts {
            link: Some(LinkFacts::default()),
            ..veth()
        };
        assert!(why(&auto(&facts), &Tier::AfXdp).contains("not an Ethernet"));
    }

    #[test]
    fn an_interface_that_is_down_is_left_to_the_kernel() {
        let assessment = auto(&Facts {
            is_up: false,
            ..able()
        });
        assert_eq!(assessment.possible, [Tier::Socket]);
        assert!(why(&assessment, &Tier::AfXdp).contains("ip link set eth1 up"));
    }

    #[test]
    fn a_missing_interface_passes_every_rung_over() {
        let assessment = auto(&Facts {
            link: None,
            ..able()
        });
        assert!(assessment.is_missing && assessment.possible.is_empty());
        assert_eq!(assessment.passed.len(), 3);
        assert!(assessment.passed[0].why.contains("no interface eth1"));
    }

    #[test]
    fn limits_guards_and_failed_starts_leave_their_reasons() {
        let limits = Limits {
            highest: Some(Family::AfXdp),
            guarded: None,
            failed: BTreeMap::from([(Tier::AfXdp, "bind: device busy".to_owned())]),
        };
        let assessment = assess("eth1", &Request::Auto, &able(), &limits);
        assert_eq!(assessment.possible, [Tier::Socket]);
        assert!(why(&assessment, &Tier::Dpdk).contains("--tier-limit af_xdp"));
        assert_eq!(why(&assessment, &Tier::AfXdp), "bind: device busy");

        let limits = Limits {
            guarded: Some("it carries the default route".into()),
            ..Limits::default()
        };
        let assessment = assess("eth1", &Request::Exactly(Tier::AfXdp), &able(), &limits);
        assert!(assessment.possible.is_empty() && assessment.is_explicit);
        assert!(why(&assessment, &Tier::AfXdp).contains("default route"));
    }

    #[test]
    fn explicit_virtual_devices_need_hugepages_too() {
        let request = Request::Exactly(Tier::DpdkVirtual(VirtualDriver::AfPacket));
        let facts = Facts {
            free_hugepage_bytes: 0,
            ..veth()
        };
        let assessment = assess("eth1", &request, &facts, &Limits::default());
        assert!(assessment.possible.is_empty());
        assert!(assessment.passed[0].why.contains("0 MB of huge pages"));
        let tap = Request::Exactly(Tier::DpdkVirtual(VirtualDriver::Tap));
        assert!(
            !assess(
                "t0",
                &tap,
                &Facts {
                    link: None,
                    ..able()
                },
                &Limits::default()
            )
            .is_missing
        );
    }
}
