//! Looking at nodes: drops as they happen.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use march_model::Name;
use march_proto::v1;
use tokio::sync::{broadcast, mpsc};
use tonic::Status;

use crate::nodes::Report;
use crate::shared::Shared;

/// How many reports wait for a slow watcher.
const WATCH_QUEUE: usize = 16;

type Reports = mpsc::Receiver<Result<v1::DropReport, Status>>;

/// Sends drop counters each time a node reports, until the watcher goes or the daemon stops.
pub(crate) fn watch_drops(shared: &Arc<Shared>, node: Option<Name>) -> Reports {
    let (sender, receiver) = mpsc::channel(WATCH_QUEUE);
    let mut reports = shared.nodes.reports();
    let mut stop = shared.stop.clone();
    let known = shared.nodes.statuses(node.as_ref(), 0, "");
    tokio::spawn(async move {
        let mut last: HashMap<String, (Instant, Counts)> = HashMap::new();
        for status in known {
            if let Some(telemetry) = status.telemetry {
                let report = drop_report(status.node, &telemetry, &mut last);
                if sender.send(Ok(report)).await.is_err() {
                    return;
                }
            }
        }
        loop {
            let report = tokio::select! {
                report = reports.recv() => report,
                () = sender.closed() => return,
                _ = stop.wait_for(|stop| *stop) => return,
            };
            match report {
                Ok(Report {
                    node: from,
                    telemetry,
                }) if node.as_ref().is_none_or(|node| *node == from) => {
                    let report = drop_report(from.to_string(), &telemetry, &mut last);
                    if sender.send(Ok(report)).await.is_err() {
                        return;
                    }
                }
                // Counters are totals: a report that was skipped is in the next one.
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return,
            }
        }
    });
    receiver
}

type Counts = HashMap<(String, String), u64>;

fn drop_report(
    node: String,
    telemetry: &v1::Telemetry,
    last: &mut HashMap<String, (Instant, Counts)>,
) -> v1::DropReport {
    let key = |drop: &v1::DropTelemetry| (drop.port.clone(), drop.reason.clone());
    let counts: Counts = telemetry
        .drops
        .iter()
        .map(|drop| (key(drop), drop.packets))
        .collect();
    let before = last.insert(node.clone(), (Instant::now(), counts));
    let mut report = v1::DropReport {
        node,
        totals: telemetry.drops.clone(),
        since_last: Vec::new(),
        interval_ms: 0,
    };
    if let Some((then, before)) = before {
        report.interval_ms = u64::try_from(then.elapsed().as_millis()).unwrap_or(u64::MAX);
        report.since_last = telemetry
            .drops
            .iter()
            .filter_map(|drop| {
                // A node that started again counts from 0.
                let then = before.get(&key(drop)).copied().unwrap_or(0);
                let packets = drop.packets.checked_sub(then).unwrap_or(drop.packets);
                (packets > 0).then(|| v1::DropTelemetry {
                    packets,
                    ..drop.clone()
                })
            })
            .collect();
    }
    report
}
