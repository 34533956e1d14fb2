//! What the machine offers, read once per decision.

use std::fs;
use std::path::Path;

use crate::kernel::KernelState;
use crate::kernel::state::Link;

/// Capabilities that the tiers need, by their bit in `CapEff`.
const CAP_NET_ADMIN: u32 = 12;
const CAP_NET_RAW: u32 = 13;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_BPF: u32 = 39;

/// Facts about the machine and one interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts, each asked for by its name"
)]
pub struct Facts {
    /// The interface, if it exists.
    pub link: Option<LinkFacts>,
    /// Free huge pages of any size, in bytes.
    pub free_hugepage_bytes: u64,
    /// `/dev/vfio/vfio` exists.
    pub has_vfio: bool,
    /// The kernel knows `AF_XDP`; else its error.
    pub af_xdp_error: Option<String>,
    /// The interface is administratively up.
    pub is_up: bool,
    /// This process may load BPF programs.
    pub may_load_bpf: bool,
    /// This process may configure interfaces.
    pub may_configure: bool,
    /// This process may open raw and packet sockets.
    pub may_open_raw: bool,
}

/// Facts about one interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkFacts {
    /// The PCI device behind it, if there is one.
    pub pci: Option<PciFacts>,
    /// Whether its type is Ethernet.
    pub is_ethernet: bool,
}

/// Facts about a PCI network device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PciFacts {
    /// Its address, such as `0000:01:00.0`.
    pub address: String,
    /// The kernel driver that has it.
    pub driver: String,
    /// It is in an IOMMU group, as VFIO needs.
    pub has_iommu_group: bool,
}

impl Facts {
    /// Reads the facts for `interface`.
    #[must_use]
    pub fn gather(interface: &str, kernel: &KernelState) -> Self {
        let capabilities = effective_capabilities();
        let has = |bit: u32| capabilities & (1 << bit) != 0;
        Self {
            link: kernel.link_named(interface).map(LinkFacts::gather),
            free_hugepage_bytes: free_hugepage_bytes(),
            has_vfio: Path::new("/dev/vfio/vfio").exists(),
            af_xdp_error: af_xdp_error(),
            is_up: kernel.link_named(interface).is_some_and(|link| link.is_up),
            may_load_bpf: has(CAP_BPF) || has(CAP_SYS_ADMIN),
            may_configure: has(CAP_NET_ADMIN),
            may_open_raw: has(CAP_NET_RAW),
        }
    }
}

impl LinkFacts {
    /// Reads the facts for an interface that exists.
    #[must_use]
    pub fn gather(link: &Link) -> Self {
        Self {
            pci: pci_device(&format!("/sys/class/net/{}", link.name)),
            is_ethernet: link.is_ethernet,
        }
    }
}

/// The PCI device of an interface; a virtio interface has a virtio device between itself and the PCI device.
fn pci_device(base: &str) -> Option<PciFacts> {
    let mut device = fs::canonicalize(format!("{base}/device")).ok()?;
    let is_pci = |path: &Path| {
        fs::canonicalize(path.join("subsystem"))
            .is_ok_and(|subsystem| subsystem.ends_with("bus/pci"))
    };
    while !is_pci(&device) {
        device = device.parent()?.to_owned();
        if device.ends_with("devices") {
            return None;
        }
    }
    let driver = fs::canonicalize(device.join("driver")).ok()?;
    Some(PciFacts {
        address: device.file_name()?.to_string_lossy().into_owned(),
        driver: driver.file_name()?.to_string_lossy().into_owned(),
        has_iommu_group: device.join("iommu_group").exists(),
    })
}

fn free_hugepage_bytes() -> u64 {
    let Ok(sizes) = fs::read_dir("/sys/kernel/mm/hugepages") else {
        return 0;
    };
    sizes
        .filter_map(Result::ok)
        .filter_map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            let kilobytes: u64 = name
                .strip_prefix("hugepages-")?
                .strip_suffix("kB")?
                .parse()
                .ok()?;
            let free: u64 = fs::read_to_string(entry.path().join("free_hugepages"))
                .ok()?
                .trim()
                .parse()
                .ok()?;
            Some(kilobytes * 1024 * free)
        })
        .sum()
}

fn effective_capabilities() -> u64 {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|text| u64::from_str_radix(text.trim(), 16).ok())
        .unwrap_or(0)
}

fn af_xdp_error() -> Option<String> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let family = AddressFamily::from_raw(u16::try_from(libc::AF_XDP).unwrap_or_default());
    match socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, None) {
        Ok(_) => None,
        // Permission is a fact of its own.
        Err(rustix::io::Errno::PERM) => None,
        Err(error) => Some(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_that_is_not_there_has_no_facts() {
        let facts = Facts::gather("no-such-link", &KernelState::default());
        assert_eq!(facts.link, None);
    }
}
