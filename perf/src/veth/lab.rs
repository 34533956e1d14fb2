//! Three namespaces in a row: generator, subject, sink. Gone when the value is dropped.
//!
//! `g0` in the generator's, joined to `r0`; `r1` in the subject's, joined to `s0` in the sink's.

use std::fs::File;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// MAC addresses of the interfaces, by name.
pub const MAC_G0: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// See [`MAC_G0`].
pub const MAC_R0: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// See [`MAC_G0`].
pub const MAC_R1: [u8; 6] = [2, 0, 0, 0, 0, 3];
/// See [`MAC_G0`].
pub const MAC_S0: [u8; 6] = [2, 0, 0, 0, 0, 4];

/// The namespaces.
pub struct Lab {
    prefix: String,
}

/// Which namespace.
#[derive(Clone, Copy)]
pub enum Place {
    /// Where the generator is.
    Generator,
    /// Where what is measured is.
    Subject,
    /// Where everything ends.
    Sink,
}

fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}

impl Lab {
    /// Makes them, joined and up, with addresses, and a sink that drops as early as the kernel can.
    pub fn new() -> anyhow::Result<Self> {
        let lab = Self {
            prefix: format!("mperf{}", std::process::id()),
        };
        let [g, r, s] =
            [Place::Generator, Place::Subject, Place::Sink].map(|place| lab.name(place));
        for name in [&g, &r, &s] {
            run("ip", &format!("netns add {name}"))?;
            run(
                "ip",
                &format!(
                    "netns exec {name} sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1"
                ),
            )?;
        }
        Self::cable(
            ("g0", &g, MAC_G0, "10.9.0.1/24"),
            ("r0", &r, MAC_R0, "10.9.0.2/24"),
        )?;
        Self::cable(
            ("r1", &r, MAC_R1, "10.9.1.1/24"),
            ("s0", &s, MAC_S0, "10.9.1.2/24"),
        )?;
        run(
            "ip",
            &format!("-n {r} neigh add 10.9.1.2 lladdr {} dev r1", mac(MAC_S0)),
        )?;
        run(
            "ip",
            &format!("-n {r} neigh add 10.9.0.1 lladdr {} dev r0", mac(MAC_G0)),
        )?;
        // Without an XDP program, a veth end only takes redirected frames if its receive side is NAPI, which GRO turns on.
        for interface in ["r0", "r1"] {
            run(
                "ip",
                &format!("netns exec {r} ethtool -K {interface} gro on"),
            )?;
        }
        lab.nft(Place::Sink, "table netdev sink {\n chain everything {\n  type filter hook ingress device s0 priority 0; policy drop;\n }\n}\n")?;
        Ok(lab)
    }

    fn cable(
        near: (&str, &str, [u8; 6], &str),
        far: (&str, &str, [u8; 6], &str),
    ) -> anyhow::Result<()> {
        run(
            "ip",
            &format!(
                "link add {} netns {} address {} type veth peer name {} netns {} address {}",
                near.0,
                near.1,
                mac(near.2),
                far.0,
                far.1,
                mac(far.2)
            ),
        )?;
        for (interface, namespace, _, address) in [near, far] {
            run(
                "ip",
                &format!("-n {namespace} address add {address} dev {interface}"),
            )?;
            run("ip", &format!("-n {namespace} link set {interface} up"))?;
        }
        Ok(())
    }

    /// The namespace's name.
    pub fn name(&self, place: Place) -> String {
        let letter = match place {
            Place::Generator => 'g',
            Place::Subject => 'r',
            Place::Sink => 's',
        };
        format!("{}{letter}", self.prefix)
    }

    /// Moves the calling thread there.
    pub fn enter(&self, place: Place) -> anyhow::Result<()> {
        let path = format!("/run/netns/{}", self.name(place));
        let file = File::open(&path).with_context(|| path.clone())?;
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).context(path)
    }

    /// A command that will run there.
    pub fn command(&self, place: Place, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name(place), program]);
        command
    }

    /// Loads an nftables ruleset there.
    pub fn nft(&self, place: Place, rules: &str) -> anyhow::Result<()> {
        use std::io::Write as _;
        let mut child = self
            .command(place, "nft")
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .spawn()
            .context("nft")?;
        child
            .stdin
            .take()
            .context("nft's input")?
            .write_all(rules.as_bytes())?;
        anyhow::ensure!(child.wait()?.success(), "nft refused:\n{rules}");
        Ok(())
    }

    /// Frames and bytes that the sink got.
    pub fn sunk(&self) -> anyhow::Result<(u64, u64)> {
        let read = |what: &str| -> anyhow::Result<u64> {
            let output = self
                .command(Place::Sink, "cat")
                .arg(format!("/sys/class/net/s0/statistics/{what}"))
                .output()?;
            Ok(String::from_utf8_lossy(&output.stdout).trim().parse()?)
        };
        Ok((read("rx_packets")?, read("rx_bytes")?))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for place in [Place::Generator, Place::Subject, Place::Sink] {
            // What is not there need not be removed.
            let _ = run("ip", &format!("netns del {}", self.name(place)));
        }
    }
}

/// Runs a command to its end.
pub fn run(program: &str, line: &str) -> anyhow::Result<()> {
    let output = Command::new(program)
        .args(line.split_whitespace())
        .output()
        .with_context(|| format!("{program} {line}"))?;
    if !output.status.success() {
        bail!(
            "{program} {line}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}
