//! The interfaces that must not be taken by accident: the one of the default route and the one of the caller's ssh session.

use std::collections::BTreeMap;
use std::net::IpAddr;

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
    fn ssh_connection_is_read_with_and_without_a_zone() {
        assert_eq!(
            ssh_client("fe80::1%eth0 50022 fe80::2%eth0 22"),
            "fe80::1".parse().ok()
        );
        assert_eq!(ssh_client(""), None);
        assert_eq!(ssh_client("nonsense"), None);
    }
}
