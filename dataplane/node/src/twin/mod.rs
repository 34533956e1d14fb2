//! The TAP twin of a port: how the kernel keeps its side of an interface whose frames are in userspace.
//!
//! In `dpdk` the twin carries the port's MAC address, addresses and routes, so that ping, ARP, ssh and routing daemons go
//! on. In `af_xdp` the interface stays with the kernel and the twin only injects what a lcore decided to punt.
//!
//! A twin is not journalled: the kernel takes it away with the process, however that ends.

mod pump;
mod tap;

use rtnetlink::Handle;

pub use pump::{KernelSide, Pump, PumpCounters};
pub use tap::{Tap, twin_name};

use crate::kernel::{KernelError, change, sysctl};

/// Makes the twin of `interface`, up, with the MAC address and MTU of the port. Returns it with its interface index.
///
/// It has no address of its own making: what it is to carry is put on it.
pub async fn create(
    handle: &Handle,
    interface: &str,
    mac: [u8; 6],
    mtu: u32,
) -> Result<(Tap, u32), KernelError> {
    let name = twin_name(interface);
    let failed = |reason: String| KernelError::Tool {
        tool: format!("twin {name}"),
        reason,
    };
    let tap =
        Tap::create(&name).map_err(|error| failed(format!("{error} (is /dev/net/tun there?)")))?;
    let settings = [
        ("ipv6", "addr_gen_mode", "1"),
        ("ipv6", "accept_ra", "0"),
        ("ipv6", "accept_dad", "0"),
        ("ipv4", "forwarding", "0"),
        ("ipv6", "forwarding", "0"),
        ("ipv4", "rp_filter", "0"),
    ];
    for (family, setting, value) in settings {
        let path = sysctl::interface_path(family, &name, setting);
        if std::path::Path::new(&path).exists() {
            sysctl::write(&path, value)?;
        }
    }
    let index = change::index_of(handle, &name)
        .await?
        .ok_or_else(|| KernelError::NoInterface(name.clone()))?;
    change::bring_up(handle, index, mac, mtu).await?;
    Ok((tap, index))
}
