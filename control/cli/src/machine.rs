//! What this machine offers the data plane, each finding with a way to better it.

use std::path::Path;

use march_proto::GROUP;
use serde::Serialize;

/// How a finding stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    Ok,
    /// Works, with less than there could be.
    Note,
    /// Does not work.
    Fail,
}

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Finding {
    pub level: Level,
    /// What was looked at, in a word or two.
    pub what: &'static str,
    /// What was found.
    pub found: String,
    /// What to do; empty when nothing is to be done.
    pub fix: String,
}

impl Finding {
    pub fn ok(what: &'static str, found: impl Into<String>) -> Self {
        Self {
            level: Level::Ok,
            what,
            found: found.into(),
            fix: String::new(),
        }
    }

    pub fn note(what: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            level: Level::Note,
            what,
            found: found.into(),
            fix: fix.into(),
        }
    }

    pub fn fail(what: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            level: Level::Fail,
            what,
            found: found.into(),
            fix: fix.into(),
        }
    }
}

/// Looks at this machine; asks nobody.
pub(crate) fn findings() -> Vec<Finding> {
    vec![
        kernel(),
        af_xdp(),
        bpf_file_system(),
        hugepages(),
        vfio(),
        isolated_cores(),
        group(),
    ]
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// Major and minor of a kernel release such as `6.1.0-18-amd64`.
fn release(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.trim().split(['.', '-']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn kernel() -> Finding {
    let text = read("/proc/sys/kernel/osrelease");
    let text = text.trim();
    match release(text) {
        Some(version) if version >= (5, 10) => Finding::ok("kernel", text),
        _ => Finding::fail(
            "kernel",
            format!("{text}: older than 5.10"),
            "run a kernel from 5.10 on",
        ),
    }
}

fn af_xdp() -> Finding {
    use rustix::net::{AddressFamily, SocketType, socket};
    match socket(AddressFamily::XDP, SocketType::RAW, None) {
        Ok(_) => Finding::ok("AF_XDP", "sockets can be opened"),
        Err(rustix::io::Errno::PERM | rustix::io::Errno::ACCESS) => Finding::note(
            "AF_XDP",
            "not permitted to this user",
            "run marchdp as root or with CAP_NET_RAW, CAP_NET_ADMIN and CAP_BPF",
        ),
        Err(error) => Finding::note(
            "AF_XDP",
            format!("sockets cannot be opened: {error}"),
            "run a kernel with CONFIG_XDP_SOCKETS=y; without it ports run the tiers dpdk or socket",
        ),
    }
}

fn bpf_file_system() -> Finding {
    let is_mounted = read("/proc/mounts")
        .lines()
        .any(|line| line.split(' ').nth(2) == Some("bpf"));
    if is_mounted {
        Finding::ok("bpffs", "mounted")
    } else {
        Finding::note("bpffs", "not mounted", "mount -t bpf bpf /sys/fs/bpf")
    }
}

/// A number of `/proc/meminfo`.
fn memory_field(text: &str, field: &str) -> u64 {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

fn hugepages() -> Finding {
    let text = read("/proc/meminfo");
    let (total, free) = (
        memory_field(&text, "HugePages_Total"),
        memory_field(&text, "HugePages_Free"),
    );
    let size_kib = memory_field(&text, "Hugepagesize");
    let found = format!("{free} of {total} pages of {size_kib} KiB free");
    if total == 0 {
        let fix = "for the tier dpdk: sysctl vm.nr_hugepages=512, or hugepages=512 on the kernel's command line";
        Finding::note("hugepages", "none are reserved", fix)
    } else {
        Finding::ok("hugepages", found)
    }
}

fn vfio() -> Finding {
    let groups = std::fs::read_dir("/sys/kernel/iommu_groups").map_or(0, Iterator::count);
    match (Path::new("/dev/vfio/vfio").exists(), groups) {
        (true, 1..) => Finding::ok("vfio", format!("{groups} IOMMU groups")),
        (true, 0) => Finding::note(
            "vfio",
            "no IOMMU groups",
            "for the tier dpdk on PCI devices: turn the IOMMU on in the firmware, and intel_iommu=on on the kernel's command line",
        ),
        (false, _) => Finding::note(
            "vfio",
            "not loaded",
            "for the tier dpdk on PCI devices: modprobe vfio-pci",
        ),
    }
}

fn isolated_cores() -> Finding {
    let cores = read("/sys/devices/system/cpu/isolated");
    match cores.trim() {
        "" => Finding::note(
            "isolated cores",
            "none: lcores share their cores with other work",
            "isolcpus=, nohz_full= and rcu_nocbs= on the kernel's command line",
        ),
        cores => Finding::ok("isolated cores", cores),
    }
}

fn group() -> Finding {
    let is_there = read("/etc/group")
        .lines()
        .any(|line| line.split(':').next() == Some(GROUP));
    if is_there {
        Finding::ok("group", GROUP)
    } else {
        let found = format!("there is no group {GROUP}: only root can use marchctl");
        Finding::note("group", found, format!("groupadd --system {GROUP}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files_are_read() {
        assert_eq!(release("6.1.0-18-amd64\n"), Some((6, 1)));
        assert_eq!(release("5.9-rc1"), Some((5, 9)));
        assert_eq!(release(""), None);
        let text =
            "HugePages_Total:      64\nHugePages_Free:       12\nHugepagesize:       2048 kB\n";
        assert_eq!(memory_field(text, "HugePages_Free"), 12);
        assert_eq!(memory_field(text, "Hugepagesize"), 2048);
        assert_eq!(memory_field(text, "Hugetlb"), 0);
    }

    #[test]
    fn every_finding_that_is_not_ok_has_a_fix() {
        for finding in findings() {
            assert_eq!(
                finding.level == Level::Ok,
                finding.fix.is_empty(),
                "{finding:?}"
            );
        }
    }
}
