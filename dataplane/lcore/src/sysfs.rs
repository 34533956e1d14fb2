//! What the kernel says of CPUs and NUMA nodes under `/sys`.

use std::fs;
use std::io;
use std::path::Path;

use crate::machine::{Cpu, Machine, PlacementError};

/// Where the kernel mounts it.
pub const SYSFS: &str = "/sys";

/// The NUMA node of an interface's device; `None` for a virtual one or where the firmware does not say.
#[must_use]
pub fn interface_node(sysfs: &Path, interface: &str) -> Option<usize> {
    let path = sysfs
        .join("class/net")
        .join(interface)
        .join("device/numa_node");
    // The kernel writes -1 for "unknown".
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// CPUs that the scheduler leaves alone (`isolcpus=`, or an isolated cpuset partition).
pub(crate) fn isolated(sysfs: &Path) -> Vec<usize> {
    read_list(&sysfs.join("devices/system/cpu/isolated")).unwrap_or_default()
}

/// Every CPU that is online, with its core and node.
pub(crate) fn machine(sysfs: &Path) -> Result<Machine, PlacementError> {
    let cpus = sysfs.join("devices/system/cpu");
    let nodes = sysfs.join("devices/system/node");
    let isolated = isolated(sysfs);
    let online = read_list(&cpus.join("online"))?;
    // A kernel without NUMA support has no such file; all is one node then.
    let nodes_online = read_list(&nodes.join("online")).unwrap_or_default();
    let mut node_of = Vec::new();
    for node in nodes_online {
        for cpu in read_list(&nodes.join(format!("node{node}/cpulist")))? {
            node_of.push((cpu, node));
        }
    }
    let describe = |id: usize| {
        let siblings = cpus.join(format!("cpu{id}/topology/thread_siblings_list"));
        Cpu {
            id,
            // Where the kernel does not say, every CPU is a core of its own.
            core: read_list(&siblings)
                .ok()
                .and_then(|list| list.into_iter().min())
                .unwrap_or(id),
            node: node_of
                .iter()
                .find(|(cpu, _)| *cpu == id)
                .map(|(_, node)| *node),
            is_isolated: isolated.contains(&id),
        }
    };
    Ok(Machine {
        cpus: online.into_iter().map(describe).collect(),
    })
}

fn read_list(path: &Path) -> Result<Vec<usize>, PlacementError> {
    let refuse = |source| PlacementError::Sysfs {
        path: path.to_owned(),
        source,
    };
    let text = fs::read_to_string(path).map_err(refuse)?;
    parse_list(text.trim()).ok_or_else(|| {
        let what = format!("not a list of CPUs: {:?}", text.trim());
        refuse(io::Error::new(io::ErrorKind::InvalidData, what))
    })
}

/// The kernel's list format: `0-3,8,10-11`; empty for none.
fn parse_list(text: &str) -> Option<Vec<usize>> {
    /// More CPUs than any kernel supports: a longer range is nonsense, not a list.
    const MOST: usize = 65_536;
    let mut list = Vec::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if first > last || last >= MOST {
            return None;
        }
        list.extend(first..=last);
    }
    Some(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two nodes of two cores with two threads each; CPUs 2, 3 and 7 isolated, CPU 5 offline.
    fn fake() -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a directory");
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
            fs::write(path, text).expect("a file");
        };
        write("devices/system/cpu/online", "0-4,6-7\n");
        write("devices/system/cpu/isolated", "2-3,7\n");
        write("devices/system/node/online", "0-1\n");
        write("devices/system/node/node0/cpulist", "0-1,4-5\n");
        write("devices/system/node/node1/cpulist", "2-3,6-7\n");
        for cpu in [0, 1, 2, 3, 4, 6, 7] {
            let siblings = format!("{},{}\n", cpu % 4, cpu % 4 + 4);
            write(
                &format!("devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"),
                &siblings,
            );
        }
        write("class/net/eth0/device/numa_node", "1\n");
        write("class/net/eth1/device/numa_node", "-1\n");
        root
    }

    #[test]
    fn reads_cpus_cores_nodes_and_isolation() {
        let root = fake();
        let machine = machine(root.path()).expect("a machine");
        let cpu = |id, core, node, is_isolated| Cpu {
            id,
            core,
            node: Some(node),
            is_isolated,
        };
        let expected = [
            cpu(0, 0, 0, false),
            cpu(1, 1, 0, false),
            cpu(2, 2, 1, true),
            cpu(3, 3, 1, true),
            cpu(4, 0, 0, false),
            cpu(6, 2, 1, false),
            cpu(7, 3, 1, true),
        ];
        assert_eq!(machine.cpus, expected);
    }

    #[test]
    fn knows_the_node_of_an_interface() {
        let root = fake();
        assert_eq!(interface_node(root.path(), "eth0"), Some(1));
        assert_eq!(interface_node(root.path(), "eth1"), None, "-1 is unknown");
        assert_eq!(interface_node(root.path(), "veth0"), None, "no device");
    }

    #[test]
    fn a_kernel_without_numa_or_topology_still_has_cpus() {
        let root = fake();
        fs::remove_dir_all(root.path().join("devices/system/node")).expect("removed");
        fs::remove_dir_all(root.path().join("devices/system/cpu/cpu4")).expect("removed");
        let machine = machine(root.path()).expect("a machine");
        assert!(machine.cpus.iter().all(|cpu| cpu.node.is_none()));
        assert_eq!(machine.cpus[4].core, 4);
    }

    #[test]
    fn what_is_no_list_is_refused_with_its_path() {
        let root = fake();
        fs::write(root.path().join("devices/system/cpu/online"), "0-").expect("a file");
        let error = machine(root.path()).expect_err("refused").to_string();
        assert!(
            error.contains("cpu/online") && error.contains("\"0-\""),
            "{error}"
        );
    }

    #[test]
    fn lists_are_the_kernels() {
        assert_eq!(parse_list(""), Some(vec![]));
        assert_eq!(parse_list("5"), Some(vec![5]));
        assert_eq!(parse_list("0-2,8"), Some(vec![0, 1, 2, 8]));
        for nonsense in ["a", "2-1", "0-99999999", "-1", "1-2-3"] {
            assert_eq!(parse_list(nonsense), None, "{nonsense}");
        }
    }
}
