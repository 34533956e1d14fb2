//! Backends that die, are drained, are taken offline, and come back, all under load.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::documents::CHECK_BOUND_MS;
use crate::findings::Findings;
use crate::lab::Lab;
use crate::load::{Kind, Load, Plan, Report};
use crate::poll;
use crate::product::{self, PATIENCE};
use crate::servers::TCP_PORT;
use crate::topology::{VIP4, backend4};

const WITHIN: Duration = Duration::from_secs(30);

/// Waits until the node reports this health for backend `index` of `pool`.
fn wait_health(lab: &Lab, pool: &str, index: usize, health: &str) -> Result<()> {
    poll::until_ok(
        &format!("{pool} backend {index} is {health}"),
        PATIENCE,
        || {
            let telemetry = lab.product().telemetry()?;
            let backend = product::backend(&telemetry, pool, &backend4(index).to_string())?;
            ensure!(
                backend.health == health,
                "it is {} ({})",
                backend.health,
                backend.health_detail
            );
            Ok(())
        },
    )
}

pub(super) fn killed(lab: &mut Lab, findings: &mut Findings) -> Result<()> {
    let load = Load::start(&Plan {
        patience_ms: 2000,
        ..Plan::new(Kind::Http, VIP4, 80).rate(300)
    })?;
    let before = load.more(300, WITHIN)?;
    findings.check(
        "before: answers",
        before.lost == 0 && before.wrong == 0,
        before.tally(),
    );
    findings.check(
        "before: the backend takes its share",
        before.of("b2") > 0,
        before.spread(),
    );

    let killed_at = Instant::now();
    lab.kill_http("b2")?;
    let (avoided_after, failures) = until_avoided(&load, killed_at)?;
    findings.figure(
        "new connections avoid it after",
        format_args!(
            "{} ms (bound of the check {CHECK_BOUND_MS} ms), {failures} failed until then",
            avoided_after.as_millis()
        ),
    );
    findings.check(
        "within the check's bound",
        avoided_after.as_millis() <= u128::from(CHECK_BOUND_MS),
        format_args!("{} ms", avoided_after.as_millis()),
    );
    wait_health(lab, "web4", 1, "down")?;

    // Requests that were on their way to the backend when it died are given up after two seconds: they are not new ones.
    load.more(750, WITHIN)?;
    let at = load.report();
    let after = load.more(600, WITHIN)?;
    let lost = after.lost - at.lost;
    findings.check(
        "after: lost",
        lost == 0,
        if lost == 0 {
            "0".to_owned()
        } else {
            format!("{lost}, should be 0 ({})", after.last_error)
        },
    );
    findings.equal(
        "after: answers of the dead backend",
        &(after.of("b2") - at.of("b2")),
        &0,
    );

    lab.revive_http("b2")?;
    wait_health(lab, "web4", 1, "up")?;
    let back = load.until("the backend answers again", WITHIN, |report| {
        report.of("b2") > after.of("b2") + 20
    })?;
    findings.check("it is used again once it is back", true, back.spread());
    let last = load.finish()?;
    findings.equal("wrong answers", &last.wrong, &0);
    findings.equal("lost after it came back", &(last.lost - at.lost), &0);
    Ok(())
}

/// Follows the load until 200 answers in a row came without a failure; the time from `killed_at` to the last failure, and how
/// many there were.
fn until_avoided(load: &Load, killed_at: Instant) -> Result<(Duration, u64)> {
    let start = load.report();
    let mut last_failure = Duration::ZERO;
    let mut seen: Report = start.clone();
    poll::until("200 answers in a row without a failure", WITHIN, || {
        let now = load.report();
        if now.lost > seen.lost {
            last_failure = killed_at.elapsed();
            seen = now;
            return None;
        }
        (now.right >= seen.right + 200).then_some(())
    })?;
    Ok((last_failure, load.report().lost - start.lost))
}

/// The command line's word for backend `index` of the streams' pool.
fn stream_backend(index: usize) -> String {
    format!("{}:{TCP_PORT}", backend4(index))
}

pub(super) fn drained(lab: &mut Lab, findings: &mut Findings) -> Result<()> {
    let present = Load::start(&Plan::new(Kind::Stream, VIP4, 9001).flows(30).rate(600))?;
    let before = present.until("every connection is open", WITHIN, |report| {
        report.connections.values().sum::<u64>() == 30
    })?;
    findings.check(
        "before: connections on the backend",
        before.live("b2") > 0,
        before.open(),
    );

    lab.product()
        .ctl_ok(["backend", "drain", "stream4", &stream_backend(1)])?;
    let others = Load::start(&Plan::new(Kind::Stream, VIP4, 9001).flows(40).rate(400))?;
    let others_report = others.until("new connections are open", WITHIN, |report| {
        report.connections.values().sum::<u64>() == 40
    })?;
    findings.equal(
        "drained: new connections on it",
        &others_report.live("b2"),
        &0,
    );
    let during = present.more(1200, WITHIN)?;
    findings.equal(
        "drained: present connections on it",
        &during.live("b2"),
        &before.live("b2"),
    );
    findings.check(
        "drained: present connections are answered",
        during.of("b2") > before.of("b2") && during.lost == 0 && during.broken == 0,
        during.tally(),
    );

    lab.product()
        .ctl_ok(["backend", "enable", "stream4", &stream_backend(1)])?;
    let back = poll::until("new connections reach it again", WITHIN, || {
        let load = Load::start(&Plan::new(Kind::Stream, VIP4, 9001).flows(20).rate(400)).ok()?;
        let report = load
            .until("open", WITHIN, |report| {
                report.connections.values().sum::<u64>() == 20
            })
            .ok()?;
        (report.live("b2") > 0).then_some(report)
    })?;
    findings.check("enabled: new connections on it", true, back.open());
    for (which, load) in [("present", present), ("new", others)] {
        let report = load.finish()?;
        findings.check(
            format!("no {which} connection broke"),
            report.broken == 0 && report.wrong == 0 && report.lost == 0,
            report.tally(),
        );
    }
    Ok(())
}

pub(super) fn offline(lab: &mut Lab, findings: &mut Findings) -> Result<()> {
    let load = Load::start(&Plan::new(Kind::Stream, VIP4, 9001).flows(30).rate(600))?;
    let before = load.until("every connection is open", WITHIN, |report| {
        report.connections.values().sum::<u64>() == 30
    })?;
    let victims = before.live("b3");
    findings.check(
        "before: connections on the backend",
        victims > 0,
        before.open(),
    );
    lab.product()
        .ctl_ok(["backend", "offline", "stream4", &stream_backend(2)])?;
    let after = load.until("its connections moved away", WITHIN, |report| {
        report.live("b3") == 0 && report.connections.values().sum::<u64>() == 30
    })?;
    findings.equal("connections that ended", &after.broken, &victims);
    // Whichever end speaks next is reset: the server, if its answer was just on its way.
    findings.check(
        "they were reset, not left hanging",
        after.reset > 0 && 2 * after.reset > after.broken,
        format_args!("{} of {}", after.reset, after.broken),
    );
    lab.product()
        .ctl_ok(["backend", "enable", "stream4", &stream_backend(2)])?;
    let last = load.finish()?;
    findings.equal("wrong answers", &last.wrong, &0);
    Ok(())
}
