//! Waiting until the nodes run a revision.

use std::time::{Duration, Instant};

use march_model::Name;
use march_proto::{STALE_AFTER_MS, v1};

use crate::shared::Shared;

/// The longest that a call may wait.
pub(crate) const MAX_WAIT: Duration = Duration::from_mins(10);

/// Waits until every one of these nodes runs the revision or will not, or the time is over. Answers how each stands.
pub(crate) async fn wait(
    shared: &Shared,
    nodes: &[Name],
    revision: u64,
    hash: &str,
    within: Duration,
) -> Vec<v1::NodeResult> {
    let deadline = Instant::now() + within.min(MAX_WAIT);
    let mut changes = shared.nodes.changes();
    let mut stop = shared.stop.clone();
    loop {
        changes.mark_unchanged();
        let results: Vec<_> = nodes
            .iter()
            .map(|name| shared.nodes.result(name, revision, hash))
            .collect();
        let is_over = Instant::now() >= deadline || *stop.borrow();
        if is_over
            || results
                .iter()
                .zip(nodes)
                .all(|(result, name)| is_final(shared, name, result))
        {
            return results;
        }
        // Silence makes no change to wake for, so look once a second as well.
        let next = (Instant::now() + Duration::from_secs(1)).min(deadline);
        tokio::select! {
            _ = changes.changed() => {}
            _ = stop.wait_for(|stop| *stop) => {}
            () = tokio::time::sleep_until(next.into()) => {}
        }
    }
}

/// Whether waiting longer is of no use. A node that is away may come back for a while.
fn is_final(shared: &Shared, name: &Name, result: &v1::NodeResult) -> bool {
    match result.state() {
        v1::NodeState::Running | v1::NodeState::Refused | v1::NodeState::Stale => true,
        v1::NodeState::Lost => {
            let silent = shared.nodes.silent_for(name);
            silent.is_none_or(|silent| silent > Duration::from_millis(STALE_AFTER_MS))
        }
        v1::NodeState::Pending | v1::NodeState::Unspecified => false,
    }
}

/// Whether every node runs it.
pub(crate) fn verdict(results: &[v1::NodeResult]) -> v1::Convergence {
    if results
        .iter()
        .all(|result| result.state() == v1::NodeState::Running)
    {
        v1::Convergence::Reached
    } else {
        v1::Convergence::Missed
    }
}
