//! The network of the lab.
//!
//! ```text
//!   client ---------------- proxy ---------------- switch (bridge) ---- b1, b2, b3
//!   c0 198.51.100.2/24      wan0 198.51.100.1/24                         eth0 10.0.1.11, .12, .13 /24
//!      198.51.100.66 (denied)   lan0 10.0.1.1/24                              fd00:1::11, ::12, ::13 /64
//!      2001:db8:100::2/64   2001:db8:100::1, fd00:1::1
//! ```
//! The client reaches [`VIP4`] and [`VIP6`] on its own link (the data plane must answer ARP and ND for them) and
//! [`ROUTED_VIP4`] through the proxy's own address (which its kernel must answer ARP for).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::Command;

use anyhow::Result;

use crate::command;

/// The VIP on the client's link.
pub const VIP4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);
/// The IPv6 VIP on the client's link.
pub const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x100, 0, 0, 0, 0, 0x10);
/// A VIP that the client routes to the proxy.
pub const ROUTED_VIP4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
/// The client, and the address of its that a rule denies.
pub const CLIENT4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
/// The client over IPv6.
pub const CLIENT6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x100, 0, 0, 0, 0, 2);
/// An address of the client that the lab's rule denies.
pub const DENIED4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 66);
/// The proxy's own address on the client's side.
pub const PROXY4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// The proxy's own IPv6 address on the client's side.
pub const PROXY6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x100, 0, 0, 0, 0, 1);
/// The proxy's own address on the backends' side.
pub const PROXY_LAN4: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 1);
/// The proxy's own IPv6 address on the backends' side.
pub const PROXY_LAN6: Ipv6Addr = Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 1);

/// Interface of the proxy towards the client.
pub const WAN: &str = "wan0";
/// Interface of the proxy towards the backends.
pub const LAN: &str = "lan0";
/// Backends of the lab: the namespaces' names are what their servers answer with.
pub const BACKENDS: [&str; 3] = ["b1", "b2", "b3"];

/// IPv4 address of backend `index`.
pub fn backend4(index: usize) -> Ipv4Addr {
    Ipv4Addr::new(
        10,
        0,
        1,
        11 + u8::try_from(index).expect("a handful of backends"),
    )
}

/// IPv6 address of backend `index`: `fd00:1::11` and on, written like the IPv4 ones.
pub fn backend6(index: usize) -> Ipv6Addr {
    let last = 0x11 + u16::try_from(index).expect("a handful of backends");
    Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, last)
}

/// Whether end hosts hand finished packets to their link or leave checksums and segmentation to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offloads {
    /// Complete packets, as they are on a wire.
    Off,
    /// Partial checksums and super-frames, as a local stack sends them over veth.
    On,
}

/// Makes all namespaces, links and addresses.
pub fn build(offloads: Offloads) -> Result<()> {
    let mut names = vec!["client", "proxy"];
    names.extend(BACKENDS);
    for name in &names {
        command::run("ip", ["netns", "add", name])?;
    }
    links()?;
    client()?;
    proxy()?;
    for (index, name) in BACKENDS.iter().enumerate() {
        backend(index, name)?;
    }
    if offloads == Offloads::Off {
        complete_packets("client", "c0")?;
        for name in BACKENDS {
            complete_packets(name, "eth0")?;
        }
        // What the proxy's own stack sends (answers to ping, the socket tier) must be complete too.
        complete_packets("proxy", WAN)?;
        complete_packets("proxy", LAN)?;
    }
    Ok(())
}

fn links() -> Result<()> {
    let mut lines = String::from(
        "link add switch type bridge forward_delay 0\n\
         link set switch type bridge mcast_snooping 0\n\
         link add c0 netns client address 02:00:00:00:01:02 type veth peer name wan0 netns proxy address 02:00:00:00:01:01\n\
         link add to-proxy type veth peer name lan0 netns proxy address 02:00:00:00:02:01\n\
         link set to-proxy master switch up\n",
    );
    for (index, name) in BACKENDS.iter().enumerate() {
        use std::fmt::Write as _;
        let last = 0x11 + index;
        writeln!(
            lines,
            "link add to-{name} type veth peer name eth0 netns {name} address 02:00:00:00:02:{last:02x}"
        )?;
        writeln!(lines, "link set to-{name} master switch up")?;
    }
    lines.push_str("link set switch up\n");
    command::ip_batch(None, &lines)
}

/// Routes the client's VIPs to the proxy. In the socket tier the VIPs sit on the proxy's `lo`, and nobody answers for them on the link:
/// the network has to route them there.
pub fn route_vips() -> Result<()> {
    command::ip_batch(
        Some("client"),
        &format!("route add {VIP4}/32 via {PROXY4}\nroute add {VIP6}/128 via {PROXY6}\n"),
    )
}

fn client() -> Result<()> {
    command::ip_batch(
        Some("client"),
        &format!(
            "link set lo up\nlink set c0 up\n\
             addr add {CLIENT4}/24 dev c0\naddr add {DENIED4}/24 dev c0\naddr add {CLIENT6}/64 dev c0 nodad\n\
             route add 203.0.113.0/24 via {PROXY4}\nroute add 10.0.1.0/24 via {PROXY4}\n\
             route add fd00:1::/64 via {PROXY6}\n"
        ),
    )
}

fn proxy() -> Result<()> {
    command::ip_batch(
        Some("proxy"),
        &format!(
            "link set lo up\nlink set {WAN} up\nlink set {LAN} up\n\
             addr add {PROXY4}/24 dev {WAN}\naddr add {PROXY6}/64 dev {WAN} nodad\n\
             addr add {PROXY_LAN4}/24 dev {LAN}\naddr add {PROXY_LAN6}/64 dev {LAN} nodad\n"
        ),
    )
}

fn backend(index: usize, name: &str) -> Result<()> {
    command::ip_batch(
        Some(name),
        &format!(
            "link set lo up\nlink set eth0 up\n\
             addr add {}/24 dev eth0\naddr add {}/64 dev eth0 nodad\n\
             route add default via {PROXY_LAN4}\nroute add default via {PROXY_LAN6}\n",
            backend4(index),
            backend6(index)
        ),
    )
}

fn complete_packets(namespace: &str, interface: &str) -> Result<()> {
    let off = ["tx", "off", "tso", "off", "gso", "off", "gro", "off"];
    let mut arguments = vec!["netns", "exec", namespace, "ethtool", "-K", interface];
    arguments.extend(off);
    command::run("ip", arguments)?;
    Ok(())
}

/// A command that runs `program` inside a namespace. The process keeps its id: what enters the namespace execs it.
pub fn inside(namespace: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace]).arg(program);
    command
}

/// `address:port`, with brackets around IPv6.
pub fn socket(address: impl Into<IpAddr>, port: u16) -> String {
    std::net::SocketAddr::new(address.into(), port).to_string()
}
