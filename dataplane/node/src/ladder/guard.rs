//! The interfaces that must not be taken by accident: the one of the default route and the one of the caller's ssh session.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::path::Path;

use crate::kernel::KernelState;
use crate::kernel::state::RouteAction;

/// Whether guarded interfaces may be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taking {
    /// They are refused.
    Guarded,
    /// The operator said `--force`.
    Forced,
}

/// The client of the ssh session that a process was started from, out of the value of `SSH_CONNECTION`.
#[must_use]
pub fn ssh_client(connection: &str) -> Option<IpAddr> {
    let text = connection.split_whitespace().next()?;
    // A link-local client carries its zone.
    text.split('%').next()?.parse().ok()
}

/// The client of the ssh session that this process was started from: its own environment's, or that of the nearest process
/// above it that has one, since `sudo` passes none on.
#[must_use]
pub fn ssh_client_of_caller() -> Option<IpAddr> {
    let mut process = std::process::id();
    while process > 1 {
        let environment = fs::read(format!("/proc/{process}/environ")).unwrap_or_default();
        let found = environment
            .split(|byte| *byte == 0)
            .find_map(|variable| variable.strip_prefix(b"SSH_CONNECTION="))
            .and_then(|value| ssh_client(str::from_utf8(value).ok()?));
        if found.is_some() {
            return found;
        }
        let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
        process = parent.trim().parse().ok()?;
    }
    None
}

/// Why `interface` is refused: for itself, or for a VLAN, bridge, bond or macvlan on top of it that is.
#[must_use]
pub fn guard_below(
    guarded: &BTreeMap<u32, String>,
    kernel: &KernelState,
    sysfs: &Path,
    interface: &str,
) -> Option<String> {
    let mut seen = BTreeSet::new();
    let mut waiting = vec![interface.to_owned()];
    while let Some(name) = waiting.pop() {
        let why = kernel
            .link_named(&name)
            .and_then(|link| guarded.get(&link.index));
        if let Some(why) = why {
            let is_itself = name == interface;
            return Some(if is_itself {
                why.clone()
            } else {
                format!("{name} is on top of it: {why}")
            });
        }
        let entries = fs::read_dir(sysfs.join("class/net").join(&name));
        for entry in entries.into_iter().flatten().flatten() {
            let entry = entry.file_name().to_string_lossy().into_owned();
            if let Some(upper) = entry.strip_prefix("upper_")
                && seen.insert(upper.to_owned())
            {
                waiting.push(upper.to_owned());
            }
        }
    }
    None
}

/// The interfaces that are refused, by index, with the reason. `client` is the ssh session's other end.
#[must_use]
pub fn guarded_links(
    kernel: &KernelState,
    client: Option<IpAddr>,
    taking: Taking,
) -> BTreeMap<u32, String> {
    let mut guarded = BTreeMap::new();
    if taking == Taking::Forced {
        return guarded;
    }
    for link in kernel.default_route_links() {
        let why = "it carries the default route; taking it could cut this machine off. Use another interface, or start \
                   marchdp with --force";
        guarded.insert(link, why.to_owned());
    }
    if let Some(client) = client
        && let Some((_, route)) = kernel.route_for(client)
        && let RouteAction::Forward(hops) = &route.action
    {
        for hop in hops {
            let why = format!(
                "it carries the ssh session from {client}; taking it could cut that session off. Use another interface, \
                 or start marchdp with --force"
            );
            guarded.insert(hop.link, why);
        }
    }
    guarded
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::state::{Change, Hop, KernelRoute, Merge, Prefix, RouteKey, RouteOrigin};

    fn route(state: &mut KernelState, prefix: &str, len: u8, link: u32) {
        let key = RouteKey {
            prefix: Prefix::new(prefix.parse().expect("an address"), len),
            metric: 0,
        };
        let action = RouteAction::Forward(vec![Hop {
            gateway: None,
            link,
        }]);
        state.apply(Change::Route(
            key,
            KernelRoute {
                action,
                origin: RouteOrigin::System,
            },
            Merge::Append,
        ));
    }

    #[test]
    fn the_default_route_and_the_ssh_session_are_guarded_unless_forced() {
        let mut state = KernelState::default();
        route(&mut state, "0.0.0.0", 0, 2);
        route(&mut state, "198.51.100.0", 24, 3);
        route(&mut state, "10.0.0.0", 8, 4);
        let client = ssh_client("198.51.100.7 50022 192.0.2.1 22");
        let guarded = guarded_links(&state, client, Taking::Guarded);
        assert!(guarded[&2].contains("default route"));
        assert!(guarded[&3].contains("198.51.100.7"));
        assert!(!guarded.contains_key(&4));
        assert!(guarded_links(&state, client, Taking::Forced).is_empty());
    }

    #[test]
    fn what_carries_a_guarded_interface_is_guarded() {
        use crate::kernel::state::Link;
        let mut state = KernelState::default();
        for (index, name) in [(2, "eth0"), (3, "bond0"), (4, "bond0.7"), (5, "eth1")] {
            let link = Link {
                index,
                name: name.into(),
                mac: [0; 6],
                mtu: 1500,
                is_up: true,
                has_carrier: true,
                is_ethernet: true,
            };
            state.apply(Change::Link(link));
        }
        let sysfs = tempfile::tempdir().expect("a directory");
        for upper in ["eth0/upper_bond0", "bond0/upper_bond0.7", "eth1/queues"] {
            fs::create_dir_all(sysfs.path().join("class/net").join(upper)).expect("a directory");
        }
        route(&mut state, "0.0.0.0", 0, 4);
        let guarded = guarded_links(&state, None, Taking::Guarded);
        let why = |name: &str| guard_below(&guarded, &state, sysfs.path(), name);
        assert!(why("eth0").is_some_and(|why| why.starts_with("bond0.7 is on top of it")));
        assert!(why("bond0.7").is_some_and(|why| why.starts_with("it carries")));
        assert_eq!(why("eth1"), None);
    }

    #[test]
    fn ssh_connection_is_read_with_and_without_a_zone() {
        assert_eq!(
            ssh_client("fe80::1%eth0 50022 fe80::2%eth0 22"),
            "fe80::1".parse().ok()
        );
        assert_eq!(ssh_client(""), None);
        assert_eq!(ssh_client("nonsense"), None);
    }
}
