//! The lab without the product: the kernel of the proxy namespace forwards, nftables DNATs to the backends in turn.
//!
//! If a scenario fails here, the lab is at fault. Also what the product's throughput is put next to.

use std::fmt::Write as _;
use std::io::Write as _;

use anyhow::Result;

use crate::command;
use crate::servers::{HTTP_PORT, IPERF_PORT, TCP_PORT, UDP_PORT};
use crate::topology::{BACKENDS, DENIED4, LAN, ROUTED_VIP4, VIP4, VIP6, WAN, backend4, backend6};

/// Makes the kernel of the proxy namespace do what the lab's documents ask the product to do.
pub fn start() -> Result<()> {
    for key in ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"] {
        command::run(
            "ip",
            [
                "netns",
                "exec",
                "proxy",
                "sysctl",
                "-qw",
                &format!("{key}=1"),
            ],
        )?;
    }
    // The VIPs are the kernel's here. Forwarding makes it forget nothing else that the lab relies on.
    command::ip_batch(
        Some("proxy"),
        &format!(
            "addr add {VIP4}/32 dev {WAN}\naddr add {ROUTED_VIP4}/32 dev {WAN}\naddr add {VIP6}/128 dev {WAN} nodad\n"
        ),
    )?;
    let mut file = tempfile::NamedTempFile::new_in(crate::sandbox::RUN)?;
    file.write_all(rules().as_bytes())?;
    let path = file.path().to_string_lossy().into_owned();
    command::run("ip", ["netns", "exec", "proxy", "nft", "-f", &path])?;
    Ok(())
}

fn rules() -> String {
    let services = [
        ("tcp", 80, HTTP_PORT),
        ("udp", 9000, UDP_PORT),
        ("tcp", 9001, TCP_PORT),
    ];
    let count = BACKENDS.len();
    let mut nat = String::new();
    for (protocol, port, backend_port) in services {
        let mut four = String::new();
        let mut six = String::new();
        for index in 0..count {
            let _ = write!(four, "{index} : {} . {backend_port}, ", backend4(index));
            let _ = write!(six, "{index} : {} . {backend_port}, ", backend6(index));
        }
        let turn = format!("numgen inc mod {count}");
        let _ = writeln!(
            nat,
            "ip daddr {{ {VIP4}, {ROUTED_VIP4} }} {protocol} dport {port} dnat ip to {turn} map {{ {four} }}"
        );
        let _ = writeln!(
            nat,
            "ip6 daddr {VIP6} {protocol} dport {port} dnat ip6 to {turn} map {{ {six} }}"
        );
    }
    let _ = writeln!(
        nat,
        "ip daddr {VIP4} tcp dport 5201 dnat ip to {}:{IPERF_PORT}",
        backend4(0)
    );
    let _ = writeln!(
        nat,
        "ip6 daddr {VIP6} tcp dport 5201 dnat ip6 to [{}]:{IPERF_PORT}",
        backend6(0)
    );
    format!(
        "table inet lab {{\n\
           chain pre {{ type nat hook prerouting priority -100;\n{nat} }}\n\
           chain post {{ type nat hook postrouting priority 100; oifname {LAN} masquerade; }}\n\
           chain deny {{ type filter hook forward priority 0; ip saddr {DENIED4} drop; }}\n\
         }}\n"
    )
}
