//! Room for file descriptors: the usual soft limit of 1 024 is used up by 500 connections.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Limits;

/// Descriptors that the rest of the process may need: ports, maps, logs, sessions, probes.
const OTHERS: u64 = 1_024;

/// Raises the process's soft limit to what `limits` may need, as far as the hard limit lets it.
pub(crate) fn make_room(limits: &Limits) {
    let needed = descriptors(limits);
    let present = getrlimit(Resource::Nofile);
    // `None` is no limit.
    let (Some(soft), hard) = (present.current, present.maximum) else {
        return;
    };
    let wanted = hard.map_or(needed, |hard| hard.min(needed));
    if soft < wanted {
        let raised = Rlimit {
            current: Some(wanted),
            maximum: hard,
        };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!(%error, soft, wanted, "the limit on open files cannot be raised");
        }
    }
    if wanted < needed {
        tracing::warn!(
            hard = wanted,
            needed,
            "the hard limit on open files is below what the connection limits allow; raise it (LimitNOFILE= in a unit)"
        );
    }
}

/// Two for a connection, one for a session or listener.
fn descriptors(limits: &Limits) -> u64 {
    let sockets = limits
        .connections
        .saturating_mul(2)
        .saturating_add(limits.udp_sessions)
        .saturating_add(limits.listeners);
    (sockets as u64).saturating_add(OTHERS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_makes_room_and_never_shrinks() {
        let before = getrlimit(Resource::Nofile);
        let few = Limits {
            connections: 1,
            udp_sessions: 1,
            listeners: 1,
            ..Limits::default()
        };
        assert_eq!(descriptors(&few), 4 + OTHERS);
        make_room(&few);
        let after = getrlimit(Resource::Nofile);
        assert!(after.current.is_none() || after.current >= before.current);

        let many = Limits {
            connections: 3_000,
            ..few
        };
        make_room(&many);
        let after = getrlimit(Resource::Nofile);
        let reachable = after
            .maximum
            .map_or(descriptors(&many), |hard| hard.min(descriptors(&many)));
        assert!(
            after.current.is_none_or(|soft| soft >= reachable),
            "{after:?}"
        );
        assert_eq!(after.maximum, before.maximum);
    }
}
