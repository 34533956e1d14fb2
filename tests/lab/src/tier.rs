//! The ways in which the lab's traffic can be carried.

use std::fmt;
use std::str::FromStr;

use anyhow::{Result, bail};

/// Huge pages of 2 MB that one node with two DPDK ports uses at most.
const DPDK_HUGEPAGES: u32 = 128;

/// What carries the traffic between the client and the backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// The product over DPDK's `net_af_packet`, asked for by name.
    Dpdk,
    /// The product over `AF_XDP` sockets.
    AfXdp,
    /// The product's own sockets on the kernel's stack.
    Socket,
    /// No product: the kernel forwards with nftables DNAT. Proves that the lab itself is sound.
    Kernel,
}

impl Tier {
    /// The tiers of the product, from the top of the ladder.
    pub const PRODUCT: [Tier; 3] = [Tier::Dpdk, Tier::AfXdp, Tier::Socket];

    /// The word on command lines and in tables.
    pub const fn word(self) -> &'static str {
        match self {
            Tier::Dpdk => "dpdk",
            Tier::AfXdp => "af_xdp",
            Tier::Socket => "socket",
            Tier::Kernel => "kernel",
        }
    }

    /// What a Port document asks for, and what `get ports` must then show.
    pub const fn asked_for(self) -> &'static str {
        match self {
            Tier::Dpdk => "dpdk(net_af_packet)",
            Tier::AfXdp => "af_xdp",
            Tier::Socket => "socket",
            Tier::Kernel => "none",
        }
    }

    /// What it is, in a line.
    pub const fn about(self) -> &'static str {
        match self {
            Tier::Dpdk => "DPDK poll mode on net_af_packet (a virtual device, asked for by name)",
            Tier::AfXdp => "AF_XDP sockets, steered by the XDP program",
            Tier::Socket => "listeners on the kernel's stack",
            Tier::Kernel => "no product: kernel forwarding with nftables DNAT, to compare with",
        }
    }

    /// What this machine lacks for it, found without asking the product; `None`: nothing.
    pub fn lacks(self) -> Option<String> {
        match self {
            Tier::Dpdk => {
                let free = std::fs::read_to_string(
                    "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages",
                )
                .ok();
                let free: u32 = free.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
                (free < DPDK_HUGEPAGES).then(|| format!("{free} huge pages of 2 MB are free, {DPDK_HUGEPAGES} are needed; `make setup` reserves them"))
            }
            Tier::AfXdp => {
                use rustix::net::{AddressFamily, SocketType, socket};
                socket(AddressFamily::XDP, SocketType::RAW, None)
                    .err()
                    .map(|error| format!("this kernel has no AF_XDP sockets: {error}"))
            }
            Tier::Socket | Tier::Kernel => None,
        }
    }

    /// Whether frames go through lcores: rules, flows, drop reasons and conservation are theirs.
    pub const fn is_fast(self) -> bool {
        matches!(self, Tier::Dpdk | Tier::AfXdp)
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.word())
    }
}

impl FromStr for Tier {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match [Tier::Dpdk, Tier::AfXdp, Tier::Socket, Tier::Kernel]
            .into_iter()
            .find(|tier| tier.word() == text)
        {
            Some(tier) => Ok(tier),
            None => bail!("`{text}` is not a tier of the lab: dpdk, af_xdp, socket or kernel"),
        }
    }
}
