//! Which core an lcore should run on.

use std::io;
use std::path::{Path, PathBuf};

use hwlocality::Topology;
use hwlocality::object::types::ObjectType;

use crate::sysfs;

/// The cores could not be found out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlacementError {
    /// The kernel's description is missing or unreadable.
    #[error("{}: {source}", path.display())]
    Sysfs {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: io::Error,
    },
}

/// One logical CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpu {
    /// The kernel's number.
    pub id: usize,
    /// Its core, named by the lowest CPU that shares it (hyper-threads).
    pub core: usize,
    /// Its NUMA node, where known.
    pub node: Option<usize>,
    /// The scheduler leaves it alone.
    pub is_isolated: bool,
}

/// The CPUs that this process may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// By ascending id.
    pub cpus: Vec<Cpu>,
}

impl Machine {
    /// Asks hwloc, which respects control groups; where it cannot tell, the kernel's own description under `sysfs`.
    pub fn discover(sysfs: &Path) -> Result<Self, PlacementError> {
        match Self::from_hwloc(sysfs) {
            Some(machine) => Ok(machine),
            None => Self::from_sysfs(sysfs),
        }
    }

    /// The kernel's own description.
    pub fn from_sysfs(sysfs: &Path) -> Result<Self, PlacementError> {
        sysfs::machine(sysfs)
    }

    /// What hwloc found; `None` if it failed or does not know the kernel's CPU numbers. hwloc does not say which CPUs
    /// are isolated: that comes from `sysfs`.
    #[must_use]
    pub fn from_hwloc(sysfs: &Path) -> Option<Self> {
        let topology = Topology::new().ok()?;
        let isolated = sysfs::isolated(sysfs);
        let mut cpus = Vec::new();
        for unit in topology.objects_with_type(ObjectType::PU) {
            let id = unit.os_index()?;
            let core = unit
                .first_ancestor_with_type(ObjectType::Core)
                .and_then(|core| core.cpuset()?.first_set())
                .map_or(id, usize::from);
            let nodes = unit.nodeset()?;
            cpus.push(Cpu {
                id,
                core,
                node: nodes.first_set().map(usize::from),
                is_isolated: isolated.contains(&id),
            });
        }
        cpus.sort_by_key(|cpu| cpu.id);
        (!cpus.is_empty()).then_some(Self { cpus })
    }

    /// CPU ids from best to worst for an lcore whose NIC is on `node`, without those in `taken`.
    ///
    /// Isolated before shared (a scheduler tick costs more than a remote cache line), then the NIC's node, then a core
    /// that no other lcore uses, then not CPU 0 (interrupts and the kernel's own work land there), then by number.
    #[must_use]
    pub fn rank(&self, node: Option<usize>, taken: &[usize]) -> Vec<usize> {
        let core_of = |id: &usize| {
            self.cpus
                .iter()
                .find(|cpu| cpu.id == *id)
                .map(|cpu| cpu.core)
        };
        let busy: Vec<usize> = taken.iter().filter_map(core_of).collect();
        let mut free: Vec<&Cpu> = self
            .cpus
            .iter()
            .filter(|cpu| !taken.contains(&cpu.id))
            .collect();
        free.sort_by_key(|cpu| {
            let is_remote = node.is_some() && cpu.node != node;
            (
                !cpu.is_isolated,
                is_remote,
                busy.contains(&cpu.core),
                cpu.id == 0,
                cpu.id,
            )
        });
        free.into_iter().map(|cpu| cpu.id).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpu(id: usize, node: usize, is_isolated: bool) -> Cpu {
        Cpu {
            id,
            core: id % 4,
            node: Some(node),
            is_isolated,
        }
    }

    /// Two nodes of two cores with two threads each: (0 4) (1 5) on node 0, (2 6) (3 7) on node 1.
    fn machine(isolated: &[usize]) -> Machine {
        Machine {
            cpus: (0..8)
                .map(|id| cpu(id, id % 4 / 2, isolated.contains(&id)))
                .collect(),
        }
    }

    #[test]
    fn isolated_then_near_then_a_core_of_its_own() {
        let machine = machine(&[1, 2, 3, 7]);
        assert_eq!(machine.rank(Some(1), &[]), [2, 3, 7, 1, 6, 4, 5, 0]);
        assert_eq!(machine.rank(Some(1), &[3]), [2, 7, 1, 6, 4, 5, 0]);
    }

    #[test]
    fn cpu_0_and_busy_cores_come_last() {
        let machine = machine(&[]);
        assert_eq!(machine.rank(Some(0), &[]), [1, 4, 5, 0, 2, 3, 6, 7]);
        assert_eq!(machine.rank(Some(0), &[1]), [4, 0, 5, 2, 3, 6, 7]);
        assert_eq!(machine.rank(None, &[]), [1, 2, 3, 4, 5, 6, 7, 0]);
    }

    #[test]
    fn hwloc_and_the_kernel_agree_on_this_machine() {
        let sysfs = Path::new(sysfs::SYSFS);
        let hwloc = Machine::from_hwloc(sysfs).expect("hwloc knows this machine");
        let kernel = Machine::from_sysfs(sysfs).expect("so does the kernel");
        // A control group may take CPUs away from hwloc's view, never add any.
        assert!(
            hwloc.cpus.iter().all(|cpu| kernel.cpus.contains(cpu)),
            "{hwloc:?} {kernel:?}"
        );
        assert_eq!(Machine::discover(sysfs).expect("found"), hwloc);
    }
}
